"""Qwen Scope (2025): ``layerN.sae.pt``, a state dict with W_enc (d_sae, d_in) and W_dec (d_in, d_sae).

A TopK that does not subtract b_dec, both weights transposed. k stands in the repository's name alone (``…-L0_50``): it
is read from a folder of that name above the file, or the option ``k`` says it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisae.errors import InputError
from minisae.interop.arrays import read_state
from minisae.interop.common import Layout, Stored, adopted, gather, number_of, only

NAME = "qwen_scope"
LAYOUT: Layout = {"W_enc": "W_enc.T", "b_enc": "b_enc", "W_dec": "W_dec.T", "b_dec": "b_dec"}


def recognises(path: Path) -> bool:
    """Return whether ``path`` is a state dict of these four arrays, with the latents' axis first in W_enc."""
    if path.suffix not in (".pt", ".pth") or not path.is_file():
        return False
    state = read_state(path)
    shapes = [getattr(state.get(key), "shape", ()) for key in ("W_enc", "b_enc")]
    return set(state) == set(LAYOUT) and shapes[0][:1] == shapes[1]


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a file; the option ``k`` overrules what the folder's name says.

    Raises
    ------
    InputError
        If nobody says k, and for whatever is wrong with the file.
    """
    only(options, ("k",), path)
    arrays = gather(read_state(path), LAYOUT, path)
    named = [match for part in path.absolute().parts[:-1] if (match := re.search(r"L0_(\d{1,9})", part))]
    said = ({"k": int(named[-1][1])} if named else {}) | dict(options)
    if "k" not in said:
        raise InputError(f"{path}: expected a folder named …L0_K above the file, or the option k; found neither")
    own = {"k": number_of(said, "k", path, whole=True), "subtract_b_dec": False}
    notes = [f"k = {own['k']} is from the {'options' if 'k' in options else 'name of the folder'}"]
    return adopted(path, "topk", own, arrays, metadata={"format": NAME, "notes": notes})
