"""What JumpReLU transcoders share, with or without a skip connection; the rest is in transcoding and jump_steps.

    pre   = x W_enc + b_enc                              b_dec has the width of the target: nothing to subtract
    f     = pre · 1[pre > θ],  gate = 1[pre > θ]         a stored θ below 0 counts as 0
    y_hat = f W_dec + b_dec (+ x W_skipᵀ)
    L     = (1/n) Σ_rows ( ‖y − y_hat‖² + λ penalty )    L0, or another of :mod:`minisae.sae.jump_penalties`

A row of data holds input and target side by side, ``(n, d_in + d_out)``. Letters: n rows, d_in, d_out, d_sae.
"""

from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired
from minisae.ops import decode as product
from minisae.ops.kernels import KERNELS, KernelName
from minisae.sae import jump_penalties, jump_steps, linear, transcoding

Params = linear.Params
SHAPES = transcoding.SHAPES | {"threshold": ("d_sae",)}
UNITS = linear.UNITS | {"threshold": 1, "first_threshold": 1, "bandwidth": 1, "l1": 2, "tanh_scale": -1}


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Width of the input."""
    d_sae: int
    """Number of latents."""
    d_out: int
    """Width of the target; two hooks of a cache imply it, an array of rows does not."""
    l1: float = 1.0
    """λ of the penalty, in squared units of the activations."""
    penalty: str = "l0"
    """What is penalised."""
    target: float = 20.0
    """T of ``penalty="target_l0"``: active latents a row."""
    tanh_scale: float = 4.0
    """c of ``penalty="tanh"``."""
    kernel: KernelName = "rectangle"
    """K of the pseudo-derivative: the names that ``jumprelu`` has."""
    bandwidth: float = 0.001
    """ε, in the units of the activations; the default is for a mean squared norm of 1."""
    ste_reach: str = "threshold"
    """What the pseudo-derivative trains."""
    first_threshold: float = 0.001
    """θ at the start, in the units of the activations."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_out``."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``, which start at 0."""

    @property
    def subtract_b_dec(self) -> bool:
        """Never: ``b_dec`` has another width than the input."""
        return False


class Jump(NamedTuple):
    """What jump_steps and jump_penalties ask for: options, and what a transcoder has in one way only, the paper's."""

    penalty: str
    target: float
    tanh_scale: float
    kernel: KernelName
    bandwidth: float
    ste_reach: str
    target_of: str = "rows"
    pre_act: float = 0.0
    pre_act_reach: str = "all"
    threshold_as: str = "itself"
    below_zero: str = "zero"
    at_threshold: str = "off"
    step_sees: str = "pre"
    kernel_scale: str = "unit"


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction of the target ``(n, d_out)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """Pre-activations ``(n, d_sae)``."""
    gate: Array
    """Which are above their threshold, 0 or 1, ``(n, d_sae)``."""
    theta: Array
    """Thresholds θ ``(d_sae,)``."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The input ``(n, d_in)``."""
    out: Out
    """The outputs."""


def _jump(cfg: Config) -> Jump:
    return Jump(cfg.penalty, cfg.target, cfg.tanh_scale, cfg.kernel, cfg.bandwidth, cfg.ste_reach)


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("d_out", cfg.d_out, least=1, whole=True)
    for name in ("l1", "target", "tanh_scale", "bandwidth", "first_threshold"):
        check_number(name, getattr(cfg, name), least=0)
    for name in ("target", "tanh_scale", "bandwidth"):
        if getattr(cfg, name) == 0:
            raise InputError(f"{name}: expected a number above 0, got {getattr(cfg, name)}")
    if cfg.kernel not in tuple(KERNELS):  # what came may have no hash
        raise InputError(f"kernel: expected one of {', '.join(KERNELS)}, got {cfg.kernel!r}")


def units(cfg: Config) -> dict[str, float]:
    """Return the power of the activations' unit in parameters and options; λ of a penalty on the code has 1."""
    return {**UNITS, "l1": 1 if cfg.penalty == "l1" else 2}


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return a transcoder's parameters at the start, and the first threshold for each latent."""
    threshold = np.full(cfg.d_sae, cfg.first_threshold, dtype)  # (d_sae,)
    return transcoding.init(cfg, rng, sample=sample, dtype=dtype) | {"threshold": threshold}


def restart(cfg: Config) -> dict[str, float]:
    """Return what a latent has at its start, and again when it is resampled, that is neither drawn nor 0."""
    return {"threshold": cfg.first_threshold}


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    pre = linear.encode(params, x, subtract_b_dec=False)[1]  # (n, d_sae)
    return jump_steps.code(pre, jump_steps.thresholds(params, _jump(cfg)), _jump(cfg))


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used here."""
    seen, pre = linear.encode(params, x, subtract_b_dec=False)
    jump = _jump(cfg)
    theta = jump_steps.thresholds(params, jump)  # (d_sae,)
    f = jump_steps.code(pre, theta, jump)  # (n, d_sae)
    x_hat = linear.reconstruct(params, f)  # (n, d_out)
    if "W_skip" in params:
        x_hat = x_hat + transcoding.skip(params, x)  # (n, d_out)
    out = Out(x_hat, f, pre, jump_steps.gate(pre, f, theta, jump), theta)
    return out, Cache(seen, out)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    Through the step it is what :func:`minisae.sae.jump_steps.slopes_ste` defines, below 0 too, where θ counts as 0.
    """
    seen, out, xp = cache.seen, cache.out, namespace(cache.seen)
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else xp.zeros_like(out.x_hat)  # (n, d_out)
    d_f = product(d_x_hat, params["W_dec"].swapaxes(-1, -2)) + slopes.get("f", 0)  # (n, d_sae)
    d_pre, d_theta = jump_steps.slopes_ste(out.pre, out.f, out.theta, d_f, slopes.get("gate", 0), _jump(cfg))
    d_pre = d_pre + slopes.get("pre", 0)  # (n, d_sae)
    grads = linear.backward(params, seen, out.f, d_pre, d_x_hat, subtract_b_dec=False, want_x=want_x)
    grads["threshold"] = d_theta + slopes.get("theta", 0)
    if "W_skip" in params:
        grads["W_skip"] = d_x_hat.swapaxes(-1, -2) @ seen
        if want_x:
            grads["x"] = grads["x"] + d_x_hat @ params["W_skip"]
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_out)``; ``sparsity`` is the warm-up factor of λ."""
    terms = {"mse": losses.mse(out.x_hat, y, reduction=cfg.reduction)}
    return terms | jump_penalties.penalties(out, params["W_dec"], _jump(cfg), coefficient=cfg.l1 * sparsity, dead=dead)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)
