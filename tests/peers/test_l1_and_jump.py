"""Loss terms and the gradient of every parameter beside the real classes of SAELens, dictionary_learning, overcomplete.

1e-12 in float64; 1e-7 where a peer casts to float32 or adds a small number to a norm. Of OpenAI's ``loss.py``, which is
not on PyPI, the two formulas stand here in torch.
"""

import importlib
from typing import NamedTuple

import numpy as np
import pytest

from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import VARIANTS, jumprelu, p_anneal
from tests.helpers import perturbed
from tests.peers.drivers import without_pictures

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
EXACT, CAST, CASTS = 1e-12, 1e-7, 5e-7
"""The last after three ratios of means in float32."""
N, D_IN, D_SAE = 7, 5, 13


class Found(NamedTuple):
    """What one loss gives."""

    terms: dict[str, float]
    """Its terms by our names, as far as the peer tells them, and ``total``."""
    grads: dict[str, np.ndarray]
    """Of our parameters, in our orientation."""


def torch():
    return pytest.importorskip("torch", reason="torch is not installed (extra peers)")


def tensor(a):
    return torch().from_numpy(np.ascontiguousarray(a).copy())


def drawn(name, options, seed=0):
    """A configuration, parameters away from special values, and rows."""
    rng = np.random.default_rng(seed)
    cfg = VARIANTS[name].Config(D_IN, D_SAE, **options)
    VARIANTS[name].check_config(cfg)
    return cfg, perturbed(VARIANTS[name], cfg, rng), 1.3 * rng.standard_normal((N, D_IN))


def ours(name, cfg, params, x, dead=None):
    module = VARIANTS[name]
    out, cache = module.forward(params, x, cfg, dead=dead)
    terms = module.objective(params, out, x, cfg, dead=dead)
    total, slopes, direct = gather(terms)
    grads = module.backward(params, cache, cfg, slopes)
    values = {key: float(term.value) for key, term in terms.items()} | {"total": float(total)}
    return Found(values, {key: g + direct.get(key, 0) for key, g in grads.items()})


def assert_same(mine, theirs, tolerance):
    assert theirs.terms
    for key, value in theirs.terms.items():
        np.testing.assert_allclose(mine.terms[key], value, rtol=tolerance, atol=tolerance, err_msg=key)
    assert theirs.grads.keys() <= mine.grads.keys()
    for key, grad in theirs.grads.items():
        assert np.abs(grad).max() > 1e-3, key
        np.testing.assert_allclose(mine.grads[key], grad, rtol=tolerance, atol=tolerance, err_msg=key)


def saelens(kind, own, params, x, coefficients, dead=None):
    """SAELens' training class of an architecture."""
    library = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    from sae_lens.saes.sae import TrainStepInput

    config = getattr(library, f"{kind}TrainingSAEConfig")(d_in=D_IN, d_sae=D_SAE, dtype="float64", device="cpu", **own)
    sae = getattr(library, f"{kind}TrainingSAE")(config)
    names = {"b_enc": "b_gate"} if kind == "Gated" else {}
    for key, p in params.items():
        setattr(sae, names.get(key, key), torch().nn.Parameter(tensor(p)))
    found = sae.training_forward_pass(
        TrainStepInput(
            sae_in=tensor(x), coefficients=coefficients, n_training_steps=0, is_logging_step=False,
            dead_neuron_mask=None if dead is None else tensor(dead),
        )
    )  # fmt: skip
    found.loss.backward()
    terms = {"mse": found.losses["mse_loss"].item(), "total": found.loss.item()}
    return Found(terms, {key: getattr(sae, names.get(key, key)).grad.numpy() for key in params}), sae


def trainer_of(place, own):
    module, name = place
    library = pytest.importorskip(f"dictionary_learning.trainers.{module}", reason="dictionary-learning is missing")
    made = getattr(library, name)(
        steps=10, activation_dim=D_IN, dict_size=D_SAE, layer=0, lm_name="none", device="cpu", warmup_steps=0,
        sparsity_warmup_steps=None, **own,
    )  # fmt: skip
    made.ae.double()
    return made


