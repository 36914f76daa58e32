"""The reference polytopes: the table of their numbers, products, and where charges and interfering features rest."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.streams import generator
from toy_models import geometry, matching, polytopes, thomson

TABLE = {
    # name: k, d, eigenvalue (all alike), energy a vertex, coherence, Welch
    "point": (1, 1, 1, 0, 0, 0),
    "digon": (2, 1, 2, 0, 1, 1),
    "triangle": (3, 2, 1.5, 0, 0.5, 0.5),
    "tetrahedron": (4, 3, 4 / 3, 0, 1 / 3, 1 / 3),
    "5-cell": (5, 4, 1.25, 0, 0.25, 0.25),
    "7-simplex": (8, 7, 8 / 7, 0, 1 / 7, 1 / 7),
    "pentagon": (5, 2, 2.5, 0.1910, 0.8090, 0.6124),
    "hexagon": (6, 2, 3, 0.5, 1, 0.6325),
    "heptagon": (7, 2, 3.5, 0.7775, 0.9010, 0.6455),
    "square antiprism": (8, 3, 8 / 3, 0.2603, 0.8047, 0.4880),
    "cube": (8, 3, 8 / 3, 1 / 3, 1, 0.4880),
    "icosahedron": (12, 3, 4, 1, 1, 0.5222),
}
COSINES = {
    "pentagon": [0.309, 0.309, -0.809, -0.809],
    "heptagon": [0.623, 0.623, -0.223, -0.223, -0.901, -0.901],
    "square antiprism": [1 / 3, 1 / 3, 0.138, 0.138, -1 / 3, -0.805, -0.805],
    "cube": [1 / 3, 1 / 3, 1 / 3, -1 / 3, -1 / 3, -1 / 3, -1],
    "icosahedron": [0.447] * 5 + [-0.447] * 5 + [-1],
}
THOMSON = {4: 3.674235, 5: 6.474691, 6: 9.985281, 7: 14.452977, 8: 19.675288}
"""Least Coulomb energy of so many charges on the sphere."""


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    k, d, eigenvalue, energy, coherence, welch = TABLE[name]
    facts = polytopes.facts(polytopes.named(name).frame)
    assert (facts.k, facts.d) == (k, d)
    assert pytest.approx(d / k) == facts.D
    assert facts.eigenvalues == pytest.approx(eigenvalue)
    assert (facts.energy, facts.coherence, facts.welch) == pytest.approx((energy, coherence, welch), abs=6e-5)
    if name in COSINES:
        assert facts.cosines == pytest.approx(COSINES[name], abs=6e-4)


def test_every_library_shape_has_its_vertices_alike_and_its_symmetries_counted():
    for shape in polytopes.LIBRARY:
        gram = shape.frame.T @ shape.frame
        assert np.allclose(np.sort(gram, axis=1), np.sort(gram[0]))
        if 4 < len(gram) <= 8 and "simplex" not in shape.name and shape.name != "5-cell":
            assert count_symmetries(gram) == shape.symmetries, shape.name


def count_symmetries(gram):
    """Permutations that keep the Gram matrix, one vertex after another."""
    orders = [()]
    for vertex in range(len(gram)):
        orders = [
            (*order, new)
            for order in orders
            for new in set(range(len(gram))).difference(order)
            if np.allclose(gram[new, list(order)], gram[vertex, :vertex])
        ]
    return len(orders)


def test_levels_are_what_the_shapes_have():
    heights = [height for height, _ in polytopes.LEVELS]
    assert heights == [0.375, 0.4, 0.5, 2 / 3, 0.75, 1]
    for height, text in polytopes.LEVELS:
        value, _, name = text.partition(" ")
        assert float(Fraction(value)) == height
        shape = "point" if name.strip() == "own dimension" else name
        assert pytest.approx(height) == polytopes.facts(polytopes.named(shape).frame).D


def test_antiprism_dimensionality_in_closed_form():
    for z in (0.3, polytopes.TIGHT_Z, polytopes.COULOMB_Z, 0.8):
        D = polytopes.facts(polytopes.square_antiprism(z)).D
        assert pytest.approx(1 / (4 * (1 - z**2) ** 2 + 8 * z**4)) == D
        assert D.max() <= 3 / 8 + 1e-12
    coulomb = polytopes.facts(polytopes.named("square antiprism", variant="Coulomb").frame)
    assert coulomb.eigenvalues == pytest.approx([2.744, 2.744, 2.513], abs=5e-4)
    assert coulomb.energy == pytest.approx(0.25573, abs=5e-6)  # a little above the least, .25548: see below


def test_products_are_what_their_factors_are():
    bipyramid = polytopes.facts(polytopes.bipyramid(3))
    assert pytest.approx([2 / 3] * 3 + [1 / 2] * 2) == bipyramid.D  # never 5 times 3/5
    assert bipyramid.eigenvalues == pytest.approx([2, 1.5, 1.5])
    assert polytopes.facts(polytopes.bipyramid(5)).energy == pytest.approx(0.1364, abs=5e-5)
    octahedron = polytopes.facts(polytopes.cross_polytope(3))
    assert pytest.approx(1 / 2) == octahedron.D
    assert octahedron.cosines == pytest.approx([0, 0, 0, 0, -1])
    assert polytopes.tegum(polytopes.cube(), polytopes.polygon(5)).shape == (5, 13)


def test_cube_and_antiprism_share_the_spectrum_and_are_far_apart():
    cube, antiprism = (polytopes.named(name).frame for name in ("cube", "square antiprism"))
    a, b = cube.T @ cube, antiprism.T @ antiprism
    assert np.allclose(np.linalg.eigvalsh(a), np.linalg.eigvalsh(b))
    assert matching.least_residual(a, b)[0] == pytest.approx(0.27, abs=0.005)


@pytest.mark.parametrize("k", THOMSON)
def test_charges_on_the_sphere(k):
    found = thomson.minimise(k, 3, generator(0, "toy_frames", k))
    assert found.energy == pytest.approx(THOMSON[k], abs=1e-5)
    expected = {4: [0.75] * 4, 5: [0.5] * 2 + [2 / 3] * 3, 6: [0.5] * 6, 7: [0.4] * 5 + [0.5] * 2, 8: [0.37438] * 8}[k]
    assert np.sort(geometry.dimensionality(found.X)) == pytest.approx(expected, abs=1e-4)
    if k == 8:
        gram, ref = (X.T @ X for X in (found.X, polytopes.square_antiprism(polytopes.COULOMB_Z)))
        assert matching.least_residual(gram, ref)[0] < 1e-4


@pytest.mark.parametrize(
    ("k", "d", "energy"), [(6, 3, 0), (5, 2, 0.19098), (7, 3, 0.13642), (8, 3, 0.25548), (9, 3, 0.41176)]
)
def test_where_interfering_features_rest(k, d, energy):
    found = thomson.minimise(k, d, generator(1, "toy_frames", k), energy="relu2")
    assert found.energy / k == pytest.approx(energy, abs=1e-5)
    assert polytopes.relu_energy(found.X).sum() == pytest.approx(found.energy)


@given(st.sampled_from(["coulomb", "relu2"]), st.integers(2, 5), st.integers(2, 7), st.integers(0, 10**6))
def test_slopes_of_the_energies(energy, d, k, seed):
    rng = np.random.default_rng(seed)
    X = polytopes.tegum(rng.standard_normal((d, k)))
    X /= np.linalg.norm(X, axis=0)
    of, step = getattr(thomson, energy), 1e-6
    slope, found = of(X)[1], np.zeros_like(X)
    for at in np.ndindex(*X.shape):
        move = np.zeros_like(X)
        move[at] = step
        found[at] = (of(X + move)[0] - of(X - move)[0]) / (2 * step)
    assert np.allclose(found, slope, rtol=1e-5, atol=1e-5 * max(1, abs(slope).max()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polytopes.simplex(-1), "d: expected a whole number of at least 0, got -1"),
        (lambda: polytopes.polygon(2), "k: expected a whole number of at least 3, got 2"),
        (lambda: polytopes.polygon(2.5), "k: expected a whole number of at least 3, got 2.5"),
        (lambda: polytopes.square_antiprism(1.0), "z: expected a height between 0 and 1, got 1.0"),
        (lambda: polytopes.tegum(), "frames: expected one or more matrices"),
        (lambda: polytopes.named("hexadigon"), "name: expected one of point, digon"),
        (lambda: polytopes.named("cube", variant="tight"), "name: expected one of point, digon"),
        (lambda: polytopes.facts(2 * np.eye(2)), "frame: expected columns of norm 1, got norms from 2 to 2"),
        (lambda: polytopes.facts(np.ones(3)), "frame: expected an array (n_hid, n_feat), not empty, got (3,)"),
        (lambda: polytopes.facts(np.full((2, 2), np.nan)), "frame: expected finite numbers"),
        (lambda: thomson.minimise(1, 3, np.random.default_rng(0)), "k: expected a whole number of at least 2, got 1"),
        (
            lambda: thomson.minimise(2.5, 3, np.random.default_rng(0)),
            "k: expected a whole number of at least 2, got 2.5",
        ),
        (lambda: thomson.minimise(3, 3, np.random.default_rng(0), starts=0), "starts: expected a whole number of"),
        (lambda: thomson.minimise(3, 3, np.random.default_rng(0), energy="log"), "energy: expected one of coulomb"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
