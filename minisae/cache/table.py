"""From named arrays to rows: which are activations, which are columns, and reading them in step."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from minisae.cache.arrays import READABLE
from minisae.cache.lazy import STRETCH, Lazy
from minisae.errors import InputError

COLUMN_NAMES = {
    "doc_id": ("doc_id", "doc_ids", "document_id"),
    "position": ("position", "positions"),
    "token": ("token", "tokens", "token_id", "token_ids", "input_ids"),
    "mask": ("mask", "attention_mask"),
}
"""Names under which other programs store the columns."""


class Table(NamedTuple):
    """A source of rows: one file, or one folder of another format."""

    path: Path
    rows: int
    d_in: dict[str, int]
    documents: str
    sequences: int
    """How many sequences the ``doc_id`` counts, where each sequence is a document."""
    batches: Callable[[], Iterator[dict[str, Any]]]
    """Yields dicts of ``(n, d_in)`` and ``(n,)`` arrays."""
    meta: Mapping[str, Any] = MappingProxyType({})
    """What the source says of itself: model, hook, data set."""


def table(path: Path, arrays: Mapping[str, Lazy], *, keys: Sequence[str], source_dtype: str | None) -> Table:
    """Make a table of a file's arrays.

    ``keys`` names the activations; without it they are the float arrays of two or three dimensions. One becomes
    ``acts``, several become ``acts.<name>`` of the same rows.

    Raises
    ------
    InputError
        When no array, or no agreeing set of arrays, can be meant.
    """
    columns = _columns(arrays)
    acts = _activations(path, arrays, keys, set(columns.values()), source_dtype)
    shapes = {name: arrays[name].shape for name in acts}
    leads = {shape[:-1] for shape in shapes.values()}
    if len(leads) != 1:
        raise InputError(f"{path}: expected arrays of the same rows, got {shapes}; choose with key (--key NAME)")
    lead = leads.pop()
    rows, t = math.prod(lead), lead[1] if len(lead) == 2 else 1
    for column, name in columns.items():
        if arrays[name].shape not in (lead, (rows,), lead[:1], (*lead[:1], 1)):
            raise InputError(f"{path}: expected {name!r} ({column}) of shape {lead}, got {arrays[name].shape}")
    names = {
        name: "acts" if len(acts) == 1 else f"acts.{name.removeprefix('acts.').replace('/', '.')}" for name in acts
    }

    def batches() -> Iterator[dict[str, Any]]:
        width = sum(arrays[name].shape[-1] * arrays[name].dtype.itemsize for name in acts)
        step = max(1, STRETCH // width // t) * t
        bounds = [*range(0, rows, step), rows]
        for a, b in itertools.pairwise(bounds):
            batch: dict[str, Any] = {names[name]: _rows(arrays[name], a, b) for name in acts}
            batch |= {column: _column(arrays[name], a, b, rows) for column, name in columns.items()}
            if len(lead) == 2:
                batch.setdefault("position", np.arange(a, b) % t)
                batch.setdefault("doc_id", np.arange(a, b) // t)
            yield batch

    documents = "given" if "doc_id" in columns else "sequences" if len(lead) == 2 else "none"
    widths = {names[name]: shapes[name][-1] for name in acts}
    return Table(path, rows, widths, documents, lead[0] if documents == "sequences" else 0, batches)


def _columns(arrays: Mapping[str, Lazy]) -> dict[str, str]:
    """Find the columns among the names: ``{column: name}``."""
    found = {}
    for column, aliases in COLUMN_NAMES.items():
        for name in arrays:
            if name.rpartition("/")[2] in aliases and arrays[name].dtype.kind in "iub" and column not in found:
                found[column] = name
    return found


def _activations(
    path: Path, arrays: Mapping[str, Lazy], keys: Sequence[str], columns: set[str], source_dtype: str | None
) -> list[str]:
    """Return the names of the activations."""
    have = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items()) or "nothing"
    for key in keys:
        if key not in arrays:
            raise InputError(f"{path}: expected an array {key!r}, got {have[:300]}")
        if len(arrays[key].shape) not in (2, 3):
            raise InputError(f"{path}: expected {key!r} of shape (n, d_in) or (b, t, d_in), got {arrays[key].shape}")
    wide = [name for name, a in arrays.items() if len(a.shape) in (2, 3) and 0 not in a.shape and name not in columns]
    floats = [name for name in wide if arrays[name].dtype.newbyteorder("=") in READABLE]
    bits = [name for name in wide if arrays[name].dtype.kind in "Vu" and arrays[name].dtype.itemsize == 2]
    chosen = list(keys) or floats or bits
    if not chosen:
        raise InputError(f"{path}: expected activations, float arrays (n, d_in) or (b, t, d_in), got {have[:300]}")
    if not floats and not keys and source_dtype is None:
        raise InputError(
            f"{path}: expected a float type, got {arrays[bits[0]].dtype} in {bits[0]!r}; "
            "if these are the bits of bfloat16, say so with source_dtype='bf16' (--source-dtype bf16)"
        )
    return chosen


def _rows(a: Lazy, start: int, stop: int) -> np.ndarray:
    """Return rows ``start`` to ``stop`` of activations ``(n, d_in)`` or ``(b, t, d_in)``."""
    t = math.prod(a.shape[1:-1])
    first, last = start // t, -(-stop // t)
    return a.read(first, last).reshape(-1, a.shape[-1])[start - first * t : stop - first * t]


def _column(a: Lazy, start: int, stop: int, rows: int) -> np.ndarray:
    """Return rows ``start`` to ``stop`` of a column for ``rows`` rows; one value a sequence is repeated along it."""
    t = rows // a.shape[0]
    first, last = start // t, -(-stop // t)
    block = a.read(first, last).reshape(last - first, -1)  # (b, values)
    return np.broadcast_to(block, (last - first, t)).reshape(-1)[start - first * t : stop - first * t]
