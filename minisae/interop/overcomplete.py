"""overcomplete (0.3): a bare state dict, ``encoder.final_block.0`` (linear) or a tied encoder, and ``dictionary``.

There is no b_dec and nothing is subtracted. The dictionary is normalised on each use: rows divided by their norm (+
1e-8), times e^multiplier; that is folded into W_dec. A JumpSAE holds the logarithms of its thresholds and keeps what
equals them. Whether the k largest are kept, or what a BatchTopKSAE's running threshold was, the file does not say:
options ``variant`` (``relu``, ``topk`` or ``matching_pursuit`` with ``k``, ``batch_topk`` with ``k``, that of a whole
batch, and ``threshold``). ``normalization`` is ``l2`` unless the options say ``identity``. Quantised and archetypal
autoencoders are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisae.errors import InputError
from minisae.interop.arrays import read_state
from minisae.interop.common import Stored, adopted, gather, is_float, number_of, only, scalar_of, widened

NAME = "overcomplete"
DICTIONARY = "dictionary._weights"
LINEAR, TIED = "encoder.final_block.0.", "encoder."
OPTIONS = ("variant", "k", "threshold", "normalization")
NORMALIZATIONS = ("l2", "identity")
VARIANTS = ("relu", "topk", "batch_topk", "matching_pursuit")


def recognises(path: Path) -> bool:
    """Return whether ``path`` is a state dict with such a dictionary."""
    return path.suffix in (".pt", ".pth") and path.is_file() and DICTIONARY in read_state(path)


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a file; ``options`` say what it does not.

    Raises
    ------
    InputError
        For an encoder with layers before the last or a normalisation in it, a quantised or archetypal one, missing
        options, and whatever is wrong with the file.
    """
    only(options, OPTIONS, path)
    state = read_state(path)
    norm = options.get("normalization", "l2")
    if norm not in NORMALIZATIONS:
        raise InputError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {str(norm)[:40]!r}")
    rows = gather(state, {"W_dec": DICTIONARY}, path)["W_dec"]
    if rows.ndim != 2 or not is_float(rows):
        raise InputError(f"{path}: expected a float matrix {DICTIONARY}, got {rows.dtype} of shape {rows.shape}")
    size = np.exp(scalar_of(state, "dictionary.multiplier", path)) if "dictionary.multiplier" in state else 1.0
    W_dec = widened(rows) * size  # (d_sae, d_in)
    if norm == "l2":
        W_dec /= np.linalg.norm(widened(rows), axis=1, keepdims=True) + 1e-8
    arrays = _encoder(state, path, W_dec) | {"b_dec": np.zeros(rows.shape[1], np.float32)}
    arrays["W_dec"] = W_dec.astype(np.result_type(np.float32, rows.dtype))
    notes = ["b_dec = 0: overcomplete has none", f"the dictionary's normalisation ({norm}) and multiplier were folded"]
    name, own, threshold = _selection(state, options, path)
    if threshold is not None:
        arrays["threshold"] = np.broadcast_to(threshold, arrays["b_enc"].shape)
    if name == "matching_pursuit":
        if set(state) - {DICTIONARY, "dictionary.multiplier"}:
            raise InputError(f"{path}: expected a dictionary alone for a matching pursuit, got an encoder too")
    else:
        own["subtract_b_dec"] = False
    return adopted(path, name, own, arrays, metadata={"format": NAME, "notes": notes})


def _encoder(state: Mapping[str, Any], path: Path, W_dec: np.ndarray) -> dict[str, np.ndarray]:
    """Return W_enc and b_enc of the linear encoder, or of one that is tied or has no bias."""
    prefix = LINEAR if f"{LINEAR}weight" in state else TIED
    known = {f"{prefix}weight", f"{prefix}bias", DICTIONARY, "dictionary.multiplier", "thresholds"}
    more = sorted(set(state) - known)
    if more:
        raise InputError(f"{path}: expected a linear encoder and a dictionary, got {', '.join(more)[:80]} too")
    like = state[DICTIONARY]
    arrays = {"b_enc": np.zeros(len(like), np.float32)}
    if f"{prefix}bias" in state:
        arrays |= gather(state, {"b_enc": f"{prefix}bias"}, path)
    if f"{prefix}weight" in state:
        return arrays | gather(state, {"W_enc": f"{prefix}weight.T"}, path)
    return arrays | {"W_enc": W_dec.T.astype(np.result_type(np.float32, like.dtype))}


def _selection(
    state: Mapping[str, Any], options: Mapping[str, Any], path: Path
) -> tuple[str, dict[str, Any], np.ndarray | None]:
    """Return variant, its options and what it has for thresholds: what the file holds, or what the options say."""
    if "thresholds" in state:
        held = gather(state, {"threshold": "thresholds"}, path)["threshold"]
        return "jumprelu", {"threshold_as": "log", "at_threshold": "on"}, held
    name = options.get("variant")
    if name not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise InputError(f"{path}: expected the option variant, one of {known}; the file does not say (convert --set)")
    if name == "relu":
        return "relu", {}, None
    own: dict[str, Any] = {"k": number_of(options, "k", path, whole=True)}
    if name != "batch_topk":
        return name, own, None
    one = np.array([number_of(options, "threshold", path)], np.float32)
    return "batch_topk", own | {"ties": "all", "k_per": "batch", "threshold_rule": "from_first"}, one
