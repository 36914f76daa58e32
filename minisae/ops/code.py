"""The sparse code that passes between operations: nearly all of it is zeros, so the zeros are left out."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse

from minisae.backend import Array, namespace
from minisae.ops.blocks import row_blocks
from minisae.ops.dispatch import twin


class SparseCode(NamedTuple):
    """A code ``(n, d_sae)`` in compressed rows; columns ascend within a row.

    Variants pass it on and never look inside: the operations of :mod:`minisae.ops` take it wherever they take a dense
    code.
    """

    values: Array
    """Entries ``(nnz,)``."""
    columns: Array
    """Latent of each entry ``(nnz,)``, int32."""
    indptr: Array
    """Start of each row ``(n + 1,)``, int32."""
    shape: tuple[int, int]
    """``(n, d_sae)``."""

    def dense(self) -> Array:
        """Return the code as an array ``(n, d_sae)``."""
        return self.csr().toarray()

    def csr(self) -> scipy.sparse.csr_array:
        """Return the code as a SciPy matrix on the same memory."""
        return scipy.sparse.csr_array((self.values, self.columns, self.indptr), shape=self.shape)

    def by_latent(self) -> "SparseCode":
        """Return the transpose ``(d_sae, n)``: the rows in which each latent is active."""
        turned = self.csr().T.tocsr()
        return SparseCode(turned.data, turned.indices, turned.indptr, turned.shape)

    def rows(self) -> Array:
        """Return the row of each entry ``(nnz,)``."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.indptr))


Code: TypeAlias = Array | SparseCode
"""A dense code ``(n, d_sae)`` or a :class:`SparseCode`."""


def empty_code(shape: tuple[int, int], dtype: Any) -> SparseCode:
    """Return a code without entries."""
    return SparseCode(np.zeros(0, dtype), np.zeros(0, np.int32), np.zeros(shape[0] + 1, np.int32), shape)


def compress(mask: Array, pre: Array) -> SparseCode:
    """Return the entries of ``pre (n, d_sae)`` at which ``mask (n, d_sae)`` holds."""
    n, d_sae = pre.shape
    where = np.flatnonzero(mask)  # (nnz,)
    indptr = np.searchsorted(where, np.arange(n + 1) * d_sae).astype(np.int32)  # (n+1,)
    starts = np.arange(n) * d_sae  # (n,)
    columns = (where - np.repeat(starts, np.diff(indptr))).astype(np.int32)  # (nnz,)
    return SparseCode(pre.reshape(-1)[where], columns, indptr, (n, d_sae))


def stack(parts: list[SparseCode], shape: tuple[int, int]) -> SparseCode:
    """Return the rows of several codes below each other as one code of this shape."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(part.values) for part in parts)])  # (n_parts+1,)
    starts = [part.indptr[:-1] + first for part, first in zip(parts, before[:-1], strict=True)]
    return SparseCode(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.columns for part in parts]),
        np.concatenate([*starts, before[-1:]]).astype(np.int32),
        shape,
    )


def dense(f: Code) -> Array:
    """Return a code as an array ``(n, d_sae)``, whichever form it has."""
    return f.dense() if isinstance(f, SparseCode) else f


def sparse(f: Code) -> SparseCode:
    """Return a code on the host as a :class:`SparseCode`, whichever form it has."""
    return f if isinstance(f, SparseCode) else compress(f != 0, f)


def _fired_cpu(f: Code) -> Array:
    if isinstance(f, SparseCode):
        return np.bincount(f.columns[f.values != 0], minlength=f.shape[1]) > 0
    seen = np.zeros(f.shape[1], bool)  # (d_sae,)
    for block in row_blocks(len(f), f.strides[0]):
        seen |= (f[block] != 0).any(axis=0)
        if seen.all():
            break
    return seen


@twin(cpu=_fired_cpu)
def fired(f: Code) -> Array:
    """Return which latents are active in at least one row: bool ``(d_sae,)``."""
    return (dense(f) != 0).any(axis=-2)


def with_values(f: Code, values: Array) -> Code:
    """Return the entries of ``values (n, d_sae)`` at which a code ``(n, d_sae)`` is not 0."""
    if isinstance(f, SparseCode):
        return f._replace(values=np.where(f.values != 0, values[f.rows(), f.columns], 0))
    return namespace(f).where(f != 0, values, 0)


def column_sum(f: Code) -> Array:
    """Sum a code over rows ``(d_sae,)``."""
    if isinstance(f, SparseCode):
        total = np.bincount(f.columns, weights=f.values, minlength=f.shape[1])  # (d_sae,), in float64
        return total.astype(f.values.dtype)
    return f.sum(axis=-2)


def row_norms0(f: Code) -> Array:
    """Return the number of active latents of each row ``(n,)``: its L0."""
    if isinstance(f, SparseCode):
        return np.bincount(f.rows()[f.values != 0], minlength=f.shape[0])
    return (f != 0).sum(axis=-1)


def add_code(f: Code, other: Code) -> Code:
    """Return the sum of two codes, sparse only if both are."""
    if isinstance(other, SparseCode) and not len(other.values):
        return f
    if isinstance(f, SparseCode) and isinstance(other, SparseCode):
        total = (f.csr() + other.csr()).tocsr()
        total.sort_indices()
        return SparseCode(total.data, total.indices, total.indptr, f.shape)
    return dense(f) + dense(other)


def l0(f: Code) -> Array:
    """Return the mean number of active latents a row ``()``."""
    counts = row_norms0(f)  # (n,)
    return namespace(counts).mean(counts, axis=-1)
