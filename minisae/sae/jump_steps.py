"""The step of JumpReLU autoencoders: its threshold θ, the code and gate that it makes, and what it passes backward.

    f    = pre · 1[pre > θ]                                      gate = 1[pre > θ]
    ð f / ð θ = −θ K((pre − θ)/ε) / ε                            ð gate / ð θ = −K((pre − θ)/ε) / ε

Rajamanoharan et al. 2024b, section 3; the second line is defined, not derived. Switches, each the paper's way first:

    threshold_as    itself, log               what is stored: θ, or log_unit · log(θ / log_unit)
    below_zero      zero, clamp, keep         a stored θ below 0 counts as 0; is set to 0 before each step (SAELens);
                                              stays, so that negative codes pass in training (dictionary_learning)
    at_threshold    off, on                   f = pre · 1[pre ≥ θ] with "on" (overcomplete); the gate stays as it is
    step_sees       pre, code, positive_part  K looks at pre; for the gate at f (dictionary_learning), whose inactive
                                              entries then count while θ < ε/2; at ReLU(pre) (overcomplete)
    kernel_scale    unit, overcomplete        K integrates to 1, or has overcomplete's factors
    ste_reach       threshold, everything     pre gets none of it, or the same with the other sign (Anthropic, 2025)

Letters: n rows, d_sae.
"""

from typing import Any

from minisae.backend import Array, namespace
from minisae.ops.kernels import jump_slopes_ste, overcomplete_factor, step_slope_ste

Params = dict[str, Array]


def thresholds(params: Params, cfg: Any) -> Array:
    """Return θ ``(d_sae,)``, whichever way it is stored; negative only if asked to be kept so."""
    held = params["threshold"]  # (d_sae,)
    xp = namespace(held)
    if cfg.threshold_as == "log":
        return cfg.log_unit * xp.exp(held / cfg.log_unit)
    return held if cfg.below_zero == "keep" else xp.maximum(held, 0)


def before_step(params: Params, cfg: Any) -> None:
    """Set thresholds below 0 to 0 in place, if the configuration says so."""
    if cfg.below_zero == "clamp" and cfg.threshold_as == "itself":
        held = params["threshold"]  # (d_sae,)
        held[...] = namespace(held).maximum(held, 0)


def off(pre: Array, theta: Array, cfg: Any) -> Array:
    """Return where the code is not active, bool ``(n, d_sae)``; a NaN is active."""
    row = theta[..., None, :]  # (1, d_sae)
    return pre < row if cfg.at_threshold == "on" else pre <= row


def code(pre: Array, theta: Array, cfg: Any) -> Array:
    """Return the code ``(n, d_sae)``."""
    return namespace(pre).where(off(pre, theta, cfg), 0, pre)


def _seen(pre: Array, f: Array, cfg: Any) -> tuple[Array, Array]:
    """Return what the steps of code and gate look at, each ``(n, d_sae)``, one array where it is the same."""
    if cfg.step_sees == "positive_part":
        pre = namespace(pre).maximum(pre, 0)  # (n, d_sae)
    return pre, f if cfg.step_sees == "code" else pre


def gate(pre: Array, f: Array, theta: Array, cfg: Any) -> Array:
    """Return the gate ``(n, d_sae)``, 0 or 1, of ``pre`` and its code ``f (n, d_sae)``."""
    return (_seen(pre, f, cfg)[1] > theta[..., None, :]).astype(pre.dtype)


def slopes_ste(pre: Array, f: Array, theta: Array, d_f: Array, d_gate: Array, cfg: Any) -> tuple[Array, Array]:
    """Return the slopes at ``pre (n, d_sae)`` and ``θ (d_sae,)`` for slopes at code and gate, ``(n, d_sae)``.

    Defined, not derived: see :func:`minisae.ops.kernels.jump_slopes_ste`. Either slope may be the number 0.
    """
    scale = overcomplete_factor(cfg.kernel, cfg.bandwidth) if cfg.kernel_scale == "overcomplete" else 1.0
    one, other = _seen(pre, f, cfg)
    edge = step_slope_ste(one, theta, kernel=cfg.kernel, bandwidth=cfg.bandwidth, scale=scale)  # (n, d_sae)
    edge_gate = edge  # (n, d_sae)
    if other is not one:
        edge_gate = step_slope_ste(other, theta, kernel=cfg.kernel, bandwidth=cfg.bandwidth, scale=scale)  # (n, d_sae)
    edges, reach = (edge, edge_gate), cfg.ste_reach == "everything"
    return jump_slopes_ste(~off(pre, theta, cfg), theta, d_f, d_gate, edges, into_pre=reach)
