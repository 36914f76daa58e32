"""What SAELens wrote itself: flat files before version 6, training checkpoints, and what it does at run time."""

import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from tests.interop.tiny import D, F, above, arrays, relu, rows, same, top_k, write_json, write_tensors

K = 3
OLD = {"d_in": D, "d_sae": F, "dtype": "torch.float32", "hook_point": "blocks.1.hook_resid_pre", "model_name": "gpt2"}
NEW = {
    "d_in": D,
    "d_sae": F,
    "sae_lens_version": "6.54.12",
    "architecture": "topk",
    "k": K,
    "apply_b_dec_to_input": True,
}
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")


def save(path, fields, a, names=FOUR, **more):
    write_tensors(path / "sae_weights.safetensors", {key: a[key] for key in names} | more)
    write_json(path / "cfg.json", fields)
    return path


def pre_of(a, x):
    return (x - a["b_dec"]) @ a["W_enc"] + a["b_enc"]


def test_a_flat_file_is_a_relu_that_subtracts_b_dec(tmp_path):
    a, x = arrays(), rows()
    sae = minisae.load(save(tmp_path, OLD | {"activation_fn_str": "relu"}, a))
    f = relu(pre_of(a, x))
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])
    assert sae.variant == "relu"
    assert sae.metadata["hook_name"] == "blocks.1.hook_resid_pre"
    assert sae.metadata["model_name"] == "gpt2"
    assert "before 6" in sae.metadata["notes"][0]


def test_a_flat_topk(tmp_path):
    a, x = arrays(), rows()
    own = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": False}
    sae = minisae.load(save(tmp_path, OLD | own | {"architecture": "standard"}, a))
    f = top_k(x @ a["W_enc"] + a["b_enc"], K)
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])


def test_a_flat_jumprelu_with_log_thresholds(tmp_path):
    a, x = arrays(), rows()
    own = {"architecture": "jumprelu", "normalize_activations": None}
    sae = minisae.load(save(tmp_path, OLD | own, a, log_threshold=np.log(a["threshold"])))
    f = above(pre_of(a, x), a["threshold"])
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])
    assert "log_threshold became threshold" in sae.metadata["notes"]


def test_finetuning_scales_the_reconstruction(tmp_path):
    a, x = arrays(), rows()
    factor = np.linspace(1, 2, F).astype(np.float32)
    sae = minisae.load(save(tmp_path, OLD | {"finetuning_scaling_factor": True}, a, scaling_factor=factor))
    f = relu(pre_of(a, x))
    same(sae, x, f, (f * factor) @ a["W_dec"] + a["b_dec"])
    plain = minisae.load(save(tmp_path, OLD, a, scaling_factor=np.ones(F, np.float32)))
    same(plain, x, f, f @ a["W_dec"] + a["b_dec"])
    with pytest.raises(InputError, match=r"expected scaling_factor \(13,\)"):
        minisae.load(save(tmp_path, OLD, a, scaling_factor=factor[:3]))


@pytest.mark.parametrize("version", ["5.11.0", None])
def test_true_meant_the_average_norm_then(version, tmp_path):
    fields = OLD | {"normalize_activations": True, "sae_lens_version": version}
    sae = minisae.load(save(tmp_path, fields, arrays()))
    assert sae.normalise == "none"
    assert "expected_average_only_in does nothing at run time" in sae.metadata["notes"][1]


def test_decoder_norms_that_rank_are_folded(tmp_path):
    a, x = arrays(), rows()
    norms = np.linalg.norm(a["W_dec"], axis=1)
    sae = minisae.load(save(tmp_path, NEW | {"rescale_acts_by_decoder_norm": True}, a))
    f = top_k(pre_of(a, x) * norms, K)
    same(sae, x, f, (f / norms) @ a["W_dec"] + a["b_dec"])
    assert not np.array_equal(f != 0, top_k(pre_of(a, x), K) != 0)


def test_layer_norm_at_run_time(tmp_path):
    a, x = arrays(), 3 * rows() + 1
    sae = minisae.load(save(tmp_path, NEW | {"normalize_activations": "layer_norm"}, a))
    mu = x.mean(axis=1, keepdims=True)
    std = x.std(axis=1, keepdims=True, ddof=1)
    f = top_k(pre_of(a, (x - mu) / (std + 1e-5)), K)
    same(sae, x, f, (f @ a["W_dec"] + a["b_dec"]) * std + mu)


