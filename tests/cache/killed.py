"""Run a writer, kill it at random moments, run it again: ``python -m tests.cache.killed FOLDER KILLS SHARDS``.

A program of its own, so that it may fork: the processes it kills have no start-up to wait for.
"""

import os
import random
import signal
import sys
import time

import numpy as np

from minisae.cache import Filters, rows_written, write_cache


def write(folder, shards, progress):
    x = np.random.default_rng(0).standard_normal((shards * 29, 31), dtype=np.float32)
    n = np.arange(len(x))
    parts = (slice(start, start + 43) for start in range(0, len(x), 43))
    batches = ({"acts": x[part], "doc_id": n[part] // 100, "position": n[part] % 100} for part in parts)
    filters = Filters(skip_positions=1, max_norm=1.5)
    write_cache(folder, batches, shard_rows=29, filters=filters, meta={"seed": 0}, progress=progress)


def killed(folder, shards, reports, delay):
    """Kill a writer ``delay`` seconds after so many reports of new rows; return whether it was still at work."""
    read, told = os.pipe()
    done = rows_written(folder)
    child = os.fork()
    if not child:
        write(folder, shards, lambda rows: rows > done and os.write(told, b"."))
        os._exit(0)
    os.close(told)
    while reports:
        reports -= len(os.read(read, reports))
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.close(read)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    folder, kills, shards = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pick, most = random.Random(5), shards * 29 // 43 // (kills + 1)
    hits = [killed(f"{folder}/killed", shards, pick.randint(1, most), pick.uniform(0, 0.003)) for _ in range(kills)]
    assert all(hits), "a kill came after the end: nothing was tested"
    write(f"{folder}/killed", shards, None)
    write(f"{folder}/killed", shards, None)  # as after a kill that came when the last line was written
    write(f"{folder}/whole", shards, None)
