"""Tied weights on a case worked by hand, and what the normalisation does to the slope."""

import doctest

import numpy as np
import pytest

from minisae import losses
from minisae.errors import InputError
from minisae.sae import relu, tied
from tests.helpers import perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case({"l1": 0.3}, {"sparsity_warmup": 3}),
    "overcomplete": Case({"l1": 0.05, "penalty_reduction": "sum", "reduction": "mean", "norm_slope": False}),
    "the paper's code": Case({"l1": 0.1, "bias_decay": 0.2, "reduction": "mean", "decoder": "free"}),
}


def held_fixed(module, at, x, cfg, dead):
    """Where the slope ends at the unit rows, they move with the stored ones as they are: no normalisation between."""
    U_0 = at["W_dec"] / np.linalg.norm(at["W_dec"], axis=-1, keepdims=True)

    def values(params, seen):
        out = module.forward(params, seen, cfg, dead=dead)[0]
        if not cfg.norm_slope:
            U = U_0 + params["W_dec"] - at["W_dec"]
            pre = seen @ U.swapaxes(-1, -2) + params["b_enc"][..., None, :]
            f = np.maximum(pre, 0)
            out = tied.Out(f @ U, f, pre)
        return out, module.objective(params, out, x, cfg, dead=dead)

    return values


def test_by_hand():
    """Two rows, d_in 2, d_sae 2, rows of W_dec of norm 5 and 2; the arithmetic is in the comments."""
    params = {"W_dec": np.array([[3.0, 4.0], [0.0, -2.0]]), "b_enc": np.array([-3.0, 4.0])}
    x = np.array([[5.0, 5.0], [10.0, 0.0]])
    cfg = tied.Config(2, 2, l1=0.5, bias_decay=0.2)
    out, cache = tied.forward(params, x, cfg)
    # U: (.6, .8), (0, −1); pre: (3 + 4 − 3, −5 + 4) and (6 − 3, 0 + 4)
    np.testing.assert_allclose(out.pre, [[4.0, -1.0], [3.0, 4.0]])
    # 4 (.6, .8) and 3 (.6, .8) + 4 (0, −1)
    np.testing.assert_allclose(out.x_hat, [[2.4, 3.2], [1.8, -1.6]])
    terms = tied.objective(params, out, x, cfg)
    np.testing.assert_allclose(terms["mse"].value, (2.6**2 + 1.8**2 + 8.2**2 + 1.6**2) / 2)
    np.testing.assert_allclose(terms["l1"].value, 0.5 * (4 + 7) / 2)
    np.testing.assert_allclose(terms["bias_decay"].value, 0.2 * 5)
    np.testing.assert_allclose(terms["bias_decay"].params["b_enc"], [0.2 * -0.6, 0.2 * 0.8])
    # Slope 1 at the first row's first entry of x_hat: d_pre (.6, 0); d_U 4 (1, 0) + .6 (5, 5) = (7, 3);
    # along U 4.2 + 2.4 = 6.6; (7 − 3.96, 3 − 5.28) / 5
    grads = tied.backward(params, cache, cfg, {"x_hat": np.array([[1.0, 0.0], [0.0, 0.0]])}, want_x=True)
    np.testing.assert_allclose(grads["b_enc"], [0.6, 0.0])
    np.testing.assert_allclose(grads["W_dec"], [[0.608, -0.456], [0.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(grads["x"], [[0.36, 0.48], [0.0, 0.0]])


def test_it_is_a_relu_autoencoder_whose_encoder_is_the_decoder():
    """The slope is the part tangential to the sphere of the sum of the two that untied weights have."""
    rng = np.random.default_rng(0)
    cfg, untied = tied.Config(5, 13, l1=0.3), relu.Config(5, 13, l1=0.3)
    params, x = perturbed(tied, cfg, rng), rng.standard_normal((7, 5))
    U = params["W_dec"] / np.linalg.norm(params["W_dec"], axis=1, keepdims=True)
    two = {"W_enc": U.T, "b_enc": params["b_enc"], "W_dec": U, "b_dec": np.zeros(5)}
    ends = []
    for module, p, c in ((tied, params, cfg), (relu, two, untied)):
        out, cache = module.forward(p, x, c)
        total, slopes, _ = losses.gather(module.objective(p, out, x, c))
        ends.append((total, module.backward(p, cache, c, slopes)))
    (total, got), (expected, both) = ends
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    np.testing.assert_allclose(got["b_enc"], both["b_enc"], rtol=1e-12)
    np.testing.assert_allclose((got["W_dec"] * U).sum(axis=1), 0, atol=1e-14)
    d_U = both["W_dec"] + both["W_enc"].T
    tangent = d_U - (d_U * U).sum(axis=1, keepdims=True) * U
    np.testing.assert_allclose(got["W_dec"] * np.linalg.norm(params["W_dec"], axis=1, keepdims=True), tangent)


def test_a_zero_row_and_a_zero_bias_have_finite_slopes():
    rng = np.random.default_rng(1)
    cfg = tied.Config(5, 13, bias_decay=0.3)
    params, x = perturbed(tied, cfg, rng), rng.standard_normal((7, 5))
    params["W_dec"][3] = params["b_enc"][...] = 0
    out, cache = tied.forward(params, x, cfg)
    _, slopes, direct = losses.gather(tied.objective(params, out, x, cfg))
    grads = tied.backward(params, cache, cfg, slopes)
    assert all(np.isfinite(a).all() for a in (*grads.values(), *direct.values()))
    assert not direct["b_enc"].any()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"bias_decay": -0.5}, "bias_decay: expected a number of at least 0, got -0.5"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        tied.check_config(tied.Config(5, 11)._replace(**change))
    assert str(caught.value) == line


def test_the_example_runs():
    result = doctest.testmod(tied)
    assert result.attempted > 0
    assert result.failed == 0
