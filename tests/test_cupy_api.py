"""The library against the real CuPy, which imports without a GPU: names, keywords, and the rules the costume claims.

Real CuPy arrays over host memory know shapes and views and refuse what CuPy refuses; only launching a kernel fails.
"""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import minisae
from minisae.backend import namespace, resolve, to_device
from minisae.errors import InputError
from tests import costume

cupy = pytest.importorskip("cupy", reason="the extra 'test' installs cupy-cuda13x")

ROOT = Path(minisae.__file__).parent
GPU = ROOT.parent / "gpu"
SOURCES = sorted(path for folder in (ROOT, GPU) for path in folder.rglob("*.py"))


def attributes(path):
    """Yield ``(names, call or None, line)`` of every ``xp.a.b`` in a file, ``xp`` or ``namespace(...)``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        names, root = [], node
        while isinstance(root, ast.Attribute):
            names.insert(0, root.attr)
            root = root.value
        is_xp = isinstance(root, ast.Name) and root.id == "xp"
        is_namespace = isinstance(root, ast.Call) and getattr(root.func, "id", "") == "namespace"
        if names and (is_xp or is_namespace) and id(node) not in inner and names[0] != "__name__":
            yield names, calls.get(id(node)), f"{path.relative_to(ROOT.parent)}:{node.lineno}"


USES = [use for path in SOURCES for use in attributes(path)]


def found(names):
    value = cupy
    for name in names:
        value = getattr(value, name, None)
    return value


def test_the_scan_sees_the_library():
    assert len(USES) > 50
    assert {"where", "maximum", "sqrt", "partition"} <= {names[0] for names, _, _ in USES}


def test_every_name_exists_in_cupy():
    missing = [f"{line}: xp.{'.'.join(names)}" for names, _, line in USES if found(names) is None]
    assert not missing, "\n".join(missing)


def test_no_random_numbers_are_drawn_on_a_device():
    assert not [line for names, _, line in USES if names[0] == "random"]


def test_every_keyword_exists_in_cupy():
    bad = []
    for names, call, line in USES:
        function = found(names)
        if call is None or isinstance(function, type):
            continue
        used = {keyword.arg for keyword in call.keywords}
        if isinstance(function, cupy.ufunc):
            bad += [f"{line}: {names[-1]}({name}=)" for name in used - {"out", "dtype", "casting"}]
            continue
        parameters = inspect.signature(function).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            bad += [f"{line}: {names[-1]}({name}=)" for name in used - parameters.keys()]
    assert not bad, "\n".join(bad)


def methods(path):
    """Yield ``(name, line)`` of every method call that is one of ``np.ndarray``'s on something that is no module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and hasattr(np.ndarray, node.func.attr):
            root = node.func.value
            if not (isinstance(root, ast.Name) and root.id in {"xp", *imported}):
                yield node.func.attr, f"{path.relative_to(ROOT.parent)}:{node.lineno}"


def test_every_array_method_exists_in_cupy():
    used = [use for path in SOURCES for use in methods(path)]
    assert len(used) > 50
    # Strings and files have methods of the same names; what CuPy lacks is what matters.
    missing = [f"{line}: .{name}()" for name, line in used if not hasattr(cupy.ndarray, name)]
    assert not missing, "\n".join(missing)


class TestCostume:
    """The costume's lists, compared with the real thing."""

    def test_its_missing_names(self):
        """Every public name of NumPy is either in CuPy or refused by the costume, ``random`` aside."""
        for prefix, ours, theirs in (("", np, cupy), ("linalg.", np.linalg, cupy.linalg)):
            lacking = {prefix + name for name in dir(ours) if name[0] != "_" and not hasattr(theirs, name)}
            assert lacking <= costume.NOT_IN_CUPY
        for name in costume.NOT_IN_CUPY - {"random"}:
            assert found(name.split(".")) is None, f"CuPy has {name} by now"

    @pytest.mark.parametrize("name", costume.METHODS)
    def test_its_methods_and_their_keywords(self, name):
        signature = re.match(r"\w+\.\w+\((.*?)\)", getattr(cupy.ndarray, name).__doc__ or "")
        if signature is None or "*" in signature[1]:
            return
        known = {part.split("=")[0].split()[-1] for part in signature[1].split(",") if part.strip()}
        assert set(costume.METHODS[name].split()) <= known

    def test_its_properties(self):
        for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags", "T", "get", "set"):
            assert hasattr(cupy.ndarray, name)


