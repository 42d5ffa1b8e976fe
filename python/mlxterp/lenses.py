"""What a model would say after each of its layers, all layers and positions at
once: `Lens`, by the C++ engine. `InterpretableModel.logit_lens` gives the same
numbers as upstream's nested lists, and works for wrapped models, too."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from . import _core
from ._native import inputs, native, several, told
from .optional import require


class Lens:
    """Rows are residual streams in the model's order, columns positions.

    `ids`, `logits`, `probabilities` are [row, pos, k], the best token first;
    `layers` names the rows (None: what enters layer 0), `positions` the columns.
    """

    def __init__(self, inner: _core.Lens, labels):
        self._inner, self._labels = inner, labels
        self.layers: list[int | None] = inner.layers
        self.positions: list[int] = inner.positions
        self.prompt: list[int] = inner.ids

    def _cells(self, values, dtype, k=True) -> mx.array:
        shape = (len(self.layers), len(self.positions))
        return mx.array(values, dtype).reshape(
            *shape, *([self._inner.top_k] if k else [])
        )

    @property
    def ids(self) -> mx.array:
        return self._cells(self._inner.top_ids, mx.int32)

    @property
    def logits(self) -> mx.array:
        return self._cells(self._inner.top_logits, mx.float32)

    @property
    def probabilities(self) -> mx.array:
        return self._cells(self._inner.top_probabilities, mx.float32)

    @property
    def ranks(self) -> mx.array | None:
        """[row, pos]: how many tokens are ahead of the tracked one."""
        if self._inner.track is None:
            return None
        return self._cells(self._inner.track_ranks, mx.int32, k=False)

    @property
    def track_probabilities(self) -> mx.array | None:
        """[row, pos]: of the tracked token."""
        if self._inner.track is None:
            return None
        return self._cells(self._inner.track_probabilities, mx.float32, k=False)

    def tokens(self) -> list[list[str]]:
        """The winner of each cell as text, `[row][pos]`."""
        winners = self.ids[..., 0].tolist()
        return [
            [self._labels([i])[0] if i >= 0 else "" for i in row] for row in winners
        ]

    def to_pandas(self):
        """A row for each cell: layer, pos, token, id, logit, probability."""
        pd = require("pandas")
        ids, tokens = self.ids[..., 0].tolist(), self.tokens()
        logits = self.logits[..., 0].tolist()
        shares = self.probabilities[..., 0].tolist()
        return pd.DataFrame(
            [
                (layer, pos, tokens[i][j], ids[i][j], logits[i][j], shares[i][j])
                for i, layer in enumerate(self.layers)
                for j, pos in enumerate(self.positions)
            ],
            columns=["layer", "pos", "token", "id", "logit", "probability"],
        )

    def labels(self) -> list[str]:
        """The prompt's tokens, one string a column."""
        return self._labels([self.prompt[i] for i in self.positions])

    def _repr_html_(self) -> str:
        from .figures import lens_table

        return lens_table(self)

    def __repr__(self) -> str:
        return f"Lens(layers={len(self.layers)}, positions={len(self.positions)})"


def lens(
    model,
    prompt,
    *,
    layers=None,
    positions=None,
    embed: bool = False,
    site: str = "resid_post",
    tuned: _core.TunedLens | None = None,
    top_k: int = 5,
    track: int | str | None = None,
    interventions: dict | None = None,
    progress=None,
) -> Lens:
    """The logit lens (nostalgebraist, 2020), or with `tuned` the tuned lens
    (Belrose et al., 2023). `track`: a token whose probability and rank are kept
    in every cell. `interventions`: {site: function}, for the lens of an edited
    run. Evaluates. Raises UsageError, UnknownNameError, OutOfRangeError."""
    inner = native(model, "lens()")
    if isinstance(track, str):
        track = inner.single_token(track)
    found = _core.logit_lens(
        inner,
        inputs(prompt),
        several(layers),
        several(positions),
        embed,
        site,
        tuned,
        top_k,
        track,
        list((interventions or {}).items()),
        told(progress),
    )
    labels = inner.labels if inner.has_tokenizer else lambda ids: [str(i) for i in ids]
    return Lens(found, labels)


@dataclass
class LensQuality:
    """How near what a layer says is to what the model says: KL divergence and
    cross-entropy of the text's own next tokens in nats, and how often both
    have the same winner."""

    kl: float
    cross_entropy: float
    agreement: float


def evaluate_lens(
    model, ids: list[int], lens: _core.TunedLens | None = None, length: int = 512
) -> dict:
    """Both lenses on a text that no lens was trained on: {"logit": [LensQuality
    of each layer], "tuned": [...], "cross_entropy": the model's own,
    "positions": how many were read}."""
    inner = native(model, "evaluate_lens()")
    logit, tuned, entropy, n = _core.evaluate_lens(
        inner, list(ids), lens, length, told(None)
    )
    return {
        "logit": [LensQuality(*q) for q in logit],
        "tuned": [LensQuality(*q) for q in tuned],
        "cross_entropy": entropy,
        "positions": n,
    }


TunedLens = _core.TunedLens  # saved and loaded in upstream's format


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
) -> _core.TunedLens:
    """Trains a tuned lens (Belrose et al., 2023) by the C++ engine, for
    `lens(tuned=...)`; `save(path, overwrite)` and `TunedLens.load(path)` read
    and write mlxterp 0.1's format. `text`: one long text or its ids, `length`
    tokens a step. `on_step(step, loss)`: the mean KL over layers, in nats,
    that the step began with. Raises UsageError where the text is shorter than
    one stretch."""
    inner = native(model, "train()")
    ids = inner.encode(text) if isinstance(text, str) else list(text)
    return _core.train_tuned_lens(
        inner,
        ids,
        steps,
        learning_rate,
        momentum,
        clip,
        length,
        on_step,
        told(progress),
    )
