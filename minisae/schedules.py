"""Schedules: plain functions from the step (counted from 0) to a factor or a value, on the host."""

import math

from minisae.errors import InputError

DECAYS = ("constant", "linear", "cosine", "quarter_cosine")


def warmup(step: int, steps: int) -> float:
    """Rise linearly to 1 over the first ``steps`` steps; step 0 already counts ``1 / steps``."""
    return 1.0 if step >= steps else (step + 1) / steps


def decay(step: int, *, total: int, start: int, shape: str = "linear") -> float:
    """Fall from 1 at step ``start`` to 0 at step ``total``, along a line, half or a quarter of a cosine, or stay at 1.

    Raises
    ------
    InputError
        If ``shape`` is none of :data:`DECAYS`.
    """
    if shape not in DECAYS:
        raise InputError(f"lr_decay: expected one of {', '.join(DECAYS)}, got {shape!r}")
    if shape == "constant" or step < start or total <= start:
        return 1.0
    done = min(1.0, (step - start) / (total - start))
    if shape == "quarter_cosine":
        return math.cos(math.pi / 2 * done)
    return 1 - done if shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def anneal(step: int, *, first: float, last: float, steps: int) -> float:
    """Go linearly from ``first`` at step 0 to ``last`` at step ``steps`` and stay there."""
    return last if step >= steps else first + (last - first) * step / steps
