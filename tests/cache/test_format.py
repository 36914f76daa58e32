import json
import random

import numpy as np
import pytest
import safetensors.numpy

from minisae.cache import commands, header, open_cache, write_cache
from minisae.cache.format import seal, unseal
from minisae.errors import InputError

from .helpers import rows, small_cache


def one_line(info):
    assert "\n" not in str(info.value)
    return str(info.value)


def test_the_safetensors_library_reads_our_shards(tmp_path):
    _, x = small_cache(tmp_path / "c")
    shard = safetensors.numpy.load_file(tmp_path / "c" / "shard-000001.safetensors")
    np.testing.assert_array_equal(shard["acts"].astype(np.float32), x[331:662])
    assert shard["doc_id"].dtype == np.int32
    assert header.read(tmp_path / "c" / "shard-000000.safetensors")["acts"].offset % header.PAGE == 0


def test_header_of_the_safetensors_library_is_read(tmp_path):
    x = rows(7, 5)
    safetensors.numpy.save_file({"b": x, "a": x[:3].astype(np.float16)}, tmp_path / "x.safetensors", {"k": "v"})
    tensors = header.read(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(header.mapped(tmp_path / "x.safetensors", tensors)["b"], x)
    assert tensors["a"].shape == (3, 5)


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"a": {**GOOD, "data_offsets": [0, 48]}}, "24 bytes"),
        ({"a": {**GOOD, "shape": [2, 4]}}, "32 bytes"),
        ({"a": {**GOOD, "shape": [-2, -3]}}, "whole numbers"),
        ({"a": {**GOOD, "shape": [2.0, 3]}}, "whole numbers"),
        ({"a": {**GOOD, "data_offsets": [-24, 0]}}, "whole numbers"),
        ({"a": {**GOOD, "data_offsets": [24, 0]}}, "24 bytes"),
        ({"a": {**GOOD, "data_offsets": [24, 48]}}, "truncated"),
        ({"a": GOOD, "b": {**GOOD, "data_offsets": [8, 32]}}, "overlap"),
        ({"a": {**GOOD, "dtype": "F33"}}, "dtype"),
        ({"a": {"dtype": "F32"}}, "data_offsets"),
        ({"a": [1, 2]}, "data_offsets"),
        ({"a": {**GOOD, "shape": [1 << 62, 1 << 62], "data_offsets": [0, 24]}}, "memory can have"),
        ([1], "JSON object"),
    ],
)
def test_lying_headers_are_refused(tmp_path, entries, what):
    text = json.dumps(entries).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
    with pytest.raises(InputError, match=what) as info:
        header.read(path)
    assert str(path) in one_line(info)


@pytest.mark.parametrize(
    "content", [b"", b"\x01", (10 * 2**30).to_bytes(8, "little") + b"{}", b"\x04" + bytes(7) + b"nope"]
)
def test_truncated_headers_are_refused_without_allocating(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"safetensors") as info:
        header.read(path)
    assert str(path) in one_line(info)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + b"1")
    with pytest.raises(InputError, match="twice"):
        header.read(tmp_path / "x")


def test_every_flipped_byte_is_named_by_check_and_refused_by_a_verified_open(tmp_path):
    small_cache(tmp_path / "c", n=401, shard_rows=211)
    assert commands.check(tmp_path / "c") == []
    pick = random.Random(7)
    for path in sorted((tmp_path / "c").iterdir()):
        content = path.read_bytes()
        for _ in range(17):
            at = pick.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << pick.randrange(8)]) + content[at + 1 :])
            problems = commands.check(tmp_path / "c")
            assert problems, (path.name, at)
            assert any(path.name in problem for problem in problems), (path.name, at, problems)
            with pytest.raises(InputError):
                open_cache(tmp_path / "c", verify=True)
        path.write_bytes(content)
    assert commands.check(tmp_path / "c") == []


