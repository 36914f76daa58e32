"""SAELens 6 folders: what we write, SAELens computes equally; what it writes, we compute equally."""

import json
import types

import numpy as np
import pytest
import safetensors.numpy

import minisae
from minisae.errors import InputError
from minisae.sae import VARIANTS, relu
from tests.helpers import perturbed
from tests.sae.cases import Case, config, every_case, lived_in, module_of, parts

KNOWN = [p for p in every_case() if hasattr(VARIANTS[p.values[0]], "to_saelens")]
"""Cases of the variants that SAELens has."""
THEIRS = [
    p for p in KNOWN if "architecture" in VARIANTS[p.values[0]].to_saelens(config(p.values[0], p.values[1].options))
]
"""Those whose options it has too."""


def saelens_twin(name, fields, arrays, x):
    """SAELens 6's own arithmetic, written out, as ``sae_lens.saes`` has it; the variant's test says how it selects."""
    x = x - arrays["b_dec"] if fields["apply_b_dec_to_input"] else x
    pre = x @ arrays["W_enc"] + arrays.get("b_enc", 0) if "W_enc" in arrays else x
    f = module_of(name).saelens_code(fields, arrays, pre)
    return f, f @ arrays["W_dec"] + arrays["b_dec"]


def make(name, case):
    rng = np.random.default_rng(0)
    cfg = config(name, case.options)
    x = parts(name, rng.standard_normal((7, 5)).astype(np.float32), cfg)[0]
    params = {key: p.astype(np.float32) for key, p in lived_in(name, cfg, rng, x).items()}
    return minisae.SAE(name, cfg, params, {"hook_name": "blocks.0"}), x


@pytest.mark.parametrize(("name", "case"), THEIRS)
def test_the_folder_means_the_same_in_saelens_arithmetic(name, case, tmp_path):
    sae, x = make(name, case)
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    f, x_hat = saelens_twin(name, fields, safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors"), x)
    np.testing.assert_allclose(sae.encode(x), f, atol=1e-6)
    np.testing.assert_allclose(sae.decode(f), x_hat, atol=1e-6)
    assert 0 < np.count_nonzero(f) < f.size


@pytest.mark.parametrize(("name", "case"), THEIRS)
def test_a_folder_without_our_metadata_is_read(name, case, tmp_path):
    sae, x = make(name, case)
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    noted = getattr(module_of(name), "saelens_metadata", lambda cfg: {})(sae.cfg)
    fields["metadata"] = {"hook_name": "blocks.0", **noted}
    (tmp_path / "cfg.json").write_text(json.dumps(fields))
    again = minisae.load(tmp_path)
    assert again.variant == name
    assert again.metadata == fields["metadata"]
    assert again.cfg.decoder == "free"
    assert again.cfg.subtract_b_dec == sae.cfg.subtract_b_dec
    np.testing.assert_array_equal(again.encode(x), sae.encode(x))


def test_a_variant_that_saelens_does_not_have(tmp_path, monkeypatch):
    """Its folder names an architecture of ours, which SAELens refuses; we read it by our metadata, and only by it."""
    own = types.ModuleType("spline")
    vars(own).update({key: value for key, value in vars(relu).items() if "saelens" not in key.lower()})
    monkeypatch.setitem(VARIANTS, "spline", own)
    rng, cfg = np.random.default_rng(0), relu.Config(5, 13, 0.5)
    sae = minisae.SAE("spline", cfg, {key: p.astype("f") for key, p in perturbed(relu, cfg, rng).items()}, {})
    sae.save(tmp_path)
    again, x = minisae.load(tmp_path), rng.standard_normal((7, 5))
    assert (again.variant, again.cfg) == ("spline", cfg)
    np.testing.assert_array_equal(again.encode(x), sae.encode(x))
    fields = json.loads((tmp_path / "cfg.json").read_text())
    assert fields["architecture"] == "minisae.spline"
    del fields["metadata"]
    (tmp_path / "cfg.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"cfg.json: expected architecture [^\n]*; got 'minisae.spline'$"):
        minisae.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "variant", "own"),
    [
        ({"k": 2}, "topk", {"k": 2}),
        ({"apply_b_dec_to_input": False}, "topk", {"k": 3, "subtract_b_dec": False}),
        ({"architecture": "standard"}, "relu", {"subtract_b_dec": True}),
    ],
)
def test_fields_that_were_changed_since_count(change, variant, own, tmp_path):
    """SAELens keeps ``metadata`` as it saves; what its own fields say now is what it computes, and what we do."""
    sae, x = make("topk", Case({"k": 3}))
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text()) | change
    (tmp_path / "cfg.json").write_text(json.dumps(fields))
    again = minisae.load(tmp_path)
    assert again.variant == variant
    assert {key: getattr(again.cfg, key) for key in own} == own
    arrays = safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors")
    f, x_hat = saelens_twin(variant, fields, arrays, x)
    np.testing.assert_allclose(again.encode(x), f, atol=1e-6)
    np.testing.assert_allclose(again.reconstruct(x), x_hat, atol=1e-6)
    [note] = again.metadata["notes"]
    [(key, value)] = change.items()
    assert note.startswith("cfg.json was changed after it was written")
    assert f"{key} is {value!r}, not " in note
    again.save(tmp_path / "again")
    assert minisae.load(tmp_path / "again").metadata == again.metadata


