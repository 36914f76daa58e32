"""AbsTopK by hand: the sign is kept, in the code and in AuxK."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.ops import dense
from minisae.sae import abs_topk
from tests.helpers import perturbed
from tests.sae.auxk import held_fixed
from tests.sae.cases import Case

__all__ = ["held_fixed"]

CASES = {
    "paper": Case({"k": 3, "auxk": 0.0}, {"k_start": 11, "k_anneal": 4}),
    "saelens": Case(
        {"k": 2, "auxk": 1.0, "k_aux": 7, "auxk_few": "proportional", "decoder": "free", "select_by": "contribution"}
    ),
    "others": Case(
        {"k": 1, "auxk": 0.3, "reduction": "mean", "subtract_b_dec": False, "auxk_normaliser": "residual_variance",
         "auxk_reach": "everything"}
    ),
    "decoder": Case({"k": 3, "auxk": 0.3, "auxk_normaliser": "input_variance", "auxk_reach": "decoder"}),
}  # fmt: skip


def saelens_code(fields, arrays, pre):
    kept = np.zeros_like(pre)
    order = np.argsort(-abs(pre), axis=1)[:, : fields["k"]]
    np.put_along_axis(kept, order, np.take_along_axis(pre, order, axis=1), axis=1)
    return kept


def identity_params():
    return {
        "W_enc": np.eye(4, order="F"), "b_enc": np.zeros(4), "W_dec": np.eye(4), "b_dec": np.zeros(4),
    }  # fmt: skip


X = np.array([[3.0, 1.0, -2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]])


def test_by_hand():
    cfg = abs_topk.Config(4, 4, k=2, k_aux=1, auxk=0.5)
    dead = np.array([False, True, False, True])
    out, _ = abs_topk.forward(identity_params(), X, cfg, dead=dead)
    np.testing.assert_array_equal(dense(out.f), [[3, 0, -2, 0], [0, 0, 4, -3]])
    np.testing.assert_array_equal(out.aux, [[0, 1, 0, 0], [0, 0, 0, -3]])
    terms = abs_topk.objective(identity_params(), out, X, cfg, dead=dead)
    # residuals (0, 1, 0, .5) and (−1, −2, 0, 0); aux − residual (0, 0, 0, −.5) and (1, 2, 0, −3)
    np.testing.assert_allclose(terms["mse"].value, (1.25 + 5) / 2)
    np.testing.assert_allclose(terms["auxk"].value, 0.5 * (0.25 + 14) / 2)
    np.testing.assert_array_equal(abs_topk.fired_latents(out, cfg), [True, False, True, True])


def test_ties_go_to_the_lowest_index_whatever_their_sign():
    out, _ = abs_topk.forward(identity_params(), np.array([[-1.0, 1.0, 1.0, -1.0]]), abs_topk.Config(4, 4, k=2))
    np.testing.assert_array_equal(dense(out.f), [[-1, 1, 0, 0]])


@given(n=st.integers(1, 7), d_in=st.integers(1, 5), d_sae=st.integers(1, 17), seed=st.integers(0, 99), data=st.data())
def test_turning_a_latent_round_turns_its_code_and_nothing_else(n, d_in, d_sae, seed, data):
    rng = np.random.default_rng(seed)
    cfg = abs_topk.Config(d_in, d_sae, k=data.draw(st.integers(1, d_sae)))
    params, x = perturbed(abs_topk, cfg, rng), rng.standard_normal((n, d_in))
    sign = rng.choice((-1.0, 1.0), d_sae)
    turned = {
        "W_enc": params["W_enc"] * sign, "b_enc": params["b_enc"] * sign, "W_dec": params["W_dec"] * sign[:, None],
        "b_dec": params["b_dec"],
    }  # fmt: skip
    out, again = abs_topk.forward(params, x, cfg)[0], abs_topk.forward(turned, x, cfg)[0]
    assert (np.count_nonzero(dense(out.f), axis=1) == cfg.k).all()
    np.testing.assert_allclose(dense(again.f), dense(out.f) * sign, rtol=1e-12)
    np.testing.assert_allclose(again.x_hat, out.x_hat, atol=1e-12)


def test_bad_configuration_is_one_line():
    with pytest.raises(InputError, match=r"^k: expected at most d_sae = 11, got 12$"):
        abs_topk.check_config(abs_topk.Config(5, 11, 12))


def test_the_example_runs():
    result = doctest.testmod(abs_topk)
    assert result.attempted > 0
    assert result.failed == 0
