"""dictionary_learning (saprmarks, as of August 2025): ``ae.pt``, a state dict, beside ``config.json``.

``config.json`` names the class under ``trainer.dict_class``; biases are called otherwise in each, so that the class
decides and not the shapes. A state dict alone is read where its names belong to one class only. Linear layers store
(out, in): both weights stand transposed, but in the classes that hold W_enc and W_dec. All subtract b_dec, but
AutoEncoderNew and JumpReluAutoEncoder. Versions before 2025 multiplied the code of GatedAutoEncoder and
JumpReluAutoEncoder by the decoder's norm; the reconstruction is the same.

What these files cannot say (λ, AuxK) is written under ``minisae`` in ``config.json``, which the library passes over.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import to_host
from minisae.errors import InputError
from minisae.interop import folding
from minisae.interop.arrays import read_state
from minisae.interop.common import (
    Layout,
    Stored,
    adopted,
    gather,
    only,
    refuse,
    scalar_of,
    spread,
    trained_options,
    unsaid,
)
from minisae.interop.files import read_json, write_atomically
from minisae.interop.torch_write import pt_bytes
from minisae.sae import matryoshka

NAME = "dictionary_learning"
WEIGHTS, CONFIG = "ae.pt", "config.json"

LINEAR: Layout = {
    "W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T", "b_dec": "b_dec",
}  # fmt: skip
NAMED: Layout = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
GATED: Layout = {
    "W_enc": "encoder.weight.T", "b_enc": "gate_bias", "r_mag": "r_mag", "b_mag": "mag_bias",
    "W_dec": "decoder.weight.T", "b_dec": "decoder_bias",
}  # fmt: skip


class Class(NamedTuple):
    """One class of the library."""

    variant: str
    subtract: bool
    layout: Layout
    trainer: str
    """The trainer it comes from, which its configuration names."""


CLASSES = {
    "AutoEncoder": Class("relu", True, {**LINEAR, "b_dec": "bias"}, "StandardTrainer"),
    "AutoEncoderNew": Class("relu", False, {**LINEAR, "b_dec": "decoder.bias"}, "StandardTrainerAprilUpdate"),
    "GatedAutoEncoder": Class("gated", True, GATED, "GatedSAETrainer"),
    "JumpReluAutoEncoder": Class("jumprelu", False, {**NAMED, "threshold": "threshold"}, "JumpReluTrainer"),
    "AutoEncoderTopK": Class("topk", True, LINEAR, "TopKTrainer"),
    "BatchTopKSAE": Class("batch_topk", True, LINEAR, "BatchTopKTrainer"),
    "MatryoshkaBatchTopKSAE": Class("matryoshka", True, NAMED, "MatryoshkaBatchTopKTrainer"),
}
WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
WITH_ONE_THRESHOLD = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")


def recognises(path: Path) -> bool:
    """Return whether ``path`` is such a folder, or a file of one, or a state dict of a class that its names tell."""
    if path.is_dir():
        return (path / WEIGHTS).exists()
    if path.suffix not in (".pt", ".pth"):
        return False
    return _config_of(path) is not None or _class_by_names(read_state(path)) is not None


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read a folder, or a state dict with or without its ``config.json``; ``options`` may name ``dict_class``.

    Raises
    ------
    InputError
        For a class that is none of :data:`CLASSES` or not known, and whatever is wrong with the files.
    """
    only(options, ("dict_class",), path)
    weights = path / WEIGHTS if path.is_dir() else path
    state, place = read_state(weights), _config_of(weights)
    config = read_json(place) if place else {}
    trainer = config.get("trainer", {})
    if not isinstance(trainer, dict):
        raise InputError(f"{place}: expected trainer to be an object, got a {type(trainer).__name__}")
    name = options.get("dict_class", trainer.get("dict_class")) or _class_by_names(state)
    if not isinstance(name, str) or name not in CLASSES:
        got = f"got {name[:60]!r}" if isinstance(name, str) else f"no config.json names it; {unsaid('dict_class')}"
        raise InputError(f"{weights}: expected dict_class one of {', '.join(CLASSES)}; {got}")
    kind, notes = CLASSES[name], [f"dictionary_learning's {name}"]
    arrays = gather(state, kind.layout, weights)
    own = trained_options(config.get("minisae"), kind.variant, place) | {"subtract_b_dec": kind.subtract}
    own |= {ours: trainer[theirs] for theirs, ours in SIZES.items() if theirs in trainer}
    metadata = {ours: trainer[theirs] for theirs, ours in ABOUT.items() if trainer.get(theirs) is not None}
    if name in WITH_K:
        own["k"] = _whole(scalar_of(state, "k", weights), trainer.get("k"), weights)
    if name in WITH_ONE_THRESHOLD:
        one = scalar_of(state, "threshold", weights)
        dtype = np.result_type(np.float32, state["threshold"].dtype)
        arrays["threshold"] = np.full(arrays["b_enc"].shape, one, dtype)
        notes.append("its one threshold stands for every latent")
        own.setdefault("threshold_rule", "from_first")
    elif name in WITH_K and "threshold" in state:
        metadata["threshold"] = scalar_of(state, "threshold", weights)
        notes.append("its threshold is kept in metadata: the class keeps the k largest")
    if name == "MatryoshkaBatchTopKSAE":
        own |= {"prefixes": _prefixes(state, arrays, weights), "levels": own.get("levels", "mean"), "n_prefixes": 0}
    return adopted(weights, kind.variant, own, arrays, metadata={"format": NAME, **metadata, "notes": notes})


