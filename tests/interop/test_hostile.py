"""Files that lie or attack: each is refused in one line that names the file, and no memory is taken for it."""

import io
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import minisae
from minisae.cache.commands import opened
from minisae.cache.sources import open_tables
from minisae.errors import InputError
from minisae.evaluate import held_out_rows
from tests.interop.hostile import LIMIT, Call, refused
from tests.interop.tiny import D, F, arrays, linears, write_json, write_state, write_tensors

# Folders with a safetensors file: what its name is, and the configuration beside it.

JUMP = {
    "d_in": D, "d_sae": F, "architecture": "jumprelu", "sae_lens_version": "6.54.12", "apply_b_dec_to_input": False,
}  # fmt: skip
FOLDERS = {
    "saelens": ("sae_weights.safetensors", {"cfg.json": JUMP}),
    "sparsify": ("sae.safetensors", {"cfg.json": {"d_in": D, "num_latents": F, "k": 3}}),
    "gemma_scope_2": ("params.safetensors", {"config.json": {"architecture": "jump_relu"}}),
    "llama_scope": (
        "checkpoints/final.safetensors",
        {
            "hyperparams.json": {
                "d_model": D, "d_sae": F, "jump_relu_threshold": 0.5, "dataset_average_activation_norm": {"in": 2.0},
            }
        },
    ),
}  # fmt: skip


def tensors_of(name):
    a = arrays()
    lower = {"w_enc": a["W_enc"], "w_dec": a["W_dec"], "b_enc": a["b_enc"], "b_dec": a["b_dec"]}
    layers = linears(a) | {"encoder.bias": a["b_enc"], "decoder.bias": a["b_dec"]}
    return {
        "saelens": {key: a[key] for key in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")},
        "sparsify": {
            "encoder.weight": a["W_enc"].T, "encoder.bias": a["b_enc"], "W_dec": a["W_dec"], "b_dec": a["b_dec"],
        },
        "gemma_scope_2": lower | {"threshold": a["threshold"]},
        "llama_scope": layers,
    }[name]  # fmt: skip


def folder(path, name):
    weights, configs = FOLDERS[name]
    for file, fields in configs.items():
        write_json(path / file, fields)
    return write_tensors(path / weights, tensors_of(name))


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_is_read_before_it_is_damaged(name, tmp_path):
    folder(tmp_path, name)
    assert minisae.load(tmp_path).cfg.d_sae == F


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("length", [10 * 2**30, 2**63, 2**64 - 1])
def test_a_header_of_ten_gigabytes(name, length, tmp_path):
    path = folder(tmp_path, name)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(tmp_path, f"{path.name}: expected a safetensors header of at most .* bytes, got a length of {length}")


def overlapping(header, first):
    second = next(key for key in header if key not in (first, "__metadata__"))
    header[first] = dict(header[second])


def negative(header, first):
    low, high = header[first]["data_offsets"]
    header[first]["data_offsets"] = [low - 4, high]
    header[first]["data_offsets"][0] = -4


def longer(header, first):
    header[first]["data_offsets"][1] += 10**12


def bigger(header, first):
    header[first]["shape"] = [10**9, 10**9]


def backwards(header, first):
    header[first]["data_offsets"].reverse()


def unknown(header, first):
    header[first]["dtype"] = "F4096"


def objects(header, first):
    header[first] = [header[first]]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("damage", [overlapping, negative, longer, bigger, backwards, unknown, objects])
def test_headers_that_lie(name, damage, tmp_path):
    path = folder(tmp_path, name)
    header, body = header_of(path)
    damage(header, next(key for key in header if key != "__metadata__"))
    with_header(path, header, body)
    refused(tmp_path, f"{path.name}: expected")


@pytest.mark.parametrize("name", FOLDERS)
def test_headers_that_are_no_json(name, tmp_path):
    path = folder(tmp_path, name)
    for text in (b"[" * 100_000, b"{", b"[]", b'{"a": 1}', b'{"a": {}, "a": {}}', b"\xff"):
        with_header(path, text)
        refused(tmp_path, f"{path.name}: expected")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(name, value, tmp_path):
    path = folder(tmp_path, name)
    tensors = tensors_of(name)
    key = "threshold" if "threshold" in tensors else "encoder.bias"
    tensors[key] = tensors[key].copy()
    tensors[key][3] = value
    write_tensors(path, tensors)
    refused(tmp_path, f"{path.name}: (threshold|b_enc) has 1 entries that are not finite")


@pytest.mark.parametrize("name", FOLDERS)
def test_shapes_that_do_not_belong_together(name, tmp_path):
    path = folder(tmp_path, name)
    for key, tensor in tensors_of(name).items():
        for wrong in (tensor[..., :-1], tensor.reshape(-1), tensor[None], tensor.astype(np.int32)):
            if wrong.shape != tensor.shape or wrong.dtype != tensor.dtype:
                write_tensors(path, tensors_of(name) | {key: wrong})
                refused(tmp_path, path.name)


CONFIGS = [(name, file) for name, (_, configs) in FOLDERS.items() for file in configs] + [
    ("dictionary_learning", "config.json")
]


@pytest.mark.parametrize(("name", "file"), CONFIGS)
@pytest.mark.parametrize("attack", ["gigabytes", "deep", "list", "bytes", "digits", "none"])
def test_configurations_that_attack(name, file, attack, tmp_path):
    if name == "dictionary_learning":
        write_state(tmp_path / "ae.pt", linears(arrays()))
    else:
        folder(tmp_path, name)
    path = tmp_path / file
    if attack == "gigabytes":
        with path.open("wb") as out:
            out.truncate(4 * 2**30)  # a hole: no disk is used
    else:
        text = {
            "deep": b'{"a":' * 50_000,
            "list": b"[1]",
            "bytes": b"\xff\xfe",
            "digits": b'{"k": ' + b"9" * 10_000 + b"}",
        }
        path.write_bytes(text.get(attack, b"null"))
    refused(tmp_path, f"{file}: (expected|not readable as JSON)")


def test_a_size_that_lies_where_a_number_is_spread(tmp_path):
    tensors = {key: value for key, value in tensors_of("saelens").items() if key != "threshold"}
    path = folder(tmp_path, "saelens")
    write_tensors(path, tensors | {"topk_threshold": np.array(0.5)})
    write_json(tmp_path / "cfg.json", JUMP | {"architecture": "batchtopk", "k": 3, "d_sae": 10**12})
    refused(tmp_path, r"W_enc is \(5, 13\)")


@pytest.mark.parametrize("shape", [(0, 10**12), (10**12, 0)])
def test_empty_arrays_of_great_width(shape, tmp_path):
    path = folder(tmp_path, "sparsify")
    header, body = header_of(path)
    header["W_dec"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(body), len(body)]}
    with_header(path, header, body)
    refused(tmp_path, "expected an array W_dec with entries")
    none = linears(arrays()) | {"dictionary._weights": np.empty((0, 10**12), np.float32)}
    refused(write_state(tmp_path / "x.pt", none), "expected an array dictionary._weights with entries")


