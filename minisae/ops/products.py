"""The matrix products of a sparse autoencoder, forward and backward, on dense or sparse codes.

    affine        pre = (x - b_dec) W_enc + b_enc
    decode        x_hat = f W_dec                                  (the caller adds b_dec)
    code_slope    d_pre = (d_x_hat W_decᵀ + d_f) where f is not 0, else 0
    weight_slope  d_W = fᵀ d                                       (d_W_dec from d_x_hat; d_W_encᵀ from d_pre and x)

Both weight matrices lie feature-major, so every product runs on views.
"""

import numpy as np
from scipy.sparse._sparsetools import csr_matvecs  # the public product allocates its result and runs on one thread

from minisae.backend import Array
from minisae.ops.blocks import BLOCK_BYTES, each, row_blocks
from minisae.ops.code import Code, SparseCode, dense
from minisae.ops.dispatch import twin

SUM_BYTES = BLOCK_BYTES // 2
"""Block of a sparse product's result: small, because latents differ much in how often they fire."""


def rows_to_columns(a: Array) -> Array:
    """Swap the last two axes, as a view."""
    return a.swapaxes(-1, -2)


def _affine_cpu(x: Array, W_enc: Array, b_enc: Array) -> Array:
    pre = x @ W_enc  # (n, d_sae)

    def work(block: slice) -> None:
        pre[block] += b_enc

    each(work, row_blocks(len(pre), pre.strides[0]))
    return pre


@twin(cpu=_affine_cpu)
def affine(x: Array, W_enc: Array, b_enc: Array) -> Array:
    """Return ``x W_enc + b_enc``: ``(n, d_in), (d_in, d_sae), (d_sae,) -> (n, d_sae)``."""
    pre = x @ W_enc  # (n, d_sae)
    pre += b_enc[..., None, :]
    return pre


def _sparse_product(f: SparseCode, X: Array, into: Array | None = None) -> Array:
    """Return ``f X``, added to ``into`` in place where it is given: ``(n, m), (m, d) -> (n, d)``."""
    dtype = np.result_type(f.values, X)
    index = np.result_type(f.columns, f.indptr)
    flat = np.ascontiguousarray(X, dtype).reshape(-1)  # (m*d,)
    values, columns = f.values.astype(dtype, copy=False), f.columns.astype(index, copy=False)
    indptr = f.indptr.astype(index, copy=False)  # (n+1,)
    total = np.empty((f.shape[0], X.shape[1]), dtype) if into is None else into  # (n, d)

    def work(block: slice) -> None:
        part = total[block]  # (rows, d)
        if into is None:
            part.fill(0)
        starts = indptr[block.start : block.stop + 1]  # (rows+1,)
        csr_matvecs(len(part), f.shape[1], X.shape[1], starts, columns, values, flat, part.reshape(-1))

    each(work, row_blocks(len(total), total.strides[0], SUM_BYTES))
    return total


def _decode_cpu(f: Code, W_dec: Array) -> Array:
    if not isinstance(f, SparseCode):
        return f @ W_dec
    if not len(f.values):
        return np.zeros((f.shape[0], W_dec.shape[1]), W_dec.dtype)
    return _sparse_product(f, W_dec)


@twin(cpu=_decode_cpu)
def decode(f: Code, W_dec: Array) -> Array:
    """Return ``f W_dec``: ``(n, d_sae), (d_sae, d_in) -> (n, d_in)``."""
    return dense(f) @ W_dec


def _code_slope_cpu(f: Code, d_x_hat: Array, W_dec: Array, d_f: Array | None = None) -> Code:
    if isinstance(f, SparseCode):
        return _code_slope_sparse(f, d_x_hat, W_dec, d_f) if len(f.values) else f
    d_pre = d_x_hat @ W_dec.T  # (n, d_sae)
    wide = None if d_f is None else np.broadcast_to(np.asarray(d_f, d_pre.dtype), d_pre.shape)  # (n, d_sae)

    def work(block: slice) -> None:
        part = d_pre[block]  # (rows, d_sae)
        if wide is not None:
            part += wide[block]
        part *= f[block] != 0

    each(work, row_blocks(len(d_pre), d_pre.strides[0]))
    return d_pre


