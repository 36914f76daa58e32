"""The same model at many densities: basic results from the best of several starts, and the geometry sweep.

Elhage et al. 2022: "Demonstrating superposition" draws ‖W_i‖ and WᵀW at each density, "The Geometry of Superposition"
draws D_i and D* over 1 / (1 − S). Instances lie density by density, the starts of one density next to each other.
Letters: instances i = densities × seeds, n_feat, n_hid.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models import geometry, models
from toy_models.data import Batch, check_density, independent
from toy_models.models import Config, Params
from toy_models.recognise import Recognition, recognise
from toy_models.train import Progress, best, evaluate, take, train

INVERSE_DENSITIES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
"""1 / (1 − S) of the geometry sweep."""


class Starts(NamedTuple):
    """Models trained at several densities from several starts."""

    density: np.ndarray
    """p = 1 − S of each density ``(densities,)``."""
    params: Params
    """Of the start with the lowest loss at each density ``(densities, …)``."""
    loss: np.ndarray
    """Of every start, on common rows ``(densities, seeds)``."""
    every: Params
    """Of every start ``(densities · seeds, …)``."""


class Sweep(NamedTuple):
    """The geometry of models trained at many densities; see :func:`geometry_sweep`."""

    inverse_density: np.ndarray
    """1 / (1 − S) of each instance ``(i,)``."""
    params: Params
    """W ``(i, n_hid, n_feat)`` and b ``(i, n_feat)``."""
    D: np.ndarray
    """Dimensionality of each feature ``(i, n_feat)``."""
    d_star: np.ndarray
    """D* = n_hid / ‖W‖_F² ``(i,)``."""
    sum_D: np.ndarray
    """ΣD_i ``(i,)``, n_hid at most."""
    n_learned: np.ndarray
    """Features learned ``(i,)``; see :func:`toy_models.geometry.learned`."""


def best_by_density(
    cfg: Config,
    densities: Any,
    *,
    seeds: int,
    steps: int,
    batch_size: int = 512,
    lr: float = 1e-3,
    importance: Any = None,
    exact: Batch | None = None,
    rows: int = 65_536,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "numpy",
) -> Starts:
    """Train independent features at each density from ``seeds`` starts, and choose the best by loss on common rows.

    Parameters
    ----------
    cfg : the model
    densities : p of every feature, one for each group of starts ``(densities,)``
    seeds : starts at each density
    steps, batch_size, lr, importance, threads, backend : as in :func:`toy_models.train.train`
    exact : a weighted batch with weights for each density (:func:`toy_models.exact.batch`), to choose by exact loss
    rows : number of common rows to choose by, without ``exact``
    seed : start of every random stream

    Raises
    ------
    InputError
        If a density is outside (0, 1], or a size makes no sense.
    """
    params = _trained(
        cfg, densities, seeds, steps=steps, batch_size=batch_size, lr=lr, importance=importance, seed=seed,
        threads=threads, backend=backend,
    )  # fmt: skip
    p = np.repeat(np.asarray(densities, np.float64), seeds)[:, None]  # (i, 1)
    test = exact or independent(p, n_feat=cfg.n_feat)
    if isinstance(test, Batch) and test.weights is not None and len(test.weights) > 1:
        test = Batch(test.x, np.repeat(test.weights, seeds, axis=0))
    loss = evaluate(cfg, params, test, importance=importance, rows=rows, seed=seed)  # (i,)
    chosen = take(params, best(loss, per=seeds))
    return Starts(p[::seeds, 0], chosen, loss.reshape(-1, seeds), params)


def geometry_sweep(
    *,
    n_feat: int = 100,
    n_hid: int = 10,
    inverse_densities: Sequence[float] = INVERSE_DENSITIES,
    steps: int = 8_000,
    batch_size: int = 512,
    lr: float = 2e-3,
    seeds: int = 1,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "numpy",
    progress: Progress | None = None,
) -> Sweep:
    """Train the ReLU output model at each density with importance 1, and measure how its features share dimensions.

    Elhage et al. 2022, "Uniform Superposition" (n = 400, m = 30 there). Nothing is chosen by loss: ``seeds`` instances
    at each density, all returned.

    Parameters
    ----------
    n_feat, n_hid : sizes of the model
    inverse_densities : 1 / (1 − S), 1 or above
    steps, batch_size, lr, threads, backend, progress : as in :func:`toy_models.train.train`
    seeds : instances at each density
    seed : start of every random stream

    Raises
    ------
    InputError
        If an inverse density is below 1, or a size makes no sense.
    """
    inverse = np.asarray(inverse_densities, np.float64)  # (densities,)
    if inverse.ndim != 1 or not inverse.size or not (inverse >= 1).all():
        raise InputError(f"inverse_densities: expected numbers of at least 1, got {inverse.tolist()}")
    params = _trained(
        Config(n_feat, n_hid), 1 / inverse, seeds, steps=steps, batch_size=batch_size, lr=lr, importance=None,
        seed=seed, threads=threads, backend=backend, progress=progress,
    )  # fmt: skip
    W = params["W"].astype(np.float64)  # (i, n_hid, n_feat)
    D = geometry.dimensionality(W)  # (i, n_feat)
    n_learned = np.array([int(geometry.learned(one).sum()) for one in W])  # (i,)
    return Sweep(
        np.repeat(inverse, seeds), params, D, geometry.dimensions_per_feature(W), D.sum(axis=1), n_learned
    )  # fmt: skip


def recognised(sweep: Sweep) -> tuple[Recognition, ...]:
    """Return what each instance of a sweep is made of, named by :func:`toy_models.recognise.recognise`."""
    return tuple(recognise(W) for W in sweep.params["W"])


def _trained(
    cfg: Config, densities: Any, seeds: int, *, steps: int, batch_size: int, lr: float, importance: Any, seed: int,
    threads: int | None, backend: str, progress: Progress | None = None,
) -> Params:  # fmt: skip
    """Return ``seeds`` instances at each density ``(densities · seeds, …)``, on the host."""
    models.check_config(cfg)
    check_number("seeds", seeds, least=1, whole=True)
    given = np.atleast_1d(np.asarray(densities, np.float64))  # (densities,)
    p = check_density("densities", np.repeat(given, seeds)[:, None], cfg.n_feat)  # (i, n_feat)
    params = train(
        cfg, independent(p), steps=steps, batch_size=batch_size, lr=lr, importance=importance, seed=seed,
        threads=threads, backend=backend, progress=progress,
    ).params  # fmt: skip
    return {name: to_host(p) for name, p in params.items()}
