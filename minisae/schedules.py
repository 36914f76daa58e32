"""Schedules: plain functions from the step (counted from 0) to a factor or a value, on the host."""

import math

from minisae.errors import InputError

DECAYS = ("constant", "linear", "cosine", "quarter_cosine")


def warmup(step: int, steps: int, *, begins: str = "first_step") -> float:
    """Rise linearly to 1 over the first ``steps`` steps.

    Step 0 already counts ``1 / steps``, or with ``begins="zero"`` nothing: then 1 is reached a step later.
    """
    return 1.0 if step >= steps else (step + (begins == "first_step")) / steps


def decay(step: int, *, total: int, start: int, shape: str = "linear", end: float = 0.0) -> float:
    """Fall from 1 at step ``start`` to ``end`` at step ``total``.

    Along a line, half or a quarter of a cosine; ``"constant"`` stays at 1.

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
        left = math.cos(math.pi / 2 * done)
    else:
        left = 1 - done if shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return end + (1 - end) * left


def anneal(step: int, *, first: float, last: float, steps: int) -> float:
    """Go linearly from ``first`` at step 0 to ``last`` at step ``steps`` and stay there."""
    return last if step >= steps else first + (last - first) * step / steps
