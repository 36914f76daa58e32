"""SAELens folders: ``cfg.json`` and ``sae_weights.safetensors`` (sae-lens 6.54, and older flat ones).

Names and orientation of the parameters are the same: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec. A variant
that SAELens has says so in its module: ``SAELENS`` names the architecture, ``to_saelens(cfg)`` gives the fields of
``cfg.json`` that are its own, ``from_saelens(fields)`` its options from them, ``SAELENS_ARRAYS`` what SAELens calls a
parameter where that is another name. One that SAELens does not have is written
with an architecture that SAELens refuses by name (``minisae.NAME``). What SAELens has no name for stands in
``metadata.minisae``: the variant and its whole configuration. It counts while SAELens' own fields say the same; where
somebody changed those since (SAELens keeps ``metadata`` as it saves), they count. What SAELens itself wrote is read by
:mod:`minisae.interop.saelens_own`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minisae.backend import Array, to_host
from minisae.errors import InputError
from minisae.interop import saelens_own
from minisae.interop.arrays import read_safetensors
from minisae.interop.common import NORMALISATIONS, Stored, checked, config_of_file, only, refuse
from minisae.interop.common import config_from as config_from
from minisae.interop.files import read_json, write_atomically
from minisae.interop.folding import plain
from minisae.sae import variant

NAME = "saelens"
CONFIG, WEIGHTS = saelens_own.CONFIG, saelens_own.WEIGHTS
VERSION = "6.54.12"
"""The version whose format is written; a folder that names none is old to SAELens, which then drops its metadata."""


def recognises(path: Path) -> bool:
    """Return whether ``path`` is such a folder; one whose weights are missing counts, and is refused in reading."""
    return (path / WEIGHTS).exists() or ((path / CONFIG).exists() and not (path / "sae.safetensors").exists())


def write(
    path: Path,
    name: str,
    cfg: Any,
    params: Mapping[str, Array],
    metadata: Mapping[str, Any],
    normalise: str = "none",
) -> None:
    """Write a folder that SAELens loads, if it has the variant; files are replaced whole or not at all."""
    path.mkdir(parents=True, exist_ok=True)
    theirs = saelens_own.array_names(name)
    arrays = {theirs.get(key, key): np.ascontiguousarray(to_host(p)) for key, p in params.items()}
    fields: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "dtype": str(arrays["W_dec"].dtype),
        "device": "cpu",
        "normalize_activations": normalise,
        "metadata": {**metadata, "minisae": {"variant": name, "cfg": cfg._asdict()}},
        **_function(name, cfg),
    }
    write_atomically(path / WEIGHTS, safetensors.numpy.save(arrays))
    write_atomically(path / CONFIG, (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode())


def _function(name: str, cfg: Any) -> dict[str, Any]:
    """Return the fields of ``cfg.json`` that say what an autoencoder of ours computes."""
    fields = {
        "architecture": f"minisae.{name}",
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "apply_b_dec_to_input": getattr(cfg, "subtract_b_dec", False),
        "reshape_activations": "none",
    }
    return fields | (variant(name).to_saelens(cfg) if hasattr(variant(name), "to_saelens") else {})


def export(path: Path, sae: Stored) -> list[str]:
    """Write what SAELens itself can load, or refuse; return what was folded.

    Raises
    ------
    InputError
        If SAELens has no such architecture.
    """
    sae, notes = plain(sae)
    module = variant(sae.variant)
    fields = module.to_saelens(sae.cfg) if hasattr(module, "to_saelens") else {}
    if str(fields.get("architecture", "minisae.")).startswith("minisae."):
        raise refuse("SAELens 6", f"variant {sae.variant} with these options")
    write(path, *sae)
    return notes


def read(path: Path, options: Mapping[str, Any] | None = None) -> Stored:
    """Read such a folder, ours or one of SAELens; it says everything, so there are no ``options``.

    Raises
    ------
    InputError
        If a file is missing or damaged, the architecture is not one of ours, a shape is not what the configuration
        says, or fields that were changed contradict our metadata: sizes, or any where the architecture is ours alone.
    """
    only(options or {}, (), path)
    fields = read_json(path / CONFIG)
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InputError(f"{path / CONFIG}: expected metadata to be an object, got {type(metadata).__name__}")
    if "minisae" not in metadata:
        return saelens_own.read(path, {**fields, "metadata": metadata})
    ours = metadata["minisae"]
    if not (isinstance(ours, dict) and isinstance(ours.get("cfg"), dict) and isinstance(ours.get("variant"), str)):
        raise InputError(f"{path / CONFIG}: expected metadata.minisae with variant and cfg, got {ours!r:.60}")
    metadata = {key: value for key, value in metadata.items() if key != "minisae"}
    normalise = fields.get("normalize_activations", "none")
    cfg = config_of_file(ours["variant"], ours["cfg"], path / CONFIG)
    wrote = _function(ours["variant"], cfg)
    changed = {key: value for key, value in wrote.items() if fields.get(key, value) != value}
    if normalise not in NORMALISATIONS:
        changed["normalize_activations"] = "one of " + ", ".join(NORMALISATIONS)
    if changed:
        return _changed(path, {**fields, "metadata": metadata}, changed)
    arrays = saelens_own.our_names(read_safetensors(path / WEIGHTS), ours["variant"])
    return Stored(ours["variant"], cfg, checked(arrays, ours["variant"], cfg, path / WEIGHTS), metadata, normalise)


def _changed(path: Path, fields: Mapping[str, Any], wrote: Mapping[str, Any]) -> Stored:
    """Read a folder of ours whose ``fields`` are others than those that we ``wrote``: as SAELens reads it."""
    what = ", ".join(f"{key} is {fields[key]!r:.40}, not {value!r}" for key, value in wrote.items())
    sizes = {"d_in", "d_sae", "d_out"} & wrote.keys()
    if sizes or str(fields.get("architecture")).startswith("minisae."):
        raise InputError(f"{path / CONFIG}: expected fields that agree with metadata.minisae; {what} as there")
    sae = saelens_own.read(path, fields)
    note = f"cfg.json was changed after it was written, and its fields were taken, not metadata.minisae: {what}"
    earlier = sae.metadata.get("notes")
    return sae._replace(metadata=sae.metadata | {"notes": [note, *(earlier if isinstance(earlier, list) else [])]})


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of NumPy arrays, with one line for whatever is wrong with it."""
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"not a readable safetensors file ({error})"
        raise InputError(f"{path}: {what}") from error
