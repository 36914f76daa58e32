"""Filling shards from a stream of rows: those a cache holds already are compared with it, the others are written."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minisae.cache.batches import Piece, select
from minisae.cache.filters import row_norms
from minisae.cache.format import Log, Manifest, end_line, tensor_list
from minisae.cache.shards import ELSEWHERE, append, commit, compare, differs
from minisae.errors import InputError

NOTHING = Log((), False, 0, 0, False)
"""The log of a cache that is not there yet."""


def boundary(folder: Path, done: Log, start: int) -> int:
    """Return the source row from which a producer that begins at row ``start`` can be compared: a shard's first."""
    if not 0 <= start <= done.seen:
        raise InputError(f"start: expected 0 to {done.seen}, the rows already written to {folder}, got {start}")
    return next(row for row in (0, *(shard.seen for shard in done.shards), done.seen) if row >= start)


def fill(
    folder: Path,
    manifest: Manifest,
    done: Log,
    stream: Iterable[Piece],
    log: BinaryIO,
    progress: Callable[[int], None] | None,
    *,
    skip: int,
) -> None:
    """Gather the rows from source row ``skip`` on into shards, compare or commit each that is full, close the log."""
    buffers = {name: np.empty(shape, dtype) for name, dtype, shape in tensor_list(manifest, manifest.shard_rows)}
    index, count, used, end = sum(shard.seen <= skip for shard in done.shards), 0, skip, skip
    row0 = sum(shard.rows for shard in done.shards[:index])

    def settle() -> None:
        arrays = {name: buffer[:count] for name, buffer in buffers.items()}
        if index < len(done.shards):
            compare(folder, manifest, done.shards[index], arrays, seen=used)
        else:
            commit(folder, manifest, log, arrays, index=index, row0=row0, seen=used)

    for piece in stream:
        _conforms(piece, manifest)
        piece = select(piece, _within(piece, manifest))
        arrays, n, at = {**piece.acts, **piece.columns}, len(piece.source), 0
        while at < n:
            size = _size(folder, manifest, done, index)
            take = min(n - at, size - count)
            for name, buffer in buffers.items():
                buffer[count : count + take] = arrays[name][at : at + take]
            count, at = count + take, at + take
            used = int(piece.source[at - 1]) + 1
            if count == size:
                settle()
                index, row0, count = index + 1, row0 + size, 0
        end = piece.end
        if progress is not None:
            progress(end)
    _same_end(folder, done, index, end)
    if not index + count:
        raise InputError(f"batches: expected at least one row, got none{f' of {end} past the filters' if end else ''}")
    if count:
        settle()
        index, row0 = index + 1, row0 + count
    if not done.finished:
        append(log, end_line(row0, index, end))


def _size(folder: Path, manifest: Manifest, done: Log, index: int) -> int:
    """Return the rows of shard number ``index``; refuse one more than a cache has whose last rows are written."""
    if index < len(done.shards):
        return done.shards[index].rows
    if done.finished or (done.shards and done.shards[-1].rows < manifest.shard_rows):
        raise InputError(f"batches: expected the {done.seen} rows {folder} was written from, got more; {ELSEWHERE}")
    return manifest.shard_rows


def _same_end(folder: Path, done: Log, index: int, end: int) -> None:
    """Refuse a stream that ended at source row ``end`` before all shards were met, or elsewhere than at first."""
    if end < done.seen or (done.finished and end > done.seen):
        least = "" if done.finished else "at least "
        raise InputError(
            f"batches: expected {least}the {done.seen} rows {folder} was written from, got {end}; {ELSEWHERE}"
        )
    if index < len(done.shards):
        raise differs(folder, done.shards[index])


def _conforms(piece: Piece, manifest: Manifest) -> None:
    """Refuse rows that are not of the kind the cache already holds."""
    widths, columns = {name: x.shape[1] for name, x in piece.acts.items()}, tuple(piece.columns)
    if (widths, columns) != (manifest.d_in, manifest.columns):
        raise InputError(
            f"batches: expected widths {manifest.d_in} and columns {list(manifest.columns)} as in the cache, "
            f"got {widths} and {list(columns)}"
        )


def _within(piece: Piece, manifest: Manifest) -> np.ndarray:
    """Return which rows keep to the limit on the norm: ``(n,)`` of bool."""
    keep = np.ones(len(piece.source), bool)  # (n,)
    for name, limit in manifest.norm_limit.items():
        keep &= row_norms(piece.acts[name]) <= limit
    return keep
