"""Entries of the ledger that say they were run: the library itself, on the entry's case, gives the entry's number."""

import importlib
import json
from importlib import metadata

import numpy as np
import pytest

from minisae import ledger
from tests.peers.drivers import without_pictures

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch", reason="torch is not installed (extra peers)")
RUN = {(entry.library, entry.name): entry for entry in ledger.LEDGER if entry.checked == "run"}


def tensor(a, *, grad=False):
    return torch.tensor(a, dtype=torch.float64, requires_grad=grad)


def put(model, **arrays):
    """Overwrite parameters, by name with dots as underscores."""
    held = {name.replace(".", "_"): p for name, p in [*model.named_parameters(), *model.named_buffers()]}
    for name, value in arrays.items():
        held[name].data.copy_(tensor(value).to(held[name].dtype))
    return model


def overcomplete(module):
    pytest.importorskip("einops", reason="overcomplete is not installed (extra peers)")
    without_pictures("overcomplete")
    return pytest.importorskip(f"overcomplete.{module}", reason="overcomplete is not installed (extra peers)")


def dl(module):
    return pytest.importorskip(f"dictionary_learning.{module}", reason="dictionary-learning is not installed")


def saelens():
    return pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")


# ---- overcomplete ----


def oc_grows():
    losses = overcomplete("sae.losses")
    x, f = torch.zeros(3, 2), torch.ones(3, 4)
    return tuple(
        losses.mse_l1(x.repeat(n, 1), x.repeat(n, 1), None, f.repeat(n, 1), None, penalty=0.1).item()
        for n in (1, 2, 10)
    )


def oc_model(kind, d_in, d_sae, W_enc, W_dec, b_enc, **own):
    model = getattr(overcomplete("sae"), kind)(d_in, d_sae, device="cpu", **own).double()
    encoder = model.encoder.final_block[0]
    encoder.weight.data, encoder.bias.data = tensor(W_enc), tensor(b_enc)
    model.dictionary._weights.data = tensor(W_dec)
    return model


def oc_untangential():
    model = oc_model("SAE", 2, 1, [[1, 0]], [[1, 0]], [0])
    _, _, x_hat = model(tensor([[2, 1]]))
    (x_hat - tensor([[3, 1]])).square().sum().backward()
    return tuple(model.dictionary._weights.grad[0].tolist())


def oc_jump(pre, theta, bandwidth):
    p, t = tensor([[pre]], grad=True), tensor([theta], grad=True)
    f = overcomplete("sae").jump_relu(p, t, overcomplete("sae.kernels").rectangle_kernel, bandwidth)
    f.sum().backward()
    return f.item(), t.grad.item()


def oc_areas():
    kernels, n = overcomplete("sae.kernels"), 200_000
    s = (np.arange(n) + 0.5) / n * np.pi - np.pi / 2
    z = tensor(np.tan(s) / 2)  # pre − θ, with ε = ½
    names = ("rectangle", "triangular", "epanechnikov", "quartic", "cosine", "gaussian", "cauchy", "silverman")
    stretch = tensor(1 / np.cos(s) ** 2 / 2 * np.pi / n)
    # the backward pass multiplies by a kernel and divides by the bandwidth
    return tuple((getattr(kernels, f"{name}_kernel")(z, 0.5).double() * stretch).sum().item() / 0.5 for name in names)


def oc_far_below():
    model = oc_model("JumpSAE", 1, 1, [[1]], [[1]], [0], kernel="rectangle", bandwidth=0.5)
    model.thresholds.data = tensor([np.log(0.1)])
    model.encode(tensor([[-5]]))[1].sum().backward()
    return model.thresholds.grad.item() / 0.1


def oc_aux(k):
    model = oc_model("TopKSAE", 2, 2, np.eye(2), np.eye(2), [-0.5, -0.5], top_k=k)
    losses, x = overcomplete("sae.losses"), tensor([[2, 1]])
    pre, f, x_hat = model(x)
    error = (x - x_hat).square().mean()
    loss = losses.top_k_auxiliary_loss(x, x_hat, pre, f, model.get_dictionary()) - error
    loss.backward()
    return loss.item(), model.encoder.final_block[0].bias.grad[0].item()


def oc_batch(rows=4, top_k=2):
    model = oc_model("BatchTopKSAE", 1, 8, [[1]] * 8, [[1]] * 8, np.arange(8) / 8, top_k=top_k).train()
    return model, model.encode(tensor(np.arange(1, rows + 1)[:, None]))[1]


