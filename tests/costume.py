"""A NumPy array in a CuPy costume, so that machines without a GPU can test what a GPU would refuse.

``costume`` is a module like ``cupy``: it stands in ``sys.modules``, so ``to_device(a, "costume")`` puts a copy of an
array on the pretended device. Its arrays compute with NumPy and behave like CuPy's: no conversion to NumPy but by
``get()``, no NumPy array in an operation, results of reductions are 0-d arrays, no function, method or keyword that
CuPy lacks. Stricter than CuPy in three things that the library's rules forbid: ``np.`` functions on device arrays, an
order that is not defined (``add.at``), and the device's random generators.

Whatever would make the host wait for the device (or copy to it) is recorded with the line that did it, see
:func:`recorded`; inside :func:`no_sync` it is an error. ``test_cupy_api.py`` compares these rules with the real CuPy.
"""

import operator
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NOT_IN_CUPY = frozenset(
    """
    ScalarType asmatrix block bmat busday_count busday_offset busdaycalendar bytes_ char character clongdouble
    complex256 core ctypeslib datetime64 datetime_as_string datetime_data dtypes einsum_path emath errstate f2py
    flexible float128 frompyfunc fromregex geomspace get_include getbufsize geterr geterrcall histogram_bin_edges info
    insert is_busday isnat little_endian longdouble ma matrix matvec memmap nanpercentile nanquantile ndenumerate
    nditer nested_iters object_ polyder polydiv polyint random rec recarray record sctypeDict setbufsize seterr
    seterrcall
    show_runtime spacing str_ strings test timedelta64 typecodes unstack vecdot vecmat void False_ True_
    linalg.diagonal linalg.matrix_norm linalg.multi_dot linalg.outer linalg.svdvals linalg.tensordot linalg.trace
    linalg.vecdot linalg.vector_norm linalg.test
    """.split()  # noqa: SIM905
)
"""Names of NumPy 2 that CuPy 14 does not have; and ``random``, which the library draws on the host."""

NO_KEYWORDS = frozenset({"where", "initial", "like", "subok"})
"""Keywords of NumPy's functions that CuPy's do not take."""

