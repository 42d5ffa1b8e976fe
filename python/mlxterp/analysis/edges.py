"""What each edge between two parts of a model does, all of them at once.

    found = mlxterp.edges(model, clean, corrupt, (" Mary", " John"))
    found["a23.h3", "logits"]      # one edge's score
    found.to_pandas().head()       # the strongest first
"""

from __future__ import annotations

import mlx.core as mx

from .. import _core
from ..core.optional import require
from ._native import asked
from .metrics import warn_of_runs


class EdgeScores:
    """The scores of all edges.

    Attributes:
        sources, destinations: Their names: `input`, `a3.h2`, `m3`, ...; `a3.h2<q>`,
            `a3.kv1<k>`, `a3.kv1<v>`, `m3`, `logits`, ...
        scores, spread: float32 [source, destination], or with `by_position` [pos,
            source, destination]: how the metric of the patched run changes, in its
            own unit, and the standard deviation over pairs; NaN where there is no
            edge.
        exact: With `sample`, what the edges that were run do, NaN of the others; else
            None.
        errors: With `sample`, by the distance between the layers of source and
            destination: edges, mean, rms, within_68, within_90 of exact less
            estimated.
        coverage: With `sample`, the share of edges held out that lie within_68 and
            within_90 of the others' bands, and strong_90, of the tenth with the
            largest scores; should be 0.68 and 0.9.
        clean, corrupt: The metric of the clean and of the corrupted runs; NaN of "ifr".
        ids: The patched prompt, of the first pair.
    """

    def __init__(self, inner: _core.EdgeScores):
        self._inner = inner
        self.sources = [it.name for it in inner.sources]
        self.destinations = [it.name for it in inner.destinations]
        self.clean, self.corrupt, self.ids = inner.clean, inner.corrupt, inner.ids
        shape = (len(self.sources), len(self.destinations))
        if inner.positions:
            shape = (inner.positions, *shape)
        self.scores = mx.array(inner.scores, mx.float32).reshape(shape)
        self.spread = mx.array(inner.spread, mx.float32).reshape(shape)
        self.errors: list[_core.EdgeErrors] = inner.errors
        self.coverage: _core.EdgeCoverage = inner.coverage
        self.exact = (
            mx.array(inner.exact, mx.float32).reshape(shape) if inner.exact else None
        )

    def __len__(self) -> int:
        """How many edges there are, whatever the positions."""
        return self._inner.edges()

    def __getitem__(self, edge: tuple[str, str]):
        """The score from a source to a destination, by their names: a float, or
        an array [pos]. Raises KeyError where there is no such edge."""
        source, destination = edge
        try:
            at = self.sources.index(source), self.destinations.index(destination)
        except ValueError:
            raise KeyError(edge) from None
        if at[0] >= self._inner.destinations[at[1]].before:
            raise KeyError(edge)
        found = self.scores[..., at[0], at[1]]
        return found if found.ndim else found.item()

    def to_pandas(self, count: int | None = None):
        """A pandas.DataFrame with a row for each edge, or the `count` strongest,
        the strongest first: from, to, score, spread, exact of a sample, and pos
        where positions are apart."""
        pd = require("pandas")
        order = self._inner.strongest(len(self._inner.scores) if count is None else count)
        scores, spread = self._inner.scores, self._inner.spread
        to, sources = len(self.destinations), len(self.sources)
        columns = {
            "from": [self.sources[i // to % sources] for i in order],
            "to": [self.destinations[i % to] for i in order],
            "score": [scores[i] for i in order],
            "spread": [spread[i] for i in order],
        }
        if self.exact is not None:
            exact = self._inner.exact
            columns["exact"] = [exact[i] for i in order]
        if self._inner.positions:
            columns = {"pos": [i // to // sources for i in order], **columns}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return (
            f"EdgeScores({len(self)} edges, {len(self.sources)} sources, "
            f"{len(self.destinations)} destinations)"
        )


def edges(
    model,
    clean,
    corrupt=None,
    metric=None,
    method: str = "eap",
    direction: str = "denoise",
    steps: int = 5,
    rule: str = "left",
    *,
    ungrouped: bool = False,
    by_position: bool = False,
    sample: float = 0,
    seed: int = 0,
    progress=None,
) -> EdgeScores:
    """Scores every edge of the residual stream's graph, from each part that writes
    to it to each that reads it: to first order, how the metric of the patched run
    changes if that edge alone brings the other run's value.

    `method`: "eap", the gradient of the patched run (edge attribution patching:
    Syed et al., 2023); "eap-ig", its mean at `steps` points on the line between the
    runs' embeddings, at the "left", "mid" or "right" of their stretches by `rule`
    (Hanna et al., 2024); "eap-ig-activations", for the edges out of a layer's heads,
    or its MLP, its mean on the line between their own outputs in both runs;
    "clean-corrupted", the mean of both runs' gradients;
    "exact", no estimate: each edge is run; "ifr", information flow routes (Ferrando
    and Voita, 2024): of `clean` alone, the share of each source in the stream that
    the destination reads, mean over positions; it takes no `corrupt` and no `metric`,
    which all others need. `sample`: of an estimate, the share of
    edges that are run as well, drawn with `seed`, at each distance; `errors` then says
    how far the estimate is off there.
    `ungrouped`: a key and value input for each query head, not for each kv head.
    Clean and corrupted prompts have one length, and the model no edits.
    """
    inner, chosen = asked("edges()", _core.EdgeOptions, locals())
    found = _core.edges(inner, chosen)
    if metric is not None:
        warn_of_runs(chosen.metric, found.runs)
    return EdgeScores(found)
