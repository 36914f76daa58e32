"""TopK with AuxK on cases worked by hand, and what holds for any shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import topk
from tests.helpers import perturbed
from tests.sae.auxk import held_fixed
from tests.sae.cases import Case

__all__ = ["held_fixed"]

CASES = {
    "paper": Case({"k": 3, "k_aux": 2, "auxk": 0.3}, {"k_start": 11, "k_anneal": 4}),
    "saelens": Case(
        {"k": 3, "k_aux": 7, "auxk": 0.7, "auxk_relu": False, "auxk_few": "proportional", "decoder": "free",
         "select_by": "contribution"}
    ),
    "openai": Case(
        {"k": 2, "k_aux": 5, "reduction": "mean", "mse_weight": 1.7, "auxk_normaliser": "residual_variance",
         "auxk_bias": True}
    ),
    "sparsify": Case(
        {"k": 5, "auxk": 0.3, "relu": "before", "selected_zero": "passes", "mse_normaliser": "input_variance",
         "auxk_normaliser": "input_variance", "auxk_reach": "decoder", "auxk_few": "proportional"}
    ),
    "overcomplete": Case(
        {"k": 2, "k_aux": 5, "auxk": 0.2, "auxk_reach": "everything", "auxk_over": "unchosen", "reduction": "mean",
         "relu": "before", "subtract_b_dec": False}
    ),
    "one latent": Case({"k": 1, "auxk": 0.5}),
    "without auxk": Case({"k": 3, "auxk": 0.0}),
}  # fmt: skip


def saelens_code(fields, arrays, pre):
    kept = np.zeros_like(pre)
    order = np.argsort(-pre, axis=1)[:, : fields["k"]]
    np.put_along_axis(kept, order, np.take_along_axis(pre, order, axis=1), axis=1)
    return np.maximum(kept, 0)


def identity_params():
    return {
        "W_enc": np.eye(4, order="F"), "b_enc": np.zeros(4), "W_dec": np.eye(4), "b_dec": np.zeros(4),
    }  # fmt: skip


def test_by_hand():
    """With identity weights the code is the input itself, cut to its k largest and then to its positive part."""
    cfg = topk.Config(4, 4, k=2, k_aux=1, auxk=0.5)
    x = np.array([[3.0, 1.0, 2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]])
    dead = np.array([False, True, False, True])
    out, _ = topk.forward(identity_params(), x, cfg, dead=dead)
    np.testing.assert_array_equal(dense(out.f), [[3, 0, 2, 0], [0, 0, 4, 0]])
    np.testing.assert_array_equal(out.aux, [[0, 1, 0, 0], [0, 0, 0, 0]])
    terms = topk.objective(identity_params(), out, x, cfg, dead=dead)
    # residuals (0, 1, 0, .5) and (−1, −2, 0, −3): mse (1.25 + 14) / 2;  AuxK .5 · (.25 + 14) / 2
    np.testing.assert_allclose(terms["mse"].value, 7.625)
    np.testing.assert_allclose(terms["auxk"].value, 3.5625)


def test_auxk_normalisers_by_hand():
    x = np.array([[3.0, 1.0, 2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]])
    dead = np.array([False, True, False, True])
    residual = np.array([[0, 1, 0, 0.5], [-1, -2, 0, -3]])
    miss = 0.25 + 14.0
    for normaliser, scale in (
        ("residual_variance", ((residual - residual.mean(0)) ** 2).sum()),
        ("input_variance", ((x - x.mean(0)) ** 2).sum()),
    ):
        cfg = topk.Config(4, 4, k=2, k_aux=1, auxk=0.5, auxk_normaliser=normaliser)
        out, _ = topk.forward(identity_params(), x, cfg, dead=dead)
        value = topk.objective(identity_params(), out, x, cfg, dead=dead)["auxk"].value
        np.testing.assert_allclose(value, 0.5 * miss / scale)


def test_auxk_counts_in_proportion_to_the_dead_and_can_take_negative_values():
    x = np.array([[3.0, -1.0, 2.0, 0.5]])
    dead = np.array([False, True, False, False])
    for rectify, aux in ((True, 0.0), (False, -1.0)):
        cfg = topk.Config(4, 4, k=2, k_aux=4, auxk=0.5, auxk_relu=rectify, auxk_few="proportional")
        out, _ = topk.forward(identity_params(), x, cfg, dead=dead)
        np.testing.assert_array_equal(out.aux, [[0, aux, 0, 0]])
        # residual (0, −1, 0, .5); one dead latent of the four that AuxK may take: ¼ · ½ · ‖aux − residual‖²
        value = topk.objective(identity_params(), out, x, cfg, dead=dead)["auxk"].value
        np.testing.assert_allclose(value, 0.25 * 0.5 * ((aux + 1) ** 2 + 0.25))


def test_auxk_is_zero_while_nothing_is_dead():
    rng = np.random.default_rng(2)
    cfg = topk.Config(5, 11, 3)
    params, x = perturbed(topk, cfg, rng), rng.standard_normal((7, 5))
    out, _ = topk.forward(params, x, cfg, dead=np.zeros(11, bool))
    term = topk.objective(params, out, x, cfg, dead=np.zeros(11, bool))["auxk"]
    assert term.value == 0
    assert not term.slopes["aux"].any()


def test_ties_go_to_the_lowest_index():
    cfg = topk.Config(4, 4, k=2)
    out, _ = topk.forward(identity_params(), np.array([[1.0, 1.0, 1.0, 1.0]]), cfg)
    np.testing.assert_array_equal(dense(out.f), [[1, 1, 0, 0]])


def test_relu_before_selects_zeros_which_count_as_fired():
    cfg = topk.Config(4, 4, k=3)
    out, _ = topk.forward(identity_params(), np.array([[-1.0, 2.0, -3.0, -4.0]]), cfg)
    np.testing.assert_array_equal(topk.fired_latents(out, cfg), [False, True, False, False])
    np.testing.assert_array_equal(topk.fired_latents(out, cfg._replace(relu="before")), [True, True, True, False])


def test_selection_by_contribution_takes_what_moves_the_reconstruction_most():
    cfg = topk.Config(4, 4, k=1, k_aux=1, auxk=0.5, select_by="contribution")
    params = identity_params() | {"W_dec": np.diag([1.0, 5.0, 2.0, 0.0])}
    x, dead = np.array([[3.0, 1.0, 2.0, 9.0]]), np.array([True, False, True, True])
    out, _ = topk.forward(params, x, cfg, dead=dead)
    np.testing.assert_array_equal(out.pre, [[3, 5, 4, 0]])
    np.testing.assert_array_equal(dense(out.f), [[0, 1, 0, 0]])
    np.testing.assert_array_equal(out.x_hat, [[0, 5, 0, 0]])
    np.testing.assert_array_equal(out.aux, [[0, 0, 4, 0]])
    np.testing.assert_array_equal(dense(topk.encode(params, x, cfg)), dense(out.f))
    shipped, plain = topk.folded(params, cfg)
    f = topk.encode(shipped, x, plain)
    np.testing.assert_array_equal(dense(f), [[0, 5, 0, 0]])
    np.testing.assert_array_equal(topk.decode(shipped, f), out.x_hat)
    assert topk.to_saelens(plain)["architecture"] == "topk"
    assert topk.to_saelens(cfg) == {}


def test_a_selected_zero_gets_gradient_where_asked():
    x = np.array([[-1.0, 2.0, -3.0, -4.0]])
    for relu, zero, expected in (
        ("after", "blocked", [0, 1, 0, 0]),
        ("before", "blocked", [0, 1, 0, 0]),
        ("after", "passes", [1, 1, 0, 0]),  # −1 is the second largest
        ("before", "passes", [1, 1, 0, 0]),  # the first of three zeros
    ):
        cfg = topk.Config(4, 4, k=2, relu=relu, selected_zero=zero)
        out, cache = topk.forward(identity_params(), x, cfg)
        np.testing.assert_array_equal(dense(out.f), [[0, 2, 0, 0]])
        grads = topk.backward(identity_params(), cache, cfg, {"x_hat": np.ones((1, 4))})
        np.testing.assert_array_equal(grads["b_enc"], expected)


def test_auxk_among_all_that_a_row_did_not_choose():
    cfg = topk.Config(4, 4, k=2, k_aux=1, auxk=0.5, auxk_over="unchosen", auxk_few="proportional")
    x, nobody = np.array([[3.0, 1.0, 2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]]), np.zeros(4, bool)
    out, _ = topk.forward(identity_params(), x, cfg, dead=nobody)
    np.testing.assert_array_equal(out.aux, [[0, 1, 0, 0], [0, 0, 0, 0]])
    terms = topk.objective(identity_params(), out, x, cfg, dead=nobody)
    np.testing.assert_allclose(terms["auxk"].value, 0.5 * (0.25 + 14) / 2)


def test_auxk_with_b_dec_on_both_sides_differs_in_whom_it_trains_alone():
    rng = np.random.default_rng(5)
    cfg, x, dead = topk.Config(5, 11, 3, subtract_b_dec=False), rng.standard_normal((7, 5)), np.arange(11) % 2 == 0
    params, found = perturbed(topk, cfg, rng), {}
    for bias in (False, True):
        own = cfg._replace(auxk_bias=bias)
        out, cache = topk.forward(params, x, own, dead=dead)
        term = topk.objective(params, out, x, own, dead=dead)["auxk"]
        found[bias] = term, topk.backward(params, cache, own, dict(term.slopes))
    np.testing.assert_allclose(found[True][0].value, found[False][0].value, rtol=1e-12)
    assert not found[False][1]["b_dec"].any()
    np.testing.assert_allclose(found[True][1]["b_dec"], found[True][0].slopes["aux"].sum(axis=0), rtol=1e-12)
    for name in ("W_enc", "b_enc", "W_dec"):
        np.testing.assert_allclose(found[True][1][name], found[False][1][name], atol=1e-12)


def test_the_error_over_the_variance_of_the_input():
    x = np.array([[3.0, 1.0, 2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]])
    cfg = topk.Config(4, 4, k=2, mse_normaliser="input_variance", mse_weight=3.0)
    out, _ = topk.forward(identity_params(), x, cfg)
    # 15.25 of squared errors; each column's two entries lie half their distance from its mean
    spread = (4**2 + 3**2 + 2**2 + 3.5**2) / 2
    np.testing.assert_allclose(topk.objective(identity_params(), out, x, cfg)["mse"].value, 3 * 15.25 / spread)
    alone, _ = topk.forward(identity_params(), x[:1], cfg)
    term = topk.objective(identity_params(), alone, x[:1], cfg)["mse"]
    assert term.value == 0
    assert not term.slopes["x_hat"].any()


@given(n=st.integers(1, 7), d_in=st.integers(1, 5), d_sae=st.integers(1, 17), seed=st.integers(0, 99), data=st.data())
def test_at_most_k_are_active_and_permuting_latents_permutes_gradients(n, d_in, d_sae, seed, data):
    rng = np.random.default_rng(seed)
    cfg = topk.Config(d_in, d_sae, k=data.draw(st.integers(1, d_sae)))
    params, x = perturbed(topk, cfg, rng), rng.standard_normal((n, d_in))
    out, cache = topk.forward(params, x, cfg)
    assert ((dense(out.f) > 0).sum(axis=1) <= cfg.k).all()
    grads = topk.backward(params, cache, cfg, gather(topk.objective(params, out, x, cfg))[1])
    order = rng.permutation(d_sae)
    moved = {
        "W_enc": params["W_enc"][:, order], "b_enc": params["b_enc"][order], "W_dec": params["W_dec"][order],
        "b_dec": params["b_dec"],
    }  # fmt: skip
    out, cache = topk.forward(moved, x, cfg)
    again = topk.backward(moved, cache, cfg, gather(topk.objective(moved, out, x, cfg))[1])
    np.testing.assert_allclose(again["W_dec"], grads["W_dec"][order], atol=1e-10)
    np.testing.assert_allclose(again["W_enc"], grads["W_enc"][:, order], atol=1e-10)


def test_bad_configuration_is_one_line():
    with pytest.raises(InputError, match=r"^k: expected at most d_sae = 11, got 12$"):
        topk.check_config(topk.Config(5, 11, 12))
    with pytest.raises(InputError, match=r"^auxk_reach: expected one of latents, decoder, everything, got 'all'$"):
        topk.check_config(topk.Config(5, 11, 3, auxk_reach="all"))
