"""The expected loss without noise: a finite weighted batch that stands for the distribution, through the same code.

    E[L] = Σ_patterns Π_j p_j^{a_j} (1 − p_j)^{1 − a_j}  ∫ L(x) dx_active

Which features are present is summed over, their magnitudes are integrated by Gauss and Legendre's rule. L has kinks
where a pre-activation crosses zero, so at 16 to 24 nodes the rule is good to about 1e-4: compare like with like.
Letters: instances i, rows n, n_feat.
"""

import itertools
from typing import Any

import numpy as np
from scipy.optimize import minimize

from minisae.backend import to_host
from minisae.errors import InputError
from toy_models import models
from toy_models.data import Batch, check_density
from toy_models.models import Config, Params


def batch(
    density: Any, *, n_feat: int | None = None, nodes: int = 16, max_active: int | None = None, signed: bool = False
) -> Batch:
    """Return the weighted batch of independent features: x ``(1, n, n_feat)``, weights ``(i, n)``.

    Parameters
    ----------
    density, n_feat, signed : as in :func:`toy_models.data.independent`
    nodes : for each active feature
    max_active : leave out patterns with more active features; their probability is then missing from the weights, and
        their loss from the total

    Raises
    ------
    InputError
        If the batch would have more than two million rows.
    """
    p = check_density("density", density, n_feat)  # (i, n_feat)
    width = p.shape[1]
    most = width if max_active is None else min(max_active, width)
    patterns = [a for k in range(most + 1) for a in itertools.combinations(range(width), k)]
    total = sum(nodes ** len(a) for a in patterns)
    if nodes < 1 or most < 0:
        raise InputError(f"nodes, max_active: expected at least 1 and 0, got {nodes} and {max_active}")
    if total > 2_000_000:
        raise InputError(f"max_active: {total} rows are too many; ask for fewer nodes or fewer active features")
    point, mass = np.polynomial.legendre.leggauss(nodes)  # (nodes,) each, on [−1, 1]
    mass = mass / 2  # (nodes,)
    point = point if signed else (point + 1) / 2  # (nodes,)
    x, weights, start = np.zeros((total, width)), np.empty((len(p), total)), 0
    for active in patterns:
        grid = list(itertools.product(range(nodes), repeat=len(active)))
        index = np.array(grid, int).reshape(len(grid), len(active))  # (rows, active)
        here = slice(start, start + len(grid))
        x[here, list(active)] = point[index]
        present = np.isin(np.arange(width), active)  # (n_feat,)
        chance = np.where(present, p, 1 - p).prod(axis=1)  # (i,)
        weights[:, here] = chance[:, None] * mass[index].prod(axis=1)
        start += len(grid)
    return Batch(x[None], weights)


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
    start = {name: np.asarray(to_host(p), np.float64) for name, p in params.items()}
    i = len(start["b"])
    weights = None if importance is None else np.broadcast_to(np.atleast_2d(importance), (i, models.n_out(cfg)))
    found = {name: np.empty_like(p) for name, p in start.items()}
    loss = np.empty(i)
    for k in range(i):
        one = Batch(_pick(rows.x, k), None if rows.weights is None else _pick(rows.weights, k))
        scale = None if weights is None else weights[k : k + 1]
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
