"""What training reads: shuffled batches, each a pure function of (seed, batch index), under a fixed memory budget.

A cache may be larger than memory, and random rows from a disk are slow. So an epoch permutes *blocks* of rows over the
whole cache, groups them into *pools* that fit the budget, and shuffles the rows within each pool. Batch ``i`` is the
rows ``i * batch_size`` to ``(i + 1) * batch_size`` of the endless sequence of epochs; where it lies follows from
arithmetic, so a run resumed in mid-epoch reads one pool and goes on. While one pool is used, a thread reads the next.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from minisae.cache.arrays import STORED, bad_rows, nonfinite_message, to_floats
from minisae.cache.format import row_bytes
from minisae.cache.index import ALIGN, Index, load_blocks, load_column
from minisae.errors import InputError
from minisae.streams import generator

BUDGET = 256 * 2**20
"""Bytes of the two pools together: the one in use and the one being read."""


class Source(Protocol):
    """Anything training can read from."""

    @property
    def d_in(self) -> int:
        """Width of a row."""

    @property
    def rows(self) -> int | None:
        """Number of rows of an epoch; ``None`` where rows never end."""

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield float32 batches ``(batch_size, d_in)`` without end, from batch number ``start`` on.

        Each is a pure function of ``seed`` and its number; every row comes once an epoch.
        """


class Chunk(NamedTuple):
    """Consecutive rows, with what is known about them."""

    x: np.ndarray
    """``(n, d_in)`` float32"""
    doc_id: np.ndarray | None
    """``(n,)`` int32"""
    position: np.ndarray | None
    """``(n,)`` int32"""
    token: np.ndarray | None
    """``(n,)`` int32"""


class View(NamedTuple):
    """The kept rows of a cache as a source; made by :func:`minisae.cache.view` and :func:`minisae.cache.split`."""

    kept: Index
    budget: int = BUDGET

    @property
    def d_in(self) -> int:
        """Width of a row; of all tensors together where there are several."""
        return self.kept.d_in

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.kept.rows

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield shuffled float32 batches ``(batch_size, d_in)`` without end; see :class:`Source`.

        The order also depends on ``budget``, which sets how many rows are mixed at a time.
        """
        _check_batches(batch_size, seed, start, self.rows)
        return _shuffled(self, batch_size, seed, start)

    def read(self, start: int, stop: int) -> Chunk:
        """Return the rows ``start`` to ``stop`` in the order of the cache."""
        start, stop = max(start, 0), min(stop, self.rows)
        index = self.kept
        first = int(np.searchsorted(index.before, start, side="right")) - 1
        last = int(np.searchsorted(index.before, stop, side="left"))
        blocks = first + np.flatnonzero(np.diff(index.before[first : last + 1]))  # (n_blocks,)
        if start >= stop:
            blocks = blocks[:0]  # (0,)
        held = int(index.before[last] - index.before[first]) if len(blocks) else 0
        rows = np.empty((held, self.d_in), STORED[index.cache.manifest.dtype])  # (held, d_in)
        load_blocks(index, blocks, rows)
        part = slice(start - int(index.before[first]), stop - int(index.before[first])) if held else slice(0)
        columns = {
            name: load_column(index, blocks, name)[part] if name in index.cache.manifest.columns else None
            for name in ("doc_id", "position", "token")
        }
        return Chunk(rows[part].astype(np.float32), **columns)

    def chunks(self, n: int) -> Iterator[Chunk]:
        """Yield all rows in the order of the cache, ``n`` at a time; the last chunk may be shorter."""
        for start in range(0, self.rows, n):
            yield self.read(start, start + n)


class ArraySource(NamedTuple):
    """Rows in memory as a source; made by :func:`array_source`."""

    x: np.ndarray
    """``(n, d_in)``"""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return int(self.x.shape[1])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield shuffled float32 batches ``(batch_size, d_in)`` without end; see :class:`Source`."""
        _check_batches(batch_size, seed, start, self.rows)
        return _shuffled_array(self.x, batch_size, seed, start)

    def read(self, start: int, stop: int) -> Chunk:
        """Return the rows ``start`` to ``stop``."""
        return Chunk(self.x[max(start, 0) : stop].astype(np.float32, copy=False), None, None, None)

    def chunks(self, n: int) -> Iterator[Chunk]:
        """Yield all rows in order, ``n`` at a time; the last chunk may be shorter."""
        for start in range(0, self.rows, n):
            yield self.read(start, start + n)


def array_source(x: object, *, drop_nonfinite: bool = False, name: str = "x") -> ArraySource:
    """Return an array ``(n, d_in)`` or ``(b, t, d_in)`` of any framework as a source.

    Raises
    ------
    InputError
        For another number of dimensions, a type that is no float, no rows, and rows with NaN or infinity.
    """
    rows = to_floats(x, name=name)
    if rows.ndim not in (2, 3) or 0 in rows.shape:
        raise InputError(f"{name}: expected a non-empty array (n, d_in) or (b, t, d_in), got shape {rows.shape}")
    rows = rows.reshape(-1, rows.shape[-1])  # (n, d_in)
    if rows.dtype == np.float64:
        with np.errstate(over="ignore", invalid="ignore"):
            rows = rows.astype(np.float32)  # (n, d_in)
    bad = bad_rows(rows)  # (n,)
    if bad.any() and not drop_nonfinite:
        raise InputError(nonfinite_message(name, rows, bad, np.arange(len(rows))))
    if bad.all():
        raise InputError(f"{name}: expected finite rows, got none among {len(rows)}")
    return ArraySource(rows[~bad] if bad.any() else rows)


