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
        {"k": 3, "k_aux": 7, "auxk": 0.7, "auxk_relu": False, "auxk_few": "proportional", "decoder": "free"}
    ),
    "openai": Case({"k": 2, "k_aux": 5, "relu": "before", "auxk_normaliser": "residual_variance"}),
    "overcomplete": Case({"k": 2, "auxk": 0.2, "auxk_reach": "everything", "reduction": "mean"}),
    "one latent": Case(
        {"k": 1, "auxk": 0.5, "auxk_reach": "decoder", "auxk_normaliser": "input_variance", "subtract_b_dec": False}
    ),
    "without auxk": Case({"k": 3, "auxk": 0.0}),
}


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
