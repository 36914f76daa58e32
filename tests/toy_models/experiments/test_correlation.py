"""Sets of features: measures of hand-worked frames, short runs, and checks 15 to 17 of the reference (slow)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.streams import generator
from toy_models import data, geometry, models, train
from toy_models.experiments import correlation
from toy_models.models import Config


def basis(rng, width):
    """An orthonormal basis whose vectors then get lengths of their own, as columns."""
    return np.linalg.qr(rng.standard_normal((width, width)))[0] * rng.uniform(0.5, 2, width)


def test_pair_cosines_by_hand():
    W = np.array([[1.0, 3, 1, -2], [0, 4, 0, 0]])
    np.testing.assert_allclose(correlation.pair_cosines(W), [0.6, -1])
    np.testing.assert_allclose(correlation.pair_cosines(np.stack([W, W[:, ::-1]])), [[0.6, -1], [-1, 0.6]])


@given(width=st.integers(2, 13), seed=st.integers(0, 999))
def test_unrelated_bases_have_cosines_of_one_over_the_root(width, seed):
    rng = np.random.default_rng(seed)
    W = np.hstack([basis(rng, width), basis(rng, width)])
    within, across = correlation.set_cosines(W, sets=2)
    np.testing.assert_allclose(within, 0, atol=1e-7)
    np.testing.assert_allclose(across, width**-0.5, rtol=1e-12)


@given(sets=st.integers(2, 4), size=st.integers(2, 5), seed=st.integers(0, 999))
def test_order_within_a_set_does_not_matter(sets, size, seed):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((3, 2, sets * size))
    order = np.concatenate([size * k + rng.permutation(size) for k in range(sets)])
    for got, expected in zip(
        correlation.set_cosines(W[..., order], sets=sets), correlation.set_cosines(W, sets=sets), strict=True
    ):
        np.testing.assert_allclose(got, expected)


def test_set_cosines_by_hand():
    W = np.array([[1.0, 1, 0, 1], [0, 1, 2, 0]])
    half = 0.5**0.5
    within, across = correlation.set_cosines(W, sets=2)
    np.testing.assert_allclose(within, [half, 0])  # between 0° and 45°; between 90° and 0°
    np.testing.assert_allclose(across, half)  # squares 0, 1, ½, ½


def test_a_collapsed_pair_is_reconstructed_as_its_mean():
    W = np.full((1, 1, 2), 0.5**0.5)
    x = data.sample(data.correlated(0.7, sets=1, size=2), 17, generator(0, "toy_test"), dtype=np.float64)
    out, _ = models.forward({"W": W, "b": np.zeros((1, 2))}, x, Config(2, 1))
    np.testing.assert_allclose(out.x_hat, x.mean(axis=-1, keepdims=True).repeat(2, axis=-1))


def test_starts_come_lowest_loss_first():
    found = correlation.embed_sets("correlated", sets=2, size=3, n_hid=2, tries=5, steps=30, batch_size=61, threads=1)
    assert found.W.shape == (5, 2, 6)
    assert found.b.shape == (5, 6)
    assert (np.diff(found.loss) > 0).all()
    seen = data.correlated(0.05, sets=2, size=3)
    again = train.evaluate(Config(6, 2), {"W": found.W, "b": found.b}, seen)
    np.testing.assert_allclose(found.loss, again)


def test_collapse_reports_the_best_of_each_density():
    found = correlation.collapse((0.3, 0.7), pairs=2, n_hid=1, tries=3, steps=40, batch_size=61, threads=1)
    assert found.W.shape == (2, 1, 4)
    np.testing.assert_allclose(abs(found.cosines), 1, rtol=1e-6)  # one dimension
    np.testing.assert_array_equal(found.collapsed, (found.W[:, 0, ::2] * found.W[:, 0, 1::2] > 0).sum(axis=1))
    np.testing.assert_allclose(found.norms[0], abs(found.W[0, 0]).reshape(2, 2).mean(axis=1), rtol=1e-6)
    assert found.loss[0] < found.loss[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlation.embed_sets("mixed", sets=2, size=2, n_hid=2), "kind: expected one of correlated"),
        (
            lambda: correlation.embed_sets("correlated", sets=0, size=2, n_hid=2),
            "sets: expected a whole number of at least 1",
        ),
        (lambda: correlation.embed_sets("correlated", sets=2, size=2, n_hid=2, tries=0), "tries: expected at least 1"),
        (lambda: correlation.embed_sets("correlated", sets=2, size=2, n_hid=2, density=1.5), "density: expected"),
        (lambda: correlation.collapse(0.5, tries=0), "density, tries: expected"),
        (lambda: correlation.collapse((0.5, 0.0)), "density: expected"),
        (lambda: correlation.pair_cosines(np.ones((2, 5))), "W: expected an even number"),
        (lambda: correlation.set_cosines(np.ones((2, 5)), sets=2), "sets: expected at least 2"),
        (lambda: correlation.set_cosines(np.ones((2, 5)), sets=5), "sets: expected at least 2"),
        (lambda: correlation.pair_cosines(np.full((2, 4), np.nan)), "W: expected finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_correlated_pairs_are_orthogonal_and_anticorrelated_ones_antipodal(seed):
    """Check 15: the best of 20 starts; a single start often pairs features of different sets."""
    together = correlation.embed_sets("correlated", sets=2, size=2, n_hid=2, seed=seed)
    assert abs(correlation.pair_cosines(together.W[0])).max() < 0.05
    assert (geometry.norms(together.W[0]) > 0.9).all()
    apart = correlation.embed_sets("anticorrelated", sets=2, size=2, n_hid=2, seed=seed)
    assert correlation.pair_cosines(apart.W[0]).max() < -0.99
    assert apart.loss[0] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_partners_are_neighbours_in_the_hexagon(seed):
    W = correlation.embed_sets("correlated", sets=3, size=2, n_hid=2, density=0.02, tries=8, seed=seed).W[0]
    ring = np.argsort(np.arctan2(W[1], W[0])) // 2
    assert (geometry.norms(W) > 0.9).all()
    assert min(np.sum(ring == np.roll(ring, k)) for k in (1, -1)) == 3, ring


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_sets_of_ten_are_two_local_bases(seed):
    """Check 16."""
    found = correlation.embed_sets("correlated", sets=2, size=10, n_hid=10, tries=4, seed=seed)
    within, across = correlation.set_cosines(found.W, sets=2)
    assert within.max() < 0.06
    np.testing.assert_allclose(across, 10**-0.5, atol=0.01)
    assert geometry.norms(found.W).min() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_pairs_collapse_one_after_the_other(seed):
    """Check 17."""
    found = correlation.collapse(seed=seed)
    dense, sparse = found.density >= 0.4, found.density <= 0.1
    assert (np.diff(found.collapsed) >= 0).all(), found.collapsed
    assert (found.collapsed[dense] == 3).all()
    assert (found.collapsed[sparse] <= 1).all()
    gone = (found.cosines > correlation.COLLAPSED) & (found.density <= 0.4)[:, None]
    np.testing.assert_allclose(found.norms[gone], 0.5**0.5, atol=0.03)
