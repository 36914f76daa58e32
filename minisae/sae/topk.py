"""TopK sparse autoencoder with AuxK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093).

    pre   = (x − b_dec) W_enc + b_enc                            section 2.3; b_enc is in the paper's code only
    f     = ReLU(TopK(pre))                                      k largest of each row
    x_hat = f W_dec + b_dec
    aux   = ReLU(TopK(pre among dead latents, k_aux)) W_dec      appendix A.2
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² ),  the residual held fixed in the second term

The error is summed over d_in (the paper divides by the input's variance: a constant factor). Decoder rows have unit
norm, W_enc starts as W_decᵀ and b_dec at the geometric median (appendix A.1). Letters: n rows, d_in, d_sae, k.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, k=2)
>>> params = init(cfg, np.random.default_rng(0))
>>> f = encode(params, np.array([[2.0, 1.0, -1.0]], np.float32), cfg)
>>> int((f > 0).sum())
2
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired, top_k, top_k_mask
from minisae.sae import auxk, linear, ranking

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
folded = ranking.folded
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
    mse_normaliser: str = "none"
    """What the squared error is divided by."""
    mse_weight: float = 1.0
    """What the squared error is multiplied by; OpenAI: ``d_in / Σ(x − x̄)²`` a row of a sample, with the mean."""
    relu: str = "after"
    """ReLU ``"after"`` the selection, or ``"before"``: then zeros can be selected, and count as having fired."""
    selected_zero: str = "blocked"
    """Whether a selected latent of value 0 gets gradient; ``"passes"`` in sparsify, which leaves out ReLU's mask."""
    select_by: str = "pre"
    """What the k largest, and those of AuxK, are the largest of; SAELens: ``"contribution"``."""
    auxk_over: str = "dead"
    """Among whom AuxK selects; ``"unchosen"`` (overcomplete) counts in full whoever is dead."""
    auxk_bias: bool = False
    """AuxK trains ``b_dec`` too (OpenAI's code)."""
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
    check_number("mse_weight", cfg.mse_weight, least=0)
    check_number("k", cfg.k, least=1, whole=True)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1]  # (n, d_sae)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    return ranking.code_of(top_k(ranked, cfg.k), ranked, pre)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    passed = _chosen(ranked, cfg) if cfg.selected_zero == "passes" else None  # (n, d_sae)
    return auxk.outputs(params, seen, ranked, top_k(ranked, cfg.k), cfg, dead, raw=pre, passed=passed)


def _chosen(pre: Array, cfg: Config) -> Array:
    """Mark what is selected ``(n, d_sae)``, with ReLU before the selection zeros too."""
    return top_k_mask(namespace(pre).maximum(pre, 0) if cfg.relu == "before" else pre, cfg.k)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``. With ReLU before, a selected zero counts."""
    return fired(out.f) if cfg.relu == "after" else _chosen(out.pre, cfg).any(axis=-2)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; none before it is ``folded``."""
    own = {"architecture": "topk", "k": cfg.k, "rescale_acts_by_decoder_norm": False}
    return own if cfg.select_by == "pre" else {}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return {"k": fields.get("k")} if fields.get("architecture") == "topk" else None
