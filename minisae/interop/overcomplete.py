"""overcomplete (0.3): a bare state dict, ``encoder.final_block.0`` (linear) or a tied encoder, and ``dictionary``.

There is no b_dec and nothing is subtracted. The dictionary is normalised on each use: rows divided by their norm (+
1e-8), times e^multiplier; that is folded into W_dec. A JumpSAE holds the logarithms of its thresholds and keeps what
equals them. Whether the k largest are kept, or what a BatchTopKSAE's running threshold was, the file does not say:
options ``variant`` (``relu``, ``topk`` or ``matching_pursuit`` with ``k``, ``batch_topk`` with ``k``, that of a whole
batch, and ``threshold``). ``normalization`` is ``l2`` unless the options say ``identity``. An archetypal
dictionary e^multiplier (W C + Relax) is folded into W_dec of a ``topk``, with option ``k``, or of a JumpSAE's
``jumprelu``; saved between a step and the projection that follows, it needs option ``delta``. Quantised autoencoders
are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisae.errors import InputError
from minisae.interop.arrays import read_state
from minisae.interop.common import Stored, adopted, gather, is_float, number_of, only, scalar_of, unsaid, widened

NAME = "overcomplete"
DICTIONARY = "dictionary._weights"
ARCHETYPAL = {"points": "dictionary.C", "A": "dictionary.W", "relaxation": "dictionary.Relax"}
"""What an archetypal dictionary holds instead, by our names."""
LINEAR, TIED = "encoder.final_block.0.", "encoder."
OPTIONS = ("variant", "k", "threshold", "normalization", "delta")
MULTIPLIER = "dictionary.multiplier"
NORMALIZATIONS = ("l2", "identity")
VARIANTS = ("relu", "topk", "batch_topk", "matching_pursuit")


def recognises(path: Path) -> bool:
    """Return whether ``path`` is a state dict with such a dictionary."""
    if path.suffix not in (".pt", ".pth") or not path.is_file():
        return False
    state = read_state(path)
    return DICTIONARY in state or set(ARCHETYPAL.values()) <= state.keys()


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a file; ``options`` say what it does not.

    Raises
    ------
    InputError
        For an encoder with layers before the last or a normalisation in it, a quantised one, missing options, and
        whatever is wrong with the file.
    """
    only(options, OPTIONS, path)
    state = read_state(path)
    archetypal = set(ARCHETYPAL.values()) <= state.keys()
    W_dec, how = (_archetypal if archetypal else _dictionary)(state, options, path)
    arrays = _encoder(state, path, W_dec) | {"b_dec": np.zeros(W_dec.shape[1], np.float32), "W_dec": W_dec}
    notes = ["b_dec = 0: overcomplete has none", how]
    if archetypal:
        options = {"variant": "topk", **options}
        if options["variant"] != "topk":
            raise InputError(f"variant: expected topk for an archetypal dictionary, got {options['variant']!r:.40}")
    name, own, threshold = _selection(state, options, path)
    if threshold is not None:
        arrays["threshold"] = np.broadcast_to(threshold, arrays["b_enc"].shape)
    if name == "matching_pursuit":
        if set(state) - {DICTIONARY, MULTIPLIER}:
            raise InputError(f"{path}: expected a dictionary alone for a matching pursuit, got an encoder too")
    else:
        own["subtract_b_dec"] = False
    return adopted(path, name, own, arrays, metadata={"format": NAME, "notes": notes})


def _dictionary(state: Mapping[str, Any], options: Mapping[str, Any], path: Path) -> tuple[np.ndarray, str]:
    """Return W_dec ``(d_sae, d_in)`` and a note: the dictionary with its normalisation and multiplier."""
    norm = options.get("normalization", "l2")
    if norm not in NORMALIZATIONS:
        raise InputError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {str(norm)[:40]!r}")
    if "delta" in options:
        raise InputError("delta: expected none, the dictionary is not archetypal")
    rows = gather(state, {"W_dec": DICTIONARY}, path)["W_dec"]
    if rows.ndim != 2 or not is_float(rows):
        raise InputError(f"{path}: expected a float matrix {DICTIONARY}, got {rows.dtype} of shape {rows.shape}")
    W_dec = widened(rows) * _size(state, path)  # (d_sae, d_in)
    if norm == "l2":
        W_dec /= np.linalg.norm(widened(rows), axis=1, keepdims=True) + 1e-8
    W_dec = W_dec.astype(np.result_type(np.float32, rows.dtype))  # (d_sae, d_in)
    return W_dec, f"the dictionary's normalisation ({norm}) and multiplier were folded"


