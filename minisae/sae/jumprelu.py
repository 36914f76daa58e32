"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024b, "Jumping Ahead", arXiv:2407.14435).

    pre   = (x − b_dec) W_enc + b_enc
    gate  = 1[pre > θ],  θ ≥ 0                                   section 3: a threshold for each latent
    f     = pre · gate
    x_hat = f W_dec + b_dec
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + λ Σ_j gate_j )         more penalties: jump_penalties

The step has no slope, so θ gets one that is defined and not derived (section 3), with a kernel K of bandwidth ε:

    ð gate / ð θ = −K((pre − θ)/ε) / ε          ð f / ð θ = −θ K((pre − θ)/ε) / ε

and pre gets none of it, or with ``ste_reach="everything"`` (Anthropic, January 2025) the same with the other sign.
The error is summed over d_in. The paper trains log θ: ``threshold_as="log"``; the default trains θ, for under Adam a
small threshold stays small when its logarithm is trained (SAELens 6.54 does so too, dictionary_learning as well). A
trained θ that falls below 0 counts as 0 and goes on being trained (``below_zero``). λ is named ``l1``, as in every
variant with one, for the warm-up and the command line; it weighs L0 here and has the unit of the squared error. For
resampling a row counts with its squared error alone. What libraries do otherwise is listed with the switches, in
jump_steps and jump_penalties; dictionary_learning and Gemma Scope subtract no b_dec, overcomplete has none. Letters:
n rows, d_in, d_sae.
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
from minisae.sae import jump_penalties, jump_saelens, jump_steps, linear

SOURCE = "Rajamanoharan et al. 2024, Jumping Ahead with JumpReLU Sparse Autoencoders, arXiv:2407.14435"
SHAPES = linear.SHAPES | {"threshold": ("d_sae",)}
UNITS = linear.UNITS | {
    "threshold": 1, "first_threshold": 1, "log_unit": 1, "bandwidth": 1, "l1": 2, "pre_act": 1, "tanh_scale": -1
}  # fmt: skip
SAELENS = "jumprelu"
"""The architecture that SAELens 6 has for it; with ``threshold_as="log"`` it has none, see :func:`as_itself`."""
decode = linear.reconstruct
thresholds = jump_steps.thresholds
before_step = jump_steps.before_step
to_saelens = jump_saelens.to_saelens
from_saelens = jump_saelens.from_saelens
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    l1: float = 1.0
    """λ of the penalty, in squared units of the activations."""
    penalty: str = "l0"
    """What is penalised."""
    penalty_reduction: str = "mean"
    """Mean or sum of the penalty over rows."""
    target: float = 20.0
    """T of ``penalty="target_l0"``: active latents a row; the default is dictionary_learning's."""
    target_of: str = "rows"
    """Whose L0 is to be T."""
    tanh_scale: float = 4.0
    """c of ``penalty="tanh"``."""
    pre_act: float = 0.0
    """μ of the pre-activation loss; 0 switches it off."""
    pre_act_reach: str = "all"
    """Which latents the pre-activation loss counts."""
    kernel: KernelName = "rectangle"
    """K: rectangle, triangular, epanechnikov, quartic, cosine, gaussian, cauchy or silverman."""
    bandwidth: float = 0.001
    """ε, in the units of the activations; the default is for a mean squared norm of 1."""
    ste_reach: str = "threshold"
    """What the pseudo-derivative trains."""
    step_sees: str = "pre"
    """What the pseudo-derivative looks at."""
    kernel_scale: str = "unit"
    """Whether kernels integrate to 1."""
    at_threshold: str = "off"
    """Whether an entry at its threshold is active."""
    first_threshold: float = 0.001
    """θ at the start, in the units of the activations."""
    threshold_as: str = "itself"
    """What ``threshold`` holds: θ, or ``log_unit · log(θ / log_unit)``."""
    log_unit: float = 1.0
    """The number whose logarithm is 0; folding out an input scale changes it, nothing else should."""
    below_zero: str = "zero"
    """What a θ below 0 does that is stored as itself."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
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
    gate: Array
    """Which are above their threshold, 0 or 1, ``(n, d_sae)``."""
    theta: Array
    """Thresholds θ ``(d_sae,)``."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The encoder's input ``(n, d_in)``."""
    out: Out
    """The outputs."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    for name in ("l1", "target", "tanh_scale", "pre_act", "bandwidth", "first_threshold", "log_unit"):
        check_number(name, getattr(cfg, name), least=0)
    positive = ("target", "tanh_scale", "bandwidth", "log_unit", *["first_threshold"] * (cfg.threshold_as == "log"))
    for name in positive:
        if getattr(cfg, name) == 0:
            raise InputError(f"{name}: expected a number above 0, got {getattr(cfg, name)}")
    if cfg.kernel not in tuple(KERNELS):  # what came may have no hash
        raise InputError(f"kernel: expected one of {', '.join(KERNELS)}, got {cfg.kernel!r}")


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the parameters of :func:`minisae.sae.linear.init`, and the first threshold for each latent."""
    threshold = np.full(cfg.d_sae, restart(cfg)["threshold"], dtype)  # (d_sae,)
    return linear.init(cfg, rng, sample=sample, dtype=dtype) | {"threshold": threshold}


