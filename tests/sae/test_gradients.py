"""Is the derivative right: every variant, option, output and parameter against finite differences in float64."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisae import losses
from minisae.ops import dense, reference_ops
from minisae.recipe import Recipe
from minisae.sae import VARIANTS, batch_topk, relu, topk
from minisae.train import start, step
from minisae.verify import check_gradients
from tests.helpers import ArraySource, perturbed

TOLERANCE = 1e-6
RELU_OPTIONS = list(itertools.product((True, False), ("sum", "mean"), ("plain", "decoder_norm")))
TOPK_OPTIONS = list(
    itertools.product(
        (True, False),
        ("sum", "mean"),
        ("after", "before"),
        ("none", "residual_variance", "input_variance"),
        ("latents", "everything"),
    )
)


BATCH_TOPK_OPTIONS = list(
    itertools.product(
        (True, False),
        ("sum", "mean"),
        ("nearest", "down"),
        ("none", "residual_variance", "input_variance"),
        ("latents", "everything"),
    )
)


def relu_config(d_in, d_sae, options):
    subtract, reduction, weight = options
    return relu.Config(d_in, d_sae, l1=0.7, subtract_b_dec=subtract, reduction=reduction, l1_weight=weight)


def topk_config(d_in, d_sae, options, k=3):
    subtract, reduction, order, normaliser, reach = options
    return topk.Config(
        d_in, d_sae, k=k, k_aux=2, auxk=0.3, subtract_b_dec=subtract, reduction=reduction, relu=order,
        auxk_normaliser=normaliser, auxk_reach=reach,
    )  # fmt: skip


def batch_topk_config(d_in, d_sae, options, k=1.8):
    subtract, reduction, rounding, normaliser, reach = options
    return batch_topk.Config(
        d_in, d_sae, k=k, k_aux=2, auxk=0.3, subtract_b_dec=subtract, reduction=reduction, k_rounding=rounding,
        auxk_normaliser=normaliser, auxk_reach=reach,
    )  # fmt: skip


def errors(variant, cfg, params, x, *, seed=0, outputs=("x_hat", "f", "pre", "aux"), with_objective=True):
    """Check the objective plus a random slope on each of the named outputs, together."""
    rng = np.random.default_rng(seed)
    dead = np.arange(cfg.d_sae) % 3 == 0
    first, cache = variant.forward(params, x, cfg, dead=dead)
    probes = {
        name: rng.standard_normal(dense(value).shape)
        for name, value in first._asdict().items()
        if name in outputs and value is not None
    }

    def terms(params, out):
        found = variant.objective(params, out, x, cfg, dead=dead) if with_objective else {}
        if "auxk" in found and cfg.auxk_reach != "everything":  # the residual is a constant of the derivative
            found["auxk"] = losses.aux_k(
                out.aux, first.x_hat, x, dead.sum(), coefficient=cfg.auxk, reduction=cfg.reduction,
                normaliser=cfg.auxk_normaliser, few=topk.aux_width(cfg) if cfg.auxk_few == "proportional" else 1,
            )  # fmt: skip
        return found

    def loss(p):
        out, _ = variant.forward(p, x, cfg, dead=dead)
        total = sum((dense(getattr(out, name)) * probe).sum() for name, probe in probes.items())
        return float(total + sum(term.value for term in terms(p, out).values()))

    _, slopes, direct = losses.gather(terms(params, first))
    for name, probe in probes.items():
        slopes[name] = slopes.get(name, 0) + probe
    grads = variant.backward(params, cache, cfg, slopes)
    for name, slope in direct.items():
        grads[name] = grads[name] + slope
    return check_gradients(loss, params, grads)


def assert_right(checks):
    assert {check.name for check in checks} == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert all(check.error <= TOLERANCE for check in checks), checks
    assert sum(check.kinks for check in checks) <= 2


@pytest.mark.parametrize("reference", [False, True], ids=["twins", "reference"])
@pytest.mark.parametrize("options", RELU_OPTIONS, ids=str)
def test_relu_every_option(options, reference):
    rng = np.random.default_rng(3)
    cfg, x = relu_config(5, 11, options), rng.standard_normal((7, 5))
    params = perturbed(relu, cfg, rng)
    with reference_ops() if reference else contextlib.nullcontext():
        assert_right(errors(relu, cfg, params, x))


@pytest.mark.parametrize("options", TOPK_OPTIONS, ids=str)
def test_topk_every_option(options):
    rng = np.random.default_rng(5)
    cfg, x = topk_config(5, 11, options), rng.standard_normal((7, 5))
    params = perturbed(topk, cfg, rng)
    assert_right(errors(topk, cfg, params, x))
    with reference_ops():
        assert_right(errors(topk, cfg, params, x))


@pytest.mark.parametrize("options", BATCH_TOPK_OPTIONS, ids=str)
def test_batch_topk_every_option(options):
    rng = np.random.default_rng(5)
    cfg, x = batch_topk_config(5, 11, options), rng.standard_normal((7, 5))
    params = perturbed(batch_topk, cfg, rng)
    assert_right(errors(batch_topk, cfg, params, x))
    with reference_ops():
        assert_right(errors(batch_topk, cfg, params, x))


@pytest.mark.parametrize("few", ["full", "proportional"])
@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("variant", [topk, batch_topk])
def test_auxk_of_saelens(variant, rectify, few):
    rng = np.random.default_rng(6)
    cfg = variant.Config(5, 11, k=3, k_aux=7, auxk=0.3, auxk_relu=rectify, auxk_few=few)
    params, x = perturbed(variant, cfg, rng), rng.standard_normal((7, 5))
    assert_right(errors(variant, cfg, params, x))
    with reference_ops():
        assert_right(errors(variant, cfg, params, x))


@pytest.mark.parametrize("output", ["x_hat", "f", "pre", "aux"])
@pytest.mark.parametrize("name", VARIANTS)
def test_each_output_alone(name, output):
    rng = np.random.default_rng(7)
    variant, x = VARIANTS[name], rng.standard_normal((7, 5))
    cfg = variant.Config(5, 13, 0.5) if name == "relu" else variant.Config(5, 13, 2)
    if output not in variant.Out._fields:
        pytest.skip(f"{name} has no output {output}")
    params = perturbed(variant, cfg, rng)
    assert_right(errors(variant, cfg, params, x, outputs=(output,), with_objective=False))


@settings(max_examples=15)
@given(
    n=st.integers(1, 5), d_in=st.integers(1, 4), d_sae=st.integers(1, 7), seed=st.integers(0, 99), data=st.data()
)  # fmt: skip
def test_any_shape(n, d_in, d_sae, seed, data):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in))
    r = relu_config(d_in, d_sae, data.draw(st.sampled_from(RELU_OPTIONS)))
    t = topk_config(d_in, d_sae, data.draw(st.sampled_from(TOPK_OPTIONS)), k=data.draw(st.integers(1, d_sae)))
    k = data.draw(st.floats(0.1, d_sae))
    b = batch_topk_config(d_in, d_sae, data.draw(st.sampled_from(BATCH_TOPK_OPTIONS)), k=k)
    for variant, cfg in ((relu, r), (topk, t), (batch_topk, b)):
        checks = errors(variant, cfg, perturbed(variant, cfg, rng), x, seed=seed)
        assert all(check.error <= TOLERANCE for check in checks), checks
        assert sum(check.kinks for check in checks) <= 2


@pytest.mark.parametrize("name", VARIANTS)
def test_after_training(name):
    rng = np.random.default_rng(11)
    variant, x = VARIANTS[name], rng.standard_normal((97, 5))
    cfg = variant.Config(5, 13, 0.1) if name == "relu" else variant.Config(5, 13, 2)
    recipe = Recipe(steps=60, batch_size=31, lr=1e-2, dtype="float64", init_rows=97, dead_after=200)
    source = ArraySource(x)
    run = start(source, name, cfg, recipe)
    batches = source.batches(recipe.batch_size, seed=0)
    for _ in range(recipe.steps):
        run, _ = step(run, next(batches))
    assert_right(errors(variant, cfg, run.params, x[:7]))


@pytest.mark.parametrize("name", VARIANTS)
def test_slope_of_the_input(name):
    rng = np.random.default_rng(13)
    variant, x = VARIANTS[name], rng.standard_normal((7, 5))
    cfg = variant.Config(5, 11, 0.5) if name == "relu" else variant.Config(5, 11, 3)
    params = perturbed(variant, cfg, rng)
    probe = rng.standard_normal((7, 5))
    _, cache = variant.forward(params, x, cfg)
    grads = variant.backward(params, cache, cfg, {"x_hat": probe}, want_x=True)
    [check] = check_gradients(
        lambda p: float((variant.forward(params, p["x"], cfg)[0].x_hat * probe).sum()), {"x": x}, {"x": grads["x"]}
    )
    assert check.error <= TOLERANCE


@pytest.mark.parametrize("variant", [topk, batch_topk])
def test_reach_decoder_leaves_the_encoder_alone(variant):
    rng = np.random.default_rng(17)
    x = rng.standard_normal((7, 5))
    cfg = variant.Config(5, 11, 3, 2, auxk_reach="decoder")
    params = perturbed(variant, cfg, rng)
    _, cache = variant.forward(params, x, cfg, dead=np.arange(11) % 2 == 0)
    grads = variant.backward(params, cache, cfg, {"aux": rng.standard_normal((7, 5))})
    assert not grads["W_enc"].any()
    assert not grads["b_enc"].any()
    assert grads["W_dec"].any()


def test_ghost_gradients():
    """Residual and both scales are constants of the derivative: rebuilt here by hand, then differentiated."""
    rng = np.random.default_rng(19)
    pre, W_dec = rng.standard_normal((7, 11)), rng.standard_normal((11, 5))
    x_hat, y = rng.standard_normal((7, 5)), rng.standard_normal((7, 5))
    dead = np.arange(11) % 3 == 1
    term = losses.ghost(pre, x_hat, y, W_dec, dead)
    residual = y - x_hat
    raw = np.exp(pre[:, dead]) @ W_dec[dead]
    s = np.linalg.norm(residual, axis=1, keepdims=True) / (2 * np.linalg.norm(raw, axis=1, keepdims=True))
    c = (residual**2).sum() / ((raw * s - residual) ** 2).sum()
    np.testing.assert_allclose(term.value, (residual**2).sum() / 7, rtol=1e-12)

    def loss(p):
        return float(c * ((np.exp(p["pre"][:, dead]) @ p["W_dec"][dead] * s - residual) ** 2).sum() / 7)

    checks = check_gradients(loss, {"pre": pre, "W_dec": W_dec}, {"pre": term.slopes["pre"], **term.params})
    assert all(check.error <= TOLERANCE for check in checks), checks


def test_ghost_of_latents_far_below_zero_does_not_overflow():
    rng = np.random.default_rng(29)
    x, y, W_dec = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 5), (7, 5), (11, 5)))
    for depth in (-30, -43, -80, -200):
        term = losses.ghost(np.full((7, 11), depth, np.float32), x, y, W_dec, np.ones(11, bool))
        assert np.isfinite(term.value)
        assert all(np.isfinite(slope).all() for slope in (*term.slopes.values(), *term.params.values()))


def test_ghost_is_silent_without_dead_latents():
    rng = np.random.default_rng(23)
    arrays = rng.standard_normal((7, 11)), np.zeros((7, 5)), rng.standard_normal((7, 5)), rng.standard_normal((11, 5))
    term = losses.ghost(*arrays, np.zeros(11, bool))
    assert (term.value, term.slopes, term.params) == (0, {}, {})
    with reference_ops():
        term = losses.ghost(*arrays, np.zeros(11, bool))
    assert term.value == 0
    assert not term.slopes["pre"].any()
    assert not term.params["W_dec"].any()
