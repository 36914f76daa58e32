"""Loss terms: a value, and the slopes it puts on a variant's outputs and parameters.

    mse    (1/n) Σ_rows Σ_d (x_hat − y)²                  "sum" over d_in; "mean" divides by d_in; or normalised
    l1     (λ/n) Σ_rows Σ_j w_j |f_j|                     w_j = 1, or ‖W_dec,j‖
    lp     (λ/n) Σ_rows Σ_j (w_j f_j)^p                   or of each row the p-th root
    aux_k  c · ‖aux − (y − x_hat)‖², reduced as mse       and normalised as asked
    ghost  see :func:`ghost`

Sums run over d_in and means over rows (Bricken et al. 2023), unless an option says otherwise. With a leading instance
axis every value is one number an instance.
"""

from typing import NamedTuple

import numpy as np

from minisae.backend import Array, namespace
from minisae.ops import Code, column_sum, dense, known_false, row_norms

Slopes = dict[str, Array]


class Term(NamedTuple):
    """One term of an objective."""

    value: Array
    """The term, 0-d (or one number an instance)."""
    slopes: Slopes
    """Its derivative with respect to outputs, by the output's name."""
    params: Slopes
    """Its direct derivative with respect to parameters, by the parameter's name."""


def _scale(x: Array, reduction: str) -> float:
    """Return what a summed squared error is divided by."""
    return float(x.shape[-2] * (x.shape[-1] if reduction == "mean" else 1))


def mse(x_hat: Array, y: Array, *, reduction: str = "sum", normaliser: str = "none", weight: float = 1.0) -> Term:
    """Return the squared error of a reconstruction, mean over rows.

    Parameters
    ----------
    x_hat, y : reconstruction and target ``(n, d_in)``
    reduction : ``"sum"`` over ``d_in`` (Bricken et al. 2023) or ``"mean"``
    normaliser : ``"none"``, or ``"input_variance"``: the error of all rows over Σ(y − ȳ)², whatever the reduction
        (sparsify: FVU); 0 where the target has no spread
    weight : what all is multiplied by
    """
    error = x_hat - y  # (n, d_in)
    scale, share = _scale(y, reduction), weight
    if normaliser == "input_variance":
        scale = _spread(y)  # ()
        share = weight * (scale > 0).astype(y.dtype)  # ()
        scale = scale + (scale == 0)  # ()
    value = share * (error * error).sum(axis=(-2, -1)) / scale  # ()
    error *= _per_instance(2 * share / scale)
    return Term(value, {"x_hat": error}, {})


def _spread(y: Array) -> Array:
    """Return Σ(y − ȳ)² ``()``, ȳ the mean row."""
    from_mean = y - y.mean(axis=-2, keepdims=True)  # (n, d_in)
    return (from_mean * from_mean).sum(axis=(-2, -1))


def l1(f: Code, *, coefficient: float | Array, W_dec: Array | None = None) -> Term:
    """Return ``λ`` times the sum of a non-negative code, mean over rows.

    Parameters
    ----------
    f : code ``(n, d_sae)``, not negative
    coefficient : λ, or one for each instance ``(i,)``, of the code's dtype
    W_dec : with it, each latent counts with its decoder norm (Anthropic, April 2024 update)
    """
    n = f.shape[-2]
    total = column_sum(f)  # (d_sae,)
    share = coefficient / n  # ()
    slope = _per_instance(share)  # ()
    if W_dec is None:
        return Term(total.sum(axis=-1) * share, {"f": slope}, {})
    xp = namespace(W_dec)
    norms = row_norms(W_dec)  # (d_sae,)
    unit = W_dec / xp.where(norms > 0, norms, 1)[..., None]  # (d_sae, d_in)
    value = (total * norms).sum(axis=-1) * share  # ()
    weight = norms[..., None, :] * slope  # (1, d_sae)
    return Term(value, {"f": weight}, {"W_dec": total[..., None] * slope * unit})


