"""The costume itself: every mistake that a GPU would refuse, or that would make it wait, is reported."""

import numpy as np
import pytest

from minisae.backend import backend_of, namespace, to_device, to_host
from tests.costume import SyncError, no_sync, recorded, xp

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def a():
    return to_device(HOST, "costume")


def test_the_library_takes_it_for_a_backend(a):
    assert namespace(a) is xp
    assert backend_of(a) == "costume"
    assert to_device(a, "costume") is a
    np.testing.assert_array_equal(to_host(a), HOST)
    assert isinstance(a, xp.ndarray)


def test_to_device_copies(a):
    a[0] = 7
    assert HOST[0, 1] == 1


REFUSED = {
    "a conversion": lambda a: np.asarray(a),
    "assignment into NumPy": lambda a: HOST.copy().__setitem__(0, a[0]),
    "NumPy on the right": lambda a: a + HOST,
    "NumPy on the left": lambda a: HOST + a,
    "a product with NumPy": lambda a: a @ HOST.T,
    "a product from NumPy": lambda a: HOST.T @ a,
    "NumPy in a function": lambda a: xp.maximum(a, HOST),
    "NumPy in a list": lambda a: xp.concatenate([a, HOST]),
    "NumPy as an index": lambda a: a[np.array([0, 1])],
    "a list in arithmetic": lambda a: a * [1, 2, 3],
    "an np function": lambda a: np.sum(a),
    "an np ufunc": lambda a: np.sqrt(a),
    "an np function on a list": lambda a: np.concatenate([a, a]),
    "a comparison by np.testing": lambda a: np.testing.assert_array_equal(a, a),
    "a NumPy array indexed by it": lambda a: HOST[a],
    "where=": lambda a: xp.sum(a, where=a > 1),
    "initial=": lambda a: a.max(initial=0),
    "use as a whole number": lambda a: range(a.sum()),
    "use as a key": lambda a: {a: 1},
}


@pytest.mark.parametrize("mistake", REFUSED.values(), ids=REFUSED)
def test_refuses_with_a_type_error(a, mistake):
    with pytest.raises(TypeError):
        mistake(a)


def test_refuses_assignment_of_numpy(a):
    for value in (HOST[0], [1, 2, 3]):
        with pytest.raises(ValueError, match="cannot be used for fill"):
            a[0] = value
    with pytest.raises(ValueError, match="cannot be used for fill"):
        a.fill(HOST)
    with pytest.raises(TypeError):
        a += HOST


@pytest.mark.parametrize("name", ["insert", "errstate", "random", "vecdot", "no_such_thing"])
def test_has_no_names_that_cupy_lacks(name):
    with pytest.raises(AttributeError, match="cupy"):
        getattr(xp, name)


def test_linalg_is_cut_down_too(a):
    assert float(xp.linalg.norm(a)) == float(np.linalg.norm(HOST))
    with pytest.raises(AttributeError, match=r"linalg\.vector_norm"):
        _ = xp.linalg.vector_norm


def test_ufunc_methods(a):
    np.testing.assert_array_equal(to_host(xp.add.reduce(a, axis=0)), HOST.sum(axis=0))
    with pytest.raises(NotImplementedError):
        xp.maximum.reduce(a)
    with pytest.raises(NotImplementedError):
        xp.add.at(a, 0, 1)


def test_no_back_door(a):
    for name in ("__array_interface__", "__array_struct__", "__dlpack__", "__index__", "__buffer__"):
        assert not hasattr(a, name)
    with pytest.raises(TypeError):
        memoryview(a)


WAITING = {
    "float": lambda a: float(a.sum()),
    "int": lambda a: int(a.sum()),
    "a condition": lambda a: 1 if a.max() > 0 else 2,
    "item": lambda a: a.sum().item(),
    "tolist": lambda a: a.tolist(),
    "get": lambda a: a.get(),
    "to_host": lambda a: to_host(a),
    "a format": lambda a: f"{a.sum():.3f}",
    "repr": lambda a: repr(a),
    "a mask": lambda a: a[a > 1],
    "nonzero": lambda a: a.nonzero(),
    "flatnonzero": lambda a: xp.flatnonzero(a),
    "argwhere": lambda a: xp.argwhere(a),
    "unique": lambda a: xp.unique(a),
    "where with one argument": lambda a: xp.where(a),
    "bincount": lambda a: xp.bincount(a.astype("int64")[0]),
    "membership": lambda a: 1.0 in a[0],
    "a copy to the device": lambda a: to_device(HOST, "costume"),
    "an index list": lambda a: a[[0, 1]],
}


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
def test_waits_are_recorded_with_their_line(a, wait):
    with recorded() as seen:
        wait(a)
    assert seen
    assert all("(test_costume.py:" in event.where for event in seen)
    with no_sync(), pytest.raises(SyncError, match=r"test_costume\.py:\d+"):
        wait(a)


def test_what_does_not_wait(a):
    with no_sync(), recorded() as seen:
        b = a.sum(axis=0) * 2 + xp.where(a > 1, a, 0).max(axis=0)
        b[...] = xp.zeros_like(b)
        b[b > 0] = 1.0
        c = a[xp.arange(2)]
        a @ a.T
        len(a), a.shape, a.T.flags.c_contiguous, a.dtype, xp.finfo(a.dtype).tiny
        xp.isfinite(c.mean())
    assert seen == []


def test_results_are_arrays_not_numbers(a):
    for result in (a.sum(), a[0, 1], xp.sqrt(a.sum()), xp.count_nonzero(a), xp.allclose(a, a), -a.sum()):
        assert isinstance(result, xp.ndarray)
        assert result.shape == ()


def test_an_element_is_a_view_as_in_cupy(a):
    element = a[0, 1]
    element += 5
    assert float(a[0, 1]) == 6


def test_in_place_operations_and_out_keep_the_array(a):
    same = a
    a *= 2
    assert a is same
    assert xp.exp(a, out=a) is a
    assert a.astype(a.dtype, copy=False) is a
    assert a.astype(a.dtype) is not a
    np.testing.assert_array_equal(to_host(a), np.exp(2 * HOST))


def test_dtypes_of_numpy_alone_are_refused():
    with pytest.raises(ValueError, match="Unsupported dtype"):
        xp.asarray(np.array([None]))


def test_mixed_arrays_are_refused_by_namespace(a):
    with pytest.raises(TypeError, match="costume and numpy mixed"):
        namespace(a, HOST)
