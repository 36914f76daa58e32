"""SAELens 6 folders: what we write, SAELens computes equally; what it writes, we compute equally."""

import json

import numpy as np
import pytest
import safetensors.numpy

import minisae
from minisae.errors import InputError
from minisae.sae import VARIANTS, batch_topk, relu, topk
from tests.helpers import perturbed


def saelens_twin(fields, arrays, x):
    """SAELens 6's own arithmetic for standard, topk and jumprelu, written out, as ``sae_lens.saes`` has them."""
    x = x - arrays["b_dec"] * fields["apply_b_dec_to_input"]
    pre = x @ arrays["W_enc"] + arrays["b_enc"]
    if fields["architecture"] == "topk":
        kept = np.zeros_like(pre)
        order = np.argsort(-pre, axis=1)[:, : fields["k"]]
        np.put_along_axis(kept, order, np.take_along_axis(pre, order, axis=1), axis=1)
        pre = kept
    f = np.maximum(pre, 0)
    if fields["architecture"] == "jumprelu":
        f = f * (pre > arrays["threshold"])
    return f, f @ arrays["W_dec"] + arrays["b_dec"]


def make(name):
    rng = np.random.default_rng(0)
    cfg = {
        "relu": relu.Config(5, 13, 0.5, subtract_b_dec=False),
        "topk": topk.Config(5, 13, 3),
        "batch_topk": batch_topk.Config(5, 13, 2.6),
    }[name]
    params = {key: p.astype(np.float32) for key, p in perturbed(VARIANTS[name], cfg, rng).items()}
    x = rng.standard_normal((7, 5)).astype(np.float32)
    if name == "batch_topk":
        params = batch_topk.calibrated(params, x, cfg)
    return minisae.SAE(name, cfg, params, {"hook_name": "blocks.0"}), x


@pytest.mark.parametrize("name", VARIANTS)
def test_the_folder_means_the_same_in_saelens_arithmetic(name, tmp_path):
    sae, x = make(name)
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    f, x_hat = saelens_twin(fields, safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors"), x)
    np.testing.assert_allclose(sae.encode(x), f, atol=1e-6)
    np.testing.assert_allclose(sae.decode(f), x_hat, atol=1e-6)
    assert 0 < np.count_nonzero(f) < f.size


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_without_our_metadata_is_read(name, tmp_path):
    sae, x = make(name)
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    fields["metadata"] = {"hook_name": "blocks.0"}
    if name == "batch_topk":
        fields["metadata"] |= {"training_architecture": "batchtopk", "training_architecture_details": {"k": 2.6}}
    (tmp_path / "cfg.json").write_text(json.dumps(fields))
    again = minisae.load(tmp_path)
    assert again.variant == name
    assert again.metadata == fields["metadata"]
    assert again.cfg.decoder == "free"
    np.testing.assert_array_equal(again.encode(x), sae.encode(x))


def test_other_architectures_and_run_time_rescaling_are_refused(tmp_path):
    make("topk")[0].save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    del fields["metadata"]
    for refused in ("gated", "jumprelu"):
        (tmp_path / "cfg.json").write_text(json.dumps(fields | {"architecture": refused}))
        with pytest.raises(InputError, match=f"or topk, or jumprelu trained as batchtopk, got '{refused}'"):
            minisae.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(fields | {"rescale_acts_by_decoder_norm": True}))
    with pytest.raises(InputError, match="run-time rescaling or normalisation of activations is not read yet"):
        minisae.load(tmp_path)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VARIANTS)
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
    assert (again.variant, again.cfg) == (sae.variant, sae.cfg)
    assert again.metadata["hook_name"] == theirs.cfg.metadata.hook_name == "blocks.0"
    np.testing.assert_allclose(again.decode(again.encode(x)), x_hat.numpy(), atol=1e-6)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rescale", [True, False])
def test_what_sae_lens_trains_as_batchtopk_is_read(rescale, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    torch = pytest.importorskip("torch")
    options = {"d_in": 5, "d_sae": 13, "k": 2.6, "rescale_acts_by_decoder_norm": rescale}
    theirs = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**options))
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    theirs.update_topk_threshold(theirs.encode(x))
    theirs.topk_threshold *= 30
    theirs.save_inference_model(str(tmp_path))
    again = minisae.load(tmp_path)
    assert (again.variant, again.cfg.k, again.cfg.threshold_rule) == ("batch_topk", 2.6, "from_zero")
    with torch.no_grad():
        f = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu").encode(x).numpy()
    assert 0 < np.count_nonzero(f) < 7 * 13 / 2
    np.testing.assert_allclose(again.encode(x.numpy()), f, atol=1e-6)
