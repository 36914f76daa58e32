"""Penalties of JumpReLU autoencoders: a value, and its slopes on the outputs ``gate``, ``f``, ``pre`` and ``theta``.

    l0         (λ/n) Σ_rows Σ_j gate_j                                    Rajamanoharan et al. 2024b, section 3
    target_l0  (λ/n) Σ_rows (L0 / T − 1)²                                 its appendix: a number of active latents T
               λ (mean L0 / T − 1)²                                       of="batch": dictionary_learning 2025-08
    tanh       (λ/n) Σ_rows Σ_j tanh(c f_j ‖W_dec,j‖)                     Anthropic, January 2025 update
    pre_act    (μ/n) Σ_rows Σ_j ReLU(θ_j − pre_j) ‖W_dec,j‖               the same; SAELens: of dead latents only
    l1         (λ/n) Σ_rows Σ_j f_j                                       overcomplete 0.3, mse_l1 (there: the sum)

``gate`` is 1[pre > θ], so L0 of a row is its sum. The slope of l1 at f = 0 is 0, as torch has it for abs: otherwise θ
would get it from inactive entries near their threshold. All slopes here are derivatives; that of ``gate`` itself is
where the pseudo-derivative comes in. SAELens 6.54 writes the target as ``(2λ'/T)(L0 − T)²``: here λ = 2 T λ'. Letters:
n rows, d_in, d_sae.
"""

from typing import Any

from minisae.backend import Array, namespace
from minisae.losses import Term, lp
from minisae.ops import Code, dense, row_norms


def penalties(out: Any, W_dec: Array, cfg: Any, *, coefficient: float, dead: Array | None) -> dict[str, Term]:
    """Return the penalties that a configuration asks for, by name.

    Parameters
    ----------
    out : outputs ``f``, ``gate`` and ``pre`` ``(n, d_sae)``, ``theta (d_sae,)``
    W_dec : ``(d_sae, d_in)``
    cfg : with ``penalty``, ``target``, ``target_of``, ``tanh_scale``, ``pre_act`` and ``pre_act_reach``
    coefficient : λ at this step
    dead : bool ``(d_sae,)``, for a pre-activation loss that reaches dead latents only
    """
    terms = {}
    if cfg.penalty == "l0":
        terms["l0"] = l0(out.gate, coefficient=coefficient)
    elif cfg.penalty == "l1":
        terms["l1"] = lp(out.f, coefficient=coefficient, p=1, root=False)
    elif cfg.penalty == "tanh":
        terms["tanh"] = tanh(out.f, W_dec, coefficient=coefficient, scale=cfg.tanh_scale)
    else:
        terms["target_l0"] = target_l0(out.gate, coefficient=coefficient, target=cfg.target, of=cfg.target_of)
    among = dead if cfg.pre_act_reach == "dead" else None  # (d_sae,), if any
    if cfg.pre_act > 0 and (cfg.pre_act_reach == "all" or dead is not None):
        terms["pre_act"] = pre_act(out.pre, out.theta, W_dec, coefficient=cfg.pre_act, dead=among)
    return terms


def l0(gate: Array, *, coefficient: float) -> Term:
    """Return λ times the number of active latents, mean over rows; ``gate`` is ``(n, d_sae)``."""
    slope = coefficient / gate.shape[-2]
    return Term(gate.sum(axis=(-2, -1)) * slope, {"gate": namespace(gate).full_like(gate, slope)}, {})


def target_l0(gate: Array, *, coefficient: float, target: float, of: str) -> Term:
    """Return λ times the squared relative distance of L0 from a target, of each row or of the mean of the batch.

    Parameters
    ----------
    gate : ``(n, d_sae)``
    coefficient, target : λ and T
    of : ``"rows"`` (the mean of the squares) or ``"batch"`` (the square of the mean)
    """
    counts = gate.sum(axis=-1, keepdims=True)  # (n, 1)
    if of == "batch":
        counts = counts.mean(axis=-2, keepdims=True)  # (1, 1)
    miss = counts / target - 1  # (..., 1), a row each, or one
    slope = miss * (2 * coefficient / (target * gate.shape[-2]))  # (..., 1)
    value = coefficient * (miss * miss).mean(axis=(-2, -1))  # ()
    return Term(value, {"gate": slope + namespace(gate).zeros_like(gate)}, {})


def _unit(W_dec: Array, norms: Array) -> Array:
    """Return decoder rows ``(d_sae, d_in)`` over their norms ``(d_sae,)``, a zero row as it is."""
    return W_dec / namespace(norms).where(norms > 0, norms, 1)[..., None]


def tanh(f: Code, W_dec: Array, *, coefficient: float, scale: float) -> Term:
    """Return λ times ``tanh(scale · f · ‖W_dec‖)`` summed over latents, mean over rows.

    Parameters
    ----------
    f : code ``(n, d_sae)``
    W_dec : ``(d_sae, d_in)``
    coefficient : λ
    scale : c, one over the unit of the activations; 4 at the source
    """
    code, norms = dense(f), row_norms(W_dec)  # (n, d_sae), (d_sae,)
    weight = coefficient / code.shape[-2]
    height = namespace(code).tanh(code * (scale * norms)[..., None, :])  # (n, d_sae)
    rise = (1 - height * height) * (weight * scale)  # (n, d_sae)
    d_norms = (rise * code).sum(axis=-2)  # (d_sae,)
    slopes = {"f": rise * norms[..., None, :]}
    return Term(height.sum(axis=(-2, -1)) * weight, slopes, {"W_dec": d_norms[..., None] * _unit(W_dec, norms)})


def pre_act(pre: Array, theta: Array, W_dec: Array, *, coefficient: float, dead: Array | None) -> Term:
    """Return μ times how far pre-activations lie below their threshold, weighted by decoder norm, mean over rows.

    Parameters
    ----------
    pre : ``(n, d_sae)``
    theta : thresholds ``(d_sae,)``
    W_dec : ``(d_sae, d_in)``
    coefficient : μ, in the unit of the activations; 3e-6 at the source
    dead : with it, bool ``(d_sae,)``, only these count
    """
    norms = row_norms(W_dec)  # (d_sae,)
    weight = norms * (coefficient / pre.shape[-2])  # (d_sae,)
    if dead is not None:
        weight = weight * dead  # (d_sae,)
    gap = theta[..., None, :] - pre  # (n, d_sae)
    below = (gap > 0).astype(pre.dtype)  # (n, d_sae)
    total = (gap * below).sum(axis=-2)  # (d_sae,)
    share = total * weight / namespace(norms).where(norms > 0, norms, 1)  # (d_sae,), of a unit of norm
    slopes = {"pre": -below * weight[..., None, :], "theta": below.sum(axis=-2) * weight}
    return Term((total * weight).sum(axis=-1), slopes, {"W_dec": share[..., None] * _unit(W_dec, norms)})
