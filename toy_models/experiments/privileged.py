"""Superposition in a privileged basis: with a ReLU on the hidden layer, neurons are monosemantic, or not.

Elhage et al. 2022, "Superposition in a Privileged Basis":

    h = ReLU(W x)       x_hat = ReLU(Wᵀ h + b)       L = Σ_j I_j (x_hat_j − x_j)²

Rotations of h change the loss here, so single neurons mean something: none of this holds for the models with a linear
hidden layer. As features get sparser neurons go from one feature each over codes like three features in two neurons to
every feature being a pair of neurons. There are many local optima: the paper keeps the best of 1000 models, and the
result of a single start means little.

The paper's own limits: given a bias in the hidden layer, or many more features than neurons, the model moves its
pre-activations to where the ReLU does nothing, and the basis is no longer privileged. This model has no such bias.

Letters: instances i, n_feat; neurons are the n_hid rows of W.
"""

from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.errors import InputError
from toy_models import geometry
from toy_models.data import check_density
from toy_models.experiments.sweep import best_by_density
from toy_models.models import Config

DENSITIES = (0.75, 0.3, 0.12, 0.03)
"""One for each regime: monosemantic; three features in two neurons; mixed; every feature a pair of neurons."""


class Privileged(NamedTuple):
    """The best of several starts at each density."""

    density: np.ndarray
    """``(t,)``"""
    W: np.ndarray
    """``(t, n_hid, n_feat)``"""
    b: np.ndarray
    """``(t, n_feat)``"""
    loss: np.ndarray
    """Of every start on the same rows ``(t, tries)``, increasing."""


class Neurons(NamedTuple):
    """What neurons serve."""

    features: np.ndarray
    """Number of features of each neuron ``(..., n_hid)``; 0 for one that is dead."""
    neurons: np.ndarray
    """Number of neurons of each feature ``(..., n_feat)``; 0 for one that is not learned."""
    mono: np.ndarray
    """Number of neurons with exactly one feature ``(...)``."""
    poly: np.ndarray
    """Number of neurons with several ``(...)``."""


def privileged(
    density: Any = DENSITIES,
    *,
    n_feat: int = 10,
    n_hid: int = 5,
    importance: Any = None,
    tries: int = 48,
    steps: int = 6000,
    batch_size: int = 256,
    lr: float = 3e-3,
    rows: int = 32_768,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "numpy",
) -> Privileged:
    """Train the model with a ReLU hidden layer from several positive starts, and keep the best at each density.

    Parameters
    ----------
    density : ``(t,)``
    n_feat, n_hid : features and neurons
    importance : I ``(n_feat,)``; by default 0.75^j, the paper's
    tries : starts at each density
    steps, batch_size, lr, seed, threads, backend : as in :func:`toy_models.train.train`
    rows : on which starts are compared

    Raises
    ------
    InputError
        If a number is out of range.
    """
    p = np.atleast_1d(np.asarray(density, np.float64))  # (t,)
    if p.ndim != 1 or tries < 1:
        raise InputError(f"density, tries: expected (t,) and at least 1, got shape {p.shape} and {tries}")
    check_density("density", p[:, None], n_feat)
    cfg = Config(n_feat, n_hid, hidden="relu", start="positive")
    if importance is None:
        importance = 0.75 ** np.arange(n_feat)  # (n_feat,)
    starts = best_by_density(
        cfg, p, seeds=tries, steps=steps, batch_size=batch_size, lr=lr, importance=importance, rows=rows, seed=seed,
        threads=threads, backend=backend,
    )  # fmt: skip
    return Privileged(p, starts.params["W"], starts.params["b"], np.sort(starts.loss, axis=1))


def serves(W: Array, *, share: float = 0.25, floor: float = 0.05) -> np.ndarray:
    """Return which features each neuron serves, bool ``(..., n_hid, n_feat)``.

    A neuron serves the features whose weight is above ``share`` times its own largest, sign kept: a negative weight
    keeps the neuron silent, or takes from an output. A neuron is dead, and serves none, if its largest weight is below
    ``floor`` times the largest of all.

    Raises
    ------
    InputError
        If W is no frame, or a threshold is outside [0, 1).
    """
    if not (0 <= share < 1 and 0 <= floor < 1):
        raise InputError(f"share, floor: expected numbers in [0, 1), got {share!r} and {floor!r}")
    w = to_host(geometry.frame(W))  # (..., n_hid, n_feat)
    top = w.max(axis=-1, keepdims=True)  # (..., n_hid, 1)
    alive = (top > 0) & (top >= floor * top.max(axis=-2, keepdims=True))  # (..., n_hid, 1)
    served: np.ndarray = alive & (w > share * top)  # (..., n_hid, n_feat)
    return served


def neurons(W: Array, *, share: float = 0.25, floor: float = 0.05) -> Neurons:
    """Return how many features each neuron serves, and how many neurons serve each feature.

    Parameters
    ----------
    W : ``(..., n_hid, n_feat)``
    share, floor : as in :func:`serves`
    """
    served = serves(W, share=share, floor=floor)  # (..., n_hid, n_feat)
    count = served.sum(axis=-1)  # (..., n_hid)
    return Neurons(count, served.sum(axis=-2), (count == 1).sum(axis=-1), (count > 1).sum(axis=-1))


def order(W: Array) -> np.ndarray:
    """Return neurons ``(n_hid,)`` in the order to draw them: few features first, then by their most important one."""
    served = serves(geometry.frame(W, batched=False))  # (n_hid, n_feat)
    first = np.where(served.any(axis=1), served.argmax(axis=1), served.shape[1])  # (n_hid,)
    return np.lexsort((first, served.sum(axis=1)))
