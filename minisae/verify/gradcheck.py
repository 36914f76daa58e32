"""Finite-difference check of hand-written gradients: every entry, in float64, with detection of kinks.

For a scalar loss ``L(p)`` and a step ``h`` each entry of the analytic gradient is compared with the central difference
``(L(p + h) − L(p − h)) / 2h``. Where the two one-sided slopes disagree and go on disagreeing as ``h`` shrinks, the loss
has a kink there (ReLU at 0, a tie in TopK): the entry is counted as such and not compared, for it has no derivative.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.errors import InputError

SHRINK = 0.125
ATTEMPTS = 5
ROUNDING = 1e-13
BENT = 1e-3
FLOOR = 1e-2
"""Entries this much smaller than their parameter's largest are compared with that: rounding in the loss hides them."""


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
    base = loss(params)
    if not np.isfinite(base):
        raise InputError(f"loss: expected a finite number at the given parameters, got {base}")
    results = []
    for name, grad in grads.items():
        p = params[name]
        if p.dtype != np.float64:
            raise InputError(f"params[{name!r}]: expected float64 for finite differences, got {p.dtype}")
        if grad.shape != p.shape:
            raise InputError(f"grads[{name!r}]: expected shape {p.shape}, got {grad.shape}")
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
