"""What a model would predict after each of its layers, all layers and positions
at once: `Lens`, by the C++ engine. `InterpretableModel.logit_lens` gives the same
numbers as upstream's nested lists."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import _core
from ..core.optional import require
from ..errors import UsageError
from ._native import Bar, Report, inputs, labels, native, options
from .tuned_lens import TunedLens, train  # noqa: F401
from .wrapped_lens import wrapped_lens


class Lens:
    """Rows are residual streams in the model's order, columns positions.

    `ids`, `logits`, `probabilities` are [row, pos, k], the best token first;
    `layers` names the rows (None: what enters layer 0), `positions` the columns.
    """

    def __init__(self, inner: _core.Lens, labels: dict[int, str], report: Report | None = None):
        self._inner, self._labels, self._report = inner, labels, report
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

    def to_json(self) -> str:
        """The answer of `mlxterp lens --json` (docs/json.md). Raises UsageError
        for a wrapped model."""
        return self._told().json()

    def to_html(self) -> str:
        """One page with the lens, which loads nothing. Raises as `to_json`."""
        return self._told().html()

    def _told(self) -> Report:
        if self._report is None:
            raise UsageError("the lens of a wrapped model has no JSON and no page")
        return self._report

    def _repr_html_(self) -> str:
        from ..view.figures import lens_table

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
    if isinstance(getattr(model, "model", None), nn.Module):
        found = wrapped_lens(
            model,
            prompt,
            layers,
            positions,
            embed,
            site,
            tuned,
            top_k,
            track,
            interventions,
        )
        seen = {*found.ids, *found.top_ids} - {-1}
        known = model.tokenizer is not None
        return Lens(found, {i: model.token_to_str(i) if known else f"#{i}" for i in seen})
    inner = native(model, "lens()")
    if isinstance(track, str):
        track = inner.single_token(track)
    chosen = options(
        model,
        _core.LensOptions,
        progress,
        layers=layers,
        positions=positions,
        embed=embed,
        site=site,
        top_k=top_k,
        track=track,
        edits=interventions,
    )
    tuned = None if tuned is None else tuned.native()
    found = _core.logit_lens(inner, inputs(model, prompt), chosen, tuned)
    seen = {*found.ids, *found.top_ids} - {-1}
    report = Report(
        lambda: _core.lens_json(inner, found), lambda: _core.lens_page(inner, found)
    )
    return Lens(found, {i: labels(inner, [i])[0] for i in seen}, report)


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
    inner = native(model, "evaluate_lens()")
    logit, tuned, entropy, n = _core.evaluate_lens(
        inner, list(ids), None if lens is None else lens.native(), length, Bar()
    )
    return {
        "logit": [LensQuality(*q) for q in logit],
        "tuned": [LensQuality(*q) for q in tuned],
        "cross_entropy": entropy,
        "positions": n,
    }
