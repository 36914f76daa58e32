"""Resampling: what each source says of the new rows, and that nothing else moves."""

import numpy as np
import pytest

from minisae import dead
from minisae.optim import AdamState
from minisae.sae import VARIANTS, relu
from tests.helpers import perturbed
from tests.sae.cases import config, every_case, first_options, parts

CFG = relu.Config(5, 13, l1=0.3)
DEAD = np.isin(np.arange(13), (2, 7, 8))


def resampled(how, *, mask=DEAD, scale=None, seed=0):
    rng = np.random.default_rng(seed)
    params = perturbed(relu, CFG, rng)
    before = {key: p.copy() for key, p in params.items()}
    adam = AdamState(
        {k: np.ones_like(p) for k, p in params.items()}, {k: np.ones_like(p) for k, p in params.items()}, 9
    )
    x = rng.standard_normal((101, 5)) + 2
    count = dead.resample(
        how, relu, params, adam, CFG, mask, lambda: (x[:40], x[40:]), np.random.default_rng(1), scale=scale
    )
    return count, before, params, adam, x


@pytest.mark.parametrize("how", dead.RESAMPLERS)
def test_alive_latents_are_untouched_and_dead_ones_start_anew(how):
    count, before, params, adam, x = resampled(how)
    assert count == 3
    for key, axis in (("W_enc", 1), ("b_enc", 0), ("W_dec", 0)):
        np.testing.assert_array_equal(params[key].compress(~DEAD, axis), before[key].compress(~DEAD, axis))
    np.testing.assert_array_equal(params["b_dec"], before["b_dec"])
    fresh = params["W_dec"][DEAD]
    np.testing.assert_allclose(np.linalg.norm(fresh, axis=1), 1, rtol=1e-12)
    assert not params["b_enc"][DEAD].any()
    alive = np.linalg.norm(before["W_enc"][:, ~DEAD], axis=0).mean()
    size = {"bricken": 0.2 * alive, "arena_simple": 0.5, "arena_advanced": 0.5 * alive, "dictionary_learning": None}[
        how
    ]
    made = params["W_enc"][:, DEAD].T
    if size is None:  # of the rows as long as they are
        longer = np.linalg.norm(x, axis=1, keepdims=True) * (0.2 * alive)
        size = longer[(fresh @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T).argmax(axis=1)]
    np.testing.assert_allclose(made, fresh * size, rtol=1e-12)
    kept = 0 if how in ("bricken", "dictionary_learning") else 1
    for moments in (adam.m, adam.v):
        assert (moments["W_dec"][DEAD] == kept).all()
        assert (moments["W_enc"][:, DEAD] == kept).all()
        assert (moments["b_enc"][DEAD] == kept).all()
        assert (moments["W_dec"][~DEAD] == 1).all()
        assert (moments["b_dec"] == 1).all()


@pytest.mark.parametrize("options", [{}, {"threshold_as": "log"}])
def test_a_trained_threshold_starts_anew(options):
    """Else a latent whose threshold has grown would never fire with its new, shorter encoder row."""
    module, rng = VARIANTS["jumprelu"], np.random.default_rng(8)
    cfg = module.Config(5, 13, first_threshold=0.25, **options)
    params, x = perturbed(module, cfg, rng), rng.standard_normal((101, 5))
    params["threshold"] += 3
    adam = AdamState(*({k: np.ones_like(p) for k, p in params.items()} for _ in range(2)), 9)
    assert dead.resample("bricken", module, params, adam, cfg, DEAD, lambda: [x], rng) == 3
    np.testing.assert_allclose(module.forward(params, x, cfg)[0].theta[DEAD], 0.25, rtol=1e-12)
    assert (params["threshold"][~DEAD] > params["threshold"][DEAD].max() + 0.5).all()
    assert not adam.m["threshold"][DEAD].any()
    assert adam.m["threshold"][~DEAD].all()


@pytest.mark.parametrize(("name", "zero"), [("gated", ("b_enc", "b_mag", "r_mag")), ("tied", ("b_enc",))])
def test_variants_with_other_parameters_start_anew(name, zero):
    module, rng = VARIANTS[name], np.random.default_rng(8)
    cfg, x = config(name, first_options(name)), rng.standard_normal((101, 5))
    params = perturbed(module, cfg, rng)
    before = {key: p.copy() for key, p in params.items()}
    adam = AdamState(*({k: np.ones_like(p) for k, p in params.items()} for _ in range(2)), 9)
    assert dead.resample("bricken", module, params, adam, cfg, DEAD, lambda: [x], rng) == 3
    for key in module.SHAPES.keys() - {"b_dec"}:
        axis = int(key == "W_enc")
        np.testing.assert_array_equal(params[key].compress(~DEAD, axis), before[key].compress(~DEAD, axis))
        assert not adam.m[key].compress(DEAD, axis).any()
    assert all(not params[key][DEAD].any() for key in zero)


def test_directions_are_inputs_as_each_source_says():
    for how, shift in (("bricken", 0), ("arena_advanced", 1)):
        _, before, params, _, x = resampled(how)
        rows = x - shift * before["b_dec"]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        nearest = (params["W_dec"][DEAD] @ rows.T).max(axis=1)
        np.testing.assert_allclose(nearest, 1, rtol=1e-12)


