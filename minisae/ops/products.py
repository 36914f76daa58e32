"""The matrix products of a sparse autoencoder, forward and backward, on dense or sparse codes.

    affine        pre = (x - b_dec) W_enc + b_enc
    decode        x_hat = f W_dec                                  (the caller adds b_dec)
    code_slope    d_pre = (d_x_hat W_decᵀ + d_f) where f is not 0, else 0
    weight_slope  d_W = fᵀ d                                       (d_W_dec from d_x_hat; d_W_encᵀ from d_pre and x)

Both weight matrices lie feature-major, so every product runs on views.
"""

import numpy as np

from minisae.backend import Array, namespace
from minisae.ops.code import Code, SparseCode, dense
from minisae.ops.dispatch import twin

GATHER_BYTES = 1 << 20
"""Size of the decoder rows gathered at a time in :func:`code_slope`: they should stay in the second-level cache."""


def rows_to_columns(a: Array) -> Array:
    """Swap the last two axes, as a view."""
    return a.swapaxes(-1, -2)


def affine(x: Array, W_enc: Array, b_enc: Array) -> Array:
    """Return ``x W_enc + b_enc``: ``(n, d_in), (d_in, d_sae), (d_sae,) -> (n, d_sae)``."""
    pre = x @ W_enc  # (n, d_sae)
    pre += b_enc[..., None, :]
    return pre


def _decode_cpu(f: Code, W_dec: Array) -> Array:
    return f.csr() @ W_dec if isinstance(f, SparseCode) else f @ W_dec


@twin(cpu=_decode_cpu)
def decode(f: Code, W_dec: Array) -> Array:
    """Return ``f W_dec``: ``(n, d_sae), (d_sae, d_in) -> (n, d_in)``."""
    return dense(f) @ W_dec


def _code_slope_cpu(f: Code, d_x_hat: Array, W_dec: Array, d_f: Array | None = None) -> Code:
    if isinstance(f, SparseCode):
        return _code_slope_sparse(f, d_x_hat, W_dec, d_f)
    d_pre = d_x_hat @ W_dec.T  # (n, d_sae)
    if d_f is not None:
        d_pre += d_f
    d_pre *= f != 0
    return d_pre


def _code_slope_sparse(f: SparseCode, d_x_hat: Array, W_dec: Array, d_f: Array | None) -> SparseCode:
    rows = f.rows()  # (nnz,)
    slope = np.empty_like(f.values)  # (nnz,)
    step = max(1, GATHER_BYTES // (W_dec.shape[1] * W_dec.itemsize))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        np.einsum("ij,ij->i", d_x_hat[rows[part]], W_dec[f.columns[part]], out=slope[part])
    if d_f is not None:
        wide = np.broadcast_to(d_f, f.shape)  # (n, d_sae)
        slope += wide[rows, f.columns]
    slope *= f.values != 0
    return f._replace(values=slope)


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
    if isinstance(f, SparseCode):
        if into is not None and not len(f.values):
            return into
        by_latent = f.csr().T.tocsr()
        d_W = by_latent @ d  # (d_sae, d_in)
    else:
        d_W = f.T @ d  # (d_sae, d_in)
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
