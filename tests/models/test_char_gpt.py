import numpy as np
import pytest

from minisae.errors import InputError
from minisae.models import char_gpt
from minisae.models.char_gpt import Config, backward, forward, hook_names, init, shapes
from minisae.models.layers import cross_entropy, log_softmax, loss_per_position

TINY = Config(n_vocab=11, n_ctx=7, n_layer=2, d_model=6, n_head=2, d_mlp=13)
BATCH, CONTEXT = 3, 5


@pytest.fixture
def problem():
    """Float64 parameters with norm weights away from one, tokens and targets."""
    rng = np.random.default_rng(7)
    params = init(TINY, rng, dtype="float64")
    for p in params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    tokens, targets = rng.integers(0, TINY.n_vocab, (2, BATCH, CONTEXT))
    return params, tokens, targets


def loss_of(params, tokens, targets, replace=None):
    return float(cross_entropy(forward(params, tokens, TINY, replace=replace)[0].logits, targets)[0])


def slope_on_logits(params, tokens, targets, **options):
    out, cache = forward(params, tokens, TINY, **options)
    return cache, cross_entropy(out.logits, targets)[1]


def finite_differences(f, x, step=1e-5):
    """Central differences of the scalar ``f()`` over every entry of ``x``, which ``f`` reads."""
    slope = np.empty_like(x)
    for at in np.ndindex(x.shape):
        kept = x[at]
        x[at] = kept + step
        above = f()
        x[at] = kept - step
        slope[at] = (above - f()) / (2 * step)
        x[at] = kept
    return slope


@pytest.mark.parametrize("name", shapes(TINY))
def test_gradient_of_every_parameter(problem, name):
    params, tokens, targets = problem
    cache, d_logits = slope_on_logits(params, tokens, targets)
    grads = backward(params, cache, TINY, d_logits)
    assert grads.keys() == params.keys()
    expected = finite_differences(lambda: loss_of(params, tokens, targets), params[name])
    assert np.abs(grads[name] - expected).max() <= 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("name", hook_names(TINY))
def test_gradient_of_a_replaced_activation(problem, name):
    params, tokens, targets = problem
    value = forward(params, tokens, TINY, read=[name])[0].activations[name] + 0.1
    replace = {name: lambda a: value}
    cache, d_logits = slope_on_logits(params, tokens, targets, replace=replace)
    grads = backward(params, cache, TINY, d_logits, want=[name], want_params=False)
    expected = finite_differences(lambda: loss_of(params, tokens, targets, replace), value)
    assert grads.keys() == {name}
    assert np.abs(grads[name] - expected).max() <= 1e-7 * np.abs(expected).max()


def test_through_carries_the_slope_past_a_replacement(problem):
    params, tokens, targets = problem
    name = "blocks.1.hook_resid_pre"
    replace = {name: lambda a: a * a}
    read = forward(params, tokens, TINY, read=[name])[0].activations[name]
    cache, d_logits = slope_on_logits(params, tokens, targets, replace=replace)
    grads = backward(params, cache, TINY, d_logits, through={name: lambda d: 2 * read * d})
    embedding = params["embed.W_E"]
    expected = finite_differences(lambda: loss_of(params, tokens, targets, replace), embedding)
    assert np.abs(grads["embed.W_E"] - expected).max() <= 1e-7 * np.abs(expected).max()
    constant = backward(params, cache, TINY, d_logits)
    assert not constant["embed.W_E"].any()


def test_slope_on_logits(problem):
    _, _, targets = problem
    logits = np.random.default_rng(3).standard_normal((BATCH, CONTEXT, TINY.n_vocab))
    expected = finite_differences(lambda: float(cross_entropy(logits, targets)[0]), logits)
    np.testing.assert_allclose(cross_entropy(logits, targets)[1], expected, atol=1e-9)
    np.testing.assert_allclose(cross_entropy(logits, targets)[0], loss_per_position(logits, targets).mean(), rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(-1), 1)


