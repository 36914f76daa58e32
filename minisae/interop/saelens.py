"""SAELens 6 folders: ``cfg.json`` and ``sae_weights.safetensors`` (sae-lens 6.54).

Names and orientation of the parameters are the same: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec. A variant
that SAELens has says so in its module: ``SAELENS`` names the architecture, ``to_saelens(cfg)`` gives the fields of
``cfg.json`` that are its own, ``from_saelens(fields)`` its options from them, ``SAELENS_ARRAYS`` what SAELens calls a
parameter where that is another name. One that SAELens does not have is written
with an architecture that SAELens refuses by name (``minisae.NAME``). What SAELens has no name for stands in
``metadata.minisae``: the variant and its whole configuration.
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
from minisae.interop.files import read_json, write_atomically
from minisae.sae import VARIANTS, variant
from minisae.sae.linear import feature_major

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""The version whose format is written; a folder that names none is old to SAELens, which then drops its metadata."""


def write(path: Path, name: str, cfg: Any, params: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write a folder that SAELens loads, if it has the variant; files are replaced whole or not at all."""
    path.mkdir(parents=True, exist_ok=True)
    theirs = array_names(name)
    arrays = {theirs.get(key, key): np.ascontiguousarray(to_host(p)) for key, p in params.items()}
    fields: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "architecture": f"minisae.{name}",
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": str(arrays["W_dec"].dtype),
        "device": "cpu",
        "apply_b_dec_to_input": getattr(cfg, "subtract_b_dec", False),
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**metadata, "minisae": {"variant": name, "cfg": cfg._asdict()}},
    }
    if hasattr(variant(name), "to_saelens"):
        fields |= variant(name).to_saelens(cfg)
    write_atomically(path / WEIGHTS, safetensors.numpy.save(arrays))
    write_atomically(path / CONFIG, (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode())


def array_names(name: str) -> dict[str, str]:
    """Return what SAELens calls the parameters of a variant, of those that have another name there."""
    return getattr(variant(name), "SAELENS_ARRAYS", {})


def read(path: Path) -> tuple[str, Any, dict[str, np.ndarray], dict[str, Any]]:
    """Read such a folder: the variant's name, its configuration, parameters, and metadata.

    Raises
    ------
    InputError
        If a file is missing or damaged, the architecture is not one of ours, or a shape is not what the configuration
        says.
    """
    fields = read_json(path / CONFIG)
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InputError(f"{path / CONFIG}: expected metadata to be an object, got {type(metadata).__name__}")
    ours = metadata.get("minisae")
    if ours is not None and not (isinstance(ours, dict) and isinstance(ours.get("cfg"), dict) and "variant" in ours):
        raise InputError(f"{path / CONFIG}: expected metadata.minisae with variant and cfg, got {ours!r:.60}")
    metadata = {key: value for key, value in metadata.items() if key != "minisae"}
    name, options = (ours["variant"], ours["cfg"]) if ours else _theirs(fields, path)
    cfg = config_from(name, options, path / CONFIG)
    return name, cfg, read_params(path / WEIGHTS, name, cfg), metadata


def _theirs(fields: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Return the variant and its options of a folder that SAELens wrote: the first in ``VARIANTS`` that takes it."""
    known = {name: module for name, module in VARIANTS.items() if hasattr(module, "from_saelens")}
    found = {name: own for name, module in known.items() if (own := module.from_saelens(fields)) is not None}
    if not found:
        names = ", ".join(module.SAELENS for module in known.values())
        raise InputError(f"{path / CONFIG}: expected architecture {names}; got {fields.get('architecture')!r}")
    if fields.get("rescale_acts_by_decoder_norm") or fields.get("normalize_activations", "none") != "none":
        raise InputError(f"{path / CONFIG}: run-time rescaling or normalisation of activations is not read yet")
    name, own = next(iter(found.items()))
    shared = {"d_in": fields.get("d_in"), "d_sae": fields.get("d_sae"), "decoder": "free"}
    return name, {**shared, "subtract_b_dec": fields.get("apply_b_dec_to_input", True), **own}


def config_from(name: str, options: Mapping[str, Any], source: object) -> Any:
    """Return a variant's configuration from named options, unknown ones refused.

    Raises
    ------
    InputError
        Naming ``source`` and the option.
    """
    module = variant(name)
    unknown = sorted(set(options) - set(module.Config._fields))
    if unknown:
        known = ", ".join(module.Config._fields)
        raise InputError(f"{source}: {name} has no option {', '.join(unknown)}; expected some of {known}")
    missing = sorted(set(module.Config._fields) - set(module.Config._field_defaults) - set(options))
    if missing:
        raise InputError(f"{source}: {', '.join(missing)} missing")
    cfg = module.Config(**options)
    module.check_config(cfg)
    return cfg


def read_params(path: Path, name: str, cfg: Any) -> dict[str, np.ndarray]:
    """Read the parameters of a variant from a safetensors file, checked against its ``SHAPES``, encoder feature-major.

    Raises
    ------
    InputError
        If the file is missing or damaged, or an array is missing, has another shape, or is not finite.
    """
    ours = {their: key for key, their in array_names(name).items()}
    arrays = {ours.get(key, key): a for key, a in read_arrays(path).items()}
    params = {}
    # One dtype for all; half precision is for files, not for products.
    dtype = np.result_type(np.float32, *(a for key, a in arrays.items() if key in VARIANTS[name].SHAPES))
    for key, letters in VARIANTS[name].SHAPES.items():
        shape = tuple(getattr(cfg, letter) for letter in letters)
        if key not in arrays:
            raise InputError(f"{path}: expected an array {key} {shape}, found {', '.join(sorted(arrays)) or 'none'}")
        a = arrays[key]
        if a.shape != shape:
            raise InputError(f"{path}: {key} is {a.shape}; expected ({', '.join(letters)}) = {shape}")
        if not np.issubdtype(a.dtype, np.floating):
            raise InputError(f"{path}: {key} is {a.dtype}; expected a float type")
        a = a.astype(dtype, copy=False)
        if not np.isfinite(a).all():
            raise InputError(f"{path}: {key} has {int((~np.isfinite(a)).sum())} entries that are not finite")
        params[key] = feature_major(a) if key == "W_enc" else a
    return params


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of NumPy arrays, with one line for whatever is wrong with it."""
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"not a readable safetensors file ({error})"
        raise InputError(f"{path}: {what}") from error
