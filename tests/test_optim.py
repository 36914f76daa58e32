"""Adam against its definition written out, its twin, clipping and averaged weights."""

import numpy as np
import pytest

from minisae import optim
from minisae.errors import InputError
from minisae.ops import reference_ops
from minisae.optim import (
    adam_init,
    adam_step,
    clip_by_global_norm,
    ema_update,
    global_norm,
    signum_average,
    signum_init,
    signum_step,
)
from tests.ops.shapes import DTYPES, close

SHAPES = {"W_enc": (5, 7), "b_enc": (7,), "W_dec": (7, 5)}


def made(dtype, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    arrays = {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}
    arrays["W_enc"] = arrays["W_enc"].T.copy().T
    return arrays


def by_definition(p, gradients, lr, beta1, beta2, eps, convention):
    """Algorithm 1 of the paper, or its section 2, in float64."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        if convention == "after_correction":
            p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        else:
            p = p - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
    return p, m, v


@pytest.mark.parametrize("convention", optim.EPS_CONVENTIONS)
@pytest.mark.parametrize("reference", [True, False])
def test_five_steps_by_definition(convention, reference, monkeypatch):
    monkeypatch.setattr(optim, "BLOCK", 8)  # several blocks, the last one shorter
    options = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-2}
    params, state = made(np.float64), None
    start = {name: p.copy() for name, p in params.items()}
    gradients = [made(np.float64, seed) for seed in range(1, 6)]
    state = adam_init(params)
    for grads in gradients:
        if reference:
            with reference_ops():
                state = adam_step(params, grads, state, **options, eps_convention=convention)
        else:
            state = adam_step(params, grads, state, **options, eps_convention=convention)
    assert state.t == 5
    for name, p in params.items():
        expected = by_definition(start[name], [g[name] for g in gradients], **options, convention=convention)
        for ours, theirs in zip((p, state.m[name], state.v[name]), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 131, optim.BLOCK, optim.BLOCK + 1, 3 * optim.BLOCK - 7])
def test_twin(dtype, size):
    rng = np.random.default_rng(0)
    start = {"p": rng.standard_normal(size).astype(dtype)}
    fast, slow = ({name: p.copy() for name, p in start.items()} for _ in range(2))
    fast_state, slow_state = adam_init(fast), adam_init(slow)
    for scale in (1.0, 1e-6, 0.0):
        grads = {"p": (scale * rng.standard_normal(size)).astype(dtype)}
        fast_state = adam_step(fast, grads, fast_state, lr=0.1)
        with reference_ops():
            slow_state = adam_step(slow, grads, slow_state, lr=0.1)
    close(fast["p"], slow["p"], dtype)
    close(fast_state.m["p"], slow_state.m["p"], dtype)
    close(fast_state.v["p"], slow_state.v["p"], dtype)


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_layout_of_gradient_and_parameter(order):
    params, grads = made(np.float64), made(np.float64, 1)
    expected = {name: p.copy() for name, p in params.items()}
    adam_step(expected, {name: g.copy() for name, g in grads.items()}, adam_init(expected), lr=0.1)
    adam_step(params, {name: g.copy(order=order) for name, g in grads.items()}, adam_init(params), lr=0.1)
    for name, p in params.items():
        np.testing.assert_allclose(p, expected[name], rtol=1e-13)


def test_changes_in_place_and_leaves_the_rest():
    params = made(np.float32)
    before, views = {name: p.copy() for name, p in params.items()}, dict(params)
    state = adam_init(params)
    assert state.m["W_enc"].flags.f_contiguous
    adam_step(params, {"b_enc": np.ones(7, np.float32)}, state, lr=0.1)
    assert all(params[name] is view for name, view in views.items())
    np.testing.assert_allclose(params["b_enc"], before["b_enc"] - 0.1, rtol=1e-5)
    np.testing.assert_array_equal(params["W_dec"], before["W_dec"])


def test_an_instance_axis():
    params = {"W": np.random.default_rng(0).standard_normal((2, 5, 7))}
    grads = {"W": np.random.default_rng(1).standard_normal((2, 5, 7))}
    single = [{"W": params["W"][i].copy()} for i in range(2)]
    adam_step(params, grads, adam_init(params), lr=0.1)
    for i, p in enumerate(single):
        adam_step(p, {"W": grads["W"][i]}, adam_init(p), lr=0.1)
        np.testing.assert_allclose(params["W"][i], p["W"], rtol=1e-13)


def test_bad_options():
    params = made(np.float32)
    with pytest.raises(InputError, match="eps_convention: expected one of"):
        adam_step(params, params, adam_init(params), lr=0.1, eps_convention="hat")
    with pytest.raises(InputError, match="eps: 1e-60 is zero in float32"):
        adam_step(params, params, adam_init(params), lr=0.1, eps=1e-60)


def test_clip():
    grads = made(np.float64)
    before = {name: g.copy() for name, g in grads.items()}
    norm = np.sqrt(sum((g**2).sum() for g in before.values()))
    np.testing.assert_allclose(clip_by_global_norm(grads, 2 * norm), norm)
    for name, g in grads.items():
        np.testing.assert_array_equal(g, before[name])
    clip_by_global_norm(grads, norm / 3)
    np.testing.assert_allclose(global_norm(grads), norm / 3, rtol=1e-5)


def test_ema():
    average, params = made(np.float64), made(np.float64, 1)
    expected = {name: 0.9 * a + 0.1 * params[name] for name, a in average.items()}
    ema_update(average, params, decay=0.9)
    for name, a in average.items():
        np.testing.assert_allclose(a, expected[name], rtol=1e-14)


def test_signum_by_hand():
    """Two steps at rate 1 with β = 1/2: z goes 4, 3, 4; its mean x 3, 3.5; and y lies halfway between the two."""
    params, state = {"W": np.array([4.0])}, signum_init({"W": np.array([9.0])})
    state = signum_step(params, {"W": np.array([0.3])}, state, lr=1.0, beta=0.5)
    assert (state.t, state.m["W"][0], params["W"][0]) == (1, 3.0, 3.0)
    assert signum_average(params, state, beta=0.5)["W"][0] == 3.0
    state = signum_step(params, {"W": np.array([-7.0])}, state, lr=1.0, beta=0.5)
    assert (state.t, state.m["W"][0], params["W"][0]) == (2, 4.0, 3.75)
    assert signum_average(params, state, beta=0.5)["W"][0] == 3.5
