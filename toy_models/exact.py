"""The expected loss without noise: a finite weighted batch that stands for the distribution, through the same code.

    E[L] = Σ_patterns Π_j p_j^{a_j} (1 − p_j)^{1 − a_j}  ∫ L(x) dx_active

Which features are present is summed over, their magnitudes are integrated by Gauss and Legendre's rule. L has kinks
where a pre-activation crosses zero, so the error falls with the square of the nodes only: compare like with like. At
small densities one active feature weighs most, and many nodes for it cost little. The pentagon of n_feat = 5, p = 0.05:

    nodes 8, max_active 3                 L = .0088411    b = −.2364      5,801 rows
    nodes 16, max_active 3                L = .0089172    b = −.2354     43,601
    nodes (256, 32, 12, 6, 3)             L = .0089035    b = −.2467     35,524
    nodes (2000, 200, 40, 10, 5)          L = .0089036    b = −.2463  1,103,126

Letters: instances i, rows n, n_feat.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from minisae.backend import to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models import models
from toy_models.data import Batch, check_density
from toy_models.models import Config, Params


def batch(
    density: Any,
    *,
    n_feat: int | None = None,
    nodes: int | Sequence[int] = 16,
    max_active: int | None = None,
    signed: bool = False,
) -> Batch:
    """Return the weighted batch of independent features: x ``(1, n, n_feat)``, weights ``(i, n)``.

    Parameters
    ----------
    density, n_feat, signed : as in :func:`toy_models.data.independent`
    nodes : for each active feature; or those of patterns with one, two, … active features, the last for all others too
    max_active : leave out patterns with more active features; their probability is then missing from the weights, and
        their loss from the total

    Raises
    ------
    InputError
        If a number is not whole or too small, or the batch would have more than two million rows.
    """
    p = check_density("density", density, n_feat)  # (i, width)
    width = p.shape[1]
    given = list(nodes) if isinstance(nodes, Iterable) and np.ndim(nodes) else [nodes]
    for one in given:
        check_number("nodes", one, least=1, whole=True)
    if max_active is not None:
        check_number("max_active", max_active, least=0, whole=True)
    if not given:
        raise InputError("nodes: expected a whole number or several, got none")
    most = width if max_active is None else min(max_active, width)
    per = [1, *given, *[given[-1]] * (most - len(given))]  # by number of active features
    total = sum(math.comb(width, k) * int(per[k]) ** k for k in range(most + 1))
    if total > 2_000_000:
        raise InputError(f"max_active: {total} rows are too many; ask for fewer nodes or fewer active features")
    x, weights, start = np.zeros((total, width)), np.empty((len(p), total)), 0
    for k in range(most + 1):
        grid, mass = _grid(per[k], k, -1.0 if signed else 0.0)
        for active in itertools.combinations(range(width), k):
            here = slice(start, start + len(grid))
            x[here, list(active)] = grid
            present = np.isin(np.arange(width), active)  # (width,)
            chance = np.where(present, p, 1 - p).prod(axis=1)  # (i,)
            weights[:, here] = chance[:, None] * mass
            start += len(grid)
    return Batch(x[None], weights)


def _grid(nodes: int, k: int, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the product of k rules on [low, 1]: points ``(nodes**k, k)`` and their weights ``(nodes**k,)``."""
    point, mass = np.polynomial.legendre.leggauss(nodes)
    index = np.array(list(itertools.product(range(nodes), repeat=k)), int).reshape(nodes**k, k)  # (n, k)
    return (low + (1 - low) * (point + 1) / 2)[index], (mass / 2)[index].prod(axis=1)


def loss_and_grads(
    cfg: Config, params: Params, rows: Batch, *, importance: Any = None, target: str = "identity"
) -> tuple[np.ndarray, Params]:
    """Return the loss of each instance ``(i,)`` and the gradient of every parameter, on a weighted batch."""
    out, cache = models.forward(params, rows.x, cfg)
    y = models.TARGETS[target](rows.x)  # (i, n, n_out)
    term = models.squared_error(out.x_hat, y, importance=importance, weights=rows.weights)
    return term.value, models.backward(params, cache, cfg, term.slopes)


def minimise(
    cfg: Config, params: Params, rows: Batch, *, importance: Any = None, target: str = "identity", steps: int = 500
) -> tuple[Params, np.ndarray]:
    """Return the local minimum next to each instance's parameters, and its loss ``(i,)``, in float64.

    L-BFGS (SciPy) on the hand-written gradient, one instance after the other.

    Parameters
    ----------
    cfg, params : the model and where to start ``(i, …)``
    rows : a weighted batch; x and weights for all instances, or one for each
    importance, target : as in :func:`toy_models.train.train`
    steps : L-BFGS's at most
    """
    check_number("steps", steps, least=0, whole=True)
    start = {name: np.asarray(to_host(p), np.float64) for name, p in params.items()}
    i = len(start["b"])
    weights = (
        None if importance is None else np.broadcast_to(np.atleast_2d(importance), (i, models.n_out(cfg)))
    )  # (i, n_out)
    found = {name: np.empty_like(p) for name, p in start.items()}
    loss = np.empty(i)  # (i,)
    for k in range(i):
        one = Batch(_pick(rows.x, k), None if rows.weights is None else _pick(rows.weights, k))
        scale = None if weights is None else weights[k : k + 1]  # (1, n_out)
        first = {name: p[k : k + 1] for name, p in start.items()}

        def value(flat: np.ndarray, one: Batch = one, scale: Any = scale, like: Params = first) -> Any:
            losses, grads = loss_and_grads(cfg, _unpack(flat, like), one, importance=scale, target=target)
            return losses[0], np.concatenate([grads[name].ravel() for name in like])

        flat = np.concatenate([p.ravel() for p in first.values()])  # (size,)
        result = minimize(
            value, flat, jac=True, method="L-BFGS-B", options={"maxiter": steps, "ftol": 1e-15, "gtol": 1e-12}
        )
        loss[k] = result.fun
        for name, p in _unpack(result.x, first).items():
            found[name][k] = p[0]
    return found, loss


def _pick(a: np.ndarray, k: int) -> np.ndarray:
    """Return what instance ``k`` sees, with its instance axis."""
    return a if len(a) == 1 else a[k : k + 1]


def _unpack(flat: np.ndarray, like: Params) -> Params:
    """Return parameters of the shapes of ``like`` from one vector."""
    params, start = {}, 0
    for name, p in like.items():
        params[name] = flat[start : start + p.size].reshape(p.shape)
        start += p.size
    return params
