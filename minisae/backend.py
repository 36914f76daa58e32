"""NumPy or CuPy: the data decides, and this file is the only place that knows both.

Code elsewhere writes ``xp = namespace(x, ...)`` and the common subset of the two modules. ``resolve`` turns the
user's flag into a name, ``to_device`` and ``to_host`` are the only conversions.
"""

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any, Literal

import numpy as np

from minisae.errors import InputError

Array = Any
"""A NumPy or CuPy array. ``Any`` by design: the two share no base class."""

Backend = Literal["numpy", "cupy"]
FLAGS = ("numpy", "cupy", "auto")


def namespace(*arrays: Array) -> ModuleType:
    """Return the array module of the arguments (``numpy`` for scalars only).

    Imports nothing and keeps no state: the module that made the arrays is already loaded.

    Raises
    ------
    TypeError
        If the arguments come from two modules.
    """
    roots = {type(a).__module__.partition(".")[0] for a in arrays if hasattr(a, "dtype") and a.ndim > 0}
    if len(roots) > 1:
        raise TypeError(f"arrays from {' and '.join(sorted(roots))} mixed in one call; use to_device or to_host first")
    return sys.modules[roots.pop()] if roots else np


def to_device(a: Array, backend: str) -> Array:
    """Return ``a`` as an array of ``backend`` (a name from :func:`resolve`); no copy where it is one already."""
    if backend == "numpy":
        return to_host(a)
    xp = importlib.import_module(backend)
    return a if isinstance(a, xp.ndarray) else xp.asarray(a)


def to_host(a: Array) -> np.ndarray:
    """Return ``a`` as a NumPy array of the same memory order; the only exit from a device."""
    if isinstance(a, np.ndarray):
        return a
    return a.get(order="A") if hasattr(a, "get") else np.asarray(a)


def backend_of(a: Array) -> str:
    """Return the name of the array's backend, as :func:`to_device` takes it."""
    return namespace(a).__name__


def resolve(flag: str | None = None) -> str:
    """Turn ``"numpy"``, ``"cupy"`` or ``"auto"`` into a backend that works on this machine.

    ``None`` reads the environment variable ``MINISAE_BACKEND`` and falls back to ``"numpy"``. ``"auto"`` takes CuPy
    where it is installed and sees a device, and NumPy elsewhere.

    Raises
    ------
    InputError
        For an unknown name, and for ``"cupy"`` where CuPy or a device is missing.
    """
    source = "backend" if flag is not None else "MINISAE_BACKEND"
    flag = flag if flag is not None else os.environ.get("MINISAE_BACKEND", "numpy")
    if flag not in FLAGS:
        raise InputError(f"{source}: expected one of {', '.join(FLAGS)}, got {flag!r}")
    if flag == "numpy":
        return "numpy"
    missing = _why_no_cupy()
    if not missing:
        return "cupy"
    if flag == "auto":
        return "numpy"
    raise InputError(f"{source}: 'cupy' asked for, but {missing}")


def _why_no_cupy() -> str:
    """Return what is missing for CuPy, empty if nothing. ``is_available`` is the one probe that never raises."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'minisae[cuda13]' (or cuda12, to match the driver)"
    cupy = importlib.import_module("cupy")
    return "" if cupy.cuda.is_available() else "CuPy sees no CUDA device on this machine"
