"""GroupMax sparse autoencoder: one winner in each of k groups of latents (sparsify 1.3.3, ``activation="groupmax"``).

    pre   = (x − b_dec) W_enc + b_enc
    f_j   = ReLU(pre_j) if j has the largest pre of its group, else 0     group g: latents g d_sae/k … (g+1) d_sae/k − 1
    x_hat = f W_dec + b_dec
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² )        AuxK as in topk

There is no paper; the source is sparsify's code (github.com/EleutherAI/sparsify). It asks that k divide d_sae; here the
first groups are one latent wider where it does not, so that k can be annealed. Ties go to the lowest index. In sparsify
ReLU comes before the maximum: the first latent of a group without a positive one is its winner, counts as having fired
(``relu="before"``) and gets gradient (``selected_zero="passes"``). Letters: n rows, d_in, d_sae, k.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=6, k=2)
>>> params = init(cfg, np.random.default_rng(0))
>>> params["b_enc"][...] = [1, 9, 2, 8, 7, 6]
>>> np.flatnonzero(encode(params, np.zeros((1, 3), np.float32), cfg)).tolist()
[1, 3]
"""

from typing import NamedTuple

from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired, group_max, group_winners
from minisae.sae import auxk, linear

SOURCE = "EleutherAI, sparsify 1.3.3 (2025), activation groupmax, github.com/EleutherAI/sparsify"
SHAPES = linear.SHAPES
UNITS = linear.UNITS
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
    """Groups, and so active latents a row at most."""
    k_aux: int = 0
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 1 / 32
    """Coefficient of AuxK; 0 switches it off."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    mse_normaliser: str = "none"
    """What the squared error is divided by."""
    relu: str = "after"
    """ReLU ``"after"`` the maximum, or ``"before"``: then zeros can win, and count as having fired."""
    selected_zero: str = "blocked"
    """Whether a winner of value 0 gets gradient; ``"passes"`` in sparsify, which leaves out ReLU's mask."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (sparsify)."""
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
    return group_max(linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1], cfg.k)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    passed = _winners(pre, cfg) if cfg.selected_zero == "passes" else None  # (n, d_sae)
    return auxk.outputs(params, seen, pre, group_max(pre, cfg.k), cfg, dead, passed=passed)


def _winners(pre: Array, cfg: Config) -> Array:
    """Mark the winner of each group ``(n, d_sae)``, with ReLU before the maximum one of value 0 too."""
    return group_winners(namespace(pre).maximum(pre, 0) if cfg.relu == "before" else pre, cfg.k)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``. With ReLU before, a winner of value 0 counts."""
    return fired(out.f) if cfg.relu == "after" else _winners(out.pre, cfg).any(axis=-2)
