"""ReLU sparse autoencoder whose penalty goes from L1 towards L0 (Karvonen et al. 2024, arXiv:2408.00113, "Measuring
Progress in Dictionary Learning for Language Model Interpretability with Board Game Models": p-annealing).

    pre   = (x − b_dec) W_enc + b_enc
    f     = ReLU(pre)
    x_hat = f W_dec + b_dec
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + λ_s Σ_j f_j^{p_s} ),  ‖W_dec,j‖ = 1
    λ_s+1 = λ_s · mean Σ_j f_j^{p_s} / mean Σ_j f_j^{p_s+1}       over the last ``queue`` batches

p goes from ``p_start`` to ``p_end`` in ``p_count`` values, equally far apart, each from the step after one of as many
equally spaced steps from ``anneal_start`` to ``anneal_end`` on. λ changes with it, so that the penalty goes on where it
was. At f = 0 the slope, which grows without bound towards it for p < 1, is taken as 0: there is a ReLU before it.
``p_root=True`` takes the p-th root of each row's sum (dictionary_learning's ``Lp``, its default).

λ_s over its first value is state: ``l1_scale (d_sae,)``, the same number in each entry; ``recent`` and ``recent_next``
hold the penalties of the last batches with this p and the next. p follows from the step at which the objective stands,
``at``, which training sets. dictionary_learning rounds p and the ratio of the means to float32, and counts
``f⁰`` at f = 0 as 1, here it is 0. Letters: n rows, d_in, d_sae.

Examples
--------
>>> cfg = Config(d_in=3, d_sae=7, anneal_start=100, anneal_end=500, p_count=5)
>>> [round(exponent(cfg, step), 2) for step in (0, 100, 200, 201, 500, 501)]
[1.0, 1.0, 1.0, 0.8, 0.4, 0.2]
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, dense
from minisae.sae import linear, rectified

SOURCE = "Karvonen et al. 2024, Measuring Progress in Dictionary Learning with Board Game Models, arXiv:2408.00113"
SHAPES = linear.SHAPES | {"l1_scale": ("d_sae",), "recent": ("queue",), "recent_next": ("queue",)}
UNITS = linear.UNITS
STATE = ("l1_scale", "recent", "recent_next")
"""What stands beside the parameters and is not trained; :func:`after_step` moves it."""
MOVING = ("at",)
"""Options that training sets, and nobody else."""
encode = rectified.encode
decode = linear.reconstruct
forward = rectified.forward
backward = rectified.backward
fired_latents = rectified.fired_latents
Params = linear.Params
Out = rectified.Out
Cache = rectified.Cache


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    l1: float = 1.0
    """λ while p is ``p_start``, in the units of the activations to the power 2 − p."""
    p_start: float = 1.0
    """First value of p."""
    p_end: float = 0.2
    """Last value of p."""
    p_count: int = 10
    """How many values p has, the first and the last among them."""
    p_root: bool = False
    """Take the p-th root of each row's sum; λ is in the units of the activations then."""
    anneal_start: int = 0
    """Step, counted from 0, after which the annealing begins."""
    anneal_end: int = 0
    """Step after which p is ``p_end``; 0 takes the number of steps of the run, so that its last p is the one before."""
    queue: int = 10
    """Batches over which the penalties are averaged that λ is adapted by."""
    at: int = 0
    """Step at which the objective stands, which decides p; training sets it."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    for name in ("l1", "p_start", "p_end"):
        check_number(name, getattr(cfg, name), least=0)
    for name, least in (("p_count", 2), ("anneal_start", 0), ("anneal_end", 0), ("queue", 1), ("at", 0)):
        check_number(name, getattr(cfg, name), least=least, whole=True)
    if cfg.p_root and 0 in (cfg.p_start, cfg.p_end):
        raise InputError("p_root: expected p_start and p_end above 0 for a p-th root, got 0")
    if cfg.anneal_end and cfg.anneal_end <= cfg.anneal_start:
        raise InputError(f"anneal_end: expected above anneal_start = {cfg.anneal_start}, got {cfg.anneal_end}")


def check_asked(options: Mapping[str, Any]) -> None:
    """Refuse options that are not to be asked for: those that training sets."""
    for name in MOVING:
        if options.get(name, 0) != 0:
            raise InputError(f"{name}: training sets it, expected it left out, got {options[name]!r}")


def units(cfg: Config) -> dict[str, float]:
    """Return the power of the activations' unit in parameters, state and options; the penalty has p, or 1 as a root."""
    if cfg.p_root:
        return {**UNITS, "l1": 1}
    return {**UNITS, "l1": 2 - cfg.p_start, "l1_scale": cfg.p_start - exponent(cfg, cfg.at)}


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the parameters of :func:`minisae.sae.linear.init`, λ's factor at 1 and nothing in the queues."""
    state = {"l1_scale": np.ones(cfg.d_sae, dtype)} | {key: np.zeros(cfg.queue, dtype) for key in STATE[1:]}
    return linear.init(cfg, rng, sample=sample, dtype=dtype) | state


