"""What a model would predict after each of its layers, all layers and positions
at once: `Lens`, by the C++ engine. `InterpretableModel.logit_lens` gives the same
numbers as upstream's nested lists."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from .. import _core
from ..core.optional import require
from ._native import Bar, Report, Reported, asked, by_passes, inputs
from .tuned_lens import TunedLens, train  # noqa: F401


class Lens(Reported):
    """Rows are residual streams in the model's order, columns positions.

    `ids`, `logits`, `probabilities` are [row, pos, k], the best token first;
    `layers` names the rows (None: what enters layer 0), `positions` the columns.
    """

    def __init__(self, inner: _core.Lens, labels: dict[int, str], report: Report):
        self._inner, self._labels, self._report = inner, labels, report
        self.layers: list[int | None] = inner.layers
        self.positions: list[int] = inner.positions
        self.prompt: list[int] = inner.ids

    def _cells(self, values, dtype=mx.float32) -> mx.array:
        rows, columns = len(self.layers), len(self.positions)
        return mx.array(values, dtype).reshape(rows, columns, self._inner.top_k)

    def _tracked(self, values, dtype=mx.float32) -> mx.array | None:
        if self._inner.track is None:
            return None
        return mx.array(values, dtype).reshape(len(self.layers), len(self.positions))

    @property
    def ids(self) -> mx.array:
        return self._cells(self._inner.top_ids, mx.int32)

    @property
    def logits(self) -> mx.array:
        return self._cells(self._inner.top_logits)

    @property
    def probabilities(self) -> mx.array:
        return self._cells(self._inner.top_probabilities)

    @property
    def ranks(self) -> mx.array | None:
        """[row, pos]: how many tokens are ahead of the tracked one."""
        return self._tracked(self._inner.track_ranks, mx.int32)

    @property
    def track_probabilities(self) -> mx.array | None:
        """[row, pos]: of the tracked token."""
        return self._tracked(self._inner.track_probabilities)

    def tokens(self) -> list[list[str]]:
        """The winner of each cell as text, `[row][pos]`."""
        winners = self.ids[..., 0].tolist()
        return [[self._labels.get(i, "") for i in row] for row in winners]

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
        return [self._labels[self.prompt[i]] for i in self.positions]

    def plot(self, ax=None, cmap: str = "Blues"):
        """The winner of each cell over its probability, the last layer on top:
        matplotlib's axes."""
        from ..view.figures import winners

        return winners(self, ax, cmap)

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
    tuned: TunedLens | None = None,
    top_k: int = 5,
    track: int | str | None = None,
    interventions: dict | None = None,
    progress=None,
) -> Lens:
    """The logit lens (nostalgebraist, 2020), or with `tuned` the tuned lens
    (Belrose et al., 2023). `track`: a token whose probability and rank are kept
    in every cell. `interventions`: {site: function}, for the lens of an edited
    run. Of a wrapped model too. Evaluates. Raises UsageError, UnknownNameError,
    OutOfRangeError."""
    given = dict(locals())
    del given["prompt"], given["tuned"]
    inner, chosen = asked("lens()", _core.LensOptions, given)
    tuned = None if tuned is None else tuned.native()
    found = _core.logit_lens(inner, inputs(model, prompt), chosen, tuned)
    seen = {*found.ids, *found.top_ids} - {-1}
    report = Report(
        lambda: _core.lens_json(inner, found), lambda: _core.lens_page(inner, found)
    )
    return Lens(found, {i: inner.labels([i])[0] for i in seen}, report)


@dataclass
class LensQuality:
    """How close a layer's prediction is to the model's: KL divergence and
    cross-entropy of the text's own next tokens in nats, and how often both
    have the same top token."""

    kl: float
    cross_entropy: float
    agreement: float


def evaluate_lens(
    model, ids: list[int], lens: TunedLens | None = None, length: int = 512
) -> dict:
    """Both lenses on a text that no lens was trained on: {"logit": [LensQuality
    of each layer], "tuned": [...], "cross_entropy": the model's own,
    "positions": how many were read}."""
    inner = by_passes(model, "evaluate_lens()")
    logit, tuned, entropy, n = _core.evaluate_lens(
        inner, list(ids), None if lens is None else lens.native(), length, Bar()
    )
    lenses = {"logit": logit, "tuned": tuned}
    found = {name: [LensQuality(*q) for q in of] for name, of in lenses.items()}
    return found | {"cross_entropy": entropy, "positions": n}
