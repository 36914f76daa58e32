"""Transcoders, with and without the skip connection, on cases worked by hand, and what holds for any shape."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisae
from minisae.errors import InputError
from minisae.evaluate import evaluate
from minisae.losses import gather
from minisae.ops import dense
from minisae.recipe import Recipe
from minisae.runs import job
from minisae.sae import VARIANTS, skip_transcoder, transcoder
from minisae.train import start
from minisae.verify import check_gradients
from tests.helpers import ArraySource, perturbed
from tests.sae.auxk import held_fixed
from tests.sae.cases import Case

__all__ = ["held_fixed"]

CASES = {
    "dunefsky": Case({"d_out": 2, "l1": 0.2}, {"sparsity_warmup": 3}),
    "sparsify": Case(
        {"d_out": 2, "k": 5, "relu": "before", "selected_zero": "passes", "decoder": "free",
         "mse_normaliser": "input_variance", "auxk": 0.3, "k_aux": 2, "auxk_normaliser": "input_variance",
         "auxk_reach": "decoder", "auxk_few": "proportional"},
        {"k_start": 11, "k_anneal": 4},
    ),
    "others": Case(
        {"d_out": 2, "k": 2, "auxk": 0.2, "auxk_normaliser": "residual_variance", "auxk_reach": "everything",
         "reduction": "mean"}
    ),
}  # fmt: skip
BOTH = ("transcoder", "skip_transcoder")


def saelens_code(fields, arrays, pre):
    return np.maximum(pre, 0)


def test_by_hand():
    """One row of input (1, −1, 2) and target (3, 1); the arithmetic is in the comments."""
    params = {
        "W_enc": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]]),
        "b_enc": np.array([0.5, -0.5]),
        "W_dec": np.array([[1.0, 0.0], [0.6, 0.8]]),
        "b_dec": np.array([-1.0, 0.25]),
        "W_skip": np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0]]),
    }
    rows = np.array([[1.0, -1.0, 2.0, 3.0, 1.0]])
    cfg = transcoder.Config(3, 2, 2, l1=0.5)
    x, y = transcoder.split(rows, cfg)
    plain = {key: p for key, p in params.items() if key != "W_skip"}
    for module, given_, skipped in ((transcoder, plain, 0.0), (skip_transcoder, params, 1.0)):
        out, _ = module.forward(given_, x, cfg)
        # pre: 1 + 2 + .5 and −1 + 1 − .5; b_dec is no part of it
        np.testing.assert_allclose(dense(out.f), [[3.5, 0.0]])
        # y_hat: 3.5 (1, 0) + b_dec, and x W_skipᵀ = (1 + 1, −2 + 2)
        np.testing.assert_allclose(out.x_hat, [[2.5 + 2 * skipped, 0.25]])
        terms = module.objective(given_, out, y, cfg)
        np.testing.assert_allclose(terms["mse"].value, (2.5 + 2 * skipped - 3) ** 2 + 0.75**2)
        np.testing.assert_allclose(terms["l1"].value, 0.5 * 3.5)


def test_start_predicts_the_mean_target_and_centres_the_input():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((101, 8)) + 2
    cfg = transcoder.Config(5, 11, 3, k=2, decoder="free")
    for module in (transcoder, skip_transcoder):
        params = module.init(cfg, rng, sample=rows, dtype=np.float64)
        x, y = module.split(rows, cfg)
        out, _ = module.forward(params, x, cfg)
        np.testing.assert_allclose(out.x_hat, np.broadcast_to(y.mean(axis=0), y.shape), rtol=1e-12)
        np.testing.assert_allclose(out.pre.mean(axis=0), 0, atol=1e-12)
    unit = transcoder.init(cfg._replace(decoder="unit"), rng, sample=rows)
    np.testing.assert_allclose(np.linalg.norm(unit["W_dec"], axis=1), 1, rtol=1e-6)


@given(
    n=st.integers(1, 5), d_in=st.integers(1, 4), d_out=st.integers(1, 4), d_sae=st.integers(1, 7),
    k=st.integers(0, 2), name=st.sampled_from(BOTH), seed=st.integers(0, 99),
)  # fmt: skip
def test_gradients_for_any_widths(n, d_in, d_out, d_sae, k, name, seed):
    rng, module = np.random.default_rng(seed), VARIANTS[name]
    cfg = module.Config(d_in, d_sae, d_out, k=min(k, d_sae), l1=0.3)
    params, rows = perturbed(module, cfg, rng), rng.standard_normal((n, d_in + d_out))
    x, y = module.split(rows, cfg)

    def loss(p):
        return float(gather(module.objective(p, module.forward(p, p["x"], cfg)[0], y, cfg))[0])

    out, cache = module.forward(params, x, cfg)
    grads = module.backward(params, cache, cfg, gather(module.objective(params, out, y, cfg))[1], want_x=True)
    checks = check_gradients(loss, params | {"x": x}, grads)
    assert {check.name for check in checks} == module.SHAPES.keys() | {"x"}
    assert all(check.error < 1e-6 for check in checks)


def mlp_rows(n=997, seed=0):
    """Input of width 7 and target of width 3: a ReLU network of 5 units, and an affine part."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 7)).astype(np.float32)
    W_in, W_out, W = (np.random.default_rng(5).standard_normal(shape) for shape in ((7, 5), (5, 3), (7, 3)))
    return np.hstack([x, np.maximum(x @ W_in - 1, 0) @ W_out + x @ W]).astype(np.float32)