def at_step(cfg: Config, *, step: int, steps: int, seed: int) -> Config:
    """Return the configuration as it stands at a step of a run of so many ``steps``; ``seed`` is not used.

    Raises
    ------
    InputError
        If the annealing would begin at the end of the run or behind it.
    """
    end = cfg.anneal_end or steps
    if end <= cfg.anneal_start:
        raise InputError(f"anneal_start: expected below the run's {steps} steps, got {cfg.anneal_start}")
    return cfg._replace(at=step, anneal_end=end)


def _passed(cfg: Config, step: int) -> int:
    """Return how many of the ``p_count`` steps after which p takes a value lie before a step; 0 with no end known."""
    if not cfg.anneal_end or step <= cfg.anneal_start:
        return 0
    span, gaps = cfg.anneal_end - cfg.anneal_start, cfg.p_count - 1
    return min(cfg.p_count, -((cfg.anneal_start - step) * gaps // span))


def _next_change(cfg: Config, step: int) -> int | None:
    """Return the first step, this one or later, after which p changes; ``None`` if it does not any more."""
    i, gaps = max(1, _passed(cfg, step)), cfg.p_count - 1
    if not cfg.anneal_end or i > gaps:
        return None
    return cfg.anneal_start + (cfg.anneal_end - cfg.anneal_start) * i // gaps


def exponent(cfg: Config, step: int) -> float:
    """Return p at a step, counted from 0."""
    passed = max(0, _passed(cfg, step) - 1)
    return cfg.p_start + (cfg.p_end - cfg.p_start) * passed / (cfg.p_count - 1)


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float | Array = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is the warm-up factor of λ."""
    coefficient = params["l1_scale"][..., 0] * (cfg.l1 * sparsity)  # ()
    return {
        "mse": losses.mse(out.x_hat, y, reduction=cfg.reduction),
        "lp": losses.lp(out.f, coefficient=coefficient, p=exponent(cfg, cfg.at), root=cfg.p_root),
    }


def row_penalty(params: Params, f: Code, cfg: Config) -> Array:
    """Return what the penalty adds to the loss of each row ``(n,)``; the mean over rows is the objective's ``lp``."""
    p, code = exponent(cfg, cfg.at), dense(f)  # (n, d_sae) last
    total = (namespace(code).where(code > 0, code, 1) ** p * (code > 0)).sum(axis=-1)  # (n,)
    return cfg.l1 * params["l1_scale"][..., :1] * (total ** (1 / p) if cfg.p_root else total)


def after_step(params: Params, out: Out, cfg: Config, *, step: int) -> None:
    """Note the penalties with this p and the next in place, and adapt λ where p changes after this step.

    Only the last ``queue`` steps before a change are looked at: what lies before would have left the queue by then.
    """
    change = _next_change(cfg, step)
    if change is None or step <= cfg.anneal_start or change - step >= cfg.queue:
        return
    recent, following, scale = (params[key] for key in ("recent", "recent_next", "l1_scale"))
    for held, p in ((recent, exponent(cfg, step)), (following, exponent(cfg, change + 1))):
        held[..., step % cfg.queue] = losses.lp(out.f, coefficient=1.0, p=p, root=cfg.p_root).value
    if change == step:
        xp, old, new = namespace(scale), recent.sum(axis=-1), following.sum(axis=-1)  # () the last two
        ratio = xp.where((old > 0) & (new > 0), old / xp.where(new > 0, new, 1), 1)  # (), 1 if nothing was active
        scale *= ratio[..., None]
