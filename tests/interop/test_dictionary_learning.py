"""dictionary_learning: every class, its arithmetic written out; what is written is read back to the same bits."""

import json

import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from minisae.interop import dictionary_learning
from minisae.interop.common import Stored
from tests.interop.tiny import D, F, above, arrays, linears, relu, rows, same, top_k, write_json, write_state

K = 3


def state_of(name, a):
    """The state dict that a class of the library saves."""
    biased = linears(a) | {"encoder.bias": a["b_enc"]}
    named = {key: a[key] for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
    counted = {"k": np.array(K, np.int32), "threshold": np.array(0.7, np.float32)}
    return {
        "AutoEncoder": biased | {"bias": a["b_dec"]},
        "AutoEncoderNew": biased | {"decoder.bias": a["b_dec"]},
        "GatedAutoEncoder": linears(a)
        | {"gate_bias": a["b_enc"], "mag_bias": a["b_mag"], "r_mag": a["r_mag"], "decoder_bias": a["b_dec"]},
        "JumpReluAutoEncoder": named | {"threshold": a["threshold"]},
        "AutoEncoderTopK": biased | {"b_dec": a["b_dec"]} | counted,
        "BatchTopKSAE": biased | {"b_dec": a["b_dec"]} | counted,
        "MatryoshkaBatchTopKSAE": named | counted | {"group_sizes": np.array([3, 4, 6])},
    }[name]


def code_of(name, a, x):
    """The library's own code (as of August 2025)."""
    seen = x if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - a["b_dec"]
    z = seen @ a["W_enc"]
    pre = z + a["b_enc"]
    if name in ("AutoEncoder", "AutoEncoderNew"):
        return relu(pre)
    if name == "GatedAutoEncoder":
        return (pre > 0) * relu(np.exp(a["r_mag"]) * z + a["b_mag"])
    if name == "JumpReluAutoEncoder":
        return relu(pre * (pre > a["threshold"]))
    return top_k(pre, K) if name == "AutoEncoderTopK" else above(pre, 0.7)


CLASSES = tuple(dictionary_learning.CLASSES)


def save(path, name, a, **more):
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "lm_name": "m", "submodule_name": "h"}
    write_state(path / "ae.pt", state_of(name, a))
    write_json(path / "config.json", {"trainer": trainer | ({"k": K} if "TopK" in name else {}) | more, "buffer": {}})
    return path


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_computes_what_the_library_does(name, tmp_path):
    a, x = arrays(), rows()
    sae = minisae.load(save(tmp_path, name, a))
    f = code_of(name, a, x)
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])
    assert sae.metadata["format"] == "dictionary_learning"
    assert (sae.metadata["model_name"], sae.metadata["hook_name"]) == ("m", "h")
    assert name in sae.metadata["notes"][0]


@pytest.mark.parametrize("name", CLASSES)
def test_the_way_there_and_back_changes_no_bit(name, tmp_path):
    a = arrays()
    sae = minisae.load(save(tmp_path / "theirs", name, a))
    notes = dictionary_learning.export(tmp_path / "ours", Stored(*sae))
    assert notes == []
    again = minisae.load(tmp_path / "ours")
    assert (again.variant, again.cfg) == (sae.variant, sae.cfg)
    for key, p in sae.params.items():
        np.testing.assert_array_equal(again.params[key], p)
    theirs, ours = (dictionary_learning.read_state(tmp_path / folder / "ae.pt") for folder in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
        assert ours[key].dtype == value.dtype
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["trainer"]["dict_class"] == name


@pytest.mark.parametrize("name", CLASSES)
def test_a_state_dict_alone_is_read_where_its_names_are_one_class_s(name, tmp_path):
    a, x = arrays(), rows()
    path = write_state(tmp_path / "x.pt", state_of(name, a))
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        with pytest.raises(InputError, match="none of them"):
            minisae.load(path)
        with pytest.raises(
            InputError, match=r"expected dict_class one of [^\n]*; no config.json names it; [^\n]*--set dict_class=…$"
        ):
            minisae.load(path, format="dictionary_learning")
        sae = minisae.load(path, format="dictionary_learning", options={"dict_class": name})
    else:
        sae = minisae.load(path)
    np.testing.assert_allclose(sae.encode(x), code_of(name, a, x), atol=1e-6)


def test_a_checkpoint_of_training_finds_its_configuration(tmp_path):
    a, x = arrays(), rows()
    save(tmp_path, "BatchTopKSAE", a)
    path = write_state(tmp_path / "checkpoints" / "ae_500.pt", state_of("BatchTopKSAE", a))
    np.testing.assert_allclose(minisae.load(path).encode(x), code_of("BatchTopKSAE", a, x), atol=1e-6)


def test_a_threshold_that_was_never_set_is_relu(tmp_path):
    a, x = arrays(), rows()
    save(tmp_path, "BatchTopKSAE", a)
    write_state(tmp_path / "ae.pt", state_of("BatchTopKSAE", a) | {"threshold": np.array(-1, np.float32)})
    np.testing.assert_allclose(minisae.load(tmp_path).encode(x), relu((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"]), 1e-5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"dict_class": "IdentityDict"}, "expected dict_class one of .*; got 'IdentityDict'"),
        ({"dict_class": "CrossCoder"}, "got 'CrossCoder'"),
        ({"dict_class": ["AutoEncoder"]}, "expected dict_class"),
        ({"dict_size": F + 1}, r"W_enc is \(5, 13\); expected \(d_in, d_sae\) = \(5, 14\)"),
        ({"activation_dim": -1}, "d_in: expected a whole number of at least 1, got -1"),
        ({"activation_dim": [5]}, "d_in: expected a whole number"),
        ({"k": 4}, "expected one whole k, got 3 here and 4 in config.json"),
    ],
)
def test_configurations_that_lie_are_refused(change, line, tmp_path):
    save(tmp_path, "AutoEncoderTopK", arrays(), **change)
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": np.array(-1, np.int32)}, "config.json"),
        ({"k": np.array([1, 2], np.int32)}, "expected one finite number k"),
        ({"k": "3"}, "expected one finite number k"),
        ({"threshold": np.array(np.nan, np.float32)}, "expected one finite number threshold"),
        ({"group_sizes": np.array([3, 4, 7])}, "group_sizes above 0 that sum to 13"),
        ({"group_sizes": np.array([-1, 8, 6])}, "group_sizes above 0 that sum to 13"),
        ({"group_sizes": np.array([3.0, 4.0, 6.0])}, "expected group_sizes, whole numbers"),
        ({"W_dec": np.zeros((F, D), np.int64)}, "W_dec is int64; expected a float type"),
        ({"b_enc": np.full(F, np.inf, np.float32)}, "b_enc has 13 entries that are not finite"),
    ],
)
def test_state_dicts_that_lie_are_refused(change, line, tmp_path):
    save(tmp_path, "MatryoshkaBatchTopKSAE", arrays())
    write_state(tmp_path / "ae.pt", state_of("MatryoshkaBatchTopKSAE", arrays()) | change)
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(tmp_path)
    assert "\n" not in str(caught.value)