@pytest.mark.parametrize("name", BOTH)
def test_trained_and_evaluated(name, tmp_path):
    """The skip connection takes the affine part: what is left is explained better. Saved and loaded, it is the same."""
    options = {"d_out": 3, "decoder": "free", "dead_after": 5000}
    sae = minisae.train(
        mlp_rows(), variant=name, d_sae=17, k=2, steps=400, batch_size=101, lr=1e-2, options=options, out=tmp_path / "a"
    )
    held = ArraySource(mlp_rows(seed=1))
    r2 = evaluate(sae, held).numbers["pooled_r2"]
    x, y = held.x[:, :7], held.x[:, 7:]
    error = y - sae.decode(sae.encode(x), x)
    by_hand = 1 - (error.astype(float) ** 2).sum() / ((y - y.mean(axis=0)).astype(float) ** 2).sum()
    assert r2 == pytest.approx(by_hand, rel=1e-4)
    assert r2 > (0.9 if name == "skip_transcoder" else 0.5)
    again = minisae.load(tmp_path / "a")
    assert again.cfg == sae.cfg
    np.testing.assert_array_equal(again.decode(again.encode(x), x), sae.decode(sae.encode(x), x))


def test_widths_say_what_the_target_is():
    options = {"steps": 1, "l1": 0.1}
    assert job((5, 3), variant="transcoder", d_sae=11, options=options).cfg[:3] == (5, 11, 3)
    assert job((5, 2, 3), variant="transcoder", d_sae=11, options=options).cfg[:3] == (7, 11, 3)
    assert job(8, variant="transcoder", d_sae=11, options=options | {"d_out": 3}).cfg[:3] == (5, 11, 3)
    for bad in ({}, {"d_out": 8}, {"d_out": 0}, {"d_out": 2.5}, {"d_out": True}):
        with pytest.raises(InputError, match=r"^d_out: expected the width of the target, [^\n]* got [^\n]*$"):
            job(8, variant="transcoder", d_sae=11, options=options | bad)


@pytest.mark.parametrize("name", BOTH)
def test_a_penalty_is_not_to_be_given_beside_k(name):
    options = {"steps": 1, "d_out": 3, "k": 2}
    assert job(8, variant=name, d_sae=11, options=options).cfg.k == 2
    assert job(8, variant=name, d_sae=11, options=options | {"k": 0, "l1": 0.1}).cfg.l1 == 0.1
    with pytest.raises(InputError, match=r"^l1: expected none beside k = 2 \(TopK has no penalty\), got 0\.1$"):
        job(8, variant=name, d_sae=11, options=options | {"l1": 0.1})


@pytest.mark.parametrize(("relu", "expected"), [("after", [1, 1, 0, 0]), ("before", [1, 1, 0, 0])])
def test_a_selected_zero_passes_a_slope_with_relu_on_either_side(relu, expected):
    """Of −1, 2, −3 and −4 two are selected: 2, and −1 or the first of three zeros."""
    cfg = transcoder.Config(4, 4, 4, k=2, relu=relu, selected_zero="passes")
    params = {"W_enc": np.eye(4), "b_enc": np.zeros(4), "W_dec": np.eye(4), "b_dec": np.zeros(4)}
    for zero, b_enc in (("passes", expected), ("blocked", [0, 1, 0, 0])):
        own = cfg._replace(selected_zero=zero)
        _, cache = transcoder.forward(params, np.array([[-1.0, 2.0, -3.0, -4.0]]), own)
        grads = transcoder.backward(params, cache, own, {"x_hat": np.ones((1, 4))})
        np.testing.assert_array_equal(grads["b_enc"], b_enc)


def test_a_target_begins_where_a_source_does():
    assert transcoder.sizes((7, 5, 3), {"d_out": 8}) == {"d_in": 7, "d_out": 8}
    with pytest.raises(
        InputError, match=r"^d_out: expected 3 or 8, where a source of widths \[7, 5, 3\] begins, got 4$"
    ):
        transcoder.sizes((7, 5, 3), {"d_out": 4})


def test_data_of_another_width_is_refused():
    with pytest.raises(InputError, match=r"^d_in: the data has width 7, the configuration says 8$"):
        start(ArraySource(np.ones((5, 7), np.float32)), "transcoder", transcoder.Config(5, 11, 3), Recipe(steps=1))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"d_out": 0}, "d_out: expected a whole number of at least 1, got 0"),
        ({"k": 12}, "k: expected at most d_sae = 11, got 12"),
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"auxk": 0.1}, "auxk: expected 0 without k (AuxK goes with TopK), got 0.1"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        transcoder.check_config(transcoder.Config(5, 11, 3)._replace(**change))
    assert str(caught.value) == line


@pytest.mark.parametrize("module", [transcoder, skip_transcoder])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