def test_every_torn_file_is_named_and_refused(tmp_path):
    small_cache(tmp_path / "c", n=401, shard_rows=211)
    for path in sorted((tmp_path / "c").iterdir()):
        content = path.read_bytes()
        for cut in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:cut])
            assert any(path.name in problem for problem in commands.check(tmp_path / "c")), (path.name, cut)
            with pytest.raises(InputError):
                open_cache(tmp_path / "c")
        path.write_bytes(content)


def relog(folder, change):
    """Rewrite the log with consistent checksums after ``change`` of its first line: a liar, not an accident."""
    lines = [unseal(line) for line in (folder / "shards.jsonl").read_bytes().splitlines(keepends=True)]
    change(lines[0])
    (folder / "shards.jsonl").write_text("".join(seal(line) for line in lines))


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "shard-000000.safetensors/..", "", 7, "a\x00b"]
)
def test_a_log_whose_names_leave_the_folder_is_refused(tmp_path, name):
    small_cache(tmp_path / "c", n=401, shard_rows=211)
    relog(tmp_path / "c", lambda line: line.update(file=name))
    with pytest.raises(InputError, match=r"shards\.jsonl") as info:
        open_cache(tmp_path / "c")
    one_line(info)
    assert commands.check(tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 210},
        {"rows": -1},
        {"rows": 10**15},
        {"row0": 5},
        {"nbytes": 10},
        {"stats": {}},
        {"stats": {"acts": {"mean": [0.0], "mean_norm": 0.0, "second_moment": [0.0]}}},
        {"sha256": None},
    ],
)
def test_a_log_that_lies_is_refused(tmp_path, change):
    small_cache(tmp_path / "c", n=401, shard_rows=211)
    relog(tmp_path / "c", lambda line: line.update(change))
    with pytest.raises(InputError) as info:
        open_cache(tmp_path / "c")
    one_line(info)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "other"),
        ({"dtype": "fp8"}, "fp8"),
        ({"d_in": {"acts": 0}}, "d_in"),
        ({"d_in": {"acts": "13"}}, "d_in"),
        ({"d_in": {"../x": 13}}, "names"),
        ({"d_in": {"acts": 12}}, "width"),
        ({"columns": ["../x"]}, "columns"),
    ],
)
def test_manifests_that_lie_are_refused(tmp_path, change, what):
    small_cache(tmp_path / "c", n=401, shard_rows=211)
    path = tmp_path / "c" / "manifest.json"
    path.write_text(seal({**unseal(path.read_bytes()), **change}))
    with pytest.raises(InputError, match=what) as info:
        open_cache(tmp_path / "c")
    one_line(info)


def test_what_is_no_cache_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="activation cache"):
            open_cache(path)
        assert commands.check(path)
    with pytest.raises(InputError, match="at least one row"):
        write_cache(tmp_path / "c", iter(()))
    assert not (tmp_path / "c").exists()


def test_a_cache_without_rows_is_refused(tmp_path):
    small_cache(tmp_path / "c")
    log = tmp_path / "c" / "shards.jsonl"
    log.write_text(seal({"end": True, "rows": 0, "shards": 0, "seen": 0}))
    with pytest.raises(InputError, match="empty"):
        open_cache(tmp_path / "c")


def test_an_unfinished_cache_is_read_only_on_request(tmp_path):
    small_cache(tmp_path / "c")
    log = tmp_path / "c" / "shards.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]))
    with pytest.raises(InputError, match="unfinished"):
        open_cache(tmp_path / "c")
    assert open_cache(tmp_path / "c", unfinished=True).rows == 662
    log.write_text("".join(lines[:2]) + lines[2][:99])
    assert open_cache(tmp_path / "c", unfinished=True).rows == 662
    assert "torn" in commands.check(tmp_path / "c")[0]
    log.write_text(lines[0] + lines[1][:99] + "\n" + lines[2])
    with pytest.raises(InputError, match="line 2"):
        open_cache(tmp_path / "c", unfinished=True)
