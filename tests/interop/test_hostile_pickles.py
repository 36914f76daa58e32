"""``torch.save`` files that lie or attack: each is refused in one line that names it, quickly, in little memory."""

import collections
import io
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from minisae.cache.sources import open_tables
from minisae.errors import InputError
from minisae.interop import arrays as in_files
from minisae.interop import torch_pt
from minisae.interop.torch_pickle import Storage, Tensor
from tests.interop.hostile import Call, refused
from tests.interop.tiny import arrays, linears, write_json, write_state


def zipped(path, content, extra=(), root="x/", how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}data.pkl", content, how)
        for name, data in extra:
            file.writestr(name, data, how)
    return path


FORMATS = ("dictionary_learning", "openai", "overcomplete", "qwen_scope", "goodfire")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_calls(format, legacy, tmp_path):
    content = pickle.dumps({"pre_bias": Call(os.system, f"touch {tmp_path / 'mark'}")}, 2)
    path = tmp_path / "x.pt"
    if legacy:
        path.write_bytes(content)
    else:
        zipped(path, content)
    refused(
        path, r"x\.pt: expected tensors only, got a pickle that names posix\.system, which is refused", format=format
    )
    assert not (tmp_path / "mark").exists()
    refused(path, r"posix\.system, which is refused")


def test_a_name_with_line_ends_stays_one_line(tmp_path):
    refused(zipped(tmp_path / "x.pt", b"\x80\x04\x8c\x03a\nb\x8c\x03c\nd\x93."), "names ab.cd, which is refused")


@pytest.mark.parametrize("format", FORMATS)
def test_zip_bombs(format, tmp_path):
    bomb = b"]" * 2**25  # as many empty lists, two gigabytes, in a few kilobytes
    packed = zipped(tmp_path / "x.pt", bomb, how=zipfile.ZIP_DEFLATED)
    refused(packed, "expected a pickle of at most 262144 bytes", format=format)
    packed = zipped(tmp_path / "x.pt", bomb[: 2**17] + b".", how=zipfile.ZIP_DEFLATED)
    refused(packed, "expected an uncompressed data.pkl as torch.save writes it, got a packed one", format=format)
    order = [("x/byteorder", bytes(2**25))]
    refused(zipped(tmp_path / "y.pt", b"}.", order), "expected little-endian values, got others", format=format)


def laughs():
    """A pickle of a list of twice the same list, forty deep: ten bytes a level, 2^40 leaves."""
    out = io.BytesIO()
    out.write(b"\x80\x02]q\x00")
    for level in range(40):
        out.write(b"](h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1]))
    out.write(b".")
    return out.getvalue()


def test_a_pickle_that_grows_when_it_is_walked(tmp_path):
    refused(zipped(tmp_path / "x.pt", laughs()), "expected at most 262144 parts, repetitions counted, got more")
    named = laughs()[:-1] + b"0}X\x01\x00\x00\x00ah(s."
    refused(zipped(tmp_path / "y.pt", named), "y.pt")
    loop = b"\x80\x02]q\x00h\x00a."
    refused(zipped(tmp_path / "z.pt", loop), "expected a file of torch.save")


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def repeated(step, levels=40):
    """A pickle of a value made of twice the same value, ``levels`` deep; it lies in the memo under ``levels``."""
    return b"\x80\x02]q\x00" + b"".join(step % {b"a": bytes([i]), b"b": bytes([i + 1])} for i in range(levels))


NEST = text("a") + b"2\x86" * 60  # a tuple of twice the same tuple, sixty deep: its hash takes 2^60 steps
PART = b"h\x28"
LISTS, TUPLES = repeated(b"0](h%(a)sh%(a)seq%(b)s"), repeated(b"0h%(a)s2\x86q%(b)s")
DICTS = repeated(b"0}(" + text("a") + b"h%(a)s" + text("b") + b"h%(a)suq%(b)s")
TWO = text("pre_bias") + b"K\x01" + text("latent_bias") + b"K\x01"
REPEATED = text("a" * 4000) + b"q\x000"
ATTACKS = {
    "device of joined text": (REPEATED + named("torch", "device") + b"(" + b"h\x00" * 60_000 + b"tR.", "no tensor"),
    "device of long text": (REPEATED + named("torch", "device") + b"h\x00\x85R.", "a device's name"),
    "key that is a tuple": (b"}" + NEST + b"Ns.", "a key that is neither text nor a number"),
    "key of a dict after a mark": (b"(" + NEST + b"Nd.", "a key that is neither text nor a number"),
    "keys that collide": (b"}\x8a\x09" + bytes(8) + b"\x10Ns.", "a key that is neither text nor a number"),
    "set": (b"\x8f(" + NEST + b"\x90.", "the opcode EMPTY_SET"),
    "frozen set": (b"(" + NEST + b"\x91.", "the opcode FROZENSET"),
    "storage of a tuple's type": (b"(" + text("storage") + NEST + text("0") + text("cpu") + b"K\x01tQ.", "a storage"),
    "storage of many parts": (b"(" + b"N" * 60_000 + b"tQ.", "a storage that is no tuple"),
    "size of text": (REPEATED + named("torch", "Size") + b"h\x00\x85R.", "at most 32 whole numbers"),
    "size of many": (named("torch", "Size") + b"(" + b"K\x01" * 33 + b"t\x85R.", "at most 32 whole numbers"),
    "dict of pairs": (named("collections", "OrderedDict") + b"]\x85R.", "got a damaged or foreign one"),
    "parameter of a list": (named("torch._utils", "_rebuild_parameter") + b"]\x85R.", "expected a parameter's tensor"),
    "call of text": (named("torch", "FloatStorage") + b")R.", "a call that rebuilds no tensor"),
    "a name alone": (named("torch", "Size") + b".", "got a function"),
    "lists in lists": (LISTS[2:] + b"0}(" + TWO + text("activation") + PART + b"u.", "repetitions counted"),
    "tuples in tuples": (TUPLES[2:] + b"0}" + text("w") + PART + b"s.", "repetitions counted"),
    "dicts in dicts": (DICTS[2:] + b"0}" + text("w") + PART + b"s.", "repetitions counted"),
    "text many times": (REPEATED + b"}" + text("w") + b"(" + b"h\x00" * 60_000 + b"ts.", "repetitions counted"),
    "many opcodes": (b"]" * 99_999 + b".", "more than 65536 opcodes"),
    "deep": (b"]" * 20_000 + b"a" * 19_999 + b".", "expected a file of torch.save"),
    "long number": (b"\x8b" + struct.pack("<i", 99_999) + b"\x7f" * 99_999 + b".", "a number of more than 128 bits"),
    "digits": (b"I" + b"9" * 99_999 + b"\n.", "expected a file of torch.save"),
}
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
"""Magic number, version and system of the layout before PyTorch 1.6."""


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_short_pickles_that_ask_for_much(attack, legacy, tmp_path):
    content, line = ATTACKS[attack]
    path = tmp_path / "x.pt"
    if legacy:
        path.write_bytes(LEGACY + b"\x80\x04" + content + b"\x80\x02].")
    else:
        zipped(path, b"\x80\x04" + content)
    began = time.process_time()
    refused(path, line)
    assert time.process_time() - began < 20
    started = time.process_time()
    with pytest.raises(InputError):
        open_tables([path])
    assert time.process_time() - started < 20


def test_keys_of_an_old_file_that_are_tuples(tmp_path):
    (tmp_path / "x.pt").write_bytes(LEGACY + b"\x80\x02}.\x80\x02]" + NEST + b"a.")
    refused(tmp_path / "x.pt", "expected the keys of its storages")


def test_a_state_dict_is_read_once_for_all_formats(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(in_files, "read_pt", lambda path, **more: reads.append(path) or {"w": None})
    refused(zipped(tmp_path / "x.pt", b"}."), "a file that is none of them")
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((0, 2**62), (0, 0)),
        ((2**40, 2**40), (0, 0)),
        ((2**61,), (0,)),
        ((0, 2**40, 2**40), (0, 0, 0)),
        ((2,), (2**62,)),
    ],
)
def test_tensors_of_absurd_shape(shape, strides, tmp_path):
    path = zipped(tmp_path / "x.pt", b"}.", [("x/data/0", bytes(4))])
    tensor = Tensor(Storage("0", np.dtype(np.float32), 1), 0, shape, strides)
    with pytest.raises(InputError, match="expected sizes, strides and offsets of a tensor that memory can"):
        torch_pt._array(path, tensor, lambda storage: torch_pt._Bytes(0, 4), np.zeros(4, np.uint8))


