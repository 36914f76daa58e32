"""The selections: twin equal to formula to the bit, on every shape class, dense or sparse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.ops import (
    SparseCode,
    above,
    batch_top_k,
    dense,
    group_max,
    group_winners,
    least_positive,
    relu,
    select,
    sparse,
    top_k,
    top_k_among,
    top_k_mask,
    with_values,
)
from tests.ops.shapes import DTYPES, both, cases, pre_activations

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=[True, False], ids=["sparse", "dense"], autouse=True)
def form(request, monkeypatch):
    """Every test with the code kept in either form."""
    monkeypatch.setattr(select, "sparse_pays", lambda share, pre: request.param)


def check(f, formula):
    """A code equals the formula's, entry by entry, NaN included; a sparse one is well formed."""
    if isinstance(f, SparseCode):
        assert f.columns.dtype == np.int32
        assert f.indptr[0] == 0
        assert f.indptr[-1] == len(f.values) == len(f.columns)
        rows = f.rows()
        assert (np.diff(f.columns)[np.diff(rows) == 0] > 0).all(), "columns ascend within a row"
    assert dense(f).dtype == formula.dtype
    np.testing.assert_array_equal(dense(f), formula)


@given(cases)
def test_relu(case):
    check(*both(relu, pre_activations(*case)))


@given(cases, st.sampled_from((1, 2, 3, 17, 10**6)), st.booleans())
def test_top_k(case, k, rectify):
    pre = pre_activations(*case)
    check(*both(top_k, pre, min(k, pre.shape[1]), rectify=rectify))


@given(cases, st.sampled_from((1, 3, 17, 10**6)), st.sampled_from((0.0, 0.02, 0.5, 1.0)), st.booleans(), st.booleans())
def test_top_k_among(case, k, share, by_row, rectify):
    pre = pre_activations(*case)
    if not np.isfinite(pre).all():
        pre = np.nan_to_num(pre, posinf=9, neginf=-9)
    rng = np.random.default_rng(case[-1])
    allowed = rng.random(pre.shape if by_row else pre.shape[1]) < share
    check(*both(top_k_among, pre, min(k, pre.shape[1]), allowed, rectify=rectify))


@given(cases, st.sampled_from((0.0, 0.01, 0.1, 0.24, 0.6, 1.0)))
def test_batch_top_k(case, share):
    pre = pre_activations(*case)
    check(*both(batch_top_k, pre, max(1, round(share * pre.size))))


@given(cases, st.booleans(), st.sampled_from((-1.0, 0.0, 0.3, 2.0)))
def test_above(case, by_latent, low):
    pre = pre_activations(*case)
    threshold = np.full(pre.shape[1], low, pre.dtype)
    if by_latent:
        threshold[::2] += 1
    check(*both(above, pre, threshold))
    np.testing.assert_array_equal(dense(above(pre, -np.ones_like(threshold))), dense(relu(pre)))


@given(cases, st.sampled_from((0.0, 0.3, 2.0)))
def test_above_a_threshold_that_may_be_reached(case, low):
    pre = pre_activations(*case)
    threshold = np.full(pre.shape[1], low, pre.dtype)
    threshold[::3] = np.abs(np.nan_to_num(pre[0, ::3], posinf=9, neginf=9)) if len(pre) else 1
    f, formula = both(above, pre, threshold, reached=True)
    check(f, formula)
    kept = ~(pre < threshold) & ~(pre <= 0)
    np.testing.assert_array_equal(dense(f), np.where(kept, pre, 0))


@given(cases, st.sampled_from((1, 2, 3, 17, 10**6)))
def test_group_max(case, k):
    pre = pre_activations(*case)
    if not np.isfinite(pre).all():
        pre = np.nan_to_num(pre, posinf=9, neginf=-9)
    k = min(k, pre.shape[1])
    check(*both(group_max, pre, k))
    groups = np.array_split(np.arange(pre.shape[1]), k)
    won = [[group[pre[row, group].argmax()] for group in groups] for row in range(len(pre))]
    assert [np.flatnonzero(mask).tolist() for mask in group_winners(pre, k)] == won


