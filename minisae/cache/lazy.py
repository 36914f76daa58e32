"""Arrays that lie in files and are read a stretch of rows at a time, so that an import needs little memory."""

import contextlib
import math
import tokenize
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from minisae.cache import header
from minisae.errors import InputError

STRETCH = 16 * 2**20
"""Bytes fetched at a time."""
NPY_HEADER = 10_000
"""Longest header of an ``.npy`` file that is read, in bytes, as NumPy itself reads them."""
_DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged file can raise: a RuntimeError is nesting too deep, or a member behind a password."""


class Lazy(NamedTuple):
    """An array in a file; ``read(start, stop)`` returns that stretch of its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], np.ndarray]


def in_memory(a: np.ndarray) -> Lazy:
    """Wrap an array that is there already (or mapped)."""
    return Lazy(a.shape, a.dtype, lambda start, stop: a[start:stop])


def flat_file(path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Lazy:
    """Return a C-ordered array that begins at byte ``offset`` of a file; refuse one that does not fit into the file."""
    width = math.prod(shape[1:]) * dtype.itemsize
    need, size = offset + shape[0] * width if shape else offset, path.stat().st_size
    if need > size:
        raise InputError(f"{path}: expected {need} bytes for an array of shape {shape}, got {size}; it is truncated")

    def read(start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *shape[1:]), dtype)
        read_bytes(path, offset + start * width, out)
        return out

    return Lazy(shape, dtype, read)


def read_bytes(path: Path, offset: int, out: np.ndarray) -> None:
    """Fill ``out`` from byte ``offset`` of a file."""
    target, done = out.reshape(-1).view(np.uint8).data, 0
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while done < len(target):
            got = file.readinto(target[done:])
            if not got:
                raise InputError(f"{path}: expected {len(target) - done} bytes more at its end; it is truncated")
            done += got


def forward(shape: tuple[int, ...], dtype: np.dtype[Any], pieces: Callable[[int], Iterator[np.ndarray]]) -> Lazy:
    """Return an array that can only be read forwards; ``pieces(start)`` yields it from row ``start`` on."""
    source: Iterator[np.ndarray] = iter(())
    at, rest = -1, np.empty((0, *shape[1:]), dtype)

    def read(start: int, stop: int) -> np.ndarray:
        nonlocal source, at, rest
        if start != at:
            source, rest = pieces(start), rest[:0]
        parts, have = [rest], len(rest)
        while have < stop - start:
            piece = next(source, None)
            if piece is None:
                raise InputError(f"array: expected {stop - start - have} rows more, got the end of the file")
            parts.append(piece)
            have += len(piece)
        whole = np.concatenate(parts) if len(parts) > 1 else rest
        at, rest = stop, whole[stop - start :]
        return whole[: stop - start]

    return Lazy(shape, dtype, read)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader of foreign files raises into one line."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: expected {what}, got {error.strerror or ' '.join(str(error).split())[:200]}"
        ) from None
    except _DAMAGE as error:
        raise InputError(f"{path}: expected {what}, got {' '.join(str(error).split())[:200]}") from None


def npy_header(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an ``.npy`` stream: shape, Fortran order, type. Pickled objects are refused.

    Raises
    ------
    InputError
        For another version, a header longer than NumPy writes one, pickled objects, or a shape no array can have.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{path}: expected .npy version 1 or 2, got {version} in {name[:80]!r}")
    start = file.tell()
    length = int.from_bytes(file.read(2 * version[0]), "little")
    if length > NPY_HEADER:
        raise InputError(f"{path}: expected an .npy header of at most {NPY_HEADER} bytes, got {length}")
    file.seek(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except (RecursionError, MemoryError, tokenize.TokenError):  # NumPy's parser of brackets in brackets, or left open
        raise InputError(f"{path}: expected an .npy header, got one whose brackets cannot be read") from None
    if dtype.hasobject:
        raise InputError(f"{path}: expected numbers, got pickled objects in {name[:80]!r}, which are never loaded")
    if not dtype.itemsize or not header.addressable(shape, dtype):
        raise InputError(f"{path}: expected a shape that memory can have in {name[:80]!r}, got {str(shape)[:160]}")
    return shape, fortran, dtype


def open_npy(path: Path) -> dict[str, Lazy]:
    """Open an ``.npy`` file."""
    with reading(path, "an .npy file"), path.open("rb") as file:
        shape, fortran, dtype = npy_header(file, path, path.name)
        if fortran and len(shape) > 1:
            return {"acts": in_memory(np.load(path, mmap_mode="r"))}
        return {"acts": flat_file(path, file.tell(), dtype, shape)}


def open_npz(path: Path) -> dict[str, Lazy]:
    """Open an ``.npz`` file; compressed members are read forwards only."""
    arrays = {}
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                shape, fortran, dtype = npy_header(file, path, info.filename)
                if fortran and len(shape) > 1:
                    raise InputError(f"{path}: expected C order, got Fortran order in {info.filename!r}")
                start = file.tell()
            name = info.filename.removesuffix(".npy")
            if info.compress_type == zipfile.ZIP_STORED:
                arrays[name] = flat_file(path, stored_offset(path, info) + start, dtype, shape)
            else:
                arrays[name] = _compressed(path, info, shape, dtype)
    return arrays


def _compressed(path: Path, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Lazy:
    """Return a compressed member as an array that is read forwards."""
    width = math.prod(shape[1:]) * dtype.itemsize
    step = max(1, STRETCH // max(width, 1))

    def pieces(start: int) -> Iterator[np.ndarray]:
        with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive, archive.open(info) as file:
            npy_header(file, path, info.filename)
            for row in range(0, shape[0], step):
                size = min(step, shape[0] - row)
                raw = file.read(size * width)
                if len(raw) < size * width:
                    raise InputError(f"{path}: expected {shape[0]} rows in {info.filename!r}, got fewer")
                if row + size > start:
                    yield np.frombuffer(raw, dtype).reshape(size, *shape[1:])[max(0, start - row) :]

    return forward(shape, dtype, pieces)


def stored_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of an uncompressed member of a zip archive begin."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise InputError(f"{path}: expected a member of the archive at byte {info.header_offset}, got something else")
    return info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def open_safetensors(path: Path) -> dict[str, Lazy]:
    """Open a safetensors file."""
    return {name: flat_file(path, t.offset, t.dtype, t.shape) for name, t in header.read(path).items()}
