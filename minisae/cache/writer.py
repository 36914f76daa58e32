"""Writing a cache so that a kill at any moment loses no finished shard, and resuming gives the same bits.

Each shard is written under a temporary name, flushed to the disk, renamed, and only then entered in the log, which is
flushed too. Shards end at fixed row counts, statistics run over fixed blocks of the stored rows, and no file holds a
time stamp; so the bytes depend on the rows and the settings alone. Whoever resumes a cache, or writes a finished one
again, must bring the rows it holds: they are compared with the checksums in the log, shard by shard.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minisae.cache.arrays import STORED
from minisae.cache.batches import Piece, Rows, flat_batches, kept, passed_over
from minisae.cache.fill import NOTHING, boundary, fill
from minisae.cache.filters import KEEP_ALL, NORM_SAMPLE, Filters, check_filters, row_norms
from minisae.cache.format import (
    LOG,
    MANIFEST,
    Log,
    Manifest,
    check_shard,
    manifest_text,
    read_log,
    read_manifest,
)
from minisae.cache.reader import Cache, open_cache
from minisae.cache.shards import STATS_ROWS, locked, write_atomic
from minisae.errors import InputError

SHARD_BYTES = 256 * 2**20
"""Activations in a shard unless ``shard_rows`` is given; the shard being filled is held in memory."""


class Settings(NamedTuple):
    """What must agree between a writer and the cache it resumes."""

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
        The cache's folder: new, empty, or a cache of the same settings and rows, which is then completed; a finished
        one is left as it is.
    batches
        Yields ``(n, d_in)`` or ``(b, t, d_in)`` arrays of NumPy, PyTorch (bf16 too), JAX, TensorFlow, CuPy or DLPack,
        or dicts of ``acts`` (or several ``acts.<hook>`` of the same rows) with, where known, ``doc_id``, ``position``,
        ``token`` and ``mask`` (rows to keep), each ``(n,)`` or ``(b, t)``. To resume, yield the same rows again:
        those already written are compared with the cache, and one bit that differs is refused; or see ``start``.
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
        The producer's own first row: a producer that can skip, or that does not give the same bits twice, begins at
        :func:`rows_written` and says so here. Shards that reach back before ``start`` are not compared.
    progress
        Called after each batch with the source rows used up so far.

    Raises
    ------
    InputError
        For a folder that holds something else or other rows, wrong widths or types, rows that are not finite, a full
        disk, no rows.
    """
    settings = Settings(dtype, shard_rows, check_filters(filters), meta or {})
    try:
        producer = iter(batches)
    except TypeError:
        raise InputError(f"batches: expected something that yields arrays, got {type(batches).__name__}") from None
    rows = flat_batches(producer, start=start, source_dtype=source_dtype)
    return write_rows(Path(path), rows, settings, start=start, progress=progress)


def rows_written(path: str | Path) -> int:
    """Return how many rows of its source a cache has used up, finished or not; 0 where there is none yet."""
    folder = Path(path)
    return read_log(folder, read_manifest(folder)).seen if (folder / MANIFEST).exists() else 0


def write_rows(
    folder: Path,
    rows: Iterable[Rows],
    settings: Settings,
    *,
    start: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Cache:
    """Write or resume a cache; ``rows`` yields the source's rows from number ``start`` on."""
    if settings.dtype not in STORED:
        raise InputError(f"dtype: expected one of {', '.join(STORED)}, got {settings.dtype!r}")
    if settings.shard_rows is not None and settings.shard_rows < 1:
        raise InputError(f"shard_rows: expected a number >= 1, got {settings.shard_rows}")
    try:
        manifest = _existing(folder, settings)
        stream = None
        if manifest is None:
            skip = boundary(folder, NOTHING, start)
            manifest, stream = _first_look(kept(rows, dtype=settings.dtype, filters=settings.filters), settings)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder, MANIFEST, [manifest_text(manifest).encode()])
        with locked(folder / LOG) as log:
            done = _recover(folder, manifest, log)
            if stream is None:
                skip = boundary(folder, done, start)
                rest = passed_over(rows, start=start, skip=skip)
                stream = kept(rest, dtype=settings.dtype, filters=settings.filters)
            fill(folder, manifest, done, stream, log, progress, skip=skip)
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