WAITS = frozenset({"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "extract", "compress", "histogram"})
"""Functions and methods whose result has a size that only the device knows."""

UPLOADS = frozenset({"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"})
ANSWERS = frozenset({"allclose", "array_equal", "array_equiv", "count_nonzero"})
"""Functions that give a Python value in NumPy and a 0-d array in CuPy."""

METHODS = {
    "all": "axis out keepdims", "any": "axis out keepdims", "argmax": "axis dtype out keepdims",
    "argmin": "axis dtype out keepdims", "argpartition": "kth axis", "argsort": "axis kind",
    "astype": "dtype order casting subok copy", "clip": "min max out", "conj": "", "copy": "order",
    "cumprod": "axis dtype out", "cumsum": "axis dtype out", "diagonal": "offset axis1 axis2", "dot": "b out",
    "fill": "value", "flatten": "order", "max": "axis out keepdims", "mean": "axis dtype out keepdims",
    "min": "axis out keepdims", "nonzero": "", "partition": "kth axis", "prod": "axis dtype out keepdims",
    "ravel": "order", "repeat": "repeats axis", "reshape": "order", "round": "decimals out",
    "searchsorted": "v side sorter", "sort": "axis kind", "squeeze": "axis", "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims", "swapaxes": "axis1 axis2", "take": "indices axis out",
    "trace": "offset axis1 axis2 dtype out", "transpose": "", "var": "axis dtype out ddof keepdims", "view": "dtype",
}  # fmt: skip
"""Array methods, each with the keywords it takes in CuPy."""


OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")


class Sync(NamedTuple):
    """One wait for the device."""

    what: str
    where: str
    """``function (file:line)`` of the code that caused it, the two conversion functions passed over."""


class SyncError(AssertionError):
    """A wait for the device where none is allowed."""


_records: list[list[Sync]] = []
_forbidden = 0


@contextmanager
def recorded() -> Iterator[list[Sync]]:
    """Collect the waits of the ``with`` block."""
    seen: list[Sync] = []
    _records.append(seen)
    try:
        yield seen
    finally:
        _records.pop()


@contextmanager
def no_sync() -> Iterator[None]:
    """Make every wait in the ``with`` block an error."""
    global _forbidden
    _forbidden += 1
    try:
        yield
    finally:
        _forbidden -= 1


def sync(what: str) -> None:
    """Record a wait, or raise inside :func:`no_sync`."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame and (frame.f_code.co_filename == __file__ or frame.f_code.co_name in ("to_host", "to_device")):
        frame = frame.f_back
    assert frame is not None
    function = frame.f_code.co_qualname.partition(".<locals>")[0]
    event = Sync(what, f"{function} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})")
    if _forbidden:
        raise SyncError(f"{event.what} waits for the device in {event.where}")
    for seen in _records:
        seen.append(event)


def wrap(result: Any) -> Any:
    """Dress the arrays of a NumPy result; NumPy scalars become 0-d arrays."""
    if isinstance(result, np.ndarray | np.generic):
        return ndarray(np.asarray(result))
    return tuple(map(wrap, result)) if type(result) is tuple else result


def bare(value: Any) -> Any:
    """Undress the arguments of a function; a NumPy array among them is refused, as CuPy does."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray}: a NumPy array in an operation on the device")
    return type(value)(map(bare, value)) if type(value) in (list, tuple) else value


def check_keywords(name: str, kwargs: dict[str, Any], allowed: str | None = None) -> None:
    """Refuse keywords that CuPy's function or method does not take."""
    bad = set(kwargs) - set(allowed.split()) if allowed is not None else NO_KEYWORDS & set(kwargs)
    if bad:
        raise TypeError(f"{name}() got an unexpected keyword argument {sorted(bad)[0]!r}")


class ndarray:
    """An array on the pretended device: it wraps a NumPy array and is none."""

    __array_priority__ = 100
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, a: np.ndarray) -> None:
        if a.dtype.kind not in "biufcV" or a.dtype.names:
            raise ValueError(f"Unsupported dtype {a.dtype}")
        self._a = a

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, func: Any, *args: object) -> None:
        raise TypeError(f"np.{func.__name__} on a device array: use the module of the array")

    def get(self, *, order: Any = "C") -> np.ndarray:
        sync("get()")
        return self._a.copy(order)

    def set(self, a: np.ndarray) -> None:
        sync("set()")
        self._a[...] = a

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._a)))

    def __getitem__(self, key: Any) -> Any:
        keys = _keys(key)
        if any(isinstance(k, np.ndarray) and k.dtype == bool for k in keys):
            sync("a[mask]")
        # With an ellipsis a single element comes as a 0-d view, which is what CuPy gives.
        return wrap(self._a[keys if any(k is Ellipsis for k in keys) else (*keys, Ellipsis)])

    def __setitem__(self, key: Any, value: Any) -> None:
        keys = _keys(key)
        if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        masked = any(isinstance(k, np.ndarray) and k.dtype == bool for k in keys)
        if masked and isinstance(value, ndarray) and value.ndim:
            sync("a[mask] = array")
        self._a[keys] = value._a if isinstance(value, ndarray) else value

    @property
    def T(self) -> Any:
        return wrap(self._a.T)


def _keys(key: Any) -> tuple[Any, ...]:
    keys = key if isinstance(key, tuple) else (key,)
    if any(isinstance(k, list) for k in keys):
        sync("copy of an index list")
    return tuple(bare(k) for k in keys)


def _property(name: str) -> Any:
    return property(lambda self: getattr(self._a, name))


def _method(name: str, keywords: str) -> Callable[..., Any]:
    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        check_keywords(name, kwargs, keywords)
        if name in WAITS:
            sync(f"{name}()")
        if name in ("fill",) and isinstance(args[0], np.ndarray):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        out = kwargs.get("out")
        result = getattr(self._a, name)(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()})
        same = name == "astype" and result is self._a
        return self if same else out if out is not None else wrap(result)

    return call


