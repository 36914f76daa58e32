"""One active feature at a time: exact losses, the best polygon of each size, and why digons come before pentagons.

As p → 0 the loss is ``Σ_k p^k (1 − p)^(n−k) L_k`` with L_1, exactly one feature active, in front (Elhage et al. 2022,
section "The geometry of superposition"). Chen, Lau, Mendel, Wei and Murfet 2023, "Dynamical versus Bayesian phase
transitions in a toy model of superposition" (arXiv 2310.06301), study data with always one active feature, chosen
uniformly: the loss is closed, and regular k-gons in two dimensions are its critical points.

With ``a = ‖W_j‖²`` and cosine c, feature j at x is returned as ``ReLU(ax + b)`` and disturbs a neighbour by
``ReLU(acx + b)``: negative interference is free, and a negative bias removes the small positive one.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models import polytopes
from toy_models.theory import checked_weights

STARTS = tuple((norm * norm, bias) for norm in (1.1, 1.5) for bias in (-0.05, -0.3, -0.7, -1.3))
"""Starting points ``(a, b)`` of the search for an optimum; each lies in another piece of the loss."""


def relu_square(slope: Array, bias: Array) -> Array:
    """Return ``∫₀¹ ReLU(sx + b)² dx`` for slopes s and biases b, broadcast: the loss put on another feature."""
    low, high = _active(slope, bias)
    return _square(slope, bias, low, high)


def self_error(slope: Array, bias: Array) -> Array:
    """Return ``∫₀¹ (x − ReLU(sx + b))² dx``: the loss of the active feature itself, s being ``‖W_j‖²``.

    Where the unit is on, ``((1 − s)x − b)²`` is integrated; where it is off, x².
    """
    low, high = _active(slope, bias)
    return _square(1 - slope, -bias, low, high) + (low**3 + 1 - high**3) / 3


def _active(slope: Array, bias: Array) -> tuple[Array, Array]:
    """Return the ends of the part of [0, 1] in which ``sx + b > 0``; equal where there is none."""
    s, b = np.broadcast_arrays(np.asarray(slope, dtype=np.float64), np.asarray(bias, dtype=np.float64))
    with np.errstate(over="ignore"):
        root = np.clip(-b / np.where(s == 0, 1, s), 0, 1)  # (...,)
    low = np.where(s > 0, root, 0)  # (...,)
    return low, np.where(s < 0, root, np.where((s > 0) | (b > 0), 1, 0))


def _square(slope: Array, bias: Array, low: Array, high: Array) -> Array:
    """Return ``∫ (sx + b)² dx`` from low to high."""
    return slope**2 * (high**3 - low**3) / 3 + slope * bias * (high**2 - low**2) + bias**2 * (high - low)


def one_hot_loss(W: Array, b: Array, *, importance: Array | None = None) -> float:
    """Return the exact loss of ``ReLU(WᵀWx + b)`` when one feature, any with equal chance, is active, U[0, 1].

    ``(1/n_feat) Σ_i Σ_j I_j ∫₀¹ (x[i = j] − ReLU(W_j·W_i x + b_j))² dx`` for ``W (n_hid, n_feat)``, ``b (n_feat,)``:
    Chen et al. 2023, the theoretical loss; times n_feat it is the L_1 of Elhage et al.
    """
    W, b = (np.asarray(to_host(part), dtype=np.float64) for part in (W, b))
    if W.ndim != 2 or b.shape != W.shape[1:] or not (W.size and np.isfinite(W).all() and np.isfinite(b).all()):
        raise InputError(f"W, b: expected finite (n_hid, n_feat) and (n_feat,), got shapes {W.shape} and {b.shape}")
    weights = checked_weights(importance, len(b))  # (n_feat,)
    gram = W.T @ W  # (n_feat, n_feat)
    losses = relu_square(gram, b[:, None])  # (n_feat, n_feat); of output j with input i active
    np.fill_diagonal(losses, self_error(np.diagonal(gram), b))
    return float(weights @ losses.sum(axis=1)) / len(b)


class Optimum(NamedTuple):
    """The best common norm and bias of a set of equivalent vectors."""

    norm: float
    bias: float
    loss: float
    """Of one represented feature; one that is not represented costs 1/3."""


def optimum(cosines: Array) -> Optimum:
    """Return the best norm and bias of vectors that all see the cosines ``(k−1,)`` of their neighbours.

    ``ℓ(a, b) = ∫(x − ReLU(ax + b))² + Σ_c ∫ReLU(acx + b)²`` is minimised by Newton's method from several starts, on
    slopes and curvature by hand (:func:`_newton_terms`). Without a positive cosine a = 1, b = 0 is exact.
    """
    c = np.asarray(to_host(cosines), dtype=np.float64)  # (m,)
    if c.ndim != 1 or not np.all(np.abs(c) <= 1 + 1e-9):
        raise InputError(f"cosines: expected one row of numbers in [-1, 1], got {cosines}")
    c = c[c > 1e-12]  # (m_pos,)
    if not c.size:
        return Optimum(1.0, 0.0, 0.0)
    found = [_newton(np.array(start), c) for start in STARTS]
    a, b, loss = min(found, key=lambda at: at[2])
    return Optimum(a**0.5, b, loss)


def _newton(start: Array, c: Array) -> tuple[float, float, float]:
    """Return a, b and the loss at the minimum below ``start (2,)``: a trust region keeps each Newton step in bounds."""

    def value(v: Array) -> float:
        return _newton_terms(v, c)[0]

    def slopes(v: Array) -> Array:
        return _newton_terms(v, c)[1]

    def curvature(v: Array) -> Array:
        return _newton_terms(v, c)[2]

    result = optimize.minimize(value, start, jac=slopes, hess=curvature, method="trust-exact", options={"gtol": 1e-12})
    return float(result.x[0]), float(result.x[1]), float(result.fun)


def _newton_terms(v: Array, c: Array) -> tuple[float, Array, Array]:
    """Return the loss at ``v = (a, b)``, its slopes ``(2,)`` and its curvature ``(2, 2)``.

    Every term is ``∫ e²`` over a part of [0, 1] with ``∂e = (kx, 1)``, up to sign, so the slopes are moments of e and
    the curvature is moments of ``(kx, 1)``. At the ends e² is continuous, so moving them adds nothing to the slopes;
    only the feature's own term, whose error there is ``e = x = t`` and not 0, adds to the curvature.
    """
    a, b = v
    gain = np.append(c, 1.0) * a  # (k,), the feature itself comes last
    low, high = _active(gain, b)
    k = np.append(c, 1.0)  # (k,)
    one, x1, x2 = ((high**n - low**n) / n for n in (1, 2, 3))
    slopes = 2 * np.stack([k * (gain * x2 + b * x1), gain * x1 + b * one])  # (2, k), of ∫ ReLU(kax + b)²
    slopes[:, -1] -= 2 * np.stack([x2[-1], x1[-1]])
    curvature = 2 * np.array([[k * k @ x2, k @ x1], [k @ x1, one.sum()]])  # (2, 2)
    t, turning = low[-1], float(0 < low[-1] < 1)
    curvature -= 2 * turning / a * t * np.array([[t * t, t], [t, 1]])
    loss = relu_square(gain[:-1], b).sum() + self_error(a, b)
    return float(loss), slopes.sum(axis=1), curvature


def polygon_cosines(k: int) -> Array:
    """Return the cosines ``(k−1,)`` that a vertex of the regular k-gon has with the others."""
    corners = polytopes.polygon(k)  # (2, k)
    return corners[:, 0] @ corners[:, 1:]


def polygon_optimum(k: int) -> Optimum:
    """Return the best norm and bias of the regular k-gon, and its loss a feature.

    Chen et al. 2023: (1.17046, −0.28230) at k = 5, (1.32053, −0.61814) at 6, (1.44839, −0.96691) at 7 and
    (1.55045, −1.29119) at 8; at 4 and below (1, 0).
    """
    return optimum(polygon_cosines(k))


def polygon_energy(k: int) -> float:
    """Return Chen et al.'s ``h_k = 3kℓ_k``: 0 at k = 4, then 0.23738, 0.86746, 1.74870, 2.77311."""
    return 3 * k * polygon_optimum(k).loss


