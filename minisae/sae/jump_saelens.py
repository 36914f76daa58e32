"""What SAELens 6.54 calls the options of a JumpReLU autoencoder, in ``cfg.json``."""

from collections.abc import Mapping
from typing import Any


def to_saelens(cfg: Any) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    if cfg.threshold_as == "itself":
        return {"architecture": "jumprelu"}
    return {"architecture": "minisae.jumprelu", "threshold_as": "log", "log_unit": cfg.log_unit}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant.

    The options of a training checkpoint of SAELens 6.54 are kept; a folder for use alone has none.
    """
    architecture = fields.get("architecture")
    if architecture == "minisae.jumprelu":
        return {key: fields[key] for key in ("threshold_as", "log_unit") if key in fields}
    if architecture != "jumprelu":
        return None
    names = {
        "l0_coefficient": "l1", "target_l0": "target", "jumprelu_tanh_scale": "tanh_scale",
        "pre_act_loss_coefficient": "pre_act", "jumprelu_bandwidth": "bandwidth",
        "jumprelu_init_threshold": "first_threshold",
    }  # fmt: skip
    own = {ours: fields[theirs] for theirs, ours in names.items() if fields.get(theirs) is not None}
    if "jumprelu_sparsity_loss_mode" in fields:
        mode = fields["jumprelu_sparsity_loss_mode"]
        own["penalty"] = {"step": "l0", "quadratic": "target_l0"}.get(mode, mode)
        own["ste_reach"] = "everything" if fields.get("jumprelu_ste_to_input") else "threshold"
        own["pre_act_reach"], own["below_zero"] = "dead", "clamp"
        if mode == "quadratic" and {"l1", "target"} <= own.keys():
            own["l1"] = 2 * own["target"] * own["l1"]
    return own
