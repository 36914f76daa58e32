"""ReLU sparse autoencoder with an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity").

    pre   = (x − b_dec) W_enc + b_enc                                section "Sparse Autoencoder Setup"
    f     = ReLU(pre)
    x_hat = f W_dec + b_dec
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + λ ‖f‖₁ ),  ‖W_dec,j‖ = 1

The error is summed over d_in. Decoder rows are kept at unit norm, or the penalty is weighted by their norm instead
(``decoder="free", l1_weight="decoder_norm"``: Anthropic, April 2024 update). Letters: n rows, d_in, d_sae.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.ops import Code, add_code, code_slope, dense, fired, relu, row_norms
from minisae.sae import linear

SOURCE = "Bricken et al. 2023, Towards Monosemanticity, transformer-circuits.pub/2023/monosemantic-features"
SHAPES = linear.SHAPES
UNITS = linear.UNITS | {"l1": 1}
SAELENS = "standard"
"""The architecture that SAELens 6 has for it."""
init = linear.init
decode = linear.reconstruct
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    l1: float = 1.0
    """λ, in the units of the activations."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    l1_weight: str = "plain"
    """``"plain"``, or ``"decoder_norm"``: each latent's penalty counts with its decoder norm."""
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


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The encoder's input ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("l1", cfg.l1, least=0)


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return relu(linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1])


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used by this variant."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    f = relu(pre)  # (n, d_sae)
    return Out(linear.reconstruct(params, f), f, pre), Cache(seen, f)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``."""
    f = cache.f  # (n, d_sae)
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(cache.seen).zeros_like(cache.seen)  # (n, d_in)
    d_pre = code_slope(f, d_x_hat, params["W_dec"], slopes.get("f"))  # (n, d_sae)
    if "pre" in slopes:
        d_pre = add_code(d_pre, slopes["pre"])  # (n, d_sae)
    return linear.backward(params, cache.seen, f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float | Array = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is a factor of λ, or one an instance."""
    W_dec = params["W_dec"] if cfg.l1_weight == "decoder_norm" else None  # (d_sae, d_in), if any
    return {
        "mse": losses.mse(out.x_hat, y, reduction=cfg.reduction),
        "l1": losses.l1(out.f, coefficient=cfg.l1 * sparsity, W_dec=W_dec),
    }


def row_penalty(params: Params, f: Code, cfg: Config) -> Array:
    """Return what the penalty adds to the loss of each row ``(n,)``; the mean over rows is the objective's ``l1``."""
    weight = row_norms(params["W_dec"]) if cfg.l1_weight == "decoder_norm" else 1.0
    return cfg.l1 * (dense(f) * weight).sum(axis=1)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    return {"architecture": "standard"}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return {} if fields.get("architecture") == "standard" else None


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)
