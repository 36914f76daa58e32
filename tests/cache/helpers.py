"""Small caches for the tests of this folder."""

import numpy as np

from minisae.cache import open_cache, write_cache

N, D = 1511, 13


def rows(n=N, d=D, seed=0):
    """Float32 rows that bf16 holds exactly, so that round trips can be compared bit by bit."""
    return (np.random.default_rng(seed).integers(-127, 128, (n, d)) / 16).astype(np.float32)


def documents(n=N, size=67):
    return np.arange(n, dtype=np.int32) // size


def small_cache(folder, *, n=N, d=D, dtype="bf16", shard_rows=331, step=101, columns=True, seed=0, **options):
    """A cache of several shards, the last one shorter."""
    x = rows(n, d, seed)
    known = {"doc_id": documents(n), "position": np.arange(n) % 67, "token": np.arange(n) % 31} if columns else {}

    def batches():
        for start in range(0, n, step):
            part = slice(start, start + step)
            yield {"acts": x[part], **{name: a[part] for name, a in known.items()}}

    write_cache(folder, batches(), dtype=dtype, shard_rows=shard_rows, **options)
    return open_cache(folder), x
