"""HDF5 and zarr, imported when a file of theirs is opened."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minisae.cache.arrays import BF16
from minisae.cache.lazy import Lazy, reading
from minisae.errors import InputError


def optional(module: str, path: Path) -> ModuleType:
    """Import a module of the extra ``caches``, or say in one line what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        root = module.partition(".")[0]
        raise InputError(
            f"{path}: expected {root} to read this format, but it is not installed: pip install 'minisae[caches]'"
        ) from None


def open_hdf5(path: Path) -> dict[str, Lazy]:
    """Open every data set of an HDF5 file."""
    h5py = optional("h5py", path)
    arrays: dict[str, Lazy] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in "fiubV":
            arrays[name] = _sliced(path, item)

    with reading(path, "an HDF5 file"):
        h5py.File(path, "r").visititems(visit)
    return arrays


def open_zarr(path: Path) -> dict[str, Lazy]:
    """Open a zarr array, or every array of a zarr group (format 2 or 3)."""
    zarr = optional("zarr", path)
    with reading(path, "a zarr array or group"):
        root = zarr.open(str(path), mode="r")
        members = {"acts": root} if hasattr(root, "dtype") else dict(root.members(max_depth=None))
        return {name: _sliced(path, item) for name, item in members.items() if hasattr(item, "dtype")}


def _sliced(path: Path, item: Any) -> Lazy:
    """Wrap a data set; 2-byte values whose attribute ``dtype`` is ``bfloat16`` are read as that."""
    bf16 = item.attrs.get("dtype") in ("bfloat16", "bf16", b"bfloat16") and item.dtype.itemsize == 2
    dtype = BF16 if bf16 else np.dtype(item.dtype)

    def read(start: int, stop: int) -> np.ndarray:
        with reading(path, "readable data"):
            block = np.ascontiguousarray(item[start:stop])
        return block.view(dtype) if bf16 else block

    return Lazy(tuple(item.shape), dtype, read)
