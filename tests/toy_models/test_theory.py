"""Closed forms against independent quadrature, and where phases meet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize

from minisae.errors import InputError
from toy_models import theory as t

DENSITIES = (0.005, 0.1, 0.37, 4 / 7, 1.0)


def over_pairs(f):
    """∫∫ f(x, y) over the unit square, split along x = y, where an antipodal pair has its kink."""
    below = integrate.dblquad(f, 0, 1, 0, lambda y: y, epsabs=1e-13, epsrel=1e-13)[0]
    return below + integrate.dblquad(f, 0, 1, lambda y: y, 1, epsabs=1e-13, epsrel=1e-13)[0]


def pair_loss(p, a):
    """The loss of x in W = √a [1, −1], b = 0, pattern by pattern: outer variable of f is y, inner x."""
    alone = integrate.quad(lambda x: (x - max(a * x, 0)) ** 2, 0, 1, epsabs=1e-14)[0]
    both = over_pairs(lambda x, y: (x - max(a * (x - y), 0)) ** 2)
    return p * (1 - p) * alone + p * p * both


@pytest.mark.parametrize("p", DENSITIES)
def test_one_dimension_for_two_against_quadrature(p):
    mean, square = p / 2, p * integrate.quad(lambda x: (x - p / 2) ** 2, 0, 1)[0] + (1 - p) * (p / 2) ** 2
    assert t.ignored_loss(p) == pytest.approx(square, abs=1e-14)
    assert mean == pytest.approx(p * 0.5)
    assert t.antipodal_loss(p) == pytest.approx(pair_loss(p, 1.0), abs=1e-12)
    a, loss = t.free_antipodal(p)
    assert loss == pytest.approx(pair_loss(p, float(a)), abs=1e-12)
    for other in (a - 1e-3, a + 1e-3, 1.0):
        assert pair_loss(p, float(other)) > loss


def test_the_best_common_norm_by_hand():
    np.testing.assert_allclose(t.free_antipodal(1.0), (3 / 2, 7 / 48))
    assert t.free_antipodal(1e-9)[0] == pytest.approx(1)


def test_where_three_phases_meet():
    assert (
        pytest.approx(optimize.brentq(lambda p: t.ignored_loss(p) - 2 * t.antipodal_loss(p), 0.1, 0.9), abs=1e-12)
        == t.MEETING_DENSITY
    )
    free = optimize.brentq(lambda p: t.ignored_loss(p) - 2 * t.free_antipodal(p)[1], 0.1, 0.9)
    assert free == pytest.approx(t.FREE_MEETING_DENSITY, abs=1e-12)
    assert round(t.FREE_MEETING_DENSITY, 4) == 0.5822
    assert 43 * free**2 - 80 * free + 32 == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("n_feat", [2, 3])
@given(st.floats(0.01, 1), st.floats(0.02, 50))
def test_labels_change_at_the_boundaries(n_feat, p, r):
    low, high = t.boundaries(p, n_feat=n_feat)
    if min(abs(r / low - 1), abs(r / high - 1)) < 1e-6:
        return
    expected = t.IGNORED if r < low else t.SUPERPOSED if r < high else t.DEDICATED
    assert t.phase_labels(p, r, n_feat=n_feat) == expected


def test_boundaries_by_hand():
    np.testing.assert_allclose(t.boundaries(0.4), (0.4, 2.5))
    np.testing.assert_allclose(t.boundaries(0.4, n_feat=3), (0.4, 1))
    np.testing.assert_allclose(t.boundaries([4 / 7, 0.7, 1.0]), np.ones((2, 3)))


def test_phase_losses_by_hand():
    ignored = 0.3 / 3 - 0.09 / 4
    np.testing.assert_allclose(t.phase_losses(0.3, 2.0), (2 * ignored, 3 * 0.015, ignored))
    np.testing.assert_allclose(t.phase_losses(0.3, 2.0, n_feat=3), (2 * ignored, 3 * 0.015, 0.03))
    np.testing.assert_allclose(t.phase_losses(0.9, 2.0, n_feat=3)[2], 0.3 - 0.81 / 4)
    assert t.phase_losses(0.3, 2.0, free_norm=True).superposed == pytest.approx(3 * t.free_antipodal(0.3)[1])
    grid = t.phase_labels(np.geomspace(0.01, 1, 5), np.geomspace(0.1, 10, 3)[:, None])
    assert grid.shape == (3, 5)
    assert t.phase_labels(0.575, 1.0) == t.IGNORED
    assert t.phase_labels(0.575, 1.0, free_norm=True) == t.SUPERPOSED


@pytest.mark.parametrize("norm", [0.2, 0.586, 1.0])
def test_the_small_density_loss_is_the_limit_of_the_loss(norm):
    """W = [1, −t]: the extra alone and both active, by quadrature split at the kink x = ty."""
    ratio = 0.43
    alone = integrate.quad(lambda y: (y - norm**2 * y) ** 2, 0, 1)[0]
    args = {"epsabs": 1e-13, "epsrel": 1e-13}
    both = integrate.dblquad(lambda x, y: x**2, 0, 1, 0, lambda y: norm * y, **args)[0]
    both += integrate.dblquad(lambda x, y: (norm * y) ** 2, 0, 1, lambda y: norm * y, 1, **args)[0]
    assert t.small_density_loss(norm, ratio) == pytest.approx(ratio * alone + both, abs=1e-12)


def test_the_extra_enters_at_once():
    """A first-order transition at ρ = (2 + √2)/8, to the norm 2 − √2."""
    norms = np.linspace(0, 1.5, 30001)
    for ratio in (0.2, 0.42, 0.4267, 0.4269, 0.43, 0.5, 0.8, 3.0):
        best = norms[np.argmin(t.small_density_loss(norms, ratio))]
        assert t.small_density_norm(ratio) == pytest.approx(best, abs=6e-5)
    assert t.small_density_norm(t.CRITICAL_RATIO - 1e-9) == 0
    assert t.small_density_norm(t.CRITICAL_RATIO) == pytest.approx(t.CRITICAL_NORM, abs=1e-6)
    at = t.CRITICAL_RATIO
    assert t.small_density_loss(t.CRITICAL_NORM, at) == pytest.approx(t.small_density_loss(0, at), abs=1e-15)
    assert t.boundaries(1e-6)[0] / 1e-6 == pytest.approx(0.5, abs=1e-5)


def test_the_linear_model_against_samples():
    """The closed form is exact at any density: the second moments of 400,000 rows, and the best bias."""
    rng = np.random.default_rng(3)
    W, importance, p = rng.standard_normal((3, 7)) * 0.5, rng.uniform(0.2, 2, 7), 0.3
    x = rng.uniform(size=(400_003, 7)) * (rng.uniform(size=(400_003, 7)) < p)
    error = x @ (W.T @ W - np.eye(7))
    per_row = ((error - p / 2 * (W.T @ W - np.eye(7)).sum(axis=0)) ** 2) @ importance
    sigma = per_row.std() / len(x) ** 0.5
    assert abs(t.linear_loss(W, p, importance=importance) - per_row.mean()) < 4 * sigma


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 11), st.floats(0.01, 1))
def test_no_linear_model_goes_below_its_optimum(seed, n_hid, n_feat, p):
    rng = np.random.default_rng(seed)
    importance = rng.uniform(0.1, 3, n_feat)
    least = t.linear_optimum(importance, p, n_hid=n_hid)
    W = rng.standard_normal((n_hid, n_feat)) * rng.uniform(0.1, 1.5)
    assert t.linear_loss(W, p, importance=importance) >= least - 1e-12
    kept = np.argsort(-importance)[:n_hid]
    best = np.zeros((n_hid, n_feat))
    best[np.arange(len(kept)), kept] = 1
    assert t.linear_loss(best, p, importance=importance) == pytest.approx(least, abs=1e-14)


@pytest.mark.parametrize("density", [0, -0.1, 1.01, np.nan, [0.5, 0.0]])
def test_refuses_a_density_outside(density):
    with pytest.raises(InputError, match=r"^density: expected numbers in \(0, 1\], got"):
        t.phase_labels(density, 1.0)


def test_refuses_other_nonsense():
    for importance in (-1.0, np.inf, [0.0, 0.0]):
        with pytest.raises(InputError, match=r"^importance: expected"):
            t.phase_losses(0.5, importance)
    with pytest.raises(InputError, match=r"^n_feat: expected 2 or 3, got 4"):
        t.phase_losses(0.5, 1.0, n_feat=4)
    with pytest.raises(InputError, match=r"^W: expected"):
        t.linear_loss(np.array([[np.nan]]), 0.5)
    with pytest.raises(InputError, match=r"^importance: expected 3 numbers"):
        t.linear_loss(np.ones((2, 3)), 0.5, importance=[1.0, 2.0])
    for n_hid in (0, 1.5):
        with pytest.raises(InputError, match=r"^n_hid: expected a whole number of at least 1, got"):
            t.linear_optimum([1.0], 0.5, n_hid=n_hid)
    with pytest.raises(
        InputError, match=r"^density, importance: expected shapes that broadcast, got \(2,\) and \(3,\)$"
    ):
        t.phase_losses([0.1, 0.2], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"^density: expected one number, got shape \(2,\)$"):
        t.linear_loss(np.ones((2, 3)), [0.1, 0.2])
    with pytest.raises(InputError, match=r"^density: expected one number, got shape \(1,\)$"):
        t.linear_optimum([1.0], [0.1], n_hid=1)
    for ratio in (-1, np.nan, [0.5, np.inf]):
        with pytest.raises(InputError, match=r"^ratio: expected finite numbers from 0, got"):
            t.small_density_norm(ratio)
        with pytest.raises(InputError, match=r"^ratio: expected finite numbers from 0, got"):
            t.small_density_loss(0.5, ratio)
    with pytest.raises(InputError, match=r"^density: expected"):
        t.phase_losses([], 1.0)