DL_NAMES = {
    "bias": "b_dec", "decoder_bias": "b_dec", "encoder.bias": "b_enc", "gate_bias": "b_enc", "mag_bias": "b_mag",
    "encoder.weight": "W_enc", "decoder.weight": "W_dec",
}  # fmt: skip


def fill(model, params):
    """Put parameters into a dictionary_learning model; return its own by our name, and whether they are transposed."""
    found = {DL_NAMES.get(key, key): (p, "weight" in key) for key, p in model.named_parameters()}
    for key, (p, turned) in found.items():
        p.data.copy_(tensor(params[key].T if turned else params[key]))
    return found


def dictionary_learning(place, own, params, x):
    """The loss of one of dictionary_learning's trainers, weights of any norm."""
    trainer = trainer_of(place, own)
    held = fill(trainer.ae, params)
    loss = trainer.loss(tensor(x), step=1)
    loss.backward()
    grads = {key: p.grad.numpy().T if turned else p.grad.numpy() for key, (p, turned) in held.items()}
    return Found({"total": loss.item()}, grads)


def overcomplete(kind, own, params, x, criterion, *, tied=False):
    """One of overcomplete's autoencoders with a linear encoder; ``criterion(losses, x, x_hat, pre, f, D, model)``."""
    pytest.importorskip("einops", reason="overcomplete is not installed (extra peers)")
    without_pictures("overcomplete")
    library = pytest.importorskip("overcomplete.sae", reason="overcomplete is not installed (extra peers)")
    losses = importlib.import_module("overcomplete.sae.losses")
    model = getattr(library, kind)(D_IN, D_SAE, device="cpu", **own)
    model = (model.tied(bias=True) if tied else model).double()
    encoder = model.encoder if tied else model.encoder.final_block[0]
    held = {"W_dec": (model.dictionary._weights, False), "b_enc": (encoder.bias, False)}
    if not tied:
        held["W_enc"] = (encoder.weight, True)
    if "threshold" in params:
        held["threshold"] = (model.thresholds, False)
    for key, (p, turned) in held.items():
        p.data.copy_(tensor(params[key].T if turned else params[key]))
    pre, f, x_hat = model(tensor(x))
    loss = criterion(losses, tensor(x), x_hat, pre, f, model.get_dictionary(), model)
    loss.backward()
    grads = {key: p.grad.numpy().T if turned else p.grad.numpy() for key, (p, turned) in held.items()}
    return Found({"total": loss.item()}, grads)


def unit(params):
    """Decoder rows at the norm that overcomplete's division by norm + 1e-8 leaves alone, and no b_dec."""
    norms = np.linalg.norm(params["W_dec"], axis=1, keepdims=True)
    bias = {"b_dec": np.zeros(D_IN)} if "b_dec" in params else {}
    return params | {"W_dec": params["W_dec"] / norms * (1 - 1e-8)} | bias


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("p", [1.0, 2.0, 0.5, 1.7])
def test_saelens_standard(p, subtract):
    own = {"lp_norm": p, "l1_coefficient": 0.4, "apply_b_dec_to_input": subtract}
    options = {"l1": 0.4, "p": p, "l1_weight": "decoder_norm", "decoder": "free", "subtract_b_dec": subtract}
    cfg, params, x = drawn("relu", options)
    theirs, sae = saelens("Standard", own, params, x, {"l1": 0.4})
    assert_same(ours("relu", cfg, params, x), theirs, EXACT)
    assert VARIANTS["relu"].from_saelens(sae.cfg.to_dict()) == {"l1": 0.4, "p": p, "l1_weight": "decoder_norm"}


def test_saelens_gated():
    options = {"l1": 0.4, "l1_weight": "decoder_norm", "aux_decoder": "trained", "decoder": "free"}
    cfg, params, x = drawn("gated", options)
    theirs, sae = saelens("Gated", {"l1_coefficient": 0.4}, params, x, {"l1": 0.4})
    assert_same(ours("gated", cfg, params, x), theirs, EXACT)
    fresh = type(sae)(sae.cfg)
    assert not any(getattr(fresh, key).detach().any() for key in ("r_mag", "b_mag", "b_gate", "b_dec"))


