"""The sparse code: what is done with it equals what is done with the dense one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from minisae.ops import add_code, column_sum, dense, fired, l0
from minisae.ops.code import compress, empty_code, stack
from tests.ops.shapes import both, cases, close, pre_activations


def codes(case):
    """A sparse code that holds zeros too, and its dense twin."""
    pre = pre_activations(*case)
    pre = np.maximum(np.nan_to_num(pre, posinf=9, neginf=-9), 0)
    rng = np.random.default_rng(case[-1])
    f = compress((pre > 0) | (rng.random(pre.shape) < 0.1), pre)
    np.testing.assert_array_equal(f.dense(), pre)
    return f, pre


@given(cases)
def test_sums_and_counts(case):
    f, pre = codes(case)
    close(column_sum(f), column_sum(pre), case[3])
    for form in (f, pre):
        np.testing.assert_array_equal(*both(fired, form))
    assert l0(f) == l0(pre)
    np.testing.assert_array_equal(f.rows(), np.repeat(np.arange(len(pre)), np.diff(f.indptr)))
    np.testing.assert_array_equal(f.by_latent().dense(), pre.T)


@given(cases)
def test_add(case):
    f, pre = codes(case)
    other = np.roll(pre, 1, axis=1)
    both_sparse = add_code(f, compress(other > 0, other))
    np.testing.assert_array_equal(both_sparse.dense(), pre + other)
    np.testing.assert_array_equal(add_code(f, other), pre + other)
    nothing = empty_code(f.shape, pre.dtype)
    assert add_code(f, nothing) is f
    assert add_code(pre, nothing) is pre


@pytest.mark.parametrize("cuts", [(0, 13), (0, 1, 5, 5, 13)])
def test_stack(cuts):
    pre = pre_activations("normal", 13, 37, np.float32, 0)
    parts = [compress(pre[a:b] > 1, pre[a:b]) for a, b in pairwise(cuts)]
    f = stack(parts, pre.shape)
    np.testing.assert_array_equal(f.dense(), np.where(pre > 1, pre, 0))
    np.testing.assert_array_equal(dense(f), dense(f.dense()))
    assert f.indptr.dtype == np.int32
