"""A code's columns: some neighbouring latents of it alone, and back to its full width."""

import numpy as np

from minisae.backend import namespace
from minisae.ops.code import Code, SparseCode


def columns(f: Code, start: int, stop: int) -> Code:
    """Return the latents from ``start`` on and before ``stop`` of a code: ``(n, d_sae) -> (n, stop − start)``."""
    if not isinstance(f, SparseCode):
        return f[..., start:stop]
    keep = (f.columns >= start) & (f.columns < stop)  # (nnz,)
    indptr = np.concatenate(([0], np.cumsum(keep)))[f.indptr].astype(np.int32)  # (n+1,)
    return SparseCode(f.values[keep], f.columns[keep] - np.int32(start), indptr, (f.shape[0], stop - start))


def widen(f: Code, d_sae: int) -> Code:
    """Return a code of the first latents as one of all: ``(n, width) -> (n, d_sae)``, the others 0."""
    if isinstance(f, SparseCode):
        return f._replace(shape=(f.shape[0], d_sae))
    if f.shape[-1] == d_sae:
        return f
    xp = namespace(f)
    rest = xp.zeros((*f.shape[:-1], d_sae - f.shape[-1]), dtype=f.dtype)  # (n, left_over)
    return xp.concatenate((f, rest), axis=-1)
