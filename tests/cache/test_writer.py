import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minisae.cache import Filters, open_cache, rows_written, shards, view, write_cache
from minisae.cache.writer import SHARD_BYTES
from minisae.errors import InputError

from .helpers import D, N, rows, small_cache


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_rows_come_back_bit_by_bit(tmp_path, dtype):
    cache, x = small_cache(tmp_path / "c", dtype=dtype)
    assert [shard.rows for shard in cache.shards] == [331, 331, 331, 331, 187]
    chunk = view(cache).read(0, N)
    np.testing.assert_array_equal(chunk.x, x)
    np.testing.assert_array_equal(chunk.position, np.arange(N) % 67)
    np.testing.assert_array_equal(chunk.token, np.arange(N) % 31)


def test_bytes_do_not_depend_on_the_batches(tmp_path):
    for step in (1, 101, 700, N):
        small_cache(tmp_path / str(step), step=step, meta={"hook": "resid", "seed": 3})
    first = content(tmp_path / "1")
    assert all(content(tmp_path / name) == first for name in ("101", "700", str(N)))


def test_moments_are_those_of_the_stored_rows(tmp_path):
    cache, x = small_cache(tmp_path / "c")
    stats, x = cache.stats(), x.astype(np.float64)
    np.testing.assert_allclose(stats.mean, x.mean(axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(stats.second_moment, (x * x).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(stats.mean_norm, np.linalg.norm(x, axis=1).mean(), rtol=1e-13)


def test_sequences_are_flattened_with_position_and_document(tmp_path):
    x = rows(60, 5)
    batches = [x[:42].reshape(6, 7, 5), x[42:].reshape(2, 9, 5)]
    cache = write_cache(tmp_path / "c", batches, dtype="fp32")
    chunk = view(cache).read(0, 60)
    np.testing.assert_array_equal(chunk.x, x)
    np.testing.assert_array_equal(chunk.position, np.r_[np.tile(np.arange(7), 6), np.tile(np.arange(9), 2)])
    np.testing.assert_array_equal(chunk.doc_id, np.r_[np.repeat(np.arange(6), 7), np.repeat([6, 7], 9)])
    assert cache.manifest.documents == "sequences"


def test_several_hooks_of_the_same_rows(tmp_path):
    a, b = rows(53, 5), rows(53, 3, seed=1)
    cache = write_cache(tmp_path / "c", [{"acts.mlp_in": a, "acts.mlp_out": b}], shard_rows=17)
    assert cache.hooks == ("acts.mlp_in", "acts.mlp_out")
    np.testing.assert_array_equal(view(cache, hook="mlp_out").read(0, 53).x, b)
    both = view(cache, hook=["acts.mlp_out", "mlp_in"])
    np.testing.assert_array_equal(both.read(2, 51).x, np.hstack([b, a])[2:51])
    assert both.d_in == 8
    with pytest.raises(InputError, match=r"hook: expected one of acts\.mlp_in, acts\.mlp_out"):
        view(cache)
    with pytest.raises(InputError, match="hook"):
        view(cache, hook="attn")


def test_a_mask_drops_padding_before_anything_else(tmp_path):
    x = rows(12, 5).reshape(3, 4, 5)
    x[1, 3] = np.nan
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    cache = write_cache(tmp_path / "c", [{"acts": x, "mask": mask, "token": np.arange(12).reshape(3, 4)}])
    assert view(cache).read(0, 9).token.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_filters_at_writing(tmp_path):
    x = rows()
    x[70] *= 1000
    x[71, 4] = np.inf
    n = np.arange(N)
    filters = Filters(skip_positions=2, drop_tokens=(5, 6), max_norm=10.0, drop_nonfinite=True)
    batches = [
        {"acts": x[s : s + 97], "position": n[s : s + 97] % 67, "token": n[s : s + 97] % 31} for s in range(0, N, 97)
    ]
    cache = write_cache(tmp_path / "c", batches, filters=filters, shard_rows=211)
    keep = (n % 67 >= 2) & ~np.isin(n % 31, (5, 6)) & (n != 70) & (n != 71)
    np.testing.assert_array_equal(view(cache).read(0, N).x, x[keep])
    median = np.median(np.linalg.norm(x[keep | (n == 70)], axis=1))
    assert cache.manifest.norm_limit["acts"] == pytest.approx(10 * median, rel=1e-6)
    only = write_cache(tmp_path / "d", batches, filters=Filters(keep_tokens=(3, 29)))
    np.testing.assert_array_equal(view(only).read(0, N).x, x[np.isin(n % 31, (3, 29))])


@pytest.mark.parametrize(
    ("batches", "what"),
    [
        ([rows(5, 3), rows(5, 4)], "width 3 .* width 4"),
        ([rows(5, 3), {"acts": rows(5, 3), "token": np.arange(5)}], "token"),
        ([np.arange(6).reshape(2, 3)], "int64"),
        ([np.zeros(5)], r"\(5,\)"),
        ([np.zeros((2, 3, 4, 5))], r"\(n, d_in\)"),
        ([{"x": rows(5, 3)}], "acts"),
        ([{"acts": rows(5, 3), "x": 1}], "'x'"),
        ([{"acts": rows(5, 3), "token": np.arange(4)}], "token"),
        ([{"acts": rows(5, 3), "token": np.ones(5)}], "whole numbers"),
        ([{"acts": rows(5, 3), "token": np.full(5, 2**31)}], "32 bits"),
        ([{"acts.a": rows(5, 3), "acts.b": rows(4, 3)}], "same rows"),
        ([rows(5, 3), np.where(np.arange(15).reshape(5, 3) > 8, np.nan, 1.0)], "2 of 5 .*2 with NaN; rows 8, 9"),
        ([np.full((3, 2), -np.inf)], "3 of 3 .*0 with NaN; rows 0, 1, 2"),
        (["text"], "array"),
        ([object()], "array"),
    ],
)
def test_bad_batches_are_one_line(tmp_path, batches, what):
    with pytest.raises(InputError, match=what) as info:
        write_cache(tmp_path / "c", batches)
    assert "\n" not in str(info.value)


def test_values_too_large_for_the_stored_type_are_refused(tmp_path):
    with pytest.raises(InputError, match="NaN or infinity"):
        write_cache(tmp_path / "c", [np.full((3, 2), 1e5)], dtype="fp16")


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"shard_rows": 0}, {"filters": Filters(max_norm=-1.0)}, {"meta": {"a": object()}},
                {"filters": Filters(skip_positions=-1)}, {"filters": Filters(skip_positions=3)}, {"start": 3},
                {"filters": Filters(keep_tokens=(1,))}, {"source_dtype": "x"}]
)  # fmt: skip
def test_bad_options_are_one_line(tmp_path, options):
    with pytest.raises(InputError) as info:
        write_cache(tmp_path / "c", [rows(5, 3)], **options)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "c").exists()


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("c", "file"):
        with pytest.raises(InputError, match="expected a"):
            write_cache(tmp_path / name, [rows(5, 3)])
    assert content(tmp_path / "c") == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    "other", [{"dtype": "fp32"}, {"meta": {"hook": "b"}}, {"filters": Filters(skip_positions=1)}, {"shard_rows": 17}]
)
def test_a_cache_of_other_settings_is_refused(tmp_path, other):
    small_cache(tmp_path / "c", meta={"hook": "a"})
    before = content(tmp_path / "c")
    with pytest.raises(InputError, match=next(iter(other))):
        small_cache(tmp_path / "c", **{"meta": {"hook": "a"}, **other})
    assert content(tmp_path / "c") == before