def over_host(a):
    """A real CuPy array on the memory of a NumPy array."""
    memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, device_id=0)
    return cupy.ndarray(a.shape, a.dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))


HOST = np.arange(6.0).reshape(2, 3)
RULES = {
    "conversion": lambda xp, x: np.asarray(x),
    "assignment into NumPy": lambda xp, x: HOST.copy().__setitem__(0, x[0]),
    "assignment of NumPy": lambda xp, x: x.__setitem__(0, HOST[0]),
    "assignment of a list": lambda xp, x: x.__setitem__(0, [1, 2, 3]),
    "fill with NumPy": lambda xp, x: x.fill(HOST),
    "product with NumPy": lambda xp, x: x @ HOST.T,
    "product from NumPy": lambda xp, x: HOST.T @ x,
    "NumPy in a list": lambda xp, x: xp.stack([x, HOST]),
    "np.testing": lambda xp, x: np.testing.assert_array_equal(x, x),
    "np.insert": lambda xp, x: np.insert(x, 0, 1),
    "maximum.reduce": lambda xp, x: xp.maximum.reduce(x),
    "initial=": lambda xp, x: x.sum(initial=0),
    "max initial=": lambda xp, x: xp.max(x, initial=0),
    "where=": lambda xp, x: x.any(axis=-1, where=True),
    "truth of many": lambda xp, x: bool(x),
    "use as a whole number": lambda xp, x: range(x[0, 0]),
    "use as a key": lambda xp, x: hash(x),
    "rounding": lambda xp, x: round(x[0, 0]),
    "memoryview": lambda xp, x: memoryview(x),
    "a missing function": lambda xp, x: xp.insert(x, 0, 1),
    "a missing linalg function": lambda xp, x: xp.linalg.vector_norm(x),
    "an array interface": lambda xp, x: x.__array_interface__,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_costume_refuses_as_cupy_does(rule):
    with pytest.raises((TypeError, ValueError, NotImplementedError, AttributeError)) as real:
        rule(cupy, over_host(HOST))
    with pytest.raises(real.type):
        rule(costume.xp, to_device(HOST, "costume"))


SAME = {
    "transpose": lambda x: x.T.shape,
    "order": lambda x: (x.flags.c_contiguous, x.T.flags.c_contiguous, x.swapaxes(0, 1).strides),
    "an element": lambda x: (x[0, 1].shape, type(x[0, 1]) is type(x)),
    "a new axis": lambda x: x[..., None, :].shape,
    "flattening": lambda x: x.reshape(1, -1).shape,
    "no copy": lambda x: x.astype(x.dtype, copy=False) is x,
    "length": lambda x: (len(x), x.ndim, x.size, x.nbytes),
}


@pytest.mark.parametrize("view", SAME.values(), ids=SAME)
def test_the_costume_views_as_cupy_does(view):
    assert view(over_host(HOST)) == view(to_device(HOST, "costume")) == view(to_device(HOST.copy(), "costume"))


def test_namespace_knows_cupy():
    x = over_host(HOST)
    assert namespace(x) is cupy
    with pytest.raises(TypeError, match="cupy and numpy mixed"):
        namespace(x, HOST)
    assert to_device(x, "cupy") is x


@pytest.mark.skipif(cupy.cuda.is_available(), reason="a device is here")
def test_asking_for_a_device_where_there_is_none():
    assert resolve("auto") == "numpy"
    with pytest.raises(InputError, match=r"^backend: 'cupy' asked for, but CuPy sees no CUDA device on this machine$"):
        resolve("cupy")
