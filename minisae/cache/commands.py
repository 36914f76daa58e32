"""What ``minisae cache import``, ``info`` and ``check`` do, and one line for what is no cache."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisae.cache.filters import KEEP_ALL, Filters, check_filters
from minisae.cache.format import LOG, MANIFEST, check_shard, read_log, read_manifest
from minisae.cache.lazy import npy_header, reading
from minisae.cache.reader import Cache, damaged_shards, open_cache
from minisae.cache.sources import open_tables, table_rows
from minisae.cache.writer import Settings, write_rows
from minisae.errors import InputError

RUN, SAVED = "run.json", "cfg.json"
"""The files that tell a run, and a saved autoencoder."""


def expect_cache(path: Path, *, array: bool = False) -> None:
    """Refuse a path that can be no cache; with ``array`` an ``.npy`` file will do.

    Raises
    ------
    InputError
        One line on what it is instead, and how to make a cache of it.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file{'' if array and path.suffix == '.npy' else ' or folder'}")
    wanted = f"expected an activation cache{' (a folder) or a .npy file' if array else ' (a folder)'}"
    if path.is_dir():
        if (path / MANIFEST).exists() or (path / LOG).exists():
            return
        for name, what in ((RUN, "a run"), (SAVED, "a saved autoencoder")):
            if (path / name).exists():
                raise InputError(f"{path}: expected an activation cache, this is {what}")
        raise InputError(f"{path}: {wanted}, got a folder without {MANIFEST}")
    if not array or path.suffix != ".npy":
        raise InputError(f"{path}: {wanted}; make a cache with: minisae cache import {path} --out CACHE")


def opened(path: Path, *, verify: bool) -> Cache | np.ndarray:
    """Open a cache, or map an ``.npy`` array ``(n, d_in)``."""
    expect_cache(path, array=True)
    if path.is_dir():
        return open_cache(path, verify=verify)
    with reading(path, "an array in .npy format"), path.open("rb") as file:
        npy_header(file, path, path.name)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)  # (n, d_in)
    return array


def import_(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    keys: Sequence[str] = (),
    source_dtype: str | None = None,
    dtype: str = "bf16",
    shard_rows: int | None = None,
    filters: Filters = KEEP_ALL,
    meta: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cache:
    """Bring activations of any known format into a cache, one source after the other; resume where it was stopped.

    Parameters
    ----------
    sources
        Files or folders: ``.npy``, ``.npz``, ``.safetensors`` (also an index or a folder of shards), ``.pt``
        (tensors only), HDF5, zarr, Arrow, Parquet, a Hugging Face data set folder, a saev folder, or another cache.
    out
        The cache's folder: new, empty, or an import of the same sources with the same settings. What it holds is
        compared with the sources, which are read from their beginning again, and the rest is written.
    keys
        Names of the arrays to take; by default every float array of two or three dimensions. Several become hooks
        of the same rows.
    source_dtype
        What nameless or integer 2-byte values are (``"bf16"``, ``"fp16"``).
    dtype, shard_rows, filters, meta
        As in :func:`minisae.cache.write_cache`; the sources are added to ``meta``, and what they agree on where they
        are caches themselves.
    progress
        Called as ``progress(rows done, rows in all)``.

    Raises
    ------
    InputError
        For unreadable, disagreeing or changed sources, and whatever :func:`minisae.cache.write_cache` refuses.
    """
    tables = open_tables(sources, keys=keys, source_dtype=source_dtype)
    total = sum(part.rows for part in tables)
    carried = {key: value for key, value in tables[0].meta.items() if all(t.meta.get(key) == value for t in tables)}
    known = {**carried, **(meta or {}), "sources": [{"name": part.path.name, "rows": part.rows} for part in tables]}
    settings = Settings(dtype, shard_rows, check_filters(filters), known, tables[0].documents)

    def report(rows: int) -> None:
        if progress is not None:
            progress(rows, total)

    return write_rows(Path(out), table_rows(tables, source_dtype=source_dtype), settings, progress=report)


def info(path: str | Path) -> dict[str, Any]:
    """Describe a cache, finished or not: what ``minisae cache info --json`` prints."""
    cache = open_cache(path, unfinished=True)
    log = read_log(cache.path, cache.manifest)
    norms = {name: cache.stats(name) for name in cache.hooks}
    return {
        "path": str(path),
        "finished": log.finished,
        "rows": cache.rows,
        "source_rows": log.seen,
        "shards": len(cache.shards),
        "bytes": sum(shard.nbytes for shard in cache.shards),
        "dtype": cache.manifest.dtype,
        "d_in": cache.manifest.d_in,
        "columns": list(cache.manifest.columns),
        "documents": cache.manifest.documents,
        "mean_norm": {name: stats.mean_norm for name, stats in norms.items()},
        "rms": {name: float(stats.second_moment.mean() ** 0.5) for name, stats in norms.items()},
        "filters": cache.manifest.filters,
        "meta": cache.manifest.meta,
        "identity": cache.identity,
    }


def info_text(about: Mapping[str, Any]) -> str:
    """Return the description as text for people, a line a fact."""
    widths = ", ".join(f"{name} {d}" for name, d in about["d_in"].items())
    norms = ", ".join(f"{name} {norm:.4g}" for name, norm in about["mean_norm"].items())
    dropped = about["source_rows"] - about["rows"]
    lines = {
        "cache": about["path"] + ("" if about["finished"] else "  (unfinished: write it again to resume)"),
        "rows": f"{about['rows']:,}" + (f" ({dropped:,} dropped by filters)" if dropped else ""),
        "width": widths,
        "stored": f"{about['dtype']}, {about['shards']} shards, {about['bytes'] / 1e6:,.1f} MB",
        "columns": ", ".join(about["columns"]) or "none",
        "documents": about["documents"],
        "mean norm": norms,
        **{str(key): str(value) for key, value in about["meta"].items() if key != "sources"},
    }
    return "\n".join(f"{key:<10} {value}" for key, value in lines.items())


def check(path: str | Path, *, progress: Callable[[str], None] | None = None) -> list[str]:
    """Verify manifest, log, and every byte of every shard; return one line a problem, none for a sound cache.

    ``progress`` is called with the name of each shard before it is read.
    """
    folder, problems = Path(path), list[str]()
    try:
        manifest = read_manifest(folder)
        log = read_log(folder, manifest)
    except InputError as error:
        return [str(error)]
    if not log.finished:
        what = "its last line is torn" if log.torn else "its closing line is missing"
        problems.append(f"{folder / LOG}: {what}: the writer was stopped; write the cache again to resume")
    for shard in log.shards:
        if progress is not None:
            progress(shard.file)
        try:
            layout = check_shard(folder, shard, manifest)
            problems += damaged_shards(Cache(folder, manifest, (shard,), (layout,)), workers=1)
        except InputError as error:
            problems.append(str(error))
    return problems
