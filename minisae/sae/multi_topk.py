"""Multi-TopK sparse autoencoder (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093).

    pre   = (x − b_dec) W_enc + b_enc
    f     = ReLU(TopK(pre, k)),  x_hat = f W_dec + b_dec                        section 2.3, as in topk
    wide  = ReLU(TopK(pre, m k)) W_dec + b_dec                                  section 5.3
    L     = L(k) + w (1/n) Σ_rows ‖x − wide‖²,    m = 4, w = 1/8
    L(k)  = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² )              AuxK as in topk

What is shipped is the code of k latents; more latents at inference go on improving the reconstruction, which they do
not in topk. ``m k`` is at most d_sae. sparsify 1.3.3: both errors over the variance, ``multi_reach="decoder"``, for its
encoder drops the slope of the wider code. Letters: n rows, d_in, d_sae, k.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, k=1)
>>> params = init(cfg, np.random.default_rng(0))
>>> x = np.array([[2.0, 1.0, -1.0]], np.float32)
>>> out, _ = forward(params, x, cfg)
>>> terms = objective(params, out, x, cfg)
>>> int((out.f > 0).sum()), wide_k(cfg), sorted(terms)
(1, 4, ['mse', 'multi'])
"""

from typing import NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired, top_k, top_k_mask
from minisae.sae import auxk, linear

SOURCE = "Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093, section 5.3"
SHAPES = linear.SHAPES
UNITS = linear.UNITS
init = linear.init
decode = linear.reconstruct
aux_width = auxk.aux_width
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes; AuxK is on by default, as in topk."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    k: int = 32
    """Active latents a row."""
    multi: int = 4
    """m: how many times k the wider code has."""
    multi_weight: float = 1 / 8
    """w: what its error is multiplied by."""
    multi_reach: str = "latents"
    """What its error trains."""
    k_aux: int = 0
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 1 / 32
    """Coefficient of AuxK; 0 switches it off."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared errors over ``d_in``."""
    mse_normaliser: str = "none"
    """What both squared errors are divided by."""
    relu: str = "after"
    """ReLU ``"after"`` the selection, or ``"before"``: then zeros can be selected, and count as having fired."""
    selected_zero: str = "blocked"
    """Whether a selected latent of value 0 gets gradient; ``"passes"`` in sparsify, which leaves out ReLU's mask."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (sparsify)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """Pre-activations ``(n, d_sae)``."""
    aux: Array | None
    """Reconstruction from dead latents ``(n, d_in)``; ``None`` without ``dead``, or with AuxK off."""
    wide: Array
    """Reconstruction from more latents ``(n, d_in)``."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    main: auxk.Cache
    """Of the code."""
    f_wide: Code
    """Code with more latents ``(n, d_sae)``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    auxk.check_config(cfg)
    check_number("multi", cfg.multi, least=1, whole=True)
    check_number("multi_weight", cfg.multi_weight, least=0)
    check_number("k", cfg.k, least=1, whole=True)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")


def wide_k(cfg: Config) -> int:
    """Return how many latents the wider code has."""
    return min(cfg.multi * cfg.k, cfg.d_sae)


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return top_k(linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1], cfg.k)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    f_wide = top_k(pre, wide_k(cfg))  # (n, d_sae)
    passed = _chosen(pre, cfg.k, cfg) if cfg.selected_zero == "passes" else None  # (n, d_sae)
    out, main = auxk.outputs(params, seen, pre, top_k(pre, cfg.k), cfg, dead, passed=passed)
    return Out(*out, wide=linear.reconstruct(params, f_wide)), Cache(main, f_wide)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``."""
    beside: tuple[auxk.Branch, ...] = ()
    if "wide" in slopes:
        beside = (auxk.Branch(cache.f_wide, slopes["wide"], cfg.multi_reach == "latents", bias=True),)
    return auxk.backward(params, cache.main, cfg, slopes, want_x=want_x, beside=beside)


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is not used by this variant."""
    terms = auxk.objective(params, auxk.Out(*out[:4]), y, cfg, dead=dead)
    wide = losses.mse(out.wide, y, reduction=cfg.reduction, normaliser=cfg.mse_normaliser, weight=cfg.multi_weight)
    return terms | {"multi": losses.Term(wide.value, {"wide": wide.slopes["x_hat"]}, {})}


def _chosen(pre: Array, k: int, cfg: Config) -> Array:
    """Mark what is selected ``(n, d_sae)``, with ReLU before the selection zeros too."""
    return top_k_mask(namespace(pre).maximum(pre, 0) if cfg.relu == "before" else pre, k)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``.

    With ReLU before the selection (sparsify), all that the wider code selects count, zeros too.
    """
    return fired(out.f) if cfg.relu == "after" else _chosen(out.pre, wide_k(cfg), cfg).any(axis=-2)