def test_decoder_norms_that_rank_since_are_folded(tmp_path):
    sae, x = make("topk", Case({"k": 3}))
    sae.save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text()) | {"rescale_acts_by_decoder_norm": True}
    (tmp_path / "cfg.json").write_text(json.dumps(fields))
    again = minisae.load(tmp_path)
    norms = np.linalg.norm(sae.params["W_dec"], axis=1)
    pre = ((x - sae.params["b_dec"]) @ sae.params["W_enc"] + sae.params["b_enc"]) * norms
    kept = pre >= np.sort(pre, axis=1)[:, -3:-2]
    np.testing.assert_allclose(again.encode(x), np.maximum(pre * kept, 0), atol=1e-5)
    assert [note.split(":")[0][:8] for note in again.metadata["notes"]] == ["cfg.json", "decoder "]


@pytest.mark.parametrize(
    ("name", "options", "change", "line"),
    [
        (
            "topk",
            {"k": 3},
            {"d_in": 99},
            r"cfg.json: expected fields that agree with [^\n]*; d_in is 99, not 5 as there$",
        ),
        ("topk", {"k": 3}, {"k": "many"}, "cfg.json: expected a number for k, got a str$"),
        ("topk", {"k": 3}, {"normalize_activations": "covariance_whitening"}, "is not folded; SAELens can$"),
        ("tied", {}, {"d_in": 99}, r"cfg.json: expected fields that agree with metadata.minisae; d_in is 99, not 5 "),
        ("tied", {}, {"architecture": "spline"}, "cfg.json: expected architecture [^\n]*; got 'spline'$"),
    ],
)
def test_contradictions_are_one_line(name, options, change, line, tmp_path):
    make(name, Case(options))[0].save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(fields | change))
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_architectures_and_whitening_are_refused(tmp_path):
    make("topk", Case({"k": 3}))[0].save(tmp_path)
    fields = json.loads((tmp_path / "cfg.json").read_text())
    del fields["metadata"]
    known = ", ".join(module.SAELENS for module in VARIANTS.values() if hasattr(module, "SAELENS"))
    for refused in ("spline", "minisae.spline"):
        (tmp_path / "cfg.json").write_text(json.dumps(fields | {"architecture": refused}))
        with pytest.raises(InputError, match=f"expected architecture {known}; got '{refused}'"):
            minisae.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(fields | {"normalize_activations": "covariance_whitening"}))
    with pytest.raises(InputError, match="normalize_activations 'covariance_whitening' is not folded; SAELens can"):
        minisae.load(tmp_path)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "case"), KNOWN)
def test_sae_lens_itself(name, case, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    torch = pytest.importorskip("torch")
    sae, x = make(name, case)
    sae.save(tmp_path / "ours")
    architecture = json.loads((tmp_path / "ours" / "cfg.json").read_text())["architecture"]
    if architecture.startswith("minisae."):  # an option that SAELens does not have
        with pytest.raises(KeyError, match=architecture):
            sae_lens.SAE.load_from_disk(str(tmp_path / "ours"), device="cpu")
        return
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
    torch.manual_seed(0)
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
