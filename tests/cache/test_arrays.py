import ml_dtypes
import numpy as np
import pytest

from minisae.cache import array_source, view, write_cache
from minisae.cache.arrays import bad_rows, to_floats, to_numpy
from minisae.errors import InputError

from .helpers import rows

BF16 = np.dtype(ml_dtypes.bfloat16)


class ByDLPack:
    """What a framework offers that speaks DLPack alone."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **kwargs):
        return self.a.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class ByArray:
    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


class OnDevice:
    """CuPy's way: ``get`` copies to the host, ``__array__`` is refused."""

    def __init__(self, a):
        self.a, self.__cuda_array_interface__ = a, {}

    def get(self):
        return self.a

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion")


@pytest.mark.parametrize("wrap", [np.asarray, ByDLPack, ByArray, OnDevice, np.ndarray.tolist])
def test_protocols(wrap):
    x = rows(7, 5)
    np.testing.assert_array_equal(to_numpy(wrap(x)), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_tensors(tmp_path, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.from_numpy(rows(14, 5)).to(getattr(torch, dtype))
    for t in (x.requires_grad_(), x.detach().T.contiguous().T, torch.nn.Parameter(x.detach())):
        found = to_floats(t)
        assert found.dtype.name == dtype
        np.testing.assert_array_equal(found.astype(np.float32), rows(14, 5))
    cache = write_cache(tmp_path / "c", iter([x[:6].reshape(2, 3, 5), x[6:12].reshape(2, 3, 5)]))
    np.testing.assert_array_equal(view(cache).read(0, 12).x, rows(14, 5)[:12])


def test_bf16_stays_bf16_bit_by_bit(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    x = bits.view(BF16).reshape(-1, 1)
    x = x[np.isfinite(x.astype(np.float32))[:, 0]]
    cache = write_cache(tmp_path / "c", [x])
    np.testing.assert_array_equal(view(cache).read(0, len(x)).x.astype(BF16).view(np.uint16), x.view(np.uint16))


def test_nameless_bf16_needs_the_word(tmp_path):
    np.save(tmp_path / "x.npy", rows(7, 5).astype(BF16))
    loaded = np.load(tmp_path / "x.npy")
    for bits in (loaded, loaded.view(np.uint16)):
        with pytest.raises(InputError, match="bfloat16"):
            to_floats(bits)
        np.testing.assert_array_equal(to_floats(bits, source_dtype="bf16").astype(np.float32), rows(7, 5))
    with pytest.raises(InputError, match="float16, bfloat16"):
        to_floats(np.zeros((2, 3), np.complex64), source_dtype="bf16")


def test_big_endian_values_are_read(tmp_path):
    np.testing.assert_array_equal(array_source(rows(7, 5).astype(">f4")).read(0, 7).x, rows(7, 5))
    cache = write_cache(tmp_path / "c", [rows(7, 5).astype(">f8")])
    np.testing.assert_array_equal(view(cache).read(0, 7).x, rows(7, 5))


@pytest.mark.parametrize("dtype", [BF16, np.float16, np.float32, np.float64])
def test_bad_rows_are_those_numpy_calls_not_finite(dtype):
    pick = np.random.default_rng(0)
    x = pick.integers(0, 2**16, (997, 3), dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        x = x.view(BF16 if dtype == BF16 else np.float16).astype(dtype)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(bad_rows(x), ~np.isfinite(x.astype(np.float32)).all(axis=1))
    assert bad_rows(x).any()


def test_objects_without_an_array_are_refused():
    for thing in (object(), "abc", 3, None, [[1.0], [2.0, 3.0]]):
        with pytest.raises(InputError, match="array"):
            to_numpy(thing)
