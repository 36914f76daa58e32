"""Row operations of a dictionary and the geometric median."""

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