def oc_ties():
    model = oc_model("BatchTopKSAE", 1, 2, [[1], [1]], [[1], [1]], [0, 0], top_k=1).train()
    return float((model.encode(tensor([[1.0]]))[1] > 0).sum())


def oc_lost():
    model, _ = oc_batch()
    fresh = oc_model("BatchTopKSAE", 1, 8, [[1]] * 8, [[1]] * 8, [0] * 8, top_k=2)
    fresh.load_state_dict(model.state_dict())
    assert model.eval().encode(tensor([[1.0]])) is not None
    with pytest.raises(AssertionError):
        fresh.eval().encode(tensor([[1.0]]))
    return 0.0


def oc_r2():
    x = tensor([[10, 1], [10, -1]])
    return overcomplete("metrics").r2_score(x, x.mean(0).expand(2, 2)).item()


# ---- dictionary_learning ----

COMMON = {"steps": 100, "warmup_steps": 10, "layer": 0, "lm_name": "none", "device": "cpu"}


def dl_trainer(module, name, d_in, d_sae, **own):
    return getattr(dl(f"trainers.{module}"), name)(activation_dim=d_in, dict_size=d_sae, **COMMON | own)


def dl_step(pre, theta, bandwidth):
    module, t = dl("trainers.jumprelu"), tensor([theta], grad=True)
    f = module.JumpReLUFunction.apply(tensor([[pre]]), t.detach(), bandwidth)
    module.StepFunction.apply(f, t, bandwidth).sum().backward()
    return f.item(), t.grad.item()


def dl_norm_twice():
    cls = dl("dictionary").AutoEncoderNew
    own = {"dict_class": cls, "l1_penalty": 1.0, "sparsity_warmup_steps": None, "warmup_steps": 0}
    trainer = dl_trainer("standard", "StandardTrainerAprilUpdate", 1, 1, **own)
    put(trainer.ae, encoder_weight=[[1]], encoder_bias=[0], decoder_weight=[[2]], decoder_bias=[0])
    return trainer.loss(torch.tensor([[3.0]]), step=1).item() - 9  # x̂ = 6: an error of 9


def dl_p_anneal(**own):
    return dl_trainer("p_anneal", "PAnnealTrainer", 4, 8, warmup_steps=1, sparsity_warmup_steps=1, **own)


def dl_zero_division():
    trainer = dl_p_anneal(anneal_start=10)
    torch.manual_seed(0)
    for step in range(100):
        try:
            trainer.update(step, torch.randn(16, 4))
        except ZeroDivisionError:
            return float(step)
    return 100.0


def dl_lp(function, f, p):
    return dl_p_anneal(sparsity_function=function, anneal_start=10).lp_norm(tensor([f]), p).item()


def dl_topk(d_in, d_sae, k, W_enc, b_enc, W_dec):
    trainer = dl_trainer("top_k", "TopKTrainer", d_in, d_sae, k=k)
    put(trainer.ae.double(), encoder_weight=W_enc, encoder_bias=b_enc, decoder_weight=W_dec)
    return trainer


def dl_fired():
    trainer = dl_topk(1, 2, 2, [[1], [-1]], [0, 0], [[1, 1]])
    trainer.loss(tensor([[2]]), step=1)
    return float((trainer.num_tokens_since_fired == 0).sum())


def dl_aux_share():
    found = []
    for scale in (1, 10):
        trainer = dl_topk(2, 2, 1, np.eye(2), [-0.5 * scale] * 2, np.eye(2))
        trainer.num_tokens_since_fired[1] = trainer.dead_feature_threshold
        x = scale * tensor([[2, 1], [1, 0]])
        losses = trainer.loss(x, step=1, logging=True).losses
        found.append(float(losses["auxk_loss"]) / losses["l2_loss"])
    return tuple(found)


def dl_nested():
    trainer = dl_trainer("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", 1, 3, k=1, group_fractions=[1 / 3] * 3)
    put(trainer.ae.double(), W_enc=[[1, 1, 1]], b_enc=[0] * 3, W_dec=[[0]] * 3, b_dec=[0])
    return trainer.loss(tensor([[3]]), step=1).item()


def dl_infinite():
    trainer = dl_topk(1, 2, 2, [[1], [1]], [0, 0], [[1, 1]])
    trainer.ae.threshold = torch.tensor(0.5)
    trainer.update_threshold(tensor([[1, 2], [0, 0]]))
    return trainer.ae.threshold.item()


def dl_rate():
    return float(dl_trainer("standard", "StandardTrainer", 2, 2, sparsity_warmup_steps=10).scheduler.get_last_lr()[0])


