"""What runs a model and names its inner values: the contract of the two
engines, `native` (the C++ Decoder) and `wrapped` (any `mlx.nn.Module`).

A *site* is a named value of the forward pass. Every module has `<path>.input`
and `<path>.output`; attention has `q`, `k`, `v`, `rot_q`, `rot_k`, `z` as
[batch, pos, head, d_head] and `scores`, `pattern` as [batch, head, dest, src];
a layer has `attn_out` and `mlp_out`, what its parts add to the residual stream:
resid_post = resid_pre + attn_out + mlp_out, and `resid_mid` between them.
Engines know nothing of text, proxies or `with`: the classes above do that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import mlx.core as mx

from .._core import Layout

#: What the axes of attention's sites are, in the order of the pass.
LAYOUTS = dict.fromkeys(("q", "k", "v", "rot_q", "rot_k"), Layout.heads)
LAYOUTS |= dict.fromkeys(("scores", "pattern"), Layout.scores) | {"z": Layout.heads}


def layout_of(site: str) -> Layout:
    """Of a resolved site; features where nothing else is known."""
    return LAYOUTS.get(site.rpartition(".")[2], Layout.features)


def handle(x: mx.array | None) -> mx.array | None:
    """The same value, without a copy: what is written into `x` later changes
    nothing in it."""
    return None if x is None else x.astype(x.dtype)


#: Of the value, or of the value and its `SiteView`.
Intervention = Callable[..., mx.array]


class Pass(Protocol):
    """One forward pass: built lazily, nothing evaluated."""

    output: mx.array  #: What the model returned (its first array), lazy.
    lengths: list[int]  #: Real positions of each row; behind them is padding.

    def value(self, site: str) -> mx.array:
        """The lazy value of a resolved site, behind its interventions. Raises
        UsageError where the pass never reached it or has been finished."""

    def keys(self) -> list[str]:
        """Upstream's key of every module output seen, in the order of the
        pass: `model.` and the module's path, `….attention_weights` too."""

    def check(self, kept: Sequence[mx.array] = ()) -> None:
        """Evaluates `kept` and the checks of the interventions, and drops
        nothing. Raises as `finish` does."""

    def finish(self, kept: Sequence[mx.array]) -> None:
        """Drops every value, then evaluates `kept` together with the
        checks of the interventions, the GIL released. Raises UsageError
        where an intervention made a NaN or an infinity, naming its site."""


class Engine(Protocol):
    n_layers: int

    def resolve(self, name: str) -> str:
        """The one site a name means. Raises UnknownNameError with the nearest
        names, UsageError where a pattern means several."""

    def match(self, pattern: str) -> list[str]:
        """All sites a name or pattern (`layers.*.mlp`, `layers.{3..7}`) means,
        in the model's order; never none."""

    def part(self, layer: int, out: str) -> str:
        """The path of a layer's attention ("attn_out") or MLP ("mlp_out").
        Raises UnknownNameError where it has none."""

    def run(
        self,
        inputs: list[list[int]] | mx.array,
        interventions: Sequence[tuple[str, Intervention]] = (),
    ) -> Pass:
        """One traced pass. Rows of ids may differ in length: shorter ones are
        padded behind their end. Interventions act on resolved sites, in order;
        one that never fires, or returns another shape or dtype, is an error
        at that site, and whatever one raises arrives unchanged."""

    def forward(self, *args, **kwargs):
        """The plain model, untraced."""

    def attach(
        self,
        site: str,
        module: Callable,
        mode: str,
        name: str,
        by_position: bool,
        standing: Sequence[tuple[str, Intervention]] = (),
    ) -> Engine:
        """An engine with a module attached, after the standing edits: see
        `InterpretableModel.attach`. This one stays as it is."""

    def named_modules(self) -> list[tuple[str, object]]:
        """Dotted paths and modules, the model itself (`""`) first."""

    def parameters(self) -> dict:
        """The tree of parameters, as `mlx.nn.Module.parameters()`."""
