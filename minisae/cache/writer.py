"""Writing a cache so that a kill at any moment loses no finished shard, and resuming gives the same bits.

Each shard is written under a temporary name, flushed to the disk, renamed, and only then entered in the log, which is
flushed too. Shards end at fixed row counts, statistics run over fixed blocks of the stored rows, and no file holds a
time stamp; so the bytes depend on the rows and the settings alone.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minisae.cache.arrays import STORED
from minisae.cache.batches import Piece, Rows, flat_batches, kept, select
from minisae.cache.filters import KEEP_ALL, NORM_SAMPLE, Filters, check_filters, row_norms
from minisae.cache.format import (
    LOG,
    MANIFEST,
    Log,
    Manifest,
    check_shard,
    end_line,
    manifest_text,
    read_log,
    read_manifest,
    tensor_list,
)
from minisae.cache.reader import Cache, open_cache
from minisae.cache.shards import STATS_ROWS, append, commit, locked, write_atomic
from minisae.errors import InputError

SHARD_BYTES = 256 * 2**20
"""Activations in a shard unless ``shard_rows`` is given; the shard being filled is held in memory."""


class Settings(NamedTuple):
    """What must agree between a writer and the unfinished cache it resumes."""

    dtype: str = "bf16"
    shard_rows: int | None = None
    filters: Filters = KEEP_ALL
    meta: Mapping[str, Any] = {}
    documents: str | None = None
    """What ``doc_id`` means, where it is not clear from the batches."""


def write_cache(
    path: str | Path,
    batches: Iterable[Any],
    *,
    dtype: str = "bf16",
    shard_rows: int | None = None,
    meta: Mapping[str, Any] | None = None,
    filters: Filters = KEEP_ALL,
    source_dtype: str | None = None,
    start: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Cache:
    """Write an activation cache from anything that yields arrays; resume it where it was stopped.

    Parameters
    ----------
    path
        The cache's folder: new, empty, or an unfinished cache of the same settings, which is then completed.
    batches
        Yields ``(n, d_in)`` or ``(b, t, d_in)`` arrays of NumPy, PyTorch (bf16 too), JAX, TensorFlow, CuPy or DLPack,
        or dicts of ``acts`` (or several ``acts.<hook>`` of the same rows) with, where known, ``doc_id``, ``position``,
        ``token`` and ``mask`` (rows to keep), each ``(n,)`` or ``(b, t)``. To resume, yield the same rows again; those
        already written are passed over, or see ``start``.
    dtype
        ``"bf16"``, ``"fp16"`` or ``"fp32"``: the type rows are stored in.
    shard_rows
        Rows of a shard; by default as many as fill 256 MiB.
    meta
        What is known about the rows (model, hook, tokenizer, dataset, seed, what a row is), kept in the manifest.
    filters
        Which rows to keep. The median for ``max_norm`` is that of the first 65,536 rows the other filters keep.
    source_dtype
        What 2-byte integers or nameless 2-byte types in ``batches`` are (``"bf16"``, ``"fp16"``).
    start
        The producer's own first row: a producer that can skip begins at :func:`rows_written` and says so here.
    progress
        Called after each batch with the source rows used up so far.

    Raises
    ------
    InputError
        For a folder that holds something else, wrong widths or types, rows that are not finite, a full disk, no rows.
    """
    settings = Settings(dtype, shard_rows, check_filters(filters), meta or {})

    def rows_from(skip: int) -> Iterator[Rows]:
        if start > skip:
            raise InputError(f"start: expected at most the {skip} rows already written to {path}, got {start}")
        return flat_batches(batches, start=start, skip=skip, source_dtype=source_dtype)

    return write_rows(Path(path), rows_from, settings, progress=progress)


def rows_written(path: str | Path) -> int:
    """Return how many rows of its source a cache has used up, finished or not; 0 where there is none yet."""
    folder = Path(path)
    return read_log(folder, read_manifest(folder)).seen if (folder / MANIFEST).exists() else 0


def write_rows(
    folder: Path,
    rows_from: Callable[[int], Iterator[Rows]],
    settings: Settings,
    *,
    progress: Callable[[int], None] | None = None,
) -> Cache:
    """Write or resume a cache; ``rows_from(skip)`` yields the source's rows from number ``skip`` on."""
    if settings.dtype not in STORED:
        raise InputError(f"dtype: expected one of {', '.join(STORED)}, got {settings.dtype!r}")
    if settings.shard_rows is not None and settings.shard_rows < 1:
        raise InputError(f"shard_rows: expected a number >= 1, got {settings.shard_rows}")
    try:
        manifest = _existing(folder, settings)
        stream = None
        if manifest is None:
            manifest, stream = _first_look(kept(rows_from(0), dtype=settings.dtype, filters=settings.filters), settings)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder, MANIFEST, [manifest_text(manifest).encode()])
        with locked(folder / LOG) as log:
            done = _recover(folder, manifest, log)
            if not done.finished:
                if stream is None:
                    stream = kept(rows_from(done.seen), dtype=settings.dtype, filters=settings.filters)
                _fill(folder, manifest, done, stream, log, progress)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; finished shards are kept, run it again to resume"
        ) from None
    return open_cache(folder)


