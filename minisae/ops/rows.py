"""Operations on the rows of a dictionary, and the geometric median of a sample."""

import numpy as np

from minisae.backend import Array, namespace
from minisae.ops.blocks import each, row_blocks
from minisae.ops.dispatch import twin


def row_norms(W: Array) -> Array:
    """Return the Euclidean norm of each row: ``(d_sae, d_in) -> (d_sae,)``."""
    xp = namespace(W)
    return xp.sqrt(xp.square(W).sum(axis=-1))


def _normalise_rows_cpu(W: Array, *, eps: float = 0.0) -> None:
    each(lambda block: _normalise_block(W[block], eps), row_blocks(len(W), W.strides[0]))


def _normalise_block(W: Array, eps: float) -> None:
    norms = np.sqrt(np.einsum("ij,ij->i", W, W)) + W.dtype.type(eps)  # (rows,)
    W /= np.where(norms > 0, norms, 1)[:, None]


@twin(cpu=_normalise_rows_cpu)
def normalise_rows(W: Array, *, eps: float = 0.0) -> None:
    """Divide every row of ``W (d_sae, d_in)`` by its norm + ``eps``, in place; a zero row stays zero."""
    norms = row_norms(W)[..., None] + W.dtype.type(eps)  # (d_sae, 1)
    W /= namespace(W).where(norms > 0, norms, 1)


def _project_rows_cpu(d_W: Array, W: Array, *, eps: float = 0.0, assume_unit: bool = False) -> None:
    each(lambda block: _project_block(d_W[block], W[block], eps, assume_unit), row_blocks(len(W), W.strides[0]))


def _project_block(d_W: Array, W: Array, eps: float, assume_unit: bool) -> None:
    along = np.einsum("ij,ij->i", d_W, W)  # (rows,)
    if not assume_unit:
        square = np.einsum("ij,ij->i", W, W)  # (rows,)
        square = np.square(np.sqrt(square) + W.dtype.type(eps)) if eps else square  # (rows,)
        along /= np.where(square > 0, square, 1)
    d_W -= along[:, None] * W


@twin(cpu=_project_rows_cpu)
def project_rows(d_W: Array, W: Array, *, eps: float = 0.0, assume_unit: bool = False) -> None:
    """Remove from each row of the slope ``d_W (d_sae, d_in)`` its part parallel to the row of ``W``, in place.

    A step along that part would only change the norm, which the renormalisation undoes (Bricken et al. 2023,
    appendix "Advice for training").

    Parameters
    ----------
    d_W, W : slope and dictionary ``(d_sae, d_in)``
    eps : added to the norms of the rows (dictionary_learning: 1e-6), so that a little of the part stays
    assume_unit : take the rows to be of norm 1 (OpenAI, sparsify): exact only where they are
    """
    xp = namespace(W)
    along = (d_W * W).sum(axis=-1, keepdims=True)  # (d_sae, 1)
    if not assume_unit:
        square = (W * W).sum(axis=-1, keepdims=True)  # (d_sae, 1)
        square = xp.square(xp.sqrt(square) + W.dtype.type(eps)) if eps else square  # (d_sae, 1)
        along = along / xp.where(square > 0, square, 1)  # (d_sae, 1)
    d_W -= along * W


def geometric_median(x: Array, *, iterations: int = 100, tolerance: float = 1e-6) -> Array:
    """Return the point ``(d_in,)`` of least summed distance to the rows of ``x (n, d_in)``: Weiszfeld's iteration.

    Starts at the mean. A row nearer than ``1e-12`` times the mean distance counts with that distance, so a row that
    equals the iterate does no harm. Stops when the move is below ``tolerance`` times the mean distance. Runs on the
    host: it is part of initialisation.
    """
    rows = x.astype(np.float64)  # (n, d_in)
    point = rows.mean(axis=0)  # (d_in,)
    for _ in range(iterations):
        distance = np.sqrt(np.square(rows - point).sum(axis=1))  # (n,)
        scale = distance.mean()  # ()
        if scale == 0:
            break
        weight = 1 / np.maximum(distance, 1e-12 * scale)  # (n,)
        moved = weight @ rows / weight.sum()  # (d_in,)
        step = np.sqrt(np.square(moved - point).sum())  # ()
        point = moved  # (d_in,)
        if step < tolerance * scale:
            break
    return point.astype(x.dtype)
