"""One pass in chunks gives what the functions give on all rows at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import metrics as m
from minisae.errors import InputError
from minisae.ops import SparseCode

NAMES = [
    "squared_error_per_row",
    "squared_error_per_element",
    "pooled_r2",
    "mean_of_ratios_legacy",
    "frac_variance_explained",
    "saebench_0_6_explained_variance",
    "overcomplete_r2",
    "openai_about_zero",
    "cosine_similarity",
    "l2_ratio",
    "relative_reconstruction_bias",
]


def data(seed, n, d_in=5, d_sae=13, offset=2.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in)) + offset
    x[rng.random(n) < 0.1] = 0
    f = np.where(rng.random((n, d_sae)) < 0.2, rng.random((n, d_sae)), 0)
    return x, x + 0.4 * rng.standard_normal((n, d_in)) - 0.1, f


def in_chunks(x, x_hat, f, cuts, center=None):
    totals = None
    for part in np.split(np.arange(len(x)), cuts):
        if len(part):
            args = x[part], x_hat[part], f[part]
            totals = m.add(totals, *args, center=center) if totals else m.measure(*args, center=center)
    return totals


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.lists(st.integers(0, 60), max_size=5))
def test_chunks_agree_with_the_functions(seed, n, cuts):
    x, x_hat, f = data(seed, n)
    totals = in_chunks(x, x_hat, f, sorted(cuts), center=x.mean(axis=0))
    numbers = m.report(totals)
    for name in NAMES:
        assert numbers[name] == pytest.approx(float(getattr(m, name)(x, x_hat)), rel=1e-7, nan_ok=True), name
    assert numbers["rows"] == n
    assert numbers["l0"] == pytest.approx(m.l0(f))
    assert numbers["l1"] == pytest.approx(m.l1(f))
    assert numbers["dead_fraction"] == m.dead_fraction(m.firing_counts(f))
    np.testing.assert_allclose(totals.density, m.firing_density(f))
    assert numbers.keys() == {"rows", "l0", "l1", "dead_fraction", *NAMES}


def test_merge_does_not_care_for_the_order():
    x, x_hat, f = data(0, 41)
    a, b = (m.measure(x[s], x_hat[s], f[s]) for s in (slice(17), slice(17, None)))
    one, two = m.report(m.merge(a, b)), m.report(m.merge(b, a))
    assert one == pytest.approx(two, rel=1e-12)


def test_the_legacy_number_needs_the_mean_row():
    x, x_hat, f = data(0, 41)
    plain = m.measure(x, x_hat, f)
    assert "mean_of_ratios_legacy" not in m.report(plain)
    with pytest.raises(InputError, match="center"):
        m.merge(plain, m.measure(x, x_hat, f, center=x.mean(axis=0)))


def test_sparse_codes_count_the_same():
    x, x_hat, f = data(1, 41)
    rows, columns = np.nonzero(f)
    indptr = np.searchsorted(rows, np.arange(42)).astype(np.int32)
    code = SparseCode(f[rows, columns], columns.astype(np.int32), indptr, f.shape)
    assert m.report(m.measure(x, x_hat, code)) == pytest.approx(m.report(m.measure(x, x_hat, f)), rel=1e-12)


def test_a_large_mean_does_not_cancel():
    """Rows at 10⁷ with deviation 1, in float64: naive sums of squares would keep 2 digits of the variance."""
    x, x_hat, f = data(2, 997, offset=0.0)
    near = m.report(in_chunks(x, x_hat, f, [100, 500]))
    far = m.report(in_chunks(x + 1e7, x_hat + 1e7, f, [100, 500]))
    for name in ("pooled_r2", "frac_variance_explained"):
        assert far[name] == pytest.approx(near[name], abs=1e-7)


def test_rows_must_agree():
    x, x_hat, f = data(0, 41)
    with pytest.raises(InputError, match="f: expected 41 rows"):
        m.measure(x, x_hat, f[:40])
