"""BatchTopK with a k that is too low mixes correlated features, and its error gets smaller."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.sae import batch_topk
from toy_models import data
from toy_models.experiments import sparse_but_wrong as wrong
from toy_models.experiments.absorption import orthonormal

D = orthonormal(5, 13, np.random.default_rng(0))


def test_star_by_hand():
    np.testing.assert_array_equal(wrong.star(3, 0.4), [[1, 0.4, 0.4], [0.4, 1, 0], [0.4, 0, 1]])


def test_how_features_fire_together():
    """Orthant probabilities of a bivariate normal at p = 1/2: P(both) = 1/4 + arcsin(ρ) / 2π."""
    n = 100_000
    x = data.sample(wrong.copula(0.5, wrong.star(3, 0.4)), n, np.random.default_rng(0))[0]
    on = x > 0
    np.testing.assert_allclose(on.mean(axis=0), 0.5, atol=0.01)
    assert (on[:, 0] & on[:, 1]).mean() == pytest.approx(0.25 + np.arcsin(0.4) / (2 * np.pi), abs=0.006)
    assert (on[:, 1] & on[:, 2]).mean() == pytest.approx(0.25, abs=0.006)
    assert x[on].mean() == pytest.approx(1, abs=0.005)
    assert x[on].std() == pytest.approx(0.15, abs=0.005)


def test_densities_of_the_copula():
    p = np.array([0.1, 0.4, 0.7])
    x = data.sample(wrong.copula(p, wrong.star(3, -0.4)), 50_000, np.random.default_rng(0))[0]
    np.testing.assert_allclose((x > 0).mean(axis=0), p, atol=0.01)


def test_the_truth_is_exact_at_the_true_l0():
    """Two features are on in every row here, and k = 2 keeps them all; k = 1 loses the smaller of them."""
    f = np.array([[1.0, 0.5, 0, 0, 0], [0, 0, 0.8, 0, 0.9]], np.float32)
    truth = wrong.truth_start(D)
    for k, error in ((2.0, 0), (1.0, (0.5**2 + 0.8**2) / 2)):
        found = wrong.training_mse(truth, (f @ D)[None], batch_topk.Config(13, 5, k=k))
        assert found[0] == pytest.approx(error, abs=1e-6)


def test_overlap_by_hand():
    W = np.array([[[1.0, 0], [0, 2]], [[1, 1], [3, 3]], [[1, 0], [-1, 1]]])
    np.testing.assert_allclose(wrong.decoder_overlap(W), [0, 1, 0.5**0.5])


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 9))
def test_overlap_of_random_rows(d_sae, instances, seed):
    W = np.random.default_rng(seed).standard_normal((instances, d_sae, 5))
    found = wrong.decoder_overlap(W)
    for k in range(instances):
        cos = abs(np.corrcoef(np.concatenate([W[k], -W[k]], axis=1)))  # rows of mean 0: their correlation is the cosine
        assert found[k] == pytest.approx(cos[~np.eye(d_sae, dtype=bool)].mean())


def test_projection_by_hand():
    truth = wrong.truth_start(D)
    truth["b_dec"] = D[:1] * 0.25
    f = np.array([[1.0, 0.5, 0, 0, 0], [0.5, 0, 0.75, 0, 0.25]], np.float32)
    x = (f @ D)[None]  # projections 0.75, 0.5, 0, 0, 0 and 0.75, 0.25, 0.25, 0, 0
    for n_th, mean in ((1, 0.75), (2, 0.375), (3, 0.125), (4, 0), (5, 0)):
        assert wrong.nth_projection(truth, x, n_th)[0] == pytest.approx(mean, abs=1e-6)


def test_a_short_sweep_runs():
    found = wrong.sweep(0.4, k=(1.8, 2.2), steps=3, instances=2, batch_size=17, d_in=7, test_rows=101)
    assert all(part.shape == (2,) for part in found)
    np.testing.assert_array_equal(found.k, [1.8, 2.2])
    assert found.truth_mse[0] > found.truth_mse[1]


def test_bad_input_is_one_line():
    for message, call in {
        r"^correlation: expected a symmetric matrix with diagonal 1, got shape \(2, 3\)$": lambda: wrong.copula(
            0.4, np.zeros((2, 3))
        ),
        "^correlation: expected positive eigenvalues, got -0.2$": lambda: wrong.copula(0.4, wrong.star(5, 0.6)),
        "^std: expected a number of at least 0, got -1$": lambda: wrong.copula(0.4, np.eye(2), std=-1),
        "^mean: expected a number of at least .*, got nan$": lambda: wrong.copula(0.4, np.eye(2), mean=np.nan),
        "^n_feat: expected a whole number of at least 1, got 0$": lambda: wrong.star(0, 0.1),
        "^k: expected at least one, got none$": lambda: wrong.sweep(0.1, k=()),
        "^W_dec: expected finite rows that are not zero$": lambda: wrong.decoder_overlap(np.zeros((1, 2, 3))),
        r"^x: expected \(1 or 1, n, d_in = 13\), got shape \(1, 3, 4\)$": lambda: wrong.nth_projection(
            wrong.truth_start(D), np.zeros((1, 3, 4)), 1
        ),
        r"^dictionary: expected \(n_feat, d_in\) of finite numbers, got shape \(3,\)$": lambda: wrong.truth_start(
            np.ones(3)
        ),
        r"^density: expected numbers in \(0, 1\], got 2$": lambda: wrong.copula(2, np.eye(2)),
        "^W_dec: expected .instances, 2 or more latents": lambda: wrong.decoder_overlap(np.zeros((1, 1, 3))),
        "^n_th: expected a whole number of at least 1 and at most 5, got 6$": lambda: wrong.nth_projection(
            wrong.truth_start(D), np.zeros((1, 3, 13)), 6
        ),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("correlation", "low", "high"), [(0.4, 0.2, 0.35), (-0.4, -0.35, -0.15), (0.0, -0.03, 0.03)])
def test_a_low_k_mixes_correlated_features(correlation, low, high, seed):
    """Check 24: at k = 1.8 the latents turn to feature 0 or away from it, and the error falls below the truth's."""
    found = wrong.sweep(correlation, seed=seed)
    assert low < found.cosine[0] < high
    assert found.learned_mse[0] < found.truth_mse[0]
    assert (abs(found.cosine[1:]) < 0.03).all()
    if correlation:
        assert found.learned_mse[0] < 0.8 * found.truth_mse[0]
        assert found.overlap[0] > 5 * found.overlap[1:].max()
        assert found.projection[0] > 1.3 * found.projection[1:].max()
