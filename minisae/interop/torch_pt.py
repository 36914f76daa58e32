"""Reading ``torch.save`` files without torch, and without ever running what a pickle says.

A ``.pt`` file is a pickle beside raw storages. The pickle is read by :mod:`minisae.interop.torch_pickle`, which notes
each tensor's shape and strides; any name but those that rebuild tensors is refused, named. Here the tensors are found
in the file. Both layouts are read: the zip archive of PyTorch 1.6 and later, and the older one, pickles and storages
in a row.
"""

import io
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from minisae.cache.header import addressable
from minisae.cache.lazy import stored_offset
from minisae.errors import InputError
from minisae.interop.torch_pickle import Storage, Tensor, load

MAX_PICKLE = 16 * 2**20
"""Longest pickle that is read, in bytes; tensors' values lie outside of it."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_DAMAGE = (
    zipfile.BadZipFile,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a damaged file can raise."""


class _Bytes(NamedTuple):
    """Where a storage's bytes lie in the file."""

    offset: int
    nbytes: int


def read_pt(path: str | Path, *, max_pickle: int = MAX_PICKLE) -> Any:
    """Return what a ``torch.save`` file holds, tensors as read-only NumPy arrays mapped from the file.

    Dicts, lists, tuples, numbers and text come back as they are; bf16 as ``ml_dtypes.bfloat16``. A pickle of more than
    ``max_pickle`` bytes is not looked at, nor is a content given back that has more parts and characters than that,
    whatever stands in it twice counted twice: so nobody who walks it walks long.

    Raises
    ------
    InputError
        For a pickle with any name but those that rebuild tensors (the name is in the message), and for damaged files.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path, max_pickle)
        with path.open("rb") as file:
            return _read_legacy(path, file, max_pickle)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror or error}") from None
    except _DAMAGE as error:
        what = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: expected a file of torch.save, got a damaged or foreign one ({what})") from None


def _read_zip(path: Path, max_pickle: int) -> Any:
    """Read the layout of PyTorch 1.6 and later."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise InputError(f"{path}: expected one data.pkl as torch.save writes it, got {len(pickles)}")
        root = pickles[0].removesuffix("data.pkl")
        if root.startswith("/") or ".." in root.split("/"):
            raise InputError(f"{path}: expected names inside the archive, got {pickles[0][:80]!r}")
        if members[pickles[0]].file_size > max_pickle:
            raise InputError(f"{path}: expected a pickle of at most {max_pickle} bytes, got a longer one")
        if members[pickles[0]].compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path}: expected an uncompressed data.pkl as torch.save writes it, got a packed one")
        if root + "byteorder" in members:
            with archive.open(root + "byteorder") as file:
                if file.read(16) != b"little":
                    raise InputError(f"{path}: expected little-endian values, got others")
        content = load(path, io.BytesIO(archive.read(pickles[0])), {}, most=max_pickle)

    def locate(storage: Storage) -> _Bytes:
        info = members.get(f"{root}data/{storage.key}")
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path}: expected an uncompressed storage {storage.key!r}, got none")
        return _Bytes(stored_offset(path, info), info.file_size)

    return _resolve(path, content, locate, max_pickle)


def _read_legacy(path: Path, file: IO[bytes], max_pickle: int) -> Any:
    """Read the layout before PyTorch 1.6: magic number, version, system, content, keys, then the storages."""
    storages: dict[str, Storage] = {}

    def part() -> Any:
        """Load the next pickle out of a window of the file: a length in it that lies allocates no more than that."""
        start = file.tell()
        window = io.BytesIO(file.read(max_pickle))
        content = load(path, window, storages, most=max_pickle)
        file.seek(start + window.tell())
        return content

    if part() != LEGACY_MAGIC:
        raise InputError(f"{path}: expected a file of torch.save, got another pickle")
    if part() != 1001:
        raise InputError(f"{path}: expected torch.save protocol 1001, got another")
    if not part().get("little_endian", True):
        raise InputError(f"{path}: expected little-endian values, got big-endian ones")
    content, keys = part(), part()
    size = path.stat().st_size
    places: dict[str, _Bytes] = {}
    for key in keys:
        if type(key) is not str:
            raise InputError(f"{path}: expected the keys of its storages, got something else")
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        place = _Bytes(file.tell(), count * storage.dtype.itemsize)
        if place.offset + place.nbytes > size:
            raise InputError(f"{path}: expected {place.nbytes} bytes for storage {key!r}, got a truncated file")
        places[key] = place
        file.seek(place.offset + place.nbytes)
    return _resolve(path, content, lambda storage: places[storage.key], max_pickle)


def _resolve(path: Path, content: Any, locate: Callable[[Storage], _Bytes], most: int) -> Any:
    """Replace the noted tensors by arrays, in dicts, lists and tuples; what stands in many places is done once.

    The parts and characters below each value are counted, once for each place: a list of twice the same list, forty
    deep, is short to read and takes for ever to walk or print.
    """
    done: dict[int, tuple[Any, int]] = {}
    raw = np.memmap(path, np.uint8, "r")  # (bytes,), once: each map holds a file open

    def resolve(part: Any) -> tuple[Any, int]:
        if isinstance(part, str | bytes):
            return part, 1 + len(part)
        if part is None or isinstance(part, int | float):
            return part, 1
        if id(part) not in done:
            done[id(part)] = one(part)
        return done[id(part)]

    def one(part: Any) -> tuple[Any, int]:
        if isinstance(part, Tensor):
            return _array(path, part, locate, raw), 1
        if isinstance(part, Storage):
            return _array(path, Tensor(part, 0, (part.size,), (1,)), locate, raw), 1
        if isinstance(part, dict):
            values, size = all_of(part.values(), sum(len(str(key)) for key in part))
            return dict(zip(part, values, strict=True)), size
        if isinstance(part, list | tuple):
            values, size = all_of(part, 0)
            return type(part)(values), size
        raise InputError(f"{path}: expected tensors and plain values, got a {type(part).__name__}")

    def all_of(parts: Iterable[Any], size: int) -> tuple[list[Any], int]:
        values, size = list[Any](), size + 1
        for part in parts:
            value, more = resolve(part)
            values.append(value)
            size += more
            if size > most:
                raise InputError(f"{path}: expected at most {most} parts, repetitions counted, got more")
        return values, size

    return resolve(content)[0]


def _array(path: Path, tensor: Tensor, locate: Callable[[Storage], _Bytes], raw: np.ndarray) -> np.ndarray:
    """Return one tensor as a view of the file's bytes ``raw``, its last element inside its storage."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    numbers = (tensor.offset, *shape, *strides)
    if len(shape) != len(strides):
        raise InputError(f"{path}: expected as many strides as sizes of a tensor, got {len(strides)} and {len(shape)}")
    if not all(0 <= number < 2**62 for number in numbers) or not addressable(shape, storage.dtype):
        raise InputError(f"{path}: expected sizes, strides and offsets of a tensor that memory can have, got others")
    if not math.prod(shape):
        return np.empty(shape, storage.dtype)
    place, width = locate(storage), storage.dtype.itemsize
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if (last + 1) * width > place.nbytes:
        raise InputError(f"{path}: expected {(last + 1) * width} bytes in storage {storage.key!r}, got {place.nbytes}")
    count = last + 1 - tensor.offset
    start = place.offset + tensor.offset * width
    values = raw.view(np.ndarray)[start : start + count * width].view(storage.dtype)  # (count,)
    steps = [stride * width for stride in strides]
    return np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False)
