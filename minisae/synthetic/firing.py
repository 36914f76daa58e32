"""Which features fire: probabilities, correlation, hierarchy.

Firing has two stages. Every feature is *proposed* in some rows, independently or by a Gaussian copula; then a proposal
stands only if the feature's parent fires and no earlier sibling that excludes it does. :func:`calibrate` finds the
proposal probabilities at which every feature fires as often as it was asked to.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from minisae.backend import Array
from minisae.errors import InputError

SHAPES = ("constant", "zipf", "linear")
POINTS = 2**13
"""Calibration under a copula integrates over so many points: 0.4 % error (rms; 2 % at most) in the proposals of
children and grandchildren at rank 25, scale 0.1. Fewer where ``POINTS_TIMES_FEATURES`` would be exceeded."""
POINTS_TIMES_FEATURES = 2**24


class Hierarchy(NamedTuple):
    """Which feature needs which.

    A child fires only in rows in which its parent fires. Of the siblings marked ``exclusive``, roots included, at most
    one fires in a row.
    """

    parent: Array
    """Index of each feature's parent, −1 for a root: int ``(n_feat,)``."""
    exclusive: Array
    """Whether the feature excludes its siblings that are marked too: bool ``(n_feat,)``."""
    scale_by_parent: bool = False
    """Multiply a child's coefficient by its parent's over the parent's mean."""


def tree(
    n_feat: int, *, roots: int, branching: int, depth: int, exclusive: bool = False, scale_by_parent: bool = False
) -> Hierarchy:
    """Return ``roots`` complete trees of ``depth`` levels below the root, numbered level by level.

    The features that are left over have no parent and no children. ``exclusive`` marks all that have a parent.

    Raises
    ------
    InputError
        If the trees need more than ``n_feat`` features.
    """
    parent = np.full(n_feat, -1)  # (n_feat,)
    start, width = 0, roots
    for _ in range(depth):
        first, width = start + width, width * branching
        if first + width > n_feat:
            raise InputError(f"n_feat: expected at least {first + width} features for the trees, got {n_feat}")
        parent[first : first + width] = start + np.arange(width) // branching
        start = first
    if start + width > n_feat:
        raise InputError(f"n_feat: expected at least {start + width} features for the trees, got {n_feat}")
    return Hierarchy(parent, (parent >= 0) & exclusive, scale_by_parent)


def firing_probabilities(
    n_feat: int, *, shape: str, p_max: float, p_min: float | None = None, exponent: float = 1.0
) -> Array:
    """Return firing probabilities ``(n_feat,)``, falling from ``p_max`` to ``p_min``.

    ``constant`` is ``p_max`` throughout; ``linear`` falls in equal steps; ``zipf`` falls like ``(i + 1)**-exponent``,
    moved and stretched so that its ends meet ``p_max`` and ``p_min``.

    Raises
    ------
    InputError
        For an unknown shape, probabilities outside ``0 ≤ p_min ≤ p_max ≤ 1``, or a ``p_min`` missing or too many.
    """
    if shape not in SHAPES:
        raise InputError(f"shape: expected one of {', '.join(SHAPES)}, got {shape!r}")
    if (p_min is None) != (shape == "constant"):
        raise InputError(f"p_min: expected {'none' if p_min is not None else 'a number'} for {shape!r}, got {p_min}")
    low = p_max if p_min is None else p_min
    if not 0 <= low <= p_max <= 1:
        raise InputError(f"p_max, p_min: expected 0 <= p_min <= p_max <= 1, got {p_max}, {p_min}")
    place = np.arange(1.0, n_feat + 1)  # (n_feat,)
    ramp = place**-exponent if shape == "zipf" else -place  # (n_feat,)
    if n_feat == 1 or ramp[0] == ramp[-1]:
        return np.full(n_feat, p_max)
    return low + (p_max - low) * (ramp - ramp[-1]) / (ramp[0] - ramp[-1])


def given_parent(p: Array, hierarchy: Hierarchy) -> Array:
    """Turn probabilities of firing given that the parent fires into plain ones, both ``(n_feat,)``."""
    out = np.append(p, 1.0)  # (n_feat+1,), the last entry stands above the roots
    for c in waves(hierarchy):
        out[c] = p[c] * out[hierarchy.parent[c]]
    return out[:-1]


def correlation_factor(n_feat: int, *, rank: int, scale: float, rng: np.random.Generator) -> Array:
    """Draw the low-rank part of a correlation matrix ``A Aᵀ + diag(1 − Σ A²)``: float32 ``(n_feat, rank)``.

    Entries are normal with deviation ``scale``. Rows whose squares sum to more than 0.99 are shortened to that, so that
    every variance is 1 (SAELens floors the second term at 0.01 and lets the variance, hence the firing, grow).
    """
    A = rng.standard_normal((n_feat, rank)) * scale  # (n_feat, rank)
    share = (A * A).sum(axis=1, keepdims=True)  # (n_feat, 1)
    return (A * np.sqrt(0.99 / np.maximum(share, 0.99))).astype(np.float32)


