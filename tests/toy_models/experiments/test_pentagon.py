"""The pentagon's five features, recovered from two hidden dimensions (ARENA, "SAEs in toy models")."""

import numpy as np
import pytest

from minisae.sae import relu
from toy_models import data, train
from toy_models.experiments import pentagon, saes


def test_a_short_run():
    params = {"W": np.ones((1, 2, 5), np.float32), "b": np.zeros((1, 5), np.float32)}
    trained = pentagon.recover(params, "arena_simple", instances=3, steps=4, batch_size=7, snapshots=(0, 4))
    assert trained.params["W_dec"].shape == (3, 5, 2)
    assert trained.alive.shape == (2, 3, 5)
    again = pentagon.recover(params, None, instances=3, steps=4, batch_size=7)
    np.testing.assert_array_equal(trained.params["W_dec"], again.params["W_dec"])


def test_options_arrive():
    """A run by :func:`pentagon.recover` is one by :func:`saes.train` with the same settings."""
    params = pentagon.toy(starts=2, steps=3, batch_size=11, lr=0.01)
    drawn = data.independent(0.025, n_feat=5)
    by_hand = train.train(pentagon.TOY, drawn, steps=3, batch_size=11, lr=0.01, instances=2).params
    assert any(np.array_equal(params["W"][0], W) for W in by_hand["W"])
    start = saes.start("relu", pentagon.SAE, 3, seed=5)
    got = pentagon.recover(
        params, "arena_simple", instances=3, steps=7, batch_size=13, lr=0.02, l1=0.4, start=start, every=3, window=2
    )
    rows = saes.hidden_rows(pentagon.TOY, params, drawn, 13, instances=3)
    wanted = saes.train(
        "relu", relu.Config(2, 5, l1=0.4, reduction="mean"), rows, steps=7, instances=3, lr=0.02, params=start,
        resampling=saes.Resampling("arena_simple", every=3), window=2,
    )  # fmt: skip
    for name, p in wanted.params.items():
        np.testing.assert_array_equal(got.params[name], p)


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
def test_a_tied_start_silences_none_and_misses_features_all_the_same(seed):
    """From W_enc = W_decᵀ: two latents share a feature, one lies between two, and resampling has nothing to do.

    Measured with seeds 0, 1, 2: 4, 8 and 4 of 16 lack a feature, 3, 8 and 2 of them more than one. Each of these has
    two latents on one feature; the best cosine of the feature that is missed most is 0.65 to 0.79 (half way between two
    features it is 0.81), and in the mean they leave 4 % more of the variance.
    """
    toy = pentagon.toy(steps=3000, batch_size=512, lr=5e-3, seed=seed)
    features = data.independent(0.025, n_feat=5)
    truth = toy["W"][0].T
    x = saes.hidden_rows(pentagon.TOY, toy, features, 20_000)(np.random.default_rng(seed))
    start = saes.start("relu", pentagon.SAE, 16, seed=seed)
    options = {"start": start, "steps": 4000, "every": 1000, "snapshots": (4000,), "seed": seed}
    trained, again = (pentagon.recover(toy, how, **options) for how in (None, "arena_simple"))
    for name, p in trained.params.items():
        np.testing.assert_array_equal(p, again.params[name])
    assert trained.alive.all()
    scores = saes.score(trained, truth, x)
    whole, lacking = scores.found == 5, scores.found <= 3
    print(f"seed {seed}: {whole.sum()}/16 whole, {lacking.sum()} lack more than one, FVU {scores.fvu}")
    assert whole.sum() >= 5
    assert lacking.sum() >= 1
    cos = trained.params["W_dec"] @ (truth / np.linalg.norm(truth, axis=1, keepdims=True)).T  # (i, d_sae, n_feat)
    for one, is_whole, is_lacking in zip(cos, whole, lacking, strict=True):
        served = len(set(one.argmax(axis=1)))
        assert served == 5 or not is_whole
        assert (served == 4 and 0.6 < one.max(axis=0).min() < 0.85) or not is_lacking
    assert scores.fvu[lacking].mean() > 1.02 * scores.fvu[whole].mean()
