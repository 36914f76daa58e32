"""Learning dynamics: dimensionality over training, energy-level jumps, geometric transformations, frames to animate.

Elhage et al. 2022, "Superposition and Learning Dynamics". Two experiments: with uniform features every D_i sits on one
of a few levels and jumps between them while the loss falls a little; with two correlated sets of three features in
three dimensions the embedding goes from principal components through antiprisms to an octahedron.

Letters: times t (snapshots), instances i, n_feat, n_hid.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models import data, geometry, train
from toy_models.data import Data
from toy_models.models import Config
from toy_models.polytopes import LEVELS
from toy_models.train import Trained

HEIGHTS = (0.0, *(height for height, _ in LEVELS))
"""Dimensionalities at which features stay; 0 if they are not learned."""


class Course(NamedTuple):
    """What happened in training."""

    steps: np.ndarray
    """Of the snapshots ``(t,)``."""
    W: np.ndarray
    """``(t, i, n_hid, n_feat)``"""
    D: np.ndarray
    """Dimensionality of every feature ``(t, i, n_feat)``."""
    loss: np.ndarray
    """On the same rows at every time ``(t, i)``."""


class Jumps(NamedTuple):
    """Changes of level of one instance, in order of time; c of them."""

    step: np.ndarray
    """First snapshot on the new level ``(c,)``."""
    feature: np.ndarray
    """``(c,)``"""
    before: np.ndarray
    """Level that it left ``(c,)``; NaN for the first that it comes to."""
    after: np.ndarray
    """Level that it took ``(c,)``."""


def follow(trained: Trained, seen: Data, *, importance: Any = None, rows: int = 8192, seed: int = 0) -> Course:
    """Return D_i and the loss at every snapshot of a training run of tied models.

    Parameters
    ----------
    trained : with snapshots
    seen : the data it was trained on, from which ``rows`` are drawn once, the same at every time
    importance : as in training
    seed : of those rows

    Raises
    ------
    InputError
        If there are no snapshots, or the model is not tied.
    """
    if trained.cfg.kind != "tied" or len(trained.steps) == 0:
        raise InputError(f"trained: expected a tied model with snapshots, got {trained.cfg.kind}, {len(trained.steps)}")
    now = (train.take(trained.snapshots, k) for k in range(len(trained.steps)))
    loss = [train.evaluate(trained.cfg, p, seen, importance=importance, rows=rows, seed=seed) for p in now]
    W = trained.snapshots["W"].astype(np.float64)  # (t, i, n_hid, n_feat)
    return Course(trained.steps, W, geometry.dimensionality(W), np.stack(loss))


def energy_levels(
    *,
    n_feat: int = 60,
    n_hid: int = 10,
    density: float = 0.4,
    instances: int = 4,
    steps: int = 8000,
    every: int = 80,
    batch_size: int = 512,
    lr: float = 1e-3,
    seed: int = 0,
    threads: int | None = None,
) -> Course:
    """Train on uniform independent features at a constant rate, and follow the levels of their dimensionality.

    At 1/p = 2.5 all features that are learned end in digons, D = 1/2.

    Parameters
    ----------
    n_feat, n_hid, density, instances : the models
    steps, batch_size, lr, seed, threads : as in :func:`toy_models.train.train`
    every : steps from one snapshot to the next
    """
    seen = data.independent(density, n_feat=n_feat)
    trained = train.train(
        Config(n_feat, n_hid), seen, steps=steps, batch_size=batch_size, lr=lr, decay="constant", instances=instances,
        snapshots=_times(steps, every), seed=seed, threads=threads,
    )  # fmt: skip
    return follow(trained, seen, seed=seed)


def transformation(
    *,
    density: float = 0.05,
    instances: int = 12,
    steps: int = 6000,
    every: int = 60,
    batch_size: int = 512,
    lr: float = 5e-3,
    seed: int = 0,
    threads: int | None = None,
) -> Course:
    """Train two correlated sets of three features in three dimensions: the way to the octahedron.

    Each set becomes an orthonormal basis; the second turns until each of its axes is opposite to one of the first.
    Features 0 to 2 are one set, 3 to 5 the other.

    Parameters
    ----------
    density : of a set's gate
    instances : models
    steps, batch_size, lr, seed, threads : as in :func:`toy_models.train.train`
    every : steps from one snapshot to the next
    """
    seen = data.correlated(density, sets=2, size=3)
    trained = train.train(
        Config(6, 3), seen, steps=steps, batch_size=batch_size, lr=lr, instances=instances,
        snapshots=_times(steps, every), seed=seed, threads=threads,
    )  # fmt: skip
    return follow(trained, seen, seed=seed)


def _times(steps: int, every: int) -> list[int]:
    check_number("every", every, least=1, whole=True)
    return [*range(0, steps, every), steps]


def jumps(
    steps: Any, D: Any, *, levels: Sequence[float] = HEIGHTS, tolerance: float = 0.02, floor: float = 0.1, hold: int = 3
) -> Jumps:
    """Return when features of one instance changed their level of dimensionality.

    A feature is on a level if its D stays within ``tolerance`` of it for ``hold`` snapshots running; D that only passes
    by does not count. Features that are not learned share what is left over, so all below ``floor`` are on level 0.
    A feature that is on no level at first comes to its first one: that counts, with NaN before.

    Parameters
    ----------
    steps, D : of the snapshots ``(t,)``, dimensionality ``(t, n_feat)``
    levels : to look for, in rising order; the first is that of features below ``floor``
    tolerance, floor, hold : see above; levels nearer than ``tolerance`` go to the nearest

    Raises
    ------
    InputError
        If the shapes do not fit, or a level makes no sense.
    """
    at, heights, known = to_host(steps), np.asarray(to_host(D), np.float64), np.asarray(levels, np.float64)
    if heights.ndim != 2 or at.shape != heights.shape[:1] or not np.isfinite(heights).all():
        raise InputError(f"steps, D: expected finite (t,) and (t, n_feat), got {at.shape} and {heights.shape}")
    if known.ndim != 1 or len(known) < 2 or not (np.diff(known) > 0).all() or hold < 1:
        raise InputError(f"levels, hold: expected at least two rising levels, and 1, got {list(levels)} and {hold}")
    near = abs(heights[..., None] - known).argmin(axis=-1)  # (t, n_feat)
    level = np.where(abs(heights - known[near]) <= tolerance, near, -1)  # (t, n_feat)
    level = np.where(heights < floor, 0, level)  # (t, n_feat)
    found = [(int(at[k]), j, a, b) for j in range(level.shape[1]) for k, a, b in _runs(level[:, j], hold)]
    found.sort()
    step, feature, before, after = zip(*found, strict=True) if found else ((), (), (), ())
    named = np.append(known, np.nan)  # (levels + 1,)
    left, taken = (named[np.array(n, int)] for n in (before, after))
    return Jumps(np.array(step, int), np.array(feature, int), left, taken)


def _runs(level: np.ndarray, hold: int) -> list[tuple[int, int, int]]:
    """Return (time, level before, level after) wherever a feature's held level ``(t,)`` changes; −1: none before."""
    edges = np.flatnonzero(np.diff(level, prepend=-2, append=-2))  # (edges,)
    held = [(int(a), int(level[a])) for a, b in pairwise(edges) if b - a >= hold and level[a] >= 0]
    if held and held[0][0] > 0:
        held.insert(0, (0, -1))
    return [(k, before, after) for (_, before), (k, after) in pairwise(held) if before != after]


