"""Which of a model's values cause its prediction: patching, ablation, causal
tracing, path patching, attribution. Exact (attribution estimates), and all cells
of a sweep in about one pass.

    sweep = mlxterp.patch(
        model,
        clean="When Mary and John went to the store, John gave a drink to",
        corrupt="When Mary and John went to the store, Mary gave a drink to",
        metric=mlxterp.metrics.logit_diff(" Mary", " John"),
    )
    sweep.effect  # mx.array [layer, pos]: 0 no effect, 1 restores the metric

Everything here evaluates, and raises UsageError, UnknownNameError or
OutOfRangeError before any long work. Ctrl-C ends a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from .. import _core
from ..core.optional import require
from ..errors import UsageError
from ._native import Report, Reported, asked
from .metrics import Metric, warn_of_runs

Progress = Callable[[str, float], None]


class Sweep(Reported):
    """A sweep's cells, each one patched run.

    `metric`, `effect`, `delta` and `spread` are float32 arrays with the axes
    in `axes`, in that order: [("layer", [0, 1, ...]), ("pos", [...])].

    Attributes:
        clean, corrupt: The metric of the clean and of the corrupted runs; NaN
            for ablations, which have no corrupted ones.
        ids, labels: The patched prompt, of the first pair.
    """

    def __init__(self, inner: _core.Sweep, labels=(), report: Report | None = None):
        self._inner, self._report = inner, report
        self.axes: list[tuple[str, list[int]]] = inner.axes
        self.clean, self.corrupt = inner.clean, inner.corrupt
        self.ids, self.labels = inner.ids, list(labels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._inner.shape)

    def _array(self, values) -> mx.array:
        return mx.array(values, mx.float32).reshape(self.shape)

    @property
    def metric(self) -> mx.array:
        """Of each patched run, averaged over pairs of prompts."""
        return self._array(self._inner.metric)

    @property
    def spread(self) -> mx.array:
        """The metric's standard deviation over pairs."""
        return self._array(self._inner.spread)

    @property
    def effect(self) -> mx.array:
        """The normalised effect of each cell: 0 leaves the metric of the patched
        run, 1 reaches that of the other. Raises UsageError where the two do not
        differ, and for ablations, which have no other run."""
        return self._array(self._inner.effect())

    @property
    def delta(self) -> mx.array:
        """Each cell's metric minus that of the run that is patched."""
        return self._array(self._inner.delta())

    def to_pandas(self):
        """A pandas.DataFrame with a row for each cell: the axes, `metric`,
        `delta`, and `effect` where there is one."""
        pd = require("pandas")
        index = pd.MultiIndex.from_product(
            [values for _, values in self.axes], names=[name for name, _ in self.axes]
        )
        columns = {"metric": self._inner.metric, "delta": self._inner.delta()}
        with suppress(UsageError):
            columns["effect"] = self._inner.effect()
        return pd.DataFrame(columns, index=index).reset_index()

    def plot(self, ax=None, cmap: str = "RdBu_r", backend: str = "matplotlib"):
        """A heatmap of `delta`, zero in the middle of the colours: matplotlib's
        axes, or with backend="plotly" a plotly Figure. Raises UsageError unless
        the sweep has one axis or two."""
        from ..view.figures import heatmap, interactive

        if backend == "plotly":
            return interactive(self, cmap)
        if backend != "matplotlib":
            raise UsageError(f"backend {backend!r} is not one of matplotlib, plotly")
        return heatmap(self, ax, cmap)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(values)}" for name, values in self.axes)
        return f"Sweep({axes}; clean={self.clean:.4g}, corrupt={self.corrupt:.4g})"


def _swept(analysis: Callable, kind: type, given: dict) -> Sweep:
    inner, chosen = asked(f"{analysis.__name__}()", kind, given)
    sweep = analysis(inner, chosen)
    warn_of_runs(chosen.metric, sweep)
    return _labelled(inner, sweep, chosen)


def _labelled(model, sweep: _core.Sweep, chosen=None, of=None) -> Sweep:
    report = None
    if chosen is not None:
        told = cache(lambda: _core.report(model, chosen, of or sweep))
        report = Report(lambda: told().to_json(), lambda: told().to_html())
    return Sweep(sweep, model.labels(sweep.ids), report)


