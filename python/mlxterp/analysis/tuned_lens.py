"""The tuned lens: for every layer an affine map learned so that its hidden
states can be read by the model's own last norm and unembedding.

Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned
Lens", 2023, arXiv:2303.08112.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import _core
from ..errors import IoError, MissingFileError, UsageError
from ._native import asked, inputs

# A step on fewer tokens than this says little about the model.
_MIN_CHUNK = 10


class TunedLens(nn.Module):
    """One translator W h + b for each layer, the identity until trained. The
    last layer's stays so and is never applied: its prediction is the model's.

    Attributes:
        num_layers: How many layers the model has.
        hidden_dim: d_model, the width of the residual stream.
        translators: A linear layer [hidden_dim, hidden_dim] for each layer.
    """

    def __init__(self, num_layers: int, hidden_dim: int):
        super().__init__()
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.translators = []
        for _ in range(num_layers):
            self.translators.append(nn.Linear(hidden_dim, hidden_dim))
            self.translators[-1].weight = mx.eye(hidden_dim)
            self.translators[-1].bias = mx.zeros((hidden_dim,))

    def __call__(self, h: mx.array, layer_idx: int) -> mx.array:
        """The states [..., hidden_dim] of a layer, translated. Raises
        OutOfRangeError for a layer that the lens lacks, UsageError for states of
        another width."""
        return self.native()(h, layer_idx)

    def native(self) -> _core.TunedLens:
        """The same for the C++ engine."""
        lens = _core.TunedLens(self.num_layers, self.hidden_dim)
        lens.weights = [it.weight for it in self.translators]
        lens.biases = [it.bias for it in self.translators]
        return lens

    @classmethod
    def of(cls, native: _core.TunedLens) -> TunedLens:
        """From the C++ engine's."""
        lens = cls(native.layers, native.d_model)
        for it, weight, bias in zip(lens.translators, native.weights, native.biases):
            it.weight, it.bias = weight, bias
        return lens

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Writes `path` with the suffix .npz (the arrays
        `translators_{i}_weight` and `translators_{i}_bias`) and .json
        (`num_layers`, `hidden_dim`), each whole or not at all. What follows the
        last dot of `path` is its suffix and is replaced. Raises IoError."""
        self.native().save(os.fspath(path), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TunedLens:
        """A lens that `save` wrote. A translator of the last layer, which
        mlxterp 0.1 trained too, is left out with a UserWarning. Raises
        MissingFileError (a FileNotFoundError), IoError, or BadDataError."""
        for suffix in (".json", ".npz"):
            if not os.path.isfile(file := os.path.splitext(path)[0] + suffix):
                shown = file.encode("utf-8", "backslashreplace").decode()
                raise MissingFileError(f"there is no file {shown[:400]}")
        return cls.of(_core.TunedLens.load(os.fspath(path)))


def log_softmax(x: mx.array, axis: int = -1) -> mx.array:
    """The logarithm of the softmax along `axis`."""
    return x - mx.logsumexp(x, axis=axis, keepdims=True)


def kl_divergence(log_p: mx.array, log_q: mx.array) -> mx.array:
    """KL(p || q) in nats of log probabilities [..., vocab], the mean over all
    other axes."""
    return mx.sum(mx.exp(log_p) * (log_p - log_q), axis=-1).mean()


def train_tuned_lens(
    model: Any,
    dataset: Sequence[str],
    num_steps: int = 250,
    learning_rate: float = 1.0,
    momentum: float = 0.9,
    max_seq_len: int = 2048,
    gradient_clip: float = 1.0,
    save_path: str | os.PathLike[str] | None = None,
    verbose: bool = True,
    callback: Callable[[int, float], None] | None = None,
) -> TunedLens:
    """Trains a tuned lens: SGD with Nesterov momentum minimises KL(model || lens),
    the mean over layers and positions, with a learning rate that decays
    linearly to 0 and gradients clipped to a global norm.

    The texts are joined by spaces; every step takes the next `max_seq_len`
    tokens. The layers' losses share no parameter, so their gradients are taken
    one layer after another: memory holds the logits of one layer, not of all.

    Args:
        model: An InterpretableModel with a tokenizer.
        dataset: Texts with at least `max_seq_len` tokens together.
        num_steps, learning_rate, momentum: Of SGD; the rate is the first step's.
        max_seq_len: Tokens of a step, at least 10.
        gradient_clip: The greatest norm of the gradient of all translators.
        save_path: Where to save the lens, as `TunedLens.save`.
        verbose: Print the loss at every tenth step.
        callback: Called with (step, loss in nats) after each step.

    Raises UsageError (a ValueError) for no text, too few tokens or a
    `max_seq_len` below 10; BadDataError where the loss is NaN; IoError.
    """
    if not dataset:
        raise UsageError("the dataset has no texts; pass at least one")
    if not any(text.strip() for text in dataset):
        raise UsageError("every text of the dataset is empty or whitespace")
    tokens = model.encode(" ".join(dataset))
    if max_seq_len < _MIN_CHUNK:
        raise UsageError(
            f"max_seq_len must be at least {_MIN_CHUNK}, but is {max_seq_len}"
        )
    if save_path and not Path(save_path).parent.is_dir():  # told before the work
        raise IoError(f"there is no folder {Path(save_path).parent} to save to")

    def tell(step: int, loss: float) -> None:
        if verbose and step % 10 == 0:
            print(f"step {step} of {num_steps}: loss {loss:.4f}")
        if callback is not None:
            callback(step, loss)

    if verbose:
        print(f"tuned lens: {len(model.layers)} layers, {len(tokens)} tokens")
    lens = train(
        model,
        tokens,
        steps=num_steps,
        learning_rate=learning_rate,
        momentum=momentum,
        clip=gradient_clip,
        length=max_seq_len,
        on_step=tell,
    )
    if save_path:
        lens.save(save_path)
        if verbose:
            print(f"saved to {Path(save_path).with_suffix('.npz')}")
    return lens


def train(
    model,
    text: str | list[int],
    *,
    steps: int = 250,
    minutes: float = 0,
    learning_rate: float = 1.0,
    momentum: float = 0.9,
    clip: float = 1.0,
    length: int = 2048,
    on_step=None,
    stop=None,
    progress=None,
) -> TunedLens:
    """`train_tuned_lens` of one text, by C++ for every engine. `text`: one
    long text or its ids, `length` tokens a step. `on_step(step, loss)`: the
    mean KL over layers, in nats, that the step began with. `minutes`: above 0,
    how long to train instead of a number of steps. `stop()`: asked after every
    step; true ends the training and keeps what it has. Raises UsageError where
    the text is shorter than one stretch."""
    given = dict(locals())
    del given["text"]
    inner, chosen = asked("train()", _core.TunedLensOptions, given)
    ids = inputs(model, text)[0] if isinstance(text, str) else list(text)
    return TunedLens.of(_core.train_tuned_lens(inner, ids, chosen))
