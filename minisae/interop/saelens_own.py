"""Folders that SAELens itself wrote: 6.x, its training checkpoints, and the flat ``cfg.json`` before 6.

What SAELens does at run time and has no option here is folded into the weights where that is exact: decoder norms that
rank a TopK (``rescale_acts_by_decoder_norm``), the scale of a training checkpoint's rows (``activation_scaler.json``),
``finetuning_scaling_factor``, a ``log_threshold``. Row by row normalisation stays, as ``normalise``; a transcoder's is
never undone there, and its skip connection takes the row as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisae.errors import InputError
from minisae.interop import folding
from minisae.interop.arrays import read_safetensors
from minisae.interop.common import Stored, checked, config_of_file, number_of, scalar_of, widened
from minisae.interop.files import read_json
from minisae.sae import VARIANTS, variant

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
NUMBERS = (
    "k", "l0_coefficient", "target_l0", "jumprelu_tanh_scale", "pre_act_loss_coefficient", "jumprelu_bandwidth",
    "jumprelu_init_threshold", "l1_coefficient",
)  # fmt: skip
"""Fields that are numbers where they are there."""
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""What fields were called before 6."""
ABOUT = (
    "model_name", "model_class_name", "hook_name", "hook_head_index", "prepend_bos", "context_size", "seqpos_slice",
    "dataset_path", "model_from_pretrained_kwargs", "sae_lens_training_version", "neuronpedia_id",
)  # fmt: skip
"""Fields before 6 that went into ``metadata`` then."""
TRAINING = {"batchtopk": "batchtopk", "matryoshka_batchtopk": "matryoshka_batchtopk"}
"""Architectures of training that become a ``jumprelu`` for use; a training checkpoint has one threshold."""


def array_names(name: str) -> dict[str, str]:
    """Return what SAELens calls the parameters of a variant, of those that have another name there."""
    return getattr(variant(name), "SAELENS_ARRAYS", {})