def test_rows_are_drawn_with_probability_proportional_to_the_squared_loss():
    """8,000 draws of 4 rows whose squared errors are 1, 2, 3 and 0; the margin is five standard deviations."""
    cfg = relu.Config(4, 8000, l1=0.0)
    params = {
        "W_enc": np.zeros((8000, 4)).T,
        "b_enc": np.zeros(8000),
        "W_dec": np.zeros((8000, 4)),
        "b_dec": np.zeros(4),
    }
    adam = AdamState(
        {k: np.zeros_like(p) for k, p in params.items()}, {k: np.zeros_like(p) for k, p in params.items()}, 1
    )
    x = np.diag(np.sqrt([1.0, 2.0, 3.0, 0.0]))
    dead.resample("bricken", relu, params, adam, cfg, np.ones(8000, bool), lambda: [x], np.random.default_rng(0))
    shares = params["W_dec"].mean(axis=0)
    np.testing.assert_allclose(shares, np.array([1, 4, 9, 0]) / 14, atol=5 * 0.5 / np.sqrt(8000))
    assert shares[3] == 0


def test_each_row_once():
    """Of four rows, one without an error, three go to three of five dead latents; the other two stay as they were."""
    cfg = relu.Config(4, 5, l1=0.0)
    params = {"W_enc": np.zeros((5, 4)).T, "b_enc": np.ones(5), "W_dec": np.zeros((5, 4)), "b_dec": np.zeros(4)}
    adam = AdamState(*({key: np.ones_like(p) for key, p in params.items()} for _ in range(2)), 1)
    x = np.diag([1.0, 2.0, 3.0, 0.0])
    b_enc = params["b_enc"] - 9
    params["b_enc"] = b_enc
    mask, rng = np.ones(5, bool), np.random.default_rng(0)
    assert dead.resample("dictionary_learning", relu, params, adam, cfg, mask, lambda: [x], rng) == 3
    assert sorted(params["W_dec"].argmax(axis=1)[:3]) == [0, 1, 2]
    np.testing.assert_allclose(
        params["W_enc"].T[:3], params["W_dec"][:3] * (x.max(axis=1)[params["W_dec"][:3].argmax(axis=1)] * 0.2)[:, None]
    )
    assert not params["b_enc"][:3].any()
    assert (params["b_enc"][3:] == -8).all()
    assert not params["W_dec"][3:].any()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weight", ["plain", "decoder_norm"])
def test_row_losses_add_up_to_the_objective(reduction, weight):
    rng = np.random.default_rng(3)
    cfg = CFG._replace(reduction=reduction, l1_weight=weight)
    params, x = perturbed(relu, cfg, rng), rng.standard_normal((101, 5))
    out, _ = relu.forward(params, x, cfg)
    terms = relu.objective(params, out, x, cfg)
    whole = dead.row_losses(relu, params, x, cfg, penalty=True)
    np.testing.assert_allclose(whole.mean(), terms["mse"].value + terms["l1"].value)
    np.testing.assert_allclose(dead.row_losses(relu, params, x, cfg, penalty=False).mean(), terms["mse"].value)


BY_ITSELF = {"relative", "penalty_reduction"}
"""With these, what a row pays depends on its norm or on the rows beside it; resampling leaves that out."""
PENALISED = [
    p
    for p in every_case()
    if hasattr(VARIANTS[p.values[0]], "row_penalty") and not BY_ITSELF & p.values[1].options.keys()
]


@pytest.mark.parametrize(("name", "case"), PENALISED)
def test_a_penalty_of_rows_is_the_objectives_in_the_mean(name, case):
    rng, variant, cfg = np.random.default_rng(5), VARIANTS[name], config(name, case.options)
    params, (x, y) = perturbed(variant, cfg, rng), parts(name, rng.standard_normal((101, 5)), cfg)
    out, _ = variant.forward(params, x, cfg)
    terms = variant.objective(params, out, y, cfg)
    rows = variant.row_penalty(params, out.f, cfg)
    assert rows.shape == (101,)
    np.testing.assert_allclose(rows.mean(), sum(term.value for key, term in terms.items() if key != "mse"))


def test_every_variant_with_a_penalty_says_what_a_row_pays():
    """A term beside the squared error that looks at the code alone is a penalty, which resampling must know."""
    for name, module in VARIANTS.items():
        cfg, rng = config(name, first_options(name)), np.random.default_rng(6)
        params, (x, y) = perturbed(module, cfg, rng), parts(name, rng.standard_normal((7, 5)), cfg)
        terms = module.objective(params, module.forward(params, x, cfg)[0], y, cfg)
        assert hasattr(module, "row_penalty") == any("f" in term.slopes for term in terms.values()), name


def test_nothing_happens_when_nothing_is_dead():
    count, before, params, _, _ = resampled("bricken", mask=np.zeros(13, bool))
    assert count == 0
    for key, p in params.items():
        np.testing.assert_array_equal(p, before[key])


def test_all_dead_and_too_few_rows_do_not_crash():
    count, _, params, _, _ = resampled("arena_advanced", mask=np.ones(13, bool))
    assert count == 13
    assert np.isfinite(params["W_enc"]).all()


def test_counters_count_rows():
    idle = dead.count_idle(np.array([0, 100, 7]), np.array([True, False, False]), 31)
    np.testing.assert_array_equal(idle, [0, 131, 38])
