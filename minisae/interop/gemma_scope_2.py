"""Gemma Scope 2 (Google DeepMind, 2025): ``params.safetensors`` with lower-case names, and ``config.json``.

The arithmetic is that of Gemma Scope: JumpReLU, b_dec not subtracted. Transcoders are files of the same names: one has
``affine_skip_connection`` ``(d_in, d_out)``, unequal widths, or a ``config.json`` whose hooks of input and output are
not the same; its ``affine_connection`` must agree with the file. Cross-layer ones (``w_dec`` with an axis of layers)
are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisae.errors import InputError
from minisae.interop.arrays import read_safetensors
from minisae.interop.common import Layout, Stored, adopted, gather, hooks_of, only
from minisae.interop.files import read_json

NAME = "gemma_scope_2"
CONFIG, WEIGHTS = "config.json", "params.safetensors"
LAYOUT: Layout = {"W_enc": "w_enc", "b_enc": "b_enc", "W_dec": "w_dec", "b_dec": "b_dec", "threshold": "threshold"}
SKIP, SAID = "affine_skip_connection", "affine_connection"
HOOKS = ("hf_hook_point_in", "hf_hook_point_out")


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
        For another architecture, several layers, and whatever is wrong with the files.
    """
    only(options, (), path)
    weights = path / WEIGHTS if path.is_dir() else path
    place = weights.parent / CONFIG
    fields = read_json(place) if place.exists() else {}
    if fields.get("architecture", "jump_relu") != "jump_relu":
        raise InputError(f"{place}: expected architecture jump_relu, got {str(fields['architecture'])[:40]!r}")
    arrays = read_safetensors(weights)
    ours = gather(arrays, {**LAYOUT} | ({"W_skip": f"{SKIP}.T"} if SKIP in arrays else {}), weights)
    if ours["W_dec"].ndim != 2:
        shape = ours["W_dec"].shape
        raise InputError(f"{weights}: expected w_dec (d_sae, d_out), got {shape}: a cross-layer transcoder")
    said = fields.get(SAID)
    if said is not None and said is not (SKIP in arrays):
        has = f"an array {SKIP}" if SKIP in arrays else f"no array {SKIP}"
        raise InputError(f"{place}: expected {SAID} to say what the file of arrays holds, got {said!r:.40} and {has}")
    hooks = hooks_of(fields, *HOOKS, place)
    name, own = "jumprelu", {"subtract_b_dec": False}
    if _is_transcoder(ours, hooks):
        name = "jumprelu_skip_transcoder" if "W_skip" in ours else "jumprelu_transcoder"
        own = {"d_out": ours["W_dec"].shape[1]}
    model = fields.get("model_name")
    metadata = hooks | ({"model_name": model} if isinstance(model, str) else {})
    notes = [] if place.exists() else ["read without config.json: JumpReLU, as all of Gemma Scope 2 are"]
    return adopted(weights, name, own, ours, metadata={"format": NAME, **metadata, "notes": notes})


def _is_transcoder(arrays: Mapping[str, Any], hooks: Mapping[str, str]) -> bool:
    """Return whether an output is predicted that is not the input; a file alone may not say it of equal widths."""
    other = len(set(hooks.values())) == len(HOOKS)
    return other or "W_skip" in arrays or arrays["W_dec"].shape[1] != arrays["W_enc"].shape[0]
