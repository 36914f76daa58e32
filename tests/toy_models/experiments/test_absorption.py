"""Absorption and hedging: the closed forms, and what training does (the slow ones)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.sae import relu
from toy_models import data
from toy_models.experiments import absorption, saes

CASES = list(absorption.CASES)
BOTH = CASES.index("parent + child")


def test_costs_by_hand():
    assert absorption.correct_cost() == pytest.approx((0.30, 0.30))
    assert absorption.absorbed_cost() == pytest.approx((0.2 + 0.05 * 2**0.5, 0.25))
    assert absorption.absorbed_cost().l1 == pytest.approx(0.2707, abs=5e-5)
    assert absorption.shrinkage(0.05) == 0.025


@given(st.floats(0.01, 1), st.floats(0.01, 0.99), st.floats(0.001, 0.5))
def test_absorption_always_pays(density, share, l1):
    correct, absorbed = absorption.correct_cost(density, share), absorption.absorbed_cost(density, share)
    assert absorbed.l1 < correct.l1
    assert absorption.code_loss(absorbed, l1) < absorption.code_loss(correct, l1)


def loss_of(W_dec, codes, x, chance, l1):
    error = np.square(x - codes @ W_dec).sum(axis=1)
    return float(chance @ (error + l1 * codes.sum(axis=1)))


@pytest.mark.parametrize("l1", [0.01, 0.2])
def test_losses_of_the_two_codes(l1):
    """Both codes written out on the three kinds of row: nothing, parent, parent and child."""
    p, q = absorption.DENSITY, absorption.GIVEN
    x, chance = np.array([[0, 0], [1, 0], [1, 1.0]]), np.array([1 - p, p * (1 - q), p * q])
    s = absorption.shrinkage(l1)
    correct = loss_of(np.eye(2), np.array([[0, 0], [1 - s, 0], [1 - s, 1 - s]]), x, chance, l1)
    W_dec = np.array([[1, 0], [0.5**0.5, 0.5**0.5]])
    absorbed = loss_of(W_dec, np.array([[0, 0], [1 - s, 0], [0, 2**0.5 - s]]), x, chance, l1)
    assert correct == pytest.approx(absorption.code_loss(absorption.correct_cost(), l1))
    assert absorbed == pytest.approx(absorption.code_loss(absorption.absorbed_cost(), l1))


def test_hedging_by_hand():
    assert absorption.hedged_cosine() == pytest.approx(0.2434, abs=5e-5)
    assert absorption.hedged_cosine(bias=False) == pytest.approx(0.2298, abs=5e-5)
    assert absorption.naive_cosine() == pytest.approx(0.2 / 1.04**0.5)


@given(st.floats(0.02, 0.9), st.floats(0.02, 0.95), st.booleans())
def test_hedging_is_the_first_principal_direction(density, share, bias):
    x, chance = np.array([[0, 0], [1, 0], [1, 1.0]]), np.array([1 - density, density * (1 - share), density * share])
    centre = chance @ x if bias else np.zeros(2)
    moment = (x - centre).T @ ((x - centre) * chance[:, None])
    first = np.linalg.eigh(moment)[1][:, -1]
    assert absorption.hedged_cosine(density, share, bias=bias) == pytest.approx(abs(first[1]), abs=1e-6)


@pytest.mark.parametrize("nested", [True, False])
def test_how_often_parent_and_child_fire(nested):
    x = data.sample(absorption.features(nested=nested), 100_000, np.random.default_rng(0))[0]
    assert set(np.unique(x)) == {0, 1}
    np.testing.assert_allclose(x.mean(axis=0), (0.25, 0.05, 0.05, 0.05), atol=0.005)
    assert (x[:, 0] * x[:, 1]).mean() == pytest.approx(0.05 if nested else 0.0125, abs=0.003)


@given(st.integers(1, 7), st.integers(0, 5), st.integers(0, 9))
def test_orthonormal(n_feat, more, seed):
    D = absorption.orthonormal(n_feat, n_feat + more, np.random.default_rng(seed))
    np.testing.assert_allclose(D @ D.T, np.eye(n_feat), atol=1e-6)


def at(decoder, l1=0.02):
    """One instance whose latents come in the order 2, 0, 3, 1, with the decoder given; encoder: what its code needs."""
    D = absorption.orthonormal(4, 11, np.random.default_rng(1))
    W_dec, encoder = np.asarray(decoder, float) @ D, np.linalg.pinv(np.asarray(decoder, float)).T @ D
    order = [2, 0, 3, 1]
    params = {
        "W_enc": encoder[order].T[None], "b_enc": np.full((1, 4), -l1 / 2), "W_dec": W_dec[order][None],
        "b_dec": np.zeros((1, 11)),
    }  # fmt: skip
    return saes.TrainedSAEs("relu", relu.Config(11, 4, l1=l1), params, np.zeros(0), {}, np.zeros((0, 1, 4), bool)), D


def test_examine_the_truth_and_an_absorbed_code():
    found = absorption.examine(*at(np.eye(4)))
    np.testing.assert_allclose(found.decoder[0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(found.encoder[0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(found.table[0, :, BOTH], [0.99, 0.99, 0, 0], atol=1e-6)
    assert not found.absorbed[0]
    child = np.array([0.5**0.5, 0.5**0.5, 0, 0])
    found = absorption.examine(*at([[1, 0, 0, 0], child, [0, 0, 1, 0], [0, 0, 0, 1]]))
    np.testing.assert_allclose(found.decoder[0, 1], child, atol=1e-6)
    np.testing.assert_allclose(found.table[0, :, BOTH], [0, 2**0.5 - 0.01, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.table[0, :, 0], [0.99, 0, 0, 0], atol=1e-6)
    assert found.absorbed[0]


def test_a_short_training_runs():
    trained, D = absorption.train(nested=True, instances=2, steps=3, batch_size=17, d_in=7)
    found = absorption.examine(trained, D)
    assert found.encoder.shape == found.decoder.shape == (2, 4, 4)
    assert found.table.shape == (2, 4, len(CASES))
    assert found.absorbed.shape == (2,)
    hedged = absorption.hedge(nested=False, instances=3, steps=2, batch_size=17, d_in=7)
    assert hedged.cosines.shape == (3, 2)
    assert hedged.alive.shape == (3,)


def test_bad_input_is_one_line():
    with pytest.raises(InputError, match=r"^density, given: expected probabilities above 0, got 0 and 0\.2$"):
        absorption.correct_cost(0)
    with pytest.raises(InputError, match=r"^density, given: .* got 0\.25 and 1\.5$"):
        absorption.features(nested=True, given=1.5)
    with pytest.raises(InputError, match=r"^n_feat: expected a whole number of at least 1 and at most 3, got 4$"):
        absorption.orthonormal(4, 3, np.random.default_rng(0))
    trained, D = at(np.eye(4))
    with pytest.raises(InputError, match=r"^dictionary: expected 4 features and latents, got 3 and 4$"):
        absorption.examine(trained, D[:3])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nested_features_are_absorbed_and_independent_ones_are_not(seed):
    """Check 24. Of eight starts some lose a latent, nested or not; of the others all absorb."""
    l1 = 0.01
    found = absorption.examine(*absorption.train(nested=True, l1=l1, seed=seed))
    yes = found.absorbed
    assert yes.sum() >= 6
    np.testing.assert_allclose(found.decoder[yes, 1, :2], 0.5**0.5, atol=0.01)
    np.testing.assert_allclose(found.table[yes, 0, BOTH], 0, atol=1e-6)
    np.testing.assert_allclose(1 - found.table[yes, 0, 0], l1 / 2, atol=0.003)
    np.testing.assert_allclose(2**0.5 - found.table[yes, 1, BOTH], l1 / 2, atol=0.003)
    found = absorption.examine(*absorption.train(nested=False, l1=l1, seed=seed))
    assert not found.absorbed.any()
    kept = found.decoder[:, 1, 1] > 0.9
    assert kept.sum() >= 6
    np.testing.assert_allclose(found.decoder[kept, 1, 0], 0, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("nested", "bias"), [(True, True), (True, False), (False, True)])
def test_one_latent_hedges(nested, bias, seed):
    """Check 24: cos(child) = .2434 ± .005 with a bias, .2298 without, 0 for independent features."""
    found = absorption.hedge(nested=nested, bias=bias, seed=seed)
    forward = found.alive & (found.cosines[:, 0] > 0)
    wanted = absorption.hedged_cosine(bias=bias) if nested else 0.0
    assert forward.sum() >= 2
    assert np.median(found.cosines[forward, 1]) == pytest.approx(wanted, abs=0.005)
