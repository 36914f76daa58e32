"""Transcoders beside the real sparsify and SAELens: outputs, loss, every gradient, and files."""

import numpy as np
import pytest

import minisae
from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import VARIANTS
from tests.helpers import perturbed

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch", reason="torch is not installed (extra peers)")
D, D_SAE, K, N = 6, 23, 3, 31
NAMES = ("transcoder", "skip_transcoder")
JUMPS = ("jumprelu_transcoder", "jumprelu_skip_transcoder")


def sparsify_twin(name, params, k):
    """Sparsify's transcoder with our parameters, in float64."""
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed (extra peers)")
    from sparsify.config import SparseCoderConfig

    config = SparseCoderConfig(num_latents=D_SAE, k=k, transcode=True, skip_connection=name == "skip_transcoder")
    twin = sparsify.SparseCoder(D, config, dtype=torch.float64)
    ours = {"W_enc": (twin.encoder.weight, True), "b_enc": (twin.encoder.bias, False), "W_dec": (twin.W_dec, False)}
    ours |= {"b_dec": (twin.b_dec, False)} | ({"W_skip": (twin.W_skip, False)} if "W_skip" in params else {})
    for key, (theirs, turned) in ours.items():
        theirs.data.copy_(torch.from_numpy(np.ascontiguousarray(params[key].T if turned else params[key])))
    return twin, ours


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_dead", [False, True])
@pytest.mark.parametrize("k", [K, D_SAE])
def test_as_sparsify(name, with_dead, k):
    """Outputs, FVU, AuxK, all gradients. Its fused encoder keeps AuxK from the encoder and gives zeros gradient."""
    module, rng = VARIANTS[name], np.random.default_rng(0)
    cfg = module.Config(
        D, D_SAE, D, k=k, decoder="free", mse_normaliser="input_variance", auxk=1 / 32, auxk_reach="decoder",
        auxk_normaliser="input_variance", auxk_few="proportional", relu="before", selected_zero="passes",
    )  # fmt: skip
    params = perturbed(module, cfg, rng)
    rows = rng.standard_normal((N, 2 * D))
    x, y = module.split(rows, cfg)
    dead = np.isin(np.arange(D_SAE), (2, 7)) if with_dead else None
    twin, theirs = sparsify_twin(name, params, k)
    got = twin(torch.from_numpy(x), torch.from_numpy(y), dead_mask=torch.from_numpy(dead) if with_dead else None)
    (got.fvu + got.auxk_loss / 32).backward()
    out, cache = module.forward(params, x, cfg, dead=dead)
    zeros = ((dense(out.f) > 0).sum(axis=1) < k).any()
    assert zeros == (k == D_SAE)  # with fewer, which of the equal zeros are selected is torch's secret
    terms = module.objective(params, out, y, cfg, dead=dead)
    np.testing.assert_allclose(out.x_hat, got.sae_out.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(terms["mse"].value, got.fvu.item(), rtol=1e-12)
    if with_dead:
        np.testing.assert_allclose(terms["auxk"].value, got.auxk_loss.item() / 32, rtol=1e-12)
    grads = module.backward(params, cache, cfg, gather(terms)[1])
    for key, (p, turned) in theirs.items():
        expected = p.grad.numpy().T if turned else p.grad.numpy()
        np.testing.assert_allclose(grads[key], expected, rtol=1e-11, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_start_as_sparsify(name):
    """Decoder and skip connection at 0, the mean predicted, the encoder centred (which sparsify does in training)."""
    module, rng = VARIANTS[name], np.random.default_rng(1)
    cfg = module.Config(D, D_SAE, D, k=K, decoder="free")
    rows = rng.standard_normal((101, 2 * D)) + 1
    params = module.init(cfg, rng, sample=rows, dtype=np.float64)
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed (extra peers)")
    from sparsify.config import SparseCoderConfig

    theirs = sparsify.SparseCoder(
        D, SparseCoderConfig(num_latents=D_SAE, k=K, transcode=True, skip_connection=name == "skip_transcoder")
    )
    assert not theirs.W_dec.any()
    assert not params["W_dec"].any()
    if name == "skip_transcoder":
        assert not theirs.W_skip.any()
        assert not params["W_skip"].any()
    np.testing.assert_allclose(params["b_dec"], rows[:, D:].mean(axis=0))
    np.testing.assert_allclose(params["b_enc"], -rows[:, :D].mean(axis=0) @ params["W_enc"])


@pytest.mark.parametrize("name", NAMES + JUMPS)
def test_saelens_reads_and_computes_the_same(name, tmp_path):
    """Also where the widths differ; SAELens' forward pass adds the skip connection, its decode does not."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    module, rng = VARIANTS[name], np.random.default_rng(2)
    cfg = module.Config(5, D_SAE, 3)
    params = {key: p.astype(np.float32) for key, p in perturbed(module, cfg, rng).items()}
    sae, x = minisae.SAE(name, cfg, params, {}), rng.standard_normal((N, 5)).astype(np.float32)
    sae.save(tmp_path / "ours")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"), device="cpu")
    with torch.no_grad():
        f = theirs.encode(torch.from_numpy(x))
        x_hat, decoded = theirs(torch.from_numpy(x)).numpy(), theirs.decode(f).numpy()
    np.testing.assert_allclose(sae.encode(x), f.numpy(), atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(x)), decoded, atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(x), x), x_hat, atol=1e-5)
    theirs.save_model(str(tmp_path / "back"))
    again = minisae.load(tmp_path / "back")
    assert (again.variant, again.cfg.d_out) == (name, 3)
    np.testing.assert_allclose(again.decode(again.encode(x), x), x_hat, atol=1e-5)


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("name", NAMES + JUMPS)
def test_rows_normalised_at_run_time_as_saelens(name, how, tmp_path):
    """There nothing is undone on the output, and the skip connection takes the rows as they are; in float64."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    kind, config = sae_lens.registry.get_sae_class(name)
    about = {"d_in": 5, "d_sae": D_SAE, "d_out": 3, "apply_b_dec_to_input": False, "normalize_activations": how}
    theirs, generator = kind(config(**about, dtype="float64", device="cpu")), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    x = 3 * np.random.default_rng(5).standard_normal((N, 5)) + 1
    with torch.no_grad():
        f, y_hat = theirs.encode(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    assert (f == 0).any()
    theirs.save_model(str(tmp_path / "theirs"))
    sae = minisae.load(tmp_path / "theirs")
    sae.save(tmp_path / "ours")
    for again in (sae, minisae.load(tmp_path / "ours")):
        assert (again.variant, again.normalise) == (name, how)
        np.testing.assert_allclose(again.encode(x), f, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(again.reconstruct(x), y_hat, rtol=1e-12, atol=1e-12)
    back = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"), device="cpu")
    with torch.no_grad():
        np.testing.assert_allclose(back(torch.from_numpy(x)).numpy(), y_hat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", JUMPS)
def test_what_saelens_itself_makes_is_read(name, tmp_path):
    """A transcoder that SAELens initialised and saved, of unequal widths, some of its thresholds below 0."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    saes = pytest.importorskip("sae_lens.saes.transcoder")
    kind = {"jumprelu_transcoder": "JumpReLUTranscoder", "jumprelu_skip_transcoder": "JumpReLUSkipTranscoder"}[name]
    config = getattr(saes, f"{kind}Config")(d_in=5, d_sae=D_SAE, d_out=3, apply_b_dec_to_input=False, device="cpu")
    theirs, generator = getattr(saes, kind)(config), torch.Generator().manual_seed(4)
    assert isinstance(theirs, sae_lens.SAE)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    theirs.save_model(str(tmp_path))
    x = np.random.default_rng(5).standard_normal((N, 5)).astype(np.float32)
    sae = minisae.load(tmp_path)
    assert (sae.variant, sae.cfg.d_out) == (name, 3)
    with torch.no_grad():
        f, y_hat = theirs.encode(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    assert (f == 0).any()
    np.testing.assert_allclose(sae.encode(x), f, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(x), y_hat, atol=1e-5)
