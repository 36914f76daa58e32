"""AbsTopK sparse autoencoder (Zhu, Khalili and Zhu 2025, "AbsTopK: Rethinking Sparse Autoencoders", arXiv:2510.00404).

    pre   = (x − b_dec) W_enc + b_enc
    f     = pre on the k entries of each row that are largest in size, 0 elsewhere       the sign is kept
    x_hat = f W_dec + b_dec
    aux   = (pre on the k_aux dead latents largest in size) W_dec                        SAELens 6.54
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² ),  the residual held fixed in the second term

Hard thresholding, the proximal operator of the L0 constraint: a latent stands for both ends of its direction. The AuxK
term is SAELens', not the paper's; ``auxk=0`` switches it off. Ties go to the lowest index. Letters: n rows, d_in,
d_sae, k.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=2, d_sae=3, k=1)
>>> params = init(cfg, np.random.default_rng(0))
>>> params["W_enc"][...] = [[1, 0, 1], [0, 1, 1]]
>>> encode(params, np.array([[1.0, -3.0]], np.float32), cfg).tolist()
[[0.0, -3.0, 0.0]]
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired, top_k, top_k_among, with_values
from minisae.sae import auxk, linear, ranking

SOURCE = (
    "Zhu, Khalili and Zhu 2025, AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features, arXiv:2510.00404"
)
SHAPES = linear.SHAPES
UNITS = linear.UNITS
SAELENS = "abstopk"
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
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 1 / 32
    """Coefficient of AuxK; 0 switches it off."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    select_by: str = "pre"
    """What the k largest, and those of AuxK, are the largest of; SAELens: ``"contribution"``."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (SAELens)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    auxk.check_config(cfg)
    check_number("k", cfg.k, least=1, whole=True)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")


def _largest(ranked: Array, k: int) -> Code:
    return with_values(top_k(namespace(ranked).abs(ranked), k), ranked)


def _largest_among(ranked: Array, k: int, allowed: Array, *, rectify: bool) -> Code:
    """Return the ``k`` entries largest in size of each row among the ``allowed`` latents; nothing is rectified."""
    return with_values(top_k_among(namespace(ranked).abs(ranked), k, allowed), ranked)


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1]  # (n, d_sae)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    return ranking.code_of(_largest(ranked, cfg.k), ranked, pre)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    kept = _largest(ranked, cfg.k)  # (n, d_sae)
    return auxk.outputs(params, seen, ranked, kept, cfg, dead, raw=pre, among=_largest_among)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch, in either direction: bool ``(d_sae,)``."""
    return fired(out.f)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; none before it is ``folded``."""
    own = {"architecture": "abstopk", "k": cfg.k, "rescale_acts_by_decoder_norm": False}
    return own if cfg.select_by == "pre" else {}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return {"k": fields.get("k")} if fields.get("architecture") == "abstopk" else None
