"""Tied sparse autoencoder (Cunningham et al. 2023, arXiv:2309.08600, "Sparse Autoencoders Find
Highly Interpretable Features in Language Models").

    U     = rows of W_dec at unit norm                           the paper's M, section 2
    pre   = x Uᵀ + b_enc
    f     = ReLU(pre)                                            the paper's c
    x_hat = f U                                                  no bias in the decoder
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + λ ‖f‖₁ ) + β ‖b_enc‖₂

One matrix encodes and decodes, so its slope has two parts, and both go through the normalisation. The paper keeps the
rows at unit norm (``decoder="unit"``). Its code, github.com/HoagyC/sparse_coding, leaves W_dec free and normalises in
the forward pass only (``decoder="free"``), takes the mean of the error over d_in (``reduction="mean"``) and has the
last term (``bias_decay``); the start is from there too: Xavier uniform, b_enc = 0. The fixed affine map that it may
apply to its input is left to the caller. overcomplete 0.3 overwrites its rows by unit rows in each forward pass, and
the slope ends there (``norm_slope=False``); with mse_l1 its loss is ``reduction="mean", penalty_reduction="sum"``.
Letters: n rows, d_in, d_sae.

Examples
--------
>>> cfg = Config(d_in=3, d_sae=7, l1=0.1)
>>> rng = np.random.default_rng(0)
>>> params, x = init(cfg, rng), rng.standard_normal((50, 3), dtype=np.float32)
>>> bool(np.allclose(decode(params, encode(params, x, cfg)), forward(params, x, cfg)[0].x_hat))
True
>>> longer = params | {"W_dec": 2 * params["W_dec"]}
>>> bool(np.allclose(encode(longer, x, cfg), encode(params, x, cfg)))
True
"""

from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.ops import (
    Code,
    add_code,
    affine,
    code_slope,
    column_sum,
    dense,
    fired,
    normalise_rows,
    relu,
    row_norms,
    weight_slope,
)
from minisae.ops import decode as product
from minisae.sae import linear

SOURCE = "Cunningham et al. 2023, Sparse Autoencoders Find Highly Interpretable Features, arXiv:2309.08600"
SHAPES = {"b_enc": ("d_sae",), "W_dec": ("d_sae", "d_in")}
UNITS = {"b_enc": 1, "l1": 1, "bias_decay": 1}
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    l1: float = 1.0
    """λ, in the units of the activations."""
    bias_decay: float = 0.0
    """β, in the units of the activations; 0 switches the term off."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    penalty_reduction: str = "mean"
    """Mean or sum of the penalty over rows."""
    norm_slope: bool = True
    """Whether the slope at the unit rows passes through their normalisation, or is taken as that of ``W_dec``."""
    decoder: str = "unit"
    """``"unit"`` rows of ``W_dec``, or ``"free"``: then they are normalised where they are used only."""


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
    U: Array
    """The dictionary ``(d_sae, d_in)``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("l1", cfg.l1, least=0)
    check_number("bias_decay", cfg.bias_decay, least=0)


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the parameters at the start; ``sample`` is not used by this variant."""
    bound = np.sqrt(6 / (cfg.d_in + cfg.d_sae))
    W_dec = rng.uniform(-bound, bound, (cfg.d_sae, cfg.d_in))  # (d_sae, d_in)
    if cfg.decoder == "unit":
        normalise_rows(W_dec)
    return {"b_enc": np.zeros(cfg.d_sae, dtype), "W_dec": W_dec.astype(dtype)}


def dictionary(params: Params) -> tuple[Array, Array]:
    """Return the unit rows ``U (d_sae, d_in)`` and what ``W_dec`` was divided by ``(d_sae, 1)``; a zero row stays."""
    norms = row_norms(params["W_dec"])[..., None]  # (d_sae, 1)
    norms = namespace(norms).where(norms > 0, norms, 1)  # (d_sae, 1)
    return params["W_dec"] / norms, norms


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return relu(affine(x, dictionary(params)[0].swapaxes(-1, -2), params["b_enc"]))


def decode(params: Params, f: Code) -> Array:
    """Return the reconstruction ``f U`` ``(n, d_in)``."""
    return product(f, dictionary(params)[0])


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used by this variant."""
    U = dictionary(params)[0]  # (d_sae, d_in)
    pre = affine(x, U.swapaxes(-1, -2), params["b_enc"])  # (n, d_sae)
    f = relu(pre)  # (n, d_sae)
    return Out(product(f, U), f, pre), Cache(x, f, U)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    Without ``norm_slope`` that of ``W_dec`` is the slope at the unit rows: no derivative, unless those are held fixed.
    """
    seen, f, U = cache  # (d_sae, d_in) the last
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(seen).zeros_like(seen)  # (n, d_in)
    d_pre = code_slope(f, d_x_hat, U, slopes.get("f"))  # (n, d_sae)
    if "pre" in slopes:
        d_pre = add_code(d_pre, slopes["pre"])  # (n, d_sae)
    d_U = weight_slope(f, d_x_hat) + weight_slope(d_pre, seen)  # (d_sae, d_in), as decoder and as encoder
    if cfg.norm_slope:
        along = (d_U * U).sum(axis=-1, keepdims=True)  # (d_sae, 1)
        d_U = (d_U - along * U) / dictionary(params)[1]  # (d_sae, d_in)
    grads = {"b_enc": column_sum(d_pre), "W_dec": d_U}
    if want_x:
        grads["x"] = product(d_pre, U)
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is the warm-up factor of λ."""
    coefficient = cfg.l1 * sparsity * (y.shape[-2] if cfg.penalty_reduction == "sum" else 1)
    terms = {
        "mse": losses.mse(out.x_hat, y, reduction=cfg.reduction),
        "l1": losses.l1(out.f, coefficient=coefficient),
    }
    if cfg.bias_decay:
        b = params["b_enc"]  # (d_sae,)
        norm = row_norms(b)  # ()
        slope = b * (cfg.bias_decay / namespace(b).where(norm > 0, norm, 1))[..., None]  # (d_sae,)
        terms["bias_decay"] = losses.Term(cfg.bias_decay * norm, {}, {"b_enc": slope})
    return terms


def row_penalty(params: Params, f: Code, cfg: Config) -> Array:
    """Return what the penalties add to the loss of each row ``(n,)`` by itself; that on the bias is one for all."""
    return cfg.l1 * dense(f).sum(axis=1) + cfg.bias_decay * row_norms(params["b_enc"])


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)
