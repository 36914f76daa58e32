"""The generator of Sharkey, Braun and Millidge 2022, and the map of λ against width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.sae import relu
from minisae.synthetic import random_dictionary
from toy_models import data, geometry
from toy_models.experiments import saes, sharkey


def test_densities_by_hand():
    np.testing.assert_allclose(sharkey.densities(3, 0.7, decay=0.5), [0.4, 0.2, 0.1])
    assert sharkey.densities(64, 3.0).sum() == pytest.approx(3)


@given(st.integers(1, 40), st.floats(0.01, 0.9), st.floats(0.8, 1))
def test_densities_fall_and_add_up(n_feat, active, decay):
    p = sharkey.densities(n_feat, active, decay=decay)
    assert p.sum() == pytest.approx(active)
    assert (np.diff(p) <= 0).all()
    np.testing.assert_allclose(p[1:], p[:-1] * decay)


def test_rows_fire_as_asked_and_none_is_empty():
    """P(empty) is known, and each feature fills its share of those rows: P(j) = p_j + P(empty) / n_feat."""
    n = 40_000
    x = data.sample(sharkey.features(17, 1.3), n, np.random.default_rng(0))[0]
    p = sharkey.densities(17, 1.3)
    empty = np.prod(1 - p)
    assert (x != 0).any(axis=1).all()
    np.testing.assert_allclose((x != 0).mean(axis=0), p + empty / 17, atol=4 * np.sqrt(0.25 * p[0] * 4 / n))
    assert (x == 1).any(axis=1).mean() == pytest.approx(empty, abs=0.01)
    inside = x[(x > 0) & (x < 1)]
    assert inside.mean() == pytest.approx(0.5, abs=0.01)


def test_correlated_features_fire_together():
    c = np.eye(23)
    c[0, 1] = c[1, 0] = 0.95
    for correlation, low, high in ((c, 0.06, 0.2), (None, -0.03, 0.03)):
        features = sharkey.features(23, 6.0, decay=1.0, correlation=correlation)
        on = np.corrcoef((data.sample(features, 30_000, np.random.default_rng(1))[0] != 0).T)
        assert low < on[0, 1] < high
        assert abs(on[0, 2:]).max() < 0.04


def test_each_row_has_the_wanted_mean_when_correlated():
    c = sharkey.random_correlation(31, np.random.default_rng(2))
    x = data.sample(sharkey.features(31, 2.0, correlation=c), 30_000, np.random.default_rng(3))[0]
    assert (x != 0).sum(axis=1).mean() == pytest.approx(2 + (x == 1).any(axis=1).mean(), abs=0.03)


@given(st.integers(1, 30), st.integers(0, 100))
def test_random_correlation_is_one(n_feat, seed):
    c = sharkey.random_correlation(n_feat, np.random.default_rng(seed))
    np.testing.assert_allclose(c, c.T)
    np.testing.assert_allclose(np.diag(c), 1)
    assert np.linalg.eigvalsh(c)[0] > -1e-8


def test_a_duplicate_counts_twice_in_mmcs_only():
    truth = np.eye(5)
    learned = sharkey.duplicated(truth)
    found = sharkey.compare(truth, learned)
    assert found.real == pytest.approx(1)
    assert found.matched == pytest.approx(0.8)
    assert found.found == pytest.approx(0.8)


def test_a_latent_between_two_features_serves_both_in_mmcs_only():
    truth, learned = np.eye(2), np.array([[1.0, 1.0], [-1.0, -1.0]])
    found = sharkey.compare(truth, learned)
    assert found.found == pytest.approx(0.5**0.5)
    assert found.matched == pytest.approx(0)  # matched 0–0 at .707 and 1–1 at −.707


@given(st.integers(2, 9), st.data())
def test_duplicated(n_feat, draw):
    copies = draw.draw(st.integers(0, n_feat - 1))
    found = sharkey.compare(np.eye(n_feat), sharkey.duplicated(np.eye(n_feat), copies=copies))
    assert found.real == pytest.approx(1)
    assert found.matched == pytest.approx(1 - copies / n_feat)


def test_random_dictionary_baseline():
    truth = random_dictionary(64, 32, np.random.default_rng(0))
    narrow, wide = (sharkey.random_mmcs(truth, width, np.random.default_rng(1)) for width in (8, 64))
    assert 0.35 < wide < 0.45
    assert narrow < wide - 0.05


def test_map_of_a_small_case():
    """Orthonormal features are easy: the right λ finds all, a huge one kills every latent."""
    D = np.eye(5, 7, dtype=np.float32)
    found = sharkey.recovery_map(
        D, sharkey.features(5, 1.0), l1=(0.05, 50), widths=(3, 11), steps=800, batch_size=64, lr=0.01, test_rows=999
    )
    assert found.mmcs.shape == found.matched.shape == found.l0.shape == found.fvu.shape == found.silent.shape == (2, 2)
    assert found.random.shape == (2,)
    assert found.mmcs[1, 0] > 0.98
    assert found.fvu[1, 0] < 0.05
    assert (found.silent[:, 1] == 1).all()
    assert found.true_l0 == pytest.approx(1 + np.prod(1 - sharkey.densities(5, 1.0)), abs=0.1)


def test_only_the_scored_features_count():
    """Before any step the decoder is the start's: MMCS, and the features of a row, are those of two features only."""
    D, wanted = np.eye(5, 7, dtype=np.float32), np.arange(5) % 3 == 1
    options = {"l1": (0.1,), "widths": (3,), "steps": 0, "test_rows": 999}
    some = sharkey.recovery_map(D, data.independent(0.4, n_feat=5), scored=wanted, **options)
    every = sharkey.recovery_map(D, data.independent(0.4, n_feat=5), **options)
    begun = saes.start("relu", relu.Config(7, 3, l1=1.0, subtract_b_dec=False), 1)["W_dec"][0]
    assert some.mmcs[0, 0] == pytest.approx(begun[:, :5][:, wanted].max(axis=0).mean())
    assert every.mmcs[0, 0] == pytest.approx(begun[:, :5].max(axis=0).mean())
    assert some.fvu == every.fvu
    assert some.true_l0 == pytest.approx(0.8, abs=0.1)
    assert every.true_l0 == pytest.approx(2, abs=0.15)


