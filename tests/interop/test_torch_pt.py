import collections
import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from minisae.errors import InputError
from minisae.interop.arrays import read_safetensors
from minisae.interop.torch_pt import read_pt
from minisae.interop.torch_write import pt_bytes


def archive(path, content, storages=None):
    """A zip as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", content)
        for key, data in (storages or {}).items():
            file.writestr(f"x/data/{key}", data)
    return path


def refused(path, what):
    with pytest.raises(InputError, match=what) as info:
        read_pt(path)
    assert "\n" not in str(info.value)
    assert path.name in str(info.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves_is_read(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.arange(77.0).reshape(11, 7)
    content = collections.OrderedDict(
        a=x, half=x.half(), bf16=x.bfloat16(), turned=x.T, part=x[3:, 2:4], whole=torch.arange(5), flag=x > 3,
        nested={"p": torch.nn.Parameter(x), "list": [x, 1, "two", None, 3.5]}, scalar=torch.tensor(3.5),
        empty=torch.empty(0, 3), dtype=torch.float32, device=torch.device("cpu"), size=x.shape,
    )  # fmt: skip
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    found = read_pt(tmp_path / "x.pt")
    for name in ("a", "half", "turned", "part", "whole", "flag", "scalar", "empty"):
        assert found[name].dtype == content[name].numpy().dtype
        np.testing.assert_array_equal(found[name], content[name].numpy())
    np.testing.assert_array_equal(found["bf16"].view(np.uint16), x.bfloat16().view(torch.uint16).numpy())
    np.testing.assert_array_equal(found["nested"]["p"], x.numpy())
    assert found["nested"]["list"][1:] == [1, "two", None, 3.5]
    assert (found["dtype"], found["device"], found["size"]) == ("torch.float32", "cpu", (11, 7))
    assert not found["a"].flags.writeable
    torch.save(torch.nn.Linear(3, 5).state_dict(), tmp_path / "y.pt", _use_new_zipfile_serialization=not legacy)
    assert {name: a.shape for name, a in read_pt(tmp_path / "y.pt").items()} == {"weight": (5, 3), "bias": (5,)}


@pytest.fixture
def few_open_files():
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_tensors_than_files_may_be_open(tmp_path, few_open_files):
    x = np.arange(500, dtype=np.float32)
    parts = {f"prompt_{i}": x[i : i + 1] for i in range(len(x))}
    (tmp_path / "x.pt").write_bytes(pt_bytes(parts))
    safetensors.numpy.save_file(parts, tmp_path / "x.safetensors")
    for found in (read_pt(tmp_path / "x.pt"), read_safetensors(tmp_path / "x.safetensors")):
        assert [float(found[name][0]) for name in parts] == x.tolist()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [(os.system, "touch {}", "posix.system"), (eval, "open('{}', 'w')", "builtins.eval"), (io.open, "{}", "io.open")],
)
def test_a_pickle_with_a_call_is_refused_by_name(tmp_path, function, argument, name):
    mark = tmp_path / "mark"
    for protocol in range(6):
        content = pickle.dumps({"a": Call(function, argument.format(mark))}, protocol)
        for path in (archive(tmp_path / "zip.pt", content), tmp_path / "legacy.pt"):
            if path.name == "legacy.pt":
                path.write_bytes(content)
            refused(path, name if protocol > 2 else f"{name.rpartition('.')[2]}, which is refused")
            assert not mark.exists()


def test_the_name_is_in_the_message(tmp_path):
    refused(archive(tmp_path / "x.pt", pickle.dumps(os.system)), r"posix\.system")
    refused(archive(tmp_path / "x.pt", pickle.dumps(Call)), r"test_torch_pt\.Call")
    refused(archive(tmp_path / "x.pt", b"cnumpy\nload\n."), r"numpy\.load")
    refused(archive(tmp_path / "x.pt", b"c__builtin__\neval\n."), "eval")


def tensor(
    storage=b"X\x01\x00\x00\x000", offset=b"K\x00", shape=b"K\x02K\x03\x86", strides=b"K\x03K\x01\x86", count=b"K\x06"
):
    """The pickle of one float32 tensor, with parts that can be forged."""
    place = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + storage + b"X\x03\x00\x00\x00cpu" + count + b"tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + place + offset + shape + strides + b"\x89NtR."


def test_a_tensor_by_hand(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read_pt(archive(tmp_path / "x.pt", tensor(), {"0": x.tobytes()})), x)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": b"K\x01"},
        {"offset": b"J\xff\xff\xff\xff"},
        {"shape": b"K\x03K\x03\x86"},
        {"shape": b"J\xff\xff\xff\xffK\x03\x86"},
        {"shape": b"K\x02K\x03K\x01\x87"},
        {"shape": b"M\xff\xffM\xff\xff\x86", "strides": b"K\x00K\x00\x86", "offset": b"K\x06"},
        {"strides": b"J\xff\xff\xff\xffK\x01\x86"},
        {"strides": b"K\x04K\x01\x86"},
        {"strides": b"N"},
        {"storage": b"X\x01\x00\x00\x001"},
        {"storage": b"K\x00"},
        {"storage": b"X\x04\x00\x00\x00../x"},
        {"count": b"N"},
    ],
)
def test_tensors_that_leave_their_storage_are_refused(tmp_path, change):
    refused(archive(tmp_path / "x.pt", tensor(**change), {"0": bytes(24)}), "expected")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02ctorch\nSize\n}X\x0c\x00\x00\x00__defaults__K\x01sb.",
        b"ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
        b"ctorch\nFloatStorage\n}b.",
        b"K\x01Q.",
    ],
)
def test_odd_pickles_do_no_harm(tmp_path, content):
    path = archive(tmp_path / "x.pt", content)
    with contextlib.suppress(InputError):
        read_pt(path)
    assert not hasattr(collections.OrderedDict, "a")


def test_compressed_storages_and_cut_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", tensor())
        file.writestr("x/data/0", bytes(24))
    refused(tmp_path / "x.pt", "uncompressed")
    whole = archive(tmp_path / "y.pt", tensor(), {"0": bytes(24)}).read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "y.pt").write_bytes(whole[:size])
        refused(tmp_path / "y.pt", "expected")


def test_cut_legacy_files_are_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save(torch.arange(6.0), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x.pt").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "x.pt").write_bytes(whole[:size])
        refused(tmp_path / "x.pt", "expected")