def antipodal(W: Array, *, cosine: float = -0.95) -> np.ndarray:
    """Return which columns have an opposite one, bool ``(..., n_feat)``: a cosine below ``cosine`` with another."""
    opposite: np.ndarray = to_host(geometry.cosines(W)).min(axis=-1) < cosine  # (..., n_feat)
    return opposite


def align(W: Any, *, to: Any = None) -> np.ndarray:
    """Turn every embedding so that it lies as near as possible to the last one, for an animation that does not spin.

    The loss of a model with a linear hidden layer does not change under rotations of that layer. Orthogonal Procrustes
    (Schönemann 1966; Kabsch 1976), rotations only: the R that minimises ‖R W_t − W_last‖_F.

    Parameters
    ----------
    W : ``(t, n_hid, n_feat)``
    to : ``(n_hid, n_feat)``; by default the last of W

    Returns
    -------
    numpy.ndarray
        ``(t, n_hid, n_feat)``, float64
    """
    frames = np.asarray(geometry.frame(to_host(W)), np.float64)  # (..., n_hid, n_feat)
    if frames.ndim != 3:
        raise InputError(f"W: expected (t, n_hid, n_feat), got shape {frames.shape}")
    goal = frames[-1] if to is None else geometry.frame(to_host(to), name="to", batched=False)  # (n_hid, width)
    if goal.shape != frames.shape[1:]:
        raise InputError(f"to: expected shape {frames.shape[1:]}, got {goal.shape}")
    U, _, V = np.linalg.svd(goal @ frames.swapaxes(-1, -2))
    mirrored = np.linalg.det(U @ V) < 0  # (t,)
    U[mirrored, :, -1] *= -1
    turned: np.ndarray = U @ V @ frames  # (t, n_hid, n_feat)
    return turned
