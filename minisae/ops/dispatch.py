"""One formula, and beside it a twin for speed.

A function under :func:`twin` has the textbook formula as its body, in the common subset of NumPy and CuPy. On plain
NumPy matrices its CPU twin runs instead, unless :func:`reference_ops` is on. On a GPU the formula runs and is counted
in :data:`fallbacks`, so that a missing kernel is never silent.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import numpy as np

from minisae.backend import Array

P = ParamSpec("P")
R = TypeVar("R")

_reference: ContextVar[bool] = ContextVar("reference", default=False)
fallbacks: Counter[str] = Counter()
"""How often an operation ran its formula on a device because it has no kernel there, by name."""


@contextmanager
def reference_ops() -> Iterator[None]:
    """Switch every twin off inside the ``with`` block: the formulas run, codes stay dense."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def known_false(flag: Array) -> bool:
    """Return whether a 0-d flag is false and looking is free: on the host, and the formulas are not asked for.

    Work that the flag multiplies by 0 may then be left out.
    """
    return isinstance(flag, np.bool_) and not flag and not _reference.get()


def twin(*, cpu: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put ``cpu`` beside the decorated formula: same arguments, same result within rounding.

    The twin is taken when the first argument is a NumPy matrix or a :class:`~minisae.ops.code.SparseCode`; with a
    leading instance axis, on a device, and under :func:`reference_ops` the formula runs.
    """

    def wrap(formula: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(formula)
        def op(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0]
            if _reference.get():
                return formula(*args, **kwargs)
            if isinstance(first, tuple) or (type(first) is np.ndarray and first.ndim == 2):
                return cpu(*args, **kwargs)  # type: ignore[no-any-return]
            if not isinstance(first, np.ndarray):
                fallbacks[formula.__name__] += 1
            return formula(*args, **kwargs)

        op.formula = formula  # type: ignore[attr-defined]
        return op

    return wrap
