"""Arrays by name out of a checkpoint's file: safetensors, npz or ``torch.save``. Nothing in the file is believed.

What comes back of safetensors and ``torch.save`` lies in the file and is read only; members of an npz are in memory.
Sizes are compared with the file's before anything is allocated.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import numpy as np

from minisae.cache import header
from minisae.cache.lazy import npy_header, reading
from minisae.errors import InputError
from minisae.interop.torch_pt import read_pt

MAX_PICKLE = 2**18
"""Longest pickle of a checkpoint, in bytes: it holds names and shapes, a hundred bytes for a tensor, and no values."""
FREE = 2**24
"""Bytes to which a member of an npz may unpack whatever it is packed in."""
PACKED = 50
"""How many times its packed size a larger one may have: weights shrink by a tenth, a bomb grows a thousandfold."""
_READ: ContextVar[dict[Path, dict[str, Any]] | None] = ContextVar("_READ", default=None)


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Read each state dict once within: every format looks into it to recognise its own."""
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, mapped.

    Raises
    ------
    InputError
        For a file that is missing, truncated, or whose header lies about lengths, shapes, types or offsets.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return header.mapped(path, header.read(path))


def read_state(path: Path) -> dict[str, Any]:
    """Return the state dict in a ``torch.save`` file, tensors mapped; text and numbers in it come back as they are.

    Raises
    ------
    InputError
        For a pickle that names anything but tensors, a damaged file, something else than a dict of names, or a tensor
        with more entries than the file has bytes for.
    """
    known = _READ.get()
    if known is not None and path in known:
        return dict(known[path])
    content = read_pt(path, max_pickle=MAX_PICKLE)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected a state dict, got a {type(content).__name__}")
    size = path.stat().st_size
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.nbytes > size:
            raise InputError(f"{path}: expected {name[:80]!r} to fit the file, got shape {value.shape}")
    if known is not None:
        known[path] = content
    return dict(content)


def read_npz(path: Path, wanted: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file, all or those ``wanted``.

    Raises
    ------
    InputError
        For a damaged file, pickled objects, names with a path in them, members that unpack to far more than they are
        packed in, and headers that lie about the size.
    """
    arrays = {}
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if not info.filename.endswith(".npy") or "/" in name or "\\" in name:
                raise InputError(f"{path}: expected arrays NAME.npy, got a member {info.filename[:80]!r}")
            if info.file_size > max(FREE, PACKED * info.compress_size):
                raise InputError(f"{path}: expected arrays, got {name[:80]!r} that unpacks to {info.file_size} bytes")
            if name in arrays:
                raise InputError(f"{path}: expected each array once, got {name[:80]!r} twice")
            if wanted and name not in wanted:
                continue
            with archive.open(info) as file:
                _check_npy(path, name, file, info.file_size)
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _check_npy(path: Path, name: str, file: IO[bytes], size: int) -> None:
    """Refuse a member of an npz whose header does not fit its size."""
    shape, _, dtype = npy_header(file, path, name)
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise InputError(f"{path}: expected the bytes of shape {shape} in {name[:80]!r}, got {size - file.tell()}")
