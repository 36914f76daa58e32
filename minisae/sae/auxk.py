"""What variants share that keep the largest pre-activations: outputs, AuxK, backward and objective.

    x_hat = f W_dec + b_dec                                      f: whatever the variant selected from pre
    aux   = ReLU(TopK(pre among dead latents, k_aux)) W_dec      Gao et al. 2024, arXiv:2406.04093, appendix A.2
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² ),  the residual held fixed in the second term

A variant's ``Config`` has the fields ``k_aux``, ``auxk``, ``auxk_normaliser``, ``auxk_reach``, ``auxk_relu`` and
``auxk_few``. Letters: n rows, d_in, d_sae.
"""

from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.ops import Code, add_code, code_slope, decode, top_k_among, weight_slope
from minisae.sae import linear

Params = linear.Params


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """Pre-activations ``(n, d_sae)``."""
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


def check_config(cfg: Any) -> None:
    """Refuse sizes, switches and AuxK numbers that make no sense, in one line."""
    linear.check_config(cfg)
    check_number("k_aux", cfg.k_aux, least=0, whole=True)
    check_number("auxk", cfg.auxk, least=0)


def aux_width(cfg: Any) -> int:
    """Return how many dead latents a row AuxK takes at most."""
    return int(min(cfg.k_aux or max(1, cfg.d_in // 2), cfg.d_sae))


def outputs(params: Params, seen: Array, pre: Array, f: Code, cfg: Any, dead: Array | None) -> tuple[Out, Cache]:
    """Return the outputs for a code ``f (n, d_sae)`` selected from ``pre``, and the cache.

    ``seen (n, d_in)`` is the encoder's input; ``dead``, bool ``(d_sae,)``, asks for ``aux``.
    """
    f_aux = aux = None
    if dead is not None and cfg.auxk > 0:
        f_aux = top_k_among(pre, aux_width(cfg), dead, rectify=cfg.auxk_relu)  # (n, d_sae)
        aux = decode(f_aux, params["W_dec"])  # (n, d_in)
    return Out(linear.reconstruct(params, f), f, pre, aux), Cache(seen, f, f_aux)


def backward(params: Params, cache: Cache, cfg: Any, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The selection is held fixed: exact wherever no tie or zero is crossed.
    """
    f, f_aux, W_dec = cache.f, cache.f_aux, params["W_dec"]  # (d_sae, d_in) last
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(cache.seen).zeros_like(cache.seen)  # (n, d_in)
    d_pre = code_slope(f, d_x_hat, W_dec, slopes.get("f"))  # (n, d_sae)
    if "pre" in slopes:
        d_pre = add_code(d_pre, slopes["pre"])  # (n, d_sae)
    has_aux = f_aux is not None and "aux" in slopes
    if has_aux and cfg.auxk_reach != "decoder":
        d_pre = add_code(d_pre, code_slope(f_aux, slopes["aux"], W_dec))  # (n, d_sae)
    grads = linear.backward(params, cache.seen, f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)
    if has_aux:
        weight_slope(f_aux, slopes["aux"], into=grads["W_dec"])
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Any, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is not used by these variants."""
    terms = {"mse": losses.mse(out.x_hat, y, reduction=cfg.reduction)}
    if out.aux is not None and dead is not None and cfg.auxk > 0:
        few = aux_width(cfg) if cfg.auxk_few == "proportional" else 1
        terms["auxk"] = losses.aux_k(
            out.aux, out.x_hat, y, dead.sum(axis=-1), few=few, coefficient=cfg.auxk, reduction=cfg.reduction,
            normaliser=cfg.auxk_normaliser, through_residual=cfg.auxk_reach == "everything",
        )  # fmt: skip
    return terms
