"""Gemma Scope 2 (Google DeepMind, 2025): ``params.safetensors`` with lower-case names, and ``config.json``.

The arithmetic is that of Gemma Scope: JumpReLU, b_dec not subtracted. A transcoder with ``affine_skip_connection``, one
of unequal widths, and cross-layer ones (``w_dec`` with an axis of layers) are refused: a JumpReLU transcoder is no
variant here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisae.errors import InputError
from minisae.interop.arrays import read_safetensors
from minisae.interop.common import Layout, Stored, adopted, gather, only
from minisae.interop.files import read_json

NAME = "gemma_scope_2"
CONFIG, WEIGHTS = "config.json", "params.safetensors"
LAYOUT: Layout = {"W_enc": "w_enc", "b_enc": "b_enc", "W_dec": "w_dec", "b_dec": "b_dec", "threshold": "threshold"}
ABOUT = {"model_name": "model_name", "hf_hook_point_in": "hook_name"}


def recognises(path: Path) -> bool:
    """Return whether ``path`` is such a folder, or its file of arrays."""
    if path.is_dir():
        return (path / WEIGHTS).exists()
    return path.suffix == ".safetensors" and {"w_enc", "w_dec"} <= set(read_safetensors(path))


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a folder, or its file of arrays alone; they say everything, so there are no ``options``.

    Raises
    ------
    InputError
        For another architecture, a skip connection, several layers, and whatever is wrong with the files.
    """
    only(options, (), path)
    weights = path / WEIGHTS if path.is_dir() else path
    place = weights.parent / CONFIG
    fields = read_json(place) if place.exists() else {}
    if fields.get("architecture", "jump_relu") != "jump_relu":
        raise InputError(f"{place}: expected architecture jump_relu, got {str(fields['architecture'])[:40]!r}")
    arrays = read_safetensors(weights)
    ours = gather(arrays, LAYOUT, weights)
    if "affine_skip_connection" in arrays:
        raise InputError(f"{weights}: expected an autoencoder, got a JumpReLU transcoder with a skip connection")
    if ours["W_dec"].ndim != 2 or ours["W_dec"].shape != ours["W_enc"].shape[::-1]:
        shape = ours["W_dec"].shape
        raise InputError(f"{weights}: expected w_dec {ours['W_enc'].shape[::-1]}, got {shape}: a transcoder")
    metadata = {ours: fields[theirs] for theirs, ours in ABOUT.items() if isinstance(fields.get(theirs), str)}
    notes = [] if place.exists() else ["read without config.json: JumpReLU, as all of Gemma Scope 2 are"]
    return adopted(
        weights, "jumprelu", {"subtract_b_dec": False}, ours, metadata={"format": NAME, **metadata, "notes": notes}
    )
