import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.cache import Filters, array_source, as_source, open_cache, view, write_cache
from minisae.cache.stream import pool_rows
from minisae.errors import InputError

from .helpers import N, rows, small_cache


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Rows that carry their own number, wide enough that the least budget holds several pools an epoch."""
    n, d = 4001, 211
    x = np.zeros((n, d), np.float32)
    x[:, 0], x[:, 1], x[:, 2] = np.arange(n) % 128, np.arange(n) // 128, 1
    folder = tmp_path_factory.mktemp("cache") / "wide"
    write_cache(folder, [{"acts": x, "position": np.arange(n) % 9}], shard_rows=701, dtype="fp32")
    return view(open_cache(folder), budget=2**20), x


def numbers(batch):
    return (batch[:, 0] + 128 * batch[:, 1]).astype(int)


def taken(source, batch_size, seed, start, count):
    return np.concatenate(
        [numbers(b) for b in itertools.islice(source.batches(batch_size, seed=seed, start=start), count)]
    )


def test_an_epoch_has_several_pools(wide):
    source, _ = wide
    assert 4 < source.rows / pool_rows(source) < 10


@given(batch_size=st.integers(1, 5000), seed=st.integers(0, 2**40), skip=st.booleans())
def test_every_row_comes_exactly_once_an_epoch(wide, batch_size, seed, skip):
    source, _ = wide
    if skip:
        source = view(source.kept.cache, filters=Filters(skip_positions=2), budget=2**20)
    n = source.rows
    stream = taken(source, batch_size, seed, 0, -(-2 * n // batch_size))
    first, second = np.sort(stream[:n]), np.sort(stream[n : 2 * n])
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == n
    assert not np.array_equal(stream[:n], stream[n : 2 * n])


@given(batch_size=st.integers(1, 700), seed=st.integers(0, 9), start=st.integers(0, 60), in_memory=st.booleans())
def test_a_batch_depends_on_seed_and_number_alone(wide, batch_size, seed, start, in_memory):
    source, x = wide
    source = array_source(x) if in_memory else source
    whole = taken(source, batch_size, seed, 0, start + 2)
    np.testing.assert_array_equal(taken(source, batch_size, seed, start, 2), whole[start * batch_size :])


def test_seeds_and_epochs_differ(wide):
    source, _ = wide
    assert not np.array_equal(taken(source, 97, 0, 0, 3), taken(source, 97, 1, 0, 3))


def test_rows_are_mixed_across_the_whole_cache(wide):
    source, _ = wide
    first = [taken(source, 256, seed, 0, 1) for seed in range(29)]  # each from a few blocks
    assert np.mean([len(np.unique(batch // 701)) for batch in first]) > 1.8  # shards
    assert np.median([np.median(np.abs(np.diff(batch))) for batch in first]) > 256
    assert len(np.unique(np.concatenate(first) // 701)) == 6  # any shard may come first


def test_a_small_cache_is_read_once_and_shuffled_anew(tmp_path):
    cache, x = small_cache(tmp_path / "c")
    stream = view(cache).batches(N, seed=0)
    first, second = next(stream), next(stream)
    for path in (tmp_path / "c").glob("shard*"):
        path.unlink()
    third = next(stream)
    for batch in (first, second, third):
        np.testing.assert_array_equal(batch[np.lexsort(batch.T)], x[np.lexsort(x.T)])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_batches_are_float32_of_the_stored_values(tmp_path, dtype):
    cache, x = small_cache(tmp_path / "c", dtype=dtype)
    batch = next(view(cache).batches(N, seed=1))
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch[np.lexsort(batch.T)], x[np.lexsort(x.T)])


def test_a_shard_cut_short_while_training_is_one_line(wide, tmp_path):
    cache, _ = small_cache(tmp_path / "c")
    path = tmp_path / "c" / "shard-000001.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="shard-000001") as info:
        next(view(cache).batches(10, seed=0))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("kind", ["view", "array"])
@pytest.mark.parametrize("change", [{"batch_size": 0}, {"seed": -1}, {"start": -1}])
def test_bad_numbers_are_one_line(wide, kind, change):
    source = wide[0] if kind == "view" else array_source(wide[1])
    with pytest.raises(InputError, match=next(iter(change))):
        source.batches(**{"batch_size": 7, "seed": 0, **change})


@pytest.mark.parametrize("n", [1, 7, 100, 5000])
def test_chunks_give_all_rows_in_order(wide, n):
    source, x = wide
    for each in (source, array_source(x)):
        stop = 300 if n == 1 else None
        chunks = list(itertools.islice(each.chunks(n), stop))
        np.testing.assert_array_equal(np.concatenate([chunk.x for chunk in chunks]), x[:stop])
    odd = view(source.kept.cache, filters=Filters(skip_positions=5))
    np.testing.assert_array_equal(np.concatenate([c.x for c in odd.chunks(n)]), x[np.arange(len(x)) % 9 >= 5])
    assert all((chunk.position >= 5).all() and chunk.token is None for chunk in odd.chunks(n))


def test_reading_a_range_is_a_slice(wide):
    source, x = wide
    for start, stop in ((0, 0), (5, 5), (7, 3), (0, 1), (250, 260), (690, 1500), (4000, 4001), (4000, 9000), (-3, 2)):
        np.testing.assert_array_equal(source.read(start, stop).x, x[max(start, 0) : stop])


@pytest.mark.parametrize(
    "x",
    [np.zeros(5), np.zeros((0, 5)), np.zeros((5, 0)), np.zeros((2, 3, 4, 5)), np.ones((3, 4), int), "no such folder"],
)
def test_bad_arrays_are_one_line(x):
    with pytest.raises(InputError) as info:
        as_source(x)
    assert "\n" not in str(info.value)


def test_rows_that_are_not_finite_are_counted_or_dropped():
    x = rows(50, 3).astype(np.float64)
    x[7, 1], x[31, 0], x[31, 2] = np.inf, np.nan, np.nan
    with pytest.raises(InputError, match=r"2 of 50 .*1 with NaN; rows 7, 31\)"):
        array_source(x)
    kept = array_source(x, drop_nonfinite=True)
    assert kept.rows == 48
    np.testing.assert_array_equal(kept.read(6, 9).x, x[[6, 8, 9]].astype(np.float32))
    with pytest.raises(InputError, match="none among 2"):
        array_source(np.full((2, 3), np.nan), drop_nonfinite=True)


CHILD = """
import resource, sys
from minisae.cache import open_cache, view
source = view(open_cache(sys.argv[1], verify=True), budget=8 * 2**20)
batches = source.batches(64, seed=0)
next(batches)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2 * source.rows // 64):
    next(batches)
for chunk in source.chunks(64):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only")
def test_memory_stays_within_the_budget(tmp_path):
    x = np.ones((8192, 1021), np.float32)
    write_cache(tmp_path / "c", [x] * 4, shard_rows=8192)  # 67 MB
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "c")], capture_output=True, check=True)
    assert int(child.stdout) < 16 * 1024
