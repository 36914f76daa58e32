"""Points that repel each other on a sphere: charges (Thomson 1904), and features that interfere (ReLU²).

A configuration is a frame ``X (d, k)`` of unit columns. Two energies, each with its gradient by hand:

    coulomb   E = Σ_{i<j} 1 / ‖x_i − x_j‖            ∂E/∂x_i = −Σ_j (x_i − x_j) / ‖x_i − x_j‖³
    relu2     E = Σ_i Σ_{j≠i} ReLU(x_i·x_j)²         ∂E/∂x_i = 4 Σ_{j≠i} ReLU(x_i·x_j) x_j

The second is what one active feature does to the others (:func:`toy_models.polytopes.relu_energy`, summed). The sphere
is reached by x = y/‖y‖, so that ∂E/∂y = (g − (g·x) x)/‖y‖ with g = ∂E/∂x.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.optimize import minimize

from minisae.backend import Array
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models.geometry import norms, unit_columns

Energy = Literal["coulomb", "relu2"]


class Configuration(NamedTuple):
    """The best of several descents."""

    X: Array
    """Unit columns ``(d, k)``."""
    energy: float
    """Of all points together; for "relu2" divide by k to compare with the table of polytopes."""
    energies: Array
    """Where each start ended, rising ``(starts,)``: other values than the first are other local minima."""


def coulomb(X: Array) -> tuple[float, Array]:
    """Return Σ_{i<j} 1/‖x_i − x_j‖ of the columns of ``X (d, k)`` and its gradient ``(d, k)``."""
    k = X.shape[1]
    apart = X[:, :, None] - X[:, None, :]  # (d, k, k)
    distance = np.sqrt((apart**2).sum(axis=0)) + np.eye(k)  # (k, k), 1 on the diagonal
    inverse = 1 / distance - np.eye(k)  # (k, k)
    return float(inverse.sum() / 2), -(apart / distance**3).sum(axis=2)


def relu2(X: Array) -> tuple[float, Array]:
    """Return Σ_i Σ_{j≠i} ReLU(x_i·x_j)² of the columns of ``X (d, k)`` and its gradient ``(d, k)``."""
    positive = np.maximum(X.T @ X, 0) * (1 - np.eye(X.shape[1]))  # (k, k)
    return float((positive**2).sum()), 4 * X @ positive


def minimise(
    k: int, d: int, rng: np.random.Generator, *, energy: Energy = "coulomb", starts: int = 8, steps: int = 2000
) -> Configuration:
    """Return the best configuration of ``k`` points on the unit sphere in ``d`` dimensions, from random starts.

    L-BFGS on unconstrained columns. Up to 2d points have relu2 energy 0 in many ways.

    Raises
    ------
    InputError
        For fewer than 2 points or dimensions, less than one start or step, or another energy.
    """
    for name, value, least in (("k", k, 2), ("d", d, 2), ("starts", starts, 1), ("steps", steps, 1)):
        check_number(name, value, least=least, whole=True)
    if energy not in get_args(Energy):
        raise InputError(f"energy: expected one of {', '.join(get_args(Energy))}, got {energy!r}")
    of = {"coulomb": coulomb, "relu2": relu2}[energy]

    def value_and_slope(flat: Array) -> tuple[float, Array]:
        Y = flat.reshape(d, k)  # (d, k)
        X = unit_columns(Y)  # (d, k)
        value, g = of(X)
        return value, ((g - (g * X).sum(axis=0) * X) / norms(Y)).ravel()

    ends = []
    for _ in range(starts):
        found = minimize(
            value_and_slope, rng.standard_normal(d * k), jac=True, method="L-BFGS-B",
            options={"maxiter": steps, "ftol": 1e-15, "gtol": 1e-9},
        )  # fmt: skip
        ends.append((float(found.fun), unit_columns(found.x.reshape(d, k))))
    ends.sort(key=lambda end: end[0])
    return Configuration(ends[0][1], ends[0][0], np.array([value for value, _ in ends]))
