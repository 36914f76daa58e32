"""Non-linearities that choose which latents are active. Ties go to the lowest index, on every backend.

    relu           f = max(pre, 0)
    top_k          f = max(pre, 0) on the k largest of each row, 0 elsewhere      (Gao et al. 2024, Eq. 2)
    top_k_among    the same among allowed latents only, for AuxK                   (Gao et al. 2024, appendix A.2)

Backward of all three: the slope passes where f is not 0, see :func:`minisae.ops.products.code_slope`.
"""

import numpy as np

from minisae.backend import Array, namespace
from minisae.ops.code import Code, SparseCode, compress
from minisae.ops.dispatch import twin

SPARSE_BELOW = 0.05
"""Density under which sparse sums beat dense products on a CPU (measured: ``minisae bench``)."""


def top_k_mask(pre: Array, k: int) -> Array:
    """Mark the ``k`` largest entries of each row, ties to the lowest index: bool ``(n, d_sae)``."""
    xp = namespace(pre)
    d_sae = pre.shape[-1]
    kth = xp.partition(pre, d_sae - k, axis=-1)[..., d_sae - k, None]  # (n, 1)
    above = pre > kth  # (n, d_sae)
    tied = pre == kth  # (n, d_sae)
    room = k - above.sum(axis=-1, keepdims=True)  # (n, 1)
    return above | (tied & (xp.cumsum(tied, axis=-1) <= room))


def _relu_cpu(pre: Array) -> Code:
    mask = pre > 0  # (n, d_sae)
    if np.count_nonzero(mask) > SPARSE_BELOW * pre.size:
        return np.maximum(pre, 0)
    return compress(mask, pre)


@twin(cpu=_relu_cpu)
def relu(pre: Array) -> Code:
    """Return ``max(pre, 0)``, ``(n, d_sae)``."""
    return namespace(pre).maximum(pre, 0)


def _top_k_cpu(pre: Array, k: int, *, rectify: bool = True) -> Code:
    """Find the few candidates first: the k-th largest of group maxima bounds the k-th largest entry from below."""
    n, d_sae = pre.shape
    size = d_sae // (4 * k)
    if size < 2:
        return compress(_chosen(pre, k, rectify), pre)
    groups = d_sae // size
    maxima = pre[:, : groups * size].reshape(n, size, groups).max(axis=1)  # (n, groups)
    maxima.sort(axis=1)
    bound = maxima[:, groups - k, None]  # (n, 1)
    if rectify:
        bound = np.maximum(bound, np.finfo(pre.dtype).smallest_subnormal)  # (n, 1)
    near = compress(pre >= bound, pre)
    counts = np.diff(near.indptr)  # (n,)
    widest = int(counts.max(initial=0))
    if widest <= k:
        return near
    if widest > 8 * k + 64 or not np.isfinite(bound).all():
        return compress(_chosen(pre, k, rectify), pre)
    return _trim(near, k, counts, widest)


def _chosen(pre: Array, k: int, rectify: bool) -> Array:
    mask = top_k_mask(pre, k)  # (n, d_sae)
    return mask & (pre > 0) if rectify else mask


def _trim(near: SparseCode, k: int, counts: Array, widest: int) -> SparseCode:
    """Keep the ``k`` largest of each row's candidates, by the same rule as :func:`top_k_mask`."""
    n = near.shape[0]
    rows = near.rows()  # (nnz,)
    place = np.arange(len(rows)) - near.indptr[rows]  # (nnz,)
    padded = np.full((n, widest), -np.inf, near.values.dtype)  # (n, widest)
    padded[rows, place] = near.values
    padded.sort(axis=1)
    kth = padded[:, widest - k]  # (n,)
    above = near.values > kth[rows]  # (nnz,)
    tied = near.values == kth[rows]  # (nnz,)
    room = k - np.bincount(rows[above], minlength=n)  # (n,)
    rank = np.cumsum(tied)  # (nnz,), counted from the first row on
    before = np.concatenate(([0], rank))[near.indptr[:-1]]  # (n,)
    keep = above | (tied & (rank - before[rows] <= room[rows]))  # (nnz,)
    indptr = np.concatenate(([0], np.cumsum(np.minimum(counts, k)))).astype(np.int32)  # (n+1,)
    return SparseCode(near.values[keep], near.columns[keep], indptr, near.shape)


@twin(cpu=_top_k_cpu)
def top_k(pre: Array, k: int, *, rectify: bool = True) -> Code:
    """Keep the ``k`` largest entries of each row and, if ``rectify``, of those only the positive ones.

    ``pre`` and the result are ``(n, d_sae)``; ``1 <= k <= d_sae``.
    """
    xp = namespace(pre)
    kept = xp.where(top_k_mask(pre, k), pre, 0)  # (n, d_sae)
    return xp.maximum(kept, 0) if rectify else kept


def _top_k_among_cpu(pre: Array, k: int, allowed: Array, *, rectify: bool = True) -> Code:
    columns = np.flatnonzero(allowed).astype(np.int32)  # (n_allowed,)
    if not len(columns):
        empty = np.zeros(0, pre.dtype)  # (0,)
        return SparseCode(empty, columns, np.zeros(len(pre) + 1, np.int32), pre.shape)
    part = _top_k_cpu(pre[:, columns], min(k, len(columns)), rectify=rectify)
    return part._replace(columns=columns[part.columns], shape=pre.shape)


@twin(cpu=_top_k_among_cpu)
def top_k_among(pre: Array, k: int, allowed: Array, *, rectify: bool = True) -> Code:
    """Keep the ``k`` largest entries of each row among the ``allowed`` latents, bool ``(d_sae,)`` or ``(n, d_sae)``.

    Fewer are kept where fewer are allowed. ``pre`` and the result are ``(n, d_sae)``.
    """
    xp = namespace(pre)
    if allowed.ndim == pre.ndim - 1:
        allowed = allowed[..., None, :]  # (1, d_sae)
    barred = xp.where(allowed, pre, -xp.inf)  # (n, d_sae)
    kept = xp.where(top_k_mask(barred, k) & allowed, pre, 0)  # (n, d_sae)
    return xp.maximum(kept, 0) if rectify else kept
