"""Autoencoders on toys: instances never meet, resampling changes what it should, and the pentagon is recovered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import losses
from minisae.backend import to_device
from minisae.errors import InputError
from minisae.optim import adam_init, adam_step
from minisae.sae import VARIANTS, batch_topk, relu, topk
from minisae.streams import generator
from minisae.verify import check_gradients
from tests.costume import recorded
from toy_models import data, models
from toy_models.experiments import saes

INSTANCES, N, N_FEAT, D_IN, D_SAE = 3, 13, 7, 5, 11
D = np.random.default_rng(1).standard_normal((N_FEAT, D_IN)).astype(np.float32)
FEATURES = data.independent(0.3, n_feat=N_FEAT)
CONFIGS = {
    "relu": relu.Config(D_IN, D_SAE, l1=0.1),
    "topk": topk.Config(D_IN, D_SAE, k=2),
    "batch_topk": batch_topk.Config(D_IN, D_SAE, k=1.7),
}


def fixed_rows(instances=INSTANCES, seed=2):
    x = np.random.default_rng(seed).standard_normal((instances, N, D_IN)).astype(np.float32) + 0.5
    return lambda rng: x


@pytest.mark.parametrize("name", CONFIGS)
def test_instances_train_as_if_alone(name):
    together = saes.train(name, CONFIGS[name], fixed_rows(), steps=7, instances=INSTANCES, seed=4)
    for k in range(INSTANCES):
        begun = {key: p[k : k + 1] for key, p in saes.start(name, CONFIGS[name], INSTANCES, seed=4).items()}
        own = fixed_rows()(None)[k : k + 1]
        alone = saes.train(name, CONFIGS[name], lambda rng, own=own: own, steps=7, params=begun)
        for key, p in alone.params.items():
            np.testing.assert_allclose(together.params[key][k], p[0], rtol=2e-5, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_the_librarys(name):
    """One instance, one step: the variant on plain matrices, Adam, projection and unit rows by their formulas."""
    module, cfg = VARIANTS[name], CONFIGS[name]
    x = fixed_rows(1)(None)
    after = saes.train(name, cfg, lambda rng: x, steps=1, lr=0.01, seed=3).params
    p = module.init(cfg, generator(3, "toy_saes", 0, 0))
    out, cache = module.forward(p, x[0], cfg)
    grads = module.backward(p, cache, cfg, losses.gather(module.objective(p, out, x[0], cfg))[1])
    W = p["W_dec"]
    grads["W_dec"] = grads["W_dec"] - (grads["W_dec"] * W).sum(1, keepdims=True) / (W * W).sum(1, keepdims=True) * W
    trained = {key: p[key] for key in grads}
    adam_step(trained, grads, adam_init(trained), lr=0.01)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    for key in grads:
        np.testing.assert_allclose(after[key][0], p[key], rtol=1e-4, atol=2e-6, err_msg=key)


def test_gradients_with_a_factor_for_each_instance():
    cfg, factor = relu.Config(3, 4, l1=0.3, l1_weight="decoder_norm", decoder="free"), np.array([0.5, 2.0])
    rng = np.random.default_rng(0)
    params = saes.start("relu", cfg, 2, dtype=np.float64)
    for p in params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    x = rng.standard_normal((2, 5, 3))

    def terms(p):
        out, cache = relu.forward(p, x, cfg)
        return cache, relu.objective(p, out, x, cfg, sparsity=factor)

    cache, found = terms(params)
    _, slopes, direct = losses.gather(found)
    grads = relu.backward(params, cache, cfg, slopes)
    for name, slope in direct.items():
        grads[name] += slope
    check_gradients(lambda p: float(losses.gather(terms(p)[1])[0].sum()), params, grads)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from(sorted(CONFIGS)))
def test_shapes(instances, steps, name):
    cfg = CONFIGS[name]
    rows = saes.dictionary_rows(D, FEATURES, N, instances=instances)
    trained = saes.train(name, cfg, rows, steps=steps, instances=instances, snapshots=(0, 1, 99))
    assert trained.steps.tolist() == [0, 1]
    assert trained.alive.shape == (2, instances, D_SAE)
    for key, p in trained.params.items():
        assert p.shape == (instances, *(getattr(cfg, letter) for letter in VARIANTS[name].SHAPES[key]))
        assert trained.snapshots[key].shape == (2, *p.shape)
        assert np.isfinite(p).all()
    np.testing.assert_allclose(np.linalg.norm(trained.params["W_dec"], axis=2), 1, rtol=1e-5)
    assert trained.params["W_enc"].swapaxes(1, 2).flags.c_contiguous


def test_rows_of_a_toy_and_of_a_dictionary():
    cfg = models.Config(N_FEAT, D_IN)
    toy = {"W": D.T[None].copy(), "b": np.ones((1, N_FEAT), np.float32)}
    h = saes.hidden_rows(cfg, toy, FEATURES, N, instances=INSTANCES)(np.random.default_rng(0))
    x = saes.dictionary_rows(D, FEATURES, N, instances=INSTANCES)(np.random.default_rng(0))
    assert h.shape == (INSTANCES, N, D_IN)
    np.testing.assert_allclose(h, x, rtol=1e-5, atol=1e-6)
    assert not np.allclose(x[0], x[1])


def test_frozen_parameters_stay():
    trained = saes.train("relu", CONFIGS["relu"], fixed_rows(), steps=3, instances=INSTANCES, frozen=("b_dec",))
    assert not trained.params["b_dec"].any()
    assert trained.params["b_enc"].any()


@pytest.mark.parametrize("name", saes.WITH_L1)
def test_a_factor_for_each_instance_is_as_many_penalties(name):
    factor, cfg = (0.5, 3.0), VARIANTS[name].Config(D_IN, D_SAE, l1=0.1)
    together = saes.train(name, cfg, fixed_rows(2), steps=7, instances=2, l1_factor=factor, seed=4)
    for k, one in enumerate(factor):
        begun = {key: p[k : k + 1] for key, p in saes.start(name, cfg, 2, seed=4).items()}
        own = fixed_rows(2)(None)[k : k + 1]
        alone = saes.train(name, cfg._replace(l1=0.1 * one), lambda rng, own=own: own, steps=7, params=begun)
        for key, p in alone.params.items():
            np.testing.assert_allclose(together.params[key][k], p[0], rtol=2e-5, atol=2e-6, err_msg=key)


def test_toys_and_dictionaries_of_a_device():
    cfg, rng = models.Config(N_FEAT, D_IN), np.random.default_rng
    toy = {"W": D.T[None].copy(), "b": np.ones((1, N_FEAT), np.float32)}
    with recorded() as copies:
        there = {name: to_device(p, "costume") for name, p in toy.items()}
    assert len(copies) == 2
    h, h_there = (saes.hidden_rows(cfg, p, FEATURES, N)(rng(0)) for p in (toy, there))
    x, x_there = (saes.dictionary_rows(d, FEATURES, N)(rng(0)) for d in (D, to_device(D, "costume")))
    np.testing.assert_array_equal(h_there, h, strict=True)
    np.testing.assert_array_equal(x_there, x, strict=True)
    trained = saes.train("relu", CONFIGS["relu"], fixed_rows(), steps=1, instances=INSTANCES)
    scores, there_too = (
        saes.score(trained, a, b) for a, b in ((D, x), (to_device(D, "costume"), to_device(x, "costume")))
    )
    np.testing.assert_array_equal(scores, there_too)


def test_a_larger_factor_gives_a_sparser_code():
    rows = saes.dictionary_rows(D, FEATURES, 128)
    trained = saes.train("relu", CONFIGS["relu"], rows, steps=400, instances=3, lr=0.01, l1_factor=(0.1, 3, 30))
    scores = saes.score(trained, D, rows(np.random.default_rng(5)))
    assert (np.diff(scores.l0) < 0).all()
    assert (np.diff(scores.fvu) > 0).all()


@pytest.mark.parametrize("how", ["arena_simple", "arena_advanced", "bricken"])
def test_resampling_touches_the_dead_alone(how):
    """At step 2 the latent that never fires gets a new start; with a learning rate of nothing, all else stays."""
    params = saes.start("relu", CONFIGS["relu"], INSTANCES, seed=1)
    params["b_enc"][1, 4] = -99
    trained = saes.train(
        "relu", CONFIGS["relu"], fixed_rows(), steps=3, instances=INSTANCES, lr=1e-30, params=params, window=2,
        resampling=saes.Resampling(how, every=2, scale=0.25), snapshots=(2,),
    )  # fmt: skip
    changed = ~np.isclose(trained.params["W_dec"], params["W_dec"], atol=1e-5).all(axis=2)
    fired = trained.alive[0]
    assert not fired[1, 4]
    np.testing.assert_array_equal(changed, ~fired)
    assert abs(trained.params["b_enc"][1, 4]) < 1e-20
    up, down = trained.params["W_enc"][1, :, 4], trained.params["W_dec"][1, 4]
    size = 1 if how == "arena_simple" else np.linalg.norm(params["W_enc"][1], axis=0)[fired[1]].mean()
    np.testing.assert_allclose(up, 0.25 * size * down, rtol=1e-5)
    np.testing.assert_allclose(trained.params["b_enc"][0], params["b_enc"][0], atol=1e-20)


def test_scores_by_hand():
    """Rows 2 e_0 and 3 e_1; instance 0 is the truth, instance 1 has both latents on e_0."""
    eye = np.eye(2, dtype=np.float32)
    W = np.stack([eye, eye[[0, 0]]])
    params = {"W_enc": W.swapaxes(1, 2), "b_enc": np.zeros((2, 2)), "W_dec": W, "b_dec": np.zeros((2, 2))}
    trained = saes.TrainedSAEs("relu", relu.Config(2, 2), params, np.zeros(0), {}, np.zeros((0, 2, 2), bool))
    scores = saes.score(trained, eye, np.array([[[2.0, 0], [0, 3]]]))
    assert scores.found.tolist() == [2, 1]
    assert scores.mmcs.tolist() == [1, 0.5]
    assert scores.matched.tolist() == [1, 0.5]
    assert scores.l0.tolist() == [1, 1]
    assert scores.fvu[0] == pytest.approx(0)
    assert scores.fvu[1] == pytest.approx((4 + 9) / 6.5)  # x_hat = (4, 0) and 0; the variance is 13 / 2 in all
    assert scores.silent.tolist() == [0, 0]


WRONG = {
    "rows": (
        {"rows": lambda rng: np.zeros((2, N, D_IN))},
        r"^rows: expected \(1 or 3, n, d_in = 5\), got \(2",
    ),
    "steps": ({"steps": -1}, "^steps: expected a whole number of at least 0, got -1$"),
    "window": ({"window": 0}, "^window: expected a whole number of at least 1, got 0$"),
    "lr": ({"lr": np.nan}, "^lr: expected a number above 0, got nan$"),
    "frozen": ({"frozen": ("W",)}, "^frozen: expected names of W_enc, b_enc, W_dec, b_dec, got 'W'$"),
    "resampling": ({"resampling": saes.Resampling("no")}, "^resampling: expected one of bricken, .*, got 'no'$"),
    "factor": ({"l1_factor": (1, 2)}, "^l1_factor: expected 3 numbers that are not negative"),
    "params": ({"params": {"W_enc": np.zeros((3, 5, 10))}}, r"^params: expected W_enc of shape \(1 or 3, \(5, 11\)\)"),
    "instances": ({"instances": 0}, "^instances: expected a whole number of at least 1, got 0$"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(case):
    options, message = WRONG[case]
    wanted = {"rows": fixed_rows(), "steps": 2, "instances": INSTANCES} | options
    with pytest.raises(InputError, match=message):
        saes.train("relu", CONFIGS["relu"], wanted.pop("rows"), **wanted)


def test_more_bad_input():
    with pytest.raises(
        InputError, match=r"^l1_factor: expected a variant with an L1 penalty, relu, gated, got 'topk'$"
    ):
        saes.train("topk", CONFIGS["topk"], fixed_rows(), steps=1, instances=INSTANCES, l1_factor=(1, 1, 1))
    with pytest.raises(
        InputError, match=r"^dictionary: expected \(n_feat, d_in\) of finite numbers, got shape \(5,\)$"
    ):
        saes.dictionary_rows(D[0], FEATURES, N)
    with pytest.raises(InputError, match=r"^n_feat: the data has 7 features, what it passes through has 6$"):
        saes.dictionary_rows(D[:6], FEATURES, N)
    toys = {"W": np.zeros((2, D_IN, N_FEAT)), "b": np.zeros((2, N_FEAT))}
    with pytest.raises(InputError, match=r"^params: expected 1 or 3 toys"):
        saes.hidden_rows(models.Config(N_FEAT, D_IN), toys, FEATURES, N, instances=3)
    with pytest.raises(InputError, match=r"^params: expected finite numbers, W has others$"):
        saes.hidden_rows(
            models.Config(N_FEAT, D_IN), {"W": D.T[None] * np.nan, "b": np.zeros((1, N_FEAT))}, FEATURES, N
        )
    with pytest.raises(InputError, match=r"^truth, x: expected finite numbers, at least one row each, got 7 and 0$"):
        saes.score(saes.train("relu", CONFIGS["relu"], fixed_rows(), steps=0, instances=3), D, np.zeros((1, 0, D_IN)))
    with pytest.raises(InputError, match=r"^data: expected 1 or 3 distributions, got 2$"):
        saes.dictionary_rows(D, data.independent(np.full((2, N_FEAT), 0.5)), N, instances=3)
    trained = saes.train("relu", CONFIGS["relu"], fixed_rows(), steps=0, instances=INSTANCES)
    with pytest.raises(InputError, match=r"^truth, x: expected width d_in = 5"):
        saes.score(trained, D[:, :4], fixed_rows()(None))