def our_names(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return arrays of SAELens under our names."""
    ours = {their: key for key, their in array_names(name).items()}
    return {ours.get(key, key): a for key, a in arrays.items()}


def read(path: Path, fields: Mapping[str, Any]) -> Stored:
    """Read a folder of SAELens whose ``cfg.json`` holds ``fields``.

    Raises
    ------
    InputError
        If a file is missing or damaged, the architecture is not one of ours, or a shape is not what the configuration
        says.
    """
    source, notes = path / CONFIG, []
    if _major(fields) < 6:
        fields = upgraded(fields)
        notes.append("cfg.json is of SAELens before 6: its defaults of that time were filled in")
    if not isinstance(fields.get("architecture", ""), str):
        raise InputError(f"{source}: expected architecture to be a name, got a {type(fields['architecture']).__name__}")
    for key in NUMBERS:
        if fields.get(key) is not None and not isinstance(fields[key], int | float):
            raise InputError(f"{source}: expected a number for {key}, got a {type(fields[key]).__name__}")
    name, options = options_of(trained(fields), source)
    arrays = our_names(read_safetensors(path / WEIGHTS), name)
    cfg = config_of_file(name, options, source)
    arrays, more = adapted(arrays, fields, cfg, path)
    params = checked(arrays, name, cfg, path / WEIGHTS)
    if fields.get("rescale_acts_by_decoder_norm"):
        params = folding.decoder_norm(params)
        more.append("decoder norms that rank latents at run time were folded: W_enc, b_enc times them, W_dec by them")
    params, normalise, last = normalised(params, fields, path, back=not hasattr(cfg, "d_out"))
    metadata, notes = dict(fields["metadata"]), notes + more + last
    return Stored(name, cfg, params, metadata | ({"notes": notes} if notes else {}), normalise)


def _major(fields: Mapping[str, Any]) -> int:
    """Return the major version of SAELens that wrote a folder; one that names none is before 6."""
    version = fields.get("sae_lens_version") or fields["metadata"].get("sae_lens_version") or "0"
    first = str(version)[:20].partition(".")[0]
    return int(first) if first.isdecimal() else 0


def upgraded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a flat ``cfg.json`` as version 6 has them."""
    new = {RENAMED.get(key, key): value for key, value in fields.items()}
    kwargs = new.get("activation_fn_kwargs")
    k = kwargs.get("k") if isinstance(kwargs, dict) else None
    new.setdefault("apply_b_dec_to_input", True)
    if new.get("architecture") is None:
        new["architecture"] = "standard"
    if new.get("activation_fn") == "topk" and k is not None:
        new |= {"architecture": "topk", "k": k}
    how = new.get("normalize_activations")
    if how is None or isinstance(how, bool):
        new["normalize_activations"] = "expected_average_only_in" if how else "none"
    if "hook_z" in str(new.get("hook_name", "")):
        new.setdefault("reshape_activations", "hook_z")
    return new | {"metadata": {key: new[key] for key in ABOUT if new.get(key) is not None} | new["metadata"]}


def trained(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a training checkpoint as SAELens writes them for use."""
    if fields.get("architecture") not in TRAINING:
        return dict(fields)
    noted = {"training_architecture": TRAINING[fields["architecture"]], "training_architecture_details": dict(fields)}
    return {**fields, "architecture": "jumprelu", "metadata": {**fields["metadata"], **noted}}


def options_of(fields: Mapping[str, Any], source: Path) -> tuple[str, dict[str, Any]]:
    """Return the variant and its options: the first in ``VARIANTS`` that takes the fields."""
    known = {name: module for name, module in VARIANTS.items() if hasattr(module, "from_saelens")}
    try:
        found = {name: own for name, module in known.items() if (own := module.from_saelens(fields)) is not None}
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: expected fields of SAELens, got others ({str(error)[:100]})") from None
    if not found:
        names = ", ".join(module.SAELENS for module in known.values())
        raise InputError(f"{source}: expected architecture {names}; got {str(fields.get('architecture'))[:60]!r}")
    name, own = next(iter(found.items()))
    shared = {"d_in": fields.get("d_in"), "d_sae": fields.get("d_sae"), "decoder": "free"}
    shared["subtract_b_dec"] = fields.get("apply_b_dec_to_input", True)
    return name, {key: value for key, value in shared.items() if key in VARIANTS[name].Config._fields} | own


def adapted(
    arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any], cfg: Any, path: Path
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays with what older and training checkpoints name or hold otherwise put right, and notes."""
    new, notes, source = dict(arrays), [], path / WEIGHTS
    if "log_threshold" in new and "threshold" not in new:
        with np.errstate(over="ignore"):
            new["threshold"] = np.exp(new.pop("log_threshold"))
        notes.append("log_threshold became threshold")
    if fields.get("architecture") in TRAINING and "topk_threshold" in new:
        one = np.array(scalar_of(new, "topk_threshold", source), np.float32)
        new["threshold"] = np.broadcast_to(one, (cfg.d_sae,))  # a view: d_sae is not checked yet
        notes.append("a training checkpoint: its topk_threshold became the threshold of every latent")
    factor = new.pop("scaling_factor", new.pop("finetuning_scaling_factor", None))
    if factor is not None and not np.all(factor == 1):
        if factor.shape != (cfg.d_sae,) or new["W_dec"].ndim != 2 or len(new["W_dec"]) != cfg.d_sae:
            raise InputError(f"{source}: expected scaling_factor ({cfg.d_sae},), got shape {factor.shape}")
        new["W_dec"] = (widened(new["W_dec"]) * widened(factor)[:, None]).astype(np.float32)
        notes.append("finetuning_scaling_factor was folded: W_dec times it; the code is what it is before scaling")
    return new, notes


def normalised(
    params: dict[str, np.ndarray], fields: Mapping[str, Any], path: Path, *, back: bool
) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """Return parameters, what is left to do to each row at run time (and ``back``), and notes on what was folded."""
    how, notes = fields.get("normalize_activations", "none"), []
    if fields.get("reshape_activations", "none") != "none":
        notes.append("rows are all heads' outputs of a position side by side (reshape_activations)")
    if how in ("layer_norm", "constant_norm_rescale"):
        after = "and back after decoding" if back else "the output stays, and so does what a skip connection takes"
        return params, how, [*notes, f"each row is normalised before encoding{' ' if back else '; '}{after}: {how}"]
    if how == "expected_average_only_in" and (path / SCALER).exists():
        scale = number_of(read_json(path / SCALER), "scaling_factor", path / SCALER)
        notes.append(f"the scale {scale:g} of rows in training was folded: W_enc times it, W_dec and b_dec by it")
        return folding.input_scale(params, scale), "none", notes
    if how == "expected_average_only_in":
        notes.append("rows are taken as they are: expected_average_only_in does nothing at run time in SAELens")
    elif how != "none":
        raise InputError(f"{path / CONFIG}: normalize_activations {str(how)[:60]!r} is not folded; SAELens can")
    return params, "none", notes
