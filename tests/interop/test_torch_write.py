"""State dicts written without torch: what torch reads from them, and what our reader does."""

import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.interop.torch_pickle import STORAGES
from minisae.interop.torch_pt import read_pt
from minisae.interop.torch_write import ALIGN, pt_bytes

DTYPES = sorted(STORAGES.values(), key=str)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
arrays = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype),
    shapes, st.sampled_from(DTYPES), st.integers(0, 99),
)  # fmt: skip
values = st.one_of(arrays, st.text(max_size=9), st.integers(-(2**63), 2**63 - 1))
states = st.dictionaries(st.text(min_size=1, max_size=9), values, max_size=5)


@given(states)
def test_what_is_written_is_read(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("pt") / "x.pt"
    path.write_bytes(pt_bytes(state))
    found = read_pt(path)
    assert list(found) == list(state)
    for name, value in state.items():
        assert type(found[name]) is type(value)
        np.testing.assert_array_equal(found[name], value)
        assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None)


def example():
    x = np.arange(77, dtype=np.float32).reshape(7, 11)
    return {
        "a": x, "turned": x.T, "k": np.array(5, np.int32), "none": np.zeros((0, 3)), "flag": x > 3,
        "bf16": x.astype(ml_dtypes.bfloat16), "activation": "TopK", "step": -7,
    }  # fmt: skip


def test_equal_input_gives_equal_bytes_at_aligned_places(tmp_path):
    data = pt_bytes(example())
    assert data == pt_bytes(example())
    (tmp_path / "x.pt").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        for info in archive.infolist():
            head = data[info.header_offset :]
            start = 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            assert (info.header_offset + start) % ALIGN == 0
            assert info.compress_type == zipfile.ZIP_STORED


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_it_as_weights_only(mapped, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra peers)")
    (tmp_path / "x.pt").write_bytes(pt_bytes(example()))
    found = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mapped)
    assert (found["activation"], found["step"]) == ("TopK", -7)
    assert found["bf16"].dtype == torch.bfloat16
    np.testing.assert_array_equal(found["bf16"].float().numpy(), example()["a"])
    for name in ("a", "turned", "k", "none", "flag"):
        np.testing.assert_array_equal(found[name].numpy(), example()[name])
        assert found[name].numpy().dtype == example()[name].dtype
