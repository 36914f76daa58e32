"""Reading ``torch.save`` files without torch, and without ever running what a pickle says.

A ``.pt`` file is a pickle beside raw storages. The pickle is read by an unpickler to which only the names that rebuild
tensors exist, each bound to a function of this module that notes shape and strides; any other name is refused, named.
Both layouts are read: the zip archive of PyTorch 1.6 and later, and the older one, pickles and storages in a row.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from minisae.cache.lazy import stored_offset
from minisae.errors import InputError

MAX_PICKLE = 64 * 2**20
"""Longest pickle that is read, in bytes; tensors' values lie outside of it."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_DAMAGE = (
    pickle.UnpicklingError,
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


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Bytes(NamedTuple):
    """Where a storage's bytes lie in the file."""

    offset: int
    nbytes: int


def read_pt(path: str | Path, *, max_pickle: int = MAX_PICKLE) -> Any:
    """Return what a ``torch.save`` file holds, tensors as read-only NumPy arrays mapped from the file.

    Dicts, lists, tuples, numbers and text come back as they are; bf16 as ``ml_dtypes.bfloat16``. A pickle of more than
    ``max_pickle`` bytes is not looked at: what it builds can take a hundred times as much.

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
        if root + "byteorder" in members:
            with archive.open(root + "byteorder") as file:
                if file.read(16) != b"little":
                    raise InputError(f"{path}: expected little-endian values, got others")
        content = _unpickler(path, io.BytesIO(archive.read(pickles[0]))).load()

    def locate(storage: _Storage) -> _Bytes:
        info = members.get(f"{root}data/{storage.key}")
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path}: expected an uncompressed storage {storage.key!r}, got none")
        return _Bytes(stored_offset(path, info), info.file_size)

    return _resolve(path, content, locate)


def _read_legacy(path: Path, file: IO[bytes], max_pickle: int) -> Any:
    """Read the layout before PyTorch 1.6: magic number, version, system, content, keys, then the storages."""
    storages: dict[str, _Storage] = {}

    def load() -> Any:
        """Load the next pickle out of a window of the file: a length in it that lies allocates no more than that."""
        start = file.tell()
        window = io.BytesIO(file.read(max_pickle))
        content = _unpickler(path, window, storages).load()
        file.seek(start + window.tell())
        return content

    if load() != LEGACY_MAGIC:
        raise InputError(f"{path}: expected a file of torch.save, got another pickle")
    if load() != 1001:
        raise InputError(f"{path}: expected torch.save protocol 1001, got another")
    if not load().get("little_endian", True):
        raise InputError(f"{path}: expected little-endian values, got big-endian ones")
    content, keys = load(), load()
    size = path.stat().st_size
    places: dict[str, _Bytes] = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        place = _Bytes(file.tell(), count * storage.dtype.itemsize)
        if place.offset + place.nbytes > size:
            raise InputError(f"{path}: expected {place.nbytes} bytes for storage {key!r}, got a truncated file")
        places[key] = place
        file.seek(place.offset + place.nbytes)
    return _resolve(path, content, lambda storage: places[storage.key])


def _unpickler(path: Path, file: IO[bytes], storages: dict[str, _Storage] | None = None) -> pickle.Unpickler:
    """Return an unpickler that knows the names of :func:`_allowed` and no other."""
    _scan(path, file)
    allowed = _allowed()

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in allowed:
                named = "".join(f"{module}.{name}".split())[:160]
                raise InputError(f"{path}: expected tensors only, got a pickle that names {named}, which is refused")
            return allowed[module, name]

        def persistent_load(self, pid: Any) -> _Storage:
            kind, dtype, key, _, size, *_ = pid
            if kind != "storage" or not isinstance(key, str) or type(size) is not int or size < 0:
                raise InputError(f"{path}: expected a storage with its type, key and size, got something else")
            storage = _Storage(key, STORAGES[dtype], size)
            if storages is not None:
                storages[key] = storage
            return storage

    return Restricted(file)


def _scan(path: Path, file: IO[bytes]) -> None:
    """Look through the next pickle without loading it: a huge memo index would make the unpickler allocate as much."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name.endswith("PUT") and int(argument or 0) > MAX_PICKLE:
            raise InputError(f"{path}: expected memo indices that fit the pickle, got {argument}")
    file.seek(start)


def _allowed() -> dict[tuple[str, str], Any]:
    """Return what a pickle may name: functions made anew for each file, so that none can be tampered with, and text."""

    def rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def size(dims: Any) -> tuple[Any, ...]:
        return tuple(dims)

    names: dict[tuple[str, str], Any] = {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_tensor"): rebuild,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch", "Size"): size,
        ("torch", "device"): lambda *place: ":".join(str(part) for part in place if isinstance(part, str | int)),
        ("collections", "OrderedDict"): OrderedDict,
    }
    names |= {("torch", name): name for name in STORAGES}
    return names | {("torch", name): f"torch.{name}" for name in _DTYPES}


def _resolve(path: Path, content: Any, locate: Callable[[_Storage], _Bytes]) -> Any:
    """Replace the noted tensors by arrays, in dicts, lists and tuples; what stands in many places is done once."""
    done: dict[int, Any] = {}

    def resolve(part: Any) -> Any:
        if id(part) not in done:
            done[id(part)] = one(part)
        return done[id(part)]

    def one(part: Any) -> Any:
        if isinstance(part, _Tensor):
            return _array(path, part, locate)
        if isinstance(part, _Storage):
            return _array(path, _Tensor(part, 0, (part.size,), (1,)), locate)
        if isinstance(part, dict):
            return {key: resolve(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return type(part)(resolve(value) for value in part)
        return part

    return resolve(content)


def _array(path: Path, tensor: _Tensor, locate: Callable[[_Storage], _Bytes]) -> np.ndarray:
    """Map one tensor from the file, its last element inside its storage."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    numbers = (tensor.offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > 32:
        raise InputError(f"{path}: expected a tensor with its storage, shape and strides, got something else")
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise InputError(f"{path}: expected whole sizes, strides and offsets >= 0 of a tensor, got others")
    if not math.prod(shape):
        return np.empty(shape, storage.dtype)
    place, width = locate(storage), storage.dtype.itemsize
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if (last + 1) * width > place.nbytes:
        raise InputError(f"{path}: expected {(last + 1) * width} bytes in storage {storage.key!r}, got {place.nbytes}")
    count = last + 1 - tensor.offset
    raw = np.memmap(path, np.uint8, "r", place.offset + tensor.offset * width, (count * width,))  # (bytes,)
    values = raw.view(np.ndarray).view(storage.dtype)  # (count,)
    steps = [stride * width for stride in strides]
    return np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False)
