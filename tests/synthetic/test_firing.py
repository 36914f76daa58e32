"""Firing probabilities, trees and the order in which they are decided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.synthetic import Hierarchy, firing_probabilities, given_parent, tree
from minisae.synthetic.firing import calibrate, correlation_factor, waves


def test_probabilities_by_hand():
    assert firing_probabilities(3, shape="constant", p_max=0.2).tolist() == [0.2] * 3
    np.testing.assert_allclose(firing_probabilities(5, shape="linear", p_max=0.5, p_min=0.1), [0.5, 0.4, 0.3, 0.2, 0.1])
    # 1, 1/2, 1/3 stretched from [1/3, 1] to [0, 1]: 1, 1/4, 0
    np.testing.assert_allclose(firing_probabilities(3, shape="zipf", p_max=0.5, p_min=0.1), [0.5, 0.2, 0.1])
    np.testing.assert_allclose(
        firing_probabilities(4, shape="zipf", p_max=1, p_min=0, exponent=0.5), [1, 2**0.5 - 1, 2 / 3**0.5 - 1, 0]
    )


@given(st.integers(1, 40), st.sampled_from(["zipf", "linear"]), st.floats(0, 1), st.floats(0, 1))
def test_probabilities_fall_from_p_max_to_p_min(n_feat, shape, a, b):
    low, high = sorted((a, b))
    p = firing_probabilities(n_feat, shape=shape, p_max=high, p_min=low)
    assert p.shape == (n_feat,)
    assert p[0] == pytest.approx(high)
    assert n_feat == 1 or p[-1] == pytest.approx(low)
    assert (np.diff(p) <= 1e-12).all()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"shape": "normal", "p_max": 0.5}, "shape"),
        ({"shape": "zipf", "p_max": 0.5}, "p_min"),
        ({"shape": "constant", "p_max": 0.5, "p_min": 0.1}, "p_min"),
        ({"shape": "linear", "p_max": 0.1, "p_min": 0.5}, "p_max"),
        ({"shape": "constant", "p_max": 1.5}, "p_max"),
    ],
)
def test_bad_probabilities_are_refused(options, names):
    with pytest.raises(InputError, match=names):
        firing_probabilities(7, **options)


def test_tree_by_hand():
    h = tree(11, roots=2, branching=2, depth=1, exclusive=True)
    assert h.parent.tolist() == [-1, -1, 0, 0, 1, 1, -1, -1, -1, -1, -1]
    assert h.exclusive.tolist() == [False, False, True, True, True, True] + [False] * 5
    deep = tree(7, roots=1, branching=2, depth=2)
    assert deep.parent.tolist() == [-1, 0, 0, 1, 1, 2, 2]
    assert not deep.exclusive.any()


@pytest.mark.parametrize(("n_feat", "depth"), [(13, 2), (1, 0)])
def test_a_tree_too_large_is_refused(n_feat, depth):
    with pytest.raises(InputError, match="n_feat"):
        tree(n_feat, roots=2, branching=2, depth=depth)


def test_given_parent_multiplies_down_the_tree():
    h = tree(7, roots=1, branching=2, depth=2)
    np.testing.assert_allclose(given_parent(np.full(7, 0.5), h), [0.5, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125])


def test_waves_by_hand():
    h = Hierarchy(np.array([-1, 0, 0, 0, 2, -1]), np.array([False, True, True, False, False, False]))
    assert [w.tolist() for w in waves(h)] == [[1, 3], [2], [4]]
    roots = Hierarchy(np.array([-1, -1, -1]), np.array([True, False, True]))
    assert [w.tolist() for w in waves(roots)] == [[0], [2]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 23))
def test_waves_put_parents_and_earlier_siblings_first(seed, n_feat):
    rng = np.random.default_rng(seed)
    label = rng.permutation(n_feat)
    parent = np.full(n_feat, -1)
    for i in range(n_feat):
        above = rng.integers(-1, i)
        parent[label[i]] = -1 if above < 0 else label[above]
    exclusive = rng.random(n_feat) < 0.5
    order = {int(c): place for place, wave in enumerate(waves(Hierarchy(parent, exclusive))) for c in wave}
    assert set(order) == set(np.flatnonzero((parent >= 0) | exclusive).tolist())
    for child, place in order.items():
        assert order.get(int(parent[child]), -1) < place
        rivals = [i for i in range(n_feat) if exclusive[i] and exclusive[child] and parent[i] == parent[child]]
        assert sorted(rivals, key=lambda i: order[i]) == rivals
        assert len({order[i] for i in rivals}) == len(rivals)


@pytest.mark.parametrize("parent", [[1, 0], [0, -1], [-1, 2], [-2, -1]])
def test_impossible_parents_are_refused(parent):
    with pytest.raises(InputError, match="hierarchy"):
        waves(Hierarchy(np.array(parent), np.zeros(2, bool)))


def test_calibration_by_hand():
    """Exclusive children share what is left of their parent: 0.2/0.5, then 0.1/(0.5 − 0.2)."""
    h = Hierarchy(np.array([-1, 0, 0, 0]), np.array([False, True, True, False]))
    p = np.array([0.5, 0.2, 0.1, 0.25])
    none = np.zeros((4, 0), np.float32)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(calibrate(p, np.ones(4), none, h, rng), [0.5, 0.4, 1 / 3, 0.5], rtol=1e-9)
    # magnitudes that are zero half the time: propose twice as often
    np.testing.assert_allclose(calibrate(p, np.array([1, 0.5, 1, 1]), none, h, rng), [0.5, 0.8, 1 / 3, 0.5], rtol=1e-9)
    np.testing.assert_allclose(calibrate(p, np.array([0.5, 1, 1, 1]), none, None, rng), [1, 0.2, 0.1, 0.25])


@pytest.mark.parametrize("p", [[0.2, 0.3, 0, 0], [0.3, 0.2, 0.2, 0], [0.3, 0, 0, 0.4]])
def test_probabilities_that_do_not_fit_are_refused(p):
    h = Hierarchy(np.array([-1, 0, 0, 0]), np.array([False, True, True, False]))
    with pytest.raises(InputError, match=r"p: expected at most .* for feature"):
        calibrate(np.array(p), np.ones(4), np.zeros((4, 0), np.float32), h, np.random.default_rng(0))


def test_correlation_factor_keeps_every_variance_at_one():
    """Rank 25 at scale 0.3 has squares that sum to 2.25: all rows are shortened; at scale 0.1 none is."""
    rng = np.random.default_rng(0)
    for scale, expected in ((0.3, 0.99), (0.1, None)):
        share = (correlation_factor(97, rank=25, scale=scale, rng=rng) ** 2).sum(axis=1)
        if expected:
            np.testing.assert_allclose(share, expected, rtol=1e-5)
        else:
            assert share.mean() == pytest.approx(0.25, abs=0.03)
            assert share.max() < 0.99