def test_forward_against_loops(problem):
    """The first block's attention and MLP, one position at a time, from the formulas."""
    params, tokens, _ = problem
    names = ["blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"]
    found = forward(params, tokens, TINY, read=names)[0].activations
    d, h = TINY.d_model, TINY.n_head
    e = d // h

    def norm(x, w):
        return w * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5)

    for row in range(BATCH):
        x = params["embed.W_E"][tokens[row]]
        q, k, v = np.split(norm(x, params["blocks.0.ln1.w"]) @ params["blocks.0.attn.W_qkv"], 3, axis=1)
        z = np.zeros_like(x)
        for head in range(h):
            part = slice(head * e, (head + 1) * e)
            for i in range(CONTEXT):
                back = i - np.arange(i + 1)
                score = k[: i + 1, part] @ q[i, part] / np.sqrt(e) - 2.0 ** (-8 * (head + 1) / h) * back
                p = np.exp(score) / np.exp(score).sum()
                z[i, part] = p @ v[: i + 1, part]
        attn = z @ params["blocks.0.attn.W_o"]
        hidden = np.maximum(norm(x + attn, params["blocks.0.ln2.w"]) @ params["blocks.0.mlp.W_in"], 0)
        np.testing.assert_allclose(found[names[0]][row], attn, atol=1e-12)
        np.testing.assert_allclose(found[names[1]][row], hidden @ params["blocks.0.mlp.W_out"], atol=1e-12)


def test_causal_bit_for_bit():
    params = init(TINY, np.random.default_rng(1))
    tokens = np.random.default_rng(2).integers(0, TINY.n_vocab, (BATCH, TINY.n_ctx))
    other = tokens.copy()
    other[:, -1] = (other[:, -1] + 1) % TINY.n_vocab
    before, after = (forward(params, t, TINY)[0].logits for t in (tokens, other))
    assert before.dtype == np.float32
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert (before[:, -1] != after[:, -1]).any()


@pytest.mark.parametrize("name", hook_names(TINY))
def test_replacing_with_itself_changes_no_bit_and_zero_changes_the_loss(problem, name):
    params, tokens, targets = problem
    plain = forward(params, tokens, TINY, read=[name])[0]
    same = forward(params, tokens, TINY, replace={name: lambda a: a})[0]
    np.testing.assert_array_equal(plain.logits, same.logits)
    copied = forward(params, tokens, TINY, replace={name: lambda a: plain.activations[name].copy()})[0]
    np.testing.assert_array_equal(plain.logits, copied.logits)
    zero = forward(params, tokens, TINY, read=[name], replace={name: np.zeros_like})[0]
    assert not zero.activations[name].any()
    assert loss_of(params, tokens, targets, {name: np.zeros_like}) != loss_of(params, tokens, targets)


def test_residual_hooks_add_up(problem):
    params, tokens, _ = problem
    a = forward(params, tokens, TINY, read=hook_names(TINY))[0].activations
    np.testing.assert_array_equal(a["blocks.0.hook_resid_post"], a["blocks.1.hook_resid_pre"])
    for i in range(TINY.n_layer):
        pre, attn, mid, mlp, post = (
            a[f"blocks.{i}.hook_{p}"] for p in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        )
        np.testing.assert_array_equal(mid, pre + attn)
        np.testing.assert_array_equal(post, mid + mlp)


def test_stopping_early_gives_the_same_activations(problem):
    params, tokens, _ = problem
    name = "blocks.0.hook_resid_post"
    early, cache = forward(params, tokens, TINY, read=[name], layers=1, keep=False)
    assert early.logits is None
    assert cache.blocks == []
    full = forward(params, tokens, TINY, read=[name])[0]
    np.testing.assert_array_equal(early.activations[name], full.activations[name])


def test_bad_input_is_one_line(problem):
    params, tokens, _ = problem
    with pytest.raises(InputError, match=r"hook: expected one of blocks\.0"):
        forward(params, tokens, TINY, read=["blocks.9.hook_resid_pre"])
    with pytest.raises(InputError, match=r"tokens: expected shape \(b, t\)"):
        forward(params, np.zeros((2, 8), dtype=int), TINY)
    with pytest.raises(InputError, match=r"replace\['blocks.0.hook_mlp_out'\]: expected shape"):
        forward(params, tokens, TINY, replace={"blocks.0.hook_mlp_out": lambda a: a[0]})


def test_init_is_a_function_of_the_seed():
    one, two = (char_gpt.init(TINY, np.random.default_rng(5)) for _ in range(2))
    assert {n: p.shape for n, p in one.items()} == shapes(TINY)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
