"""Crosscoders on a case worked by hand: which norms the penalty adds up, and what follows from the sources' widths."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.losses import gather
from minisae.ops import dense
from minisae.runs import job
from minisae.sae import crosscoder, relu
from minisae.verify import check_gradients
from tests.helpers import perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case({"l1": 0.7, "splits": (1,)}, {"sparsity_warmup": 3}),
    "joint": Case({"l1": 0.4, "splits": (1,), "source_norms": "joint", "decoder": "unit"}),
    "others": Case({"l1": 0.1, "splits": (1,), "subtract_b_dec": True, "reduction": "mean"}),
}


def test_by_hand():
    """Sources of width 2 and 1, two latents, one row; the arithmetic is in the comments."""
    params = {
        "W_enc": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]),
        "b_enc": np.array([0.0, 0.5]),
        "W_dec": np.array([[3.0, 4.0, 12.0], [0.6, 0.8, 0.0]]),
        "b_dec": np.array([1.0, 0.0, -1.0]),
    }
    x = np.array([[2.0, 3.0, 1.0]])
    cfg = crosscoder.Config(3, 2, (2,), l1=0.5)
    out, _ = crosscoder.forward(params, x, cfg)
    # pre: 2 + 1 and 3 − 1 + .5; b_dec is not subtracted
    np.testing.assert_allclose(dense(out.f), [[3.0, 2.5]])
    # x_hat: 3 (3, 4, 12) + 2.5 (.6, .8, 0) + b_dec
    np.testing.assert_allclose(out.x_hat, [[11.5, 14.0, 35.0]])
    terms = crosscoder.objective(params, out, x, cfg)
    np.testing.assert_allclose(terms["mse"].value, 9.5**2 + 11**2 + 34**2)
    # latent 0 weighs ‖(3, 4)‖ + ‖12‖ = 17, latent 1 weighs 1 + 0
    np.testing.assert_allclose(terms["l1"].value, 0.5 * (3 * 17 + 2.5))
    np.testing.assert_allclose(terms["l1"].slopes["f"], [[8.5, 0.5]])
    np.testing.assert_allclose(terms["l1"].params["W_dec"][0], 0.5 * 3 * np.array([0.6, 0.8, 1.0]))
    np.testing.assert_allclose(terms["l1"].params["W_dec"][1], 0.5 * 2.5 * np.array([0.6, 0.8, 0.0]))
    joint = crosscoder.objective(params, out, x, cfg._replace(source_norms="joint"))
    np.testing.assert_allclose(joint["l1"].value, 0.5 * (3 * 13 + 2.5))


@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4), d_sae=st.integers(1, 7), seed=st.integers(0, 99),
    norms=st.sampled_from(("sum", "joint")),
)  # fmt: skip
def test_gradients_for_any_number_of_sources(widths, d_sae, seed, norms):
    rng = np.random.default_rng(seed)
    cfg = crosscoder.Config(d_sae=d_sae, l1=0.3, source_norms=norms, **crosscoder.sizes(widths, {}))
    crosscoder.check_config(cfg)
    params, x = perturbed(crosscoder, cfg, rng), rng.standard_normal((5, cfg.d_in))

    def loss(p):
        return float(gather(crosscoder.objective(p, crosscoder.forward(p, x, cfg)[0], x, cfg))[0])

    out, cache = crosscoder.forward(params, x, cfg)
    _, slopes, direct = gather(crosscoder.objective(params, out, x, cfg))
    grads = crosscoder.backward(params, cache, cfg, slopes)
    grads["W_dec"] += direct["W_dec"]
    assert all(check.error < 1e-6 for check in check_gradients(loss, params, grads))


def test_with_one_source_or_joint_norms_it_is_the_april_update():
    """The ReLU autoencoder whose penalty is weighted by the norm of the whole decoder row."""
    rng = np.random.default_rng(3)
    theirs = relu.Config(5, 13, l1=0.3, l1_weight="decoder_norm", decoder="free", subtract_b_dec=False)
    params, x = perturbed(relu, theirs, rng), rng.standard_normal((7, 5))
    expected = gather(relu.objective(params, relu.forward(params, x, theirs)[0], x, theirs))[0]
    for options in ({}, {"splits": (2, 3), "source_norms": "joint"}):
        cfg = crosscoder.Config(5, 13, l1=0.3, **options)
        total = gather(crosscoder.objective(params, crosscoder.forward(params, x, cfg)[0], x, cfg))[0]
        np.testing.assert_allclose(total, expected, rtol=1e-13)


def test_widths_of_the_sources_say_where_they_begin():
    options = {"steps": 1, "l1": 0.1}
    assert job((5, 3, 7), variant="crosscoder", d_sae=11, options=options).cfg.splits == (5, 8)
    assert job((5, 3, 7), variant="crosscoder", d_sae=11, options=options | {"splits": [8]}).cfg.splits == (8,)
    with pytest.raises(InputError, match=r"^splits: expected columns .*: a crosscoder has two or more, got \(\)$"):
        job(15, variant="crosscoder", d_sae=11, options=options)


@pytest.mark.parametrize("splits", [(0,), (5,), (3, 3), (4, 2), (1.5,), (True,), "3", 3])
def test_bad_splits_are_one_line(splits):
    with pytest.raises(InputError, match=r"^splits: expected ascending whole numbers between 0 and d_in = 5"):
        crosscoder.check_config(crosscoder.Config(5, 11, splits))


def test_docstring_examples():
    result = doctest.testmod(crosscoder)
    assert result.attempted
    assert not result.failed
