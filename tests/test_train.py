"""The training step by hand, resumption in memory, divergence, and what the options do."""

import importlib

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.recipe import Recipe
from minisae.runs import finished
from minisae.sae import VARIANTS, relu, topk, units
from tests.helpers import ArraySource
from tests.sae.cases import config, every_case, explained, module_of, parts

# ``minisae.train`` the function hides the module of the same name.
t = importlib.import_module("minisae.train")
X = np.random.default_rng(0).standard_normal((211, 5)).astype(np.float32)


def trained(name="topk", cfg=None, *, steps=40, **recipe):
    cfg = cfg or topk.Config(5, 13, 2)
    source = ArraySource(recipe.pop("x", X))
    run = t.start(source, name, cfg, Recipe(steps=steps, batch_size=31, lr=1e-2, init_rows=211, log_every=10, **recipe))
    records = []
    run = t.fit(run, source, hooks=[lambda run, record: records.append(record)])
    return run, records


@pytest.mark.parametrize(("name", "case"), every_case())
def test_loss_falls_and_rows_stay_unit(name, case):
    run, records = trained(name, config(name, case.options), steps=200, x=explained(name, X))
    assert records[-1]["loss"] < 0.75 * records[0]["loss"]
    if run.cfg.decoder == "unit":
        np.testing.assert_allclose(np.linalg.norm(run.params["W_dec"], axis=1), 1, rtol=1e-5)
    else:
        assert not np.allclose(np.linalg.norm(run.params["W_dec"], axis=1), 1, rtol=1e-3)
    assert run.params.get("W_enc", run.params["W_dec"].T).T.flags.c_contiguous
    assert all(p.dtype == np.float32 for p in run.params.values())


def test_first_step_by_hand():
    """Adam's first step moves every entry by lr · g / (|g| + ε): here the projected gradient, then renormalisation."""
    cfg = relu.Config(5, 13, 0.1)
    source = ArraySource(X.astype(np.float64))
    run = t.start(source, "relu", cfg, Recipe(steps=10, batch_size=31, lr=1e-2, dtype="float64", init_rows=211))
    params = {key: p.copy() for key, p in run.params.items()}
    x = next(source.batches(31, seed=0)).astype(np.float64)
    out, cache = relu.forward(params, x, cfg)
    slopes = {"x_hat": 2 * (out.x_hat - x) / 31, "f": 0.1 / 31}
    grads = relu.backward(params, cache, cfg, slopes)
    W = params["W_dec"]
    grads["W_dec"] -= (grads["W_dec"] * W).sum(1, keepdims=True) / (W * W).sum(1, keepdims=True) * W
    expected = {key: p - 1e-2 * grads[key] / (np.abs(grads[key]) + 1e-8) for key, p in params.items()}
    expected["W_dec"] /= np.linalg.norm(expected["W_dec"], axis=1, keepdims=True)
    run, measures = t.step(run, x)
    for key, p in run.params.items():
        np.testing.assert_allclose(p, expected[key], rtol=1e-9, atol=1e-12)
    assert run.step == run.adam.t == 1
    np.testing.assert_allclose(
        measures["loss"], ((out.x_hat - x) ** 2).sum() / 31 + 0.1 * np.maximum(out.pre, 0).sum() / 31
    )


def test_same_seed_same_bits_and_another_seed_other_bits():
    a, b, c = (trained(seed=seed)[0] for seed in (3, 3, 4))
    for key, p in a.params.items():
        np.testing.assert_array_equal(p, b.params[key])
    assert not np.array_equal(a.params["W_dec"], c.params["W_dec"])


def test_divergence_names_its_step_and_saves_nothing_more():
    saved = []
    source = ArraySource(X)
    run = t.start(
        source, "relu", relu.Config(5, 13, 0.1), Recipe(steps=60, batch_size=31, lr=1e-2, log_every=7, save_every=5)
    )

    def poison(run, record):
        if record["step"] == 21:
            run.params["W_dec"][0, 0] = np.nan

    with pytest.raises(t.Diverged) as caught:
        t.fit(run, source, hooks=[poison], save=lambda state: saved.append(state.step))
    assert caught.value.step == 21
    assert saved == [5, 10, 15, 20]


@pytest.mark.parametrize(("save_every", "saved_steps"), [(1, [1]), (100, [])])
def test_parameters_that_are_not_finite_are_never_saved(save_every, saved_steps):
    """The loss of a step says nothing of what the step leaves behind: here the second step overflows."""
    source, saved = ArraySource(X), []
    recipe = Recipe(steps=2, batch_size=31, lr=1e-2, init_rows=211, save_every=save_every, log_every=100)
    run = t.start(source, "topk", topk.Config(5, 13, 2), recipe)

    def explode(state):
        saved.append(state.step)
        state.adam.m["b_enc"][0] = np.inf

    run.adam.m["b_enc"][0] = 0 if save_every == 1 else np.inf
    with pytest.raises(t.Diverged) as caught:
        t.fit(run, source, save=explode)
    assert saved == saved_steps
    assert caught.value.step in (0, 1)


def test_constant_data_is_no_warning():
    run, records = trained(x=np.ones((211, 5), np.float32))
    assert run.step == 40
    assert all(np.isfinite(value) for record in records for value in record.values())


def test_ema_is_what_is_kept():
    run, _ = trained(ema=0.9)
    kept = finished(run, metadata={})
    np.testing.assert_array_equal(kept.params["W_enc"], run.average["W_enc"])
    np.testing.assert_allclose(kept.params["W_dec"], run.average["W_dec"], atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(kept.params["W_dec"], axis=1), 1, rtol=1e-6)
    assert not np.array_equal(run.average["W_dec"], run.params["W_dec"])


