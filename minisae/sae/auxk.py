"""What variants share that keep the largest pre-activations: outputs, AuxK, backward and objective.

    x_hat = f W_dec + b_dec                                      f: whatever the variant selected from pre
    aux   = ReLU(TopK(pre among dead latents, k_aux)) W_dec      Gao et al. 2024, arXiv:2406.04093, appendix A.2
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² ),  the residual held fixed in the second term

A variant's ``Config`` has the fields ``k_aux`` and ``auxk``, and of the switches those that it offers; the others are
at their defaults. Letters: n rows, d_in, d_sae, d_out (d_in but in transcoders).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number, option
from minisae.ops import Code, add_code, code_slope, decode, dense, top_k_among, weight_slope, widen
from minisae.sae import linear, ranking

Params = linear.Params


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """What latents are selected by ``(n, d_sae)``: pre-activations, or as ``select_by`` says."""
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
    passed: Code
    """Where it is not 0 a slope on the code passes ``(n, d_sae)``: the code itself, or what was selected."""
    raw: Array | None
    """Pre-activations ``(n, d_sae)``, where latents are selected by something else."""


class Branch(NamedTuple):
    """A reconstruction beside the main one, in backward."""

    f: Code
    """Its code ``(n, d_sae)``, or that of the first latents alone ``(n, width)``."""
    slope: Array
    """The slope at it ``(n, d_in)``."""
    encoder: bool
    """Whether it trains the encoder."""
    bias: bool
    """Whether it has ``b_dec``."""


def check_config(cfg: Any) -> None:
    """Refuse sizes, switches and AuxK numbers that make no sense, in one line."""
    linear.check_config(cfg)
    check_number("k_aux", cfg.k_aux, least=0, whole=True)
    check_number("auxk", cfg.auxk, least=0)


def aux_width(cfg: Any) -> int:
    """Return how many dead latents a row AuxK takes at most."""
    return int(min(cfg.k_aux or max(1, cfg.d_in // 2), cfg.d_sae))


def outputs(
    params: Params,
    seen: Array,
    pre: Array,
    f: Code,
    cfg: Any,
    dead: Array | None,
    *,
    raw: Array | None = None,
    passed: Code | None = None,
    among: Callable[..., Code] = top_k_among,
) -> tuple[Out, Cache]:
    """Return the outputs for a code selected from ``pre (n, d_sae)``, and the cache.

    Parameters
    ----------
    params : the parameters
    seen : the encoder's input ``(n, d_in)``
    pre : what was selected from ``(n, d_sae)``
    f : what was selected ``(n, d_sae)``, with the values of ``pre``
    cfg : the variant's configuration
    dead : bool ``(d_sae,)``; asks for ``aux``
    raw : pre-activations ``(n, d_sae)``, where ``pre`` may be something else
    passed : where it is not 0 a slope on the code passes ``(n, d_sae)``; without it the code itself
    among : how AuxK selects, as :func:`minisae.ops.top_k_among`
    """
    raw = pre if raw is None else raw  # (n, d_sae)
    f = ranking.code_of(f, pre, raw)  # (n, d_sae)
    f_aux = aux = None
    if dead is not None and cfg.auxk > 0:
        f_aux = among(pre, aux_width(cfg), _allowed(f, dead, cfg), rectify=option(cfg, "auxk_relu"))  # (n, d_sae)
        f_aux = ranking.code_of(f_aux, pre, raw)  # (n, d_sae)
        bias = option(cfg, "auxk_bias")
        aux = linear.reconstruct(params, f_aux) if bias else decode(f_aux, params["W_dec"])  # (n, d_out)
    cache = Cache(seen, f, f_aux, f if passed is None else passed, None if raw is pre else raw)
    return Out(linear.reconstruct(params, f), f, pre, aux), cache


def _allowed(f: Code, dead: Array, cfg: Any) -> Array:
    """Return among which latents AuxK selects: bool ``(d_sae,)``, or ``(n, d_sae)`` where rows differ."""
    return dead if option(cfg, "auxk_over") == "dead" else dense(f) == 0


def backward(
    params: Params,
    cache: Cache,
    cfg: Any,
    slopes: losses.Slopes,
    *,
    want_x: bool = False,
    beside: tuple[Branch, ...] = (),
) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The selection is held fixed: exact wherever no tie or zero is crossed. ``beside`` are reconstructions of the
    variant's own.
    """
    f, W_dec = cache.f, params["W_dec"]  # (d_sae, d_in) last
    if cache.f_aux is not None and "aux" in slopes:
        bias = option(cfg, "auxk_bias")
        beside = (*beside, Branch(cache.f_aux, slopes["aux"], option(cfg, "auxk_reach") != "decoder", bias))
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(cache.seen).zeros_like(cache.seen)  # (n, d_out)
    d_pre = code_slope(cache.passed, d_x_hat, W_dec, slopes.get("f"))  # (n, d_sae)
    d_W_dec = None
    if "pre" in slopes:
        d_rank = slopes["pre"]  # (n, d_sae)
        if cache.raw is not None:
            d_rank, d_W_dec = ranking.rank_slope(params, cache.raw, d_rank)
        d_pre = add_code(d_pre, d_rank)  # (n, d_sae)
    for branch in beside:
        if branch.encoder:
            part = code_slope(branch.f, branch.slope, W_dec[..., : branch.f.shape[-1], :])  # (n, width)
            d_pre = add_code(d_pre, widen(part, cfg.d_sae))  # (n, d_sae)
    grads = linear.backward(params, cache.seen, f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)
    for branch in beside:
        weight_slope(branch.f, branch.slope, into=grads["W_dec"][..., : branch.f.shape[-1], :])
        if branch.bias:
            grads["b_dec"] += branch.slope.sum(axis=-2)
    if d_W_dec is not None:
        grads["W_dec"] += d_W_dec
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Any, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is not used by these variants."""
    terms = {
        "mse": losses.mse(
            out.x_hat, y, reduction=cfg.reduction, normaliser=option(cfg, "mse_normaliser"),
            weight=getattr(cfg, "mse_weight", 1.0),
        )
    }  # fmt: skip
    if out.aux is not None and dead is not None and cfg.auxk > 0:
        candidates = dead if option(cfg, "auxk_over") == "dead" else namespace(dead).ones_like(dead)  # (d_sae,)
        few = aux_width(cfg) if option(cfg, "auxk_few") == "proportional" else 1
        aux = out.aux - params["b_dec"][..., None, :] if option(cfg, "auxk_bias") else out.aux  # (n, d_out)
        terms["auxk"] = losses.aux_k(
            aux, out.x_hat, y, candidates.sum(axis=-1), few=few, coefficient=cfg.auxk, reduction=cfg.reduction,
            normaliser=option(cfg, "auxk_normaliser"), through_residual=option(cfg, "auxk_reach") == "everything",
        )  # fmt: skip
    return terms
