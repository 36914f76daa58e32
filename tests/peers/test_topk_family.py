"""One batch of each TopK autoencoder beside the real libraries: loss terms and the gradient of every parameter.

    pytest -m peers tests/peers/test_topk_family.py

In float64, to 1e-12; where a library casts to float32 inside, to 1e-7. Without the libraries the tests are skipped.
"""

import importlib
import importlib.util

import numpy as np
import pytest

from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import VARIANTS
from minisae.sae.ranking import folded
from tests.helpers import perturbed
from tests.peers import drivers

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
N, D_IN, D_SAE = 11, 5, 21
EXACT, CAST = 1e-12, 1e-7
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


class Ours:
    """A variant at random parameters, some latents rarely positive, beside rows and a mask of dead latents."""

    def __init__(self, name, seed=0, **options):
        self.variant, rng = VARIANTS[name], np.random.default_rng(seed)
        self.cfg = self.variant.Config(D_IN, D_SAE, **options)
        self.variant.check_config(self.cfg)
        self.params = perturbed(self.variant, self.cfg, rng)
        self.params["b_enc"] -= 0.4 * np.arange(D_SAE) / D_SAE
        if "threshold" in self.params:
            self.params["threshold"][...] = -1
        self.x = rng.standard_normal((N, D_IN)) + 0.3
        self.dead = np.arange(D_SAE) % 4 == 1

    def without_b_dec(self):
        self.params["b_dec"][...] = 0
        return self

    def exact(self):
        """Few digits in what the encoder multiplies: equal pre-activations are so to the bit, in any order of sums."""
        for a in (self.params["W_enc"], self.params["b_enc"], self.x):
            a[...] = np.rint(8 * a) / 8

    def unit(self):
        self.params["W_dec"] /= np.linalg.norm(self.params["W_dec"], axis=1, keepdims=True)
        return self

    def with_batch(self):
        """Those that fire in this batch are not dead."""
        out = self.variant.forward(self.params, self.x, self.cfg)[0]
        self.dead = self.dead & ~self.variant.fired_latents(out, self.cfg)
        assert self.dead.any()
        return self

    def step(self):
        """Terms, gradients and outputs; state moves."""
        out, cache = self.variant.forward(self.params, self.x, self.cfg, dead=self.dead)
        terms = self.variant.objective(self.params, out, self.x, self.cfg, dead=self.dead)
        grads = self.variant.backward(self.params, cache, self.cfg, gather(terms)[1])
        if hasattr(self.variant, "after_step"):
            self.variant.after_step(self.params, out, self.cfg, step=0)
        return {name: term.value for name, term in terms.items()}, grads, out

    def compare(self, values, theirs, *, tolerance=EXACT, skip=()):
        """Compare with the library's terms and, by our names, its parameters after backward."""
        terms, grads, out = self.step()
        assert terms.keys() == values.keys()
        for name, value in values.items():
            assert value > 0, name
            np.testing.assert_allclose(terms[name], value, rtol=tolerance, err_msg=name)
        for name in set(NAMES) - set(skip):
            parameter, turn = theirs[name]
            grad = parameter.grad.numpy()
            np.testing.assert_allclose(grads[name], grad.T if turn else grad, atol=tolerance, rtol=1e-9, err_msg=name)
        return out


def tensor(a):
    return importlib.import_module("torch").from_numpy(np.ascontiguousarray(a))


def put(theirs, params):
    """Set the library's parameters; what lies transposed is marked."""
    for name, (p, turn) in theirs.items():
        p.data = tensor(params[name].T if turn else params[name]).clone()