def dl_lifted():
    trainer = dl_trainer("standard", "StandardTrainer", 2, 3, sparsity_warmup_steps=10)
    before = trainer.ae.decoder.weight.norm(dim=0).mean().item()
    encoder = trainer.ae.encoder.weight.detach().clone()
    trainer.update(0, torch.ones(5, 2))
    assert torch.equal(trainer.ae.encoder.weight, encoder)
    return trainer.ae.decoder.weight.norm(dim=0).mean().item() / before


def dl_logging():
    trainer = dl_topk(1, 2, 1, [[1], [-1]], [0, 0], [[1, 1]])
    x = tensor(np.ones((8, 1)))
    dl("training").log_stats([trainer], 1, x, False, False)
    trainer.loss(x, step=1)
    return float(trainer.num_tokens_since_fired[1])


def dl_median():
    return dl("trainers.top_k").geometric_median(tensor([[-1], [0], [1]])).item()


def dl_resampled(module, name, **own):
    trainer = dl_trainer(module, name, 2, 2, resample_steps=10, warmup_steps=1, sparsity_warmup_steps=1, **own)
    trainer.update(0, torch.ones(3, 2))
    put(trainer.ae, encoder_weight=np.eye(2), encoder_bias=[-1, -1], decoder_weight=np.eye(2))
    trainer.resample_neurons(torch.tensor([False, True]), torch.tensor([[3.0, 4.0]]))
    return trainer.ae.encoder.weight.detach().numpy()


def dl_bias():
    trainer, seen = dl_topk(1, 1, 1, [[1]], [1], [[1]]), []
    queue = type("Queue", (), {"put": lambda self, log: seen.append(log)})()
    dl("training").log_stats([trainer], 1, tensor([[0], [1], [5]]), False, False, log_queues=[queue])  # x̂ = x + 1
    return seen[0]["frac_variance_explained"]


# ---- SAELens ----


def sl_training(kind, d_in, d_sae, **own):
    library = saelens()
    config = getattr(library, f"{kind}TrainingSAEConfig")(d_in=d_in, d_sae=d_sae, dtype="float64", device="cpu", **own)
    return getattr(library, f"{kind}TrainingSAE")(config)


def sl_step(sae, x, coefficients, dead=None):
    from sae_lens.saes.sae import TrainStepInput

    given = {"n_training_steps": 0, "is_logging_step": False, "dead_neuron_mask": dead}
    return sae.training_forward_pass(TrainStepInput(sae_in=tensor(x), coefficients=coefficients, **given))


def sl_norm():
    sae = put(sl_training("Standard", 2, 2, lp_norm=0.5), W_enc=np.eye(2), W_dec=np.eye(2))
    return sl_step(sae, [[4, 9]], {"l1": 1.0}).losses["l1_loss"].item()


def sl_gate():
    sae = put(sl_training("Gated", 1, 1), W_enc=[[1]], W_dec=[[1]], b_gate=[-1], b_mag=[0], r_mag=[0])
    sl_step(sae, [[3]], {"l1": 0.0}).loss.backward()
    return sae.W_dec.grad.item()


def sl_target():
    own = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 1.0}
    sae = put(sl_training("JumpReLU", 2, 2, **own), W_enc=np.eye(2), W_dec=np.eye(2), threshold=[0, 0])
    return sl_step(sae, [[0, 0], [1, 1]], {"l0": 1.0}).losses["l0_loss"].item()


def sl_aux():
    """With W_dec = 1 and a residual of 0, AuxK is the square of the dead latent's code."""
    sae = sl_training("TopK", 2, 2, k=1, rescale_acts_by_decoder_norm=False)
    put(sae, W_enc=np.eye(2), W_dec=np.eye(2), b_enc=[0, -0.5])
    found = sl_step(sae, [[2, 0]], {}, torch.tensor([False, True])).losses["auxiliary_reconstruction_loss"]
    found.backward()
    assert sae.b_enc.grad[1].item() < 0  # 2 · code · 1, so the code is negative
    return -(found.item() ** 0.5)


def sl_threshold():
    sae = sl_training("BatchTopK", 1, 1, k=1)
    for _ in range(100):
        sae.update_topk_threshold(tensor([[1.0]]))
    return sae.topk_threshold.item()


def sl_mcc():
    module = importlib.import_module(f"{saelens().__name__}.synthetic.evals")
    return module.mean_correlation_coefficient(torch.eye(4), torch.eye(4)[:1])


