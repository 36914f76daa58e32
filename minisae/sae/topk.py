"""TopK sparse autoencoder with AuxK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093).

    pre   = (x − b_dec) W_enc + b_enc                            section 2.3; b_enc is in the paper's code only
    f     = ReLU(TopK(pre))                                      k largest of each row
    x_hat = f W_dec + b_dec
    aux   = ReLU(TopK(pre among dead latents, k_aux)) W_dec      appendix A.2
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² ),  the residual held fixed in the second term

The error is summed over d_in (the paper divides by the input's variance: a constant factor). Decoder rows have unit
norm, W_enc starts as W_decᵀ and b_dec at the geometric median (appendix A.1). Letters: n rows, d_in, d_sae, k.
"""

from typing import NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, add_code, code_slope, fired, top_k, top_k_among, top_k_mask, weight_slope
from minisae.ops import decode as decode_code
from minisae.sae import linear

SOURCE = "Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093"
SHAPES = linear.SHAPES
init = linear.init
decode = linear.reconstruct
Params = linear.Params


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


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The encoder's input ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    f_aux: Code | None
    """Code of the dead latents ``(n, d_sae)``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("k", cfg.k, least=1, whole=True)
    check_number("k_aux", cfg.k_aux, least=0, whole=True)
    check_number("auxk", cfg.auxk, least=0)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")


def aux_width(cfg: Config) -> int:
    """Return how many dead latents a row AuxK takes at most."""
    return min(cfg.k_aux or max(1, cfg.d_in // 2), cfg.d_sae)


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return top_k(linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1], cfg.k)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    f = top_k(pre, cfg.k)  # (n, d_sae)
    f_aux = aux = None
    if dead is not None and cfg.auxk > 0:
        f_aux = top_k_among(pre, aux_width(cfg), dead, rectify=cfg.auxk_relu)  # (n, d_sae)
        aux = decode_code(f_aux, params["W_dec"])  # (n, d_in)
    return Out(linear.reconstruct(params, f), f, pre, aux), Cache(seen, f, f_aux)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The selection is held fixed: exact wherever no tie or zero is crossed.
    """
    f, f_aux, W_dec = cache.f, cache.f_aux, params["W_dec"]  # (d_sae, d_in) last
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(cache.seen).zeros_like(cache.seen)  # (n, d_in)
    d_pre = code_slope(f, d_x_hat, W_dec, slopes.get("f"))  # (n, d_sae)
    if "pre" in slopes:
        d_pre = add_code(d_pre, slopes["pre"])  # (n, d_sae)
    has_aux = f_aux is not None and "aux" in slopes
    if has_aux and cfg.auxk_reach != "decoder":
        d_pre = add_code(d_pre, code_slope(f_aux, slopes["aux"], W_dec))  # (n, d_sae)
    grads = linear.backward(params, cache.seen, f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)
    if has_aux:
        weight_slope(f_aux, slopes["aux"], into=grads["W_dec"])
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is not used by this variant."""
    terms = {"mse": losses.mse(out.x_hat, y, reduction=cfg.reduction)}
    if out.aux is not None and dead is not None and cfg.auxk > 0:
        few = aux_width(cfg) if cfg.auxk_few == "proportional" else 1
        terms["auxk"] = losses.aux_k(
            out.aux, out.x_hat, y, dead.sum(axis=-1), few=few, coefficient=cfg.auxk, reduction=cfg.reduction,
            normaliser=cfg.auxk_normaliser, through_residual=cfg.auxk_reach == "everything",
        )  # fmt: skip
    return terms


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``. With ReLU before, a selected zero counts."""
    if cfg.relu == "after":
        return fired(out.f)
    return top_k_mask(namespace(out.pre).maximum(out.pre, 0), cfg.k).any(axis=-2)
