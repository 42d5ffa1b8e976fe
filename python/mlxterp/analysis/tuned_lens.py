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
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from .. import _core
from ..core.files import existing, named
from ..errors import BadDataError, IoError, OutOfRangeError, UsageError
from ._native import native as native_model
from ._native import options
from .layer_sites import checked_layers, traced_layers
from .unembed import Projection, final_norm, output_projection

# A step on fewer tokens than this says little about the model.
_MIN_CHUNK = 10
# How many tokens of the first text tell the width of the residual stream.
_PROBE = 10


class TunedLens(nn.Module):
    """One translator W h + b for each layer, the identity until trained. The
    last layer's stays so and is never applied: it says what the model says.

    Attributes:
        num_layers: How many layers the model has.
        hidden_dim: d_model, the width of the residual stream.
        translators: A linear layer [hidden_dim, hidden_dim] for each layer.
    """

    def __init__(self, num_layers: int, hidden_dim: int):
        super().__init__()
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.translators = [
            nn.Linear(hidden_dim, hidden_dim) for _ in range(num_layers)
        ]
        for translator in self.translators:
            translator.weight = mx.eye(hidden_dim)
            translator.bias = mx.zeros((hidden_dim,))

    def __call__(self, h: mx.array, layer_idx: int) -> mx.array:
        """The states [..., hidden_dim] of a layer, translated. Raises
        OutOfRangeError for a layer the lens has not, UsageError for states of
        another width."""
        if not 0 <= layer_idx < self.num_layers:
            raise OutOfRangeError(
                f"layer {layer_idx} is out of range: the tuned lens has "
                f"{self.num_layers} layers, 0 to {self.num_layers - 1}"
            )
        if h.shape[-1] != self.hidden_dim:
            raise UsageError(
                "the tuned lens is for hidden states of width "
                f"{self.hidden_dim}, these have {h.shape[-1]}: it was trained "
                "on another model"
            )
        if layer_idx == self.num_layers - 1:
            return h
        return self.translators[layer_idx](h)

    def native(self) -> _core.TunedLens:
        """The same for the C++ engine."""
        lens = _core.TunedLens(self.num_layers, self.hidden_dim)
        lens.weights = [it.weight for it in self.translators]
        lens.biases = [it.bias for it in self.translators]
        return lens

    @classmethod
    def of(cls, native: _core.TunedLens) -> TunedLens:
        """The other way round."""
        lens = cls(native.layers, native.d_model)
        for it, weight, bias in zip(lens.translators, native.weights, native.biases):
            it.weight, it.bias = weight, bias
        return lens

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Writes `path` with the suffix .npz (the arrays
        `translators_{i}_weight` and `translators_{i}_bias`) and .json
        (`num_layers`, `hidden_dim`), each whole or not at all. What follows the
        last dot of `path` is its suffix and is replaced. Raises IoError."""
        self.native().save(os.fspath(named(path)), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TunedLens:
        """A lens that `save` wrote. A translator of the last layer, which
        mlxterp 0.1 trained too, is left out with a UserWarning. Raises
        MissingFileError (a FileNotFoundError), IoError, or BadDataError."""
        for suffix in (".json", ".npz"):
            existing(named(path).with_suffix(suffix))
        return cls.of(_core.TunedLens.load(os.fspath(path)))


def log_softmax(x: mx.array, axis: int = -1) -> mx.array:
    """The logarithm of the softmax along `axis`."""
    return x - mx.logsumexp(x, axis=axis, keepdims=True)


def kl_divergence(log_p: mx.array, log_q: mx.array) -> mx.array:
    """KL(p || q) in nats of log probabilities [..., vocab], the mean over all
    other axes."""
    return mx.sum(mx.exp(log_p) * (log_p - log_q), axis=-1).mean()


def _chunks(tokens: Sequence[int], size: int):
    """`size` tokens at a time, over and over; the tail that fills no whole
    chunk is left out."""
    at = 0
    while True:
        yield list(tokens[at : at + size])
        at += size
        if at >= len(tokens) - size:
            at = 0


def _training_projection(model: Any) -> Projection:
    """The output projection; quantised tied rows are unpacked once instead of
    in every one of the many products."""
    module, _, tied = model._module_resolver.get_output_projection()
    if not (tied and hasattr(module, "scales")):
        return output_projection(model)
    rows = mx.dequantize(
        module.weight,
        module.scales,
        getattr(module, "biases", None),
        group_size=module.group_size,
        bits=module.bits,
        mode=getattr(module, "mode", "affine"),
    )
    return lambda hidden: hidden @ rows.T


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
    """Trains a tuned lens: SGD with Nesterov momentum brings KL(model || lens)
    down, the mean over layers and positions, with a learning rate that falls
    to 0 in a line and gradients clipped to a global norm.

    The texts are joined by spaces; every step takes the next `max_seq_len`
    tokens. The layers' losses share no parameter, so their gradients are taken
    one layer after another: memory holds the logits of one layer, not of all.

    Args:
        model: An InterpretableModel with a tokenizer.
        dataset: Texts with at least `max_seq_len` tokens together.
        num_steps: Steps of one chunk each.
        learning_rate: Of the first step.
        momentum: Of SGD; 0 for none.
        max_seq_len: Tokens of a chunk, at least 10.
        gradient_clip: The greatest norm of the gradient of all translators.
        save_path: Where to save the lens, as `TunedLens.save`.
        verbose: Print the loss at every tenth step.
        callback: Called with (step, loss in nats) after each step.

    Raises:
        UsageError (a ValueError): no text, too few tokens, or a `max_seq_len`
            below 10.
        UnknownNameError: the model has no output projection.
        BadDataError: the loss is NaN.
        IoError: the lens could not be saved.
    """
    if not dataset:
        raise UsageError("the dataset has no texts; pass at least one")
    sample = next((text for text in dataset if text.strip()), None)
    if sample is None:
        raise UsageError("every text of the dataset is empty or whitespace")
    tokens = model.encode(" ".join(dataset))
    if len(tokens) < max_seq_len:
        raise UsageError(
            f"the dataset has {len(tokens)} tokens and max_seq_len asks for "
            f"{max_seq_len}; pass more text or a smaller max_seq_len"
        )
    if max_seq_len < _MIN_CHUNK:
        raise UsageError(
            f"max_seq_len must be at least {_MIN_CHUNK}, but is {max_seq_len}"
        )
    if save_path and not Path(save_path).parent.is_dir():  # told before the work
        raise IoError(f"there is no folder {Path(save_path).parent} to save in")

    def tell(step: int, loss: float) -> None:
        if verbose and step % 10 == 0:
            print(f"step {step} of {num_steps}: loss {loss:.4f}")
        if callback is not None:
            callback(step, loss)

    if verbose:
        print(f"tuned lens: {len(model.layers)} layers, {len(tokens)} tokens")
    how = dict(steps=num_steps, learning_rate=learning_rate, momentum=momentum)
    how |= dict(clip=gradient_clip, length=max_seq_len, on_step=tell)
    native = isinstance(getattr(model.engine, "model", None), _core.Model)
    lens = (train if native else _trained)(model, tokens, **how)
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
    learning_rate: float = 1.0,
    momentum: float = 0.9,
    clip: float = 1.0,
    length: int = 2048,
    on_step=None,
    progress=None,
) -> TunedLens:
    """Trains a tuned lens (Belrose et al., 2023) by the C++ engine. `text`: one
    long text or its ids, `length` tokens a step. `on_step(step, loss)`: the
    mean KL over layers, in nats, that the step began with. Raises UsageError
    where the text is shorter than one stretch."""
    inner = native_model(model, "train()")
    ids = inner.encode(text) if isinstance(text, str) else list(text)
    chosen = options(
        model,
        _core.TunedLensOptions,
        progress,
        steps=steps,
        learning_rate=learning_rate,
        momentum=momentum,
        clip=clip,
        length=length,
        on_step=on_step,
    )
    return TunedLens.of(_core.train_tuned_lens(inner, ids, chosen))


def _trained(model, tokens, steps, learning_rate, momentum, clip, length, on_step):
    """The same for a wrapped model."""
    project = _training_projection(model)
    norm = final_norm(model)
    if norm is None:
        norm = nn.Identity()
    layers = checked_layers(model, None)
    probe = mx.array([tokens[:_PROBE]])
    width = traced_layers(model, probe, layers[:1]).hidden[0].shape[-1]
    lens = TunedLens(len(layers), width)
    trained = len(layers) - 1
    if trained < 1:
        raise UsageError(
            "the model has one layer, which says what the model says; there is "
            "nothing to train"
        )
    optimizer = optim.SGD(learning_rate, momentum=momentum, nesterov=momentum > 0)

    def layer_loss(translator: dict, hidden: mx.array, target: mx.array) -> mx.array:
        states = mx.addmm(translator["bias"], hidden, translator["weight"].T)
        logits = project(norm(states)).astype(mx.float32)
        # Each layer bears its share of the mean over layers.
        return kl_divergence(target, log_softmax(logits)) / trained

    loss_and_gradient = mx.value_and_grad(layer_loss)
    chunks = _chunks(tokens, length)
    for step in range(steps):
        chunk = mx.array([next(chunks)])
        hidden, logits, _ = traced_layers(model, chunk, layers)
        target = log_softmax(logits.astype(mx.float32))
        mx.eval(hidden, target)
        loss, gradients = 0.0, []
        for translator, value in zip(lens.translators[:trained], hidden):
            part, gradient = loss_and_gradient(translator.parameters(), value, target)
            mx.eval(part, gradient)
            loss += part.item()
            gradients.append(gradient)
        gradients.append(
            tree_map(mx.zeros_like, lens.translators[trained].parameters())
        )
        if loss != loss:
            raise BadDataError(
                f"the loss is NaN at step {step}; try a smaller learning_rate, "
                "and see that the model's own logits have no NaN"
            )
        optimizer.learning_rate = learning_rate * (1 - step / steps)
        optimizer.update(lens, {"translators": _clipped(gradients, clip)})
        mx.eval(lens.parameters(), optimizer.state)
        on_step(step, loss)
    return lens


def _clipped(gradients: list, limit: float) -> list:
    """Gradients scaled down to a global norm of at most `limit`."""
    norm = mx.sqrt(sum(mx.sum(mx.square(g)) for _, g in tree_flatten(gradients)))
    scale = mx.where(norm > limit, limit / (norm + 1e-6), 1.0)
    return tree_map(lambda g: g * scale, gradients)
