"""The phase diagram of the smallest toys: n_feat features in one dimension less, the last one being the *extra*.

Elhage et al. 2022, section "Superposition as a phase change". Three answers to the same question, on the same grid: by
theory (the closed forms of :mod:`toy_models.theory`), by the lowest exact loss from several starts, and by training.
Densities and importances broadcast against each other: ``density (p,)`` and ``importance (r, 1)`` make a diagram
``(r, p)``, and two ``(k,)`` make a list of points. Letters: points k, starts or seeds s.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.streams import generator
from toy_models import data, exact, geometry, theory, train
from toy_models.data import Batch
from toy_models.models import Config, Params

NODES = {2: (16, 16), 3: (16, 16, 8)}
"""By n_feat: Gauss–Legendre nodes of patterns with one, two, … active features."""

LEAST = 0.3
"""Below this norm a feature is not there, and interference is none."""


class Phase(NamedTuple):
    """The best solution at each point; ``...`` is the shape of the points."""

    labels: Array
    """What becomes of the extra feature ``(...)``, a number into ``theory.LABELS``."""
    loss: Array
    """Exact loss ``(...)``."""
    W: Array
    """``(..., n_hid, n_feat)``"""
    b: Array
    """``(..., n_feat)``"""
    every: Array
    """Label of each start or seed ``(..., s)``."""
    losses: Array
    """Exact loss of each start or seed ``(..., s)``."""


def grid(size: int = 21) -> tuple[Array, Array]:
    """Return the paper's axes, logarithmic: ``density (size,)`` 0.01 to 1 and ``importance (size, 1)`` 0.1 to 10."""
    check_number("size", size, least=2, whole=True)
    return np.geomspace(0.01, 1, size), np.geomspace(0.1, 10, size)[:, None]


def label(W: Array) -> Array:
    """Return the label of the last feature of each ``W (..., n_hid, n_feat)``.

    Ignored: its norm is below 0.3. Dedicated: the other features reach less than 0.3 along its direction,
    ``√Σ_j (Ŵ·W_j)²``. Else superposed. At n_feat 2 these are |w₂| < 0.3 and |w₁| < 0.3.
    """
    W = np.asarray(geometry.frame(to_host(W)), dtype=np.float64)  # (..., n_hid, n_feat)
    norm = np.linalg.norm(W[..., -1], axis=-1)  # (...,)
    along = np.einsum("...hf,...h->...f", W[..., :-1], W[..., -1])  # (..., n_rest)
    interference = np.linalg.norm(along, axis=-1) / np.maximum(norm, 1e-12)  # (...,)
    shared = np.where(interference < LEAST, theory.DEDICATED, theory.SUPERPOSED)  # (...,)
    return np.where(norm < LEAST, theory.IGNORED, shared)


def theory_phase(density: Array, importance: Array, *, n_feat: int = 2, free_norm: bool = False) -> Array:
    """Return the labels of :func:`toy_models.theory.phase_labels`: no bias, and norm 1 unless ``free_norm``."""
    return theory.phase_labels(density, importance, n_feat=n_feat, free_norm=free_norm)


def exact_phase(
    density: Array, importance: Array, *, n_feat: int = 2, nodes: int | Sequence[int] | None = None, seed: int = 0
) -> Phase:
    """Return the solution of lowest exact loss at each point.

    L-BFGS on the weighted batch of :func:`toy_models.exact.batch`, from starts near the solutions of the paper: four at
    n_feat 2, a random one among them; five at n_feat 3, with the one that the paper leaves out. Losses are good to
    about 2e-4, relative: with 16 nodes the sum has small ripples, where a node crosses a kink, and each can hold a
    minimum.

    Parameters
    ----------
    density, importance : array
        Broadcast against each other; ``importance`` is the extra feature's, the others have 1.
    nodes : int or sequence of int, optional
        As in :func:`toy_models.exact.batch`; by default ``NODES``.
    """
    cfg, p, r, shape = _points(density, importance, n_feat)
    starts, s = _starts(p, n_feat, seed)
    scale, importances = _importances(p, r, n_feat)
    rows = _rows(p, n_feat, nodes, s)
    fitted, loss = exact.minimise(cfg, starts, rows, importance=np.repeat(importances, s, axis=0))
    return _phase(fitted, loss / np.repeat(scale, s), shape, s)


def trained_phase(
    density: Array, importance: Array, *, n_feat: int = 2, seeds: int = 10, nodes: int | Sequence[int] | None = None,
    steps: int = 6000, batch_size: int = 512, lr: float = 1e-2, seed: int = 0,
) -> Phase:  # fmt: skip
    """Return the best of ``seeds`` ordinary training runs at each point, chosen by exact loss.

    The paper trains ten models a point, leaves out the worst and averages. Few of ten may be right where two phases
    have nearly the same loss, and only the exact loss tells which. At half this learning rate, 9 of 100 runs at
    p = r = 0.03 stayed where the extra is ignored, a saddle; at this one 1. Other parameters are those of
    :func:`toy_models.train.train` and :func:`exact_phase`.
    """
    cfg, p, r, shape = _points(density, importance, n_feat)
    check_number("seeds", seeds, least=1, whole=True)
    scale, importances = _importances(p, r, n_feat)
    each = np.repeat(importances, seeds, axis=0)  # (k*s, n_feat)
    fitted = train.train(
        cfg, data.independent(np.repeat(p, seeds)[:, None], n_feat=n_feat), steps=steps, batch_size=batch_size, lr=lr,
        importance=each, seed=seed,
    ).params  # fmt: skip
    loss = train.evaluate(cfg, fitted, _rows(p, n_feat, nodes, seeds), importance=each)  # (k*s,)
    return _phase(fitted, loss / np.repeat(scale, seeds), shape, seeds)


