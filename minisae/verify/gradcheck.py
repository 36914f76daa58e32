"""Finite-difference check of hand-written gradients, in float64, with detection of kinks: every entry, or directions.

For a scalar loss ``L(p)`` and a step ``h`` each entry of the analytic gradient is compared with the central difference
``(L(p + h) − L(p − h)) / 2h``. Where the two one-sided slopes disagree and go on disagreeing as ``h`` shrinks, the loss
has a kink there (ReLU at 0, a tie in TopK): the entry is counted as such and not compared, for it has no derivative.

A large case has too many entries. :func:`check_directions` compares the slope along a few random unit vectors ``u`` of
each parameter with ``Σ g u``: an error in one entry shows there with its share of the gradient's norm.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.errors import InputError
from minisae.streams import generator

SHRINK = 0.125
ATTEMPTS = 5
ROUNDING = 1e-13
BENT = 1e-3
FLOOR = 1e-2
"""Entries this much smaller than their parameter's largest are compared with that: rounding in the loss hides them."""
STEADY = 1e-8
"""How well the slope along a direction must agree with that of half the step, relative to its size."""


class GradientCheck(NamedTuple):
    """The result for one parameter."""

    name: str
    """Which parameter."""
    entries: int
    """How many entries were compared."""
    kinks: int
    """How many were not, because the loss has a kink there."""
    error: float
    """Largest ``|numeric − analytic| / max(|numeric|, |analytic|, FLOOR · largest |analytic| of this parameter)``;
    infinite where one of them is not finite."""
    worst: tuple[int, ...]
    """Index of the entry with the largest error."""


def check_gradients(
    loss: Callable[[dict[str, Array]], float],
    params: dict[str, Array],
    grads: dict[str, Array],
    *,
    step: float = 1e-5,
) -> list[GradientCheck]:
    """Compare ``grads`` with finite differences of ``loss``, entry by entry.

    Parameters
    ----------
    loss : function of the parameters to a number; called about twice an entry
    params : float64 NumPy arrays by name; changed during the check and put back
    grads : analytic gradients by name, of the same shapes; parameters without an entry are not checked
    step : first ``h``; it is divided by 8 up to four times where the one-sided slopes disagree

    Returns
    -------
    list of GradientCheck
        One for each name in ``grads``.

    Raises
    ------
    InputError
        If a parameter is not float64, a gradient has another shape than its parameter, or the loss is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> p = {"w": np.array([1.0, -2.0, 0.0])}
    >>> [check] = check_gradients(lambda q: float(np.abs(q["w"]).sum()), p, {"w": np.array([1.0, -1.0, 0.0])})
    >>> check.entries, check.kinks, check.error < 1e-9
    (2, 1, True)
    """
    base = _base(loss, params, grads)
    results = []
    for name, grad in grads.items():
        p = params[name]
        top = float(np.abs(grad[np.isfinite(grad)]).max(initial=0))
        error, worst, kinks = 0.0, (0,) * p.ndim, 0
        for index in np.ndindex(*p.shape):
            slope = _slope(loss, params, p, index, base, step, top)
            if slope is None:
                kinks += 1
                continue
            size = max(abs(slope), abs(grad[index]), FLOOR * top)
            finite = np.isfinite(slope) and np.isfinite(grad[index])
            miss = (float(abs(slope - grad[index]) / size) if size > 0 else 0.0) if finite else np.inf
            if miss > error:
                error, worst = miss, index
        results.append(GradientCheck(name, p.size - kinks, kinks, error, worst))
    return results


def _base(loss: Callable[[dict[str, Array]], float], params: dict[str, Array], grads: dict[str, Array]) -> float:
    """Return the loss at the parameters, after a look at dtypes and shapes."""
    for name, grad in grads.items():
        if name not in params:
            raise InputError(f"grads[{name!r}]: expected one of {', '.join(params)}, got that")
        if params[name].dtype != np.float64:
            raise InputError(f"params[{name!r}]: expected float64 for finite differences, got {params[name].dtype}")
        if grad.shape != params[name].shape:
            raise InputError(f"grads[{name!r}]: expected shape {params[name].shape}, got {grad.shape}")
    base = loss(params)
    if not np.isfinite(base):
        raise InputError(f"loss: expected a finite number at the given parameters, got {base}")
    return base