def restart(cfg: Config) -> dict[str, float]:
    """Return what a latent has at its start, and again when it is resampled, that is neither drawn nor 0."""
    first, unit = cfg.first_threshold, cfg.log_unit
    return {"threshold": first if cfg.threshold_as == "itself" else unit * float(np.log(first / unit))}


def units(cfg: Config) -> dict[str, float]:
    """Return the power of the activations' unit in parameters and options; λ of a penalty on the code has 1."""
    return {**UNITS, "l1": 1 if cfg.penalty == "l1" else 2}


def as_itself(params: Params, cfg: Config) -> tuple[Params, Config]:
    """Return the same autoencoder with θ stored as itself, which SAELens reads.

    Examples
    --------
    >>> cfg = Config(d_in=3, d_sae=7, first_threshold=0.5, threshold_as="log")
    >>> params, cfg = as_itself(init(cfg, np.random.default_rng(0)), cfg)
    >>> cfg.threshold_as, float(params["threshold"][0])
    ('itself', 0.5)
    """
    return params | {"threshold": thresholds(params, cfg)}, cfg._replace(threshold_as="itself", log_unit=1.0)


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1]  # (n, d_sae)
    return namespace(pre).maximum(jump_steps.code(pre, thresholds(params, cfg), cfg), 0)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used here."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    theta = thresholds(params, cfg)  # (d_sae,)
    f = jump_steps.code(pre, theta, cfg)  # (n, d_sae)
    out = Out(linear.reconstruct(params, f), f, pre, jump_steps.gate(pre, f, theta, cfg), theta)
    return out, Cache(seen, out)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    Through the step it is what :func:`minisae.sae.jump_steps.slopes_ste` defines. A θ that is stored as itself gets
    its slope below 0 too, where it counts as 0: by definition again.
    """
    out, W_dec = cache.out, params["W_dec"]  # (d_sae, d_in) last
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(cache.seen).zeros_like(cache.seen)  # (n, d_in)
    d_f = product(d_x_hat, W_dec.swapaxes(-1, -2)) + slopes.get("f", 0)  # (n, d_sae)
    d_pre, d_theta = jump_steps.slopes_ste(out.pre, out.f, out.theta, d_f, slopes.get("gate", 0), cfg)
    d_pre = d_pre + slopes.get("pre", 0)  # (n, d_sae)
    d_theta = d_theta + slopes.get("theta", 0)  # (d_sae,)
    grads = linear.backward(params, cache.seen, out.f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)
    grads["threshold"] = d_theta if cfg.threshold_as == "itself" else d_theta * (out.theta / cfg.log_unit)
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is the warm-up factor of λ."""
    terms = {"mse": losses.mse(out.x_hat, y, reduction=cfg.reduction)}
    coefficient = cfg.l1 * sparsity * (y.shape[-2] if cfg.penalty_reduction == "sum" else 1)
    return terms | jump_penalties.penalties(out, params["W_dec"], cfg, coefficient=coefficient, dead=dead)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)
