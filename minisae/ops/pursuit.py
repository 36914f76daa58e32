"""What a matching pursuit needs: the best match of each row, the dictionary rows it names, and a code out of matches.

best_match   argmax_j ⟨r, W_j⟩        ties to the lowest latent        (Mallat and Zhang 1993, without the modulus)
rows_at      W[where]
scatter      f[i, where[i, t]] += values[i, t]
"""

import numpy as np
import scipy.sparse

from minisae.backend import Array, namespace
from minisae.ops.blocks import BLOCK_BYTES, each, row_blocks
from minisae.ops.code import Code, SparseCode
from minisae.ops.dispatch import twin


def _best_match_cpu(r: Array, W: Array) -> Array:
    best = np.empty(len(r), np.int64)  # (n,)

    def work(block: slice) -> None:
        (r[block] @ W.T).argmax(axis=1, out=best[block])

    each(work, row_blocks(len(r), len(W) * W.itemsize, 4 * BLOCK_BYTES))
    return best


@twin(cpu=_best_match_cpu)
def best_match(r: Array, W: Array) -> Array:
    """Return the latent whose row of ``W (d_sae, d_in)`` has the largest product with each row ``r (n, d_in)``."""
    return (r @ W.swapaxes(-1, -2)).argmax(axis=-1)


def rows_at(W: Array, where: Array) -> Array:
    """Return the rows of ``W (d_sae, d_in)`` numbered ``where (n,)``: ``(n, d_in)``."""
    return W[where] if W.ndim == 2 else namespace(W).take_along_axis(W, where[..., None], axis=-2)


def _scatter_cpu(values: Array, where: Array, d_sae: int) -> Code:
    n, m = values.shape
    indptr = np.arange(0, n * m + 1, m, dtype=np.int32)  # (n+1,)
    shape = (n, d_sae)
    f = scipy.sparse.csr_array((values.flatten(), where.reshape(-1).astype(np.int32), indptr), shape=shape)
    f.sum_duplicates()
    f.eliminate_zeros()
    return SparseCode(f.data, f.indices, f.indptr, shape)


@twin(cpu=_scatter_cpu)
def scatter(values: Array, where: Array, d_sae: int) -> Code:
    """Return the code ``(n, d_sae)`` with ``values (n, m)`` at the latents ``where (n, m)``; the same one adds up."""
    xp = namespace(values)
    latents = xp.arange(d_sae)  # (d_sae,)
    f = xp.zeros((*values.shape[:-1], d_sae), dtype=values.dtype)  # (n, d_sae)
    for t in range(values.shape[-1]):
        f = f + xp.where(where[..., t, None] == latents, values[..., t, None], 0)  # (n, d_sae)
    return f
