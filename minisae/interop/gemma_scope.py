"""Gemma Scope (Google DeepMind, 2024): ``params.npz`` with W_enc, b_enc, W_dec, b_dec and threshold as they stand here.

A JumpReLU that does not subtract b_dec. Autoencoders of the embeddings take them multiplied by √d_in, as the model
does after looking them up: files below a folder whose name has ``embedding`` in it are read so that they take the
hook's rows (W_enc/√d_in, W_dec·√d_in), as SAELens does; the option ``embedding`` says it either way. The file does not
say what was read from what: a transcoder of equal widths looks the same.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisae.backend import to_host
from minisae.errors import InputError
from minisae.interop import folding
from minisae.interop.arrays import read_npz
from minisae.interop.common import Layout, Stored, adopted, gather, only, refuse, widened
from minisae.interop.files import write_atomically

NAME = "gemma_scope"
WEIGHTS = "params.npz"
KEYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
LAYOUT: Layout = {key: key for key in KEYS}
WANTED = (*KEYS, "w_enc", "w_dec", "scaling_factor")
"""What is looked for in the file; some were written with a small w."""


def recognises(path: Path) -> bool:
    """Return whether ``path`` is an npz file, or a folder with that one."""
    return (path / WEIGHTS).exists() or (path.suffix == ".npz" and path.is_file())


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read ``params.npz``; the option ``embedding`` (true or false) overrules what the folder's name says.

    Raises
    ------
    InputError
        If an array is missing, and for whatever is wrong with the file.
    """
    only(options, ("embedding",), path)
    weights = path / WEIGHTS if path.is_dir() else path
    arrays = {f"W_{key[2:]}" if key.startswith("w_") else key: a for key, a in read_npz(weights, WANTED).items()}
    ours, notes = gather(arrays, LAYOUT, weights), []
    factor = arrays.get("scaling_factor")
    if factor is not None and not np.all(factor == 1):
        if factor.shape != ours["b_enc"].shape or ours["W_dec"].ndim != 2:
            raise InputError(f"{weights}: expected scaling_factor {ours['b_enc'].shape}, got shape {factor.shape}")
        ours["W_dec"] = (widened(ours["W_dec"]) * widened(factor)[:, None]).astype(np.float32)
        notes.append("scaling_factor was folded: W_dec times it")
    made = adopted(weights, "jumprelu", {"subtract_b_dec": False}, ours, metadata={"format": NAME, "notes": notes})
    embedding = options.get("embedding", any("embedding" in part for part in weights.absolute().parts[:-1]))
    if not isinstance(embedding, bool):
        raise InputError(f"embedding: expected true or false, got {str(embedding)[:40]!r}")
    if not embedding:
        return made
    root = float(np.sqrt(made.cfg.d_in))
    by = {"W_enc": 1 / root, "W_dec": root}
    scaled = {key: (widened(p) * by[key]).astype(p.dtype) if key in by else p for key, p in made.params.items()}
    notes.append("an autoencoder of embeddings: W_enc was divided by √d_in and W_dec multiplied by it")
    return made._replace(params=scaled)


def export(path: Path, sae: Stored) -> list[str]:
    """Write ``params.npz``; return what was folded or has no place there.

    Raises
    ------
    InputError
        If no thresholds compute the same.
    """
    if sae.normalise != "none":
        raise refuse("Gemma Scope", f"rows normalised at run time ({sae.normalise})")
    sae, notes = folding.plain(sae._replace(params={key: to_host(p) for key, p in sae.params.items()}))
    jumping = folding.thresholds(sae)
    if jumping is None:
        raise refuse("Gemma Scope", f"variant {sae.variant}: no thresholds compute the same")
    params, more = jumping
    sae, last = folding.subtracting(sae._replace(params=params), False)
    held = io.BytesIO()
    np.savez(held, **{key: np.ascontiguousarray(sae.params[key]) for key in KEYS})  # type: ignore[arg-type]
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / WEIGHTS, held.getvalue())
    return [*notes, *more, *last, "options of training (penalty, kernel, AuxK) have no place in the file"]
