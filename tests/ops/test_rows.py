"""Row operations of a dictionary and the geometric median."""

import contextlib

import numpy as np
import pytest

from minisae.ops import geometric_median, normalise_rows, project_rows, reference_ops, row_norms
from tests.ops.shapes import DTYPES, close

SIZES = ((1, 1), (2, 5), (1031, 3), (7, 211), (521, 1031))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_twins(size, dtype):
    rng = np.random.default_rng(0)
    W = rng.standard_normal(size).astype(dtype)
    W[len(W) // 2] = 0
    d_W = rng.standard_normal(size).astype(dtype)
    fast, slow, d_fast, d_slow = W.copy(), W.copy(), d_W.copy(), d_W.copy()
    project_rows(d_fast, W)
    normalise_rows(fast)
    with reference_ops():
        project_rows(d_slow, W)
        normalise_rows(slow)
    close(fast, slow, dtype)
    close(d_fast, d_slow, dtype)
    alive = row_norms(W) > 0
    np.testing.assert_allclose(row_norms(fast)[alive], 1, rtol=1e-6)
    assert not fast[~alive].any()
    close((d_fast * W).sum(axis=1), np.zeros(len(W), dtype), dtype, scale=size[1])


def test_instances():
    W = np.random.default_rng(0).standard_normal((3, 5, 7))
    normalise_rows(W)
    np.testing.assert_allclose(row_norms(W), np.ones((3, 5)))


def test_geometric_median():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((101, 5))
    point = geometric_median(x)
    here = np.linalg.norm(x - point, axis=1).sum()
    for direction in rng.standard_normal((20, 5)):
        assert np.linalg.norm(x - point - 1e-2 * direction, axis=1).sum() > here
    x[:5] += 1e6
    assert np.linalg.norm(geometric_median(x)) < 1, "outliers do not move it"
    same = np.ones((3, 5), np.float32)
    np.testing.assert_array_equal(geometric_median(same), same[0])


@pytest.mark.parametrize("reference", [False, True])
def test_epsilons_by_hand(reference):
    """A row of norm 5 with ε = 5; the part along it is d·W = 50, of which (1 − 25/(5 + 5)²) = 3/4 stays."""
    W, d_W = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [1.0, 2.0]])
    exact, with_eps, as_unit = d_W.copy(), d_W.copy(), d_W.copy()
    with reference_ops() if reference else contextlib.nullcontext():
        project_rows(exact, W)
        project_rows(with_eps, W, eps=5.0)
        project_rows(as_unit, W, assume_unit=True)
        normalise_rows(W, eps=5.0)
    np.testing.assert_allclose(exact, [[0, 0], [1, 2]], atol=1e-15)
    np.testing.assert_allclose(with_eps, [[4.5, 6], [1, 2]], atol=1e-15)
    np.testing.assert_allclose(as_unit, [[6 - 150, 8 - 200], [1, 2]], atol=1e-12)
    np.testing.assert_allclose(W, [[0.3, 0.4], [0, 0]], atol=1e-15)
