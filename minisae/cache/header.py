"""The safetensors header by hand: eight bytes of length, JSON, then the tensors' bytes.

Nothing in the file is believed: lengths, shapes and offsets are checked against the file's size before anything is
allocated. The JSON is padded with spaces (which the format allows) so that the data starts on a page.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from minisae.errors import InputError

PAGE = 4096
MAX_HEADER = 100_000_000
"""Longest header that is read, in bytes; the safetensors library has the same limit."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


MOST_AXES = 32
MOST_BYTES = 2**62
"""An axis may have this many entries, and all axes but the empty ones together this many bytes."""


class Tensor(NamedTuple):
    """Where one tensor lies in its file: ``offset`` counts from the start of the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def build(tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes before the data, a whole number of pages; equal input gives equal bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, in the order of the file.

    Raises
    ------
    InputError
        For a file that is missing, truncated, or whose header lies about lengths, shapes, types or offsets.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            if len(head) < 8:
                raise InputError(f"{path}: expected a safetensors file, got {size} bytes")
            length = int.from_bytes(head, "little")
            if length > min(size - 8, MAX_HEADER):
                raise InputError(
                    f"{path}: expected a safetensors header of at most {min(size - 8, MAX_HEADER)} bytes, "
                    f"got a length of {length}; the file is truncated or damaged"
                )
            text = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from None
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON in the safetensors header, got {error}") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: expected a JSON object in the safetensors header, got {type(header).__name__}")
    header.pop("__metadata__", None)
    return _lay_out(path, header, 8 + length, size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object and refuse a key that stands twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name that stands twice")
    return result


def _lay_out(path: Path, header: dict[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """Turn the header's entries into tensors that fit into the file and do not overlap."""
    tensors = {name: _tensor(path, name, entry, start, size) for name, entry in header.items()}
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset < end:
            raise InputError(f"{path}: expected tensors that do not overlap, got {name[:80]!r} inside its neighbour")
        end = tensor.offset + tensor.nbytes
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> Tensor:
    """Check one entry of the header."""
    try:
        dtype, shape, (low, high) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: expected dtype, shape and data_offsets for {name[:80]!r}, got {str(entry)[:80]!r}"
        ) from None
    if not all(type(value) is int and value >= 0 for value in (*shape, low, high)) or high > MOST_BYTES:
        got = f"shape {shape}, offsets {low}, {high}"
        raise InputError(f"{path}: expected whole numbers from 0 to 2^62 for {name[:80]!r}, got {got[:160]!r}")
    if not addressable(shape, dtype):
        raise InputError(f"{path}: expected a shape that memory can have for {name[:80]!r}, got {str(shape)[:160]}")
    tensor = Tensor(dtype, shape, start + low)
    if tensor.nbytes != high - low:
        raise InputError(
            f"{path}: expected {tensor.nbytes} bytes for {name[:80]!r} of shape {shape}, got offsets {low} to {high}"
        )
    if start + high > size:
        raise InputError(f"{path}: expected {start + high} bytes for {name[:80]!r}, got {size}; it is truncated")
    return tensor


def addressable(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Return whether an array may have this shape; an empty one of great width cannot be made either."""
    if len(shape) > MOST_AXES or any(not 0 <= n <= MOST_BYTES for n in shape):
        return False
    return math.prod(n for n in shape if n) * dtype.itemsize <= MOST_BYTES


def mapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as read-only arrays over the file, of their shapes; nothing is read yet."""
    raw = np.memmap(path, np.uint8, "r")  # (bytes,), once: each map holds a file open
    return {
        name: raw[t.offset : t.offset + t.nbytes].view(t.dtype).reshape(t.shape)
        if t.nbytes
        else np.empty(t.shape, t.dtype)
        for name, t in tensors.items()
    }
