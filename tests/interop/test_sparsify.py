"""sparsify: its arithmetic written out, old files, transcoders, and the way there and back."""

import json

import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from minisae.interop import sparsify
from minisae.interop.common import Stored
from minisae.sae import VARIANTS
from tests.interop.tiny import D, F, arrays, relu, rows, same, top_k, write_json, write_tensors

K = 3
BASE = {"d_in": D, "num_latents": F, "k": K, "activation": "topk", "expansion_factor": 32, "normalize_decoder": True}


def save(path, a, *, skip=None, **fields):
    tensors = {"encoder.weight": a["W_enc"].T, "encoder.bias": a["b_enc"], "W_dec": a["W_dec"], "b_dec": a["b_dec"]}
    write_tensors(path / "sae.safetensors", tensors | ({} if skip is None else {"W_skip": skip}))
    write_json(path / "cfg.json", BASE | fields)
    return path


def test_an_autoencoder_subtracts_b_dec(tmp_path):
    a, x = arrays(), rows()
    f = top_k((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"], K)
    same(minisae.load(save(tmp_path, a)), x, f, f @ a["W_dec"] + a["b_dec"])


def test_zero_latents_mean_the_expansion_factor(tmp_path):
    a, x = arrays(latents=15), rows()
    sae = minisae.load(save(tmp_path, a, num_latents=0, expansion_factor=3))
    f = top_k((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"], K)
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])


def test_an_old_file_names_no_activation(tmp_path):
    a = arrays()
    save(tmp_path, a)
    fields = {key: value for key, value in BASE.items() if key != "activation"}
    write_json(tmp_path / "cfg.json", fields)
    sae = minisae.load(tmp_path)
    assert (sae.variant, sae.cfg.k) == ("topk", K)
    assert "no activation" in sae.metadata["notes"][0]


def test_groupmax(tmp_path):
    if "group_max" not in VARIANTS:
        pytest.skip("no variant group_max")
    a, x = arrays(latents=15), rows()
    sae = minisae.load(save(tmp_path, a, num_latents=15, activation="groupmax", k=3))
    pre = relu((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"]).reshape(len(x), 3, 5)
    best = pre.argmax(axis=-1)
    f = np.zeros_like(pre)
    np.put_along_axis(f, best[..., None], np.take_along_axis(pre, best[..., None], -1), -1)
    f = f.reshape(len(x), 15)
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])


def test_multi_topk_is_a_topk_in_use(tmp_path):
    if "multi_topk" not in VARIANTS:
        pytest.skip("no variant multi_topk")
    a, x = arrays(), rows()
    sae = minisae.load(save(tmp_path / "theirs", a, multi_topk=True))
    f = top_k((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"], K)
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])
    assert sae.variant == "multi_topk"
    assert sparsify.export(tmp_path / "ours", Stored(*sae)) == []
    assert minisae.load(tmp_path / "ours").cfg == sae.cfg


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_read_rows_as_they_are(skip, tmp_path):
    a, x = arrays(), rows()
    W_skip = np.random.default_rng(5).standard_normal((D, D)).astype(np.float32) if skip else None
    sae = minisae.load(save(tmp_path, a, skip=W_skip, transcode=True, skip_connection=skip))
    f = top_k(x @ a["W_enc"] + a["b_enc"], K)
    y_hat = f @ a["W_dec"] + a["b_dec"] + (x @ W_skip.T if skip else 0)
    same(sae, x, f, y_hat)
    assert sae.variant == ("skip_transcoder" if skip else "transcoder")


@pytest.mark.parametrize("fields", [{}, {"transcode": True}, {"transcode": True, "skip_connection": True}])
def test_the_way_there_and_back_changes_no_bit(fields, tmp_path):
    W_skip = np.ones((D, D), np.float32) if "skip_connection" in fields else None
    sae = minisae.load(save(tmp_path / "theirs", arrays(), skip=W_skip, **fields))
    assert sparsify.export(tmp_path / "ours", Stored(*sae)) == []
    again = minisae.load(tmp_path / "ours")
    assert (again.variant, again.cfg) == (sae.variant, sae.cfg)
    theirs, ours = (sparsify.read_safetensors(tmp_path / p / "sae.safetensors") for p in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"activation": "spline"}, "expected activation topk or groupmax, got 'spline'"),
        ({"activation": ["topk"]}, "expected activation"),
        ({"k": -1}, "expected a whole number above 0 for k, got '-1'"),
        ({"k": "3"}, "expected a whole number above 0 for k"),
        ({"k": F + 1}, "k: expected at most d_sae = 13, got 14"),
        ({"d_in": 1e9}, "expected a whole number above 0 for d_in"),
        ({"num_latents": 10**9}, r"W_enc is \(5, 13\)"),
        ({"num_latents": [13]}, "d_sae: expected a whole number"),
        ({"num_latents": 0, "expansion_factor": 0}, "expected a whole number above 0 for expansion_factor"),
        ({"skip_connection": True}, "expected a transcoder with topk, got topk, or no transcoder"),
        ({"minisae": []}, "expected minisae to hold variant topk and cfg"),
        ({"minisae": {"variant": "topk", "cfg": {"spline": 1}}}, "topk has no option spline"),
    ],
)
def test_configurations_that_lie_are_refused(change, line, tmp_path):
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(save(tmp_path, arrays(), **change))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_was_trained_here_keeps_its_options(tmp_path):
    sae = minisae.train(rows(n=31), d_sae=11, k=2, steps=3, batch_size=7, options={"auxk": 0.25})
    sparsify.export(tmp_path, Stored(*sae))
    assert minisae.load(tmp_path).cfg == sae.cfg
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_decoder"] is True
