"""A matrix kept as the product of two thin ones."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import mlx.core as mx

from ...errors import UsageError

_CPU = mx.cpu  # where MLX decomposes matrices


class FactoredMatrix(mx.array):
    """A @ B, [..., ldim, mdim] times [..., mdim, rdim], an mx.array that is
    multiplied out only where its elements are read: products, singular values,
    eigenvalues and the norm use the factors (Elhage et al., "A Mathematical
    Framework for Transformer Circuits", 2021). Raises UsageError for factors
    that do not fit."""

    def __init__(self, A: mx.array, B: mx.array):
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise UsageError(f"factors of shapes {A.shape} and {B.shape} do not fit")
        lead = mx.broadcast_arrays(A[..., :1, :1], B[..., :1, :1])[0].shape[:-2]
        A = mx.broadcast_to(A, (*lead, *A.shape[-2:]))
        B = mx.broadcast_to(B, (*lead, *B.shape[-2:]))
        whole = A @ B  # lazy, as the place for it is
        super().__init__(mx.zeros(whole.shape, whole.dtype))
        super().__setitem__(..., whole)
        self.A, self.B = A, B
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        self.has_leading_dims = bool(lead)

    @property
    def AB(self) -> mx.array:
        """The product, [..., ldim, rdim]."""
        return self.A @ self.B

    @property
    def BA(self) -> mx.array:
        """The other product, [..., mdim, mdim]; needs ldim == rdim."""
        if self.ldim != self.rdim:
            raise UsageError(f"BA needs a square matrix, not {self.ldim} x {self.rdim}")
        return self.B @ self.A

    @property
    def T(self) -> FactoredMatrix:
        return FactoredMatrix(self.B.swapaxes(-1, -2), self.A.swapaxes(-1, -2))

    def __matmul__(self, other: mx.array | FactoredMatrix):
        """With a vector a vector, else a FactoredMatrix."""
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        if other.ndim == 1:
            return (self.A @ (self.B @ other[:, None]))[..., 0]
        if self.rdim > self.mdim:
            return FactoredMatrix(self.A, self.B @ other)
        return FactoredMatrix(self.AB, other)

    def __rmatmul__(self, other: mx.array):
        if other.ndim == 1:
            return ((other[None] @ self.A) @ self.B)[..., 0, :]
        if self.ldim > self.mdim:
            return FactoredMatrix(other @ self.A, self.B)
        return FactoredMatrix(other, self.AB)

    def __mul__(self, scalar: float | mx.array) -> FactoredMatrix:
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    @cached_property
    def _svd(self) -> tuple[mx.array, mx.array, mx.array]:
        ua, sa, va = mx.linalg.svd(_wide(self.A), stream=_CPU)
        ub, sb, vb = mx.linalg.svd(_wide(self.B), stream=_CPU)
        m = min(self.mdim, self.ldim), min(self.mdim, self.rdim)
        ua, va = ua[..., : m[0]], va[..., : m[0], :]
        ub, vb = ub[..., : m[1]], vb[..., : m[1], :]
        middle = sa[..., :, None] * (va @ ub) * sb[..., None, :]
        um, s, vm = mx.linalg.svd(middle, stream=_CPU)
        k = min(m)
        u, v = ua @ um[..., :k], vm[..., :k, :] @ vb
        return u, s, v.swapaxes(-1, -2)

    def svd(self) -> tuple[mx.array, mx.array, mx.array]:
        """U [..., ldim, k], S [..., k] falling, V [..., rdim, k] with U S V^T the
        matrix."""
        return self._svd

    @property
    def U(self) -> mx.array:
        return self._svd[0]

    @property
    def S(self) -> mx.array:
        return self._svd[1]

    @property
    def Vh(self) -> mx.array:
        """V, [..., rdim, k], by the name that TransformerLens gives it."""
        return self._svd[2]

    @property
    def eigenvalues(self) -> mx.array:
        """Those of BA, which are AB's that are not 0: complex [..., mdim]."""
        return mx.linalg.eigvals(_wide(self.BA), stream=_CPU)

    def norm(self) -> mx.array:
        """Frobenius', [...]."""
        # |AB|^2 is the sum of A^T A times B B^T, element by element.
        a = self.A.swapaxes(-1, -2) @ self.A
        b = self.B @ self.B.swapaxes(-1, -2)
        return mx.sqrt(mx.maximum((a * b).sum(axis=(-1, -2)), 0))

    def make_even(self) -> FactoredMatrix:
        """The same, both factors with the singular values' square roots."""
        root = mx.sqrt(self.S)[..., None, :]
        return FactoredMatrix(self.U * root, (self.Vh * root).swapaxes(-1, -2))

    def collapse_l(self) -> mx.array:
        """S V^T, [..., k, rdim]: the left factor is orthogonal and left out."""
        return self.S[..., None] * self.Vh.swapaxes(-1, -2)

    def collapse_r(self) -> mx.array:
        """U S, [..., ldim, k]."""
        return self.U * self.S[..., None, :]

    def unsqueeze(self, k: int) -> FactoredMatrix:
        return FactoredMatrix(mx.expand_dims(self.A, k), mx.expand_dims(self.B, k))

    def get_corner(self, k: int = 3) -> mx.array:
        """The first k rows and columns of the product."""
        return self.A[..., :k, :] @ self.B[..., :, :k]

    def __getitem__(self, key: Any) -> FactoredMatrix:
        """Of the axes in front, then rows, then columns; both of these stay axes."""
        items = list(key) if isinstance(key, tuple) else [key]
        lead = self.ndim - 2
        for at, it in enumerate(items):
            if it is ...:
                items[at : at + 1] = [slice(None)] * (self.ndim - len(items) + 1)
                break
        front, back = tuple(items[:lead]), items[lead:]
        back = [slice(it, it + 1 or None) if isinstance(it, int) else it for it in back]
        rows, columns = [*back, slice(None), slice(None)][:2]
        a, b = (it[front] if front else it for it in (self.A, self.B))
        return FactoredMatrix(a[..., rows, :], b[..., :, columns])

    def __repr__(self) -> str:
        return f"FactoredMatrix: Shape({tuple(self.shape)}), Hidden Dim({self.mdim})"


def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)
