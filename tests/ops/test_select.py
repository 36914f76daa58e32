"""The selections: twin equal to formula to the bit, on every shape class, dense or sparse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.ops import SparseCode, dense, relu, select, top_k, top_k_among, top_k_mask
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_blocks_are_one_code(dtype):
    pre = pre_activations("ties", 1031, 521, dtype, 3)
    assert len(pre) * pre.strides[0] > 2 * select.BLOCK_BYTES
    check(*both(top_k, pre, 13))
    check(*both(relu, pre - 2))


def test_ties_go_to_the_lowest_index():
    pre = np.zeros((3, 97), np.float32)
    pre[:, ::2] = 1
    assert np.flatnonzero(dense(top_k(pre, 5))[1]).tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(dense(top_k(pre, 5)) != 0, top_k_mask(pre, 5))


def test_no_rows_and_no_allowed_latents():
    assert dense(top_k(np.zeros((0, 97), np.float32), 3)).shape == (0, 97)
    assert dense(relu(np.zeros((0, 97), np.float32))).shape == (0, 97)
    assert not dense(top_k_among(np.ones((5, 97), np.float32), 3, np.zeros(97, bool))).any()


def test_an_instance_axis_runs_the_formula():
    pre = np.random.default_rng(0).standard_normal((2, 5, 97)).astype(np.float32)
    for i, f in enumerate(top_k(pre, 3)):
        np.testing.assert_array_equal(f, dense(top_k(pre[i], 3)))
