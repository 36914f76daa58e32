"""Multi-TopK by hand: the wider reconstruction, its weight and whom it trains."""

import doctest

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import multi_topk, topk
from tests.helpers import perturbed
from tests.sae.auxk import held_fixed
from tests.sae.cases import Case

__all__ = ["held_fixed"]

CASES = {
    "paper": Case({"k": 2, "k_aux": 2, "auxk": 0.3}, {"k_start": 7, "k_anneal": 4}),
    "sparsify": Case(
        {"k": 2, "multi": 2, "auxk": 0.3, "relu": "before", "selected_zero": "passes",
         "mse_normaliser": "input_variance", "auxk_normaliser": "input_variance", "auxk_reach": "decoder",
         "auxk_few": "proportional", "multi_reach": "decoder"}
    ),
    "other numbers": Case(
        {"k": 2, "multi": 3, "multi_weight": 0.7, "reduction": "mean", "subtract_b_dec": False, "decoder": "free",
         "auxk_normaliser": "residual_variance", "auxk_reach": "everything"}
    ),
}  # fmt: skip


def identity_params():
    return {
        "W_enc": np.eye(5, order="F"), "b_enc": np.zeros(5), "W_dec": np.eye(5), "b_dec": np.zeros(5),
    }  # fmt: skip


X = np.array([[3.0, 1.0, 2.0, 0.5, -1.0], [-1.0, -2.0, 4.0, -3.0, 0.25]])


def test_by_hand():
    """With identity weights the reconstructions are the input, cut to its largest positive entry and to three."""
    cfg = multi_topk.Config(5, 5, k=1, multi=3, auxk=0.0)
    out, _ = multi_topk.forward(identity_params(), X, cfg)
    np.testing.assert_array_equal(dense(out.f), [[3, 0, 0, 0, 0], [0, 0, 4, 0, 0]])
    np.testing.assert_array_equal(out.wide, [[3, 1, 2, 0, 0], [0, 0, 4, 0, 0.25]])
    terms = multi_topk.objective(identity_params(), out, X, cfg)
    # residuals (0, 1, 2, .5, −1), (−1, −2, 0, −3, .25) and (0, 0, 0, .5, −1), (−1, −2, 0, −3, 0)
    np.testing.assert_allclose(terms["mse"].value, (6.25 + 14.0625) / 2)
    np.testing.assert_allclose(terms["multi"].value, (1.25 + 14) / 2 / 8)
    variance = ((X - X.mean(axis=0)) ** 2).sum()
    terms = multi_topk.objective(identity_params(), out, X, cfg._replace(mse_normaliser="input_variance"))
    np.testing.assert_allclose(terms["mse"].value, 20.3125 / variance)
    np.testing.assert_allclose(terms["multi"].value, 15.25 / variance / 8)


def test_it_is_two_topk_losses():
    rng = np.random.default_rng(0)
    cfg = multi_topk.Config(5, 23, k=2, auxk=0.0)
    params, x = perturbed(multi_topk, cfg, rng), rng.standard_normal((7, 5))
    out, cache = multi_topk.forward(params, x, cfg)
    total, slopes, _ = gather(multi_topk.objective(params, out, x, cfg))
    grads = multi_topk.backward(params, cache, cfg, slopes)
    value, expected = 0, dict.fromkeys(grads, 0)
    for k, weight in ((2, 1.0), (8, 1 / 8)):
        one = topk.Config(5, 23, k=k, auxk=0.0, mse_weight=weight)
        part, kept = topk.forward(params, x, one)
        terms, slopes, _ = gather(topk.objective(params, part, x, one))
        value += terms
        found = topk.backward(params, kept, one, slopes)
        expected = {name: expected[name] + found[name] for name in found}
    np.testing.assert_allclose(total, value, rtol=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], atol=1e-12)


def test_reach_decoder_leaves_the_encoder_alone():
    rng = np.random.default_rng(1)
    cfg = multi_topk.Config(5, 23, k=2, multi_reach="decoder", subtract_b_dec=False)
    params, x = perturbed(multi_topk, cfg, rng), rng.standard_normal((7, 5))
    _, cache = multi_topk.forward(params, x, cfg)
    grads = multi_topk.backward(params, cache, cfg, {"wide": np.ones((7, 5))})
    assert not grads["W_enc"].any()
    assert not grads["b_enc"].any()
    assert grads["W_dec"].any()
    np.testing.assert_allclose(grads["b_dec"], 7)


def test_the_wider_code_is_at_most_all_and_decides_who_fired_with_relu_before():
    cfg = multi_topk.Config(5, 5, k=2, relu="before")
    assert multi_topk.wide_k(cfg) == 5
    out, _ = multi_topk.forward(identity_params(), X[:1], cfg._replace(multi=1))
    np.testing.assert_array_equal(multi_topk.fired_latents(out, cfg._replace(relu="after")), [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(multi_topk.fired_latents(out, cfg._replace(multi=1)), [1, 0, 1, 0, 0])
    assert multi_topk.fired_latents(out, cfg).all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": 12}, "k: expected at most d_sae = 11, got 12"),
        ({"multi": 0}, "multi: expected a whole number of at least 1, got 0"),
        ({"multi_weight": -1}, "multi_weight: expected a number of at least 0, got -1"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        multi_topk.check_config(multi_topk.Config(5, 11, 3)._replace(**change))
    assert str(caught.value) == line


def test_the_example_runs():
    result = doctest.testmod(multi_topk)
    assert result.attempted > 0
    assert result.failed == 0
