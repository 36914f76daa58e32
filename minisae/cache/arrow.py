"""Arrow and Parquet: columns of lists of fixed length, as SAELens' cached activations and others have them.

SAELens writes a Hugging Face data set folder: ``dataset_info.json``, ``state.json`` with the order of the files, and
``data-*.arrow`` in Arrow's stream format, one column a hook with ``[context, d_in]`` values and ``token_ids``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minisae.cache.containers import optional
from minisae.cache.format import inside
from minisae.cache.lazy import STRETCH, Lazy, forward, reading
from minisae.errors import InputError


def dataset_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a Hugging Face data set folder, in the order of its ``state.json``."""
    state = folder / "state.json"
    if not state.exists():
        return sorted(folder.glob("*.arrow"))
    with reading(state, "the state of a data set"):
        names = [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
    return [inside(folder, name, state) for name in names]


def open_arrow(path: Path) -> dict[str, Lazy]:
    """Open an Arrow file (stream or file format), memory-mapped."""
    pa = optional("pyarrow", path)
    ipc = optional("pyarrow.ipc", path)
    with reading(path, "an Arrow file"):
        source = pa.memory_map(str(path))
        with path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
        whole = (ipc.open_file(source) if is_file else ipc.open_stream(source)).read_all()
        return {name: _column(path, whole.column(name), name) for name in whole.column_names if whole.num_rows}


def _column(path: Path, column: Any, name: str) -> Lazy:
    """Wrap one column of a table in memory or mapped."""
    first = _values(path, column.slice(0, 1), name)

    def read(start: int, stop: int) -> np.ndarray:
        block = _values(path, column.slice(start, stop - start), name)
        _same_shape(path, name, block, first)
        return block

    return Lazy((len(column), *first.shape[1:]), first.dtype, read)


def open_parquet(path: Path) -> dict[str, Lazy]:
    """Open a Parquet file; its columns are read forwards, a batch of rows at a time."""
    parquet = optional("pyarrow.parquet", path)
    with reading(path, "a Parquet file"):
        file = parquet.ParquetFile(path, buffer_size=2**20)
        names = file.schema_arrow.names if file.metadata.num_rows else []
        return {name: _parquet_column(path, file, name) for name in names}


def _parquet_column(path: Path, file: Any, name: str) -> Lazy:
    """Wrap one column of a Parquet file."""
    first = _values(path, next(file.iter_batches(1, columns=[name])).column(0), name)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    step = max(1, STRETCH // max(first.nbytes, 1))

    def pieces(start: int) -> Iterator[np.ndarray]:
        ends = np.cumsum(sizes)  # (groups,)
        group = int(np.searchsorted(ends, start, side="right"))
        row = int(ends[group]) - sizes[group]
        with reading(path, "a Parquet file"):
            for batch in file.iter_batches(step, row_groups=range(group, len(sizes)), columns=[name]):
                block = _values(path, batch.column(0), name)
                _same_shape(path, name, block, first)
                row += len(block)
                if row > start:
                    yield block[max(0, len(block) - (row - start)) :]

    return forward((sum(sizes), *first.shape[1:]), first.dtype, pieces)


def _values(path: Path, column: Any, name: str) -> np.ndarray:
    """Return nested lists of equal lengths as an array ``(rows, length, ...)``; text and the like as no numbers."""
    pc = optional("pyarrow.compute", path)
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    array = array.chunk(0) if hasattr(array, "num_chunks") and array.num_chunks == 1 else array
    shape = [len(array)]
    with reading(path, f"lists of numbers of equal lengths in column {name!r}"):
        while hasattr(array, "flatten") and hasattr(array.type, "value_type"):
            lengths = pc.min_max(pc.list_value_length(array)).as_py()
            if lengths["min"] != lengths["max"] or array.null_count:
                raise ValueError(f"lengths from {lengths['min']} to {lengths['max']}, {array.null_count} missing")
            shape.append(lengths["max"] or 0)
            array = array.flatten()
        if array.null_count:
            raise ValueError(f"{array.null_count} missing values")
        return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _same_shape(path: Path, name: str, block: np.ndarray, first: np.ndarray) -> None:
    if block.shape[1:] != first.shape[1:]:
        raise InputError(f"{path}: expected {first.shape[1:]} values a row in {name!r}, got {block.shape[1:]}")
