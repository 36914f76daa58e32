"""Closed forms: the loss of each phase of the smallest toy models, and where one phase gives way to the next.

Throughout: features independent, ``x = 0`` with probability ``1 − p`` and else U[0, 1]; the loss is the mean over data
of ``Σ_j I_j (x_j − x̂_j)²`` with ``x̂ = ReLU(WᵀWx + b)``; every feature has importance 1 but the last one, the *extra*,
which has importance ``r``. Sources: Elhage et al. 2022, "Toy Models of Superposition", sections "Superposition as a
phase change" and "Basic results" (the linear model), and the derivations in the docstrings.

The phases of the paper keep to norm 1 and no bias where a feature is kept. The true optimum is lower, and asymmetric:
:func:`free_antipodal` and :func:`small_density_loss` are two steps towards it, ``experiments.phase`` computes it.
"""

from typing import NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models.checks import check_importance
from toy_models.data import check_density
from toy_models.geometry import frame

LABELS = ("ignored", "superposed", "dedicated")
"""What becomes of the extra feature; its number is the label."""

IGNORED, SUPERPOSED, DEDICATED = range(3)

MEETING_DENSITY = 4 / 7
"""Where the three phases meet, at ``r = 1``: ``ℓ_ign = p/3 − p²/4`` equals two antipodal features' ``p²/3``."""

FREE_MEETING_DENSITY = (80 - 896**0.5) / 86
"""The same with free norms: the root of ``43p² − 80p + 32`` below 1, that is ``ℓ_ign = 2 ℓ*``. 0.5822."""

CRITICAL_RATIO = (2 + 2**0.5) / 8
"""``r/p`` at which the extra feature enters superposition as p → 0: the least ``(1 − t/2)/(2 − t²)``. 0.42678."""

CRITICAL_NORM = 2 - 2**0.5
"""Norm with which it enters: where that least value lies, the root of ``t² − 4t + 2`` below 1. 0.58579."""


def ignored_loss(density: Array) -> Array:
    """Return ``p/3 − p²/4``, the loss of a feature that is predicted by its mean ``p/2``; any shape.

    It is the variance: ``E[x²] = p/3`` and ``E[x] = p/2``.
    """
    p = checked_density(density)  # (...,)
    return p / 3 - p * p / 4


def antipodal_loss(density: Array) -> Array:
    """Return ``p²/6``, the loss of each of two features that share a dimension with norm 1, ``W = [1, −1]``, ``b = 0``.

    One alone is exact. With both active (probability p²) ``x̂ = ReLU(x − y)`` errs by ``min(x, y)``, and
    ``E[min²] = ∫ m²·2(1 − m) dm = 1/6``.
    """
    p = checked_density(density)  # (...,)
    return p * p / 6


def free_antipodal(density: Array) -> tuple[Array, Array]:
    """Return the best common ``a = ‖W‖²`` of an antipodal pair without bias, and its loss a feature.

    ``a* = (8 − 5p)/(8 − 6p)`` and ``ℓ* = p²(32 − 25p)/(48(4 − 3p))``. Derivation: one alone costs ``(1 − a)²/3``; both
    cost ``E(x − a·ReLU(x − y))² = 1/3 − a/4 + a²/12``, as ``E[x·ReLU(x − y)] = 1/8`` and ``E[ReLU(x − y)²] = 1/12``.
    Then ``ℓ(a) = p(1 − p)(1 − a)²/3 + p²(1/3 − a/4 + a²/12)`` is a parabola.
    """
    p = checked_density(density)  # (...,)
    return (8 - 5 * p) / (8 - 6 * p), p * p * (32 - 25 * p) / (48 * (4 - 3 * p))


class PhaseLosses(NamedTuple):
    """The least loss of each phase, all of one shape; the order is that of ``LABELS``."""

    ignored: Array
    superposed: Array
    dedicated: Array