@pytest.mark.parametrize("how", ["mean_norm", "mean_square"])
@pytest.mark.parametrize(("name", "case"), every_case())
def test_input_scale_is_folded_out(name, case, how):
    """Training on 64 x with a scale is training on x: the saved autoencoder is the same in other units."""
    cfg = config(name, case.options)
    plain = finished(trained(name, cfg, input_scale=how, **case.recipe)[0], metadata={})
    large = finished(trained(name, cfg, input_scale=how, **case.recipe, x=X * 64)[0], metadata={})
    x = parts(name, X, cfg)[0]
    f, x_hat = plain.encode(x), plain.decode(plain.encode(x), x)
    assert f.any()
    np.testing.assert_allclose(large.encode(x * 64), 64 * f, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(large.decode(large.encode(x * 64), x * 64), 64 * x_hat, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(large.params["W_dec"], plain.params["W_dec"], rtol=1e-5, atol=1e-7)
    for option, power in units(VARIANTS[name], cfg).items():
        if option in cfg._fields:
            assert getattr(large.cfg, option) == pytest.approx(getattr(plain.cfg, option) * 64**power)


@pytest.mark.parametrize("how", ["mean_norm", "mean_square"])
def test_input_scale(how):
    run, _ = trained(input_scale=how)
    assert run.scale == pytest.approx(t.input_scale(X, how))
    squares = (X.astype(np.float64) ** 2).sum(axis=1)
    assert t.input_scale(X, "mean_square") == pytest.approx(1 / np.sqrt(squares.mean()))
    assert t.input_scale(X, "mean_norm") == pytest.approx(np.sqrt(5) / np.sqrt(squares).mean())


def test_k_anneals():
    source = ArraySource(X)
    run = t.start(source, "topk", topk.Config(5, 13, 2), Recipe(steps=40, batch_size=31, k_start=8, k_anneal=20))
    found = [t.now(run._replace(step=step))[0].k for step in (0, 10, 20, 39)]
    assert found == [8, 5, 2, 2]
    _, records = trained(k_start=8, k_anneal=20)
    assert records[0]["l0"] > 3
    assert records[-1]["l0"] <= 2


@pytest.mark.parametrize(("name", "case"), every_case())
def test_parameters_are_optimised_and_averaged_and_state_is_neither(name, case):
    run, _ = trained(name, config(name, case.options), ema=0.9, **case.recipe)
    begun = t.start(ArraySource(X), name, run.cfg, run.recipe)
    state = set(getattr(VARIANTS[name], "STATE", ()))
    assert run.adam.m.keys() == run.adam.v.keys() == run.average.keys() == VARIANTS[name].SHAPES.keys() - state
    kept = finished(run, metadata={})
    follows = VARIANTS[name].derived(kept.params, run.cfg) if hasattr(VARIANTS[name], "derived") else {}
    for key, p in follows.items():
        np.testing.assert_array_equal(kept.params[key], p)
    folds = getattr(run.cfg, "select_by", "pre") != "pre"  # decoder norms go into the encoder
    changed = {"W_enc", "b_enc", "W_dec"} if folds else {"W_dec"} if run.cfg.decoder == "unit" else set()
    free = kept.params.keys() - follows.keys() - changed
    for key in free:
        np.testing.assert_array_equal(kept.params[key], (run.params if key in state else run.average)[key])
    fixed = {key for key, p in run.params.items() if np.array_equal(p, begun.params[key])}
    assert fixed <= set(getattr(module_of(name), "FIXED", ()))


@pytest.mark.parametrize("how", ["bricken", "arena_simple", "arena_advanced"])
def test_resampling_revives(how):
    """A threshold far below every pre-activation kills all latents; resampling brings them back."""
    source = ArraySource(X)
    for resample in ("none", how):
        run = t.start(
            source, "relu", relu.Config(5, 13, 0.01),
            Recipe(steps=60, batch_size=31, lr=1e-3, init_rows=211, resample=resample, resample_every=20, log_every=10),
        )  # fmt: skip
        run.params["b_enc"][...] = -50
        run = t.fit(run, source)
        alive = int((run.idle < 31 * 20).sum())
        assert (run.resampled > 0) == (resample != "none")
        assert alive == 0 if resample == "none" else alive >= 10


def test_width_of_the_data_must_be_the_configurations():
    with pytest.raises(InputError, match="d_in: the data has width 5, the configuration says 7"):
        t.start(ArraySource(X), "relu", relu.Config(7, 13), Recipe(steps=1))


def test_the_rate_rises_anew_and_resampling_follows_the_step_after():
    """dictionary_learning's rate with resampling: 0, 1/3, 2/3, 1, 1 and again; new latents after steps 0, 5, 10."""
    again = {"lr_warmup": 3, "lr_warmup_begins": "zero", "lr_warmup_again": True, "lr_decay": "constant"}
    recipe = {"resample": "dictionary_learning", "resample_every": 5, "resample_when": "one_later", "resample_after": 1}
    cfg, source = topk.Config(5, 13, 1, auxk=0.0), ArraySource(X)
    run = t.start(source, "topk", cfg, Recipe(steps=13, batch_size=31, lr=1.0, init_rows=211, **again, **recipe))
    rates = [t.now(run._replace(step=step))[1] for step in range(7)]
    np.testing.assert_allclose(rates, [0, 1 / 3, 2 / 3, 1, 1, 0, 1 / 3])
    run.idle[...] = 99
    found = []
    for taken in range(1, 13):
        run.idle[...] = 99
        found += [taken - 1] if t.maybe_resample(run._replace(step=taken), source) else []
    assert found == [0, 5, 10]