@pytest.mark.parametrize("mode", ["step", "tanh", "quadratic"])
def test_saelens_jumprelu_sets_thresholds_below_zero_to_zero(mode):
    """In place, before the forward pass: ``before_step`` does so, and what is saved is 0."""
    own = {
        "jumprelu_sparsity_loss_mode": mode, "l0_coefficient": 0.3, "target_l0": 4.0, "jumprelu_bandwidth": 0.8,
        "pre_act_loss_coefficient": 0.2,
    }  # fmt: skip
    options = {"bandwidth": 0.8, "pre_act": 0.2, "pre_act_reach": "dead", "below_zero": "clamp", "decoder": "free"}
    penalty = {"step": "l0", "quadratic": "target_l0"}.get(mode, mode)
    scale = 2 * 4.0 if mode == "quadratic" else 1
    cfg, params, x = drawn("jumprelu", options | {"penalty": penalty, "target": 4.0, "l1": 0.3 * scale})
    dead = np.arange(D_SAE) % 3 == 0
    assert (params["threshold"] < 0).any()
    theirs, sae = saelens("JumpReLU", own, params, x, {"l0": 0.3}, dead)
    jumprelu.before_step(params, cfg)
    np.testing.assert_array_equal(params["threshold"], sae.threshold.detach().numpy())
    assert (params["threshold"] == 0).any()
    assert_same(ours("jumprelu", cfg, params, x, dead), theirs, EXACT)