@pytest.mark.parametrize("shape", [[0, 10**30], [2**40, 2**40, 0], [1] * 70, [0] * 70, [0, 2**61], [0, 10**4000]])
@pytest.mark.parametrize("name", FOLDERS)
def test_shapes_no_array_can_have(name, shape, tmp_path):
    path = folder(tmp_path, name)
    header, body = header_of(path)
    first = next(key for key in header if key != "__metadata__")
    header[first] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * all(shape)]}
    with_header(path, header, body)
    refused(tmp_path, f"{path.name}: expected a shape that memory can have")


def test_names_with_line_ends_and_of_great_length(tmp_path):
    path = folder(tmp_path, "sparsify")
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    with_header(path, {"a\nb": empty, "\ud800": empty, "c" * 9999: empty})
    refused(tmp_path, r"expected an array encoder\.weight, found 'a\\nb")
    with_header(path, {"c" * 9999: empty | {"shape": [10**30]}})
    refused(tmp_path, "expected a shape that memory can have")
    with_header(path, {"c": empty | {"data_offsets": [10**4000, 10**4000]}})
    refused(tmp_path, "expected whole numbers from 0 to 2.62")


@pytest.mark.parametrize("value", [10**4000, 10**300, [[[[]]]] * 99, "a\nb", "\u00b2", float("inf"), {"a": "\ud800"}])
@pytest.mark.parametrize("key", ["d_in", "d_sae", "architecture", "normalize_activations"])
def test_values_of_a_configuration_that_nobody_writes(key, value, tmp_path):
    folder(tmp_path, "saelens")
    write_json(tmp_path / "cfg.json", JUMP | {key: value})
    refused(tmp_path, "saelens0|cfg.json|W_enc" if key.startswith("d_") else "cfg.json")


# npz files.


