"""Gated sparse autoencoder (Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated SAEs", 2404.16014).

    z      = (x − b_dec) W_enc                                   the paper's W_gate, shared by both paths
    pre    = z + b_enc                                           π_gate, section 3.2.1; b_enc is its b_gate
    mag    = e^r_mag z + b_mag
    f      = 1[pre > 0] ReLU(mag)
    f_gate = ReLU(pre)
    x_hat  = f W_dec + b_dec
    aux    = f_gate W_dec + b_dec                                W_dec and b_dec held fixed
    L      = (1/n) Σ_rows ( ‖x − x_hat‖² + λ ‖f_gate‖₁ + ‖x − aux‖² ),  ‖W_dec,j‖ = 1

The loss is that of section 3.2.2. The step 1[·] has no slope: its derivative is taken as 0, so b_enc learns from f_gate
alone. That ``aux`` leaves the decoder as it is can be switched off (``aux_decoder``); through the encoder b_dec learns
from it in any case. The start is W_enc = W_decᵀ with r_mag, b_enc and b_mag at 0, and b_dec as in every variant here.
SAELens 6.54 has ``aux_decoder="trained", l1_weight="decoder_norm", decoder="free"``, dictionary_learning 2025-08 the
defaults. Letters: n rows, d_in, d_sae.

Examples
--------
>>> cfg = Config(d_in=3, d_sae=7, l1=0.1)
>>> rng = np.random.default_rng(0)
>>> params, x = init(cfg, rng), rng.standard_normal((50, 3), dtype=np.float32)
>>> out, cache = forward(params, x, cfg)
>>> d_x_hat = np.ones_like(x)
>>> sorted(backward(params, cache, cfg, {"x_hat": d_x_hat}))
['W_dec', 'W_enc', 'b_dec', 'b_enc', 'b_mag', 'r_mag']
>>> backward(params, cache, cfg, {"aux": d_x_hat})["W_dec"].any()
np.False_
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.ops import Code, add_code, code_slope, column_sum, fired, relu, weight_slope
from minisae.ops import decode as product
from minisae.sae import linear

SOURCE = "Rajamanoharan et al. 2024, Improving Dictionary Learning with Gated Sparse Autoencoders, arXiv:2404.16014"
SHAPES = linear.SHAPES | {"r_mag": ("d_sae",), "b_mag": ("d_sae",)}
UNITS = linear.UNITS | {"b_mag": 1, "l1": 1}
SAELENS = "gated"
"""The architecture that SAELens 6 has for it."""
SAELENS_ARRAYS = {"b_enc": "b_gate"}
"""What SAELens calls a parameter, where that is another name."""
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
    """Sum or mean of both squared errors over ``d_in``."""
    l1_weight: str = "plain"
    """``"plain"``, or ``"decoder_norm"``: each latent's penalty counts with its decoder norm (SAELens)."""
    aux_decoder: str = "frozen"
    """``"frozen"``: the gate's own reconstruction does not train ``W_dec``, ``b_dec``; or ``"trained"`` (SAELens)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """The gate's pre-activations ``(n, d_sae)``."""
    mag: Array
    """The magnitudes' pre-activations ``(n, d_sae)``."""
    f_gate: Code
    """The gate's own code ``(n, d_sae)``."""
    aux: Array
    """Reconstruction from ``f_gate`` ``(n, d_in)``."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The encoder's input ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    f_gate: Code
    """The gate's own code ``(n, d_sae)``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("l1", cfg.l1, least=0)


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the parameters of :func:`minisae.sae.linear.init`, and ``r_mag`` and ``b_mag`` at 0: one path twice."""
    own = {name: np.zeros(cfg.d_sae, dtype) for name in ("r_mag", "b_mag")}
    return linear.init(cfg, rng, sample=sample, dtype=dtype) | own


def _paths(params: Params, x: Array, cfg: Config) -> tuple[Array, Array, Array, Code]:
    """Return the encoder's input ``(n, d_in)``, and ``pre``, ``mag`` and ``f`` ``(n, d_sae)``."""
    xp = namespace(x)
    seen = x - params["b_dec"][..., None, :] if cfg.subtract_b_dec else x  # (n, d_in)
    z = seen @ params["W_enc"]  # (n, d_sae)
    pre = z + params["b_enc"][..., None, :]  # (n, d_sae)
    z *= xp.exp(params["r_mag"])[..., None, :]
    z += params["b_mag"][..., None, :]
    return seen, pre, z, relu(xp.where(pre <= 0, 0, z))  # a NaN is kept


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return _paths(params, x, cfg)[3]


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used by this variant."""
    seen, pre, mag, f = _paths(params, x, cfg)
    f_gate = relu(pre)  # (n, d_sae)
    x_hat, aux = (linear.reconstruct(params, code) for code in (f, f_gate))
    return Out(x_hat, f, pre, mag, f_gate, aux), Cache(seen, f, f_gate)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The gate is held fixed, and so is the decoder of ``aux`` where it is frozen. With ``D = d_magᵀ (x − b_dec)``, which
    the encoder's gradient needs, that of ``r_mag``, ``e^r_mag Σ_rows d_mag z``, is ``e^r_mag Σ_d D W_encᵀ``.
    """
    seen, f, f_gate = cache  # (n, d_sae) the last two
    W_dec, W_enc_T = params["W_dec"], params["W_enc"].swapaxes(-1, -2)  # (d_sae, d_in) each
    xp = namespace(seen)
    d_x_hat, d_aux = (slopes[name] if name in slopes else xp.zeros_like(seen) for name in ("x_hat", "aux"))
    d_mag = code_slope(f, d_x_hat, W_dec, slopes.get("f"))  # (n, d_sae)
    d_pre = code_slope(f_gate, d_aux, W_dec, slopes.get("f_gate"))  # (n, d_sae)
    d_mag = add_code(d_mag, slopes["mag"]) if "mag" in slopes else d_mag  # (n, d_sae)
    d_pre = add_code(d_pre, slopes["pre"]) if "pre" in slopes else d_pre  # (n, d_sae)
    gain = xp.exp(params["r_mag"])  # (d_sae,)
    grads = linear.backward(params, seen, f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)
    D = weight_slope(d_mag, seen) * gain[..., None]  # (d_sae, d_in)
    grads["W_enc"] += D.swapaxes(-1, -2)
    grads["r_mag"] = (D * W_enc_T).sum(axis=-1)
    grads["b_mag"] = column_sum(d_mag)
    if cfg.subtract_b_dec:
        grads["b_dec"] -= ((grads["b_mag"] * gain)[..., None, :] @ W_enc_T)[..., 0, :]
    if cfg.aux_decoder == "trained":
        weight_slope(f_gate, d_aux, into=grads["W_dec"])
        grads["b_dec"] += d_aux.sum(axis=-2)
    if want_x:
        grads["x"] += product(d_mag, W_enc_T * gain[..., None])
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is the warm-up factor of λ."""
    W_dec = params["W_dec"] if cfg.l1_weight == "decoder_norm" else None  # (d_sae, d_in), if any
    l1 = losses.l1(out.f_gate, coefficient=cfg.l1 * sparsity, W_dec=W_dec)
    aux = losses.mse(out.aux, y, reduction=cfg.reduction)
    return {
        "mse": losses.mse(out.x_hat, y, reduction=cfg.reduction),
        "l1": l1._replace(slopes={"f_gate": l1.slopes["f"]}),
        "aux": aux._replace(slopes={"aux": aux.slopes["x_hat"]}),
    }


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    return {"architecture": "gated"}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    own = {"l1_weight": "decoder_norm", "aux_decoder": "trained"}
    return own if fields.get("architecture") == "gated" else None


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)
