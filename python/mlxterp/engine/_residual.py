"""What the parts of a layer add to the residual stream:

    resid_post = resid_pre + attn_out + mlp_out

A layer may normalise what its attention returns, or multiply it, before it
adds it. Which values these are lies in the layer's code, so it is learnt from
one pass and holds for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ._checks import evaluated
from ._nodes import MLP_NAMES, Node

#: What mlx-lm's layers call the factor of what they add, where they have one.
FACTORS = ("residual_multiplier", "scale_depth")

#: Sites of a layer beside its input and output.
SHARES = ("attn_out", "resid_mid", "mlp_out")


class Share:
    """What a part returns times a factor."""

    def __init__(self, part: Node, factor: float):
        self.part, self.factor = part, factor

    def read(self, run, layer: Node) -> mx.array | None:
        calls = run.calls_of(self.part)
        return self.scaled(calls[-1][1]) if calls else None

    def scaled(self, x: mx.array) -> mx.array:
        return x if self.factor == 1 else x * self.factor

    def unscaled(self, x: mx.array) -> mx.array:
        return x if self.factor == 1 else x / self.factor

    def add(self, edit: Callable, plan, layer: Node):
        edits = plan.outputs.setdefault(self.part.index, [])
        edits.append(lambda x: self.unscaled(edit(self.scaled(x))))


class Middle:
    """The stream behind the attention; it is set by what attention adds."""

    def __init__(self, attention: Share):
        self.attention = attention

    def read(self, run, layer: Node) -> mx.array | None:
        calls, added = run.calls_of(layer), self.attention.read(run, layer)
        return calls[-1][0] + added if calls and added is not None else None

    def add(self, edit: Callable, plan, layer: Node):
        plan.entered[layer.index] = None
        share = self.attention

        def act(x):
            before = plan.entered[layer.index]
            return share.unscaled(edit(before + share.scaled(x)) - before)

        plan.outputs.setdefault(share.part.index, []).append(act)


def shares(layer: Node, mixer: Node | None, run) -> dict[str, Share | Middle]:
    """The sites of a layer by name, as a pass shows them; none where its output
    is no such sum. Evaluates."""
    called = [it for it in layer.children.values() if run.calls_of(it)]
    if not run.calls_of(layer):
        return {}
    x, y, *_ = run.calls_of(layer)[-1]
    if y is None or x is None or x.shape != y.shape:
        return {}
    own = list(_chain(mixer, called, run)) if mixer is not None else []
    others = [it for it in called if it not in own and it is not mixer]
    others = [it for it in others if mixer is None or mixer not in it.below()]
    others.sort(key=lambda it: _name(layer, it) not in MLP_NAMES)
    for mlp in [*others, None]:
        chain = list(_chain(mlp, called, run)) if mlp is not None else [None]
        for added in reversed(own or [None]):
            for more in reversed(chain):
                parts = [it for it in (added, more) if it is not None]
                factors = parts and _factors(x, y, parts, run)
                if factors:
                    found = [Share(*it) for it in zip(parts, factors)]
                    return _named(x, found, added, more, called, run)
    return {}


def _named(x, found, added, more, called, run) -> dict[str, Share | Middle]:
    names = {}
    if added is not None:
        names["attn_out"] = found[0]
    if more is not None:
        names["mlp_out"] = found[-1]
    if len(names) == 2:
        middle = x + found[0].read(run, None)
        reads = [run.calls_of(it)[-1][0] for it in called]
        if any(it is not None and _same(it, middle) for it in reads):
            names["resid_mid"] = Middle(found[0])
    return names


def _chain(part: Node, called: list[Node], run) -> Iterator[Node]:
    """A part, and what is called with just what it returned, and so on."""
    while part is not None and run.calls_of(part):
        yield part
        y = run.calls_of(part)[-1][3]
        after = (it for it in called if run.calls_of(it)[-1][2] is y)
        part = next(after, None) if y is not None else None


def _factors(x, y, parts: list[Node], run) -> list[float] | None:
    """The numbers that make the parts' outputs sum up to what the layer adds,
    if any do."""
    outs = [run.calls_of(it)[-1][1] for it in parts]
    if any(out is None or out.shape != x.shape for out in outs):
        return None
    gap = y.astype(mx.float32) - x.astype(mx.float32)
    flat = evaluated(lambda: [np.array(it.astype(mx.float32)) for it in (*outs, gap)])
    if flat is None:
        return None
    *columns, gap = [it.ravel().astype(np.float64) for it in flat]
    norms = np.array([np.linalg.norm(it) for it in columns])
    if not norms.all():
        return None
    units = np.stack(columns, 1) / norms
    solved, _, rank, _ = np.linalg.lstsq(units, gap, rcond=5e-4)
    if rank < len(outs):
        return None
    known, factors = _numbers(parts), (solved / norms).tolist()
    for i, f in enumerate(factors):
        near = min(known, key=lambda it: abs(it - f))
        factors[i] = near if abs(near - f) < 1e-3 * abs(f) else f
    total = x + sum(out * f for out, f in zip(outs, factors))
    return factors if _same(total, y) else None


def _numbers(parts: list[Node]) -> list[float]:
    """1, and what numbers the layer keeps: a factor that is near one is it."""
    kept = vars(parts[0].parent.module).values() if parts[0].parent else ()
    return [1.0, *(float(it) for it in kept if type(it) is float and it)]


def _same(a: mx.array, b: mx.array) -> bool:
    if a.shape != b.shape:
        return False
    precise = a.dtype == b.dtype == mx.float32
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    most = mx.abs(b).max() * (1e-4 if precise else 2e-2)
    return bool(evaluated(lambda: (mx.abs(a - b).max() <= most).item()))


def _name(layer: Node, child: Node) -> str:
    return next(name for name, it in layer.children.items() if it is child)