def phase_losses(density: Array, importance: Array, *, n_feat: int = 2, free_norm: bool = False) -> PhaseLosses:
    """Return the paper's losses of the phases, for ``n_feat`` 2 or 3 in one dimension less.

    With ``ℓ_i = p/3 − p²/4`` and ``ℓ_a = p²/6`` (``free_norm``: ``ℓ*``): the extra ignored costs ``r ℓ_i``; antipodal
    to an important one, ``(1 + r) ℓ_a``; with a dimension of its own it leaves the others what remains: ``ℓ_i`` at
    n_feat 2, and at n_feat 3 the lesser of ``ℓ_i`` (one of them ignored) and ``2 ℓ_a`` (those two antipodal). The paper
    leaves out the third way of n_feat 3, all three in a plane at right angles to ``(1, 1, 1)``, and so does this.

    Parameters
    ----------
    density, importance : array
        ``p`` and the extra feature's ``r``, broadcast against each other.
    """
    if n_feat not in (2, 3):
        raise InputError(f"n_feat: expected 2 or 3, got {n_feat}")
    p, r = checked_points(density, importance)
    ignored = ignored_loss(p)  # (...,)
    antipodal = free_antipodal(p)[1] if free_norm else antipodal_loss(p)  # (...,)
    dedicated = ignored if n_feat == 2 else np.minimum(ignored, 2 * antipodal)  # (...,)
    return PhaseLosses(r * ignored, (1 + r) * antipodal, dedicated)


def phase_labels(density: Array, importance: Array, *, n_feat: int = 2, free_norm: bool = False) -> Array:
    """Return the phase of least loss at each point, numbers into ``LABELS``; ties go to the first."""
    return np.argmin(phase_losses(density, importance, n_feat=n_feat, free_norm=free_norm), axis=0)


def boundaries(density: Array, *, n_feat: int = 2) -> tuple[Array, Array]:
    """Return the importance at which the extra stops being ignored, and at which it gets its own dimension.

    ``r = 2p/(4 − 5p)`` from ``r ℓ_i = (1 + r) ℓ_a``, and its mirror image ``(4 − 5p)/(2p)`` (n_feat 2) or 1 (n_feat 3).
    They meet at ``p = 4/7``; above it there is no superposition and both are 1. Norms 1, no bias: the true boundaries
    lie 10–20 % lower for p ≤ 0.5, and superposition does not end at 4/7.
    """
    p = checked_density(density)  # (...,)
    low = np.where(p < MEETING_DENSITY, 2 * p / np.maximum(4 - 5 * p, 0.5), 1.0)  # (...,)
    return low, 1 / low if n_feat == 2 else np.ones_like(low)


def small_density_loss(norm: Array, ratio: Array) -> Array:
    """Return the loss over p² as p → 0 of ``W = [1, −t]``, ``b = 0``, importance ``ρp``; t is ``norm``, ρ ``ratio``.

    ``g(t) = ρ(1 − t²)²/3 + t²/3 − t³/6``: the extra alone, with weight pr, is returned as t²y; both active, with weight
    p², disturb the first feature by ``min(x, ty)``, whose mean square is ``∫ (s² − 2s³/3) dy`` with ``s = ty``. What
    the extra loses when both are active is of order rp². Ignored is t = 0; ``g(t) < g(0)`` needs
    ``ρ > (1 − t/2)/(2 − t²)``. So the extra enters at ``ρ = CRITICAL_RATIO``, at once with norm ``CRITICAL_NORM``: a
    first-order transition.
    """
    t, rho = np.asarray(norm, dtype=np.float64), _checked_ratio(ratio)
    return rho * (1 - t * t) ** 2 / 3 + t**2 / 3 - t**3 / 6


