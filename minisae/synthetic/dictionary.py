"""Dictionaries of unit rows, optionally pushed towards orthogonality."""

import numpy as np

from minisae.backend import Array
from minisae.optim import adam_init, adam_step


def random_dictionary(n_feat: int, d_in: int, rng: np.random.Generator) -> Array:
    """Draw ``n_feat`` unit vectors uniformly from the sphere: float32 ``(n_feat, d_in)``."""
    W = rng.standard_normal((n_feat, d_in))  # (n_feat, d_in)
    return _unit_rows(W)


def overlap_loss(W: Array, *, chunk: int = 1024) -> tuple[float, Array]:
    """Return how far the rows of ``W`` are from orthonormal, and the gradient.

        L = Σ_{i≠j} (w_i·w_j)² + n Σ_i (‖w_i‖² − 1)²        both sums over all n rows, ordered pairs
        dL/dw_i = 4 Σ_{j≠i} (w_i·w_j) w_j + 4 n (‖w_i‖² − 1) w_i

    Parameters
    ----------
    W : ``(n_feat, d_in)``
    chunk : rows taken at a time; ``(chunk, n_feat)`` products are held at once

    Returns
    -------
    loss, and its gradient ``(n_feat, d_in)``. The loss is that of ``sae_lens.synthetic``.
    """
    n_feat = len(W)
    excess = (W * W).sum(axis=1) - 1  # (n_feat,)
    d_W = (4 * n_feat * excess)[:, None] * W  # (n_feat, d_in)
    loss = n_feat * float((excess * excess).sum())
    for start in range(0, n_feat, chunk):
        loss += _overlap_of_rows(W, d_W[start : start + chunk], start)
    return loss, d_W


def _overlap_of_rows(W: Array, d_rows: Array, start: int) -> float:
    """Return the share in the loss of the rows from ``start`` on; add their gradient to ``d_rows (rows, d_in)``."""
    overlap = W[start : start + len(d_rows)] @ W.T  # (rows, n_feat)
    own = np.arange(len(overlap))  # (rows,)
    overlap[own, start + own] = 0
    d_rows += 4 * (overlap @ W)
    return float((overlap * overlap).sum())


def orthogonalise(W: Array, *, steps: int, lr: float, chunk: int = 1024) -> Array:
    """Push the rows of ``W (n_feat, d_in)`` apart by Adam on :func:`overlap_loss`; return unit rows, float32.

    With more rows than dimensions they cannot become orthogonal: the sum of squared cosines over ordered pairs has the
    floor ``n_feat²/d_in − n_feat`` (Welch 1974), reached by tight frames.
    """
    params = {"W": W.copy()}
    state = adam_init(params)
    for _ in range(steps):
        grad = overlap_loss(params["W"], chunk=chunk)[1]  # (n_feat, d_in)
        state = adam_step(params, {"W": grad}, state, lr=lr)
    return _unit_rows(params["W"])


def _unit_rows(W: Array) -> Array:
    W = W.astype(np.float64)  # (n_feat, d_in)
    return (W / np.linalg.norm(W, axis=1, keepdims=True)).astype(np.float32)
