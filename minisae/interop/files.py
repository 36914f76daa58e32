"""Files that are whole or not there: written beside, flushed, renamed."""

import json
import os
from pathlib import Path
from typing import Any

from minisae.errors import InputError


def write_beside(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` with ``.new`` appended and flush it to the disk; return that path."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return beside


def rename(beside: Path, path: Path) -> None:
    """Put a flushed file in its place, for good: the folder is flushed too."""
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader finds the old content or the new, never a part."""
    rename(write_beside(path, data), path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If the file is missing, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
