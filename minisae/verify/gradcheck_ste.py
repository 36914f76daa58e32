"""Check of straight-through pseudo-derivatives, which are defined and not derived: two meanings that must hold.

A step ``1[pre > θ]`` or a code ``pre · 1[pre > θ]`` has a jump at θ and no derivative there. JumpReLU (Rajamanoharan et
al. 2024b, arXiv:2407.14435, sections 3 and 4) defines one with a kernel K of bandwidth ε:

    ð gate / ð θ = −K((pre − θ)/ε) / ε               ð code / ð θ = −θ K((pre − θ)/ε) / ε

That is (a) a formula, to be met to rounding. It is also (b) a derivative: that of the expectation when noise ``ε u``,
with ``u`` distributed as K, is added to ``pre``. By quadrature and a central difference in θ,

    S(θ) = ∫ K(u) F(pre + ε u, θ) du / ∫ K(u) du                     F: the gate, or the code

so a factor 1/ε too much, or a kernel whose integral is not 1, agrees with its own formula and fails here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.errors import InputError
from minisae.ops.kernels import KERNELS

KNOTS = np.array([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
"""Between these, and the same below 0, the kernels are smooth; what lies beyond does not change with θ."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
POINTS = np.linspace(-1.7, 1.7, 36)
"""Where a pseudo-derivative is looked at unless told otherwise: ``(pre − θ)/ε``, inside and outside of the window."""
STEP = 1e-4
"""Step in θ of the central difference, over ε."""


class SurrogateCheck(NamedTuple):
    """The result for one pseudo-derivative; the errors are relative to the largest value that is stated."""

    points: int
    """How many points were compared with the smoothed expectation; with the formula all are."""
    kinks: int
    """How many were not, because the kernel has a jump or a corner there."""
    formula: float
    """Largest distance from the stated formula; below 1e-12 where it is the same."""
    smoothed: float
    """Largest distance from the slope of the smoothed expectation; below 1e-6 where it is the same."""
    mass: float
    """Integral of the kernel; 1 for one that smooths without changing the size of the step."""


def check_surrogate(
    pseudo: Callable[[Array, Array], Array],
    *,
    kernel: str | Callable[[Array], Array] = "rectangle",
    bandwidth: float,
    of: str = "gate",
    pre: Array | None = None,
    theta: Array | None = None,
) -> SurrogateCheck:
    """Compare a pseudo-derivative with the formula that is stated for it, and with what it is the derivative of.

    Parameters
    ----------
    pseudo : function of ``pre (m,)`` and ``theta (m,)`` to the slopes ``(m,)`` with respect to each ``theta``
    kernel : a name of :data:`minisae.ops.kernels.KERNELS`, or a symmetric function of ``u``
    bandwidth : ε, above 0, in the unit of ``pre``
    of : ``"gate"``, the step, or ``"code"``, ``pre`` times the step
    pre, theta : float64 ``(m,)``, together; by default 36 points across the window of each of three thresholds

    Returns
    -------
    SurrogateCheck

    Raises
    ------
    InputError
        If an option is none of those, or ``pseudo`` returns another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from minisae.ops.kernels import step_slope_ste
    >>> def pseudo(pre, theta):
    ...     return -np.diag(step_slope_ste(pre[:, None], theta, kernel="quartic", bandwidth=0.3))
    >>> check = check_surrogate(pseudo, kernel="quartic", bandwidth=0.3)
    >>> check.formula < 1e-12, check.smoothed < 1e-6
    (True, True)
    >>> twice = check_surrogate(lambda pre, theta: 2 * pseudo(pre, theta), kernel="quartic", bandwidth=0.3)
    >>> round(twice.formula, 6)
    1.0
    """
    K = _kernel(kernel)
    if of not in ("gate", "code"):
        raise InputError(f"of: expected gate or code, got {of!r}")
    if not bandwidth > 0:
        raise InputError(f"bandwidth: expected a number above 0, got {bandwidth}")
    pre, theta = _points(pre, theta, bandwidth)
    claimed = np.asarray(pseudo(pre, theta))  # (m,)
    if claimed.shape != theta.shape:
        raise InputError(f"pseudo: expected slopes of shape {theta.shape}, got {claimed.shape}")
    weight = theta if of == "code" else np.ones_like(theta)  # (m,)
    stated = -weight * K((pre - theta) / bandwidth) / bandwidth  # (m,)
    slope, kinked = smoothed_slope(pre, theta, kernel=K, bandwidth=bandwidth, of=of)
    size = max(float(abs(stated).max()), float(np.finfo(np.float64).tiny))
    formula, smoothed = abs(claimed - stated) / size, abs(claimed - slope)[~kinked] / size
    return SurrogateCheck(
        int((~kinked).sum()), int(kinked.sum()), _largest(formula), _largest(smoothed), mass(K)
    )  # fmt: skip