def lp(f: Code, *, coefficient: float | Array, p: float, root: bool, W_dec: Array | None = None) -> Term:
    """Return ``λ`` times the sum of the p-th powers of a non-negative code, or its p-th root, mean over rows.

    What is 0 stays out, in value and slope: with p below 1 the slope grows without bound towards 0, and at 0 it is
    taken as 0, as behind a ReLU.

    Parameters
    ----------
    f : code ``(n, d_sae)``, not negative
    coefficient : λ, or one for each instance ``(i,)``, of the code's dtype
    p : exponent, not negative; above 0 with ``root``. With 0 it is the number of active latents
    root : take the p-th root of each row's sum (the p-norm: SAELens, dictionary_learning's ``Lp``)
    W_dec : with it, each latent counts with its decoder norm
    """
    code = dense(f)  # (n, d_sae)
    xp, share = namespace(code), coefficient / code.shape[-2]
    norms = None if W_dec is None else row_norms(W_dec)[..., None, :]  # (1, d_sae), if any
    size = code if norms is None else code * norms  # (n, d_sae)
    active = size > 0  # (n, d_sae)
    size = xp.where(active, size, 1)  # (n, d_sae)
    total = (size**p * active).sum(axis=-1, keepdims=True)  # (n, 1)
    slope = p * size ** (p - 1) * active  # (n, d_sae)
    if root:
        some = total > 0  # (n, 1)
        total = xp.where(some, total, 1)  # (n, 1)
        slope = slope * (total ** (1 / p - 1) / p)  # (n, d_sae)
        total = total ** (1 / p) * some  # (n, 1)
    slope = slope * _per_instance(share)  # (n, d_sae)
    value = total.sum(axis=(-2, -1)) * share  # ()
    if W_dec is None or norms is None:
        return Term(value, {"f": slope}, {})
    column = norms[..., 0, :, None]  # (d_sae, 1)
    d_norms = (slope * code).sum(axis=-2)[..., None]  # (d_sae, 1)
    d_W_dec = d_norms * W_dec / xp.where(column > 0, column, 1)  # (d_sae, d_in)
    return Term(value, {"f": slope * norms}, {"W_dec": d_W_dec})


def aux_k(
    aux: Array,
    x_hat: Array,
    y: Array,
    n_dead: Array,
    *,
    coefficient: float,
    few: int = 1,
    reduction: str = "sum",
    normaliser: str = "none",
    through_residual: bool = False,
) -> Term:
    """Return the auxiliary loss of Gao et al. (2024, appendix A.2): dead latents reconstruct the residual.

    Parameters
    ----------
    aux : reconstruction from dead latents ``(n, d_in)``, without ``b_dec``
    x_hat, y : main reconstruction and target ``(n, d_in)``; the residual is ``y − x_hat``
    n_dead : how many latents are dead, 0-d; the term is 0 while none is
    coefficient : 1/32 in the paper
    few : the term counts ``n_dead / few`` while fewer are dead (SAELens, sparsify: ``k_aux``); 1 switches that off
    reduction : as in :func:`mse`
    normaliser : ``"none"``, ``"residual_variance"`` (Σ(e − ē)²: OpenAI, dictionary_learning) or
        ``"input_variance"`` (Σ(y − ȳ)², sparsify)
    through_residual : let the slope reach the main reconstruction too (overcomplete); the paper holds it fixed
    """
    if known_false(n_dead > 0):
        return Term(np.zeros((), y.dtype), {"aux": np.zeros(aux.shape, aux.dtype)}, {})
    residual = y - x_hat  # (n, d_in)
    miss = aux - residual  # (n, d_in)
    weight = coefficient * namespace(y).minimum(n_dead / few, 1).astype(y.dtype)  # ()
    if normaliser == "none":
        scale = _scale(y, reduction)
    else:
        spread = residual if normaliser == "residual_variance" else y  # (n, d_in)
        spread = spread - spread.mean(axis=-2, keepdims=True)  # (n, d_in)
        scale = (spread * spread).sum(axis=(-2, -1))  # ()
        weight = weight * (scale > 0)  # (), a residual without spread has nothing to explain
        scale = scale + (scale == 0)  # ()
    value = weight * (miss * miss).sum(axis=(-2, -1)) / scale  # ()
    factor = _per_instance(2 * weight / scale)  # ()
    slopes = {"aux": miss * factor}
    if through_residual:
        slopes["x_hat"] = slopes["aux"]
        if normaliser == "residual_variance":
            slopes["x_hat"] = slopes["aux"] + spread * _per_instance(2 * value / scale)
    return Term(value, slopes, {})


