"""Is the derivative right: every variant, option, output, parameter and input by finite differences in float64."""

import contextlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minisae import losses
from minisae.errors import InputError
from minisae.ops import dense, reference_ops
from minisae.recipe import Recipe
from minisae.sae import VARIANTS
from minisae.train import start, step
from minisae.verify import check_gradients
from tests.helpers import ArraySource, perturbed
from tests.sae.cases import cases_of, config, differentiable, every_case, every_combination, parts, switches

TOLERANCE = 1e-6


def errors(name, cfg, params, rows, *, seed=0, outputs=None, with_objective=True):
    """Check the objective plus a random slope on each of the named outputs (all of them), together."""
    variant, rng = VARIANTS[name], np.random.default_rng(seed)
    x, y = parts(name, rows, cfg)
    dead = np.broadcast_to(np.arange(cfg.d_sae) % 3 == 0, (*x.shape[:-2], cfg.d_sae))
    first, cache = variant.forward(params, x, cfg, dead=dead)
    probes = {
        output: rng.standard_normal(dense(value).shape)
        for output, value in first._asdict().items()
        if value is not None and (outputs is None or output in outputs)
    }
    values = differentiable(name)(variant, {key: p.copy() for key, p in params.items()}, rows.copy(), cfg, dead)

    def loss(p):
        out, terms = values(p, p["x"])
        total = sum((dense(getattr(out, output)) * probe).sum() for output, probe in probes.items())
        return float(total + sum(term.value.sum() for term in terms.values() if with_objective))

    terms = variant.objective(params, first, y, cfg, dead=dead) if with_objective else {}
    _, slopes, direct = losses.gather(terms)
    for output, probe in probes.items():
        slopes[output] = slopes.get(output, 0) + probe
    grads = variant.backward(params, cache, cfg, slopes, want_x=True)
    for key, slope in direct.items():
        grads[key] = grads[key] + slope
    return check_gradients(loss, params | {"x": x}, grads)


def assert_right(name, checks, *, kinks=2):
    """Every trained parameter and the input were checked, none is wrong, and nearly no entry lay at a kink."""
    trained = VARIANTS[name].SHAPES.keys() - set(getattr(VARIANTS[name], "STATE", ()))
    assert {check.name for check in checks} == trained | {"x"}
    assert all(check.error <= TOLERANCE for check in checks), checks
    assert sum(check.kinks for check in checks) <= kinks


@pytest.mark.parametrize(("name", "options", "ops"), every_combination({"ops": ("fast", "reference")}))
def test_every_option(name, options, ops):
    """Which form of the operations runs is one more switch: each combination in one form, every two values in both."""
    rng = np.random.default_rng(5)
    cfg, x = config(name, options, 3, 11), rng.standard_normal((7, 3))
    params = perturbed(VARIANTS[name], cfg, rng)
    with reference_ops() if ops == "reference" else contextlib.nullcontext():
        assert_right(name, errors(name, cfg, params, x))


@pytest.mark.parametrize(("name", "case"), every_case())
def test_each_output_alone_and_the_objective_alone(name, case):
    rng = np.random.default_rng(7)
    cfg, x = config(name, case.options, 3, 11), rng.standard_normal((7, 3))
    params = perturbed(VARIANTS[name], cfg, rng)
    for output in VARIANTS[name].Out._fields:
        assert_right(name, errors(name, cfg, params, x, outputs=(output,), with_objective=False))
    assert_right(name, errors(name, cfg, params, x, outputs=()))


@pytest.mark.parametrize(("name", "case"), every_case())
def test_of_several_instances(name, case):
    """One loss over two autoencoders with rows of their own: a leading axis on everything."""
    rng = np.random.default_rng(13)
    cfg, x = config(name, case.options, 3, 11), rng.standard_normal((2, 7, 3))
    each = [perturbed(VARIANTS[name], cfg, rng) for _ in x]
    params = {key: np.stack([p[key] for p in each]) for key in each[0]}
    for reference in (False, True):
        with reference_ops() if reference else contextlib.nullcontext():
            assert_right(name, errors(name, cfg, params, x))


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=25)
@given(n=st.integers(1, 5), d_in=st.integers(1, 4), d_sae=st.integers(1, 7), seed=st.integers(0, 99), data=st.data())
def test_any_shape(name, n, d_in, d_sae, seed, data):
    rng = np.random.default_rng(seed)
    case = data.draw(st.sampled_from(list(cases_of(name).values())))
    chosen = {field: data.draw(st.sampled_from(values)) for field, values in switches(name).items()}
    try:
        cfg = config(name, case.options | chosen, d_in, d_sae)
    except InputError:  # more active latents than there are
        assume(False)
    x = rng.standard_normal((n, d_in))
    assert_right(name, errors(name, cfg, perturbed(VARIANTS[name], cfg, rng), x, seed=seed))


@pytest.mark.parametrize(("name", "case"), every_case())
def test_after_training(name, case):
    rng = np.random.default_rng(11)
    cfg, x = config(name, case.options), rng.standard_normal((97, 5))
    settings = {"steps": 60, "batch_size": 31, "lr": 1e-2, "dtype": "float64", "init_rows": 97, "dead_after": 200}
    source = ArraySource(x)
    run = start(source, name, cfg, Recipe(**settings | case.recipe))
    for _, batch in zip(range(run.recipe.steps), source.batches(run.recipe.batch_size, seed=0), strict=False):
        run, _ = step(run, batch)
    assert_right(name, errors(name, cfg, run.params, x[:7]))


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
