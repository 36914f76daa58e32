"""TopK sparse autoencoder with AuxK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093).

    pre   = (x − b_dec) W_enc + b_enc                            section 2.3; b_enc is in the paper's code only
    f     = ReLU(TopK(pre))                                      k largest of each row
    x_hat = f W_dec + b_dec
    aux   = ReLU(TopK(pre among dead latents, k_aux)) W_dec      appendix A.2
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² ),  the residual held fixed in the second term

The error is summed over d_in (the paper divides by the input's variance: a constant factor). Decoder rows have unit
norm, W_enc starts as W_decᵀ and b_dec at the geometric median (appendix A.1). Letters: n rows, d_in, d_sae, k.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired, top_k, top_k_mask
from minisae.sae import auxk, linear

SOURCE = "Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093"
SHAPES = linear.SHAPES
UNITS = linear.UNITS
SAELENS = "topk"
"""The architecture that SAELens 6 has for it."""
init = linear.init
decode = linear.reconstruct
aux_width = auxk.aux_width
backward = auxk.backward
objective = auxk.objective
Params = linear.Params
Out = auxk.Out
Cache = auxk.Cache


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    k: int = 32
    """Active latents a row."""
    k_aux: int = 0
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, as the paper advises, and at most ``d_sae``."""
    auxk: float = 1 / 32
    """Coefficient of AuxK; 0 switches it off."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    relu: str = "after"
    """ReLU ``"after"`` the selection, or ``"before"``: then zeros can be selected, and count as having fired."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_relu: bool = True
    """ReLU on the code of the dead latents; without it (SAELens) negative values enter too."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (SAELens, sparsify)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    auxk.check_config(cfg)
    check_number("k", cfg.k, least=1, whole=True)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return top_k(linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1], cfg.k)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    return auxk.outputs(params, seen, pre, top_k(pre, cfg.k), cfg, dead)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``. With ReLU before, a selected zero counts."""
    if cfg.relu == "after":
        return fired(out.f)
    return top_k_mask(namespace(out.pre).maximum(out.pre, 0), cfg.k).any(axis=-2)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    return {"architecture": "topk", "k": cfg.k, "rescale_acts_by_decoder_norm": False}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return {"k": fields.get("k")} if fields.get("architecture") == "topk" else None