def _check_batches(batch_size: int, seed: int, start: int, rows: int) -> None:
    """Refuse arguments no batch can be made from."""
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("start", start, 0)):
        if value < least:
            raise InputError(f"{name}: expected a number >= {least}, got {value}")
    if not rows:
        raise InputError("source: expected at least one row, got none; the filters or the split leave nothing")


class _Plan(NamedTuple):
    """The pools of one epoch."""

    blocks: np.ndarray
    """``(n_blocks,)`` in their shuffled order"""
    edges: np.ndarray
    """``(pools + 1,)``: where each pool's blocks begin in ``blocks``"""
    first: np.ndarray
    """``(pools + 1,)``: rows of the epoch before each pool"""


def pool_rows(view: View) -> int:
    """Return how many rows a pool holds at most (a block more where the last one does not end there)."""
    fits = view.budget // 2 // row_bytes(view.kept.cache.manifest, view.kept.hooks)
    pools = max(1, -(-view.rows // max(fits - ALIGN, 2 * ALIGN)))
    return -(-view.rows // pools)


def _plan(view: View, seed: int, epoch: int) -> _Plan:
    """Permute the blocks that hold kept rows, and cut the order into pools."""
    counts = np.diff(view.kept.before)  # (all_blocks,)
    blocks = generator(seed, "epoch", epoch).permutation(np.flatnonzero(counts))  # (n_blocks,)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[blocks])])  # (n_blocks + 1,)
    pool = starts[:-1] // pool_rows(view)  # (n_blocks,)
    edges = np.searchsorted(pool, np.arange(int(pool[-1]) + 2))  # (pools + 1,)
    return _Plan(blocks, edges, starts[edges])


def _orders(view: View, seed: int, row: int) -> Iterator[tuple[np.ndarray, tuple[int, int], int]]:
    """Yield, from endless row number ``row`` on, each pool's blocks, its epoch and number, and its first row to use."""
    epoch, offset = divmod(row, view.rows)
    while True:
        plan = _plan(view, seed, epoch)
        pool = int(np.searchsorted(plan.first, offset, side="right")) - 1
        for number in range(pool, len(plan.edges) - 1):
            blocks = np.sort(plan.blocks[plan.edges[number] : plan.edges[number + 1]])  # (pool_blocks,)
            yield blocks, (epoch, number), max(0, offset - int(plan.first[number]))
        epoch, offset = epoch + 1, 0


def _shuffled(view: View, batch_size: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Yield batches from pools; one thread reads the pool after the one in use."""
    dtype = STORED[view.kept.cache.manifest.dtype]
    size = min(view.rows, pool_rows(view) + ALIGN)
    single = pool_rows(view) == view.rows
    pools = [np.empty((size, view.d_in), dtype) for _ in range(1 if single else 2)]
    orders = _orders(view, seed, start * batch_size)
    loads = 0

    def load() -> tuple[np.ndarray, np.ndarray]:
        nonlocal loads
        blocks, key, first = next(orders)
        pool = pools[loads % len(pools)]
        once = single and loads > 0  # a pool that holds everything is read once
        n = view.rows if once else load_blocks(view.kept, blocks, pool)
        loads += 1
        return pool, generator(seed, "pool", *key).permutation(n)[first:]

    reader = ThreadPoolExecutor(1, thread_name_prefix="cache-reader")
    try:
        ahead: Future[tuple[np.ndarray, np.ndarray]] = reader.submit(load)
        pool, order = np.empty((0, view.d_in), dtype), np.empty(0, np.int64)
        while True:
            batch = np.empty((batch_size, view.d_in), np.float32)  # (batch_size, d_in)
            fill = 0
            while fill < batch_size:
                if not len(order):
                    pool, order = ahead.result()
                    ahead = reader.submit(load)
                take = order[: batch_size - fill]  # (taken,)
                batch[fill : fill + len(take)] = pool[take]
                order, fill = order[len(take) :], fill + len(take)
            yield batch
    finally:
        reader.shutdown(cancel_futures=True)


def _shuffled_array(x: np.ndarray, batch_size: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Yield batches of an array in memory; each epoch is one permutation of all rows."""
    n, d_in = x.shape
    epoch, offset = divmod(start * batch_size, n)
    order = generator(seed, "epoch", epoch).permutation(n)[offset:]  # (left,)
    while True:
        batch = np.empty((batch_size, d_in), np.float32)  # (batch_size, d_in)
        fill = 0
        while fill < batch_size:
            if not len(order):
                epoch += 1
                order = generator(seed, "epoch", epoch).permutation(n)  # (n,)
            take = order[: batch_size - fill]  # (taken,)
            batch[fill : fill + len(take)] = x[take]
            order, fill = order[len(take) :], fill + len(take)
        yield batch
