"""What neurons serve, by hand; check 20 of the reference (slow)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from toy_models import data, train
from toy_models.experiments import privileged
from toy_models.models import Config

HAND = np.array(
    [
        [1.0, 0.2, -3.0, 0.0, 0.0],  # one feature; a negative weight is no feature
        [0.0, 0.6, 0.2, 0.5, 0.0],  # three
        [0.0, 0.0, 0.0, 0.0, 0.04],  # dead: too weak
        [-1.0, -2.0, 0.0, 0.0, 0.0],  # dead: only negative
    ]
)


def test_neurons_by_hand():
    found = privileged.neurons(HAND)
    np.testing.assert_array_equal(found.features, [1, 3, 0, 0])
    np.testing.assert_array_equal(found.neurons, [1, 1, 1, 1, 0])
    assert (found.mono, found.poly) == (1, 1)
    np.testing.assert_array_equal(privileged.neurons(HAND, share=0.1).features, [2, 3, 0, 0])
    np.testing.assert_array_equal(privileged.neurons(HAND, floor=0.01).features, [1, 3, 1, 0])
    batched = privileged.neurons(np.stack([HAND, HAND[::-1]]))
    np.testing.assert_array_equal(batched.features, [[1, 3, 0, 0], [0, 0, 3, 1]])
    np.testing.assert_array_equal(batched.poly, [1, 1])


def test_order_by_hand():
    W = np.array([[0, 1.0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(privileged.order(W), [2, 3, 1, 0])


@given(n_hid=st.integers(1, 7), n_feat=st.integers(1, 11), seed=st.integers(0, 999))
def test_counts_agree_and_follow_permutations(n_hid, n_feat, seed):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((3, n_hid, n_feat))
    found = privileged.neurons(W)
    np.testing.assert_array_equal(found.features.sum(axis=-1), found.neurons.sum(axis=-1))
    np.testing.assert_array_equal(found.mono + found.poly + (found.features == 0).sum(axis=-1), n_hid)
    rows, columns = rng.permutation(n_hid), rng.permutation(n_feat)
    moved = privileged.neurons(5 * W[:, rows][..., columns])
    np.testing.assert_array_equal(moved.features, found.features[:, rows])
    np.testing.assert_array_equal(moved.neurons, found.neurons[:, columns])


def test_a_rotation_changes_what_a_relu_model_computes():
    """Why neurons mean something here, and nothing in the models with a linear hidden layer."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    params = {"W": np.eye(2)[None], "b": np.zeros((1, 2))}
    turned = params | {"W": turn @ params["W"]}
    batch = data.Batch(data.sample(data.independent(0.5, n_feat=2), 101, np.random.default_rng(0), dtype=np.float64))
    for hidden, change in (("identity", False), ("relu", True)):
        loss = [train.evaluate(Config(2, 2, hidden=hidden), p, batch)[0] for p in (params, turned)]
        assert (abs(loss[1] - loss[0]) > 0.01) == change


def test_a_short_run_keeps_the_best():
    found = privileged.privileged((0.7, 0.2), n_feat=7, n_hid=3, tries=3, steps=30, batch_size=61, rows=503, threads=1)
    assert found.W.shape == (2, 3, 7)
    assert found.loss.shape == (2, 3)
    assert (np.diff(found.loss, axis=1) > 0).all()
    cfg = Config(7, 3, hidden="relu")
    seen = data.independent(found.density[:, None], n_feat=7)
    loss = train.evaluate(cfg, {"W": found.W, "b": found.b}, seen, importance=0.75 ** np.arange(7), rows=503)
    np.testing.assert_allclose(loss, found.loss[:, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: privileged.privileged(0.3, tries=0), "density, tries: expected"),
        (lambda: privileged.privileged(-0.3), "density: expected"),
        (lambda: privileged.privileged(0.3, importance=np.zeros(10)), "importance: expected"),
        (lambda: privileged.privileged(0.3, importance=np.ones(7)), "importance: expected"),
        (lambda: privileged.neurons(HAND, share=1.0), "share, floor: expected"),
        (lambda: privileged.neurons(HAND, floor=-0.1), "share, floor: expected"),
        (lambda: privileged.neurons(np.full((2, 3), np.nan)), "W: expected finite"),
        (lambda: privileged.order(np.ones((2, 3, 5))), "W: expected an array"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_neurons_go_from_one_feature_to_many(seed):
    """Check 20: the best of 48 starts at p = 0.75, 0.3 and 0.03."""
    found = privileged.privileged((0.75, 0.3, 0.03), seed=seed)
    dense, middle, sparse = (privileged.neurons(W) for W in found.W)
    assert dense.mono == 5
    assert middle.poly == 2
    assert sorted(middle.features.tolist()) == [1, 1, 1, 2, 2]  # three features in two neurons
    assert sparse.mono == 0
    assert (sparse.neurons[sparse.neurons > 0] >= 2).sum() >= 8  # nearly every feature is a pair of neurons