def test_constant_norm_at_run_time(tmp_path):
    a, x = arrays(), 3 * rows() + 1
    sae = minisae.load(save(tmp_path, NEW | {"normalize_activations": "constant_norm_rescale"}, a))
    by = np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)
    f = top_k(pre_of(a, x * by), K)
    same(sae, x, f, (f @ a["W_dec"] + a["b_dec"]) / by)
    assert np.isfinite(sae.reconstruct(np.zeros((1, D), np.float32))).all()  # SAELens has NaN there


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("name", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"])
def test_a_transcoder_normalises_only_what_it_encodes(name, how, tmp_path):
    """Nothing is undone on its output, and the skip connection takes the row as it is."""
    rng, a, x = np.random.default_rng(2), arrays(), 3 * rows() + 1
    a |= {"W_dec": rng.standard_normal((F, 3)).astype("f"), "b_dec": rng.standard_normal(3).astype("f")}
    skip = rng.standard_normal((3, D)).astype(np.float32)
    more = {"threshold": a["threshold"]} if "jumprelu" in name else {}
    more |= {"W_skip": skip} if "skip" in name else {}
    fields = NEW | {"architecture": name, "d_out": 3, "apply_b_dec_to_input": False, "normalize_activations": how}
    sae = minisae.load(save(tmp_path / "theirs", fields, a, **more))
    assert (sae.variant, sae.normalise) == (name, how)
    assert sae.metadata["notes"] == [
        f"each row is normalised before encoding; the output stays, and so does what a skip connection takes: {how}"
    ]
    centred = x - x.mean(axis=1, keepdims=True)
    seen = centred / (centred.std(axis=1, keepdims=True, ddof=1) + 1e-5)
    if how == "constant_norm_rescale":
        seen = x * np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)
    pre = seen @ a["W_enc"] + a["b_enc"]
    f = above(pre, a["threshold"]) if "jumprelu" in name else relu(pre)
    decoded = f @ a["W_dec"] + a["b_dec"]
    same(sae, x, f, decoded + (x @ skip.T if "skip" in name else 0), exact=2e-6)
    np.testing.assert_allclose(sae.decode(sae.encode(x)), decoded, atol=2e-6)
    sae.save(tmp_path / "ours")
    again = minisae.load(tmp_path / "ours")
    assert (again.normalise, again.metadata) == (how, sae.metadata)
    np.testing.assert_array_equal(again.reconstruct(x), sae.reconstruct(x))


def test_the_scale_of_a_training_checkpoint_is_folded(tmp_path):
    a, x = arrays(), rows()
    save(tmp_path, NEW | {"normalize_activations": "expected_average_only_in"}, a)
    write_json(tmp_path / "activation_scaler.json", {"scaling_factor": 2.5})
    f = top_k(pre_of(a, 2.5 * x), K)
    same(minisae.load(tmp_path), x, f, (f @ a["W_dec"] + a["b_dec"]) / 2.5)


@pytest.mark.parametrize("rescale", [True, False])
def test_a_training_checkpoint_of_batchtopk(rescale, tmp_path):
    a, x = arrays(), rows()
    fields = NEW | {"architecture": "batchtopk", "k": 2.6, "rescale_acts_by_decoder_norm": rescale}
    sae = minisae.load(save(tmp_path, fields, a, topk_threshold=np.array(0.8)))
    norms = np.linalg.norm(a["W_dec"], axis=1) if rescale else np.ones(F)
    f = above(pre_of(a, x) * norms, np.float32(0.8)).astype(np.float32)
    same(sae, x, f, (f / norms) @ a["W_dec"] + a["b_dec"])
    assert (sae.variant, sae.cfg.k) == ("batch_topk", 2.6)


def test_heads_side_by_side_are_noted(tmp_path):
    sae = minisae.load(save(tmp_path, NEW | {"reshape_activations": "hook_z"}, arrays()))
    assert "rows are all heads' outputs" in sae.metadata["notes"][0]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening' is not folded; SAELens can"),
        ({"normalize_activations": ["none"]}, "is not folded; SAELens can"),
        ({"k": "3"}, "expected a number for k, got a str"),
        ({"k": None}, "k: expected a whole number of at least 1, got None"),
        ({"d_sae": 10**9}, r"W_enc is \(5, 13\); expected \(d_in, d_sae\) = \(5, 1000000000\)"),
        ({"d_in": -5}, "d_in: expected a whole number of at least 1, got -5"),
        ({"apply_b_dec_to_input": "yes"}, "subtract_b_dec: expected one of True, False, got 'yes'"),
        ({"architecture": ["topk"]}, "expected architecture"),
        ({"architecture": "jumprelu", "target_l0": "x" * 99}, "expected a number for target_l0, got a str"),
        (
            {"metadata": {"minisae": {"variant": "topk", "cfg": {"d_in": D, "d_sae": F, "relu": ["x"]}}}},
            "relu: expected",
        ),
        (
            {"metadata": {"minisae": {"variant": "jumprelu", "cfg": {"d_in": D, "d_sae": F, "kernel": {}}}}},
            "cfg.json: ",
        ),
        ({"metadata": {"minisae": {"variant": ["topk"], "cfg": {}}}}, "expected metadata.minisae with variant and cfg"),
    ],
)
def test_configurations_that_lie_are_refused(change, line, tmp_path):
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(save(tmp_path, NEW | change, arrays()))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