def npz(path, a=None, **change):
    np.savez(path, **({key: arrays()[key] for key in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")} | change))
    return path


def test_an_npz_bomb(tmp_path):
    np.savez_compressed(tmp_path / "params.npz", W_enc=np.zeros((5000, 13_000), np.float32))
    assert (tmp_path / "params.npz").stat().st_size < 2**20
    refused(tmp_path / "params.npz", r"expected arrays, got 'W_enc' that unpacks to 260000\d+ bytes")


def test_npz_headers_that_lie(tmp_path):
    path = npz(tmp_path / "params.npz")
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for shape in ("(999999999, 999999999)", "(-5, 13)", "(5, 14)"):
        member = io.BytesIO()
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(5 * 13 * 4))
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (members | {"W_enc.npy": member.getvalue()}).items():
                archive.writestr(name, data)
        refused(path, "params.npz: expected")


def test_pickled_objects_in_an_npz(tmp_path):
    path = npz(tmp_path / "params.npz", W_enc=np.array([[Call(os.system, f"touch {tmp_path / 'mark'}")]], object))
    refused(path, "got pickled objects in 'W_enc', which are never loaded")
    assert not (tmp_path / "mark").exists()


NPY = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }"
HEADERS = {
    "wide": NPY % ("'<f4'", False, (0, 10**30)),
    "wide and turned": NPY % ("'<f4'", True, (0, 10**30)),
    "product": NPY % ("'<f4'", False, (2**40, 2**40, 0)),
    "axes": NPY % ("'<f4'", False, (0,) * 70),
    "negative": NPY % ("'<f4'", False, (-1, 3)),
    "digits": NPY % ("'<f4'", False, f"({'9' * 6000},)"),
    "nothing wide": NPY % ("'|S0'", False, (2**40, 2**40)),
    "objects": NPY % ("'|O'", False, (0,)),
    "objects inside": NPY % ("[('a', '|O')]", False, (0,)),
    "open brackets": NPY % ("'<f4'", False, "(" * 4000),
    "deep brackets": NPY % ("'<f4'", False, "(" * 199 + ")" * 199),
    "signs": NPY % ("'<f4'", False, "-" * 5000 + "1"),
    "long": NPY % ("'<f4'", False, (3,)) + " " * 20_000,
    "none": "None",
}


def npy_bytes(header, length=None):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length) + text


@pytest.mark.parametrize("length", [None, 2**32 - 1])
@pytest.mark.parametrize("case", HEADERS)
def test_npy_headers_that_attack(case, length, tmp_path):
    npy, inside = tmp_path / "x.npy", tmp_path / "x.npz"
    npy.write_bytes(npy_bytes(HEADERS[case], length))
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("W_enc.npy", npy.read_bytes())
    refused(inside, "x.npz: expected")
    for path, call in ((npy, lambda: opened(npy, verify=False)), (npy, None), (inside, None)):
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=f"{path.name}: expected") as caught:
                call() if call else open_tables([path])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "\n" not in str(caught.value)
        assert peak < LIMIT, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("name", ["../W_enc.npy", "/W_enc.npy", "a/W_enc.npy", "..\\W_enc.npy", "W_enc.txt"])
def test_npz_names_that_are_paths(name, tmp_path):
    path = npz(tmp_path / "params.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    refused(path, "expected arrays NAME.npy, got a member")
    assert not (tmp_path.parent / "W_enc.npy").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"threshold": np.full(F, np.nan, np.float32)}, "threshold has 13 entries that are not finite"),
        ({"threshold": np.float32(1)}, "threshold is"),
        ({"W_dec": np.zeros((D, F), np.float32)}, r"W_dec is \(5, 13\); expected \(d_sae, d_in\) = \(13, 5\)"),
        ({"W_enc": np.zeros(65, np.float32)}, "expected a matrix of encoder weights"),
        ({"b_dec": np.zeros(D, "U3")}, "b_dec is <U3; expected a float type"),
    ],
)
def test_arrays_of_an_npz_that_lie(change, line, tmp_path):
    refused(npz(tmp_path / "params.npz", **change), line)


def test_a_cut_npz(tmp_path):
    path = npz(tmp_path / "params.npz")
    whole = path.read_bytes()
    for size in range(0, len(whole), 101):
        path.write_bytes(whole[:size])
        refused(path, "expected an .npz file")


@pytest.mark.parametrize("selection", ["all", {"filters": 3}, {"filters": {"spline": 1}}, None, [1]])
def test_metadata_that_are_not_ours(selection, tmp_path):
    folder(tmp_path, "saelens")
    write_json(tmp_path / "cfg.json", JUMP | {"metadata": {"selection": selection, "rows": "many"}})
    sae = minisae.load(tmp_path)
    with pytest.raises(InputError, match="metadata: expected selection to be what training here notes"):
        held_out_rows(sae, np.zeros((7, D), np.float32))