def _points(density: Array, importance: Array, n_feat: int) -> tuple[Config, Array, Array, tuple[int, ...]]:
    """Return the model, p and r of each point ``(k,)``, and the shape of the points."""
    if n_feat not in (2, 3):
        raise InputError(f"n_feat: expected 2 or 3, got {n_feat}")
    p, r = theory.checked_points(density, importance)
    return Config(n_feat, n_feat - 1), p.ravel(), r.ravel(), p.shape


def _rows(p: Array, n_feat: int, nodes: int | Sequence[int] | None, s: int) -> Batch:
    """Return the exact batch of every point, ``s`` times: weights ``(k*s, n)``."""
    x, weights = exact.batch(p[:, None], n_feat=n_feat, nodes=nodes or NODES[n_feat])
    assert weights is not None
    return Batch(x, np.repeat(weights, s, axis=0))


def _importances(p: Array, r: Array, n_feat: int) -> tuple[Array, Array]:
    """Return what the loss of each point is multiplied by ``(k,)``, and so the importances ``(k, n_feat)``.

    An ignored feature then costs about 1 at every density: Adam's ε and L-BFGS's tolerances mean the same everywhere.
    """
    scale = 1 / (theory.ignored_loss(p) * np.maximum(r, 1))  # (k,)
    weights = np.ones((len(p), n_feat))  # (k, n_feat)
    weights[:, -1] = r
    return scale, scale[:, None] * weights


def _starts(p: Array, n_feat: int, seed: int) -> tuple[Params, int]:
    """Return parameters near the paper's solutions, a little disturbed, for every point ``(k*s, …)``, and s."""
    half = 3**0.5 / 2
    solutions: dict[int, list[list[list[float]]]] = {
        2: [[[1, 0]], [[1, -1]], [[0, 1]], [[0, 0]]],
        3: [
            [[1, 0, 0], [0, 1, 0]],
            [[1, 0, 0], [0, 1, -1]],
            [[1, 0, 0], [0, 0, 1]],
            [[1, -1, 0], [0, 0, 1]],
            [[1, -0.5, -0.5], [0, half, -half]],
        ],
    }
    known, rng = solutions[n_feat], generator(seed, "toy_init")
    W = np.tile(np.array(known, dtype=np.float64), (len(p), 1, 1))  # (k*s, n_hid, n_feat)
    noise = np.where(np.any(W, axis=(1, 2)), 0.1, 0.7)  # (k*s,)
    W += noise[:, None, None] * rng.standard_normal(W.shape)
    absent = np.linalg.norm(W, axis=1) < 2 * LEAST  # (k*s, n_feat)
    return {"W": W, "b": np.where(absent, np.repeat(p, len(known))[:, None] / 2, 0.0)}, len(known)


def _phase(params: Params, loss: Array, shape: tuple[int, ...], s: int) -> Phase:
    """Return the best of each ``s`` consecutive instances, and what became of all."""
    labels = label(params["W"])  # (k*s,)
    index = train.best(loss, per=s)  # (k,)
    W, b = (np.asarray(params[name], dtype=np.float64)[index] for name in ("W", "b"))
    return Phase(
        labels[index].reshape(shape), loss[index].reshape(shape), W.reshape(*shape, *W.shape[1:]),
        b.reshape(*shape, -1), labels.reshape(*shape, s), loss.reshape(*shape, s),
    )  # fmt: skip


def near_boundary(density: Array, importance: Array, *, n_feat: int = 2, within: float = 0.1) -> Array:
    """Return whether the exact label changes within 10 % of each point, in density or in importance: bool ``(...)``."""
    p, r = theory.checked_points(density, importance)
    far = 1 + within
    around = [(p, r), (p, r * far), (p, r / far), (np.minimum(p * far, 1), r), (p / far, r)]
    all_p, all_r = (np.stack(part) for part in zip(*around, strict=True))
    labels = exact_phase(all_p, all_r, n_feat=n_feat).labels.reshape(len(around), -1)  # (5, k)
    return (labels[1:] != labels[0]).any(axis=0).reshape(p.shape)


class Agreement(NamedTuple):
    """How often two diagrams say the same; a share of no points is 1."""

    away: float
    """Share of the points away from a boundary."""
    near: float
    """Share of the points near one."""
    n_near: int
    """How many these are."""


def agreement(labels: Array, expected: Array, near: Array) -> Agreement:
    """Return how often ``labels`` are as ``expected``, the points ``near`` a boundary apart; all ``(...)``."""
    same, near = np.broadcast_arrays(np.asarray(labels) == np.asarray(expected), np.asarray(near, dtype=bool))
    away, close = (float(same[part].mean()) if part.any() else 1.0 for part in (~near, near))
    return Agreement(away, close, int(near.sum()))