def sl_sparsify(folder, W_dec, **fields):
    """What the loader makes of a folder of sparsify's."""
    from safetensors.numpy import save_file

    saelens()
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    path = folder / "run" / "layers.3"
    path.mkdir(parents=True)
    W_dec = np.array(W_dec, np.float32)
    arrays = {"encoder.weight": np.eye(len(W_dec), W_dec.shape[1], dtype=np.float32), "W_dec": W_dec}
    arrays |= {"encoder.bias": np.zeros(len(W_dec), np.float32), "b_dec": np.full(W_dec.shape[1], 2, np.float32)}
    save_file(arrays, path / "sae.safetensors")
    cfg = {"d_in": W_dec.shape[1], "num_latents": len(W_dec), "k": 1, "normalize_decoder": True} | fields
    (path / "cfg.json").write_text(json.dumps(cfg))
    return loaders.sparsify_disk_loader(path, cfg_overrides={"dtype": "float32"})


def sl_transposed(folder):
    return tuple(sl_sparsify(folder, [[0.6, 0.8], [-0.8, 0.6]])[1]["W_dec"][0].tolist())


def sl_b_dec(folder):
    cfg, params = sl_sparsify(folder, [[1]])
    x = torch.full((1, 1), 2.0) - (params["b_dec"] if cfg["apply_b_dec_to_input"] else 0)
    return (x @ params["W_enc"] + params["b_enc"]).item()


def sl_width(folder):
    return float(sl_sparsify(folder, [[1]], d_in=2, num_latents=0, expansion_factor=32)[0]["d_sae"])


def sl_inference(**own):
    library = saelens()
    return library.StandardSAE(library.StandardSAEConfig(d_in=1, d_sae=1, dtype="float64", device="cpu", **own))


def sl_folded():
    sae = put(sl_inference(), W_enc=[[1]], W_dec=[[1]], b_enc=[-0.5])
    sae.fold_activation_norm_scaling_factor(4.0)
    return sae.encode(tensor([[0.5]])).item()


def sl_zero_row():
    sae = sl_inference(normalize_activations="constant_norm_rescale")
    return sae.run_time_activation_norm_fn_in(tensor([[0.0]])).item()


# ---- sparsify ----


def sparsify(k, d_in, W_enc, b_enc, W_dec, **own):
    library = pytest.importorskip("sparsify", reason="eai-sparsify is not installed (extra peers)")
    from sparsify.config import SparseCoderConfig

    d_sae = len(W_dec)
    coder = library.SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k, **own), dtype=torch.float64)
    return put(coder, encoder_weight=W_enc, encoder_bias=b_enc, W_dec=W_dec, b_dec=[0] * d_in)


ROWS = [[2, 1], [1, 0]]
"""Two, so that the input has a variance."""


def sp_aux():
    coder = sparsify(1, 2, np.eye(2), [-0.5, -0.5], np.eye(2))
    coder(tensor(ROWS), dead_mask=torch.tensor([False, True])).auxk_loss.backward()
    assert coder.W_dec.grad[1].abs().max() > 0.1
    grad = coder.encoder.bias.grad
    return 0.0 if grad is None else grad[1].item()


def sp_multi():
    eye = np.eye(8)
    coder = sparsify(1, 8, eye, [-0.5] * 8, eye, multi_topk=True)
    coder(tensor(np.random.default_rng(0).uniform(0.6, 2, (3, 8)))).multi_topk_fvu.backward()
    assert coder.W_dec.grad.abs().max() > 1e-3
    return 0.0 if coder.encoder.bias.grad is None else coder.encoder.bias.grad.abs().max().item()


def sp_leak():
    coder = sparsify(2, 1, [[1], [-1]], [0, 0], [[1], [1]])
    coder(tensor([[2], [2]])).sae_out[0].sum().backward()
    return coder.encoder.bias.grad[1].item()


