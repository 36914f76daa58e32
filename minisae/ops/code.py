"""The sparse code that passes between operations: nearly all of it is zeros, so the zeros are left out."""

from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse

from minisae.backend import Array, namespace


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

    def rows(self) -> Array:
        """Return the row of each entry ``(nnz,)``."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.indptr))


Code: TypeAlias = Array | SparseCode
"""A dense code ``(n, d_sae)`` or a :class:`SparseCode`."""


def compress(mask: Array, pre: Array) -> SparseCode:
    """Return the entries of ``pre (n, d_sae)`` at which ``mask (n, d_sae)`` holds."""
    n, d_sae = pre.shape
    where = np.flatnonzero(mask)  # (nnz,)
    indptr = np.searchsorted(where, np.arange(n + 1) * d_sae).astype(np.int32)  # (n+1,)
    values = pre.reshape(-1)[where]  # (nnz,)
    return SparseCode(values, (where % d_sae).astype(np.int32), indptr, (n, d_sae))


def dense(f: Code) -> Array:
    """Return a code as an array ``(n, d_sae)``, whichever form it has."""
    return f.dense() if isinstance(f, SparseCode) else f


def fired(f: Code) -> Array:
    """Return which latents are active in at least one row: bool ``(d_sae,)``."""
    if isinstance(f, SparseCode):
        return np.bincount(f.columns[f.values != 0], minlength=f.shape[1]) > 0
    return (f != 0).any(axis=-2)


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
    if isinstance(f, SparseCode) and isinstance(other, SparseCode):
        total = (f.csr() + other.csr()).tocsr()
        total.sort_indices()
        return SparseCode(total.data, total.indices, total.indptr, f.shape)
    return dense(f) + dense(other)


def l0(f: Code) -> Array:
    """Return the mean number of active latents a row ``()``."""
    counts = row_norms0(f)  # (n,)
    return namespace(counts).mean(counts, axis=-1)
