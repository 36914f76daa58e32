"""What ``NAME=VALUE`` words on the command line say."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any, get_origin

from minisae.console import plain
from minisae.errors import InputError
from minisae.sae import VARIANTS

LISTS = {
    name: kind
    for module in VARIANTS.values()
    for name, kind in module.Config.__annotations__.items()
    if get_origin(kind) is tuple
}
"""Options that are lists of numbers, and their types."""


def settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the options that ``--set`` gives; a list may be written ``4,16``, and one of a single number ``4``."""
    return {name: _listed(name, value) if name in LISTS else value for name, value in pairs(words, "--set").items()}


def _listed(name: str, value: Any) -> list[Any]:
    """Return what was said for an option that is a list."""
    found = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            found = json.loads(f"[{value}]")
    whole = LISTS[name] == tuple[int, ...]
    kinds = (int,) if whole else (int, float)
    if not all(type(number) in kinds for number in found):
        what = "whole numbers, such as 4,16" if whole else "numbers, such as 1,0.5"
        raise InputError(f"--set: expected a list of {what} for {name}, got {value!r}")
    return found


def pairs(words: Sequence[str], flag: str) -> dict[str, Any]:
    """Return ``NAME=VALUE`` words as a dict; values are read as JSON where they are JSON, else as text."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise InputError(f"{flag}: expected NAME=VALUE, got {word!r}")
        try:
            found[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            found[name] = value
        if plain(found[name]) != found[name]:  # NaN and infinities
            raise InputError(f"{flag}: expected a finite value for {name}, got {value}")
    return found