@given(cases)
def test_with_values(case):
    pre = np.nan_to_num(pre_activations(*case), posinf=9, neginf=-9)
    f, other = top_k(pre, 1), np.random.default_rng(0).standard_normal(pre.shape).astype(pre.dtype)
    found = with_values(f, other)
    assert isinstance(found, SparseCode) == isinstance(f, SparseCode)
    check(found, np.where(dense(f) != 0, other, 0))


@given(cases)
def test_least_positive(case):
    pre = np.nan_to_num(pre_activations(*case), posinf=9, neginf=-9)
    fast, formula = both(least_positive, np.maximum(pre - 1, 0))
    assert fast == formula == min((value for value in (pre - 1).reshape(-1).tolist() if value > 0), default=np.inf)
    assert fast.dtype == formula.dtype == pre.dtype
    assert least_positive(sparse(np.maximum(pre - 1, 0))) == formula


@pytest.mark.parametrize("kept", [1, 3, 67, 700, 50_000])
def test_batch_top_k_is_top_k_of_the_flattened_batch(kept):
    pre = pre_activations("ties", 1031, 211, np.float32, 7)
    assert len(pre) * pre.strides[0] > select.BLOCK_BYTES
    order = np.argsort(-pre.reshape(-1), kind="stable")[:kept]
    expected = np.zeros(pre.size, np.float32)
    expected[order] = pre.reshape(-1)[order]
    np.testing.assert_array_equal(dense(batch_top_k(pre, kept)), np.maximum(expected, 0).reshape(pre.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_blocks_are_one_code(dtype):
    pre = pre_activations("ties", 1031, 521, dtype, 3)
    assert len(pre) * pre.strides[0] > 2 * select.BLOCK_BYTES
    check(*both(top_k, pre, 13))
    check(*both(batch_top_k, pre, 13 * len(pre)))
    check(*both(relu, pre - 2))
    check(*both(above, pre, np.full(521, 1.5, dtype)))


def test_ties_go_to_the_lowest_index():
    pre = np.zeros((3, 97), np.float32)
    pre[:, ::2] = 1
    assert np.flatnonzero(dense(top_k(pre, 5))[1]).tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(dense(top_k(pre, 5)) != 0, top_k_mask(pre, 5))
    assert np.argwhere(dense(batch_top_k(pre, 51)))[48:].tolist() == [[0, 96], [1, 0], [1, 2]]


def test_no_rows_and_no_allowed_latents():
    assert dense(top_k(np.zeros((0, 97), np.float32), 3)).shape == (0, 97)
    assert dense(relu(np.zeros((0, 97), np.float32))).shape == (0, 97)
    assert dense(batch_top_k(np.zeros((0, 97), np.float32), 1)).shape == (0, 97)
    assert least_positive(np.zeros((0, 97), np.float32)) == np.inf
    assert not dense(top_k_among(np.ones((5, 97), np.float32), 3, np.zeros(97, bool))).any()


def test_an_instance_axis_runs_the_formula():
    pre = np.random.default_rng(0).standard_normal((2, 5, 97)).astype(np.float32)
    thresholds = np.random.default_rng(1).standard_normal((2, 97)).astype(np.float32)
    least = least_positive(batch_top_k(pre, 13))
    assert least.shape == (2,)
    for i in range(2):
        np.testing.assert_array_equal(top_k(pre, 3)[i], dense(top_k(pre[i], 3)))
        np.testing.assert_array_equal(batch_top_k(pre, 13)[i], dense(batch_top_k(pre[i], 13)))
        np.testing.assert_array_equal(above(pre, thresholds)[i], dense(above(pre[i], thresholds[i])))
        assert least[i] == least_positive(batch_top_k(pre[i], 13))