def test_a_finished_cache_is_left_as_it_is(tmp_path):
    cache, _ = small_cache(tmp_path / "c")
    before = content(tmp_path / "c")
    again, _ = small_cache(tmp_path / "c")
    assert again.identity == cache.identity
    assert content(tmp_path / "c") == before


def test_one_writer_at_a_time(tmp_path):
    small_cache(tmp_path / "c")
    with (tmp_path / "c" / "shards.jsonl").open("ab") as log:
        fcntl.flock(log.fileno(), fcntl.LOCK_EX)
        with pytest.raises(InputError, match="one writer"):
            small_cache(tmp_path / "c")


def test_resuming_with_other_widths_is_refused(tmp_path):
    interrupted(tmp_path / "c", 500)
    with pytest.raises(InputError, match="widths"):
        small_cache(tmp_path / "c", d=D + 4)


def changed(x):
    x = x.copy()
    x[500, 2] += 1
    return x


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda x: x + 1, r"shard-000000.*rows 0 to 330"),
        (changed, r"shard-000001.*rows 331 to 661"),
        (lambda x: x[:900], r"batches: .*993|batches: .*1511 rows.*got 900"),
        (lambda x: np.delete(x, 3, axis=0), "shard-000000"),
    ],
)
def test_other_data_than_the_cache_holds_are_refused(tmp_path, finished, other, what):
    x = rows()
    if finished:
        write_cache(tmp_path / "c", [x], shard_rows=331)
    else:
        with pytest.raises(InputError, match="width"):
            write_cache(tmp_path / "c", [x[:1010], rows(5, D + 4)], shard_rows=331)
        assert rows_written(tmp_path / "c") == 993
    before = content(tmp_path / "c")
    with pytest.raises(InputError, match=what) as info:
        write_cache(tmp_path / "c", [other(x)], shard_rows=331)
    assert "\n" not in str(info.value)
    assert "new folder" in str(info.value)
    assert content(tmp_path / "c") == before
    write_cache(tmp_path / "c", [x], shard_rows=331)
    small_cache(tmp_path / "d", columns=False)
    assert content(tmp_path / "c") == content(tmp_path / "d")


