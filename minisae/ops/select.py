"""Non-linearities that choose which latents are active. Ties go to the lowest index, on every backend.

    relu           f = max(pre, 0)
    top_k          f = max(pre, 0) on the k largest of each row, 0 elsewhere      (Gao et al. 2024, Eq. 2)
    top_k_among    the same among allowed latents only, for AuxK                   (Gao et al. 2024, appendix A.2)
    batch_top_k    f = max(pre, 0) on the K largest of the whole batch, 0 elsewhere        (Bussmann et al. 2024)
    above          f = pre where it is positive and above the threshold of its latent, 0 elsewhere
    group_max      f = max(pre, 0) on the largest of each of k blocks of latents, 0 elsewhere    (sparsify: groupmax)

Backward of all: the slope passes where f is not 0, see :func:`minisae.ops.products.code_slope`.
"""

from collections.abc import Callable

import numpy as np

from minisae.backend import Array, namespace
from minisae.ops.blocks import BLOCK_BYTES, each, row_blocks
from minisae.ops.code import Code, SparseCode, compress, dense, empty_code, stack
from minisae.ops.dispatch import twin

SPARSE_BELOW = 0.07
"""Density under which sparse sums beat dense products on a CPU. Measured over d_in 64 to 512, d_sae 128 to 4096: they
break even at 6 to 10 %, below ``SMALL`` at about 3 %, for a sparse operation costs more calls than a dense one."""
SMALL = 1 << 19
"""Entries ``n · d_sae`` under which ``SPARSE_BELOW_SMALL`` holds."""
SPARSE_BELOW_SMALL = 0.03


def top_k_mask(pre: Array, k: int) -> Array:
    """Mark the ``k`` largest entries of each row, ties to the lowest index: bool ``(n, d_sae)``."""
    xp = namespace(pre)
    d_sae = pre.shape[-1]
    kth = xp.partition(pre, d_sae - k, axis=-1)[..., d_sae - k, None]  # (n, 1)
    above = pre > kth  # (n, d_sae)
    tied = pre == kth  # (n, d_sae)
    room = k - above.sum(axis=-1, keepdims=True)  # (n, 1)
    return above | (tied & (xp.cumsum(tied, axis=-1) <= room))


def sparse_pays(share: float, pre: Array) -> bool:
    """Return whether a code of which this share is active, selected from ``pre (n, d_sae)``, is better kept sparse."""
    return share < (SPARSE_BELOW if pre.size >= SMALL else SPARSE_BELOW_SMALL)


def _by_blocks(select: Callable[[Array], SparseCode], pre: Array) -> SparseCode:
    """Apply a selection that looks at one row at a time to blocks of rows."""
    blocks = row_blocks(len(pre), pre.shape[1] * pre.itemsize, 2 * BLOCK_BYTES)
    parts = [empty_code((0, 0), pre.dtype)] * len(blocks)

    def work(i: int) -> None:
        parts[i] = select(pre[blocks[i]])

    each(work, range(len(blocks)))
    return stack(parts, pre.shape) if parts else empty_code(pre.shape, pre.dtype)


