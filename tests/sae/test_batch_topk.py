"""BatchTopK by hand: selection over the batch, the running threshold of each library, calibration, state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.checkpoint import SAE
from minisae.errors import InputError
from minisae.evaluate import evaluate
from minisae.losses import gather
from minisae.ops import dense, l0
from minisae.recipe import Recipe
from minisae.runs import finished
from minisae.sae import batch_topk
from minisae.train import fit, now, start, step
from tests.helpers import ArraySource, perturbed
from tests.sae.auxk import held_fixed
from tests.sae.cases import Case

__all__ = ["held_fixed"]

CASES = {
    "paper": Case({"k": 1.8, "k_aux": 2, "auxk": 0.3}, {"k_start": 11, "k_anneal": 4}),
    "saelens": Case(
        {"k": 2.6, "k_aux": 7, "auxk": 0.7, "auxk_relu": False, "auxk_few": "proportional", "decoder": "free",
         "k_rounding": "down", "threshold_rule": "from_zero", "select_by": "contribution"}
    ),
    "dictionary_learning": Case(
        {"k": 3, "k_aux": 5, "auxk_normaliser": "residual_variance", "threshold_rule": "from_first",
         "threshold_decay": 0.9, "threshold_start": 2}
    ),
    "overcomplete": Case(
        {"k": 9, "k_per": "batch", "ties": "all", "threshold_of": "kth", "threshold_rule": "from_first",
         "threshold_decay": 0.9, "auxk": 0.2, "k_aux": 5, "auxk_reach": "everything", "auxk_over": "unchosen",
         "reduction": "mean"}
    ),
    "few latents": Case(
        {"k": 0.6, "auxk": 0.5, "auxk_reach": "decoder", "auxk_normaliser": "input_variance", "subtract_b_dec": False}
    ),
    "without auxk": Case({"k": 3.4, "auxk": 0.0}),
}  # fmt: skip


def saelens_code(fields, arrays, pre):
    return np.maximum(pre, 0) * (pre > arrays["threshold"])


def saelens_metadata(cfg):
    return {"training_architecture": "batchtopk", "training_architecture_details": {"k": cfg.k}}


def identity_params(threshold=-1.0):
    return {
        "W_enc": np.eye(4, order="F"), "b_enc": np.zeros(4), "W_dec": np.eye(4), "b_dec": np.zeros(4),
        "threshold": np.full(4, threshold),
    }  # fmt: skip


X = np.array([[3.0, 1.0, 2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]])


def test_by_hand():
    """With identity weights the code is the input itself: the two rows share four places, 3, 2, 1 and 4."""
    cfg = batch_topk.Config(4, 4, k=2, k_aux=1, auxk=0.5)
    dead = np.array([False, False, False, True])
    out, _ = batch_topk.forward(identity_params(), X, cfg, dead=dead)
    np.testing.assert_array_equal(dense(out.f), [[3, 1, 2, 0], [0, 0, 4, 0]])
    np.testing.assert_array_equal(out.aux, [[0, 0, 0, 0.5], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch_topk.fired_latents(out, cfg), [True, True, True, False])
    terms = batch_topk.objective(identity_params(), out, X, cfg, dead=dead)
    # residuals (0, 0, 0, .5) and (−1, −2, 0, −3): mse (.25 + 14) / 2;  AuxK .5 · (0 + 14) / 2
    np.testing.assert_allclose(terms["mse"].value, 7.125)
    np.testing.assert_allclose(terms["auxk"].value, 3.5)


@pytest.mark.parametrize(
    ("k", "n", "rounding", "kept"),
    [
        *((1.8, 5, how, 9) for how in ("nearest", "down")),
        *((1.8, 7, how, kept) for how, kept in (("nearest", 13), ("down", 12))),
        *((2.5, 5, how, 12) for how in ("nearest", "down")),  # halves go to the even number
        *((0.01, 7, how, 1) for how in ("nearest", "down")),  # at least one
        (3, 7, "nearest", 21),
    ],
)
def test_a_fractional_k_is_rounded_over_the_batch(k, n, rounding, kept):
    cfg = batch_topk.Config(5, 11, k, k_rounding=rounding)
    assert batch_topk.k_total(cfg, n) == kept
    rng = np.random.default_rng(3)
    params = perturbed(batch_topk, cfg, rng)
    params["b_enc"] += 9  # all positive
    out, _ = batch_topk.forward(params, rng.standard_normal((n, 5)), cfg)
    assert np.count_nonzero(dense(out.f)) == kept


def test_ties_go_to_the_lowest_row_and_then_to_the_lowest_latent():
    out, _ = batch_topk.forward(identity_params(), np.ones((2, 4)), batch_topk.Config(4, 4, k=2.5))
    np.testing.assert_array_equal(dense(out.f), [[1, 1, 1, 1], [1, 0, 0, 0]])


def test_overcomplete_keeps_all_ties_and_counts_k_in_the_batch():
    """Its threshold is the k-th value, 0 where fewer are positive, and is itself active at inference."""
    cfg = batch_topk.Config(
        4, 4, k=3, k_per="batch", ties="all", threshold_of="kth", threshold_rule="from_first", threshold_decay=0.9
    )
    params, x = identity_params(), np.array([[3.0, 2.0, 2.0, 0.5], [-1.0, -2.0, 2.0, 1.0]])
    out, _ = batch_topk.forward(params, x, cfg)
    np.testing.assert_array_equal(dense(out.f), [[3, 2, 2, 0], [0, 0, 2, 0]])
    batch_topk.after_step(params, out, cfg, step=0)
    assert (params["threshold"] == 2).all()
    np.testing.assert_array_equal(dense(batch_topk.encode(params, x, cfg)), dense(out.f))
    np.testing.assert_array_equal(dense(batch_topk.encode(params, x, cfg._replace(ties="lowest"))).sum(axis=0)[0], 3)
    few, _ = batch_topk.forward(params, np.array([[3.0, -1, -1, 5]]), cfg)
    np.testing.assert_array_equal(dense(few.f), [[3, 0, 0, 5]])
    batch_topk.after_step(params, few, cfg, step=1)
    np.testing.assert_allclose(params["threshold"], 0.9 * 2)
    none, _ = batch_topk.forward(params, -np.ones((2, 4)), cfg)
    assert not dense(none.f).any()
    assert batch_topk.k_total(cfg, 1) == 3
    assert batch_topk.k_total(cfg._replace(k=9), 2) == 8


def test_the_threshold_is_of_what_is_ranked():
    cfg = batch_topk.Config(4, 4, k=0.5, select_by="contribution", threshold_rule="from_first")
    params = identity_params() | {"W_dec": np.diag([1.0, 5.0, 2.0, 1.0])}
    out, _ = batch_topk.forward(params, X, cfg)
    np.testing.assert_array_equal(dense(out.f), [[0, 0, 0, 0], [0, 0, 4, 0]])
    batch_topk.after_step(params, out, cfg, step=0)
    assert (params["threshold"] == 8).all()
    low = params | {"threshold": np.full(4, 3.5)}
    f = dense(batch_topk.encode(low, X, cfg))
    np.testing.assert_array_equal(f, [[0, 1, 2, 0], [0, 0, 4, 0]])
    shipped, plain = batch_topk.folded(low, cfg)
    np.testing.assert_array_equal(dense(batch_topk.encode(shipped, X, plain)), f * [1, 5, 2, 1])


def test_encode_is_the_threshold_row_by_row():
    cfg = batch_topk.Config(4, 4, k=1)
    np.testing.assert_array_equal(dense(batch_topk.encode(identity_params(1.0), X, cfg)), [[3, 0, 2, 0], [0, 0, 4, 0]])
    np.testing.assert_array_equal(batch_topk.encode(identity_params(1.0), X[:1], cfg), [[3, 0, 2, 0]])


def test_encode_before_any_threshold_is_relu():
    cfg = batch_topk.Config(4, 4, k=1)
    for unset in (-1.0, 0.0):
        np.testing.assert_array_equal(dense(batch_topk.encode(identity_params(unset), X, cfg)), np.maximum(X, 0))
    assert (batch_topk.init(cfg, np.random.default_rng(0))["threshold"] == -1).all()


def moved(how, least, *, decay=0.9, start=0):
    """The thresholds after batches whose smallest kept values are ``least``; ``None``: nothing positive is kept."""
    cfg = batch_topk.Config(4, 4, k=0.5, threshold_rule=how, threshold_decay=decay, threshold_start=start)
    params, found = identity_params(), []
    for number, value in enumerate(least):
        x = np.full((2, 4), -1.0)
        x[1, 2] = -2 if value is None else value
        batch_topk.after_step(params, batch_topk.forward(params, x, cfg)[0], cfg, step=number)
        assert (params["threshold"] == params["threshold"][0]).all()
        found.append(params["threshold"][0])
    return found


def test_estimator_of_saelens_by_hand():
    """From 0, t ← .9 t + .1 m; a batch without a positive value is left out."""
    expected = [0.2, 0.9 * 0.2 + 0.4, 0.58, 0.9 * 0.58 + 0.1]
    np.testing.assert_allclose(moved("from_zero", (2, 4, None, 1)), expected)
    assert moved("from_zero", (None, 2)) == pytest.approx([-1, 0.2])
    assert moved("from_zero", [3] * 100, decay=0.99)[-1] == pytest.approx(3 * (1 - 0.99**100))


def test_estimator_of_dictionary_learning_by_hand():
    """Its first value as it is, then t ← .9 t + .1 m; a batch without a positive value counts as 0."""
    expected = [2, 0.9 * 2 + 0.4, 0.9 * 2.2, 0.9 * 1.98 + 0.1]
    np.testing.assert_allclose(moved("from_first", (2, 4, None, 1)), expected)
    assert moved("from_first", (None, 2)) == pytest.approx([0, 0.2])
    assert moved("from_first", (7, 8, 2, 4), start=2) == pytest.approx([-1, -1, 2, 2.2])


def test_corrected_estimator_is_the_weighted_mean_of_all_batches():
    values = np.random.default_rng(0).random(13) + 0.5
    found = moved("corrected", values)
    for t in range(1, 14):
        weights = 0.9 ** np.arange(t)[::-1]
        np.testing.assert_allclose(found[t - 1], (weights * values[:t]).sum() / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(moved("corrected", [9, *values], start=1)[1:], found, rtol=1e-12)
    assert moved("corrected", (None, None, 2)) == pytest.approx([-1, -1, 2])


def test_only_the_training_step_moves_the_threshold():
    rng = np.random.default_rng(5)
    x, cfg = rng.standard_normal((97, 5)), batch_topk.Config(5, 13, 1.8)
    run = start(ArraySource(x), "batch_topk", cfg, Recipe(steps=9, batch_size=31, dtype="float64", init_rows=97))
    before = {name: p.copy() for name, p in run.params.items()}
    out, cache = batch_topk.forward(run.params, x, cfg, dead=np.arange(13) < 3)
    slopes = gather(batch_topk.objective(run.params, out, x, cfg, dead=np.arange(13) < 3))[1]
    batch_topk.backward(run.params, cache, cfg, slopes)
    batch_topk.encode(run.params, x, cfg)
    low = batch_topk.calibrated(run.params, x, cfg)["threshold"]
    for name, p in before.items():
        np.testing.assert_array_equal(run.params[name], p)
    assert (low > 0).all()
    first, _ = batch_topk.forward(run.params, x[:31], cfg)
    run, _ = step(run, x[:31])
    f = dense(first.f)
    np.testing.assert_array_equal(run.params["threshold"], np.full(13, f[f > 0].min()))


def test_a_fractional_k_anneals_to_itself():
    x = np.random.default_rng(0).standard_normal((211, 5)).astype(np.float32)
    recipe = Recipe(steps=40, batch_size=31, k_start=8, k_anneal=20, lr=1e-2, init_rows=211, log_every=10)
    run = start(ArraySource(x), "batch_topk", batch_topk.Config(5, 13, 1.8), recipe)
    found = [now(run._replace(step=step))[0].k for step in (0, 10, 20, 39)]
    assert found == pytest.approx([8, 4.9, 1.8, 1.8])
    records = []
    fit(run, ArraySource(x), hooks=[lambda run, record: records.append(record)])
    assert records[0]["l0"] > 3
    assert records[-1]["l0"] == pytest.approx(56 / 31)


def test_the_trained_threshold_is_one_positive_number_that_no_average_touches():
    x = np.random.default_rng(0).standard_normal((211, 5)).astype(np.float32)
    recipe = Recipe(steps=40, batch_size=31, lr=1e-2, init_rows=211, ema=0.9)
    run = fit(start(ArraySource(x), "batch_topk", batch_topk.Config(5, 13, 2), recipe), ArraySource(x))
    threshold = run.params["threshold"]
    assert threshold[0] > 0
    assert (threshold == threshold[0]).all()
    kept = finished(run, metadata={})
    np.testing.assert_array_equal(kept.params["threshold"], threshold)
    np.testing.assert_array_equal(kept.params["W_enc"], run.average["W_enc"])


@pytest.mark.parametrize("n", [31, 2053])
@pytest.mark.parametrize("k", [0.3, 1.8, 4, 13])
def test_calibration_gives_k_active_latents_on_its_rows(k, n):
    rng = np.random.default_rng(7)
    cfg = batch_topk.Config(5, 13, k)
    params, x = perturbed(batch_topk, cfg, rng), rng.standard_normal((n, 5))
    found = batch_topk.calibrated(params, x, cfg)
    positive = np.count_nonzero(np.maximum(dense(batch_topk.encode(params | {"threshold": np.zeros(13)}, x, cfg)), 0))
    active = np.count_nonzero(dense(batch_topk.encode(found, x, cfg)))
    assert active == min(batch_topk.k_total(cfg, n), positive)
    if k == 13:
        assert (found["threshold"] == 0).all()
    assert found["threshold"].dtype == np.float64
    training, _ = batch_topk.forward(params, x, cfg)
    np.testing.assert_array_equal(dense(batch_topk.encode(found, x, cfg)), dense(training.f))


def test_calibration_leaves_ties_at_the_edge_out():
    found = batch_topk.calibrated(
        identity_params(), np.array([[3.0, 2, 2, 2], [0, 0, 0, 0]]), batch_topk.Config(4, 4, 1)
    )
    assert (found["threshold"] == 2).all()
    low = np.nextafter(2, 3)
    near = np.array([[3.0, np.nextafter(low, 3), low, 2]])  # no number between the second and the third
    found = batch_topk.calibrated(identity_params(), near, batch_topk.Config(4, 4, 2))
    assert np.count_nonzero(dense(batch_topk.encode(found, near, batch_topk.Config(4, 4, 2)))) == 2


@pytest.mark.parametrize("how", ["corrected", "from_zero", "from_first"])
def test_the_running_threshold_gives_about_k_on_other_rows(how):
    """Each estimator, in its own settings but started early, is a mean of batch minima: L0 near k on rows not seen."""
    rng = np.random.default_rng(11)
    mix = rng.standard_normal((17, 7))
    data = (rng.random((4001, 17)) < 0.15) * rng.random((4001, 17)) @ mix
    cfg = batch_topk.Config(7, 23, 2.6, threshold_rule=how, threshold_decay=0.99)
    recipe = Recipe(steps=600, batch_size=211, lr=3e-3, init_rows=997)
    run = fit(
        start(ArraySource(data[:3001].astype("f")), "batch_topk", cfg, recipe), ArraySource(data[:3001].astype("f"))
    )
    held = data[3001:].astype("f")
    mean = float(l0(batch_topk.encode(run.params, held, cfg)))
    assert mean == pytest.approx(2.6, rel=0.15)
    exact = batch_topk.calibrated(run.params, held, cfg)
    assert float(l0(batch_topk.encode(exact, held, cfg))) == pytest.approx(2.6, abs=1e-3)
    sae = SAE("batch_topk", cfg, exact, {})
    assert evaluate(sae, ArraySource(held)).numbers["l0"] == pytest.approx(2.6, abs=1e-3)


@given(n=st.integers(1, 7), d_in=st.integers(1, 5), d_sae=st.integers(1, 17), seed=st.integers(0, 99), data=st.data())
def test_permuting_latents_permutes_gradients(n, d_in, d_sae, seed, data):
    rng = np.random.default_rng(seed)
    cfg = batch_topk.Config(d_in, d_sae, k=data.draw(st.floats(0.1, d_sae)))
    params, x = perturbed(batch_topk, cfg, rng), rng.standard_normal((n, d_in))
    out, cache = batch_topk.forward(params, x, cfg)
    assert np.count_nonzero(dense(out.f)) <= batch_topk.k_total(cfg, n)
    grads = batch_topk.backward(params, cache, cfg, gather(batch_topk.objective(params, out, x, cfg))[1])
    order = rng.permutation(d_sae)
    moved = params | {
        "W_enc": params["W_enc"][:, order], "b_enc": params["b_enc"][order], "W_dec": params["W_dec"][order]
    }  # fmt: skip
    out, cache = batch_topk.forward(moved, x, cfg)
    again = batch_topk.backward(moved, cache, cfg, gather(batch_topk.objective(moved, out, x, cfg))[1])
    np.testing.assert_allclose(again["W_dec"], grads["W_dec"][order], atol=1e-10)
    np.testing.assert_allclose(again["W_enc"], grads["W_enc"][:, order], atol=1e-10)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": 11.5}, "k: expected above 0 and at most d_sae = 11, got 11.5"),
        ({"k": 0}, "k: expected above 0 and at most d_sae = 11, got 0"),
        ({"k": float("nan")}, "k: expected a number of at least 0, got nan"),
        ({"k_rounding": "up"}, "k_rounding: expected one of nearest, down, got 'up'"),
        (
            {"threshold_rule": "ema"},
            "threshold_rule: expected one of corrected, from_zero, from_first, got 'ema'",
        ),
        ({"threshold_decay": 1.0}, "threshold_decay: expected a number of at least 0 and below 1, got 1.0"),
        ({"threshold_start": 0.5}, "threshold_start: expected a whole number of at least 0, got 0.5"),
        ({"auxk": -1}, "auxk: expected a number of at least 0, got -1"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        batch_topk.check_config(batch_topk.Config(5, 11, 3)._replace(**change))
    assert str(caught.value) == line


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_sae_lens_itself():
    """Selection, AuxK, its gradients and the running threshold against sae-lens, float64, eight batches."""
    saes = pytest.importorskip("sae_lens.saes.batchtopk_sae", reason="sae-lens is not installed (extra peers)")
    from sae_lens.saes.sae import TrainStepInput

    torch = pytest.importorskip("torch")
    cfg = batch_topk.Config(
        5, 13, 2.5, auxk=0.7, k_rounding="down", threshold_rule="from_zero", auxk_relu=False,
        auxk_few="proportional", decoder="free",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = perturbed(batch_topk, cfg, rng)
    params["threshold"][...] = -1
    options = {"d_in": 5, "d_sae": 13, "k": 2.5, "aux_loss_coefficient": 0.7, "dtype": "float64"}
    theirs = saes.BatchTopKTrainingSAE(
        saes.BatchTopKTrainingSAEConfig(**options, rescale_acts_by_decoder_norm=False, device="cpu")
    )
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(theirs, name).data = torch.from_numpy(params[name].copy())
    for number in range(8):
        x = rng.standard_normal((7, 5))
        dead = np.arange(13) % 4 == number % 4
        sent = TrainStepInput(
            sae_in=torch.from_numpy(x), coefficients={}, dead_neuron_mask=torch.from_numpy(dead),
            n_training_steps=number, is_logging_step=False,
        )  # fmt: skip
        theirs.zero_grad()
        result = theirs.training_forward_pass(sent)
        result.loss.backward()
        out, cache = batch_topk.forward(params, x, cfg, dead=dead)
        total, slopes, _ = gather(batch_topk.objective(params, out, x, cfg, dead=dead))
        batch_topk.after_step(params, out, cfg, step=number)
        np.testing.assert_allclose(dense(out.f), result.feature_acts.detach().numpy(), atol=1e-13)
        np.testing.assert_allclose(total, result.loss.item(), rtol=1e-12)
        for name, grad in batch_topk.backward(params, cache, cfg, slopes).items():
            np.testing.assert_allclose(grad, getattr(theirs, name).grad.numpy(), atol=1e-12, err_msg=name)
        np.testing.assert_allclose(params["threshold"][0], theirs.topk_threshold.item(), rtol=1e-13)