def test_a_finished_cache_takes_no_further_rows(tmp_path):
    x = rows()
    batches = [{"acts": x, "mask": np.arange(N) < N - 5}]
    write_cache(tmp_path / "c", batches, shard_rows=331)
    for more in (np.ones(7, bool), np.zeros(7, bool)):
        with pytest.raises(InputError, match=r"1511 rows .*got"):
            write_cache(tmp_path / "c", [*batches, {"acts": x[:7], "mask": more}], shard_rows=331)
    with pytest.raises(InputError, match="shard-000004"):  # one row fewer at the end
        write_cache(tmp_path / "c", [{"acts": x, "mask": np.arange(N) < N - 6}], shard_rows=331)
    write_cache(tmp_path / "c", batches, shard_rows=331)
    log = tmp_path / "c" / "shards.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))  # stopped before the closing line
    with pytest.raises(InputError, match="got more"):
        write_cache(tmp_path / "c", [x], shard_rows=331)
    write_cache(tmp_path / "c", batches, shard_rows=331)
    assert rows_written(tmp_path / "c") == N


def test_a_cache_that_was_stopped_early_is_not_closed_without_rows(tmp_path):
    with pytest.raises(InputError, match="width"):
        write_cache(tmp_path / "c", [rows(5, D), rows(5, D + 4)])
    for none in ([], [{"acts": rows(5, D), "mask": np.zeros(5)}]):
        with pytest.raises(InputError, match="at least one row"):
            write_cache(tmp_path / "c", none)
    assert write_cache(tmp_path / "c", [rows()]).rows == N