def _existing(folder: Path, settings: Settings) -> Manifest | None:
    """Return the manifest of a cache to resume, ``None`` for a folder that is free, and refuse any other."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the cache, got a file")
    names = sorted(entry.name for entry in folder.iterdir())
    if MANIFEST not in names:
        if [name for name in names if name != MANIFEST + ".part"]:
            raise InputError(
                f"{folder}: expected a new or empty folder or a cache to resume, got one with {names[0]!r}"
            )
        return None
    manifest = read_manifest(folder)
    wanted = {"dtype": settings.dtype, "filters": _plain(settings.filters._asdict()), "meta": _plain(settings.meta)}
    if settings.shard_rows is not None:
        wanted["shard_rows"] = settings.shard_rows
    for name, value in wanted.items():
        if getattr(manifest, name) != value:
            raise InputError(
                f"{folder}: expected a new folder or a cache written with the same {name} ({value}), "
                f"got one with {getattr(manifest, name)}"
            )
    return manifest


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON gives it back."""
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"meta: expected names and plain values (text, numbers, lists), got {error}") from None


def _first_look(stream: Iterator[Piece], settings: Settings) -> tuple[Manifest, Iterator[Piece]]:
    """Read the first rows to know widths, columns and the limit on the norm; give the rows back with the rest."""
    wanted = 1 if settings.filters.max_norm is None else NORM_SAMPLE
    pieces: list[Piece] = []
    while sum(len(piece.source) for piece in pieces) < wanted:
        piece = next(stream, None)
        if piece is None:
            break
        pieces.append(piece)
    if not sum(len(piece.source) for piece in pieces):
        rows = pieces[-1].end if pieces else 0
        raise InputError(
            f"batches: expected at least one row, got none{f' of {rows} past the filters' if rows else ''}"
        )
    d_in = {name: x.shape[1] for name, x in pieces[0].acts.items()}
    limits: dict[str, float] = {}
    if settings.filters.max_norm is not None:
        for name in d_in:
            norms = np.concatenate([row_norms(piece.acts[name]) for piece in pieces])[:NORM_SAMPLE]  # (sample,)
            limits[name] = settings.filters.max_norm * float(np.median(norms))
    each = STORED[settings.dtype].itemsize * sum(d_in.values())
    manifest = Manifest(
        dtype=settings.dtype,
        d_in=d_in,
        columns=tuple(pieces[0].columns),
        documents=settings.documents or pieces[0].documents,
        shard_rows=settings.shard_rows or max(STATS_ROWS, SHARD_BYTES // each // STATS_ROWS * STATS_ROWS),
        filters=_plain(settings.filters._asdict()),
        norm_limit=limits,
        meta=_plain(settings.meta),
    )
    return manifest, _chained(pieces, stream)


def _chained(pieces: list[Piece], stream: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the pieces, letting go of each, then the stream."""
    while pieces:
        yield pieces.pop(0)
    yield from stream


def _recover(folder: Path, manifest: Manifest, log: BinaryIO) -> Log:
    """Drop what a killed writer left half done: a torn last line and every temporary file."""
    done = read_log(folder, manifest)
    if done.torn:
        os.ftruncate(log.fileno(), done.nbytes)
        os.fsync(log.fileno())
    for name in folder.glob("*.part"):
        name.unlink()
    for shard in done.shards:
        check_shard(folder, shard, manifest)
    return done


def _fill(
    folder: Path,
    manifest: Manifest,
    done: Log,
    stream: Iterator[Piece],
    log: BinaryIO,
    progress: Callable[[int], None] | None,
) -> None:
    """Gather rows into shards, commit each that is full, and close the log."""
    size = manifest.shard_rows
    buffers = {name: np.empty(shape, dtype) for name, dtype, shape in tensor_list(manifest, size)}
    index, row0, fill = len(done.shards), sum(shard.rows for shard in done.shards), 0
    used = end = done.seen
    for piece in stream:
        _conforms(piece, manifest)
        piece = select(piece, _within(piece, manifest))
        arrays, n, at = {**piece.acts, **piece.columns}, len(piece.source), 0
        while at < n:
            take = min(n - at, size - fill)
            for name, buffer in buffers.items():
                buffer[fill : fill + take] = arrays[name][at : at + take]
            fill, at = fill + take, at + take
            used = int(piece.source[at - 1]) + 1
            if fill == size:
                commit(folder, manifest, log, buffers, index=index, row0=row0, seen=used)
                index, row0, fill = index + 1, row0 + size, 0
        end = piece.end
        if progress is not None:
            progress(end)
    if fill:
        last = {name: buffer[:fill] for name, buffer in buffers.items()}
        commit(folder, manifest, log, last, index=index, row0=row0, seen=used)
        index, row0 = index + 1, row0 + fill
    append(log, end_line(row0, index, end))


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
