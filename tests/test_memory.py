"""Training from a cache larger than the memory it may use: 4 GB of bf16 rows, d_in 512, d_sae 4096."""

import json
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from minisae.cache import write_cache

ROWS, D_IN = 1 << 22, 512
GIB = 2**30

CHILD = """
import importlib, json, resource, sys, time
import numpy as np
from minisae.cache import ArraySource, as_source
from minisae.recipe import Recipe
from minisae.sae import topk

train = importlib.import_module("minisae.train")
recipe = Recipe(steps=1000, batch_size=2048, lr=1e-4)
sources = {"cache": as_source(sys.argv[1])}
if sys.argv[2] == "both":
    sources["memory"] = ArraySource(np.random.default_rng(0).standard_normal((1 << 18, 512), dtype=np.float32))
runs = {name: train.start(source, "topk", topk.Config(512, 4096, 32), recipe) for name, source in sources.items()}
batches = {name: source.batches(2048, seed=0) for name, source in sources.items()}
seconds = {name: [] for name in sources}
for segment in range(int(sys.argv[3])):
    for name in sources:  # in turn, each for two pools of the stream, so that reading ahead falls on its own time
        began = time.perf_counter()
        for _ in range(128):
            runs[name], _ = train.step(runs[name], next(batches[name]))
        seconds[name].append(time.perf_counter() - began)
found = {name: min(times) for name, times in seconds.items()}
print(json.dumps(found | {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.fixture(scope="module")
def large_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    free = shutil.disk_usage(folder).free
    if free < 3 * ROWS * D_IN * 2:
        pytest.skip(f"needs 12 GB of free disk, found {free / GIB:.1f}")
    rng = np.random.default_rng(0)
    block = rng.standard_normal((1 << 16, D_IN), dtype=np.float32).astype(ml_dtypes.bfloat16)
    write_cache(folder / "cache", (block for _ in range(ROWS // len(block))))
    yield folder / "cache"
    shutil.rmtree(folder)


def measured(cache, what, segments):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(cache), what, str(segments)], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.slow
def test_a_cache_of_four_gigabytes_in_a_gigabyte_and_a_half(large_cache):
    """Peak memory, and the speed beside the same training from memory, segments of steps in turn in one process."""
    alone = measured(large_cache, "cache", 1)
    both = measured(large_cache, "both", 3)
    print(f"peak {alone['rss'] / GIB:.2f} GB; steps a second, cache to memory: {both['memory'] / both['cache']:.2f}")
    assert alone["rss"] <= 1.5 * GIB
    assert both["memory"] / both["cache"] >= 0.8