def _code_slope_sparse(f: SparseCode, d_x_hat: Array, W_dec: Array, d_f: Array | None) -> SparseCode:
    """Gather the decoder rows of a few rows' latents at a time; rows of like counts together, to pad little."""
    counts = np.diff(f.indptr)  # (n,)
    order = np.argsort(-counts, kind="stable")  # (n,)
    slope = np.empty_like(f.values)  # (nnz,)

    def work(block: slice) -> None:
        rows = order[block]  # (rows,)
        width = np.arange(counts[rows[0]])  # (width,)
        place = f.indptr[rows][:, None] + width  # (rows, width)
        real = width < counts[rows][:, None]  # (rows, width)
        gathered = W_dec.take(f.columns.take(place, mode="clip"), axis=0)  # (rows, width, d_in)
        slope[place[real]] = np.vecdot(gathered, d_x_hat[rows][:, None])[real]

    each(work, _like_counts(counts[order], BLOCK_BYTES // W_dec.strides[0]))
    if d_f is not None:
        d_f = np.asarray(d_f, slope.dtype)  # an array of any shape that broadcasts
        slope += d_f if d_f.ndim == 0 else np.broadcast_to(d_f, f.shape)[f.rows(), f.columns]
    slope *= f.values != 0
    return f._replace(values=slope)


def _like_counts(falling: Array, budget: int) -> list[slice]:
    """Cut rows whose counts ``(n,)`` fall into slices of at most ``budget`` padded entries; no empty rows."""
    blocks, start, active = [], 0, int(np.count_nonzero(falling))
    while start < active:
        stop = min(start + max(1, budget // int(falling[start])), active)
        blocks.append(slice(start, stop))
        start = stop
    return blocks


@twin(cpu=_code_slope_cpu)
def code_slope(f: Code, d_x_hat: Array, W_dec: Array, d_f: Array | None = None) -> Code:
    """Return the slope at the pre-activations ``(n, d_sae)`` of a code ``f`` that was selected from them.

    Parameters
    ----------
    f : code ``(n, d_sae)``
    d_x_hat : slope ``(n, d_in)`` at ``decode(f, W_dec)``
    W_dec : ``(d_sae, d_in)``
    d_f : further slope at the code, anything that broadcasts to ``(n, d_sae)``
    """
    f = dense(f)  # (n, d_sae)
    d_pre = d_x_hat @ rows_to_columns(W_dec)  # (n, d_sae)
    if d_f is not None:
        d_pre = d_pre + d_f  # (n, d_sae)
    return d_pre * (f != 0)


def _weight_slope_cpu(f: Code, d: Array, into: Array | None = None) -> Array:
    if not isinstance(f, SparseCode):
        d_W = f.T @ d  # (d_sae, d_in)
    elif into is None:
        return _sparse_product(f.by_latent(), d)
    elif not len(f.values):
        return into
    elif into.flags.c_contiguous and into.dtype == np.result_type(f.values, d):
        return _sparse_product(f.by_latent(), d, into)
    else:
        d_W = _sparse_product(f.by_latent(), d)  # (d_sae, d_in)
    if into is None:
        return d_W
    into += d_W
    return into


@twin(cpu=_weight_slope_cpu)
def weight_slope(f: Code, d: Array, into: Array | None = None) -> Array:
    """Return ``fᵀ d``, added to ``into`` in place where it is given: ``(n, d_sae), (n, d_in) -> (d_sae, d_in)``."""
    d_W = rows_to_columns(dense(f)) @ d  # (d_sae, d_in)
    if into is None:
        return d_W
    into += d_W
    return into
