"""Files between the libraries: what they save is read here, what is written here they load, and outputs are equal."""

import json

import numpy as np
import pytest

import minisae
from minisae.convert import convert
from minisae.interop import dictionary_learning as ours_dl
from minisae.interop import gemma_scope, sparsify
from minisae.interop.common import Stored
from tests.interop.test_dictionary_learning import CLASSES, K, state_of
from tests.interop.tiny import D, F, arrays, linears, rows, write_json, write_state, write_tensors
from tests.peers.drivers import without_pictures

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch", reason="torch is not installed (extra peers)")


def unit(a):
    """The same with decoder rows of norm 1: dictionary_learning rescales others as it loads them."""
    return a | {"W_dec": a["W_dec"] / np.linalg.norm(a["W_dec"], axis=1, keepdims=True)}


def fill(module, state):
    """Load plain arrays into one of their modules."""
    module.load_state_dict({key: torch.from_numpy(np.array(a, order="C")) for key, a in state.items()}, strict=False)
    return module


def compare(sae, x, f, x_hat):
    np.testing.assert_allclose(sae.encode(x), f.detach().numpy(), atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(x), x_hat.detach().numpy(), atol=2e-6, rtol=1e-5)
    assert 0 < np.count_nonzero(f.detach().numpy()) < f.numel()


def theirs_of(name):
    """One of dictionary_learning's classes."""
    dl = pytest.importorskip("dictionary_learning.dictionary")
    trainers = pytest.importorskip("dictionary_learning.trainers.top_k")
    batch = pytest.importorskip("dictionary_learning.trainers.batch_top_k")
    nested = pytest.importorskip("dictionary_learning.trainers.matryoshka_batch_top_k")
    if name == "AutoEncoderTopK":
        return trainers.AutoEncoderTopK(D, F, K)
    if name == "BatchTopKSAE":
        return batch.BatchTopKSAE(D, F, K)
    if name == "MatryoshkaBatchTopKSAE":
        return nested.MatryoshkaBatchTopKSAE(D, F, K, [3, 4, 6])
    return getattr(dl, name)(D, F)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_saves_and_loads(name, legacy, tmp_path):
    theirs, x = fill(theirs_of(name), state_of(name, unit(arrays()))), rows()
    torch.save(theirs.state_dict(), tmp_path / "ae.pt", _use_new_zipfile_serialization=not legacy)
    write_json(tmp_path / "config.json", {"trainer": {"dict_class": name} | ({"k": K} if "TopK" in name else {})})
    sae = minisae.load(tmp_path)
    f = theirs.encode(torch.from_numpy(x))
    compare(sae, x, f, theirs.decode(f))
    ours_dl.export(tmp_path / "ours", Stored(*sae))
    state = torch.load(tmp_path / "ours" / "ae.pt", weights_only=True)
    again = theirs_of(name)
    again.load_state_dict(state)
    f = again.encode(torch.from_numpy(x))
    compare(sae, x, f, again.decode(f))


@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_s_own_loader(name, tmp_path):
    utils = pytest.importorskip("dictionary_learning.utils")
    x = rows()
    write_json(tmp_path / "a" / "config.json", {"trainer": {"dict_class": name} | ({"k": K} if "TopK" in name else {})})
    write_state(tmp_path / "a" / "ae.pt", state_of(name, unit(arrays())))
    sae = convert(tmp_path / "a", tmp_path / "b", to="dictionary_learning")[0]
    theirs, config = utils.load_dictionary(str(tmp_path / "b"), "cpu")
    assert config["trainer"]["dict_class"] == type(theirs).__name__ == name
    f = theirs.encode(torch.from_numpy(x))
    compare(sae, x, f, theirs.decode(f))


