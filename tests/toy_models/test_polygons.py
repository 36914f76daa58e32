"""One active feature: the loss against quadrature, published polygons, and the hull of shapes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from minisae.errors import InputError
from toy_models import polygons as g
from toy_models import thomson

PUBLISHED = {  # Chen et al. 2023: norm, bias, h
    4: (1.0, 0.0, 0.0),
    5: (1.17046, -0.28230, 0.23738),
    6: (1.32053, -0.61814, 0.86746),
    7: (1.44839, -0.96691, 1.74870),
    8: (1.55045, -1.29119, 2.77311),
}
FINE = {  # Newton on independently written formulas: norm, bias, loss a feature
    5: (1.170460, -0.282297, 0.0158256),
    6: (1.320526, -0.618135, 0.0481924),
    7: (1.448394, -0.966906, 0.0832712),
    8: (1.550449, -1.291192, 0.1155459),
}
reals = st.floats(-3, 3)


def by_quadrature(f, slope, bias):
    """∫₀¹ f, split at the kink of ReLU(sx + b)."""
    kink = -bias / slope if slope else -1.0
    cuts = [0.0, kink, 1.0] if 0 < kink < 1 else [0.0, 1.0]
    return sum(integrate.quad(f, *ends, epsabs=1e-13)[0] for ends in pairwise(cuts))


@given(reals, reals)
def test_both_integrals_against_quadrature(slope, bias):
    assert g.relu_square(slope, bias) == pytest.approx(
        by_quadrature(lambda x: max(slope * x + bias, 0) ** 2, slope, bias), abs=1e-12
    )
    assert g.self_error(slope, bias) == pytest.approx(
        by_quadrature(lambda x: (x - max(slope * x + bias, 0)) ** 2, slope, bias), abs=1e-12
    )


def test_integrals_by_hand():
    assert g.relu_square(0, 0.5) == 0.25
    assert g.relu_square(0, 0) == g.relu_square(0, -1) == g.relu_square(-2, 0) == g.relu_square(1e-310, -1) == 0
    assert g.relu_square(1, -0.5) == pytest.approx(0.125 / 3)
    assert g.self_error(1, 0) == 0
    assert g.self_error(0, 0) == g.self_error(3, -5) == pytest.approx(1 / 3)
    assert g.self_error(0, 0.5) == pytest.approx(1 / 12)
    # neighbour with cosine c and ac + b > 0: (ac + b)³/(3ac)
    assert g.relu_square(1.3 * 0.4, -0.2) == pytest.approx((1.3 * 0.4 - 0.2) ** 3 / (3 * 1.3 * 0.4), abs=1e-15)


def test_one_hot_loss_against_samples():
    rng = np.random.default_rng(5)
    W, b, importance = rng.standard_normal((3, 7)), rng.standard_normal(7) * 0.3, rng.uniform(0.3, 2, 7)
    x = np.zeros((200_003, 7))
    x[np.arange(len(x)), rng.integers(7, size=len(x))] = rng.uniform(size=len(x))
    rows = ((x - np.maximum(x @ W.T @ W + b, 0)) ** 2) @ importance
    assert abs(g.one_hot_loss(W, b, importance=importance) - rows.mean()) < 4 * rows.std() / len(x) ** 0.5


@pytest.mark.parametrize("k", PUBLISHED)
def test_published_polygons(k):
    norm, bias, h = PUBLISHED[k]
    found = g.polygon_optimum(k)
    assert found.norm == pytest.approx(norm, abs=5.1e-6)
    assert found.bias == pytest.approx(bias, abs=5.1e-6)
    assert g.polygon_energy(k) == pytest.approx(h, abs=1e-5)
    if k in FINE:
        assert found[:2] == pytest.approx(FINE[k][:2], abs=1.1e-6)
        assert found.loss == pytest.approx(FINE[k][2], abs=6e-8)


def test_published_losses():
    for (k, n_feat, positive), loss in {
        (5, 6, 0): 0.06874, (5, 6, 1): 0.06180, (6, 6, 0): 0.04819, (4, 5, 0): 0.06667, (5, 5, 0): 0.01583,
    }.items():  # fmt: skip
        assert g.polygon_loss(k, n_feat, positive=positive) == pytest.approx(loss, abs=5.1e-6)


@pytest.mark.parametrize(
    ("k", "n_feat", "positive"), [(3, 5, 0), (4, 6, 2), (5, 5, 0), (5, 7, 1), (7, 7, 0), (8, 11, 3)]
)
def test_a_polygon_is_a_critical_point_of_the_whole_loss(k, n_feat, positive):
    """Not only along norm and bias: every entry of W and b by central differences of the exact loss."""
    W, b = g.polygon_params(k, n_feat, positive=positive)
    assert g.one_hot_loss(W, b) == pytest.approx(g.polygon_loss(k, n_feat, positive=positive), abs=1e-14)
    for array in (W, b):
        for place in np.ndindex(array.shape):
            kept, sides = array[place], []
            for step in (1e-7, -1e-7):
                array[place] = kept + step
                sides.append(g.one_hot_loss(W, b))
            array[place] = kept
            assert abs(sides[0] - sides[1]) / 2e-7 < 1e-6


def test_the_heptagon_is_best_in_two_dimensions_under_one_active_feature():
    """And not the pentagon: k(ℓ − 1/3) is what a k-gon saves."""
    saved = {k: k * (g.polygon_optimum(k).loss - 1 / 3) for k in range(3, 10)}
    assert min(saved, key=saved.__getitem__) == 7
    assert saved[7] == pytest.approx(-1.7504, abs=5e-5)
    assert saved[5] == pytest.approx(-1.5875, abs=5e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_slopes_and_curvature_by_finite_differences(seed, m):
    rng = np.random.default_rng(seed)
    c = rng.uniform(0.05, 1, m)
    v = np.array([rng.uniform(0.8, 2.5), -rng.uniform(0.05, 1)])
    if np.min(np.abs(np.append(c, 1) * v[0] + v[1])) < 1e-3:  # a kink
        return
    _, slopes, curvature = g._newton_terms(v, c)
    for j in range(2):
        step = np.eye(2)[j] * 1e-6
        up, down = g._newton_terms(v + step, c), g._newton_terms(v - step, c)
        assert (up[0] - down[0]) / 2e-6 == pytest.approx(slopes[j], abs=1e-8)
        np.testing.assert_allclose((up[1] - down[1]) / 2e-6, curvature[j], atol=1e-6)


@pytest.mark.parametrize("k", [5, 6, 9])
def test_an_optimum_is_the_lowest_of_a_grid(k):
    cosines = g.polygon_cosines(k)
    a, b = np.meshgrid(np.linspace(0.7, 3.2, 251), np.linspace(-2, 0, 201))
    loss = g.self_error(a, b) + sum(g.relu_square(a * c, b) for c in cosines)
    found = g.optimum(cosines)
    assert found.loss <= loss.min() <= found.loss + 1e-4


def test_solids_by_one_active_feature():
    """Against a coarse grid search done apart from this code."""
    u = 0.56045**2
    cross = (1 - u) / 2**0.5
    antiprism = g.optimum([u, u, 2 * u - 1, cross - u, cross - u, -cross - u, -cross - u])
    np.testing.assert_allclose(antiprism, (1.173, -0.288, 0.0164), atol=2e-3)
    np.testing.assert_allclose(g.optimum(np.array([1, 1, 1, -1, -1, -1, -3]) / 3), (1.208, -0.356, 0.0207), atol=2e-3)
    np.testing.assert_allclose(g.optimum([5**-0.5] * 5 + [-(5**-0.5)] * 5 + [-1]), (1.353, -0.67, 0.0444), atol=2.5e-3)


def test_the_hull_has_digon_pentagon_antiprism_in_this_order():
    shapes = g.packing_shapes()
    table = {s.name: (s.k / s.d, s.energy / s.d) for s in shapes}
    assert table["digon"] == (2, 0)
    np.testing.assert_allclose(table["pentagon"], (2.5, 0.478), atol=1e-3)
    np.testing.assert_allclose(table["square antiprism"], (8 / 3, 0.682), atol=5e-4)
    np.testing.assert_allclose(table["hexagon"], (3, 1.5), atol=1e-12)
    names = [s.name for s in g.packing_hull(shapes)]
    assert names[names.index("digon") :][:3] == ["digon", "pentagon", "square antiprism"]
    assert not {"cube", "icosahedron", "tetrahedron"} & set(names)


def test_energies_of_the_shapes_by_hand():
    """Positive cosines: of the k-gon ``cos(2πj/k)``; of the cube three of 1/3, of the icosahedron five of 1/√5."""
    energy = {s.name: s.energy for s in g.packing_shapes()}
    assert len(energy) == len(g.packing_shapes()) == 11
    for name in ("point", "digon", "triangle", "tetrahedron"):
        assert energy[name] == pytest.approx(0, abs=1e-12)
    for name, k in (("pentagon", 5), ("hexagon", 6), ("heptagon", 7), ("octagon", 8)):
        cosines = np.cos(2 * np.pi * np.arange(1, k) / k)
        np.testing.assert_allclose(g.polygon_cosines(k), cosines, atol=1e-12)
        assert energy[name] == pytest.approx(k * (np.maximum(cosines, 0) ** 2).sum())
    assert (energy["cube"], energy["icosahedron"]) == pytest.approx((8 * 3 / 9, 12 * 5 / 5))
    least = 16 / (5 + 2 * 2**0.5)
    assert least < energy["square antiprism"] < least * 1.0015
    rest = thomson.minimise(8, 3, np.random.default_rng(1), energy="relu2")
    assert rest.energy == pytest.approx(least, abs=1e-8)


def test_in_four_dimensions_something_beats_pentagons():
    """So the argument is about shapes in at most three: ten vectors with cosines 1/6 (six) and −2/3 (three)."""
    found = thomson.minimise(10, 4, np.random.default_rng(0), energy="relu2", starts=20)
    assert found.energy == pytest.approx(10 / 6, abs=1e-7)
    pentagon = next(s for s in g.packing_shapes() if s.name == "pentagon")
    assert found.energy / 4 < pentagon.energy / pentagon.d - 0.06
    cosines = np.sort((found.X.T @ found.X)[0])
    np.testing.assert_allclose(cosines, [-2 / 3] * 3 + [1 / 6] * 6 + [1], atol=1e-4)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=30))
def test_lower_hull_is_below_every_point_and_convex(points):
    x, y = np.array(points, dtype=float).T
    corners = g.lower_hull(x, y)
    assert np.all(np.diff(x[corners]) > 0)
    slopes = np.diff(y[corners]) / np.diff(x[corners])
    assert np.all(np.diff(slopes) > 0)
    assert np.all(np.interp(x, x[corners], y[corners]) <= y + 1e-9)


def test_refusals():
    for k in (2, 2.5, np.nan):
        with pytest.raises(InputError, match=r"^k: expected a whole number of at least 3, got"):
            g.polygon_optimum(k)
    for size in (g.polygon_loss, g.polygon_params):
        with pytest.raises(InputError, match=r"^positive: expected a whole number of at least 0 and at most 1, got 2"):
            size(5, 6, positive=2)
        with pytest.raises(InputError, match=r"^n_feat: expected a whole number of at least 5, got 4"):
            size(5, 4)
    for cosines in ([1.5], [np.nan], 0.5):
        with pytest.raises(InputError, match=r"^cosines: expected"):
            g.optimum(cosines)
    W = np.ones((2, 3))
    for b in (np.ones(2), [0, np.nan, 0]):
        with pytest.raises(InputError, match=r"^W, b: expected finite"):
            g.one_hot_loss(W, b)
    for importance in (np.ones(2), [1, np.nan, 1], [1, -1, 1]):
        with pytest.raises(InputError, match=r"^importance: expected"):
            g.one_hot_loss(W, np.ones(3), importance=importance)
