import numpy as np
import pytest

from minisae.cache import Filters, array_source, as_source, split, view, write_cache
from minisae.errors import InputError

from .helpers import N, documents, rows, small_cache


def all_rows(source):
    return source.read(0, source.rows)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return small_cache(tmp_path_factory.mktemp("cache") / "c")[0]


n = np.arange(N)


@pytest.mark.parametrize(
    ("filters", "keep"),
    [
        (Filters(), n >= 0),
        (Filters(skip_positions=3), n % 67 >= 3),
        (Filters(drop_tokens=(0, 30)), (n % 31 > 0) & (n % 31 < 30)),
        (Filters(keep_tokens=(4, 5)), np.isin(n % 31, (4, 5))),
        (Filters(keep_tokens=(4, 5), drop_tokens=(5,), skip_positions=60), (n % 31 == 4) & (n % 67 >= 60)),
    ],
)
def test_filters_by_column(cache, filters, keep):
    source = view(cache, filters=filters)
    assert source.rows == keep.sum()
    chunk = all_rows(source)
    np.testing.assert_array_equal(chunk.x, rows()[keep])
    np.testing.assert_array_equal(chunk.doc_id, documents()[keep])


def test_max_norm_is_a_multiple_of_the_median_of_the_rows_the_other_filters_keep(tmp_path):
    x = rows()
    x[n % 67 == 0] *= 128  # sinks at the first position
    x[1000] *= 16
    write_cache(tmp_path / "c", [{"acts": x, "position": n % 67}], shard_rows=400, dtype="fp32")
    cache = as_source(tmp_path / "c").kept.cache
    norms = np.linalg.norm(x, axis=1)
    np.testing.assert_array_equal(
        all_rows(view(cache, filters=Filters(max_norm=8.0))).x, x[norms <= 8 * np.median(norms)]
    )
    later = n % 67 > 0
    keep = later & (norms <= 1.1 * np.median(norms[later]))
    source = view(cache, filters=Filters(max_norm=1.1, skip_positions=1))
    np.testing.assert_array_equal(all_rows(source).x, x[keep])
    assert 1000 not in np.flatnonzero(keep)


def test_filters_that_leave_nothing_or_miss_their_column_are_one_line(cache, tmp_path):
    bare, _ = small_cache(tmp_path / "c", columns=False)
    for source, filters in ((cache, Filters(keep_tokens=(99,))), (bare, Filters(skip_positions=1))):
        with pytest.raises(InputError) as info:
            view(source, filters=filters)
        assert "\n" not in str(info.value)
    with pytest.raises(InputError, match="budget"):
        view(cache, budget=1000)


@pytest.mark.parametrize("filters", [Filters(), Filters(skip_positions=2)])
@pytest.mark.parametrize("held_out", [0.001, 0.1, 0.5, 0.99])
def test_split_shares_no_document_and_loses_no_row(cache, filters, held_out):
    source = view(cache, filters=filters)
    parts = split(source, held_out=held_out, seed=3)
    train, held = all_rows(parts.train), all_rows(parts.held_out)
    assert not set(train.doc_id) & set(held.doc_id)
    assert len(held.x) > 0
    assert len(train.x) + len(held.x) == source.rows
    assert len(held.x) <= max(held_out * source.rows, 67)
    assert f"{held.x.shape[0]} of {source.rows} rows" in parts.how
    again = split(source, held_out=held_out, seed=3)
    np.testing.assert_array_equal(all_rows(again.held_out).x, held.x)


def test_split_depends_on_the_seed(cache):
    parts = [set(all_rows(split(cache, seed=seed).held_out).doc_id) for seed in range(5)]
    assert len({tuple(sorted(part)) for part in parts}) > 1


def test_split_without_documents_takes_the_tail_and_says_so(tmp_path):
    bare, x = small_cache(tmp_path / "c", columns=False)
    for source in (bare, array_source(x)):
        parts = split(source, held_out=0.2)
        np.testing.assert_array_equal(all_rows(parts.held_out).x, x[-302:])
        np.testing.assert_array_equal(all_rows(parts.train).x, x[:-302])
        assert "the last 302 of 1511 rows" in parts.how


def test_split_refuses_what_cannot_be_split(cache, tmp_path):
    one = write_cache(tmp_path / "c", [{"acts": rows(5, 3), "doc_id": np.zeros(5, int)}])
    for source, options, what in (
        (one, {}, "2 documents"),
        (cache, {"held_out": 1.0}, "held_out"),
        (array_source(rows(1, 3)), {}, "2 rows"),
    ):
        with pytest.raises(InputError, match=what):
            split(source, **options)


def test_sources_come_from_paths_caches_arrays_and_sources(cache):
    for data in (cache.path, str(cache.path), cache, view(cache), rows()):
        source = as_source(data)
        assert (source.d_in, source.rows) == (13, N)
    assert as_source(cache, filters=Filters(skip_positions=66)).rows < N
    for data in (rows(), view(cache)):
        with pytest.raises(InputError, match="filters"):
            as_source(data, filters=Filters(skip_positions=1))


def test_a_damaged_cache_is_refused_before_a_row_is_read(tmp_path):
    small_cache(tmp_path / "c")
    path = tmp_path / "c" / "shard-000003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match="shard-000003"):
        as_source(tmp_path / "c")
    assert as_source(tmp_path / "c", verify=False).rows == N


def test_identity_tells_caches_apart(cache, tmp_path):
    same, _ = small_cache(tmp_path / "a")
    other, _ = small_cache(tmp_path / "b", seed=1)
    third, _ = small_cache(tmp_path / "c", meta={"hook": "x"})
    assert same.identity == cache.identity
    assert len({cache.identity, other.identity, third.identity}) == 3
