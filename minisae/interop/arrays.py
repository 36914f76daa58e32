"""Arrays by name out of a checkpoint's file: safetensors, npz or ``torch.save``. Nothing in the file is believed.

What comes back of safetensors and ``torch.save`` lies in the file and is read only; members of an npz are in memory.
Sizes are compared with the file's before anything is allocated.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from minisae.cache import header
from minisae.cache.lazy import reading
from minisae.errors import InputError
from minisae.interop.torch_pt import read_pt

MAX_PICKLE = 2**20
"""Longest pickle of a checkpoint, in bytes: it holds names and shapes, no values."""
FREE = 2**24
"""Bytes to which a member of an npz may unpack whatever it is packed in."""
PACKED = 50
"""How many times its packed size a larger one may have: weights shrink by a tenth, a bomb grows a thousandfold."""


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, mapped.

    Raises
    ------
    InputError
        For a file that is missing, truncated, or whose header lies about lengths, shapes, types or offsets.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return {name: header.mapped(path, tensor) for name, tensor in header.read(path).items()}


def read_state(path: Path) -> dict[str, Any]:
    """Return the state dict in a ``torch.save`` file, tensors mapped; text and numbers in it come back as they are.

    Raises
    ------
    InputError
        For a pickle that names anything but tensors, a damaged file, something else than a dict of names, or a tensor
        with more entries than the file has bytes for.
    """
    content = read_pt(path, max_pickle=MAX_PICKLE)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected a state dict, got a {type(content).__name__}")
    size = path.stat().st_size
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.nbytes > size:
            raise InputError(f"{path}: expected {name[:80]!r} to fit the file, got shape {value.shape}")
    return content


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
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{path}: expected .npy version 1 or 2, got {version} in {name[:80]!r}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise InputError(f"{path}: expected numbers, got pickled objects in {name[:80]!r}, which are never loaded")
    need = dtype.itemsize
    for n in shape:
        need *= int(n)
    if need != size - file.tell() or min(shape, default=0) < 0:
        raise InputError(f"{path}: expected the bytes of shape {shape} in {name[:80]!r}, got {size - file.tell()}")