def _per_instance(a: Array) -> Array:
    """Let one number an instance broadcast over rows and columns."""
    return a[..., None, None] if getattr(a, "ndim", 0) else a


def ghost(pre: Array, x_hat: Array, y: Array, W_dec: Array, dead: Array, *, reduction: str = "sum") -> Term:
    """Return the ghost gradients of Jermyn and Templeton (Anthropic, January 2024 update).

    The dead latents alone, with ``exp`` in place of ReLU, reconstruct half of the residual:

        g = exp(pre) on dead latents, 0 elsewhere
        r = g W_dec · s             s: row by row, so that ‖r‖ = ‖y − x_hat‖ / 2, held fixed
        value = c · ‖r − (y − x_hat)‖²          c: so that the term equals the squared error, held fixed

    The residual, ``s`` and ``c`` are constants of the derivative, as in the source. The value is 0 while none is dead.

    Parameters
    ----------
    pre : pre-activations ``(n, d_sae)``
    x_hat, y : reconstruction and target ``(n, d_in)``
    W_dec : ``(d_sae, d_in)``
    dead : bool ``(d_sae,)``
    """
    if known_false(dead.any()):
        return Term(np.zeros((), pre.dtype), {}, {})
    xp = namespace(pre)
    tiny = xp.finfo(pre.dtype).tiny
    alone = dead[..., None, :]  # (1, d_sae)
    g = xp.where(alone, xp.exp(xp.minimum(pre, 30)), 0)  # (n, d_sae)
    raw = g @ W_dec  # (n, d_in)
    residual = y - x_hat  # (n, d_in)
    error = (residual * residual).sum(axis=-1, keepdims=True)  # (n, 1)
    size = (raw * raw).sum(axis=-1, keepdims=True)  # (n, 1)
    s = xp.where(size > tiny, 0.5 * xp.sqrt(error) / xp.sqrt(xp.where(size > tiny, size, 1)), 0)  # (n, 1)
    miss = raw * s - residual  # (n, d_in)
    total = (miss * miss).sum(axis=(-2, -1))  # ()
    c = error.sum(axis=(-2, -1)) / xp.maximum(total, tiny) * dead.any(axis=-1)  # ()
    scale = _scale(y, reduction)
    d_raw = miss * s * _per_instance(2 * c / scale)  # (n, d_in)
    d_pre = (d_raw @ W_dec.swapaxes(-1, -2)) * g  # (n, d_sae)
    return Term(c * total / scale, {"pre": d_pre}, {"W_dec": g.swapaxes(-1, -2) @ d_raw})


def gather(terms: dict[str, Term]) -> tuple[Array, Slopes, Slopes]:
    """Add up an objective: the total value, the slopes on each output, the direct slopes on parameters."""
    slopes: Slopes = {}
    params: Slopes = {}
    for term in terms.values():
        for name, slope in term.slopes.items():
            slopes[name] = slopes[name] + slope if name in slopes else slope
        for name, slope in term.params.items():
            params[name] = params[name] + slope if name in params else slope
    return sum(term.value for term in terms.values()), slopes, params
