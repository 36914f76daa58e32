"""JumpReLU transcoders, with and without the skip connection: by hand, trained, and what is refused."""

import doctest

import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from minisae.evaluate import evaluate
from minisae.ops import dense
from minisae.sae import VARIANTS, jump_transcoding, jumprelu_skip_transcoder, jumprelu_transcoder
from tests.helpers import ArraySource
from tests.sae.cases import Case
from tests.sae.test_jumprelu import K
from tests.sae.test_transcoder import mlp_rows

BOTH = ("jumprelu_transcoder", "jumprelu_skip_transcoder")
CASES = {
    "paper": Case(
        {"d_out": 2, "l1": 0.7, "first_threshold": 0.4, "bandwidth": 0.6}, {"sparsity_warmup": 3},
    ),
    "tanh": Case(
        {"d_out": 2, "penalty": "tanh", "tanh_scale": 3.0, "ste_reach": "everything", "first_threshold": 0.3,
         "bandwidth": 0.9, "kernel": "triangular"}
    ),
    "quadratic": Case(
        {"d_out": 2, "penalty": "target_l0", "target": 2.5, "bandwidth": 0.7, "kernel": "gaussian",
         "first_threshold": 0.2, "reduction": "mean", "decoder": "free"}
    ),
    "l1": Case({"d_out": 2, "penalty": "l1", "l1": 0.2, "first_threshold": 0.3, "bandwidth": 0.8}),
}  # fmt: skip


def saelens_code(fields, arrays, pre):
    return np.maximum(pre, 0) * (pre > arrays["threshold"])


def held_fixed(module, at, rows, cfg, dead):
    """Straight lines through gate and code at ``at``, with the slopes that the paper states; all else as it is."""
    x, y = rows[..., : cfg.d_in], rows[..., cfg.d_in :]

    def affine(params, seen):
        return seen @ params["W_enc"] + params["b_enc"][..., None, :]

    pre_0, theta_0 = affine(at, x), np.where(at["threshold"] > 0, at["threshold"], 0)[..., None, :]
    edge = K[cfg.kernel]((pre_0 - theta_0) / cfg.bandwidth) / cfg.bandwidth
    active = 1.0 * (pre_0 > theta_0)

    def values(params, seen):
        pre = affine(params, seen)
        theta = theta_0 + (params["threshold"] - at["threshold"])[..., None, :]  # it has its slope below 0 too
        moved = (pre - pre_0) * (cfg.ste_reach == "everything") - (theta - theta_0)
        f = active * pre + theta_0 * edge * moved
        x_hat = f @ params["W_dec"] + params["b_dec"][..., None, :]
        if "W_skip" in params:
            x_hat = x_hat + np.einsum("...ni,...oi->...no", seen, params["W_skip"])
        out = jump_transcoding.Out(x_hat, f, pre, active + edge * moved, theta[..., 0, :])
        paid = out._replace(f=active * f) if cfg.penalty == "l1" else out  # with slope 0 at f = 0
        return out, module.objective(params, paid, y, cfg, dead=dead)

    return values


@pytest.mark.parametrize("name", BOTH)
def test_by_hand(name):
    """One row of input (1, -1, 2) and target (3, 1); the arithmetic is in the comments."""
    module = VARIANTS[name]
    params = {
        "W_enc": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "b_enc": np.array([0.5, -0.5]),
        "W_dec": np.array([[1.0, 0.0], [0.6, 0.8]]),
        "b_dec": np.array([-1.0, 0.25]),
        "threshold": np.array([1.0, 0.75]),
    }
    skipped = 1.0 if "skip" in name else 0.0
    if skipped:
        params["W_skip"] = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0]])
    cfg = module.Config(3, 2, 2, l1=0.5, bandwidth=1.0)
    x, y = module.split(np.array([[1.0, -1.0, 2.0, 3.0, 1.0]]), cfg)
    out, cache = module.forward(params, x, cfg)
    # pre: 1 + 2 + .5 and -1 + 2 - .5; b_dec is no part of it, and .5 is above 0 and not above .75
    np.testing.assert_allclose(out.pre, [[3.5, 0.5]])
    np.testing.assert_allclose(dense(out.f), [[3.5, 0.0]])
    np.testing.assert_allclose(dense(module.encode(params, x, cfg)), [[3.5, 0.0]])
    # y_hat: 3.5 (1, 0) + b_dec, and x W_skip transposed = (1 + 1, -2 + 2)
    np.testing.assert_allclose(out.x_hat, [[2.5 + 2 * skipped, 0.25]])
    terms = module.objective(params, out, y, cfg)
    np.testing.assert_allclose(terms["mse"].value, (2.5 + 2 * skipped - 3) ** 2 + 0.75**2)
    np.testing.assert_allclose(terms["l0"].value, 0.5 * 1)
    # |.5 - .75| is within half a bandwidth, |3.5 - 1| is not: -K/eps of the gate, -theta K/eps of the code
    np.testing.assert_allclose(module.backward(params, cache, cfg, {"gate": np.ones((1, 2))})["threshold"], [0, -1])
    grads = module.backward(params, cache, cfg, {"f": np.ones((1, 2))})
    np.testing.assert_allclose(grads["threshold"], [0, -0.75])
    np.testing.assert_allclose(grads["b_enc"], [1, 0])


@pytest.mark.parametrize("name", BOTH)
def test_trained_and_evaluated(name, tmp_path):
    """The skip connection takes the affine part: what is left is explained better. Saved and loaded, it is the same."""
    options = {"d_out": 3, "decoder": "free", "dead_after": 5000, "bandwidth": 0.3, "first_threshold": 0.1}
    sae = minisae.train(
        mlp_rows(), variant=name, d_sae=17, l1=0.1, steps=400, batch_size=101, lr=1e-2, options=options,
        out=tmp_path / "a",
    )  # fmt: skip
    held = ArraySource(mlp_rows(seed=1))
    assert evaluate(sae, held).numbers["pooled_r2"] > (0.9 if "skip" in name else 0.5)
    x, again = held.x[:, :7], minisae.load(tmp_path / "a")
    assert (again.variant, again.cfg) == (name, sae.cfg)
    np.testing.assert_array_equal(again.decode(again.encode(x), x), sae.decode(sae.encode(x), x))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"d_out": 0}, "d_out: expected a whole number of at least 1, got 0"),
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"bandwidth": 0.0}, "bandwidth: expected a number above 0, got 0.0"),
        ({"penalty": "l2"}, "penalty: expected one of l0, tanh, target_l0, l1, got 'l2'"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        jumprelu_transcoder.check_config(jumprelu_transcoder.Config(5, 11, 3)._replace(**change))
    assert str(caught.value) == line


def test_an_unknown_kernel_is_refused():
    for kernel in ("box", []):
        with pytest.raises(InputError, match=r"^kernel: expected one of rectangle, [^\n]*$"):
            jumprelu_transcoder.check_config(jumprelu_transcoder.Config(5, 11, 3, kernel=kernel))


@pytest.mark.parametrize("module", [jumprelu_transcoder, jumprelu_skip_transcoder])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