def _archetypal(state: Mapping[str, Any], options: Mapping[str, Any], path: Path) -> tuple[np.ndarray, str]:
    """Return W_dec ``(d_sae, d_in)`` and a note: e^multiplier (W C + Relax), projected as it is before each use."""
    if "normalization" in options:
        raise InputError("normalization: expected none, an archetypal dictionary has none")
    parts = gather(state, ARCHETYPAL, path)
    C, A, relax = parts["points"], parts["A"], parts["relaxation"]
    if not all(a.ndim == 2 and is_float(a) for a in (C, A, relax)) or (*A.shape, C.shape[1]) != (
        len(relax), len(C), relax.shape[1]
    ):  # fmt: skip
        shapes = f"{A.shape}, {C.shape}, {relax.shape}"
        raise InputError(
            f"{path}: expected dictionary.W, C and Relax to be float matrices of W C + Relax, got {shapes}"
        )
    weights, moved = np.maximum(widened(A), 0), widened(relax)  # (d_sae, n_points), and (d_sae, d_in)
    total = weights.sum(axis=1, keepdims=True)  # (d_sae, 1)
    if "delta" in options:
        norms = np.linalg.norm(moved, axis=1, keepdims=True)  # (d_sae, 1)
        moved *= np.minimum(number_of(options, "delta", path, asked=True) / np.where(norms > 0, norms, 1), 1)
    elif (A < -1e-6).any() or (abs(total - 1) > 1e-4)[total > 0].any():
        raise InputError(f"{path}: expected the option delta: the dictionary was saved before it was projected")
    W_dec = (weights / (total + 1e-8) @ widened(C) + moved) * _size(state, path)  # (d_sae, d_in)
    return W_dec.astype(np.result_type(np.float32, relax.dtype)), "an archetypal dictionary was folded into W_dec"


def _size(state: Mapping[str, Any], path: Path) -> float:
    """Return what the dictionary is multiplied by."""
    return float(np.exp(scalar_of(state, MULTIPLIER, path))) if MULTIPLIER in state else 1.0


def _encoder(state: Mapping[str, Any], path: Path, W_dec: np.ndarray) -> dict[str, np.ndarray]:
    """Return W_enc and b_enc of the linear encoder, or of one that is tied or has no bias."""
    prefix = LINEAR if f"{LINEAR}weight" in state else TIED
    dictionary = ARCHETYPAL.values() if set(ARCHETYPAL.values()) <= state.keys() else (DICTIONARY,)
    known = {f"{prefix}weight", f"{prefix}bias", *dictionary, MULTIPLIER, "thresholds"}
    more = sorted(set(state) - known)
    if more:
        raise InputError(f"{path}: expected a linear encoder and a dictionary, got {', '.join(more)[:80]} too")
    arrays = {"b_enc": np.zeros(len(W_dec), np.float32)}
    if f"{prefix}bias" in state:
        arrays |= gather(state, {"b_enc": f"{prefix}bias"}, path)
    if f"{prefix}weight" in state:
        return arrays | gather(state, {"W_enc": f"{prefix}weight.T"}, path)
    return arrays | {"W_enc": W_dec.T}


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
        raise InputError(f"{path}: expected variant to be one of {known}: {unsaid('variant')}")
    if name == "relu":
        return "relu", {}, None
    own: dict[str, Any] = {"k": number_of(options, "k", path, whole=True, asked=True)}
    if name != "batch_topk":
        return name, own, None
    one = np.array([number_of(options, "threshold", path, asked=True)], np.float32)
    return "batch_topk", own | {"ties": "all", "k_per": "batch", "threshold_rule": "from_first"}, one
