"""Activation cache, format 1: what stands in ``manifest.json`` and ``shards.jsonl``, read and checked.

A cache is a folder: the manifest says what a row is, the log has one line for every finished shard and a closing line,
and each shard is a safetensors file with ``acts`` (or several ``acts.<hook>`` of the same rows) and the columns
``doc_id``, ``position`` and ``token`` where they are known. Both text files carry their own checksum.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.cache import header
from minisae.cache.arrays import STORED
from minisae.errors import InputError

FORMAT, VERSION = "minisae-cache", 1
MANIFEST, LOG = "manifest.json", "shards.jsonl"
COLUMNS = ("doc_id", "position", "token")
SHARD_NAME = re.compile(r"shard-\d{6,}\.safetensors")
TENSOR_NAME = re.compile(r"acts(\.[^/\x00]+)?")


class Stats(NamedTuple):
    """Moments of the stored rows, accumulated in float64."""

    mean: np.ndarray
    """``(d_in,)``"""
    mean_norm: float
    """Mean Euclidean norm of a row."""
    second_moment: np.ndarray
    """``(d_in,)``: mean square of each dimension, not centred."""


class Shard(NamedTuple):
    """One line of the log."""

    file: str
    rows: int
    row0: int
    seen: int
    """Rows of the source that were used up when this shard was full; a resumed writer skips them."""
    nbytes: int
    sha256: str
    stats: dict[str, Stats]


class Manifest(NamedTuple):
    """What holds for the whole cache."""

    dtype: str
    """``"bf16"``, ``"fp16"`` or ``"fp32"``"""
    d_in: dict[str, int]
    """Width of each tensor: ``{"acts": 512}``, or one entry for each ``acts.<hook>``."""
    columns: tuple[str, ...]
    documents: str
    """``"given"``, ``"sequences"`` (each sequence counts as a document) or ``"none"``."""
    shard_rows: int
    filters: dict[str, Any]
    norm_limit: dict[str, float]
    """Largest norm let through at writing, for each tensor; empty without that filter."""
    meta: dict[str, Any]
    """The user's words: model, hook, tokenizer, dataset, seed, what a row is."""


class Log(NamedTuple):
    """The whole log, checked line by line."""

    shards: tuple[Shard, ...]
    finished: bool
    seen: int
    nbytes: int
    """Length of the part that holds; a torn last line lies beyond it."""
    torn: bool


