"""The products: twin against formula on dense and sparse codes, and what must hold of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.ops import SparseCode, affine, code_slope, decode, dense, relu, select, weight_slope
from minisae.ops.code import compress
from tests.ops.shapes import both, cases, close, pre_activations

D_INS = st.sampled_from((1, 3, 61))
FINITE = cases.filter(lambda case: case[0] not in ("nan", "infinite"))


@pytest.fixture(params=[True, False], ids=["sparse", "dense"], autouse=True)
def form(request, monkeypatch):
    """Every test with the code in either form."""
    monkeypatch.setattr(select, "sparse_pays", lambda share, pre: request.param)


def made(case, d_in):
    """A code, its decoder and a slope at the reconstruction."""
    rng = np.random.default_rng(case[-1])
    f = relu(pre_activations(*case))
    W_dec = rng.standard_normal((f.shape[1], d_in)).astype(case[3])
    d_x_hat = rng.standard_normal((f.shape[0], d_in)).astype(case[3])
    return f, W_dec, d_x_hat, case[3]


@given(FINITE, D_INS)
def test_decode(case, d_in):
    f, W_dec, _, dtype = made(case, d_in)
    close(*both(decode, f, W_dec), dtype)
    close(*both(decode, f, np.asfortranarray(W_dec)), dtype)


@given(FINITE, D_INS, st.sampled_from(("none", "number", "row", "full")))
def test_code_slope(case, d_in, extra):
    f, W_dec, d_x_hat, dtype = made(case, d_in)
    full = np.random.default_rng(1).standard_normal(f.shape).astype(dtype)
    d_f = {"none": None, "number": 0.3, "row": full[:1], "full": full}[extra]
    fast, formula = both(code_slope, f, d_x_hat, W_dec, d_f)
    assert isinstance(fast, SparseCode) == isinstance(f, SparseCode)
    close(dense(fast), formula, dtype)
    assert not dense(fast)[dense(f) == 0].any()


@given(FINITE, D_INS)
def test_weight_slope(case, d_in):
    f, _, d_x_hat, dtype = made(case, d_in)
    fast, formula = both(weight_slope, f, d_x_hat)
    close(fast, formula, dtype)
    for start in (np.ones_like(formula), np.ones_like(formula, order="F")):
        into = start.copy(order="K")
        assert weight_slope(f, d_x_hat, into=into) is into
        close(into, start + formula, dtype)


def test_rows_of_very_different_counts():
    rng = np.random.default_rng(0)
    mask = rng.random((211, 1031)) < np.geomspace(0.0005, 0.9, 211)[:, None]
    pre = rng.standard_normal(mask.shape).astype(np.float32)
    f, W_dec = compress(mask, pre), rng.standard_normal((1031, 61)).astype(np.float32)
    d_x_hat = rng.standard_normal((211, 61)).astype(np.float32)
    fast, formula = both(code_slope, f, d_x_hat, W_dec)
    close(dense(fast), formula, np.float32)
    close(*both(decode, f, W_dec), np.float32)
    close(*both(weight_slope, f, d_x_hat), np.float32)


def test_mixed_types_of_a_sparse_code():
    f = compress(np.eye(5, 7, dtype=bool), np.ones((5, 7), np.float32))
    f = f._replace(indptr=f.indptr.astype(np.int64))
    assert decode(f, np.ones((7, 3))).dtype == np.float64
    into = np.zeros((7, 3), np.float32)
    assert weight_slope(f, np.ones((5, 3)), into=into).sum() == 15


def test_affine():
    rng = np.random.default_rng(0)
    x, W, b = rng.standard_normal((7, 5)), rng.standard_normal((11, 5)).T, rng.standard_normal(11)
    np.testing.assert_allclose(affine(x, W, b), x @ W + b, rtol=1e-14)


def test_a_nan_stays_a_nan():
    pre = np.full((3, 97), -1, np.float32)
    pre[1, 5] = np.nan
    assert np.isnan(decode(relu(pre), np.ones((97, 2), np.float32))[1]).all()
