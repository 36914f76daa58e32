"""Levels, jumps and aligned frames by hand; check 18 of the reference (slow)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from toy_models import data, geometry, train
from toy_models.experiments import dynamics
from toy_models.models import Config


def rotation(rng, width):
    Q = np.linalg.qr(rng.standard_normal((width, width)))[0]
    Q[:, 0] *= np.sign(np.linalg.det(Q))
    return Q


def test_jumps_by_hand():
    D = np.array(
        [
            # stays, jumps, only passes a digon, comes to be learned, holds too short
            [0.5, 0.5, 0.40, 0.02, 0.5],
            [0.5, 0.5, 0.41, 0.05, 0.5],
            [0.51, 0.49, 0.40, 0.09, 0.5],
            [0.49, 0.44, 0.50, 0.30, 0.4],
            [0.5, 0.41, 0.60, 0.66, 0.4],
            [0.5, 0.41, 0.67, 0.67, 0.5],
            [0.5, 0.40, 0.66, 0.66, 0.5],
            [0.5, 0.40, 0.67, 0.66, 0.5],
        ]
    )
    found = dynamics.jumps(np.arange(0, 80, 10), D)
    np.testing.assert_array_equal(found.step, [40, 40, 50])
    np.testing.assert_array_equal(found.feature, [1, 3, 2])
    np.testing.assert_allclose(found.before, [0.5, 0, 0.4])
    np.testing.assert_allclose(found.after, [0.4, 2 / 3, 2 / 3])
    longer = dynamics.jumps(np.arange(0, 80, 10), D, hold=4)
    assert longer.step.tolist() == [40, 40]
    assert longer.feature.tolist() == [1, 3]
    assert np.isnan(longer.before).all()  # they were on no level for long enough
    shortest = dynamics.jumps(np.arange(0, 80, 10), D, hold=1)
    assert shortest.step[shortest.feature == 4].tolist() == [30, 50]
    assert shortest.step[shortest.feature == 2].tolist() == [30, 50]  # by way of the digon


@given(st.floats(0, 1), st.integers(1, 11), st.integers(1, 7))
def test_what_does_not_move_does_not_jump(height, times, n_feat):
    found = dynamics.jumps(np.arange(times), np.full((times, n_feat), height))
    assert all(len(part) == 0 for part in found)


@given(n_hid=st.integers(2, 5), n_feat=st.integers(5, 11), times=st.integers(1, 7), seed=st.integers(0, 999))
def test_turned_copies_are_turned_back(n_hid, n_feat, times, seed):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((n_hid, n_feat))
    spun = np.stack([rotation(rng, n_hid) @ W for _ in range(times)])
    np.testing.assert_allclose(dynamics.align(spun), np.broadcast_to(spun[-1], spun.shape), atol=1e-9)
    np.testing.assert_allclose(dynamics.align(spun, to=W), np.broadcast_to(W, spun.shape), atol=1e-9)


def test_aligning_never_mirrors_and_keeps_the_shape():
    rng = np.random.default_rng(1)
    W = rng.standard_normal((2, 3, 7))
    turned = dynamics.align(W)
    np.testing.assert_allclose(turned.swapaxes(-1, -2) @ turned, W.swapaxes(-1, -2) @ W)
    mirrored = np.stack([W[1] * np.array([[1], [1], [-1]]), W[1]])
    R = dynamics.align(mirrored)[0] @ np.linalg.pinv(mirrored[0])
    np.testing.assert_allclose(np.linalg.det(R), 1)
    far = np.linalg.norm(mirrored[0] - W[1])
    assert 0.01 < np.linalg.norm(dynamics.align(mirrored)[0] - W[1]) <= far


def test_antipodal_by_hand():
    W = np.array([[1.0, -2, 0, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(dynamics.antipodal(W), [True, True, False, False])
    np.testing.assert_array_equal(dynamics.antipodal(np.stack([W, W]), cosine=-0.5)[1], [True, True, False, True])


def test_a_course_is_what_the_snapshots_say():
    seen = data.independent([[0.2], [0.6]], n_feat=7)
    trained = train.train(Config(7, 3), seen, steps=40, batch_size=61, snapshots=(0, 20, 40), threads=1)
    course = dynamics.follow(trained, seen, rows=503)
    assert course.W.shape == (3, 2, 3, 7)
    np.testing.assert_array_equal(course.steps, [0, 20, 40])
    np.testing.assert_allclose(course.D[1, 1], geometry.dimensionality(trained.snapshots["W"][1, 1]), rtol=1e-5)
    expected = train.evaluate(trained.cfg, trained.params, seen, rows=503)
    np.testing.assert_allclose(course.loss[-1], expected)
    assert (course.loss[-1] < course.loss[0]).all()


def test_short_runs_of_both_experiments():
    levels = dynamics.energy_levels(n_feat=11, n_hid=3, instances=2, steps=25, every=10, batch_size=31, threads=1)
    assert levels.steps.tolist() == [0, 10, 20, 25]
    assert levels.D.shape == (4, 2, 11)
    shape = dynamics.transformation(instances=2, steps=25, every=10, batch_size=31, threads=1)
    assert shape.W.shape == (4, 2, 3, 6)
    assert shape.loss.shape == (4, 2)


def no_snapshots():
    seen = data.independent(0.5, n_feat=3)
    return dynamics.follow(train.train(Config(3, 2), seen, steps=1, batch_size=7), seen)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (no_snapshots, "trained: expected a tied model with snapshots"),
        (lambda: dynamics.transformation(every=0), "every: expected a whole number of at least 1"),
        (lambda: dynamics.jumps(np.arange(3), np.ones((2, 5))), "steps, D: expected finite"),
        (lambda: dynamics.jumps(np.arange(2), np.full((2, 5), np.nan)), "steps, D: expected finite"),
        (lambda: dynamics.jumps(np.arange(2), np.ones((2, 5)), levels=(0.5, 0.4)), "levels, hold: expected"),
        (lambda: dynamics.jumps(np.arange(2), np.ones((2, 5)), hold=0), "levels, hold: expected"),
        (lambda: dynamics.align(np.ones((3, 5))), r"W: expected \(t, n_hid, n_feat\)"),
        (lambda: dynamics.align(np.ones((2, 3, 5)), to=np.ones((3, 7))), "to: expected shape"),
        (lambda: dynamics.align(np.full((2, 3, 5), np.inf)), "W: expected finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_digons_are_levels_and_features_jump_between_them(seed):
    """Check 18: 9 digons at the end of every run, and features that change level after step 1,000."""
    course = dynamics.energy_levels(seed=seed)
    # Features that are not learned lie in the one dimension left, some of them opposite: D tells them from digons.
    digons = dynamics.antipodal(course.W[-1]) & (abs(course.D[-1] - 0.5) < 0.02)
    np.testing.assert_array_equal(digons.sum(axis=-1), 18)
    found = [dynamics.jumps(course.steps, course.D[:, i]) for i in range(course.D.shape[1])]
    assert min(((one.after == 0.5) & (one.step > 1000)).sum() for one in found) >= 4  # measured: 6 to 15
    assert sum(((one.before > 0) & (one.step > 1000)).sum() for one in found) >= 3  # from level to level: 5 and 11
    assert (course.loss[-1] < course.loss[len(course.steps) // 8]).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_sets_of_three_become_an_octahedron(seed):
    """Check 18: partners of the same set orthogonal, every feature opposite to one of the other set, ≥ 8 of 12 runs."""
    course = dynamics.transformation(seed=seed)
    W = course.W[-1]
    cos = geometry.cosines(W)
    same = np.kron(np.eye(2), np.ones((3, 3))) - np.eye(6)
    whole = (dynamics.antipodal(W).sum(axis=-1) == 6) & (abs(cos * same).max(axis=(-1, -2)) < 0.05)
    assert whole.sum() >= 8
    np.testing.assert_allclose(course.D[-1][whole], 0.5, atol=0.02)
    assert (dynamics.antipodal(course.W[len(course.steps) // 20]).sum(axis=-1) < 6).any(), "the way is part of it"
