"""Dimensionality, leverage and superposition: the theorem, the conventions, and the standard position for pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.streams import generator
from toy_models import geometry, polytopes

PENTAGON = polytopes.polygon(5)
SIZES = st.tuples(st.integers(1, 7), st.integers(1, 13), st.integers(0, 10**6))


def random(n_hid, n_feat, seed):
    return np.random.default_rng(seed).standard_normal((n_hid, n_feat))


def rotation(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def test_dimensionality_by_hand():
    # columns (1, 0), (1, 1), (0, 2): D_1 = 1/(1 + 1 + 0), D_2 = 4/(1 + 4 + 4), D_3 = 16/(0 + 4 + 16)
    W = np.array([[1.0, 1, 0, 0], [0, 1, 2, 0]])
    assert geometry.dimensionality(W) == pytest.approx([1 / 2, 4 / 9, 16 / 20, 0])
    assert (geometry.capacity(W) == geometry.dimensionality(W)).all()
    assert geometry.dimensions_per_feature(W) == pytest.approx(2 / 7)
    assert geometry.dimensions_per_feature(0 * W) == np.inf
    assert geometry.leverage(np.array([[1.0, 1, 0], [0, 0, 3]])) == pytest.approx([1 / 2, 1 / 2, 1])


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e300, 1e-300, 2**-1060])
def test_entries_of_any_size(scale):
    W = random(3, 7, 0)
    packed, expected = geometry.packing(scale * W), geometry.packing(W)
    rtol = 1e-9 if scale > 1e-305 else 1e-2  # subnormal numbers have few digits
    np.testing.assert_allclose(packed.D, expected.D, rtol)
    np.testing.assert_allclose(packed.leverage, expected.leverage, rtol)
    np.testing.assert_allclose(geometry.cosines(scale * W), geometry.cosines(W), atol=rtol)
    np.testing.assert_allclose(geometry.norms(scale * W), scale * geometry.norms(W), rtol)
    assert geometry.dimensions_per_feature(scale * W) == (0 if scale > 1 else np.inf)


def test_columns_of_very_different_sizes():
    tiny = np.array([[1e200, 0, 1e-100], [0, 1e-100, 0]])
    assert geometry.dimensionality(tiny) == pytest.approx([1, 1, 0])
    assert geometry.dimensionality(np.array([[1e300, 1e-300]])).tolist() == [1, 0]


def test_half_precision_is_measured_in_single():
    W = random(3, 7, 0).astype(np.float16)
    large = np.float16(2**12) * W
    for measure in (geometry.dimensionality, geometry.leverage):
        assert measure(large).dtype == np.float32
        np.testing.assert_allclose(measure(large), measure(W.astype(np.float64)), rtol=1e-5)


@given(SIZES, st.floats(-300, 300))
def test_dimensionality_is_a_share(sizes, power):
    n_hid, n_feat, seed = sizes
    W = random(n_hid, n_feat, seed) * 10.0 ** np.random.default_rng(seed).uniform(min(power, 0), max(power, 0), n_feat)
    D = geometry.dimensionality(W)
    assert ((D >= 0) & (D <= 1)).all()
    assert D.sum() <= n_hid + 1e-9


def test_superposition_in_three_conventions_by_hand():
    W = np.array([[2.0, 1], [0, 1]])
    assert geometry.superposition(W) == pytest.approx([1, 2])
    assert geometry.superposition(W, convention="legend") == pytest.approx([1 + 4, 2 + 2])
    code = [2 / (2 + 1e-5), 2 / (2**0.5 + 1e-5)]
    assert geometry.superposition(W, convention="code") == pytest.approx(code, abs=1e-12)
    assert abs(code[0] - 1) > 1e-6  # the 1e-5 is seen


@given(SIZES)
def test_theorem(sizes):
    """D_i ≤ h_i, Σh = rank: checked with random norms, ranks below the number of dimensions included."""
    n_hid, n_feat, seed = sizes
    rank = 1 + seed % min(n_hid, n_feat)
    W = random(n_hid, rank, seed) @ random(rank, n_feat, seed + 1)
    packed = geometry.packing(W)
    assert (packed.leverage + 1e-9 >= packed.D).all()
    assert packed.rank == rank
    assert packed.leverage.sum() == pytest.approx(rank)
    assert packed.unused >= -1e-9


def test_theorem_on_two_thousand_frames():
    rng = generator(0, "toy_frames", 9)
    for shape in ((2, 3), (3, 5), (5, 11), (7, 7)):
        packed = geometry.packing(rng.standard_normal((500, *shape)))
        assert (packed.leverage + 1e-9 >= packed.D).all()
        assert packed.leverage.sum(axis=-1) == pytest.approx(packed.rank)


@given(SIZES)
def test_rotations_and_permutations_change_nothing(sizes):
    n_hid, n_feat, seed = sizes
    W, order = random(n_hid, n_feat, seed), np.random.default_rng(seed).permutation(n_feat)
    turned = rotation(n_hid, seed) @ W[:, order]
    for measure in (geometry.dimensionality, geometry.leverage, geometry.superposition):
        assert measure(turned) == pytest.approx(measure(W)[order])
    assert geometry.coherence(turned) == pytest.approx(geometry.coherence(W))


def test_equality_holds_for_products_of_tight_frames():
    """Each factor scaled by itself is still tight; another norm inside a factor is not."""
    W = polytopes.tegum(0.7 * PENTAGON, 1.3 * polytopes.cube(), polytopes.simplex(4))
    packed = geometry.packing(rotation(len(W), 1) @ W)
    assert pytest.approx(packed.leverage) == packed.D
    assert packed.unused == pytest.approx(0, abs=1e-9)
    W[:, 0] *= 1.5
    assert geometry.packing(W).unused > 0.01


def test_leverage_is_what_a_linear_probe_explains():
    rng = generator(0, "toy_frames", 10)
    n, n_hid, n_feat = 200_000, 6, 15
    W = rng.standard_normal((n_hid, n_feat))
    x = rng.random((n, n_feat)) * (rng.random((n, n_feat)) < 0.3)
    h = x @ W.T
    h, centred = h - h.mean(axis=0), x - x.mean(axis=0)
    probe = np.linalg.solve(h.T @ h, h.T @ centred)
    explained = 1 - ((centred - h @ probe) ** 2).sum(axis=0) / (centred**2).sum(axis=0)
    assert abs(explained - geometry.leverage(W)).max() < 0.01


def test_instances_are_measured_one_by_one():
    W = np.stack([random(3, 7, seed) for seed in range(5)])
    for measure in (geometry.dimensionality, geometry.leverage, geometry.cosines, geometry.dimensions_per_feature):
        assert np.allclose(measure(W), [measure(one) for one in W])


def test_learned_columns():
    W = np.diag([1.0, 0.9, 0.36, 0.3, 0.1])  # median of those above 0.3 is 0.9: the bar is 0.315
    assert geometry.learned(W).tolist() == [True, True, True, False, False]
    assert not geometry.learned(0.2 * W).any()
    assert geometry.learned(0.2 * W, floor=0.05).tolist() == [True, True, True, True, False]


def test_components():
    W = polytopes.tegum(PENTAGON, polytopes.simplex(1), np.ones((1, 1)))[:, [7, 5, 0, 1, 2, 6, 3, 4]]
    assert geometry.components(W).tolist() == [0, 1, 2, 2, 2, 1, 2, 2]
    assert geometry.components(W, eps=0.95).tolist() == [0, 1, 2, 3, 4, 1, 5, 6]


@pytest.mark.parametrize("d", [2, 3])
def test_canonical_position(d):
    W = random(d, 7, 3)
    put = geometry.canonical(W)
    for seed in range(3):
        mirror = np.diag([-1.0, *[1] * (d - 1)]) if seed else np.eye(d)
        assert np.allclose(geometry.canonical(mirror @ rotation(d, seed) @ W), put)
    assert np.allclose(put.T @ put, W.T @ W)
    longest, second, third = np.argsort(-geometry.norms(W))[:3]
    assert put[:-1, longest] == pytest.approx(0, abs=1e-12)
    assert put[-1, longest] > 0
    assert put[0, second] > 0
    assert d == 2 or (abs(put[1, second]) < 1e-12 and put[1, third] < 0)


def test_canonical_order_is_clockwise_from_up():
    shuffled = rotation(2, 5) @ PENTAGON[:, [3, 0, 4, 1, 2]]
    assert np.allclose(geometry.canonical(shuffled, sort=True), PENTAGON)
    ring = np.concatenate([polytopes.polygon(7)[:, ::-1], np.zeros((1, 7))])
    put = geometry.canonical(polytopes.tegum(np.ones((1, 1)) * 2, ring[:2]), sort=True)
    around = np.arctan2(-put[1], put[0])[np.abs(put[2]) < 1]
    assert (np.diff(around[around > -1e-9]) > 0).all()
    assert geometry.canonical(np.zeros((2, 3))).tolist() == np.zeros((2, 3)).tolist()
    assert np.allclose(geometry.canonical(np.array([[3.0, -1], [0, 0]])), [[0, 0], [3, -1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.dimensionality(np.array([[1.0, np.nan]])), "W: expected finite numbers, got 1 that are"),
        (lambda: geometry.dimensionality(np.ones(3)), "W: expected an array (..., n_hid, n_feat), not empty, got (3,)"),
        (lambda: geometry.leverage([[1.0]]), "W: expected an array (..., n_hid, n_feat), not empty, got list"),
        (lambda: geometry.cosines(np.ones((2, 3), complex)), "W: expected real numbers, got dtype complex128"),
        (lambda: geometry.coherence(np.ones((2, 3, 5))), "W: expected an array (n_hid, n_feat), not empty"),
        (lambda: geometry.superposition(np.eye(2), convention="notebook"), "convention: expected one of text, legend"),
        (lambda: geometry.components(np.eye(2), eps=1), "eps: expected a number in [0, 1), got 1"),
        (lambda: geometry.learned(np.eye(2), floor=np.nan), "floor: expected a number of at least 0, got nan"),
        (lambda: geometry.learned(np.eye(2), floor=-1), "floor: expected a number of at least 0, got -1"),
        (lambda: geometry.learned(np.eye(2), share=np.nan), "share: expected a number of at least 0, got nan"),
        (lambda: geometry.learned(np.eye(2), share="a"), "share: expected a number of at least 0, got 'a'"),
        (lambda: geometry.canonical(np.eye(5)), "W: expected 2 or 3 hidden dimensions, got 5"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
