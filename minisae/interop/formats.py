"""Every format a trained autoencoder can come in or go out to, recognised by what is in the files.

A format's module has ``NAME``, ``recognises(path)``, ``read(path, options) -> Stored``, and where it is written too,
``export(path, sae) -> notes``, which refuses in one line what the format cannot hold.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from minisae.errors import InputError
from minisae.interop import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    openai,
    overcomplete,
    qwen_scope,
    saelens,
    sparsify,
)
from minisae.interop.arrays import read_once
from minisae.interop.common import Stored

FORMATS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        llama_scope, saelens, sparsify, dictionary_learning, gemma_scope, gemma_scope_2, openai, overcomplete,
        qwen_scope, goodfire,
    )
}  # fmt: skip
"""By name, in the order in which a path is offered to them."""
WRITTEN = tuple(name for name, module in FORMATS.items() if hasattr(module, "export"))
"""Formats that can be written."""


def read(path: Path, *, format: str | None, options: Mapping[str, Any]) -> Stored:
    """Read a checkpoint of a format, or of the one that its content shows.

    Raises
    ------
    InputError
        For an unknown name, a path that no format recognises, and whatever is wrong with the files.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    with read_once():
        name = format or recognise(path)
        return FORMATS[name].read(path, options)  # type: ignore[no-any-return]


def recognise(path: Path) -> str:
    """Return the name of the format of a file or folder.

    Raises
    ------
    InputError
        If it is none, with what was found there.
    """
    for name, module in FORMATS.items():
        if module.recognises(path):
            return name
    if path.is_dir():
        held = sorted(part.name for part in path.iterdir())
        what = f"a folder with {', '.join(held[:5])}" if held else "an empty folder"
    elif any(module.recognises(path.parent) for module in FORMATS.values()):
        what = f"one of its files: expected the folder {path.parent}"
    else:
        what = "a file that is none of them"
    raise InputError(f"{path}: expected an autoencoder of {', '.join(sorted(FORMATS))}; found {what}")


def export(path: Path, sae: Stored, *, to: str) -> list[str]:
    """Write an autoencoder in a format; return what had to be folded or left out.

    Raises
    ------
    InputError
        If the format is not written, or cannot hold this autoencoder.
    """
    if to not in WRITTEN:
        raise InputError(f"format: expected one of {', '.join(WRITTEN)} to write, got {to!r}")
    notes: list[str] = FORMATS[to].export(path, sae)
    return notes
