"""One computation of attention: of the fused kind its values beside the fused
result, and the explicit way where something inside is edited."""

from __future__ import annotations

import mlx.core as mx

from .base import LAYOUTS, handle

#: Sites of a module that calls `mx.fast.scaled_dot_product_attention`.
SITES = tuple(LAYOUTS)


def turned(x: mx.array) -> mx.array:
    """[batch, pos, head, d_head] to [batch, head, pos, d_head] and back."""
    return x.swapaxes(1, 2)


class Attention:
    """What one call was given, behind its edits, and lazily what follows.

    Queries are [batch, head, dest, d_head]; keys and values
    [batch, kv_head, src, d_head], where each kv head serves several heads.
    """

    __slots__ = tuple("given q k v scale mask sinks z _scores _pattern".split())

    def __init__(self, q, k, v, scale, mask, sinks):
        self.given = q, k  # the arrays themselves, which may be changed in place
        self.q, self.k, self.v = map(handle, (q, k, v))
        self.mask = mask if isinstance(mask, str) else handle(mask)
        self.scale, self.sinks = scale, sinks
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
            # A row that sees nothing is uniform, as in MLX's own, not NaN.
            scores = mx.maximum(self.scores, mx.finfo(self.scores.dtype).min)
            if self.sinks is not None:
                sinks = self.sinks.astype(scores.dtype).reshape(1, -1, 1, 1)
                sinks = mx.broadcast_to(sinks, (*scores.shape[:3], 1))
                scores = mx.concatenate([sinks, scores], axis=-1)
            both = mx.softmax(scores, axis=-1, precise=True)
            self._pattern = both if self.sinks is None else both[..., 1:]
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


class Softmax:
    """Attention that a module computes itself, seen by its softmax: scores and
    pattern, [batch, head, dest, src] whatever axes the module groups heads in.
    """

    def __init__(self, scores: mx.array):
        self.scores = by_head(scores)
        self.pattern: mx.array | None = None
        self.q = self.k = self.v = self.z = None


def by_head(x: mx.array) -> mx.array:
    """[batch, kv_head, heads each serves, dest, src] to [batch, head, …]."""
    return x if x.ndim == 4 else x.flatten(1, 2)
