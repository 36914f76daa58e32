"""Llama Scope: the scale of training rows folded, one threshold for all; and its distilled files."""

import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from tests.interop.tiny import D, F, above, arrays, rows, same, write_json, write_tensors

FIELDS = {
    "d_model": D, "d_sae": F, "jump_relu_threshold": 0.9, "hook_point_in": "blocks.3.hook_resid_post",
    "dataset_average_activation_norm": {"in": 1.7, "out": 1.3}, "act_fn": "jumprelu",
}  # fmt: skip


def tensors(a):
    return {
        "encoder.weight": a["W_enc"].T,
        "encoder.bias": a["b_enc"],
        "decoder.weight": a["W_dec"].T,
        "decoder.bias": a["b_dec"],
    }


def save(path, a, **change):
    write_tensors(path / "checkpoints" / "final.safetensors", tensors(a))
    write_json(path / "hyperparams.json", FIELDS | change)
    return path


def test_raw_rows_go_in_and_come_out(tmp_path):
    a, x = arrays(), rows()
    sae = minisae.load(save(tmp_path, a))
    into, out = np.sqrt(D) / 1.7, np.sqrt(D) / 1.3
    f = above((x * into) @ a["W_enc"] + a["b_enc"], 0.9 * into)
    same(sae, x, f.astype(np.float32), (f @ a["W_dec"] + a["b_dec"]) / out)
    assert sae.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert len(sae.metadata["notes"]) == 2


OUT = {"hook_point_in": "blocks.3.ln2.hook_normalized", "hook_point_out": "blocks.3.hook_mlp_out"}


def test_two_hooks_mean_a_transcoder(tmp_path):
    """The target has a scale of its own: by it the output comes back."""
    a, x = arrays(), rows()
    sae = minisae.load(save(tmp_path, a, **OUT))
    into, out = np.sqrt(D) / 1.7, np.sqrt(D) / 1.3
    f = above((x * into) @ a["W_enc"] + a["b_enc"], 0.9 * into)
    same(sae, x, f.astype(np.float32), (f @ a["W_dec"] + a["b_dec"]) / out)
    assert (sae.variant, sae.cfg.d_out) == ("jumprelu_transcoder", D)
    assert sae.metadata["hook_name"] == OUT["hook_point_in"]
    assert sae.metadata["hook_name_out"] == OUT["hook_point_out"]
    for hook in (None, FIELDS["hook_point_in"]):
        assert minisae.load(save(tmp_path, a, hook_point_out=hook)).variant == "jumprelu"


@pytest.mark.parametrize("known", [True, False])
def test_distilled_files(known, tmp_path):
    a, x = arrays(), rows()
    write_tensors(tmp_path / "sae_weights.safetensors", tensors(a) | {"log_jumprelu_threshold": np.log(a["threshold"])})
    norms = {"dataset_average_activation_norm": {"in": 1.7}} if known else {}
    write_json(tmp_path / "config.json", {"d_model": D, "expansion_factor": 8} | norms)
    sae = minisae.load(tmp_path)
    s = np.sqrt(D) / 1.7 if known else 1.0
    f = above((x * s) @ a["W_enc"] + a["b_enc"], a["threshold"])
    same(sae, x, f, (f @ a["W_dec"] + a["b_dec"]) / s)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"d_sae": F + 1}, r"W_enc is \(5, 13\)"),
        ({"d_model": "5"}, "expected a whole number above 0 for d_model"),
        ({"jump_relu_threshold": float("nan")}, "expected a number above 0 for jump_relu_threshold, got 'nan'"),
        ({"jump_relu_threshold": None}, "expected a number above 0 for jump_relu_threshold"),
        ({"dataset_average_activation_norm": {"in": 0}}, "expected a number above 0 for in"),
        (
            {"dataset_average_activation_norm": [1]},
            "expected dataset_average_activation_norm with in and out, got list",
        ),
        ({"act_fn": "topk"}, "expected act_fn jumprelu, got 'topk'"),
        ({"hook_point_out": 3}, "expected hook_point_out to be text, got a int"),
        (OUT | {"dataset_average_activation_norm": {"in": 1.7}}, "expected a number above 0 for out: there is none"),
        (OUT | {"d_model": D + 1}, r"W_enc is \(5, 13\); expected \(d_in, d_sae\) = \(6, 13\)"),
    ],
)
def test_configurations_that_lie_are_refused(change, line, tmp_path):
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(save(tmp_path, arrays(), **change))
    assert "\n" not in str(caught.value)