@pytest.mark.parametrize(
    "options", [{}, {"activation": "groupmax"}, {"transcode": True}, {"transcode": True, "skip_connection": True}]
)
def test_sparsify_saves_and_loads(options, tmp_path):
    peer = pytest.importorskip("sparsify")
    latents, x = 15, rows()
    cfg = peer.SparseCoderConfig(num_latents=latents, k=K, **options)
    theirs, rng = peer.SparseCoder(D, cfg), np.random.default_rng(0)
    with torch.no_grad():
        for p in theirs.parameters():
            p += torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32))
    theirs.save_to_disk(tmp_path / "theirs")
    sae = minisae.load(tmp_path / "theirs")
    want = theirs(torch.from_numpy(x))
    f = np.zeros((len(x), latents), np.float32)
    np.put_along_axis(f, want.latent_indices.numpy(), want.latent_acts.detach().numpy(), 1)
    compare(sae, x, torch.from_numpy(f), want.sae_out)
    sparsify.export(tmp_path / "ours", Stored(*sae))
    again = peer.SparseCoder.load_from_disk(tmp_path / "ours")
    np.testing.assert_allclose(again(torch.from_numpy(x)).sae_out.detach(), want.sae_out.detach(), atol=1e-6)


COUNTED = {"TopKSAE": {"top_k": K}, "MpSAE": {"k": K}}


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("name", ["RATopKSAE", "RAJumpSAE"])
def test_overcomplete_saves_archetypal_ones(name, evaluated, tmp_path):
    """After ``eval()``, which projects the dictionary and fuses it, and before, with δ said."""
    pytest.importorskip("einops", reason="overcomplete is not installed (extra peers)")
    without_pictures("overcomplete")
    peer = pytest.importorskip("overcomplete.sae")
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, D, generator=generator)
    theirs, x = getattr(peer, name)(D, F, points, delta=0.3, **COUNTED.get(name[2:], {})), rows()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    if evaluated:
        theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    theirs.eval()
    options = ({} if "Jump" in name else {"k": K}) | ({} if evaluated else {"delta": 0.3})
    _, f, x_hat = theirs(torch.from_numpy(x))
    compare(minisae.load(tmp_path / "x.pt", options=options), x, f, x_hat)


@pytest.mark.parametrize("name", ["SAE", "TopKSAE", "JumpSAE", "MpSAE"])
def test_overcomplete_saves(name, tmp_path):
    pytest.importorskip("einops", reason="overcomplete is not installed (extra peers)")
    without_pictures("overcomplete")
    peer = pytest.importorskip("overcomplete.sae")
    theirs, x = getattr(peer, name)(D, F, **COUNTED.get(name, {})), rows()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    said = {"SAE": {"variant": "relu"}, "TopKSAE": {"variant": "topk", "k": K}, "JumpSAE": {}}
    options = said.get(name, {"variant": "matching_pursuit", "k": K})
    theirs.eval()
    _, f, x_hat = theirs(torch.from_numpy(x))
    compare(minisae.load(tmp_path / "x.pt", options=options), x, f, x_hat)


@pytest.mark.parametrize("how", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("rescale", [False, True])
def test_what_sae_lens_does_at_run_time(how, rescale, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    options = {"d_in": D, "d_sae": F, "k": K, "normalize_activations": how, "rescale_acts_by_decoder_norm": rescale}
    a, x = arrays(), 3 * rows() + 1
    theirs = fill(
        sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**options)), {k: a[k] for k in ("W_enc", "b_enc", "W_dec", "b_dec")}
    )
    theirs.save_model(str(tmp_path / "theirs"))
    sae = minisae.load(tmp_path / "theirs")
    f = theirs.encode(torch.from_numpy(x))
    compare(sae, x, f, theirs.decode(f))
    sae.save(tmp_path / "ours")
    again = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"), device="cpu")
    f = again.encode(torch.from_numpy(x))
    compare(sae, x, f, again.decode(f))


@pytest.mark.parametrize(
    "own", [{"activation_fn_str": "relu"}, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}]
)
def test_a_flat_folder_means_to_sae_lens_what_it_means_here(own, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    a, x = arrays(), rows()
    write_tensors(tmp_path / "sae_weights.safetensors", {k: a[k] for k in ("W_enc", "b_enc", "W_dec", "b_dec")})
    fields = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "hook_point": "blocks.1.hook_resid_pre"}
    write_json(tmp_path / "cfg.json", fields | {"finetuning_scaling_factor": False} | own)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu")
    f = theirs.encode(torch.from_numpy(x))
    compare(minisae.load(tmp_path), x, f, theirs.decode(f))