def polygon_loss(k: int, n_feat: int, *, positive: int = 0) -> float:
    """Return the loss of a k-gon that leaves ``n_feat − k`` features out: Chen et al.'s ``L(k, c)``, c being n_feat.

    ``(h_k + c − k)/(3c)``. ``positive`` of those left out have the bias 1/(2c) (one of them is their "k⁺"): at β > 0 it
    costs ``(1/c)(1/3 − β + cβ²)``, as β is paid whatever is active, so each lowers the loss by ``1/(4c²)``.
    """
    _check_sizes(k, n_feat, positive)
    return (polygon_energy(k) + n_feat - k) / (3 * n_feat) - positive / (4 * n_feat**2)


def polygon_params(k: int, n_feat: int, *, positive: int = 0) -> tuple[Array, Array]:
    """Return ``W (2, n_feat)`` and ``b (n_feat,)`` of that solution: k vertices, then the features left out.

    These have W 0 and a negative bias, here −1/2: at bias 0 the loss falls towards positive ones. Vertex 0 is up.
    """
    _check_sizes(k, n_feat, positive)
    best = polygon_optimum(k)
    W, b = np.zeros((2, n_feat)), np.full(n_feat, -0.5)
    W[:, :k] = best.norm * polytopes.polygon(k)
    b[:k], b[k : k + positive] = best.bias, 1 / (2 * n_feat)
    return W, b


