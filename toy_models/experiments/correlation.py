"""Correlated and anticorrelated features: orthogonal pairs, antipodal pairs, local bases, collapse to components.

Elhage et al. 2022, "Correlated and Anticorrelated Features". Features come in sets, set by set in order; members of a
correlated set share their gate and have magnitudes of their own. Many arrangements are good local optima, so every
experiment trains several starts and compares them on the same rows.

Letters: instances i, tries, n_feat, n_hid; sets of ``size`` features each.
"""

from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.errors import InputError
from toy_models import data, geometry, train
from toy_models.models import Config

KINDS = {"correlated": data.correlated, "anticorrelated": data.anticorrelated}
"""How the members of a set go together, and who draws them."""
COLLAPSED = 0.98
"""Two features whose cosine is above this count as one direction."""
COLLAPSE_DENSITIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75)
"""Densities over which three pairs go from six features to the principal components."""


class Embedding(NamedTuple):
    """Several starts of one experiment, the lowest loss first."""

    W: np.ndarray
    """``(tries, n_hid, n_feat)``"""
    b: np.ndarray
    """``(tries, n_feat)``"""
    loss: np.ndarray
    """On common rows ``(tries,)``, increasing."""


class Collapse(NamedTuple):
    """The best embedding of correlated pairs at each density."""

    density: np.ndarray
    """Of the gates ``(t,)``."""
    W: np.ndarray
    """``(t, n_hid, n_feat)``"""
    loss: np.ndarray
    """``(t,)``"""
    cosines: np.ndarray
    """Within each pair ``(t, pairs)``."""
    norms: np.ndarray
    """Mean norm of each pair ``(t, pairs)``; 1/√2 where x_hat is the mean of the two."""
    collapsed: np.ndarray
    """Number of pairs whose cosine is above :data:`COLLAPSED`, ``(t,)``."""


def embed_sets(
    kind: str,
    *,
    sets: int,
    size: int,
    n_hid: int,
    density: float = 0.05,
    tries: int = 20,
    steps: int = 6000,
    batch_size: int = 512,
    lr: float = 2e-3,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "numpy",
) -> Embedding:
    """Train a ReLU output model on sets of features, from several starts.

    The paper's: two pairs in a plane (correlated: orthogonal partners; anticorrelated: antipodal), three correlated
    pairs in a plane (a hexagon with partners side by side at density 0.02; at 0.05 one pair may collapse), two
    correlated sets of ten in ten dimensions (two local bases, each almost orthonormal).

    Parameters
    ----------
    kind : ``"correlated"`` or ``"anticorrelated"``
    sets, size : number of sets, and of features in each
    n_hid : hidden width
    density : of a set's gate
    tries : starts
    steps, batch_size, lr, seed, threads, backend : as in :func:`toy_models.train.train`

    Raises
    ------
    InputError
        For another kind, or a number out of range.
    """
    if kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if tries < 1:
        raise InputError(f"tries: expected at least 1, got {tries}")
    drawn, cfg = KINDS[kind](density, sets=sets, size=size), Config(sets * size, n_hid)
    trained = train.train(
        cfg, drawn, steps=steps, batch_size=batch_size, lr=lr, instances=tries, seed=seed, threads=threads,
        backend=backend,
    )  # fmt: skip
    loss = train.evaluate(cfg, trained.params, drawn, seed=seed)  # (tries,)
    order = np.argsort(loss, kind="stable")  # (tries,)
    params = {name: to_host(p)[order] for name, p in trained.params.items()}
    return Embedding(params["W"], params["b"], loss[order])


def pair_cosines(W: Array) -> np.ndarray:
    """Return the cosine between features 0 and 1, 2 and 3, …: ``(..., n_feat / 2)``.

    Raises
    ------
    InputError
        If the number of features is odd.
    """
    cos = to_host(geometry.cosines(W))  # (..., n_feat, n_feat)
    n_feat = cos.shape[-1]
    if n_feat % 2:
        raise InputError(f"W: expected an even number of features, got {n_feat}")
    first = np.arange(0, n_feat, 2)  # (pairs,)
    within: np.ndarray = cos[..., first, first + 1]  # (..., pairs)
    return within


def set_cosines(W: Array, *, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the root mean square cosine within sets ``(..., sets)`` and between different sets ``(...)``.

    Two unrelated orthonormal bases of n_hid directions have 0 and exactly 1/√n_hid: each vector of one has norm 1 in
    the other.

    Parameters
    ----------
    W : ``(..., n_hid, n_feat)``, features set by set
    sets : how many, at least 2, of the same size, at least 2
    """
    square = to_host(geometry.cosines(W)) ** 2  # (..., n_feat, n_feat)
    n_feat = square.shape[-1]
    if sets < 2 or n_feat % sets or n_feat == sets:
        raise InputError(f"sets: expected at least 2 that divide {n_feat} features into more than one each, got {sets}")
    size = n_feat // sets
    member = np.arange(n_feat) // size  # (n_feat,)
    same = member[:, None] == member  # (n_feat, n_feat)
    own = same & ~np.eye(n_feat, dtype=bool)  # (n_feat, n_feat)
    inside = (square * own).sum(axis=-1).reshape(*square.shape[:-2], sets, size)  # (..., sets, size)
    within = np.sqrt(inside.mean(axis=-1) / (size - 1))  # (..., sets)
    return within, np.sqrt(square[..., ~same].mean(axis=-1))


def collapse(
    density: Any = COLLAPSE_DENSITIES,
    *,
    pairs: int = 3,
    n_hid: int = 2,
    tries: int = 8,
    steps: int = 6000,
    batch_size: int = 512,
    lr: float = 2e-3,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "numpy",
) -> Collapse:
    """Return the best of several starts at each density: with rising density pairs collapse to one direction each.

    A collapsed pair is stored as its sum, its first principal component: both members along one direction with norm
    1/√2, so that each is reconstructed as the mean of the two (Elhage et al. 2022: superposition goes over to PCA).

    Parameters
    ----------
    density : of the gates ``(t,)``
    pairs, n_hid : number of correlated pairs, hidden width
    tries : starts at each density
    steps, batch_size, lr, seed, threads, backend : as in :func:`toy_models.train.train`
    """
    p = np.atleast_1d(np.asarray(density, np.float64))  # (t,)
    if p.ndim != 1 or tries < 1:
        raise InputError(f"density, tries: expected (t,) and at least 1, got shape {p.shape} and {tries}")
    drawn, cfg = data.correlated(np.repeat(p, tries)[:, None], sets=pairs, size=2), Config(2 * pairs, n_hid)
    trained = train.train(
        cfg, drawn, steps=steps, batch_size=batch_size, lr=lr, seed=seed, threads=threads, backend=backend
    )
    loss = train.evaluate(cfg, trained.params, drawn, seed=seed)  # (t*tries,)
    best = train.best(loss, per=tries)  # (t,)
    W = to_host(trained.params["W"])[best]  # (t, n_hid, n_feat)
    cos = pair_cosines(W)  # (t, pairs)
    norms = geometry.norms(W).reshape(*cos.shape, 2).mean(axis=-1)  # (t, pairs)
    return Collapse(p, W, loss[best], cos, norms, (cos > COLLAPSED).sum(axis=-1))