def loaded_by_sae_lens(loader, folder, name, monkeypatch, **overrides):
    """An SAE that one of SAELens' loaders of foreign files makes of a local folder."""
    loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")
    sae_lens = pytest.importorskip("sae_lens")

    def local(repo_id, filename, *, subfolder=None, **_):
        return str(folder / (subfolder or "") / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    shapes = {"w_enc": [D, F], "w_dec": [F, D]}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    fields, state, _ = getattr(loaders, loader)(
        "repo", name, device="cpu", cfg_overrides={"dtype": "float32"} | overrides
    )
    fields = loaders.handle_config_defaulting({key: value for key, value in fields.items() if value is not None})
    cls, cfg = sae_lens.registry.get_sae_class(fields["architecture"])
    theirs = cls(cfg.from_dict(fields))
    theirs.load_state_dict({key: value.float() for key, value in state.items()})
    return theirs


def test_sae_lens_opens_the_same_gemma_scope(tmp_path, monkeypatch):
    a, x = arrays(), rows()
    cfg = minisae.sae.VARIANTS["jumprelu"].Config(D, F, subtract_b_dec=True)
    params = {key: a[key] for key in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    folder = "layer_3/width_16k/average_l0_9"
    gemma_scope.export(tmp_path / folder, Stored("jumprelu", cfg, params, {}))
    sae = minisae.load(tmp_path / folder)
    np.testing.assert_allclose(sae.reconstruct(x), minisae.SAE("jumprelu", cfg, params, {}).reconstruct(x), atol=3e-6)
    loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")
    known = {"architecture": "jumprelu", "d_in": D, "d_sae": F, "dtype": "float32", "apply_b_dec_to_input": False}
    monkeypatch.setattr(loaders, "get_gemma_2_config_from_hf", lambda *_: {**known, "device": "cpu"})
    theirs = loaded_by_sae_lens("gemma_2_sae_huggingface_loader", tmp_path, folder, monkeypatch)
    f = theirs.encode(torch.from_numpy(x))
    compare(sae, x, f, theirs.decode(f))


def test_sae_lens_opens_the_same_gemma_scope_2(tmp_path, monkeypatch):
    a, x = arrays(), rows()
    folder = tmp_path / "resid_post" / "layer_3"
    tensors = {"w_enc": a["W_enc"], "w_dec": a["W_dec"], "b_enc": a["b_enc"], "b_dec": a["b_dec"]}
    write_tensors(folder / "params.safetensors", tensors | {"threshold": a["threshold"]})
    write_json(folder / "config.json", {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt"})
    theirs = loaded_by_sae_lens("gemma_3_sae_huggingface_loader", tmp_path, "resid_post/layer_3", monkeypatch)
    f = theirs.encode(torch.from_numpy(x))
    compare(minisae.load(folder), x, f, theirs.decode(f))


def test_sae_lens_opens_the_same_llama_scope(tmp_path, monkeypatch):
    a, x = arrays(), rows()
    tensors = linears(a) | {"encoder.bias": a["b_enc"], "decoder.bias": a["b_dec"]}
    write_tensors(tmp_path / "L" / "checkpoints" / "final.safetensors", tensors)
    fields = {"d_model": D, "d_sae": F, "jump_relu_threshold": 0.9, "hook_point_in": "blocks.3.hook_resid_post"}
    write_json(
        tmp_path / "L" / "hyperparams.json", fields | {"dataset_average_activation_norm": {"in": 1.7, "out": 1.7}}
    )
    theirs = loaded_by_sae_lens("llama_scope_sae_huggingface_loader", tmp_path, "L", monkeypatch)
    theirs.fold_activation_norm_scaling_factor(D**0.5 / 1.7)
    f = theirs.encode(torch.from_numpy(x))
    compare(minisae.load(tmp_path / "L"), x, f, theirs.decode(f))


def test_what_trains_here_opens_there(tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    x = rows(n=61)
    sae = minisae.train(x, variant="tied", d_sae=F, l1=0.1, steps=20, batch_size=17)
    sae.save(tmp_path / "ours")
    notes = convert(tmp_path / "ours", tmp_path / "theirs", to="saelens")[1]
    assert notes == ["a tied dictionary became W_enc and W_dec of a relu, with b_dec = 0"]
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "theirs"), device="cpu")
    f = theirs.encode(torch.from_numpy(x))
    compare(sae, x, f, theirs.decode(f))
    assert json.loads((tmp_path / "theirs" / "cfg.json").read_text())["architecture"] == "standard"
