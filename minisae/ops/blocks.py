"""Work in blocks that fit a core's cache, on a few threads: one pass through memory serves all arithmetic of a block.

Blocks follow from the arrays' sizes alone and each writes its own part of the result, so the bits are the same on any
number of threads and in any order.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

BLOCK_BYTES = 1 << 19
"""Size of the largest array in a block: half of a typical second-level cache."""
MAX_THREADS = 4
"""The passes are bound by memory and by Python's lock, so more threads bring nothing."""


def core_count() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def thread_count() -> int:
    """Return how many threads to use: the cores this process may run on, unless the variables for BLAS say fewer."""
    cores = core_count()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        asked = os.environ.get(name, "")
        if asked.isdecimal() and int(asked) > 0:
            cores = min(cores, int(asked))
    return min(cores, MAX_THREADS)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="minisae")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def row_blocks(rows: int, row_bytes: int, block_bytes: int = BLOCK_BYTES) -> list[slice]:
    """Return slices that cover ``rows`` rows of ``row_bytes`` each, none above ``block_bytes`` but by a single row."""
    size = max(1, block_bytes // max(1, row_bytes))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def each(work: Callable[[T], None], blocks: Sequence[T]) -> None:
    """Call ``work`` on every block, in any order and on several threads; return when all are done.

    The caller's thread takes part, so a helper that the system does not schedule holds nothing up. ``work`` writes
    where no other block does, and does not call :func:`each`.
    """
    todo = deque(blocks)

    def drain() -> None:
        while todo:
            try:
                block = todo.popleft()
            except IndexError:
                return
            work(block)

    # A copy of the context each: NumPy's error state must hold in the helpers too.
    helpers = [_pool().submit(copy_context().run, drain) for _ in range(min(thread_count(), len(todo)) - 1)]
    try:
        drain()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()
