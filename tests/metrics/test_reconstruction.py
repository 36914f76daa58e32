"""Six explained variances on one fixed pair, worked by hand, and the properties in which they differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import metrics as m
from minisae.errors import InputError

X = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
X_HAT = np.array([[1.0, 1.0], [3.0, 0.0], [2.0, 1.0]])
BY_HAND = {
    # r = 1, 0, 4; mean row (2, 1), v = 2, 2, 4; ‖x‖² = 1, 9, 13
    m.squared_error_per_row: 5 / 3,
    m.squared_error_per_element: 5 / 6,
    m.pooled_r2: 1 - 5 / 8,
    m.mean_of_ratios_legacy: 1 - (1 / 2 + 0 + 1) / 3,
    # residual (0, −1), (0, 0), (0, 2): Σ 5, less 3 times the squared mean 1/3
    m.frac_variance_explained: 1 - (5 - 1 / 3) / 8,
    m.saebench_0_6_explained_variance: 1 - (5 / 3) / (23 / 3 - (23 / 6) ** 2),
    # all entries average 3/2
    m.overcomplete_r2: 1 - 5 / 9.5,
    m.openai_about_zero: 1 - (1 + 0 + 4 / 13) / 3,
    m.l2_ratio: (2**0.5 + 1 + (5 / 13) ** 0.5) / 3,
    m.relative_reconstruction_bias: 16 / 17,
    m.cosine_similarity: (1 / 2**0.5 + 1 + 7 / 65**0.5) / 3,
}
EXPLAINED = [
    m.pooled_r2,
    m.mean_of_ratios_legacy,
    m.frac_variance_explained,
    m.saebench_0_6_explained_variance,
    m.overcomplete_r2,
    m.openai_about_zero,
]


def name(f):
    return f.__name__


def pair(seed, n=11, d_in=5, offset=2.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in)) + offset
    return x, x + 0.4 * rng.standard_normal((n, d_in)) - 0.1


@pytest.mark.parametrize(("metric", "value"), BY_HAND.items(), ids=[name(f) for f in BY_HAND])
def test_by_hand(metric, value):
    assert float(metric(X, X_HAT)) == pytest.approx(value, rel=1e-12)


def test_all_six_differ():
    values = sorted(float(f(X, X_HAT)) for f in EXPLAINED)
    assert min(np.diff(values)) > 0.02


@given(st.integers(0, 2**32 - 1), st.integers(2, 23), st.integers(1, 11))
def test_by_loops(seed, n, d_in):
    """The formulas again, entry by entry, for any shape."""
    x, x_hat = pair(seed, n, d_in)
    r = [sum((x[i, d] - x_hat[i, d]) ** 2 for d in range(d_in)) for i in range(n)]
    mean = [sum(x[:, d]) / n for d in range(d_in)]
    v = [sum((x[i, d] - mean[d]) ** 2 for d in range(d_in)) for i in range(n)]
    power = [sum(x[i, d] ** 2 for d in range(d_in)) for i in range(n)]
    grand = sum(sum(row) for row in x) / (n * d_in)
    e_var = sum(np.var([x[i, d] - x_hat[i, d] for i in range(n)], ddof=1) for d in range(d_in))
    x_var = sum(np.var([x[i, d] for i in range(n)], ddof=1) for d in range(d_in))
    mean_power = sum(power) / n
    expected = {
        m.pooled_r2: 1 - sum(r) / sum(v),
        m.mean_of_ratios_legacy: sum(1 - a / b for a, b in zip(r, v, strict=True)) / n,
        m.frac_variance_explained: 1 - e_var / x_var,
        m.saebench_0_6_explained_variance: 1 - (sum(r) / n) / (mean_power - (mean_power / d_in) ** 2),
        m.overcomplete_r2: 1 - sum(r) / sum((x[i, d] - grand) ** 2 for i in range(n) for d in range(d_in)),
        m.openai_about_zero: 1 - sum(a / b for a, b in zip(r, power, strict=True)) / n,
    }
    for metric, value in expected.items():
        assert float(metric(x, x_hat)) == pytest.approx(value, rel=1e-8), name(metric)


@given(st.integers(0, 2**32 - 1))
def test_only_dictionary_learnings_ignores_a_constant_bias(seed):
    x, x_hat = pair(seed)
    biased = x_hat + np.array([5.0, 0, 0, -7.0, 0])
    for metric in EXPLAINED:
        same = float(metric(x, biased)) == pytest.approx(float(metric(x, x_hat)), abs=1e-9)
        assert same == (metric is m.frac_variance_explained), name(metric)


@given(st.integers(0, 2**32 - 1))
def test_which_ones_depend_on_where_zero_is(seed):
    """Moving x and x_hat together leaves three as they are; to the others a far origin makes anything look good."""
    x, x_hat = pair(seed)
    far = np.array([1000.0, 0, 0, 0, 0])
    fixed = {m.pooled_r2, m.mean_of_ratios_legacy, m.frac_variance_explained}
    for metric in EXPLAINED:
        same = float(metric(x + far, x_hat + far)) == pytest.approx(float(metric(x, x_hat)), abs=1e-6)
        assert same == (metric in fixed), name(metric)
    for metric in (m.overcomplete_r2, m.openai_about_zero):
        assert float(metric(x + far, x_hat + far)) > 0.9999


@given(st.integers(0, 2**32 - 1))
def test_only_saebench_0_6_depends_on_the_units(seed):
    x, x_hat = pair(seed)
    for metric in EXPLAINED:
        same = float(metric(3 * x, 3 * x_hat)) == pytest.approx(float(metric(x, x_hat)), rel=1e-9)
        assert same == (metric is not m.saebench_0_6_explained_variance), name(metric)
    assert float(m.saebench_0_6_explained_variance(10 * x, 10 * x_hat)) > 1


@given(st.integers(0, 2**32 - 1))
def test_perfect_and_mean_predictions(seed):
    x, _ = pair(seed)
    constant = np.broadcast_to(x.mean(axis=0), x.shape)
    for metric in EXPLAINED:
        assert float(metric(x, x)) == pytest.approx(1)
    for metric in (m.pooled_r2, m.mean_of_ratios_legacy, m.frac_variance_explained):
        assert float(metric(x, constant)) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_shrinkage(seed, factor):
    """Dividing by the relative bias gives the best multiple, whose own bias is 1."""
    x, x_hat = pair(seed)
    assert float(m.l2_ratio(x, factor * x)) == pytest.approx(factor)
    assert float(m.relative_reconstruction_bias(x, factor * x)) == pytest.approx(factor)
    bias = float(m.relative_reconstruction_bias(x, x_hat))
    best = float(m.squared_error_per_row(x, x_hat / bias))
    assert float(m.relative_reconstruction_bias(x, x_hat / bias)) == pytest.approx(1)
    for other in (0.99, 1.01):
        assert float(m.squared_error_per_row(x, other * x_hat / bias)) > best


def test_rows_of_zeros_and_constant_data():
    """A mean of ratios leaves undefined rows out, a cosine with zero is 0, and no variance means no answer."""
    x = np.vstack([X, [[0.0, 0.0]]])
    x_hat = np.vstack([X_HAT, [[0.5, 0.0]]])
    assert float(m.openai_about_zero(x, x_hat)) == pytest.approx(BY_HAND[m.openai_about_zero])
    assert float(m.l2_ratio(x, x_hat)) == pytest.approx(BY_HAND[m.l2_ratio])
    assert float(m.cosine_similarity(x, x_hat)) == pytest.approx(BY_HAND[m.cosine_similarity] * 3 / 4)
    flat = np.ones((3, 2))
    assert np.isnan(float(m.pooled_r2(flat, flat)))
    assert np.isnan(float(m.mean_of_ratios_legacy(flat, flat)))


def test_float32_is_summed_in_float64():
    """A mean 10 000 times the deviation: float32 sums of squares would have lost the variance."""
    x, x_hat = (a.astype(np.float32) for a in pair(0, n=997, offset=1e4))
    exact = m.pooled_r2(x.astype(np.float64), x_hat.astype(np.float64))
    assert float(m.pooled_r2(x, x_hat)) == float(exact)


@pytest.mark.parametrize("x_hat", [np.ones((2, 3)), np.ones((3, 3)), np.ones(2)])
def test_shapes_that_differ_are_refused(x_hat):
    with pytest.raises(InputError, match="x_hat"):
        m.pooled_r2(X, x_hat)
