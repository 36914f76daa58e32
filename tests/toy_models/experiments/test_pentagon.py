"""The pentagon's five features, recovered from two hidden dimensions (ARENA, "SAEs in toy models")."""

import numpy as np
import pytest

from toy_models import data
from toy_models.experiments import pentagon, saes


def test_a_short_run():
    params = {"W": np.ones((1, 2, 5), np.float32), "b": np.zeros((1, 5), np.float32)}
    trained = pentagon.recover(params, "arena_simple", instances=3, steps=4, batch_size=7, snapshots=(0, 4))
    assert trained.params["W_dec"].shape == (3, 5, 2)
    assert trained.alive.shape == (2, 3, 5)
    again = pentagon.recover(params, None, instances=3, steps=4, batch_size=7)
    np.testing.assert_array_equal(trained.params["W_dec"], again.params["W_dec"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_pentagon_is_recovered_with_resampling_and_not_without(seed):
    """Check 22, of 16 instances: at most 5 have all five features without, at least 13 with either resampling."""
    toy = pentagon.toy(seed=seed)
    truth = toy["W"][0].T
    x = saes.hidden_rows(pentagon.TOY, toy, data.independent(0.025, n_feat=5), 20_000)(np.random.default_rng(seed))
    for how in (None, "arena_simple", "arena_advanced"):
        trained = pentagon.recover(toy, how, snapshots=(2500, 12_000), seed=seed)
        scores = saes.score(trained, truth, x)
        complete = int((scores.found == 5).sum())
        share = trained.alive.mean(axis=(1, 2))
        print(f"seed {seed} {how}: {complete}/16, mmcs {scores.mmcs.mean():.3f}, L0 {scores.l0.mean():.3f}, {share}")
        if how is None:
            assert complete <= 5
            assert share[1] < 0.85
        else:
            assert complete >= 13
            assert scores.mmcs.mean() > 0.98
            assert share[1] > 0.97
            assert scores.l0.mean() == pytest.approx(0.125, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tied_start_keeps_every_latent_alive_and_yet_misses_features(seed):
    """From W_enc = W_decᵀ no latent dies, so there is nothing to resample; 13 and 6 of 16 have all five features."""
    toy = pentagon.toy(seed=seed)
    features = data.independent(0.025, n_feat=5)
    rows = saes.hidden_rows(pentagon.TOY, toy, features, 512, instances=16)
    trained = saes.train("relu", pentagon.SAE, rows, steps=4000, instances=16, snapshots=(4000,), seed=seed)
    found = saes.score(trained, toy["W"][0].T, rows(np.random.default_rng(seed)).copy()).found
    print(f"seed {seed}: {(found == 5).sum()}/16")
    assert trained.alive[0].mean() > 0.97
    assert 3 <= (found == 5).sum() <= 14