SAELENS = {"decoder": "free", "auxk": 0.7, "auxk_relu": False, "auxk_few": "proportional"}


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("kind", ["TopK", "BatchTopK", "AbsTopK"])
def test_saelens(kind, rescale):
    """Also the code, times the decoder norm where that is rescaled, and the autoencoder that SAELens would save."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    module = importlib.import_module(f"sae_lens.saes.{kind.lower()}_sae")
    from sae_lens.saes.sae import TrainStepInput

    name = {"TopK": "topk", "BatchTopK": "batch_topk", "AbsTopK": "abs_topk"}[kind]
    own = {"k_rounding": "down", "threshold_rule": "from_zero"} if kind == "BatchTopK" else {}
    fields = VARIANTS[name].Config._fields
    options = {key: value for key, value in SAELENS.items() if key in fields}
    for seed in range(3):
        k = 2.6 if kind == "BatchTopK" else 3
        ours = Ours(name, seed, k=k, select_by="contribution" if rescale else "pre", **options, **own)
        config = getattr(module, f"{kind}TrainingSAEConfig")
        theirs = getattr(module, f"{kind}TrainingSAE")(
            config(
                d_in=D_IN, d_sae=D_SAE, k=k, aux_loss_coefficient=0.7, dtype="float64", device="cpu",
                rescale_acts_by_decoder_norm=rescale,
            )
        )  # fmt: skip
        parameters = {key: (getattr(theirs, key), False) for key in NAMES}
        put(parameters, ours.params)
        result = theirs.training_forward_pass(
            TrainStepInput(
                sae_in=tensor(ours.x), coefficients={}, dead_neuron_mask=tensor(ours.dead), n_training_steps=0,
                is_logging_step=False,
            )
        )  # fmt: skip
        result.loss.backward()
        losses = result.losses
        values = {"mse": losses["mse_loss"].item(), "auxk": losses["auxiliary_reconstruction_loss"].item()}
        out = ours.compare(values, parameters)
        norms = np.linalg.norm(ours.params["W_dec"], axis=1) if rescale else 1
        code = result.feature_acts.detach().numpy()
        np.testing.assert_allclose(dense(out.f) * norms, code, atol=1e-12)
        if kind == "BatchTopK":
            np.testing.assert_allclose(ours.params["threshold"], theirs.topk_threshold.item(), rtol=1e-12)
        else:
            saved, cfg = folded(ours.params, ours.cfg)
            np.testing.assert_allclose(dense(ours.variant.encode(saved, ours.x, cfg)), code, atol=1e-12)
            np.testing.assert_allclose(ours.variant.decode(saved, code), out.x_hat, atol=1e-12)
    assert sae_lens


@pytest.mark.parametrize("kind", ["TopK", "BatchTopK"])
def test_dictionary_learning(kind):
    """With the batch itself counted in who is dead; the threshold of BatchTopK."""
    pytest.importorskip("dictionary_learning", reason="dictionary_learning is not installed (extra peers)")
    torch = importlib.import_module("torch")
    module = importlib.import_module(f"dictionary_learning.trainers.{'top_k' if kind == 'TopK' else 'batch_top_k'}")
    name, own = ("topk", {"relu": "before"}) if kind == "TopK" else ("batch_topk", {"threshold_rule": "from_first"})
    ours = Ours(name, k=3, auxk_normaliser="residual_variance", **own).unit()
    ours.params["b_enc"][1::4] -= 1.2
    trainer = getattr(module, f"{kind}Trainer")(
        steps=9, activation_dim=D_IN, dict_size=D_SAE, k=3, layer=0, lm_name="none", device="cpu",
        warmup_steps=1, threshold_start_step=-1,
    )  # fmt: skip
    trainer.ae.double()
    trainer.dead_feature_threshold = 100
    trainer.num_tokens_since_fired[...] = 1000 * tensor(ours.dead)
    ae = trainer.ae
    parameters = {
        "W_enc": (ae.encoder.weight, True), "b_enc": (ae.encoder.bias, False), "W_dec": (ae.decoder.weight, True),
        "b_dec": (ae.b_dec, False),
    }  # fmt: skip
    put(parameters, ours.params)
    log = trainer.loss(tensor(ours.x), step=0, logging=True)
    trainer.num_tokens_since_fired[...] = 1000 * tensor(ours.dead)
    trainer.loss(tensor(ours.x), step=0).backward()
    ours.with_batch()
    values = {"mse": log.losses["l2_loss"], "auxk": log.losses["auxk_loss"] / 32}
    out = ours.compare(values, parameters, tolerance=CAST)
    np.testing.assert_allclose(dense(out.f), log.f.detach().numpy(), atol=1e-12)
    if kind == "BatchTopK":
        np.testing.assert_allclose(ours.params["threshold"], float(ae.threshold), rtol=CAST)
    assert torch


SPARSIFY = {
    "relu": "before", "selected_zero": "passes", "mse_normaliser": "input_variance", "auxk": 0.3,
    "auxk_normaliser": "input_variance", "auxk_reach": "decoder", "auxk_few": "proportional",
}  # fmt: skip


@pytest.mark.parametrize("name", ["topk", "multi_topk", "group_max"])
@pytest.mark.parametrize("k", [3, 7])
def test_sparsify(name, k, monkeypatch):
    """With ties of torch's ``topk`` to the lowest index, for zeros are selected and get gradient."""
    pytest.importorskip("sparsify", reason="sparsify is not installed (extra peers)")
    torch = importlib.import_module("torch")
    from sparsify import SparseCoder, SparseCoderConfig

    def topk(a, k, dim=-1, sorted=True):
        values, indices = a.sort(dim=dim, descending=True, stable=True)
        return values[..., :k], indices[..., :k]

    monkeypatch.setattr(torch, "topk", topk)
    k = 5 if name == "multi_topk" and k == 7 else k
    own = {"multi_reach": "decoder"} if name == "multi_topk" else {}
    ours = Ours(name, k=k, **SPARSIFY, **own)
    ours.params["b_enc"][::3] -= 2
    activation = "groupmax" if name == "group_max" else "topk"
    cfg = SparseCoderConfig(num_latents=D_SAE, k=k, activation=activation, multi_topk=name == "multi_topk")
    coder = SparseCoder(D_IN, cfg, dtype=torch.float64)
    parameters = {
        "W_enc": (coder.encoder.weight, True), "b_enc": (coder.encoder.bias, False), "W_dec": (coder.W_dec, False),
        "b_dec": (coder.b_dec, False),
    }  # fmt: skip
    put(parameters, ours.params)
    result = coder(tensor(ours.x), dead_mask=tensor(ours.dead))
    (result.fvu + 0.3 * result.auxk_loss + result.multi_topk_fvu / 8).backward()
    values = {"mse": result.fvu.item(), "auxk": 0.3 * result.auxk_loss.item()}
    if name == "multi_topk":
        values["multi"] = result.multi_topk_fvu.item() / 8
    out = ours.compare(values, parameters)
    zeros = np.count_nonzero(dense(out.f), axis=1) < k
    assert zeros.any(), "some rows select zeros"
    if name != "multi_topk":
        np.testing.assert_array_equal(
            ours.variant.fired_latents(out, ours.cfg), np.isin(np.arange(D_SAE), result.latent_indices.numpy())
        )