@pytest.mark.parametrize("start", [5, 331, 400, 808])
def test_a_producer_that_skips_is_compared_from_the_next_shard_on(tmp_path, start):
    """Rows before ``start`` cannot be compared, those of every shard after it are."""
    x = rows()
    write_cache(tmp_path / "c", [x], shard_rows=331)
    write_cache(tmp_path / "c", [x[start:]], shard_rows=331, start=start)
    other = x.copy()
    other[-(-start // 331) * 331] += 1
    with pytest.raises(InputError, match=f"shard-00000{-(-start // 331)}"):
        write_cache(tmp_path / "c", [other[start:]], shard_rows=331, start=start)
    with pytest.raises(InputError, match=r"expected (at least 662|at least 993|the 1511|at least 331) "):
        write_cache(tmp_path / "c", [x[start : -(-(start + 1) // 331) * 331 - 1]], shard_rows=331, start=start)


@pytest.mark.parametrize("batches", [5, None, rows])
def test_what_yields_nothing_is_one_line(tmp_path, batches):
    with pytest.raises(InputError, match="batches: expected something that yields arrays, got"):
        write_cache(tmp_path / "c", batches)
    assert not (tmp_path / "c").exists()


def interrupted(folder, at):
    """Write until row ``at``, then fail as a producer does."""
    x, n = rows(), np.arange(N)

    def batches():
        for start in range(0, N, 101):
            if start >= at:
                raise RuntimeError("stop")
            part = slice(start, start + 101)
            yield {"acts": x[part], "doc_id": n[part] // 67, "position": n[part] % 67, "token": n[part] % 31}

    with pytest.raises(RuntimeError, match="stop"):
        write_cache(folder, batches(), shard_rows=331)


@pytest.mark.parametrize("at", [202, 404, 1010])
def test_a_stopped_writer_resumes_to_the_same_bytes(tmp_path, at):
    interrupted(tmp_path / "c", at)
    done = rows_written(tmp_path / "c")
    assert done == at // 331 * 331
    with (tmp_path / "c" / "shards.jsonl").open("ab") as log:
        log.write(b'{"file": "shard-0000')
    (tmp_path / "c" / "shard-000009.safetensors.part").write_bytes(b"half")
    small_cache(tmp_path / "c")
    small_cache(tmp_path / "d")
    assert content(tmp_path / "c") == content(tmp_path / "d")


def test_a_producer_that_skips_by_itself(tmp_path):
    interrupted(tmp_path / "c", 808)
    x, n, start = rows(), np.arange(N), rows_written(tmp_path / "c")
    batch = {"acts": x, "doc_id": n // 67, "position": n % 67, "token": n % 31}
    write_cache(tmp_path / "c", [{k: v[start:] for k, v in batch.items()}], shard_rows=331, start=start)
    small_cache(tmp_path / "d")
    assert content(tmp_path / "c") == content(tmp_path / "d")
    assert rows_written(tmp_path / "c") == N
    assert rows_written(tmp_path / "e") == 0


def test_resuming_keeps_counting_sequences(tmp_path):
    x = rows(420, 5).reshape(20, 3, 7, 5)

    def batches(stop):
        for number, part in enumerate(x):
            if number == stop:
                raise RuntimeError("stop")
            yield part

    with pytest.raises(RuntimeError):
        write_cache(tmp_path / "c", batches(13), shard_rows=37)
    write_cache(tmp_path / "c", batches(None), shard_rows=37)
    write_cache(tmp_path / "d", batches(None), shard_rows=37)
    assert content(tmp_path / "c") == content(tmp_path / "d")


@pytest.mark.parametrize("call", range(8))
def test_a_full_disk_is_one_line_and_finished_shards_are_kept(tmp_path, monkeypatch, call):
    calls = iter(range(100))

    def full(handle):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device") as info:
            small_cache(tmp_path / "c")
    assert "\n" not in str(info.value)
    assert not list((tmp_path / "c").glob("*.part"))
    small_cache(tmp_path / "c")
    small_cache(tmp_path / "d")
    assert content(tmp_path / "c") == content(tmp_path / "d")


def test_default_shards_stay_below_their_bytes(tmp_path):
    cache = write_cache(tmp_path / "c", [rows(5, 3)])
    assert cache.manifest.shard_rows * 2 * 3 <= SHARD_BYTES


def check_kills(tmp_path, kills, shards):
    command = [sys.executable, "-m", "tests.cache.killed", str(tmp_path), str(kills), str(shards)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert open_cache(tmp_path / "killed", verify=True).rows > 25 * shards


def test_kill_9_three_times_and_resume(tmp_path):
    check_kills(tmp_path, 3, 61)


@pytest.mark.slow
def test_kill_9_twenty_five_times_and_resume(tmp_path):
    check_kills(tmp_path, 25, 901)
