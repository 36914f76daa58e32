"""Folders of saev's protocol 2: ``metadata.json``, ``shards.json`` and raw float32 files.

Each file holds ``[example, layer, token, d_model]`` in C order, the class token first. A row is one token of one
example at one layer; layers become hooks of the same rows.
"""

import json
from pathlib import Path

import numpy as np

from minisae.cache.format import inside
from minisae.cache.lazy import Lazy, read_bytes, reading
from minisae.errors import InputError


def shard_arrays(folder: Path) -> list[tuple[Path, dict[str, Lazy]]]:
    """Return each file of the folder with one array ``(examples, tokens, d_model)`` for each layer."""
    with reading(folder / "metadata.json", "the metadata of saev's protocol 2"):
        about = json.loads((folder / "metadata.json").read_text())
        layers, d_model = list(about["layers"]), int(about["d_model"])
        tokens = int(about["patches_per_ex"]) + bool(about["cls_token"])
        found = (str(about["protocol"]).partition(".")[0], about["dtype"])
    if found != ("2", "float32"):
        raise InputError(f"{folder / 'metadata.json'}: expected protocol 2 and dtype float32, got {found}")
    if min(d_model, tokens, len(layers)) < 1:
        raise InputError(f"{folder / 'metadata.json'}: expected sizes >= 1, got {layers}, {tokens} tokens, {d_model}")
    with reading(folder / "shards.json", "a list of shards"):
        entries = [(entry["name"], int(entry["n_ex"])) for entry in json.loads((folder / "shards.json").read_text())]
    result = []
    for name, examples in entries:
        path = inside(folder, name, folder / "shards.json")
        shape = (examples, len(layers), tokens, d_model)
        with reading(path, "a shard"):
            size = path.stat().st_size
        if examples < 0 or size != 4 * examples * len(layers) * tokens * d_model:
            raise InputError(f"{path}: expected float32 values of shape {shape}, got {size} bytes")
        result.append((path, {f"layer_{layer}": _layer(path, shape, at) for at, layer in enumerate(layers)}))
    return result


def _layer(path: Path, shape: tuple[int, int, int, int], layer: int) -> Lazy:
    """Return one layer of a file, read example by example."""
    examples, layers, tokens, d_model = shape

    def read(start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, tokens, d_model), np.float32)
        for at in range(start, stop):
            read_bytes(path, 4 * (at * layers + layer) * tokens * d_model, out[at - start])
        return out

    return Lazy((examples, tokens, d_model), np.dtype(np.float32), read)