OVERCOMPLETE = {
    "subtract_b_dec": False, "reduction": "mean", "auxk": 0.1, "auxk_over": "unchosen", "auxk_reach": "everything",
    "k_aux": D_SAE // 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["TopKSAE", "BatchTopKSAE"])
def test_overcomplete(kind):
    """There is no b_dec. BatchTopK also over several batches, with equal rows, and at inference."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("overcomplete") is None:
        pytest.skip("overcomplete is not installed (extra peers)")
    drivers.without_pictures("overcomplete")
    torch = importlib.import_module("torch")
    from overcomplete.sae import losses
    from overcomplete.sae.modules import MLPEncoder

    own = {"relu": "before", "k": 3}
    if kind == "BatchTopKSAE":
        own = {
            "k": 17, "k_per": "batch", "ties": "all", "threshold_of": "kth", "threshold_rule": "from_first",
            "threshold_decay": 0.9,
        }  # fmt: skip
    name = "topk" if kind == "TopKSAE" else "batch_topk"
    ours = Ours(name, **OVERCOMPLETE, **own).without_b_dec().unit()
    if kind == "BatchTopKSAE":
        ours.exact()
    encoder = MLPEncoder(D_IN, D_SAE, norm_layer=lambda width: torch.nn.Identity())
    module = importlib.import_module(f"overcomplete.sae.{kind.lower().removesuffix('sae')}_sae")
    model = getattr(module, kind)(D_IN, D_SAE, top_k=own["k"], encoder_module=encoder).double().train()
    last = model.encoder.final_block[0]
    parameters = {
        "W_enc": (last.weight, True),
        "b_enc": (last.bias, False),
        "W_dec": (model.dictionary._weights, False),
    }
    put(parameters, ours.params)
    for number in range(3):
        if number == 1:
            ours.x[1::2] = ours.x[:-1:2]
        elif number == 2:
            ours.x = ours.x[:3]
        model.zero_grad()
        pre, code, x_hat = model(tensor(ours.x))
        mse = (tensor(ours.x) - x_hat).square().mean().item()
        # The dictionary is fetched as it stands, for a second fetch normalises it again, with ε = 1e-8.
        total = losses.top_k_auxiliary_loss(tensor(ours.x), x_hat, pre, code, model.dictionary._weights, penalty=0.1)
        total.backward()
        out = ours.compare({"mse": mse, "auxk": total.item() - mse}, parameters, tolerance=1e-7, skip={"b_dec"})
        np.testing.assert_array_equal(dense(out.f) != 0, code.detach().numpy() != 0)
        if kind == "BatchTopKSAE":
            np.testing.assert_allclose(ours.params["threshold"], model.running_threshold.item(), rtol=1e-7)
    if kind == "BatchTopKSAE":
        model.eval()
        expected = model.encode(tensor(ours.x))[1].detach().numpy()
        np.testing.assert_allclose(
            dense(ours.variant.encode(ours.params, ours.x, ours.cfg)), expected, rtol=1e-7, atol=1e-12
        )


def test_openai():
    """OpenAI's trainer needs Triton kernels; here its formulas, by torch's differentiation."""
    torch = pytest.importorskip("torch")
    ours = Ours(
        "topk", k=3, k_aux=4, reduction="mean", mse_weight=1.7, auxk_bias=True, auxk_normaliser="residual_variance"
    ).with_batch()
    parameters = {name: (tensor(ours.params[name]).requires_grad_(), False) for name in NAMES}
    W_enc, b_enc, W_dec, b_dec = (parameters[name][0] for name in NAMES)
    x, dead = tensor(ours.x), tensor(ours.dead)
    pre = (x - b_dec) @ W_enc + b_enc

    def decoded(latents, k):
        values, indices = latents.topk(k, dim=-1)
        return torch.zeros_like(latents).scatter(-1, indices, values.relu()) @ W_dec + b_dec

    recons = decoded(pre, 3)
    target = x - recons.detach() + b_dec.detach()
    mse = 1.7 * (recons - x).square().mean()
    aux = (decoded(pre * dead, 4) - target).square().mean() / (target.mean(dim=0) - target).square().mean() / 32
    (mse + aux).backward()
    ours.compare({"mse": mse.item(), "auxk": aux.item()}, parameters)
