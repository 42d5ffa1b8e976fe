"""One call of fused attention: its values beside the fused result, and the
explicit computation where something inside is edited."""

from __future__ import annotations

import mlx.core as mx

#: Sites of a module that calls `mx.fast.scaled_dot_product_attention`.
SITES = ("q", "k", "v", "rot_q", "rot_k", "scores", "pattern", "z")


def turned(x: mx.array) -> mx.array:
    """[batch, pos, head, d_head] to [batch, head, pos, d_head] and back."""
    return x.swapaxes(1, 2)


class Attention:
    """What one call was given, behind its edits, and lazily what follows.

    Queries are [batch, head, dest, d_head]; keys and values
    [batch, kv_head, src, d_head], where each kv head serves several heads.
    """

    def __init__(self, q, k, v, scale, mask, sinks):
        self.q, self.k, self.v = q, k, v
        self.scale, self.mask, self.sinks = scale, mask, sinks
        self.z: mx.array | None = None
        self._scores: mx.array | None = None
        self._pattern: mx.array | None = None

    @property
    def scores(self) -> mx.array:
        """[batch, head, dest, src], what the softmax is given; a source that
        a destination may not see has -inf."""
        if self._scores is None:
            self._scores = self._masked(self._products())
        return self._scores

    @scores.setter
    def scores(self, value):
        self._scores, self._pattern = value, None

    @property
    def pattern(self) -> mx.array:
        """[batch, head, dest, src]; rows sum to 1, with sinks to less."""
        if self._pattern is None:
            scores = self.scores
            # A row that sees nothing is uniform, as in MLX's own, not NaN.
            scores = mx.maximum(scores, mx.finfo(scores.dtype).min)
            if self.sinks is None:
                self._pattern = mx.softmax(scores, axis=-1, precise=True)
            else:
                batch, heads, dest, _ = scores.shape
                sinks = self.sinks.astype(scores.dtype).reshape(1, heads, 1, 1)
                sinks = mx.broadcast_to(sinks, (batch, heads, dest, 1))
                both = mx.concatenate([sinks, scores], axis=-1)
                both = mx.softmax(both, axis=-1, precise=True)
                self._pattern = both[..., 1:]
        return self._pattern

    @pattern.setter
    def pattern(self, value):
        self._pattern = value

    def mixed(self) -> mx.array:
        """The values mixed by the pattern, [batch, head, dest, d_head]."""
        grouped = self._by_group(self.pattern) @ self.v[:, :, None]
        return self._by_head(grouped)

    def _by_group(self, x):
        """[batch, head, …] to [batch, kv_head, heads each serves, …]."""
        return x.reshape(x.shape[0], self.k.shape[1], -1, *x.shape[2:])

    def _by_head(self, x):
        return x.reshape(x.shape[0], self.q.shape[1], *x.shape[3:])

    def _products(self):
        q = self._by_group(self.q * self.scale)
        return self._by_head(q @ self.k[:, :, None].swapaxes(-1, -2))

    def _masked(self, scores):
        mask = self.mask
        if mask is None:
            return scores
        if isinstance(mask, str):  # "causal": the last of both align
            dest, src = scores.shape[-2:]
            mask = mx.arange(src - dest, src)[:, None] >= mx.arange(src)
        if mask.dtype == mx.bool_:
            return mx.where(mask, scores, mx.array(-mx.inf, scores.dtype))
        return scores + mask.astype(scores.dtype)


class Source:
    """Where the queries or keys were before they were rotated: the input of
    the `event`-th call of a norm or rope inside the attention module."""

    __slots__ = ("event", "heads_first")

    def __init__(self, event: int, heads_first: bool):
        self.event, self.heads_first = event, heads_first

    def to_site(self, x: mx.array) -> mx.array:
        return turned(x) if self.heads_first else x

    from_site = to_site  # turning is its own inverse


class Unclear(Exception):
    """As many positions as heads: which axis is which cannot be told."""


def find_source(events, rotated: mx.array, norm: str, skip: Source | None):
    """The first norm or rope call whose input has the shape of `rotated`
    [batch, head, pos, d_head], in either order of axes; None where there is
    none, then nothing is known before `rotated` itself.

    events: (role, input, output) of each call, in order.
    norm: the role of the norm that belongs to it.
    skip: what the queries took, when the keys are looked for.
    """
    batch, heads, pos, d_head = rotated.shape
    first_rope = _first_rope(events, rotated, skip)
    for i, (role, x, y) in enumerate(events):
        if x.ndim != 4 or (role != norm and i != first_rope):
            continue
        if role == "rope":  # turns along its second-last axis
            return Source(i, True) if x.shape == rotated.shape else None
        if x.shape == (batch, pos, heads, d_head) and pos != heads:
            return Source(i, False)
        if x.shape == rotated.shape:
            if pos == heads != 1:
                raise Unclear
            return Source(i, True)
    return None


def _first_rope(events, rotated, skip) -> int | None:
    """The rope call that made `rotated`, else the first that could have."""
    could = None
    for i, (role, x, y) in enumerate(events):
        if role != "rope" or x.ndim != 4 or x.shape != rotated.shape:
            continue
        if y is rotated:
            return i
        if could is None and not _taken(events, i, skip):
            could = i
    return could


def _taken(events, i, skip) -> bool:
    """Whether the i-th rope call turned the queries: they come first."""
    ropes = [j for j, it in enumerate(events) if it[0] == "rope"]
    return skip is not None and len(ropes) > 1 and i == ropes[0]