def seal(fields: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return ``fields`` as JSON that ends with the checksum of its own text; equal fields give equal text."""
    text = json.dumps(fields, indent=indent, separators=None if indent else (",", ":"), allow_nan=False)
    text = text.removesuffix("}").rstrip()
    return text + _check(text.encode()).decode()


def unseal(text: bytes) -> dict[str, Any]:
    """Return the fields of a sealed text; ``ValueError`` where one byte of it is not as it was written."""
    body = text[: -len(_check(b""))]
    if text[len(body) :] != _check(body):
        raise ValueError("its checksum does not match")
    fields = json.loads(body + b"}")
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def _check(body: bytes) -> bytes:
    return f', "check": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def inside(folder: Path, name: Any, where: Path) -> Path:
    """Return ``folder / name`` for a name that stays in the folder; names in a file are never trusted."""
    parts = Path(name).parts if isinstance(name, str) and name and "\x00" not in name and "\\" not in name else ("..",)
    if Path(*parts).is_absolute() or ".." in parts:
        raise InputError(f"{where}: expected the name of a file inside {folder}, got {name!r}")
    return folder.joinpath(*parts)


def manifest_text(manifest: Manifest) -> str:
    """Return the manifest as it is written."""
    return seal({"format": FORMAT, "version": VERSION, "creator": "minisae", **manifest._asdict()}, indent=1)


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{folder}: expected an activation cache, but {MANIFEST}: {error.strerror}") from None
    try:
        raw = json.loads(text)
        found = (raw.get("format"), raw.get("version"))
    except (ValueError, RecursionError, AttributeError):
        raise InputError(f"{path}: expected a JSON object, got something else; the file is damaged") from None
    if found != (FORMAT, VERSION):
        raise InputError(f"{path}: expected format {FORMAT!r} version {VERSION}, got {found[0]!r} version {found[1]!r}")
    try:
        fields = unseal(text)
        manifest = Manifest(**{name: fields[name] for name in Manifest._fields})
        manifest = manifest._replace(columns=tuple(manifest.columns))
        _check_manifest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected a manifest as minisae wrote it, got a damaged one: {error}") from None
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Refuse what no writer writes, with ``ValueError``."""
    if manifest.dtype not in STORED:
        raise ValueError(f"unknown dtype {manifest.dtype!r}")
    if not manifest.d_in or any(type(d) is not int or d < 1 for d in manifest.d_in.values()):
        raise ValueError(f"d_in {manifest.d_in}")
    if not all(TENSOR_NAME.fullmatch(name) for name in manifest.d_in):
        raise ValueError(f"tensor names {sorted(manifest.d_in)}")
    if not set(manifest.columns) <= set(COLUMNS) or type(manifest.shard_rows) is not int or manifest.shard_rows < 1:
        raise ValueError(f"columns {manifest.columns}, shard_rows {manifest.shard_rows}")


def log_line(shard: Shard) -> str:
    """Return the line of one finished shard."""
    stats = {
        name: {"mean": s.mean.tolist(), "mean_norm": s.mean_norm, "second_moment": s.second_moment.tolist()}
        for name, s in shard.stats.items()
    }
    return seal({**shard._asdict(), "stats": stats})


def end_line(rows: int, shards: int, seen: int) -> str:
    """Return the line that closes a cache."""
    return seal({"end": True, "rows": rows, "shards": shards, "seen": seen})


def read_log(folder: Path, manifest: Manifest) -> Log:
    """Read ``shards.jsonl``: rows count as the log says, and a torn last line does not count.

    Raises
    ------
    InputError
        For a damaged line before the last, a shard's name that leaves the folder, or rows that do not add up.
    """
    path = folder / LOG
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from None
    shards: list[Shard] = []
    rows = seen = size = 0
    for number, line in enumerate(lines, 1):
        try:
            fields = unseal(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                return Log(tuple(shards), False, seen, size, True)
            raise InputError(f"{path}: expected a line as minisae wrote it, got a damaged line {number}") from None
        if "end" in fields:
            if number < len(lines) or (fields.get("rows"), fields.get("shards")) != (rows, len(shards)):
                raise InputError(f"{path}: expected the closing line last and in agreement, got {rows} rows before it")
            if type(fields.get("seen")) is not int:
                raise InputError(f"{path}: expected the closing line to say how many rows were seen")
            return Log(tuple(shards), True, fields["seen"], size + len(line), False)
        shard = _shard(path, fields, manifest)
        if shard.row0 != rows:
            raise InputError(f"{path}: expected line {number} to start at row {rows}, got {shard.row0}")
        shards.append(shard)
        rows, seen, size = rows + shard.rows, shard.seen, size + len(line)
    return Log(tuple(shards), False, seen, size, False)


def _shard(path: Path, fields: dict[str, Any], manifest: Manifest) -> Shard:
    """Check the fields of one line."""
    file = fields.get("file")
    if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
        raise InputError(f"{path}: expected a shard's name inside the cache (shard-000000.safetensors), got {file!r}")
    try:
        stats = {
            name: Stats(
                np.array(s["mean"], np.float64), float(s["mean_norm"]), np.array(s["second_moment"], np.float64)
            )
            for name, s in fields["stats"].items()
        }
        shard = Shard(**{**{name: fields[name] for name in Shard._fields}, "stats": stats})
        whole = all(type(n) is int and n >= 0 for n in (shard.rows, shard.row0, shard.seen, shard.nbytes))
        if not whole or shard.rows < 1 or not isinstance(shard.sha256, str):
            raise ValueError("negative or missing counts")
        if {name: s.mean.shape for name, s in stats.items()} != {name: (d,) for name, d in manifest.d_in.items()}:
            raise ValueError("statistics of another width")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{path}: expected a complete line for {file}, got {str(error)[:160]!r}") from None
    return shard


def check_shard(folder: Path, shard: Shard, manifest: Manifest) -> dict[str, header.Tensor]:
    """Check one shard's size and header against log and manifest, without reading its data; return its tensors."""
    path = folder / shard.file
    tensors = header.read(path)
    size = path.stat().st_size
    if size != shard.nbytes:
        raise InputError(f"{path}: expected {shard.nbytes} bytes as {LOG} says, got {size}")
    for name, dtype, shape in tensor_list(manifest, shard.rows):
        tensor = tensors.get(name)
        if tensor is None or (tensor.dtype, tensor.shape) != (dtype, shape):
            got = "none" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise InputError(f"{path}: expected {name} {dtype} {shape}, got {got}")
    return tensors


def tensor_list(manifest: Manifest, rows: int) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """Return name, type and shape of every tensor in a shard of ``rows`` rows, in the order of the file."""
    acts = [(name, STORED[manifest.dtype], (rows, d)) for name, d in manifest.d_in.items()]
    return [*acts, *((name, np.dtype(np.int32), (rows,)) for name in manifest.columns)]


def row_bytes(manifest: Manifest, tensors: tuple[str, ...]) -> int:
    """Return the bytes of one row of these tensors."""
    return STORED[manifest.dtype].itemsize * sum(manifest.d_in[name] for name in tensors)


def pooled(parts: list[tuple[int, Stats]]) -> Stats:
    """Return the moments of several parts together, each given with its rows."""
    total = math.fsum(rows for rows, _ in parts)
    mean = sum(rows / total * s.mean for rows, s in parts)  # (d_in,)
    second = sum(rows / total * s.second_moment for rows, s in parts)  # (d_in,)
    return Stats(np.asarray(mean), math.fsum(rows / total * s.mean_norm for rows, s in parts), np.asarray(second))
