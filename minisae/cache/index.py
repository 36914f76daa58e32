"""Which rows of a cache a view keeps, one bit a row, and reading them block by block.

The shards' rows are numbered through in *slots*; each shard starts at a multiple of 256 slots, so that a block of rows
never crosses two shards and its bits start on a byte. A block is what one read fetches: 256 rows, or fewer where rows
are so wide that 256 KiB would be exceeded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minisae.cache.arrays import STORED
from minisae.cache.filters import Filters, keep_by_columns, needed_columns, require_columns, row_norms
from minisae.cache.format import row_bytes
from minisae.cache.reader import Cache, read_column, read_range

ALIGN = 256
BLOCK_BYTES = 256 * 2**10


class Index(NamedTuple):
    """The kept rows of one or several tensors of a cache."""

    cache: Cache
    hooks: tuple[str, ...]
    bits: np.ndarray
    """``(slots / 8,)`` uint8: one bit a slot, set where the row is kept."""
    block_rows: int
    before: np.ndarray
    """``(blocks + 1,)`` int64: kept rows before each block."""
    base: np.ndarray
    """``(shards,)`` int64: first slot of each shard."""

    @property
    def d_in(self) -> int:
        """Width of a row: of all tensors together."""
        return sum(self.cache.manifest.d_in[name] for name in self.hooks)

    @property
    def rows(self) -> int:
        """Number of kept rows."""
        return int(self.before[-1])


def build_index(cache: Cache, hooks: tuple[str, ...], kept: Sequence[np.ndarray]) -> Index:
    """Build an index from one ``(rows,)`` array of bool a shard."""
    width = row_bytes(cache.manifest, hooks)
    block_rows = ALIGN
    while block_rows > 16 and block_rows * width > BLOCK_BYTES:
        block_rows //= 2
    slots = [-(-shard.rows // ALIGN) * ALIGN for shard in cache.shards]
    base = np.cumsum([0, *slots])[:-1]  # (shards,)
    padded = [np.pad(keep, (0, size - len(keep))) for keep, size in zip(kept, slots, strict=True)]
    bits = np.concatenate([np.packbits(keep, bitorder="little") for keep in padded])  # (slot_bytes,)
    counts = np.bitwise_count(bits).reshape(-1, block_rows // 8).sum(axis=1, dtype=np.int64)  # (blocks,)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])  # (blocks + 1,)
    return Index(cache, hooks, bits, block_rows, before, base)


def kept_rows(index: Index, shard: int) -> np.ndarray:
    """Return which rows of a shard are kept: ``(rows,)`` of bool."""
    first, rows = int(index.base[shard]) // 8, index.cache.shards[shard].rows
    return np.unpackbits(index.bits[first : first + -(-rows // 8)], count=rows, bitorder="little").astype(bool)


def filtered(cache: Cache, hooks: tuple[str, ...], filters: Filters) -> Index:
    """Build the index of the rows that ``filters`` keep. ``max_norm`` reads all rows once, in blocks.

    The limit on the norm is ``max_norm`` times the median norm of the rows that the other filters keep.
    """
    require_columns(filters, cache.manifest.columns, str(cache.path))
    kept = []
    for number, shard in enumerate(cache.shards):
        columns = {name: read_column(cache, number, name) for name in needed_columns(filters)}
        kept.append(keep_by_columns(filters, columns, shard.rows))
    if filters.max_norm is not None and any(keep.any() for keep in kept):
        for name in hooks:
            norms = [_shard_norms(cache, number, name) for number in range(len(cache.shards))]
            median = np.median(np.concatenate([a[keep] for a, keep in zip(norms, kept, strict=True)]))  # ()
            limit = filters.max_norm * float(median)
            kept = [keep & (a <= limit) for a, keep in zip(norms, kept, strict=True)]
    return build_index(cache, hooks, kept)


def _shard_norms(cache: Cache, shard: int, name: str) -> np.ndarray:
    """Return the norms of all rows of one shard: ``(rows,)`` float32."""
    rows, d_in = cache.layout[shard][name].shape
    norms = np.empty(rows, np.float32)  # (rows,)
    for start in range(0, rows, 4096):
        x = np.empty((min(4096, rows - start), d_in), STORED[cache.manifest.dtype])  # (b, d_in)
        read_range(cache, shard, name, start, x)
        norms[start : start + len(x)] = row_norms(x)
    return norms


def load_blocks(index: Index, blocks: np.ndarray, out: np.ndarray) -> int:
    """Read the kept rows of ``blocks`` into the first rows of ``out (n, d_in)``; return how many there were."""
    done = 0
    for block, (shard, start, rows, keep) in zip(blocks, _places(index, blocks), strict=True):
        n = int(index.before[block + 1] - index.before[block])
        left = 0
        for name in index.hooks:
            right = left + index.cache.manifest.d_in[name]
            if n == rows and len(index.hooks) == 1:
                read_range(index.cache, shard, name, start, out[done : done + n])
            else:
                x = np.empty((rows, right - left), out.dtype)  # (rows, width)
                read_range(index.cache, shard, name, start, x)
                out[done : done + n, left:right] = x[keep]
            left = right
        done += n
    return done


def load_column(index: Index, blocks: np.ndarray, name: str) -> np.ndarray:
    """Return a column for the kept rows of ``blocks``: ``(n,)`` int32."""
    parts = [np.zeros(0, np.int32)]
    for shard, start, rows, keep in _places(index, blocks):
        part = np.empty(rows, np.int32)  # (rows,)
        read_range(index.cache, shard, name, start, part)
        parts.append(part[keep])
    return np.concatenate(parts)


def _places(index: Index, blocks: np.ndarray) -> list[tuple[int, int, int, np.ndarray]]:
    """Return for each block its shard, first row, number of rows, and which of them are kept, ``(rows,)`` of bool."""
    slots = blocks * index.block_rows  # (n_blocks,)
    shards = np.searchsorted(index.base, slots, side="right") - 1  # (n_blocks,)
    size = index.block_rows // 8
    result = []
    for block, slot, shard in zip(blocks.tolist(), slots.tolist(), shards.tolist(), strict=True):
        start = slot - int(index.base[shard])
        rows = min(index.block_rows, index.cache.shards[shard].rows - start)
        bits = index.bits[block * size : (block + 1) * size]  # (block_bytes,)
        result.append((shard, start, rows, np.unpackbits(bits, count=rows, bitorder="little").astype(bool)))
    return result