def waves(hierarchy: Hierarchy) -> list[Array]:
    """Split the features that depend on others into groups to be decided one after the other.

    A feature's parent, and the siblings that go before it, are in earlier groups; roots that exclude nobody in none.

    Raises
    ------
    InputError
        If ``parent`` names a feature that does not exist, or runs in a circle.
    """
    parent, exclusive = hierarchy.parent, hierarchy.exclusive
    n_feat = len(parent)
    if len(exclusive) != n_feat or parent.min(initial=-1) < -1 or parent.max(initial=-1) >= n_feat:
        raise InputError(f"hierarchy: expected parents from -1 to {n_feat - 1} and as many exclusive marks, got others")
    padded = np.append(parent, -1)  # (n_feat+1,), a root's parent is itself a root
    level = np.zeros(n_feat, int)  # (n_feat,)
    above = parent.copy()  # (n_feat,)
    while (above >= 0).any():
        if level.max() > n_feat:
            raise InputError("hierarchy: expected parents that lead to a root, got a circle")
        level += above >= 0
        above = padded[above]  # (n_feat,)
    place = np.zeros(n_feat, int)  # (n_feat,)
    order = np.flatnonzero(exclusive)[np.argsort(parent[exclusive], kind="stable")]  # (n_exclusive,)
    new = np.diff(parent[order], prepend=-2) != 0  # (n_exclusive,)
    place[order] = np.arange(len(order)) - np.flatnonzero(new)[np.cumsum(new) - 1]
    bound = np.flatnonzero((parent >= 0) | exclusive)  # (n_bound,)
    keys = sorted(set(zip(level[bound].tolist(), place[bound].tolist(), strict=True)))
    return [bound[(level[bound] == a) & (place[bound] == b)] for a, b in keys]


def calibrate(p: Array, positive: Array, factor: Array, hierarchy: Hierarchy | None, rng: np.random.Generator) -> Array:
    """Return proposal probabilities ``(n_feat,)`` at which feature i is positive in a share ``p_i`` of rows.

    Given the copula's factors g, all proposals are independent, so the chance that a feature fires is a mean over g of
    products along its ancestors. The mean is taken over a shifted Sobol set, and each feature's threshold found by
    bisection, parents first. Without a copula there is one point and the result is exact.

    Parameters
    ----------
    p : wanted firing probabilities ``(n_feat,)``
    positive : probability that a proposed feature's magnitude is not zero ``(n_feat,)``
    factor : ``(n_feat, rank)`` of :func:`correlation_factor`

    Raises
    ------
    InputError
        If a parent, its exclusive children or rectified magnitudes leave too little room for a feature.
    """
    _check_room(p, positive, np.arange(len(p)), slack=1e-9)
    proposal = p / positive  # (n_feat,)
    if hierarchy is None:
        return proposal
    shift = _points(len(factor), factor.shape[1], rng) @ factor.T  # (m, n_feat)
    spread = np.sqrt(1 - (factor * factor).sum(axis=1))  # (n_feat,)
    root = positive * ndtr((shift + ndtri(proposal)) / spread)  # (m, n_feat)
    fires = np.append(root, np.ones((len(root), 1)), axis=1)  # (m, n_feat+1), the last column stands above the roots
    free = fires.copy()  # (m, n_feat+1), and no exclusive child fires yet
    for c in waves(hierarchy):
        up, alone = hierarchy.parent[c], hierarchy.exclusive[c]
        proposal[c], fires[:, c] = _solve(
            p[c], np.where(alone, free[:, up], fires[:, up]) * positive[c], shift[:, c], spread[c], features=c
        )
        free[:, c] = fires[:, c]
        free[:, up[alone]] -= fires[:, c[alone]]
    return proposal


def _solve(p: Array, room: Array, shift: Array, spread: Array, *, features: Array) -> tuple[Array, Array]:
    """Return proposal probabilities ``(n_c,)`` and the chance ``(m, n_c)`` to fire at each point.

    ``room (m, n_c)`` is the chance that nothing forbids a feature; the share fires whose normal variable, of mean
    ``shift (m, n_c)`` and deviation ``spread (n_c,)``, exceeds a threshold. The mean of the result is ``p (n_c,)``.
    """
    _check_room(p, room.mean(axis=0), features, slack=0.02 if len(room) > 1 else 1e-9)
    low, high = np.full(len(p), -9.0), np.full(len(p), 9.0)
    for _ in range(40):
        middle = (low + high) / 2  # (n_c,)
        too_often = (room * ndtr((shift - middle) / spread)).mean(axis=0) > p  # (n_c,)
        low, high = np.where(too_often, middle, low), np.where(too_often, high, middle)
    return ndtr(-low), room * ndtr((shift - low) / spread)


def _check_room(p: Array, room: Array, features: Array, *, slack: float) -> None:
    for i in np.flatnonzero(p > room * (1 + slack))[:1]:
        raise InputError(
            f"p: expected at most {room[i]:.4g} for feature {features[i]} (its parent, exclusive siblings or zero "
            f"magnitudes leave no more), got {p[i]:.4g}"
        )


def _points(n_feat: int, rank: int, rng: np.random.Generator) -> Array:
    """Return normal points ``(m, rank)`` that fill space evenly; one empty point for rank 0."""
    if rank == 0:
        return np.zeros((1, 0), np.float32)
    doublings = int(np.log2(max(2, min(POINTS, POINTS_TIMES_FEATURES // n_feat))))
    u = qmc.Sobol(rank, scramble=False).random_base2(doublings) + rng.random(rank)  # (m, rank)
    return ndtri(np.clip(u % 1, 1e-9, 1 - 1e-9)).astype(np.float32)