@pytest.mark.parametrize("root", ["../", "/", "../../etc/", "x/../"])
def test_names_that_leave_the_archive(root, tmp_path):
    refused(zipped(tmp_path / "x.pt", b"}.", root=root), "expected names inside the archive")


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96"])
def test_lengths_of_ten_gigabytes_in_a_pickle(opcode, tmp_path):
    content = b"\x80\x05" + opcode + struct.pack("<Q", 10 * 2**30) + b"."
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", "expected a file of torch.save")
    refused(zipped(tmp_path / "y.pt", content), "expected a file of torch.save")


def stretched(path, shape):
    """State dicts whose tensors repeat one number by strides of 0: small files of huge arrays."""
    one = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    one += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00"
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in shape) + b"t(" + b"K\x00" * len(shape) + b"t"
    tensor = one + sizes + b"\x89}tR"
    keys = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")
    text = b"".join(b"X" + struct.pack("<I", len(key)) + key.encode() + tensor for key in keys)
    return zipped(path, b"\x80\x02}(" + text + b"u.", [("x/data/0", bytes(4))])


def test_tensors_of_more_numbers_than_the_file_holds(tmp_path):
    refused(stretched(tmp_path / "x.pt", (50_000, 50_000)), "expected 'encoder_linear.weight' to fit the file")


@pytest.mark.parametrize(
    "state",
    [["a"], {1: "a"}, collections.OrderedDict(), {"pre_bias": 1, "latent_bias": []}, {"dictionary._weights": "x"}],
)
def test_contents_that_are_no_state_dict(state, tmp_path):
    refused(zipped(tmp_path / "x.pt", pickle.dumps(state, 2)), "expected")


@pytest.mark.parametrize("key", ["bias", "encoder.weight", "encoder.bias", "decoder.weight"])
@pytest.mark.parametrize("value", [np.float32(1), np.zeros((2, 3, 4), np.float32), np.zeros(0, np.float32), "text", 3])
def test_arrays_of_the_wrong_kind(key, value, tmp_path):
    a = arrays()
    state = linears(a) | {"encoder.bias": a["b_enc"], "bias": a["b_dec"]}
    write_json(tmp_path / "config.json", {"trainer": {"dict_class": "AutoEncoder"}})
    path = write_state(tmp_path / "ae.pt", state | {key: np.asarray(value) if isinstance(value, np.float32) else value})
    refused(path, "ae.pt: ")
