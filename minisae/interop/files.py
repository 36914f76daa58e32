"""Files that are whole or not there: written beside, flushed, renamed."""

import json
import os
from pathlib import Path
from typing import Any

from minisae.errors import InputError

MAX_JSON = 16 * 2**20
"""Longest JSON file that is read, in bytes."""
DIGITS = 40
"""Most digits of a whole number in it: each may come back in a message, and in arithmetic."""


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
        If the file is missing, too long, or is not a JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise InputError(f"{path}: expected a JSON file of at most {MAX_JSON} bytes, got {size}")
        value = json.loads(path.read_text(encoding="utf-8"), parse_int=_whole)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except RecursionError as error:
        raise InputError(f"{path}: not readable as JSON (nested too deeply)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error)[:160]})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _whole(text: str) -> int:
    """Return a number of JSON that has no fraction."""
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} characters")
    return int(text)