def _operator(function: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
    def call(self: ndarray, *others: Any) -> Any:
        if others and isinstance(others[0], list | tuple):
            raise TypeError(f"Unsupported type {type(others[0])}")
        if function is operator.matmul and not isinstance(others[0], ndarray):
            raise TypeError(f"Argument 'b' has incorrect type (expected ndarray, got {type(others[0])})")
        arguments = (self._a, *map(bare, others))
        return wrap(function(*(arguments[::-1] if swapped else arguments)))

    return call


def _in_place(function: Callable[..., Any]) -> Callable[[ndarray, Any], ndarray]:
    def call(self: ndarray, other: Any) -> ndarray:
        function(self._a, bare(other))
        return self

    return call


def _scalar(name: str, convert: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: ndarray, *args: Any) -> Any:
        sync(name)
        return convert(self._a, *args)

    return call


def _dress() -> None:
    """Give the class its properties, methods and operators."""
    for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"):
        setattr(ndarray, name, _property(name))
    for name, keywords in METHODS.items():
        setattr(ndarray, name, _method(name, keywords))
    for name in OPERATORS:
        plain = name.rstrip("_")
        setattr(ndarray, f"__{plain}__", _operator(getattr(operator, name)))
        setattr(ndarray, f"__r{plain}__", _operator(getattr(operator, name), swapped=True))
        setattr(ndarray, f"__i{plain}__", _in_place(getattr(operator, "i" + plain)))
    for name in ("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"):
        setattr(ndarray, f"__{name}__", _operator(getattr(operator, name)))
    for convert in (bool, int, float, complex, repr, str, format):
        setattr(ndarray, f"__{convert.__name__}__", _scalar(f"{convert.__name__}()", convert))
    ndarray.item = _scalar("item()", lambda a, *args: a.item(*args))  # type: ignore[attr-defined]
    ndarray.tolist = _scalar("tolist()", lambda a: a.tolist())  # type: ignore[attr-defined]
    ndarray.__module__ = "costume"


class Ufunc:
    """One of NumPy's ufuncs: callable, with the one method that CuPy and a defined order allow."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self._ufunc = ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _call(self._ufunc, args, kwargs)

    def reduce(self, a: ndarray, *args: Any, **kwargs: Any) -> Any:
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`cupy_{self.__name__}.reduce` is not supported yet")
        return _call(self._ufunc.reduce, (a, *args), kwargs)

    def at(self, *args: object) -> None:
        raise NotImplementedError(f"{self.__name__}.at adds in an order that is not defined on a device")


def _call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check_keywords(function.__name__, kwargs)
    out = kwargs.get("out")
    result = function(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()})
    return out if out is not None else wrap(result)


def _function(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in UPLOADS and not isinstance(args[0], ndarray):
            sync(f"{name}(host data)")
            return wrap(np.array(args[0], *args[1:], **kwargs))
        if name in WAITS or (name == "where" and len(args) == 1):
            sync(f"{name}()")
        result = _call(function, args, kwargs)
        return wrap(np.asarray(bare(result))) if name in ANSWERS else result

    return call


def _lookup(prefix: str, source: types.ModuleType) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        value = None if name.startswith("_") or prefix + name in NOT_IN_CUPY else getattr(source, name, None)
        if value is None and name != "newaxis":
            raise AttributeError(f"module 'cupy' has no attribute {prefix + name!r}")
        if isinstance(value, types.ModuleType):
            return module(name, prefix + name + ".", value)
        if isinstance(value, np.ufunc):
            return Ufunc(value)
        return value if isinstance(value, type) or not callable(value) else _function(name, value)

    return get


def module(name: str, prefix: str, source: types.ModuleType) -> types.ModuleType:
    """Return a module that has what ``source`` has and CuPy too."""
    made = types.ModuleType(name)
    made.__dict__["__getattr__"] = _lookup(prefix, source)
    return made


_dress()
xp: Any = module("costume", "", np)
xp.ndarray = ndarray
sys.modules["costume"] = xp
