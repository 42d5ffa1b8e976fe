"""Where in a module's own calls the values of its attention can be had.

What fused attention is given comes from its call. Queries and keys before
their rotation are the input of a norm or rope inside the module; of attention
that a module computes itself, everything but scores and pattern is the input
or output of one of its parts. That lies in the module's code, so it is learnt
from one pass and holds for all.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ._attention import Softmax, turned
from ._nodes import Node

V_NAMES = ("v_proj", "v", "value", "wv")
OUT_NAMES = ("o_proj", "out_proj", "dense", "c_proj", "wo", "proj")


class Unclear(Exception):
    """As many positions as heads: which axis is which cannot be told."""


class Event:
    """The input or output of the n-th norm or rope call inside the module; of
    a norm over all heads together [batch, pos, heads * d_head]."""

    def __init__(self, n: int, heads_first: bool, tail: str = "input", heads: int = 0):
        self.n, self.heads_first, self.tail = n, heads_first, tail
        self.heads = heads

    def read(self, run, node: Node) -> mx.array | None:
        events = run.events(node)
        if self.n >= len(events):
            return None
        _, x, y, _ = events[self.n]
        return self._turn(x if self.tail == "input" else y)

    def add(self, edit: Callable, plan, node: Node):
        group = plan.event_inputs if self.tail == "input" else plan.event_outputs
        edits = group.setdefault((node.index, self.n), [])
        edits.append(lambda x: self._turn(edit(self._turn(x))).reshape(x.shape))

    def _turn(self, x):
        if self.heads:
            return x.reshape(*x.shape[:2], self.heads, -1) if x.ndim == 3 else x
        return turned(x) if self.heads_first else x


class Part:
    """The input or output of a part, [batch, pos, heads * d_head]."""

    def __init__(self, part: Node, tail: str, heads: int):
        self.part, self.tail, self.heads = part, tail, heads

    def read(self, run, node: Node) -> mx.array | None:
        calls = run.calls_of(self.part)
        return self._split(calls[-1][self.tail == "output"]) if calls else None

    def add(self, edit: Callable, plan, node: Node):
        group = plan.inputs if self.tail == "input" else plan.outputs
        edits = group.setdefault(self.part.index, [])
        edits.append(lambda x: edit(self._split(x)).reshape(x.shape))

    def _split(self, x):
        return x.reshape(*x.shape[:-1], self.heads, -1)


def places(node: Node, run) -> dict[str, Event | Part]:
    """The sites of a module that are not to be had from its attention call,
    as a pass shows them. Raises Unclear."""
    call, events = run.attention(node), run.events(node)
    if isinstance(call, Softmax):
        return _of_softmax(node, call, events)
    # Multi-head latent attention rotates a part of each head, and that part
    # never reaches the fused call: before it there is nothing of its shape.
    if hasattr(node.module, "qk_rope_head_dim"):
        return {}
    q = _before(events, call.given[0], "q_norm", None)
    k = _before(events, call.given[1], "k_norm", q)
    return {name: at for name, at in (("q", q), ("k", k)) if at is not None}


def _before(events, rotated: mx.array, norm: str, queries: Event | None):
    """The first norm or rope call whose input has the shape of `rotated`
    [batch, head, pos, d_head], in either order of axes; None where there is
    none, then nothing is known before `rotated` itself.

    events: (role, input, output, the output itself) of each call, in order.
    norm: the role of the norm that belongs to it.
    queries: what they took, when the keys are looked for.
    """
    batch, heads, pos, d_head = rotated.shape
    rope = _rope_of(events, rotated, queries)
    for n, (role, x, *_) in enumerate(events):
        if n == rope:
            return Event(n, True)  # it turns along its second-last axis
        if role == norm and x.shape == (batch, pos, heads * d_head):
            return Event(n, False, heads=heads)
        if role != norm or x.ndim != 4:
            continue
        if x.shape == (batch, pos, heads, d_head) and pos != heads:
            return Event(n, False)
        if x.shape == rotated.shape:
            if pos == heads:
                raise Unclear
            return Event(n, True)
    return None


def _rope_of(events, rotated: mx.array, queries: Event | None) -> int | None:
    """The rope call that made `rotated`, else the first that could have: of
    several the first turns the queries."""
    ropes = [n for n, (role, x, *_) in enumerate(events) if role == "rope"]
    fitting = [n for n in ropes if events[n][1].shape == rotated.shape]
    for n in fitting:
        if events[n][3] is rotated:
            return n
    if queries is not None and len(ropes) > 1:
        fitting = [n for n in fitting if n != ropes[0]]
    return fitting[0] if fitting else None


def _of_softmax(node: Node, call: Softmax, events) -> dict[str, Event | Part]:
    heads, found = call.scores.shape[1], {}
    ropes = [(n, x) for n, (role, x, *_) in enumerate(events) if role == "rope"]
    for name, (n, _) in zip("qk", ropes):
        found[name] = Event(n, True)
        found["rot_" + name] = Event(n, True, "output")
    for name in OUT_NAMES:
        if name in node.children:
            found["z"] = Part(node.children[name], "input", heads)
            break
    if len(ropes) > 1:
        kv_heads = ropes[1][1].shape[1]
        for name in V_NAMES:
            if name in node.children:
                found["v"] = Part(node.children[name], "output", kv_heads)
                break
    return found
