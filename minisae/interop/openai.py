"""OpenAI's sparse_autoencoder (June 2024): one ``.pt`` file, a state dict with the name of its activation in it.

Both weights stand transposed (linear layers), biases are ``pre_bias`` (b_dec, subtracted and added) and
``latent_bias``. The library takes an activation TopK as the sign that rows are normalised one by one, at run time:
``normalise = "layer_norm"``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisae.errors import InputError
from minisae.interop.arrays import read_state
from minisae.interop.common import Layout, Stored, adopted, gather, number_of, only, scalar_of

NAME = "openai"
LAYOUT: Layout = {
    "W_enc": "encoder.weight.T", "b_enc": "latent_bias", "W_dec": "decoder.weight.T", "b_dec": "pre_bias",
}  # fmt: skip


def recognises(path: Path) -> bool:
    """Return whether ``path`` is a state dict with these names."""
    return path.suffix in (".pt", ".pth") and path.is_file() and {"pre_bias", "latent_bias"} <= set(read_state(path))


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a file; it says everything, so there are no ``options``.

    Raises
    ------
    InputError
        For an activation that no variant has, and whatever is wrong with the file.
    """
    only(options, (), path)
    state = read_state(path)
    arrays = gather(state, LAYOUT, path)
    activation, notes = state.get("activation", "ReLU"), list[str]()
    own: dict[str, Any] = {"subtract_b_dec": True}
    if activation == "ReLU":
        return adopted(path, "relu", own, arrays, metadata={"format": NAME, "notes": notes})
    inner = state.get("activation_state_dict")
    if activation != "TopK" or not isinstance(inner, dict):
        raise InputError(f"{path}: expected activation ReLU, or TopK with its state, got {_shown(activation)}")
    after = inner.get("postact_fn", "ReLU")
    if after != "ReLU":
        raise InputError(f"{path}: expected ReLU after the TopK, got {_shown(after)}")
    own["k"] = int(scalar_of(inner, "k", path)) if isinstance(inner.get("k"), np.ndarray) else inner.get("k")
    number_of(own, "k", path, whole=True)
    notes.append("each row is normalised before encoding and back after decoding: layer_norm, as TopK implies there")
    return adopted(path, "topk", own, arrays, metadata={"format": NAME, "notes": notes}, normalise="layer_norm")


def _shown(value: Any) -> str:
    """Return a few characters that say what stands in a file: text, or what kind of thing else."""
    return repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"
