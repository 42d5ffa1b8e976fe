"""What the parts of a layer add to the residual stream:

    resid_post = resid_pre + attn_out + mlp_out

A layer may normalise what its attention returns, or multiply it, before it
adds it. Which values these are lies in the layer's code, so it is learnt from
one pass and holds for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from ._checks import evaluated
from ._nodes import MLP_NAMES, Node

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


def shares(layer: Node, attention: Node | None, run) -> dict[str, Share | Middle]:
    """The sites of a layer by name, as a pass shows them; none where its output
    is no such sum. Evaluates."""
    called = [it for it in layer.children.values() if run.calls_of(it)]
    if not run.calls_of(layer):
        return {}
    x, y = run.calls_of(layer)[-1]
    if y is None or x is None or x.shape != y.shape:
        return {}
    own = list(_chain(attention, called, run)) if attention is not None else []
    others = [it for it in called if it not in own and it is not attention]
    others = [it for it in others if attention is None or attention not in _below(it)]
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
        y = run.calls_of(part)[-1][1]
        after = (it for it in called if run.calls_of(it)[-1][0] is y)
        part = next(after, None) if y is not None else None


def _factors(x, y, parts: list[Node], run) -> list[float] | None:
    """The numbers that make the parts' outputs sum up to what the layer adds,
    if any do."""
    outs = [run.calls_of(it)[-1][1] for it in parts]
    if any(out is None or out.shape != x.shape for out in outs):
        return None
    flat = [out.astype(mx.float32).flatten() for out in outs]
    gap = (y.astype(mx.float32) - x.astype(mx.float32)).flatten()
    products = [[(a * b).sum() for b in flat] for a in flat]
    onto = [(a * gap).sum() for a in flat]
    solved = evaluated(lambda: _solved(products, onto))
    if solved is None:
        return None
    known = _numbers(parts)
    factors = [min(known, key=lambda it: abs(it - f)) for f in solved]
    factors = [g if abs(g - f) < 1e-3 * abs(f) else f for g, f in zip(factors, solved)]
    total = x + sum(out * f for out, f in zip(outs, factors))
    return factors if _same(total, y) else None


def _numbers(parts: list[Node]) -> list[float]:
    """1, and what numbers the layer keeps: a factor that is near one is it."""
    kept = vars(parts[0].parent.module).values() if parts[0].parent else ()
    return [1.0, *(float(it) for it in kept if type(it) is float and it)]


def _solved(products, onto) -> list[float] | None:
    p, b = [[it.item() for it in row] for row in products], [it.item() for it in onto]
    if len(b) == 1:
        return [b[0] / p[0][0]] if p[0][0] > 0 else None
    det = p[0][0] * p[1][1] - p[0][1] * p[1][0]
    if det <= 1e-6 * p[0][0] * p[1][1]:
        return None
    return [
        (b[0] * p[1][1] - b[1] * p[0][1]) / det,
        (b[1] * p[0][0] - b[0] * p[1][0]) / det,
    ]


def _same(a: mx.array, b: mx.array) -> bool:
    if a.shape != b.shape:
        return False
    precise = a.dtype == b.dtype == mx.float32
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    most = mx.abs(b).max() * (1e-4 if precise else 2e-2)
    return bool(evaluated(lambda: (mx.abs(a - b).max() <= most).item()))


def _below(node: Node) -> set[Node]:
    return {node}.union(*map(_below, node.children.values()))


def _name(layer: Node, child: Node) -> str:
    return next(name for name, it in layer.children.items() if it is child)