def _slope(
    loss: Callable[[dict[str, Array]], float],
    params: dict[str, Array],
    p: Array,
    index: tuple[int, ...],
    base: float,
    h: float,
    top: float,
) -> float | None:
    """Return the central difference at one entry, or ``None`` at a kink."""
    kept = p[index]
    previous = np.inf
    try:
        for _ in range(ATTEMPTS):
            p[index] = kept + h
            up = loss(params)
            p[index] = kept - h
            down = loss(params)
            right, left = (up - base) / h, (base - down) / h
            bend, noise = abs(right - left), 100 * ROUNDING * abs(base) / h
            # A smooth loss bends by h · L'', so an eighth of the step bends by an eighth; a kink does neither.
            flat = bend <= noise + BENT * max(abs(right), abs(left), top) * min(1.0, h / 1e-5)
            if flat or abs(bend - SHRINK * previous) < 0.1 * bend:
                return (right + left) / 2
            previous, h = bend, h * SHRINK
    finally:
        p[index] = kept
    return None


def check_directions(
    loss: Callable[[dict[str, Array]], float],
    params: dict[str, Array],
    grads: dict[str, Array],
    *,
    seed: int = 0,
    directions: int = 8,
    step: float = 1e-4,
) -> list[GradientCheck]:
    """Compare ``grads`` with the slopes of ``loss`` along random unit vectors of each parameter, for large cases.

    Parameters
    ----------
    loss, params, grads : as in :func:`check_gradients`; ``loss`` is called four to twenty times a direction
    seed : of the stream ``"gradcheck"`` that the directions are drawn from
    directions : how many for each parameter
    step : first ``h``, a length in the parameter's space; divided by 8 up to four times where the slope is not steady

    Returns
    -------
    list of GradientCheck
        One for each name in ``grads``; ``entries`` and ``kinks`` count directions and ``worst`` is the number of one.
        ``error`` is relative to the larger of both slopes, and at least to the gradient's norm over the root of its
        size, the slope to be expected.

    Raises
    ------
    InputError
        As :func:`check_gradients`, or if ``directions`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.random.default_rng(0).standard_normal((300, 500))
    >>> [check] = check_directions(lambda q: float((q["w"] ** 3).sum()), {"w": w}, {"w": 3 * w**2})
    >>> check.entries, check.error < 1e-7
    (8, True)
    """
    if directions < 1:
        raise InputError(f"directions: expected at least 1, got {directions}")
    base = _base(loss, params, grads)
    rng = generator(seed, "gradcheck")
    results = []
    for name, grad in grads.items():
        p, error, worst, kinks = params[name], 0.0, 0, 0
        if not np.isfinite(grad).all():
            results.append(GradientCheck(name, directions, 0, np.inf, (0,)))
            continue
        usual = float(np.sqrt(np.square(grad).mean())) if grad.size else 0.0
        for number in range(directions):
            u = rng.standard_normal(p.shape)
            u /= np.sqrt(np.square(u).sum())
            stated = float((grad * u).sum())
            slope = _along(loss, params, name, u, base, step, max(usual, abs(stated)))
            if slope is None:
                kinks += 1
                continue
            size = max(abs(slope), abs(stated), usual)
            miss = (abs(slope - stated) / size if size > 0 else 0.0) if np.isfinite(slope) else np.inf
            if miss > error:
                error, worst = miss, number
        results.append(GradientCheck(name, directions - kinks, kinks, error, (worst,)))
    return results


def _along(
    loss: Callable[[dict[str, Array]], float],
    params: dict[str, Array],
    name: str,
    u: Array,
    base: float,
    h: float,
    size: float,
) -> float | None:
    """Return the slope along ``u``, or ``None`` at a kink.

    Of a smooth loss the central difference hardly changes when the step is halved, and the bend halves with it. A kink
    at some distance stops to matter once the step is shorter; one at the very point leaves the bend as it is.
    """
    p = params[name]
    kept = p.copy()

    def at(t: float) -> float:
        p[...] = kept + t * u
        return loss(params)

    try:
        for _ in range(ATTEMPTS):
            (up, down), (near_up, near_down) = ((at(t), at(-t)) for t in (h, h / 2))
            wide, narrow = (up - down) / (2 * h), (near_up - near_down) / h
            bend, near_bend = (up - 2 * base + down) / h, (near_up - 2 * base + near_down) / (h / 2)
            noise = 100 * ROUNDING * max(abs(base), abs(up)) / h
            allowed = noise + max(STEADY, h * h) * max(abs(narrow), size)
            if abs(wide - narrow) <= allowed and abs(bend - 2 * near_bend) <= 10 * allowed:
                return (4 * narrow - wide) / 3
            h *= SHRINK
    finally:
        p[...] = kept
    return None
