"""Arrays of any framework as NumPy arrays, without importing the framework."""

import sys
from typing import Any

import ml_dtypes
import numpy as np

from minisae.errors import InputError

BF16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
STORED: dict[str, np.dtype[Any]] = {"bf16": BF16, "fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
"""The types a cache can hold, by the names of the option ``dtype``."""

READABLE = (
    *STORED.values(),
    np.dtype(np.float64),
    np.dtype(ml_dtypes.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e5m2),
)


def to_numpy(a: Any, *, name: str = "array") -> np.ndarray:
    """Return anything array-like on the host as a NumPy array of the same shape; bf16 stays bf16.

    Takes NumPy, PyTorch (bf16 and tensors with gradients included), CuPy, JAX and TensorFlow arrays, and whatever
    else has ``__array__`` or ``__dlpack__``.

    Raises
    ------
    InputError
        For an object that is no array, or lies on a device it cannot be fetched from.
    """
    if isinstance(a, np.ndarray):
        return a
    try:
        if any(cls.__module__.partition(".")[0] == "torch" for cls in type(a).__mro__):
            return _from_torch(a)
        if hasattr(a, "get") and hasattr(a, "__cuda_array_interface__"):
            return np.asarray(a.get())
        if hasattr(a, "__array__") or isinstance(a, (list, tuple)):
            return np.asarray(a)
        if hasattr(a, "__dlpack__"):
            return np.from_dlpack(a)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise InputError(f"{name}: expected an array, got {type(a).__name__}: {' '.join(str(error).split())}") from None
    raise InputError(f"{name}: expected an array (NumPy, DLPack, __array__), got {type(a).__name__}")


def _from_torch(t: Any) -> np.ndarray:
    """Return a torch tensor's values; bf16 goes out as 16-bit integers, for torch refuses to hand it over as it is."""
    t = t.detach().cpu().contiguous()
    if str(t.dtype) == "torch.bfloat16":
        t = t.view(sys.modules["torch"].int16)
        return np.asarray(t.numpy()).view(BF16)
    return np.asarray(t.numpy())


def to_floats(a: Any, *, name: str = "array", source_dtype: str | None = None) -> np.ndarray:
    """Return activations as an array of a float type, of the same shape.

    ``source_dtype`` (``"bf16"``, ``"fp16"``) says what 2-byte integers or ``np.save``'s nameless type really are.

    Raises
    ------
    InputError
        For a type that is no float, with a hint where the bits may be bf16.
    """
    if source_dtype is not None and source_dtype not in STORED:
        raise InputError(f"source_dtype: expected one of {', '.join(STORED)}, got {source_dtype!r}")
    a = to_numpy(a, name=name)
    if a.dtype.newbyteorder("=") in READABLE:
        return np.asarray(a)
    nameless = a.dtype.kind == "V" or a.dtype.kind in "ui"
    if nameless and source_dtype and STORED[source_dtype].itemsize == a.dtype.itemsize:
        return np.asarray(a.view(STORED[source_dtype]))
    hint = "; if these are the bits of bfloat16, say so with source_dtype='bf16'" if a.dtype in ("V2", "u2") else ""
    raise InputError(f"{name}: expected float16, bfloat16, float32 or float64, got {a.dtype}{hint}")


def to_column(a: Any, *, name: str) -> np.ndarray:
    """Return a column (document, position or token) as int32, of the same shape; nothing is wrapped or rounded."""
    a = to_numpy(a, name=name)
    if a.dtype.kind not in "iu":
        raise InputError(f"{name}: expected whole numbers, got {a.dtype}")
    if a.size and (a.min() < -(2**31) or a.max() >= 2**31):
        raise InputError(f"{name}: expected numbers that fit 32 bits, got {a.min()} to {a.max()}")
    return np.asarray(a.astype(np.int32))


def bad_rows(x: np.ndarray) -> np.ndarray:
    """Return which rows of ``x (n, d_in)`` hold a NaN or an infinity: ``(n,)`` of bool."""
    bad = np.empty(len(x), bool)  # (n,)
    exponent = np.uint16(0x7F80 if x.dtype == BF16 else 0x7C00)
    for start in range(0, len(x), 4096):
        block = x[start : start + 4096]  # (b, d_in)
        if x.dtype.itemsize == 2:  # the exponent's bits tell it, without a conversion
            bad[start : start + 4096] = ((block.view(np.uint16) & exponent) == exponent).any(axis=1)
        else:
            bad[start : start + 4096] = ~np.isfinite(block).all(axis=1)
    return bad


def nonfinite_message(name: str, x: np.ndarray, bad: np.ndarray, numbers: np.ndarray) -> str:
    """Say in one line how many rows of ``x (n, d_in)`` are not finite, and the ``numbers (n,)`` of the first."""
    rows = np.flatnonzero(bad)  # (n_bad,)
    first = ", ".join(str(numbers[row]) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    with np.errstate(invalid="ignore"):
        nans = int(np.isnan(x[rows].astype(np.float32)).any(axis=1).sum())
    return (
        f"{name}: expected finite rows, got {len(rows)} of {len(x)} with NaN or infinity ({nans} with NaN; "
        f"rows {first}); drop them with drop_nonfinite (--drop-nonfinite)"
    )