def _check_sizes(k: int, n_feat: int, positive: int) -> None:
    check_number("k", k, least=3, whole=True)
    check_number("n_feat", n_feat, least=k, whole=True)
    check_number("positive", positive, least=0, most=n_feat - k, whole=True)


class Packed(NamedTuple):
    """A shape of the library, and what it costs."""

    name: str
    k: int
    """Vectors."""
    d: int
    """Dimensions."""
    energy: float
    """``Σ_{i≠j} ReLU(cos)²`` over all k vectors: the interference that a ReLU without bias lets through."""


def packing_shapes() -> list[Packed]:
    """Return the library's shapes in at most three dimensions, with at most four vectors a dimension.

    The shapes of Elhage et al.'s "sticky" dimensionalities and their rivals. Of variants the cheapest counts: the
    square antiprism is Coulomb's, with energy 8 · 0.25573; the least that it can have is 16/(5 + 2√2) = 8 · 0.25548.
    """
    found: dict[str, Packed] = {}
    for shape in polytopes.LIBRARY:
        d, k = shape.frame.shape
        energy = float(polytopes.relu_energy(shape.frame).sum())
        if d <= 3 and k <= 4 * d and (shape.name not in found or energy < found[shape.name].energy):
            found[shape.name] = Packed(shape.name, k, d, energy)
    return list(found.values())


def packing_hull(shapes: list[Packed]) -> list[Packed]:
    """Return the shapes of which the cheapest mixtures are made: corners of the lower hull of (k/d, energy/d).

    Orthogonal components share nothing, so a model that keeps a given number of features a dimension pays least on the
    lower convex hull, by a mixture of the two corners beside it. Up to 2 features a dimension nothing is paid; then
    come pentagon and square antiprism, in the order of the plateaus 1/2, 2/5, 3/8. The argument is about shapes in at
    most three dimensions: ten vectors in four, each with six cosines of 1/6 and three of −2/3, cost 5/12 a dimension
    where pentagons cost 0.477 (:func:`toy_models.thomson.minimise` finds them, by energy "relu2").
    """
    corners = lower_hull([s.k / s.d for s in shapes], [s.energy / s.d for s in shapes])
    return [shapes[i] for i in corners]


def lower_hull(x: Array, y: Array) -> list[int]:
    """Return the indices of the corners of the lower convex hull of points ``x, y``, both ``(n,)``, by rising x."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    corners: list[int] = []
    for i in np.lexsort((y, x)).tolist():
        if corners and x[corners[-1]] == x[i]:
            continue
        while len(corners) > 1 and _bends_down(corners[-2], corners[-1], i, x, y):
            corners.pop()
        corners.append(i)
    return corners


def _bends_down(first: int, middle: int, last: int, x: Array, y: Array) -> bool:
    """Whether the middle point lies on or above the line from first to last, up to rounding."""
    turn = (x[middle] - x[first]) * (y[last] - y[first]) - (y[middle] - y[first]) * (x[last] - x[first])
    return bool(turn <= 1e-12 * (x[last] - x[first]) * max(1.0, np.ptp(y[[first, middle, last]])))
