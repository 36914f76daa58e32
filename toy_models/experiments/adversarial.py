"""Superposition and adversarial vulnerability: the paper's analytic attack, and how it follows features per dimension.

Elhage et al. 2022, "The Relationship between Superposition and Adversarial Vulnerability". Moving x along column j of
G = WᵀW is what moves output j most, because h W reads x through G. The attack tries ± every such direction:

    x_adv = x ± ε G_j / ‖G_j‖,     ε = 0.1 · mean ‖x‖

and keeps the worst for every row; the target stays the clean x. Gradient attacks fail at high sparsity: the ReLU masks
the slope (ibid.). ε falls as features get sparser, so what is compared is the rise of the loss over ε².

Letters: instances i, rows n, n_feat, n_hid.
"""

from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.errors import InputError
from minisae.streams import generator
from toy_models import geometry, models
from toy_models.data import Data
from toy_models.models import Config, Params


class Attacked(NamedTuple):
    """What the attack does to each instance."""

    epsilon: np.ndarray
    """Norm of the attack ``(i,)``."""
    clean: np.ndarray
    """Loss without it ``(i,)``."""
    worst: np.ndarray
    """Loss with the worst direction for each row ``(i,)``."""
    relative: np.ndarray
    """Rise of the loss over ε², divided by that of the reference instance, ``(i,)``."""
    per_dim: np.ndarray
    """Features per dimension, ‖W‖_F² / n_hid, ``(i,)``."""


def directions(W: Array) -> np.ndarray:
    """Return the unit directions of the attack ``(..., n_feat, n_feat)``: row j is (WᵀW)_j / ‖(WᵀW)_j‖.

    A row of zeros stays zero: where nothing is learned, nothing can be attacked.
    """
    host = to_host(geometry.frame(W))  # (..., n_hid, n_feat)
    return np.asarray(geometry.unit_columns(host.swapaxes(-1, -2) @ host)).swapaxes(-1, -2)


def worst_errors(cfg: Config, params: Params, x: Any, *, epsilon: float, importance: Any = None) -> np.ndarray:
    """Return the error of every row under the worst direction of the attack, ``(n,)``, for one tied instance.

    Parameters
    ----------
    cfg, params : the model, W ``(1, n_hid, n_feat)`` and b ``(1, n_feat)``
    x : clean rows ``(n, n_feat)``, which stay the target
    epsilon : norm of the attack, not negative
    importance : I ``(n_feat,)``; by default all 1

    Raises
    ------
    InputError
        If the model is not tied, the shapes do not fit, or epsilon makes no sense.
    """
    rows = np.asarray(x, np.float64)  # (n, n_feat)
    if cfg.kind != "tied" or len(params["b"]) != 1 or rows.ndim != 2 or rows.shape[1] != cfg.n_feat:
        raise InputError(f"params, x: expected one tied instance and (n, {cfg.n_feat}), got {cfg.kind}, {rows.shape}")
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon: expected a number of at least 0, got {epsilon!r}")
    one = {name: np.asarray(to_host(p), np.float64) for name, p in params.items()}
    scale = np.ones(cfg.n_feat) if importance is None else np.asarray(importance, np.float64)  # (n_feat,)
    if scale.shape != (cfg.n_feat,):
        raise InputError(f"importance: expected ({cfg.n_feat},), got shape {scale.shape}")
    if epsilon == 0:
        return _errors(cfg, one, rows, rows, scale)
    along = epsilon * directions(one["W"][0])  # (n_feat, n_feat)
    worst = np.full(len(rows), -np.inf)  # (n,)
    for move in np.vstack([along, -along]):
        np.maximum(worst, _errors(cfg, one, rows + move, rows, scale), out=worst)
    return worst


def _errors(cfg: Config, params: Params, x: np.ndarray, target: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return the error of each row ``(n,)`` when the model sees ``x`` and should say ``target``, ``(n, n_feat)``."""
    error = models.forward(params, x[None], cfg)[0].x_hat[0] - target  # (n, n_feat)
    np.multiply(error, error, out=error)
    errors: np.ndarray = error @ importance  # (n,)
    return errors


def vulnerability(
    cfg: Config,
    params: Params,
    seen: Data,
    *,
    reference: int = 0,
    share: float = 0.1,
    importance: Any = None,
    rows: int = 1024,
    seed: int = 0,
) -> Attacked:
    """Attack every instance, and compare the rise of its loss over ε² with the reference's.

    Parameters
    ----------
    cfg, params : tied models ``(i, …)``
    seen : their data: one distribution for all instances, or one each
    reference : the instance without superposition, dense data
    share : ε as a share of the mean ‖x‖ of an instance's data
    importance : I ``(n_feat,)``; by default all 1
    rows : attacked rows of each instance, from the same random numbers
    seed : of the rows

    Raises
    ------
    InputError
        If the model is not tied, or a number is out of range.
    """
    if cfg.kind != "tied":
        raise InputError(f"cfg: expected a tied model, got {cfg.kind!r}")
    i = len(params["b"])
    if not (0 <= reference < i and share > 0 and rows >= 1 and seen.instances in (1, i)):
        got = f"{reference}, {share}, {rows}, {seen.instances}"
        raise InputError(
            f"reference, share, rows, data: expected one of {i} instances, above 0, 1, 1 or {i}, got {got}"
        )
    epsilon, clean, worst = np.empty(i), np.empty(i), np.empty(i)
    for k in range(i):
        part = slice(k, k + 1) if seen.instances > 1 else slice(0, 1)
        x = seen.sampler(part, rows, np.dtype(np.float64))(generator(seed, "toy_test")).x[0]  # (n, n_feat)
        one = {name: p[k : k + 1] for name, p in params.items()}
        epsilon[k] = share * np.sqrt((x * x).sum(axis=1)).mean()
        clean[k] = worst_errors(cfg, one, x, epsilon=0.0, importance=importance).mean()
        worst[k] = worst_errors(cfg, one, x, epsilon=float(epsilon[k]), importance=importance).mean()
    rise = (worst - clean) / epsilon**2  # (i,)
    if not rise[reference] > 0:
        raise InputError(f"reference: instance {reference} is not hurt by the attack, nothing to compare with")
    W = np.asarray(to_host(params["W"]), np.float64)  # (i, n_hid, n_feat)
    per_dim = (W * W).sum(axis=(1, 2)) / W.shape[1]  # (i,)
    return Attacked(epsilon, clean, worst, rise / rise[reference], per_dim)
