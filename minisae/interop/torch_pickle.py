"""The pickle inside a ``torch.save`` file, read opcode by opcode: nothing is imported, no class is made.

What an opcode may do here is make a plain value, put it into a list, tuple or dict, or note a tensor. Names are those
that rebuild tensors; each stands for a function of this module. Small pickles can ask for much: for text joined a
thousand times over, for keys whose hash takes years. So opcodes are counted, keys are text or numbers of 32 bits, and
a function takes few, short arguments.
"""

import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from minisae.errors import InputError

STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
AXES = 32
"""Most axes a tensor may have."""
ARGUMENTS = 8
"""Most arguments of a call; rebuilding a tensor takes seven."""
BYTES_PER_OPCODE = 4
"""A pickle may have as many opcodes as the longest one has bytes, over this; torch writes one in three bytes."""
INT_BITS, KEY_BITS = 128, 31
"""Widest numbers, and widest ones that are keys: more of those can be made to collide in a dict."""


class Storage(NamedTuple):
    """Where values lie: ``key`` names a member of the file, ``size`` counts values."""

    key: str
    dtype: np.dtype[Any]
    size: int


class Tensor(NamedTuple):
    """A tensor as the pickle describes it; offset and strides count values. Nothing is checked against the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _State(NamedTuple):
    """What reading keeps: values, where marks stand among them, values by number, and the storages met."""

    path: Path
    stack: list[Any]
    marks: list[int]
    memo: dict[int, Any]
    storages: dict[str, Storage]


def load(path: Path, file: IO[bytes], storages: dict[str, Storage], *, most: int) -> Any:
    """Return the next pickle's content, made of plain values, :class:`Tensor` and :class:`Storage`.

    ``file`` then stands behind it. Storages are noted in ``storages`` too. ``most`` is the length in bytes that the
    longest pickle may have: it bounds the opcodes. What the content holds in several places is one object, so that
    walking it can take far longer than reading it.

    Raises
    ------
    InputError
        For a name that does not rebuild tensors, which is in the message.
    ValueError, LookupError, TypeError
        For a damaged pickle, and opcodes, keys or arguments that ``torch.save`` does not write for tensors.
    """
    state = _State(path, [], [], {}, storages)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > most // BYTES_PER_OPCODE:
            raise ValueError(f"more than {most // BYTES_PER_OPCODE} opcodes")
        if opcode.name == "STOP":
            break
        step = _STEPS.get(opcode.name)
        if step is None:
            raise ValueError(f"the opcode {opcode.name}, which no tensor needs")
        step(state, argument)
    return state.stack.pop()


# Calls. Each takes what torch passes and keeps what says where the values lie.


def _sizes(value: Any) -> tuple[int, ...]:
    """Return a few whole numbers as a tuple."""
    if type(value) not in (tuple, list) or len(value) > AXES or not all(type(n) is int for n in value):
        raise ValueError(f"expected at most {AXES} whole numbers for sizes or strides")
    return tuple(value)


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if type(storage) is not Storage or type(offset) is not int:
        raise ValueError("expected a tensor's storage and offset")
    return Tensor(storage, offset, _sizes(shape), _sizes(strides))


def _parameter(data: Any, *_: Any) -> Tensor:
    if type(data) is not Tensor:
        raise ValueError("expected a parameter's tensor")
    return data


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or len(kind) > AXES or type(index) not in (int, type(None)):
        raise ValueError("expected a device's name and number")
    return kind if index is None else f"{kind}:{index}"


def _ordered() -> dict[Any, Any]:
    return {}


NAMES: Mapping[str, Any] = {
    "torch._utils _rebuild_tensor_v2": _rebuild,
    "torch._utils _rebuild_tensor": _rebuild,
    "torch._utils _rebuild_parameter": _parameter,
    "torch Size": _sizes,
    "torch device": _device,
    "collections OrderedDict": _ordered,
    **{f"torch {name}": name for name in STORAGES},
    **{f"torch {name}": f"torch.{name}" for name in DTYPES},
}
"""What a pickle may name, module and name; a type stands for its own name."""
_CALLS = (_rebuild, _parameter, _sizes, _device, _ordered)


# Opcodes.


def _push(state: _State, value: Any) -> None:
    if type(value) is int and value.bit_length() > INT_BITS:
        raise ValueError(f"a number of more than {INT_BITS} bits")
    state.stack.append(value)


def _constant(value: Any) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(value)


def _empty(kind: type) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(kind())


def _take(state: _State, count: int | None = None) -> list[Any]:
    """Take the last ``count`` values off the stack, or those since the last mark."""
    start = state.marks.pop() if count is None else len(state.stack) - count
    if not 0 <= start <= len(state.stack):
        raise IndexError("values that are not there")
    values = state.stack[start:]
    del state.stack[start:]
    return values


def _tuple(count: int | None) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(tuple(_take(state, count)))


def _append(count: int | None) -> Callable[[_State, Any], None]:
    def step(state: _State, _: Any) -> None:
        values = _take(state, count)
        if type(state.stack[-1]) is not list:
            raise TypeError("a list's entries without their list")
        state.stack[-1].extend(values)

    return step


def _set(count: int | None) -> Callable[[_State, Any], None]:
    def step(state: _State, _: Any) -> None:
        values = _take(state, count)
        _fill(state.stack[-1], values)

    return step


def _fill(target: Any, values: list[Any]) -> None:
    """Put keys and values that take turns into a dict; a key is looked at before it is hashed."""
    if type(target) is not dict or len(values) % 2:
        raise TypeError("a dict's entries without their dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) is not str and (type(key) is not int or key.bit_length() > KEY_BITS):
            raise TypeError(f"a key that is neither text nor a number of {KEY_BITS} bits")
        target[key] = value


def _list(state: _State, _: Any) -> None:
    state.stack.append(_take(state))


def _dict(state: _State, _: Any) -> None:
    made: dict[Any, Any] = {}
    _fill(made, _take(state))
    state.stack.append(made)


def _mark(state: _State, _: Any) -> None:
    state.marks.append(len(state.stack))


def _pop(state: _State, _: Any) -> None:
    (state.marks if state.marks and state.marks[-1] == len(state.stack) else state.stack).pop()


def _pop_mark(state: _State, _: Any) -> None:
    _take(state)


def _put(state: _State, number: Any) -> None:
    state.memo[len(state.memo) if number is None else number] = state.stack[-1]


def _get(state: _State, number: Any) -> None:
    state.stack.append(state.memo[number])


def _name(state: _State, name: Any) -> None:
    if name not in NAMES:
        named = "".join(name.replace(" ", ".", 1).split())[:160]
        raise InputError(f"{state.path}: expected tensors only, got a pickle that names {named}, which is refused")
    state.stack.append(NAMES[name])


def _name_on_stack(state: _State, _: Any) -> None:
    module, name = _take(state, 2)
    if type(module) is not str or type(name) is not str:
        raise TypeError("a name that is no text")
    _name(state, f"{module} {name}")


def _call(state: _State, _: Any) -> None:
    function, arguments = _take(state, 2)
    if not any(function is known for known in _CALLS) or type(arguments) is not tuple or len(arguments) > ARGUMENTS:
        raise TypeError("a call that rebuilds no tensor")
    state.stack.append(function(*arguments))


def _storage(state: _State, _: Any) -> None:
    pid = state.stack.pop()
    if type(pid) is not tuple or not 5 <= len(pid) <= ARGUMENTS:
        raise ValueError("a storage that is no tuple of its type, key, place and size")
    kind, dtype, key, _, size = pid[:5]
    if not all(type(text) is str for text in (kind, dtype, key)) or kind != "storage" or type(size) is not int:
        raise ValueError("a storage without its type, key and size")
    storage = Storage(key, STORAGES[dtype], size)
    state.storages[key] = storage
    state.stack.append(storage)


def _attributes(state: _State, _: Any) -> None:
    """Drop what was set on an OrderedDict: a state dict notes the versions of its modules there."""
    state.stack.pop()
    if type(state.stack[-1]) is not dict:
        raise TypeError("attributes of something that has none")


_PLAIN = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
)  # fmt: skip
_STEPS: Mapping[str, Callable[[_State, Any], None]] = {
    **dict.fromkeys(_PLAIN, _push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda state, argument: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **{name: _constant(value) for name, value in (("NONE", None), ("NEWTRUE", True), ("NEWFALSE", False))},
    **{name: _empty(kind) for name, kind in (("EMPTY_LIST", list), ("EMPTY_TUPLE", tuple), ("EMPTY_DICT", dict))},
    **{name: _tuple(count) for name, count in (("TUPLE1", 1), ("TUPLE2", 2), ("TUPLE3", 3), ("TUPLE", None))},
    **{name: _append(count) for name, count in (("APPEND", 1), ("APPENDS", None))},
    **{name: _set(count) for name, count in (("SETITEM", 2), ("SETITEMS", None))},
    "LIST": _list,
    "DICT": _dict,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda state, argument: state.stack.append(state.stack[-1]),
    "GLOBAL": _name,
    "INST": _name,
    "STACK_GLOBAL": _name_on_stack,
    "REDUCE": _call,
    "BINPERSID": _storage,
    "BUILD": _attributes,
}