def test_map_of_a_toy():
    """What is not learned is not looked for, and yet in the rows."""
    n_feat = sharkey.LARGER.n_feat
    W = np.linalg.qr(np.random.default_rng(0).standard_normal((n_feat, n_feat)))[0].astype(np.float32)
    W[:, 7:] *= 0.1
    params = {"W": W[None], "b": np.zeros((1, n_feat), np.float32)}
    found = sharkey.toy_map(params, l1=(0.1,), widths=(5, 7), steps=2, batch_size=11, test_rows=2999)
    assert found.mmcs.shape == found.l0.shape == (2, 1)
    assert found.true_l0 == pytest.approx(7 * sharkey.DENSITY, abs=0.05)
    assert sharkey.toy(steps=2, batch_size=3)["W"].shape == (1, 24, 64)


def test_bad_input_is_one_line():
    for message, call in {
        "^n_feat: expected a whole number of at least 1, got 0$": lambda: sharkey.densities(0, 1),
        "^active, decay: expected numbers above 0": lambda: sharkey.densities(3, -1),
        "^active: expected at most 1.75 for this decay, got 2$": lambda: sharkey.densities(3, 2, decay=0.5),
        r"^correlation: expected a symmetric \(3, 3\)": lambda: sharkey.features(3, 1, correlation=np.eye(2)),
        "^correlation: expected no negative eigenvalue, got -1": lambda: sharkey.features(
            2, 1, correlation=np.array([[1.0, 2], [2, 1]])
        ),
        "^copies: expected 0 to 4, got 5$": lambda: sharkey.duplicated(np.eye(5), copies=5),
        "^width, draws: expected at least 1": lambda: sharkey.random_mmcs(np.eye(5), 0, np.random.default_rng(0)),
        "^l1, widths: expected at least one of each": lambda: sharkey.recovery_map(
            np.eye(5), sharkey.features(5, 1), l1=(), widths=(3,)
        ),
        r"^scored: expected bool \(5,\) with one or more True, got bool \(4,\)$": lambda: sharkey.recovery_map(
            np.eye(5), sharkey.features(5, 1), l1=(1,), widths=(3,), scored=np.ones(4, bool)
        ),
        r"^dictionary: expected \(n_feat, d_in\) of finite numbers, got shape \(5,\)$": lambda: sharkey.recovery_map(
            np.ones(5), sharkey.features(5, 1), l1=(1,), widths=(3,)
        ),
        r"^params: expected W of shape \(1, n_hid, 64\), got \(2, 3, 64\)$": lambda: sharkey.toy_map(
            {"W": np.ones((2, 3, 64))}, l1=(1,)
        ),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_right_penalty_finds_the_dictionary(seed):
    """Check 23: 64 features in 32 dimensions, 3 on in a row; MMCS against λ, beside a random dictionary."""
    D = random_dictionary(64, 32, np.random.default_rng(seed))
    found = sharkey.recovery_map(
        D, sharkey.features(64, 3.0), l1=(0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.8), widths=(64,), seed=seed
    )
    mmcs, l0, fvu = found.mmcs[0], found.l0[0], found.fvu[0]
    print(
        f"seed {seed}: {mmcs.round(3)}, L0 {l0.round(1)} (true {found.true_l0:.2f}), FVU {fvu.round(3)}, {found.random}"
    )
    assert mmcs.max() >= 0.98
    assert mmcs[1] < 0.8
    assert found.random[0] < 0.5
    assert (np.diff(l0) < 0).all()
    assert (np.diff(fvu[2:]) > 0).all()
    best = int(mmcs.argmax())
    assert l0[best] > found.true_l0 > l0[-1]
    assert fvu[best] > 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_features_of_a_larger_toy_are_recovered(seed):
    """64 features in 24 dimensions, none in an antipodal pair; hidden rows alone give all of them back at the right λ.

    Measured with seeds 0, 1, 2 at λ 0.01, 0.15, 0.8: MMCS 0.60 to 0.65, 1.000, 0.93 to 0.99, of a random dictionary
    0.46; L0 26 to 28, 4.3, 2.0 beside the true 3.2; FVU 0.001, 0.07, 0.33 to 0.37.
    """
    params = sharkey.toy(seed=seed)
    W = params["W"][0]
    assert geometry.learned(W).sum() == 64
    assert -0.95 < geometry.cosines(W).min() < -0.5
    found = sharkey.toy_map(params, l1=(0.01, 0.15, 0.8), seed=seed)
    print(f"seed {seed}: {found}")
    (dense, right, sparse), l0, fvu = found.mmcs[0], found.l0[0], found.fvu[0]
    assert right > 0.985
    assert found.matched[0, 1] > 0.97
    assert dense < 0.75
    assert sparse < right
    assert found.random[0] < 0.5
    assert l0[0] > 5 * found.true_l0
    assert found.true_l0 < l0[1] < 1.7 * found.true_l0
    assert l0[2] < 0.8 * found.true_l0
    assert fvu[0] < 0.01 < 0.03 < fvu[1] < 0.12 < fvu[2]