FOLDERS = (sl_transposed, sl_b_dec, sl_width)
THEIRS = {
    ("overcomplete", "penalty grows with the batch"): oc_grows,
    ("overcomplete", "no projection"): oc_untangential,
    ("overcomplete", "threshold slope"): lambda: oc_jump(1.1, 1.0, 0.5)[1],
    ("overcomplete", "kernel areas"): oc_areas,
    ("overcomplete", "at the threshold"): lambda: oc_jump(0.5, 0.5, 0.5)[0],
    ("overcomplete", "far below the threshold"): oc_far_below,
    ("overcomplete", "AuxK of the living"): lambda: oc_aux(1)[0],
    ("overcomplete", "the residual is not held fixed"): lambda: oc_aux(1)[1],
    ("overcomplete", "k of the whole batch"): lambda: float((oc_batch()[1] > 0).sum()),
    ("overcomplete", "ties are kept"): oc_ties,
    ("overcomplete", "threshold not saved"): oc_lost,
    ("overcomplete", "variance about a number"): oc_r2,
    ("dictionary_learning", "p-norm"): lambda: dl_lp("Lp", [4, 9], 0.5),
    ("dictionary_learning", "norm twice"): dl_norm_twice,
    ("dictionary_learning", "division by zero"): dl_zero_division,
    ("dictionary_learning", "zero to the zero"): lambda: dl_lp("Lp^p", [4, 0, 0], 0.0),
    ("dictionary_learning", "half a window"): lambda: dl_step(0.9, 1.0, 0.5)[1],
    ("dictionary_learning", "all silent entries in the window"): lambda: dl_step(-5.0, 0.001, 0.01)[1],
    ("dictionary_learning", "negative codes"): lambda: dl_step(-0.05, -0.1, 0.01)[0],
    ("dictionary_learning", "selected zeros have fired"): dl_fired,
    ("dictionary_learning", "AuxK beside an error in other units"): dl_aux_share,
    ("dictionary_learning", "nested errors divided twice"): dl_nested,
    ("dictionary_learning", "infinite threshold"): dl_infinite,
    ("dictionary_learning", "first step of rate 0"): dl_rate,
    ("dictionary_learning", "decoder lifted to norm 1"): dl_lifted,
    ("dictionary_learning", "logging trains"): dl_logging,
    ("dictionary_learning", "geometric median at a row"): dl_median,
    ("dictionary_learning", "resampled rows keep their length"): lambda: np.linalg.norm(
        dl_resampled("standard", "StandardTrainer")[1]
    ),
    ("dictionary_learning", "resampling writes to a copy"): lambda: abs(
        dl_resampled("p_anneal", "PAnnealTrainer", anneal_start=10) - np.eye(2)
    ).max(),
    ("dictionary_learning", "a bias is free"): dl_bias,
    ("SAELens", "p-norm"): sl_norm,
    ("SAELens", "gate trains the decoder"): sl_gate,
    ("SAELens", "target L0 of each row"): sl_target,
    ("SAELens", "AuxK without ReLU"): sl_aux,
    ("SAELens", "threshold from zero"): sl_threshold,
    ("SAELens", "MCC of the matched"): sl_mcc,
    ("SAELens", "sparsify's decoder transposed"): sl_transposed,
    ("SAELens", "sparsify's b_dec not subtracted"): sl_b_dec,
    ("SAELens", "sparsify's width read as 0"): sl_width,
    ("SAELens", "features in scaled units"): sl_folded,
    ("SAELens", "zero row rescaled"): sl_zero_row,
    ("sparsify", "AuxK does not reach the encoder"): sp_aux,
    ("sparsify", "multi-TopK does not reach the encoder"): sp_multi,
    ("sparsify", "selected zeros get gradient"): sp_leak,
}
"""What computes each entry's number with the library."""


DISTRIBUTIONS = {
    "overcomplete": "overcomplete", "dictionary_learning": "dictionary-learning", "SAELens": "sae-lens",
    "sparsify": "eai-sparsify",
}  # fmt: skip


def test_every_entry_that_says_it_was_run_is_run():
    assert THEIRS.keys() == RUN.keys()


@pytest.mark.parametrize("library", DISTRIBUTIONS)
def test_what_is_installed_is_the_version_named(library):
    try:
        installed = metadata.version(DISTRIBUTIONS[library])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{library} is not installed (extra peers)")
    assert {entry.version.split(",")[0] for entry in RUN.values() if entry.library == library} == {installed}


@pytest.mark.parametrize("key", THEIRS, ids=": ".join)
def test_the_library_does_so(key, tmp_path):
    compute = THEIRS[key]
    theirs = compute(tmp_path) if compute in FOLDERS else compute()
    tolerance = 1e-3 if key[1] == "kernel areas" else 1e-6
    np.testing.assert_allclose(theirs, RUN[key].show().theirs, rtol=tolerance, atol=1e-12)


def test_what_is_fixed_is_fixed():
    """The threshold is folded in the SAELens that is installed."""
    sae = sl_training("BatchTopK", 1, 1, k=1)
    sae.topk_threshold = tensor(1.0)
    sae.fold_activation_norm_scaling_factor(4.0)
    assert sae.topk_threshold.item() == 0.25
