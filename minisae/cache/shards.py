"""The steps of a crash-safe write: temporary name, flush to the disk, rename, then the line in the log."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minisae.cache import header
from minisae.cache.format import Manifest, Shard, Stats, log_line, row_bytes, tensor_list
from minisae.errors import InputError

if sys.platform != "win32":
    import fcntl

STATS_ROWS = 512
"""Rows of a block of the statistics: fixed, so that they do not depend on the batches."""

ELSEWHERE = "use a new folder"
"""What to do with rows that are not those of the cache they were to be written to."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """Open the log for appending, for one writer at a time."""
    with path.open("ab") as log:
        if sys.platform != "win32":
            try:
                fcntl.flock(log.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{path.parent}: expected one writer at a time, but another is at work") from None
        yield log


def append(log: BinaryIO, line: str) -> None:
    """Append a line to the log; it is on the disk when this returns."""
    log.write(line.encode())
    log.flush()
    os.fsync(log.fileno())


def commit(
    folder: Path, manifest: Manifest, log: BinaryIO, arrays: dict[str, np.ndarray], *, index: int, row0: int, seen: int
) -> None:
    """Write shard number ``index`` from its arrays, then its line in the log."""
    rows = len(next(iter(arrays.values())))
    name = f"shard-{index:06d}.safetensors"
    blobs, sha256 = encoded(manifest, arrays)
    nbytes = len(blobs[0]) + rows * (row_bytes(manifest, tuple(manifest.d_in)) + 4 * len(manifest.columns))
    stats = {tensor: moments(arrays[tensor]) for tensor in manifest.d_in}
    write_atomic(folder, name, blobs)
    append(log, log_line(Shard(name, rows, row0, seen, nbytes, sha256, stats)))


def compare(folder: Path, manifest: Manifest, shard: Shard, arrays: dict[str, np.ndarray], *, seen: int) -> None:
    """Refuse rows that are not, bit for bit, those of a shard already written."""
    if (seen, encoded(manifest, arrays)[1]) != (shard.seen, shard.sha256):
        raise differs(folder, shard)


def differs(folder: Path, shard: Shard) -> InputError:
    """Return the error for rows that are not those of a shard already written."""
    rows = f"rows {shard.row0} to {shard.row0 + shard.rows - 1}"
    return InputError(f"{folder / shard.file}: expected the data {rows} were written from, got others; {ELSEWHERE}")


def encoded(manifest: Manifest, arrays: dict[str, np.ndarray]) -> tuple[list[Any], str]:
    """Return the bytes of a shard, its header first, and their checksum."""
    head = header.build(
        tensor_list(manifest, len(next(iter(arrays.values())))), {"format": "minisae-cache", "version": "1"}
    )
    blobs: list[Any] = [head, *(a.reshape(-1).view(np.uint8) for a in arrays.values())]
    sha256 = hashlib.sha256()
    for blob in blobs:
        sha256.update(blob)
    return blobs, sha256.hexdigest()


def moments(x: np.ndarray) -> Stats:
    """Return the moments of the rows of ``x (n, d_in)``, in float64 over fixed blocks of rows."""
    total, squares, norms = np.zeros(x.shape[1]), np.zeros(x.shape[1]), 0.0
    for start in range(0, len(x), STATS_ROWS):
        block = x[start : start + STATS_ROWS].astype(np.float64)  # (b, d_in)
        total += block.sum(axis=0)
        block *= block
        squares += block.sum(axis=0)
        norms += float(np.sqrt(block.sum(axis=1)).sum())
    return Stats(total / len(x), norms / len(x), squares / len(x))


def write_atomic(folder: Path, name: str, blobs: Iterable[Any]) -> None:
    """Write a file so that it is there whole or not at all; a failed attempt leaves nothing."""
    part = folder / (name + ".part")
    try:
        with part.open("wb") as file:
            for blob in blobs:
                file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