SIZES = {"activation_dim": "d_in", "dict_size": "d_sae"}
ABOUT = {"lm_name": "model_name", "submodule_name": "hook_name", "layer": "layer"}
"""Fields of ``trainer`` that say where an autoencoder comes from, and their names in ``metadata``."""


def _config_of(weights: Path) -> Path | None:
    """Return the ``config.json`` of a state dict: beside it, or above the folder ``checkpoints``."""
    folders = [weights.parent, *([weights.parent.parent] if weights.parent.name == "checkpoints" else [])]
    return next((folder / CONFIG for folder in folders if (folder / CONFIG).exists()), None)


def _class_by_names(state: Mapping[str, Any]) -> str | None:
    """Return the class whose parameters these are, ``None`` if they are no class's or of two."""
    if "group_sizes" in state:
        return "MatryoshkaBatchTopKSAE"
    if "k" in state:
        return None
    for name, kind in CLASSES.items():
        names = {theirs.removesuffix(".T") for theirs in kind.layout.values()}
        if names == set(state) and name not in WITH_K:
            return name
    return None


def _whole(k: float, said: Any, source: Path) -> int:
    """Return k of the state dict, which must be whole and what the configuration says."""
    if k != int(k) or (said is not None and said != k):
        raise InputError(f"{source}: expected one whole k, got {k:g} here and {str(said)[:20]} in config.json")
    return int(k)


def _prefixes(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: Path) -> tuple[int, ...]:
    """Return the prefixes of a Matryoshka from its group sizes, which must sum to the number of latents."""
    sizes = state.get("group_sizes")
    if not isinstance(sizes, np.ndarray) or sizes.ndim != 1 or sizes.dtype.kind != "i" or sizes.size > 10_000:
        raise InputError(f"{source}: expected group_sizes, whole numbers")
    if sizes.min(initial=1) < 1 or int(sizes.sum()) != arrays["b_enc"].size:
        raise InputError(f"{source}: expected group_sizes above 0 that sum to {arrays['b_enc'].size}")
    return tuple(int(width) for width in np.cumsum(sizes))


def export(path: Path, sae: Stored) -> list[str]:
    """Write ``ae.pt`` and ``config.json``; return what was folded.

    Raises
    ------
    InputError
        If no class computes this.
    """
    name, sae, notes = _as_class(sae)
    kind, cfg = CLASSES[name], sae.cfg
    state: dict[str, Any] = spread({key: to_host(p) for key, p in sae.params.items()}, kind.layout)
    trainer: dict[str, Any] = {"dict_class": name, "trainer_class": kind.trainer}
    trainer |= {theirs: getattr(cfg, ours) for theirs, ours in SIZES.items()}
    trainer |= {theirs: sae.metadata.get(ours) for theirs, ours in ABOUT.items()}
    if name in WITH_K:
        trainer["k"] = int(cfg.k)
        one = to_host(sae.params["threshold"])[0] if name in WITH_ONE_THRESHOLD else sae.metadata.get("threshold", -1.0)
        state |= {"k": np.array(cfg.k, np.int32), "threshold": np.array(one, state["b_dec"].dtype)}
    if name == "MatryoshkaBatchTopKSAE":
        state["group_sizes"] = np.diff((0, *matryoshka.widths(cfg))).astype(np.int64)
    about = {
        "trainer": trainer,
        "buffer": {"ctx_len": sae.metadata.get("context_size")},
        "minisae": {"variant": sae.variant, "cfg": cfg._asdict()},
    }
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / WEIGHTS, pt_bytes(state))
    write_atomically(path / CONFIG, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
    return notes


def _as_class(sae: Stored) -> tuple[str, Stored, list[str]]:
    """Return the class that computes what an autoencoder does, the autoencoder as that class has it, and notes."""
    sae, notes = folding.plain(sae)
    if sae.normalise != "none":
        raise refuse(NAME, f"rows normalised at run time ({sae.normalise})")
    names = [name for name, kind in CLASSES.items() if kind.variant == sae.variant]
    if not names:
        raise refuse(NAME, f"variant {sae.variant}")
    if sae.variant == "relu" and not sae.cfg.subtract_b_dec:
        return "AutoEncoderNew", sae, notes
    name = names[0]
    if name == "MatryoshkaBatchTopKSAE" and sae.cfg.n_prefixes:
        sae = sae._replace(cfg=sae.cfg._replace(prefixes=(sae.cfg.d_sae,), n_prefixes=0))
        notes = [*notes, "prefixes drawn in training have no place in the file: one group"]
    if name in WITH_ONE_THRESHOLD:
        own = to_host(sae.params["threshold"])  # (d_sae,)
        if sae.cfg.k != int(sae.cfg.k):
            raise refuse(NAME, f"k = {sae.cfg.k:g}, which is not whole")
        if (own != own[0]).any():
            raise refuse(NAME, "thresholds that differ")
    sae, more = folding.subtracting(sae, CLASSES[name].subtract)
    return name, sae, notes + more
