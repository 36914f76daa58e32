"""Choosing rows: a view with filters, the split by document, and a source from whatever the user has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.cache.filters import KEEP_ALL, Filters, check_filters
from minisae.cache.index import build_index, filtered, kept_rows
from minisae.cache.reader import Cache, hook_name, open_cache, read_column
from minisae.cache.stream import BUDGET, ArraySource, Source, View, array_source
from minisae.errors import InputError
from minisae.streams import generator


class Split(NamedTuple):
    """Two sources without a common document."""

    train: View | ArraySource
    held_out: View | ArraySource
    how: str
    """What was held out, in words."""


def view(
    cache: Cache,
    *,
    hook: str | Sequence[str] | None = None,
    filters: Filters = KEEP_ALL,
    budget: int = BUDGET,
) -> View:
    """Return the rows of a cache that ``filters`` keep, as a source.

    Parameters
    ----------
    cache
        From :func:`open_cache`.
    hook
        Which tensor, where there are several; a list of hooks gives them side by side, ``(n, d_1 + d_2 + ...)``.
    filters
        ``max_norm`` reads the cache once. Caches hold finite rows only, so ``drop_nonfinite`` has nothing to do here.
    budget
        Bytes for the two pools of the shuffled stream; also decides how many rows are mixed at a time.

    Raises
    ------
    InputError
        For an unknown hook, a filter on a column the cache does not have, and a budget too small for two blocks.
    """
    names = (hook,) if hook is None or isinstance(hook, str) else tuple(hook)
    if not names:
        raise InputError("hook: expected at least one hook, got none")
    index = filtered(cache, tuple(hook_name(cache, name) for name in names), check_filters(filters))
    if not index.rows:
        raise InputError(f"{cache.path}: expected rows past the filters, got none of {cache.rows}")
    return View(index, _checked_budget(budget))


def _checked_budget(budget: int) -> int:
    if budget < 2**20:
        raise InputError(f"budget: expected at least 1048576 bytes, got {budget}")
    return budget


def as_source(
    data: Any,
    *,
    hook: str | Sequence[str] | None = None,
    filters: Filters = KEEP_ALL,
    verify: bool = True,
    budget: int = BUDGET,
) -> Source:
    """Return a source from a cache's path, an open cache, an array of any framework, or a source.

    A path is opened with every checksum verified unless ``verify`` is false. An array accepts no filter but
    ``drop_nonfinite``, and a ready source none at all.
    """
    if isinstance(data, (str, Path)):
        data = open_cache(data, verify=verify)
    if isinstance(data, Cache):
        return view(data, hook=hook, filters=filters, budget=budget)
    ready = hasattr(data, "batches")
    if hook is not None or filters._replace(drop_nonfinite=ready and filters.drop_nonfinite) != KEEP_ALL:
        kind = "a ready source" if ready else "an array"
        raise InputError(f"filters: expected none for {kind} (it has no columns), got hook {hook!r}, {filters}")
    return data if ready else array_source(data, drop_nonfinite=filters.drop_nonfinite)


def split(source: Cache | View | ArraySource, *, held_out: float = 0.1, seed: int = 0) -> Split:
    """Split by document, so that held-out rows come from documents the training rows do not.

    Documents are taken in an order drawn from ``seed`` as long as their rows stay within the share ``held_out`` (at
    least one is taken). Without documents the last rows are held out, and ``how`` says so.

    Raises
    ------
    InputError
        For a share outside (0, 1), and for fewer than two documents or rows.
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out: expected a share between 0 and 1, got {held_out}")
    source = view(source) if isinstance(source, Cache) else source
    if source.rows < 2:
        raise InputError(f"source: expected at least 2 rows to split, got {source.rows}")
    if isinstance(source, ArraySource):
        cut = _cut(source.rows, held_out)
        how = f"the last {source.rows - cut} of {source.rows} rows (an array has no documents)"
        return Split(ArraySource(source.x[:cut]), ArraySource(source.x[cut:]), how)
    if "doc_id" not in source.kept.cache.manifest.columns:
        return _split_tail(source, held_out)
    return _split_documents(source, held_out, seed)


def _cut(rows: int, held_out: float) -> int:
    return min(max(rows - round(rows * held_out), 1), rows - 1)


def _split_tail(source: View, held_out: float) -> Split:
    """Hold out the last rows in the order of the cache."""
    cut, done = _cut(source.rows, held_out), 0
    train, held = [], []
    for shard in range(len(source.kept.cache.shards)):
        keep = kept_rows(source.kept, shard)  # (rows,)
        early = np.cumsum(keep) + done <= cut  # (rows,)
        done += int(keep.sum())
        train.append(keep & early)
        held.append(keep & ~early)
    how = f"the last {source.rows - cut} of {source.rows} rows (the cache has no doc_id)"
    return Split(_part(source, train), _part(source, held), how)


def _split_documents(source: View, held_out: float, seed: int) -> Split:
    """Hold out whole documents."""
    cache, sizes = source.kept.cache, _document_sizes(source)
    if len(sizes) < 2:
        raise InputError(f"{cache.path}: expected at least 2 documents to hold some out, got {len(sizes)}")
    chosen, taken = [], 0
    for document in generator(seed, "split").permutation(sorted(sizes)).tolist():
        if taken + sizes[document] <= held_out * source.rows:
            chosen.append(document)
            taken += sizes[document]
    chosen = chosen or [min(sizes, key=lambda document: (sizes[document], document))]
    train, held = [], []
    for shard in range(len(cache.shards)):
        keep = kept_rows(source.kept, shard)  # (rows,)
        out = np.isin(read_column(cache, shard, "doc_id"), np.array(chosen, np.int32))  # (rows,)
        train.append(keep & ~out)
        held.append(keep & out)
    each = "sequences" if cache.manifest.documents == "sequences" else "documents"
    split_off = _part(source, held)
    how = f"{len(chosen)} of {len(sizes)} {each}, {split_off.rows} of {source.rows} rows"
    return Split(_part(source, train), split_off, how)


def _document_sizes(source: View) -> dict[int, int]:
    """Return how many kept rows each document has."""
    sizes: dict[int, int] = {}
    for shard in range(len(source.kept.cache.shards)):
        keep = kept_rows(source.kept, shard)  # (rows,)
        found, counts = np.unique(read_column(source.kept.cache, shard, "doc_id")[keep], return_counts=True)
        for document, count in zip(found.tolist(), counts.tolist(), strict=True):
            sizes[document] = sizes.get(document, 0) + count
    return sizes


def _part(source: View, kept: list[np.ndarray]) -> View:
    return source._replace(kept=build_index(source.kept.cache, source.kept.hooks, kept))