def _largest(errors: Array) -> float:
    return float(errors.max(initial=0)) if np.isfinite(errors).all() else np.inf


def _kernel(kernel: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    if callable(kernel):
        return kernel
    if kernel not in KERNELS:
        raise InputError(f"kernel: expected one of {', '.join(KERNELS)}, got {kernel!r}")
    return KERNELS[kernel]


def _points(pre: Array | None, theta: Array | None, bandwidth: float) -> tuple[Array, Array]:
    """Return where to look."""
    if (pre is None) != (theta is None):
        raise InputError("pre: expected together with theta, or neither")
    if pre is None or theta is None:
        theta = np.repeat(bandwidth * np.array([0.4, 1.3, 5.7]), len(POINTS))  # (m,)
        return theta + bandwidth * np.tile(POINTS, 3), theta
    pre, theta = np.asarray(pre, np.float64), np.asarray(theta, np.float64)
    if pre.shape != theta.shape or pre.ndim != 1 or not len(pre):
        raise InputError(f"pre, theta: expected two arrays (m,) of one length, got {pre.shape} and {theta.shape}")
    return pre, theta


def smoothed_slope(
    pre: Array, theta: Array, *, kernel: Callable[[Array], Array], bandwidth: float, of: str
) -> tuple[Array, Array]:
    """Return the slope in θ of the smoothed expectation ``(m,)``, and where it has none, bool ``(m,)``.

    ``S`` is integrated from the edge ``u = (θ − pre)/ε`` upwards, piece by piece between :data:`KNOTS`.
    """

    def expectation(t: Array) -> Array:
        edge = (t - pre) / bandwidth  # (m,)
        knots = np.concatenate((-KNOTS[:0:-1], KNOTS))  # (n_knots,)
        low = np.maximum(edge[:, None], knots[:-1])  # (m, n_pieces)
        half = np.maximum(knots[1:] - low, 0) / 2  # (m, n_pieces)
        u = low[..., None] + half[..., None] * (1 + NODES)  # (m, n_pieces, n_nodes)
        height = pre[:, None, None] + bandwidth * u if of == "code" else 1.0  # (m, n_pieces, n_nodes), if any
        return ((kernel(u) * height) @ WEIGHTS * half).sum(axis=1)

    def difference(h: float) -> tuple[Array, Array]:
        up, down = expectation(theta + h), expectation(theta - h)
        return (up - down) / (2 * h), (up - 2 * middle + down) / h

    middle = expectation(theta)  # (m,)
    (wide, bend), (narrow, _) = difference(STEP * bandwidth), difference(STEP * bandwidth / 2)
    size = abs(wide).max(initial=0)
    # A smooth kernel bends by some STEP, and half of the step changes next to nothing.
    kinked = (abs(bend) > 0.05 * size + 1e-9) | (abs(wide - narrow) > 1e-7 * size + 1e-9)  # (m,)
    return narrow / mass(kernel), kinked


def mass(kernel: Callable[[Array], Array]) -> float:
    """Return the integral of a kernel over the whole line; beyond 1 in ``s = 1/u``, for heavy tails."""
    cuts = np.array([0, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1])  # (n_cuts,)
    half = np.diff(cuts)[:, None] / 2  # (n_pieces, 1)
    s = cuts[:-1, None] + half * (1 + NODES)  # (n_pieces, n_nodes)
    inner = np.array([0, 0.25, 0.5, 0.75, 1])  # (n_inner,)
    quarter = np.diff(inner)[:, None] / 2  # (n_quarters, 1)
    u = inner[:-1, None] + quarter * (1 + NODES)  # (n_quarters, n_nodes)
    both = sum(
        float((kernel(sign * u) @ WEIGHTS * quarter[:, 0]).sum())
        + float(((kernel(sign / s) / s**2) @ WEIGHTS * half[:, 0]).sum())
        for sign in (1.0, -1.0)
    )
    return both
