"""What pursuits and nested dictionaries need: twin equal to formula, and to the plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minisae.ops import SparseCode, best_match, columns, dense, rows_at, scatter, sparse, widen
from tests.ops.shapes import DTYPES, both, cases, pre_activations

sizes = st.tuples(st.sampled_from((1, 2, 7, 131)), st.integers(1, 7), st.sampled_from((1, 5, 37)), st.integers(0, 99))


@given(sizes, st.sampled_from(DTYPES), st.booleans())
def test_scatter_adds_up(size, dtype, ended):
    n, m, d_sae, seed = size
    rng = np.random.default_rng(seed)
    where = rng.integers(0, d_sae, (n, m))
    values = rng.standard_normal((n, m)).astype(dtype)
    values[rng.random((n, m)) < 0.3 * ended] = 0
    before = values.copy()
    expected = np.zeros((n, d_sae), dtype)
    for i in range(n):
        for t in range(m):
            expected[i, where[i, t]] += values[i, t]
    fast, formula = both(scatter, values, where, d_sae)
    assert isinstance(fast, SparseCode)
    assert (np.diff(fast.columns)[np.diff(fast.rows()) == 0] > 0).all(), "columns ascend within a row"
    for f in (dense(fast), formula):
        assert f.dtype == dtype
        np.testing.assert_allclose(f, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(values, before)


@given(cases, st.integers(1, 5))
def test_best_match(case, d_in):
    W = pre_activations("ties", case[2], d_in, case[3], case[4])
    r = pre_activations("ties", case[1], d_in, case[3], case[4] + 1)
    fast, formula = both(best_match, r, W)
    np.testing.assert_array_equal(fast, formula)
    np.testing.assert_array_equal(fast, np.argmax(r @ W.T, axis=1))  # the first of equal ones


@given(sizes)
def test_rows_at_with_and_without_instances(size):
    n, d_in, d_sae, seed = size
    rng = np.random.default_rng(seed)
    W, where = rng.standard_normal((3, d_sae, d_in)), rng.integers(0, d_sae, (3, n))
    together = rows_at(W, where)
    for i in range(3):
        np.testing.assert_array_equal(rows_at(W[i], where[i]), W[i][where[i]])
        np.testing.assert_array_equal(together[i], W[i][where[i]])


@given(cases, st.data())
def test_columns_and_back(case, data):
    f = np.maximum(pre_activations(*case), 0)
    d_sae = f.shape[1]
    start = data.draw(st.integers(0, d_sae))
    stop = data.draw(st.integers(start, d_sae))
    for code in (f, sparse(f)):
        part = columns(code, start, stop)
        assert part.shape == (len(f), stop - start)
        np.testing.assert_array_equal(dense(part), f[:, start:stop])
        wide = widen(columns(code, 0, stop), d_sae)
        assert wide.shape == f.shape
        np.testing.assert_array_equal(dense(wide), np.where(np.arange(d_sae) < stop, f, 0))