DL = {
    "standard": (
        "relu", ("standard", "StandardTrainer"), {"l1_penalty": 0.3}, {"l1": 0.3}, EXACT,
    ),
    "april": (
        "relu", ("standard", "StandardTrainerAprilUpdate"), {"l1_penalty": 0.3},
        {"l1": 0.3, "l1_weight": "decoder_norm", "decoder": "free"}, EXACT,
    ),
    "gated": (
        "gated", ("gdm", "GatedSAETrainer"), {"l1_penalty": 0.3}, {"l1": 0.3}, EXACT,
    ),
    "jumprelu": (
        "jumprelu", ("jumprelu", "JumpReluTrainer"), {"sparsity_penalty": 0.7, "target_l0": 3.0, "bandwidth": 0.5},
        {
            "l1": 0.7, "penalty": "target_l0", "target": 3.0, "target_of": "batch", "bandwidth": 0.5,
            "step_sees": "code", "below_zero": "keep", "subtract_b_dec": False,
        }, CAST,
    ),
    "p_anneal, Lp^p": (
        "p_anneal", ("p_anneal", "PAnnealTrainer"),
        {"sparsity_function": "Lp^p", "initial_sparsity_penalty": 0.3, "p_start": 0.5, "anneal_start": 5},
        {"l1": 0.3, "p_start": 0.5}, EXACT,
    ),
    "p_anneal, Lp": (
        "p_anneal", ("p_anneal", "PAnnealTrainer"),
        {"sparsity_function": "Lp", "initial_sparsity_penalty": 0.3, "p_start": 0.7, "anneal_start": 5},
        {"l1": 0.3, "p_start": 0.7, "p_root": True}, EXACT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DL)
def test_dictionary_learning(name):
    variant, place, own, options, tolerance = DL[name]
    cfg, params, x = drawn(variant, options)
    if variant == "p_anneal":
        params["l1_scale"][...] = 1
    if variant == "jumprelu":
        assert (params["threshold"] < 0).any()
        assert (params["threshold"] > 0).any()
    assert_same(ours(variant, cfg, params, x), dictionary_learning(place, own, params, x), tolerance)


def test_every_reading_of_dictionary_learnings_jumprelu_but_one_is_another():
    """So that the case above tells them apart: the step on pre-activations, thresholds below 0 that count as 0."""
    _, place, own, options, _ = DL["jumprelu"]
    cfg, params, x = drawn("jumprelu", options)
    expected = dictionary_learning(place, own, params, x).grads["threshold"]
    for other in ({"step_sees": "pre"}, {"below_zero": "zero"}, {"target_of": "rows"}, {"subtract_b_dec": True}):
        grad = ours("jumprelu", cfg._replace(**other), params, x).grads["threshold"]
        assert np.abs(grad - expected).max() > 1e-2, other


def test_dictionary_learnings_jumprelu_has_no_negative_codes_at_inference():
    """Only in training: what ships passes a ReLU, there as here."""
    library = pytest.importorskip("dictionary_learning.dictionary", reason="dictionary-learning is missing")
    cfg, params, x = drawn("jumprelu", DL["jumprelu"][3])
    model = library.JumpReluAutoEncoder(D_IN, D_SAE).double()
    for key, p in params.items():
        getattr(model, key).data = tensor(p)
    np.testing.assert_allclose(jumprelu.encode(params, x, cfg), model.encode(tensor(x)).detach().numpy(), atol=EXACT)
    assert (dense(jumprelu.forward(params, x, cfg)[0].f) < 0).any()


@pytest.mark.parametrize(("function", "root"), [("Lp", True), ("Lp^p", False)])
@pytest.mark.parametrize("queue", [3, 9])
def test_dictionary_learning_anneals_p_and_its_coefficient(function, root, queue):
    """Exponent, coefficient and loss of 24 steps, and of queues shorter and longer than the time between changes."""
    own = {
        "sparsity_function": function, "initial_sparsity_penalty": 0.3, "p_end": 0.4, "anneal_start": 4,
        "anneal_end": 20, "n_sparsity_updates": 4, "sparsity_queue_length": queue,
    }  # fmt: skip
    options = {
        "l1": 0.3, "p_end": 0.4, "p_root": root, "anneal_start": 4, "anneal_end": 20, "p_count": 4, "queue": queue
    }  # fmt: skip
    cfg, params, _ = drawn("p_anneal", options)
    params |= {"l1_scale": np.ones(D_SAE), "recent": np.zeros(queue), "recent_next": np.zeros(queue)}
    trainer = trainer_of(("p_anneal", "PAnnealTrainer"), own)
    fill(trainer.ae, params)
    rng, seen = np.random.default_rng(3), set()
    for step in range(24):
        x = (1 + step % 5) * rng.standard_normal((N, D_IN))
        now = p_anneal.at_step(cfg, step=step, steps=24, seed=0)
        np.testing.assert_allclose(p_anneal.exponent(now, step), trainer.p, rtol=CAST)
        np.testing.assert_allclose(cfg.l1 * params["l1_scale"][0], trainer.sparsity_coeff, rtol=CASTS)
        seen.add(round(trainer.sparsity_coeff, 6))
        loss = trainer.loss(tensor(x), step=step).item()
        np.testing.assert_allclose(ours("p_anneal", now, params, x).terms["total"], loss, rtol=CASTS)
        p_anneal.after_step(params, p_anneal.forward(params, x, now)[0], now, step=step)
    assert len(seen) == 4


def test_openai():
    options = {"l1": 0.3, "relative": True}
    cfg, params, x = drawn("relu", options)
    p, y = {key: tensor(a).requires_grad_() for key, a in params.items()}, tensor(x)
    f = torch().relu((y - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    miss = f @ p["W_dec"] + p["b_dec"] - y
    per_row = miss.square().mean(1) / y.square().mean(1) + 0.3 * f.abs().sum(1) / y.square().sum(1).sqrt()
    per_row.mean().backward()
    theirs = Found({"total": per_row.mean().item()}, {key: a.grad.numpy() for key, a in p.items()})
    assert_same(ours("relu", cfg, params, x), theirs, EXACT)


def mse_l1(losses, x, x_hat, pre, f, D, model):
    return losses.mse_l1(x, x_hat, pre, f, D, penalty=0.05)


SUMMED = {"l1": 0.05, "reduction": "mean", "penalty_reduction": "sum"}


def test_overcomplete_relu():
    cfg, params, x = drawn("relu", SUMMED | {"subtract_b_dec": False})
    params = unit(params)
    assert_same(ours("relu", cfg, params, x), overcomplete("SAE", {}, params, x, mse_l1), EXACT)


def test_overcomplete_tied():
    """Its rows are divided by norm + 1e-8, ours by the norm."""
    cfg, params, x = drawn("tied", SUMMED | {"norm_slope": False})
    params = unit(params)
    assert_same(ours("tied", cfg, params, x), overcomplete("SAE", {}, params, x, mse_l1, tied=True), CAST)
    through = ours("tied", cfg._replace(norm_slope=True), params, x).grads["W_dec"]
    assert np.abs(through - ours("tied", cfg, params, x).grads["W_dec"]).max() > 1e-2


@pytest.mark.parametrize(
    "kernel", ["rectangle", "triangular", "epanechnikov", "quartic", "cosine", "gaussian", "cauchy", "silverman"]
)
@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_overcomplete_jumprelu(kernel, penalty):
    """With its L1, and with its Heaviside step on the rectified pre-activations; kernels cast to float32 there."""

    def heaviside(losses, x, x_hat, pre, f, D, model):
        library = importlib.import_module("overcomplete.sae")
        gate = library.heaviside(torch().relu(pre), model.thresholds.exp(), model.kernel_fn, model.bandwidth)
        return (x - x_hat).square().mean() + 0.7 * gate.sum(1).mean()

    own = {"l1": SUMMED, "l0": {"l1": 0.7, "reduction": "mean"}}[penalty]
    options = {
        "penalty": penalty, "kernel": kernel, "bandwidth": 0.5, "kernel_scale": "overcomplete", "threshold_as": "log",
        "step_sees": "positive_part", "at_threshold": "on", "subtract_b_dec": False, "first_threshold": np.exp(-1.4),
    }  # fmt: skip
    cfg, params, x = drawn("jumprelu", own | options)
    params = unit(params)
    criterion = {"l1": mse_l1, "l0": heaviside}[penalty]
    theirs = overcomplete("JumpSAE", {"kernel": kernel, "bandwidth": 0.5}, params, x, criterion)
    mine = ours("jumprelu", cfg, params, x)
    assert_same(mine, theirs, CAST)
    if kernel in ("rectangle", "triangular", "epanechnikov", "quartic") and penalty == "l1":
        assert_same(mine, theirs, EXACT)
    if kernel != "cosine":
        unscaled = ours("jumprelu", cfg._replace(kernel_scale="unit"), params, x).grads["threshold"]
        ratio = theirs.grads["threshold"] / np.where(unscaled == 0, np.nan, unscaled)
        factor = {"gaussian": 1.0, "silverman": 4.0}.get(kernel, 2.0)  # integral ½, 2 or 1, over a bandwidth of ½
        np.testing.assert_allclose(ratio[np.isfinite(ratio)], factor, rtol=1e-4)


def test_overcomplete_is_active_at_the_threshold():
    """An entry that equals it: ½ there is 1[pre ≥ θ], in the paper 1[pre > θ]."""
    pytest.importorskip("einops", reason="overcomplete is not installed (extra peers)")
    without_pictures("overcomplete")
    library = pytest.importorskip("overcomplete.sae", reason="overcomplete is not installed (extra peers)")
    kernels = importlib.import_module("overcomplete.sae.kernels")
    pre = np.array([[0.5, 0.25, 0.75]])
    theta = tensor(np.full(3, 0.5))
    theirs = library.jump_relu(tensor(pre), theta, kernels.rectangle_kernel, 0.5).numpy()
    params = {"W_enc": np.eye(3), "b_enc": np.zeros(3), "W_dec": np.eye(3), "b_dec": np.zeros(3)}
    params["threshold"] = np.full(3, 0.5)
    cfg = jumprelu.Config(3, 3, subtract_b_dec=False)
    np.testing.assert_array_equal(jumprelu.encode(params, pre, cfg._replace(at_threshold="on")), theirs)
    np.testing.assert_array_equal(theirs, [[0.5, 0, 0.75]])
    np.testing.assert_array_equal(jumprelu.encode(params, pre, cfg), [[0, 0, 0.75]])