def patch(
    model,
    clean,
    corrupt,
    metric,
    site: str = "resid_pre",
    by: str | Sequence[str] = ("layer", "pos"),
    direction: str = "denoise",
    *,
    layers=None,
    positions=None,
    heads=None,
    neurons=None,
    position_map: Sequence[tuple[int, int]] = (),
    one_pass_per_cell: bool = False,
    memory: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Activation patching (Vig et al., 2020; Meng et al., 2022), exact.

    `clean` and `corrupt` are prompts, or lists of as many, whose results are
    averaged. `site`: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q,
    k, v, pattern, mlp.post, or any with a row for each position. `by`: any of
    layer, pos, head, neuron; what is not named is patched at once. `direction`:
    "denoise" puts clean values into the corrupted run, "noise" the reverse.
    `layers`, `positions`, `heads`, `neurons`: only these; negative ones count
    from the end. Heads may be named with their layer, "L23H3" or "23.3".
    `position_map`: pairs of a clean and a corrupted position, for
    prompts of different length. `one_pass_per_cell`: slow, for comparison.
    `memory`: most bytes to compute with at once; 0: as many as are useful.
    """
    return _swept(_core.patch, _core.PatchOptions, locals())


def ablate(
    model,
    prompts,
    metric,
    site: str = "z",
    by: str | Sequence[str] = ("layer", "head"),
    ablation: str = "mean",
    *,
    data=None,
    samples: int = 1,
    seed: int = 0,
    layers=None,
    positions=None,
    heads=None,
    neurons=None,
    one_pass_per_cell: bool = False,
    memory: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Ablation, exact: how the metric changes without some of the values.

    `ablation`: "zero"; "mean" over `data`, position by position (Wang et al.,
    2022); "resample", the value in another prompt of `data` (Chan et
    al., 2022), averaged over `samples`. Without `data` it is the prompts
    themselves. Read `delta`; the rest as in patch().
    """
    return _swept(_core.ablate, _core.AblateOptions, locals())


@dataclass
class CausalTrace:
    """`sweep` [pos, layer]: its effect is the paper's indirect effect over its
    total effect; `subject`: the positions of the subject's tokens."""

    sweep: Sweep
    metric: Metric
    subject: list[int]


def causal_trace(
    model,
    prompt,
    subject: str,
    metric=None,
    site: str = "resid_post",
    window: int = 1,
    *,
    noise: float = 3.0,
    samples: int = 10,
    seed: int = 0,
    layers=None,
    positions=None,
    memory: int = 0,
    progress: Progress | None = None,
) -> CausalTrace:
    """Causal tracing (Meng et al., 2022): the subject's embeddings are corrupted
    with Gaussian noise (of `noise` standard deviations of the embedding), then
    the clean value of a window of layers at one position is restored. `metric`:
    by default the probability of the clean prediction. `window`: 1 in the
    paper for states, 10 for attn_out and mlp_out.
    """
    inner, chosen = asked("causal_trace()", _core.CausalTraceOptions, locals())
    found = _core.causal_trace(inner, chosen)
    warn_of_runs(found.metric, found.sweep)
    sweep = _labelled(inner, found.sweep, chosen, found)
    return CausalTrace(sweep, found.metric, found.subject)


def path_patch(
    model,
    clean,
    corrupt,
    metric,
    receivers: Sequence[tuple[int, int, str] | str] = (),
    senders: str = "z",
    *,
    through_mlps: bool = True,
    direction: str = "noise",
    layers=None,
    heads=None,
    memory: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Path patching (Wang et al., 2022; Goldowsky-Dill et al., 2023).

    `receivers`: (layer, head, "q" | "k" | "v") or "24.6.q", of k and v the kv
    head; none: the logits. `senders`: "z" by layer and head, or "mlp_out" by layer.
    `through_mlps`: whether the path may go through MLPs; else it is direct.
    """
    return _swept(_core.path_patch, _core.PathPatchOptions, locals())


def attribute(
    model,
    clean,
    corrupt,
    metric,
    sites: str | Sequence[str] = ("resid_pre",),
    by: str | Sequence[str] = ("layer", "pos"),
    direction: str = "denoise",
    steps: int = 1,
    *,
    method: str = "atp",
    rule: str = "full",
    layers=None,
    positions=None,
    heads=None,
    neurons=None,
    position_map: Sequence[tuple[int, int]] = (),
    progress: Progress | None = None,
) -> dict[str, Sweep]:
    """Attribution patching (Nanda, 2023; Syed et al., 2023): patch() to the
    first order, one pass forward and one back for all `sites`. `steps` > 1:
    gradients averaged along the line between the runs' embeddings (EAP-IG:
    Hanna et al., 2024). A sweep for each site; `delta` is the attribution.

    `method`: "atp"; "qk-fix" (q, k, rot_q, rot_k through the whole softmax),
    "grad-drop" (the mean size, without one layer after the other) or "atp-star"
    (both; AtP*: Kramar et al., 2024). The last two give sizes without a sign.

    `rule`: what the gradient goes through: "full"; "relevance" (norms' scales
    held, activations as x times a held factor, gates halved: RelP, Jafari et
    al., 2025), "frozen" (patterns and norms' scales held, as attribution graphs
    have it), "hold(SITE, ...)", such as "hold(attn.pattern, ln1.scale)", or
    "relevance+hold(attn.pattern)". At a site that is held itself, the gradient
    through what follows. UsageError where nothing of a site reaches the metric,
    as of q and k by "frozen": "qk-fix" makes their patterns again.
    """
    inner, chosen = asked("attribute()", _core.AttributeOptions, locals())
    found = _core.attribute(inner, chosen)
    warn_of_runs(chosen.metric, found[0].sweep)
    return {it.site: _labelled(inner, it.sweep) for it in found}


@dataclass
class Agreement:
    """How well one sweep approximates another: correlations over all cells, and
    the cells with the largest difference as (flat index, exact, approximate)."""

    pearson: float
    spearman: float
    worst: list[tuple[int, float, float]]


def compare(
    exact: Sweep, approximate: Sweep, worst: int = 5, *, sizes: bool = False
) -> Agreement:
    """Of two sweeps' metrics over the same cells; else UsageError. `sizes`: of
    their `delta` without signs, as "grad-drop" and "atp-star" estimate it."""
    return Agreement(*_core.compare(exact._inner, approximate._inner, worst, sizes))
