"""sparsify (EleutherAI, 1.3): a folder with ``cfg.json`` and ``sae.safetensors``.

``encoder.weight`` stands as (d_sae, d_in), ``W_dec`` as (d_sae, d_in) already. An autoencoder subtracts b_dec, a
transcoder (``transcode``) does not; ``skip_connection`` adds x W_skipᵀ. Old files lack ``activation`` (topk), and
``num_latents`` 0 means ``expansion_factor`` times d_in. ReLU comes before the selection, which is the same code.

What these files cannot say is written under ``minisae`` in ``cfg.json``, which the library passes over.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from minisae.backend import to_host
from minisae.errors import InputError
from minisae.interop import folding
from minisae.interop.arrays import read_safetensors
from minisae.interop.common import (
    Layout,
    Stored,
    adopted,
    gather,
    number_of,
    only,
    refuse,
    spread,
    trained_options,
)
from minisae.interop.files import read_json, write_atomically
from minisae.sae import VARIANTS

NAME = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
LAYOUT: Layout = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
ACTIVATIONS = {"topk": "topk", "groupmax": "group_max"}
"""What the library calls the selection, and the variant that has it."""
DEFAULTS = {"expansion_factor": 32, "k": 32}
"""Of the library, for files that leave them out."""


def recognises(path: Path) -> bool:
    """Return whether ``path`` is such a folder."""
    return (path / WEIGHTS).exists()


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a folder; it says everything, so there are no ``options``.

    Raises
    ------
    InputError
        For an activation or a combination that no variant has, and whatever is wrong with the files.
    """
    only(options, (), path)
    source, weights = path / CONFIG, path / WEIGHTS
    fields = DEFAULTS | read_json(source)
    activation = fields.get("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise InputError(f"{source}: expected activation {' or '.join(ACTIVATIONS)}, got {str(activation)[:40]!r}")
    d_in, k = number_of(fields, "d_in", source, whole=True), number_of(fields, "k", source, whole=True)
    latents = fields.get("num_latents") or d_in * number_of(fields, "expansion_factor", source, whole=True)
    notes = [] if "activation" in fields else ["cfg.json names no activation: topk, as it was then"]
    arrays = read_safetensors(weights)
    name, own = ACTIVATIONS[activation], {"d_in": d_in, "d_sae": latents, "k": k, "subtract_b_dec": True}
    ours = gather(arrays, LAYOUT, weights)
    if fields.get("transcode") or fields.get("skip_connection"):
        name = "skip_transcoder" if fields.get("skip_connection") else "transcoder"
        if activation != "topk" or not fields.get("transcode"):
            raise InputError(f"{source}: expected a transcoder with topk, got {activation}, or no transcoder")
        own = {key: value for key, value in own.items() if key != "subtract_b_dec"} | {"d_out": d_in}
        notes.append("a transcoder: rows hold input and target side by side")
        if name == "skip_transcoder":
            ours |= gather(arrays, {"W_skip": "W_skip"}, weights)
    elif fields.get("multi_topk") and name == "topk":
        name = "multi_topk"
    if name not in VARIANTS:
        raise InputError(f"{source}: expected a topk, got a {name}, which is no variant here")
    own = trained_options(fields.get("minisae"), name, source) | own
    return adopted(weights, name, own, ours, metadata={"format": NAME, "notes": notes})


def export(path: Path, sae: Stored) -> list[str]:
    """Write such a folder; return what was folded.

    Raises
    ------
    InputError
        If the library has no such autoencoder.
    """
    transcode = sae.variant in ("transcoder", "skip_transcoder")
    multi = sae.variant == "multi_topk"
    sae, notes = (sae, list[str]()) if multi else folding.plain(sae)
    cfg = sae.cfg
    if sae.normalise != "none":
        raise refuse(NAME, f"rows normalised at run time ({sae.normalise})")
    if sae.variant not in (*ACTIVATIONS.values(), "multi_topk") and not transcode:
        raise refuse(NAME, f"variant {sae.variant}")
    if sae.variant == "group_max" and cfg.d_sae % cfg.k:
        raise refuse(NAME, f"{cfg.k} groups of {cfg.d_sae} latents, which are not equally wide")
    if transcode and (not cfg.k or cfg.d_in != cfg.d_out):
        raise refuse(NAME, f"variant {sae.variant} with k = {cfg.k}, widths {cfg.d_in} and {cfg.d_out}")
    if not transcode:
        sae, more = folding.subtracting(sae, True)
        notes = notes + more
    layout = {**LAYOUT} | ({"W_skip": "W_skip"} if sae.variant == "skip_transcoder" else {})
    arrays = spread({key: to_host(p) for key, p in sae.params.items()}, layout)
    fields = {
        "activation": "groupmax" if sae.variant == "group_max" else "topk",
        "expansion_factor": DEFAULTS["expansion_factor"],
        "normalize_decoder": cfg.decoder == "unit",
        "num_latents": cfg.d_sae,
        "k": cfg.k,
        "multi_topk": multi,
        "skip_connection": sae.variant == "skip_transcoder",
        "transcode": transcode,
        "d_in": cfg.d_in,
        "minisae": {"variant": sae.variant, "cfg": sae.cfg._asdict()},
    }
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / WEIGHTS, safetensors.numpy.save({key: np.asarray(a) for key, a in arrays.items()}))
    write_atomically(path / CONFIG, (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode())
    return notes
