"""SAELens 6 folders: what we write, SAELens computes equally; what it writes, we compute equally."""

import json

import numpy as np
import pytest
import safetensors.numpy

import minisae
from minisae.errors import InputError
from minisae.sae import relu, topk
from tests.helpers import perturbed


def saelens_twin(fields, arrays, x):
    """SAELens 6's own arithmetic for standard and topk, written out: encode and decode of ``sae_lens.saes``."""
    x = x - arrays["b_dec"] * fields["apply_b_dec_to_input"]
    pre = x @ arrays["W_enc"] + arrays["b_enc"]
    if fields["architecture"] == "topk":
        kept = np.zeros_like(pre)
        order = np.argsort(-pre, axis=1)[:, : fields["k"]]
        np.put_along_axis(kept, order, np.take_along_axis(pre, order, axis=1), axis=1)
        pre = kept
    f = np.maximum(pre, 0)
    return f, f @ arrays["W_dec"] + arrays["b_dec"]


def make(name):
    rng = np.random.default_rng(0)
    variant = {"relu": relu, "topk": topk}[name]
    cfg = relu.Config(5, 13, 0.5, subtract_b_dec=False) if name == "relu" else topk.Config(5, 13, 3)
    params = {key: p.astype(np.float32) for key, p in perturbed(variant, cfg, rng).items()}
    return minisae.SAE(name, cfg, params, {}), rng.standard_normal((7, 5)).astype(np.float32)


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_the_folder_means_the_same_in_saelens_arithmetic(name, tmp_path):
    sae, x = make(name)
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    f, x_hat = saelens_twin(fields, safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors"), x)
    np.testing.assert_allclose(sae.encode(x), f, atol=1e-6)
    np.testing.assert_allclose(sae.decode(f), x_hat, atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_a_folder_without_our_metadata_is_read(name, tmp_path):
    sae, x = make(name)
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    fields["metadata"] = {"hook_name": "blocks.0"}
    (tmp_path / "cfg.json").write_text(json.dumps(fields))
    again = minisae.load(tmp_path)
    assert again.metadata == {"hook_name": "blocks.0"}
    assert again.cfg.decoder == "free"
    np.testing.assert_array_equal(again.encode(x), sae.encode(x))


def test_other_architectures_and_run_time_rescaling_are_refused(tmp_path):
    make("topk")[0].save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    del fields["metadata"]
    (tmp_path / "cfg.json").write_text(json.dumps(fields | {"architecture": "gated"}))
    with pytest.raises(InputError, match="expected architecture standard or topk, got 'gated'"):
        minisae.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(fields | {"rescale_acts_by_decoder_norm": True}))
    with pytest.raises(InputError, match="run-time rescaling or normalisation of activations is not read yet"):
        minisae.load(tmp_path)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["relu", "topk"])
def test_sae_lens_itself(name, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    torch = pytest.importorskip("torch")
    sae, x = make(name)
    sae.save(tmp_path / "ours")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"), device="cpu")
    with torch.no_grad():
        f = theirs.encode(torch.from_numpy(x))
        x_hat = theirs.decode(f)
    np.testing.assert_allclose(sae.encode(x), f.numpy(), atol=1e-6)
    np.testing.assert_allclose(sae.decode(sae.encode(x)), x_hat.numpy(), atol=1e-6)
    theirs.save_model(str(tmp_path / "back"))
    again = minisae.load(tmp_path / "back")
    np.testing.assert_allclose(again.decode(again.encode(x)), x_hat.numpy(), atol=1e-6)
