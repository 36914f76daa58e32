"""Llama Scope (OpenMOSS, 2024), ``hyperparams.json`` and ``checkpoints/final.safetensors``; its distilled ones too.

Both weights stand transposed (linear layers); b_dec is not subtracted. The rows of training were scaled by s =
√d_in / (mean norm of the data, recorded), and back by the same of the target: folded, so that raw rows go in and come
out. The one ``jump_relu_threshold`` is in raw units, so that it becomes θ s beside a folded encoder. The distilled ones
(``config.json``, ``sae_weights.safetensors``) hold ``log_jumprelu_threshold`` for each latent, in scaled units. One
whose hooks of input and output are not the same is a transcoder; its file must say the scale of the target.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisae.errors import InputError
from minisae.interop import folding
from minisae.interop.arrays import read_safetensors
from minisae.interop.common import Layout, Stored, adopted, gather, hooks_of, number_of, only
from minisae.interop.files import read_json

NAME = "llama_scope"
CONFIG, WEIGHTS = "hyperparams.json", Path("checkpoints") / "final.safetensors"
DISTILLED = ("config.json", "sae_weights.safetensors")
LAYOUT: Layout = {
    "W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T", "b_dec": "decoder.bias",
}  # fmt: skip
ACTIVATIONS = ("jumprelu", "JumpReLU", None)
NORMS, HOOKS = "dataset_average_activation_norm", ("hook_point_in", "hook_point_out")


def recognises(path: Path) -> bool:
    """Return whether ``path`` is such a folder, of either kind."""
    ours = all((path / name).exists() for name in DISTILLED) and not (path / "cfg.json").exists()
    return (path / CONFIG).exists() or ours


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a folder; it says everything, so there are no ``options``.

    Raises
    ------
    InputError
        For another activation, and whatever is wrong with the files.
    """
    only(options, (), path)
    distilled = not (path / CONFIG).exists()
    source = path / (DISTILLED[0] if distilled else CONFIG)
    weights = path / (DISTILLED[1] if distilled else WEIGHTS)
    fields, arrays = read_json(source), read_safetensors(weights)
    if fields.get("act_fn") not in ACTIVATIONS:
        raise InputError(f"{source}: expected act_fn jumprelu, got {str(fields['act_fn'])[:40]!r}")
    ours = gather(arrays, LAYOUT, weights)
    norms, d_in = fields.get(NORMS, {}), number_of(fields, "d_model", source, whole=True)
    hooks = hooks_of(fields, *HOOKS, source)
    transcoder = len(set(hooks.values())) == len(HOOKS)
    own: dict[str, Any] = {"d_in": d_in} | ({"d_out": d_in} if transcoder else {"subtract_b_dec": False})
    if "d_sae" in fields:
        own["d_sae"] = number_of(fields, "d_sae", source, whole=True)
    if not isinstance(norms, dict):
        raise InputError(f"{source}: expected {NORMS} with in and out, got {type(norms).__name__}")
    into = None if distilled and not norms else d_in**0.5 / number_of(norms, "in", source)
    notes = []
    if distilled:
        with np.errstate(over="ignore"):
            held = gather(arrays, {"threshold": "log_jumprelu_threshold"}, weights)["threshold"]
            ours["threshold"] = np.exp(held.astype(np.float32))
        notes.append("log_jumprelu_threshold became threshold")
    else:
        one = number_of(fields, "jump_relu_threshold", source) * (into or 1)
        ours["threshold"] = np.full(ours["b_enc"].shape, one, np.float32)
        notes.append("jump_relu_threshold times the scale of rows stands for every latent")
    name = "jumprelu_transcoder" if transcoder else "jumprelu"
    made = adopted(weights, name, own, ours, metadata={"format": NAME, **hooks, "notes": notes})
    if into is None:
        notes.append("rows must be scaled as in training: the files do not say by what")
        return made
    out = d_in**0.5 / number_of(norms, "out", source) if "out" in norms or transcoder else into
    notes.append(f"the scale {into:g} of rows in training was folded: W_enc times it, W_dec and b_dec by {out:g}")
    return made._replace(params=folding.input_scale(made.params, into, out))