def _relu_cpu(pre: Array) -> Code:
    sample = pre[:: max(1, len(pre) // 128)]  # (rows, d_sae)
    if sparse_pays(np.count_nonzero(sample > 0) / max(1, sample.size), pre):
        # Not "pre > 0": a NaN is kept, as max(NaN, 0) keeps it.
        return _by_blocks(lambda part: compress(~(part <= 0), part), pre)
    f = np.empty_like(pre)  # (n, d_sae)
    each(lambda rows: np.maximum(pre[rows], 0, out=f[rows]), row_blocks(len(pre), pre.strides[0]))
    return f


@twin(cpu=_relu_cpu)
def relu(pre: Array) -> Code:
    """Return ``max(pre, 0)``, ``(n, d_sae)``."""
    return namespace(pre).maximum(pre, 0)


def _top_k_cpu(pre: Array, k: int, *, rectify: bool = True) -> Code:
    if 4 * k > pre.shape[1]:
        return np.where(_chosen(pre, k, rectify), pre, 0)
    code = _by_blocks(lambda part: _top_k_block(part, k, rectify), pre)
    return code if sparse_pays(k / pre.shape[1], pre) else code.dense()


def _top_k_block(pre: Array, k: int, rectify: bool) -> SparseCode:
    """Find the few candidates first: the k-th largest of group maxima bounds the k-th largest entry from below."""
    maxima = _group_maxima(pre, 4 * k)  # (n, groups)
    maxima.sort(axis=1)
    bound = maxima[:, maxima.shape[1] - k, None]  # (n, 1)
    if rectify:
        bound = np.maximum(bound, np.nextafter(pre.dtype.type(0), pre.dtype.type(1)))  # (n, 1)
    if np.isnan(maxima[:, -1]).any() or not np.isfinite(bound).all():
        return compress(_chosen(pre, k, rectify), pre)
    near = compress(pre >= bound, pre)
    counts = np.diff(near.indptr)  # (n,)
    widest = int(counts.max(initial=0))
    if widest <= k:
        return near
    if widest > 8 * k + 64:
        return compress(_chosen(pre, k, rectify), pre)
    return _trim(near, k, counts, widest)


def _group_maxima(pre: Array, least: int) -> Array:
    """Fold columns onto each other while at least ``least`` groups remain: the largest of each group, a copy."""
    folded = pre.copy() if pre.shape[1] < 2 * least else pre  # (n, d_sae)
    while folded.shape[1] >= 2 * least:
        half = folded.shape[1] // 2
        odd = folded[:, 2 * half :]  # (n, left_over)
        folded = np.maximum(folded[:, :half], folded[:, half : 2 * half])  # (n, half)
        np.maximum(folded[:, : odd.shape[1]], odd, out=folded[:, : odd.shape[1]])
    return folded


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
    keep = near.values >= kth[rows]  # (nnz,)
    kept = np.minimum(counts, k)  # (n,)
    if np.count_nonzero(keep) > kept.sum():
        above = near.values > kth[rows]  # (nnz,)
        tied = keep & ~above  # (nnz,)
        room = k - np.bincount(rows[above], minlength=n)  # (n,)
        rank = np.cumsum(tied)  # (nnz,), counted from the first row on
        before = np.concatenate(([0], rank))[near.indptr[:-1]]  # (n,)
        keep = above | (tied & (rank - before[rows] <= room[rows]))  # (nnz,)
    indptr = np.concatenate(([0], np.cumsum(kept))).astype(np.int32)  # (n+1,)
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
    if allowed.ndim == 2:
        return np.where(_chosen(np.where(allowed, pre, -np.inf), k, rectify) & allowed, pre, 0)
    columns = np.flatnonzero(allowed).astype(np.int32)  # (n_allowed,)
    if not len(columns):
        return empty_code(pre.shape, pre.dtype)
    few = min(k, len(columns))
    part = _by_blocks(lambda part: _top_k_block(part, few, rectify), pre[:, columns])  # (n, n_allowed)
    code = part._replace(columns=columns[part.columns], shape=pre.shape)
    return code if sparse_pays(few / pre.shape[1], pre) else code.dense()


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


def _batch_top_k_cpu(pre: Array, k_total: int) -> Code:
    if not pre.size:
        return empty_code(pre.shape, pre.dtype)
    bound = _batch_bound(pre, k_total) if 4 * k_total <= pre.size else np.inf
    if not np.isfinite(bound):
        return np.where(_chosen(pre.reshape(1, -1), k_total, True), pre.reshape(1, -1), 0).reshape(pre.shape)
    code = _by_blocks(lambda part: compress(part >= bound, part), pre)
    if len(code.values) > k_total:
        code = _trim_batch(code, k_total)
    return code if sparse_pays(k_total / pre.size, pre) else code.dense()


def _batch_bound(pre: Array, k_total: int) -> float:
    """Return a positive number that at least ``k_total`` entries reach, or all positive ones; NaN if there is a NaN.

    It is the ``k_total``-th largest of the maxima of small groups, so not many more entries reach it.
    """
    blocks = row_blocks(len(pre), pre.strides[0])
    parts = [pre[:0, 0]] * len(blocks)

    def work(i: int) -> None:
        parts[i] = _group_maxima(pre[blocks[i]], -(-4 * k_total // len(pre))).reshape(-1)

    each(work, range(len(blocks)))
    maxima = np.concatenate(parts)  # (n_groups,)
    if np.isnan(maxima.max()):
        return np.nan
    bound = np.partition(maxima, len(maxima) - k_total)[len(maxima) - k_total]
    return float(max(bound, np.nextafter(pre.dtype.type(0), pre.dtype.type(1))))


def _trim_batch(near: SparseCode, k_total: int) -> SparseCode:
    """Keep the ``k_total`` largest entries, ties to the lowest row and then to the lowest latent."""
    size = len(near.values)
    kth = np.partition(near.values, size - k_total)[size - k_total]
    keep = near.values > kth  # (nnz,)
    tied = np.flatnonzero(near.values == kth)  # (n_tied,), in the order of the flattened batch
    keep[tied[: k_total - np.count_nonzero(keep)]] = True
    indptr = np.concatenate(([0], np.cumsum(keep)))[near.indptr].astype(np.int32)  # (n+1,)
    return SparseCode(near.values[keep], near.columns[keep], indptr, near.shape)


@twin(cpu=_batch_top_k_cpu)
def batch_top_k(pre: Array, k_total: int) -> Code:
    """Keep the ``k_total`` largest entries of the whole batch and, of those, only the positive ones.

    Ties go to the lowest index of the flattened batch. ``pre`` and the result are ``(n, d_sae)``;
    ``1 <= k_total <= n · d_sae``. With a leading instance axis each instance is a batch.
    """
    xp = namespace(pre)
    n, d_sae = pre.shape[-2:]
    flat = pre.reshape(*pre.shape[:-2], 1, n * d_sae)  # (1, n*d_sae)
    kept = xp.where(top_k_mask(flat, k_total), flat, 0)  # (1, n*d_sae)
    return xp.maximum(kept, 0).reshape(pre.shape)


def _above_cpu(pre: Array, threshold: Array, *, reached: bool = False) -> Code:
    bound = np.maximum(threshold, 0)  # (d_sae,)
    if reached:  # at or above a number is above the one before it; 0 itself never counts
        bound = np.where(bound > 0, np.nextafter(bound, -1), 0)  # (d_sae,)
    sample = pre[:: max(1, len(pre) // 128)]  # (rows, d_sae)
    if sparse_pays(np.count_nonzero(sample > bound) / max(1, sample.size), pre):
        return _by_blocks(lambda part: compress(~(part <= bound), part), pre)
    return np.where(pre <= bound, 0, pre)


@twin(cpu=_above_cpu)
def above(pre: Array, threshold: Array, *, reached: bool = False) -> Code:
    """Keep the entries of ``pre (n, d_sae)`` that are positive and above their latent's ``threshold (d_sae,)``.

    A negative threshold is no threshold: what is left is ReLU. A NaN is kept, as ReLU keeps it. With ``reached`` an
    entry equal to a positive threshold is kept too.
    """
    xp = namespace(pre)
    bound = threshold[..., None, :]  # (1, d_sae)
    out = (pre < bound) | (pre <= 0) if reached else pre <= xp.maximum(bound, 0)  # (n, d_sae)
    return xp.where(out, 0, pre)


def group_winners(pre: Array, k: int) -> Array:
    """Mark the largest entry of each of ``k`` blocks of neighbouring latents, ties to the lowest: bool ``(n, d_sae)``.

    Where ``k`` does not divide ``d_sae``, the first blocks are one latent wider.
    """
    xp = namespace(pre)
    wide, width = pre.shape[-1] % k, pre.shape[-1] // k
    masks = []
    for part, n_blocks, size in (
        (pre[..., : wide * (width + 1)], wide, width + 1),
        (pre[..., wide * (width + 1) :], k - wide, width),
    ):
        if n_blocks:
            blocks = part.reshape(*part.shape[:-1], n_blocks, size)  # (n, n_blocks, size)
            won = xp.arange(size) == blocks.argmax(axis=-1)[..., None]  # (n, n_blocks, size)
            masks.append(won.reshape(part.shape))
    return xp.concatenate(masks, axis=-1)


def _group_max_cpu(pre: Array, k: int) -> Code:
    won = group_winners(pre, k) & ~(pre <= 0)  # (n, d_sae), a NaN is kept
    return compress(won, pre) if sparse_pays(k / pre.shape[1], pre) else np.where(won, pre, 0)


@twin(cpu=_group_max_cpu)
def group_max(pre: Array, k: int) -> Code:
    """Keep the largest entry of each of ``k`` blocks of neighbouring latents (see :func:`group_winners`), if positive.

    ``pre`` and the result are ``(n, d_sae)``; ``1 <= k <= d_sae``.
    """
    xp = namespace(pre)
    return xp.maximum(xp.where(group_winners(pre, k), pre, 0), 0)


def _least_positive_cpu(f: Code) -> Array:
    if isinstance(f, SparseCode):
        return f.values.min(initial=np.inf, where=f.values > 0)
    return f.min(initial=np.inf, where=f > 0)


@twin(cpu=_least_positive_cpu)
def least_positive(f: Code) -> Array:
    """Return the smallest positive entry of a code ``(n, d_sae)``, infinity if there is none: ``()``."""
    f = dense(f)  # (n, d_sae)
    xp = namespace(f)
    return xp.where(f > 0, f, xp.inf).min(axis=(-2, -1))
