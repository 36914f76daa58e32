"""Finding out what a path is, and opening it as tables of rows."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisae.cache.arrays import STORED
from minisae.cache.arrow import dataset_files, open_arrow, open_parquet
from minisae.cache.batches import Rows, flat
from minisae.cache.containers import open_hdf5, open_zarr
from minisae.cache.format import MANIFEST, inside
from minisae.cache.lazy import Lazy, in_memory, open_npy, open_npz, open_safetensors, reading
from minisae.cache.reader import Cache, open_cache, read_column, read_range
from minisae.cache.saev import shard_arrays
from minisae.cache.table import Table, table
from minisae.errors import InputError
from minisae.interop.torch_pt import read_pt

FORMATS = ".npy, .npz, .safetensors, .safetensors.index.json, .pt, .h5, .zarr, .arrow, .parquet, saev or a cache"


def open_tables(
    sources: Sequence[str | Path], *, keys: Sequence[str] = (), source_dtype: str | None = None
) -> list[Table]:
    """Open files and folders of any known format; see :func:`minisae.cache.commands.import_`.

    Raises
    ------
    InputError
        For what is not there, has an unknown format, or does not agree with the first in names and widths.
    """
    tables: list[Table] = []
    for source in sources:
        for path, arrays in _parts(Path(source)):
            made = arrays if isinstance(arrays, Table) else table(path, arrays, keys=keys, source_dtype=source_dtype)
            first = tables[0] if tables else made
            if (made.d_in, made.documents) != (first.d_in, first.documents):
                raise InputError(
                    f"{path}: expected widths {first.d_in} and documents {first.documents} as in {first.path}, "
                    f"got {made.d_in} and {made.documents}"
                )
            tables.append(made)
    if not tables:
        raise InputError("sources: expected at least one file or folder, got none")
    return tables


def table_rows(tables: Sequence[Table], *, source_dtype: str | None) -> Iterator[Rows]:
    """Yield the rows of several tables, one after the other."""
    row0 = sequences = 0
    for part in tables:
        at = row0
        for batch in part.batches():
            if part.sequences:
                batch["doc_id"] = batch["doc_id"] + sequences
            with reading(part.path, "activations"):
                rows = flat(batch, row0=at, sequences=0, source_dtype=source_dtype)
            at += rows.n
            yield rows._replace(documents=part.documents, where=str(part.path), first=row0)
        row0, sequences = row0 + part.rows, sequences + part.sequences


def _parts(path: Path) -> Iterator[tuple[Path, Mapping[str, Lazy] | Table]]:
    """Yield the files a source consists of, opened."""
    if not path.exists():
        raise InputError(f"{path}: expected a file or folder, got none of that name")
    if path.is_dir():
        yield from _folder(path)
    elif path.name.endswith(".safetensors.index.json"):
        yield path, _indexed(path)
    else:
        yield path, _file(path)


def _file(path: Path) -> Mapping[str, Lazy]:
    """Open one file by its suffix."""
    suffix = path.suffix.lower()
    if suffix not in _OPEN:
        raise InputError(f"{path}: expected one of {FORMATS}, got {suffix or 'no suffix'!r}")
    with reading(path, f"a {suffix} file"):
        return _OPEN[suffix](path)


def _folder(folder: Path) -> Iterator[tuple[Path, Mapping[str, Lazy] | Table]]:
    """Open a folder: a format of its own, or a set of files of one kind in the order of their names."""
    names = {entry.name for entry in folder.iterdir()}
    if MANIFEST in names:
        yield folder, _cache_table(folder)
    elif {"metadata.json", "shards.json"} <= names:
        yield from shard_arrays(folder)
    elif names & {"zarr.json", ".zgroup", ".zarray"}:
        yield folder, open_zarr(folder)
    elif indexes := sorted(name for name in names if name.endswith(".safetensors.index.json")):
        yield folder / indexes[0], _indexed(folder / indexes[0])
    else:
        files = dataset_files(folder) if "dataset_info.json" in names else _set(folder, names)
        for path in files:
            yield path, _file(path)


def _set(folder: Path, names: set[str]) -> list[Path]:
    """Return the files of a set of shards, all of one suffix."""
    suffixes = {Path(name).suffix.lower() for name in names} & set(_OPEN)
    if len(suffixes) != 1:
        what = ", ".join(sorted(suffixes)) or "none"
        raise InputError(f"{folder}: expected files of one of {FORMATS}, got {what}")
    suffix = suffixes.pop()
    return [folder / name for name in sorted(names, key=_natural) if Path(name).suffix.lower() == suffix]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which ``part-10`` comes after ``part-9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _indexed(path: Path) -> Mapping[str, Lazy]:
    """Open the files that a safetensors index names."""
    with reading(path, "a safetensors index"):
        places = dict(json.loads(path.read_text())["weight_map"])
    files = {name: inside(path.parent, name, path) for name in sorted(set(places.values()), key=str)}
    opened = {name: open_safetensors(file) for name, file in files.items()}
    for tensor, file in places.items():
        if tensor not in opened[file]:
            raise InputError(f"{path}: expected {tensor!r} in {file}, got {', '.join(opened[file])[:200]}")
    return {tensor: opened[file][tensor] for tensor, file in places.items()}


def _open_pt(path: Path) -> Mapping[str, Lazy]:
    """Open a ``.pt`` file that holds a tensor or (nested) dicts of tensors."""
    found: dict[str, Lazy] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            found[name or "acts"] = in_memory(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, (list, tuple)) and any(isinstance(inner, np.ndarray) for inner in value):
            raise InputError(f"{path}: expected a tensor or a dict of tensors, got a list; save torch.cat(...) of it")

    walk("", read_pt(path))
    return found


def _cache_table(folder: Path) -> Table:
    """Open a cache as a source, to filter it anew or to join it with others."""
    cache = open_cache(folder)
    dtypes = dict.fromkeys(cache.hooks, STORED[cache.manifest.dtype]) | dict.fromkeys(cache.manifest.columns, _INT32)
    arrays = {name: _cached(cache, name, dtype) for name, dtype in dtypes.items()}
    made = table(folder, arrays, keys=(), source_dtype=None)
    made = made._replace(meta={key: value for key, value in cache.manifest.meta.items() if key != "sources"})
    if cache.manifest.documents != "sequences":
        return made._replace(documents=cache.manifest.documents)
    last = max(int(read_column(cache, shard, "doc_id").max()) for shard in range(len(cache.shards)))
    return made._replace(documents="sequences", sequences=last + 1)


def _cached(cache: Cache, name: str, dtype: np.dtype[Any]) -> Lazy:
    """Wrap a tensor or column of a cache, across its shards."""
    shape = cache.layout[0][name].shape[1:]

    def read(start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *shape), dtype)
        for number, shard in enumerate(cache.shards):
            low, high = max(start, shard.row0), min(stop, shard.row0 + shard.rows)
            if low < high:
                read_range(cache, number, name, low - shard.row0, out[low - start : high - start])
        return out

    return Lazy((cache.rows, *shape), dtype, read)


_INT32 = np.dtype(np.int32)
_OPEN: dict[str, Callable[[Path], Mapping[str, Lazy]]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": _open_pt,
    ".pth": _open_pt,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".parquet": open_parquet,
}
