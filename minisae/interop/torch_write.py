"""Writing a state dict so that ``torch.load(weights_only=True)`` reads it, without torch.

The file is a zip archive of uncompressed members: a pickle that rebuilds tensors out of storages, and each storage's
bytes (PyTorch's serialization notes; the layout since 1.6). The pickle's opcodes are written by hand, protocol 2.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.interop.torch_pickle import STORAGES

ROOT = "archive"
ALIGN = 64
"""Storages begin at multiples of this many bytes, as torch writes them."""
STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}


def pt_bytes(state: Mapping[str, Any]) -> bytes:
    """Return the bytes of a ``.pt`` file of arrays, texts and whole numbers by name; equal input, equal bytes."""
    pickle, storages = [b"\x80\x02ccollections\nOrderedDict\n)R("], list[bytes]()
    for name, value in state.items():
        pickle.append(_text(name))
        if isinstance(value, str):
            pickle.append(_text(value))
        elif isinstance(value, int):
            pickle.append(_whole(value))
        else:
            array = np.array(value, order="C", copy=None)
            pickle.append(_tensor(array, str(len(storages))))
            storages.append(array.tobytes())
    pickle.append(b"u.")
    members = {"data.pkl": b"".join(pickle), "byteorder": b"little"}
    members |= {f"data/{i}": data for i, data in enumerate(storages)}
    return _archive(members | {"version": b"3\n"})


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _whole(number: int) -> bytes:
    data = number.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_whole, numbers)) + b"t"


def _tensor(array: np.ndarray, key: str) -> bytes:
    """Return the opcodes that rebuild one tensor from the storage ``key``: no gradient, no hooks."""
    strides = tuple(step // array.itemsize for step in array.strides)
    storage = b"ctorch\n" + STORAGE_OF[array.dtype].encode() + b"\n"
    place = b"(" + _text("storage") + storage + _text(key) + _text("cpu") + _whole(array.size) + b"tQ"
    sizes = _whole(0) + _tuple(array.shape) + _tuple(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def _archive(members: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed zip archive whose members begin at multiples of ``ALIGN``; its time is always the same."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(f"{ROOT}/{name}", (1980, 1, 1, 0, 0, 0))
            pad = -(out.tell() + 30 + len(info.filename) + 4) % ALIGN
            info.extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
            archive.writestr(info, data)
    return out.getvalue()