def small_density_norm(ratio: Array) -> Array:
    """Return the best norm t of the extra feature as p → 0, at importance ``ρp``; 0 below ``CRITICAL_RATIO``.

    The larger root of ``4ρ(1 − t²) = 2 − 3t/2``, which is ``g'(t) = 0`` without its root t = 0. Above ρ = 1/2 as well.
    """
    rho = _checked_ratio(ratio)  # (...,)
    safe = np.maximum(rho, CRITICAL_RATIO)  # (...,)
    root = (1.5 + np.sqrt(2.25 - 16 * safe * (2 - 4 * safe))) / (8 * safe)  # (...,)
    return np.where(rho < CRITICAL_RATIO, 0.0, root)


def linear_loss(W: Array, density: float, *, importance: Array | None = None) -> float:
    """Return the exact loss of the linear model ``x̂ = WᵀWx + b`` with its best bias, for ``W (n_hid, n_feat)``.

    ``(p/3 − p²/4) · (Σ_j I_j (1 − ‖W_j‖²)² + Σ_{i≠j} I_j (W_j·W_i)²)``: feature benefit and interference of the paper's
    "Basic results" (after Saxe et al.), exact at any p because the best bias ``(1 − WᵀW) E[x]`` leaves only variances.
    """
    W = np.asarray(frame(to_host(W), batched=False), dtype=np.float64)  # (n_hid, n_feat)
    error = W.T @ W - np.eye(W.shape[1])  # (n_feat, n_feat)
    weights = checked_weights(importance, W.shape[1])  # (n_feat,)
    return _ignored_loss_of_one(density) * float(weights @ (error * error).sum(axis=1))


def linear_optimum(importance: Array, density: float, *, n_hid: int) -> float:
    """Return the least loss of the linear model: the ``n_hid`` most important features are kept, the others ignored.

    ``diag(√I)(WᵀW − 1)`` is farthest reduced by the best approximation of ``diag(√I)`` of rank n_hid (Eckart–Young),
    and a projector on n_hid axes is of the form WᵀW. So the rest costs ``(p/3 − p²/4) Σ I_j``.
    """
    check_number("n_hid", n_hid, least=1, whole=True)
    weights = np.sort(checked_importance(importance), axis=None)[::-1]  # (n_feat,)
    return _ignored_loss_of_one(density) * float(weights[n_hid:].sum())


def _ignored_loss_of_one(density: float) -> float:
    loss = ignored_loss(density)  # (...,)
    if loss.ndim:
        raise InputError(f"density: expected one number, got shape {loss.shape}")
    return float(loss)


def checked_density(density: Array) -> Array:
    """Return the density as float64 on the host, of the same shape, or raise if a number is outside (0, 1]."""
    p = np.asarray(to_host(density), dtype=np.float64)  # (...,)
    check_density("density", p.reshape(-1, 1))
    return p


def checked_importance(importance: Array) -> Array:
    """Return the importance as float64 of the same shape, or raise if one is negative or not finite, or all are 0."""
    r = np.asarray(to_host(importance), dtype=np.float64)  # (...,)
    check_importance(r.reshape(1, -1), r.size)
    return r


def checked_weights(importance: Array | None, n_feat: int) -> Array:
    """Return one importance a feature ``(n_feat,)``, 1 if none are given."""
    r = np.ones(n_feat) if importance is None else checked_importance(importance)  # (...,)
    if r.shape != (n_feat,):
        raise InputError(f"importance: expected {n_feat} numbers, one a feature, got shape {r.shape}")
    return r


def checked_points(density: Array, importance: Array) -> tuple[Array, Array]:
    """Return both, checked and broadcast against each other."""
    p, r = checked_density(density), checked_importance(importance)
    try:
        p, r = np.broadcast_arrays(p, r)
    except ValueError:
        raise InputError(f"density, importance: expected shapes that broadcast, got {p.shape} and {r.shape}") from None
    return p, r


def _checked_ratio(ratio: Array) -> Array:
    rho = np.asarray(to_host(ratio), dtype=np.float64)  # (...,)
    if not (np.all(np.isfinite(rho)) and np.all(rho >= 0)):
        raise InputError(f"ratio: expected finite numbers from 0, got {ratio}")
    return rho
