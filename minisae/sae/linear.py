"""What every one-layer variant shares: its parameters, their start, the affine encoder and its slopes.

pre   = (x − b_dec) W_enc + b_enc          with subtract_b_dec; else x W_enc + b_enc
x_hat = f W_dec + b_dec
"""

from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.conventions import SWITCHES, check, check_number
from minisae.ops import Code, affine, column_sum, decode, geometric_median, normalise_rows, weight_slope

Params = dict[str, Array]

SHAPES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
}
UNITS = {"b_enc": 1, "b_dec": 1}
"""Parameters, state and options that are in the units of the activations, each with its power; the rest has no unit."""


def feature_major(W_enc: Array) -> Array:
    """Return ``W_enc (d_in, d_sae)`` as the transposed view of a contiguous ``(d_sae, d_in)`` block."""
    block = W_enc.swapaxes(-1, -2)  # (d_sae, d_in)
    return (block if block.flags.c_contiguous else block.copy()).swapaxes(-1, -2)


def check_config(cfg: Any) -> None:
    """Refuse sizes below 1 and values that a switch does not have."""
    check_number("d_in", cfg.d_in, least=1, whole=True)
    check_number("d_sae", cfg.d_sae, least=1, whole=True)
    for name in cfg._fields:
        if name in SWITCHES:
            check(name, getattr(cfg, name))


def init(cfg: Any, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return parameters: random unit decoder rows, ``W_enc = W_decᵀ``, ``b_dec`` at the sample's geometric median.

    Gao et al. (2024, appendix A.1). Without a ``sample (n, d_in)`` of rows ``b_dec`` starts at 0. Drawn in float64 on
    the host, so that the start does not depend on ``dtype`` beyond rounding.
    """
    directions = rng.standard_normal((cfg.d_sae, cfg.d_in))  # (d_sae, d_in)
    normalise_rows(directions)
    W_dec = directions.astype(dtype)  # (d_sae, d_in)
    centre = np.zeros(cfg.d_in) if sample is None else geometric_median(sample)  # (d_in,)
    return {
        "W_enc": W_dec.copy().T,
        "b_enc": np.zeros(cfg.d_sae, dtype),
        "W_dec": W_dec,
        "b_dec": centre.astype(dtype),
    }


def encode(params: Params, x: Array, *, subtract_b_dec: bool) -> tuple[Array, Array]:
    """Return the encoder's input ``(n, d_in)`` and the pre-activations ``(n, d_sae)``."""
    seen = x - params["b_dec"][..., None, :] if subtract_b_dec else x  # (n, d_in)
    return seen, affine(seen, params["W_enc"], params["b_enc"])


def reconstruct(params: Params, f: Code) -> Array:
    """Return ``f W_dec + b_dec`` ``(n, d_in)``."""
    x_hat = decode(f, params["W_dec"])  # (n, d_in)
    x_hat += params["b_dec"][..., None, :]
    return x_hat


def backward(
    params: Params, seen: Array, f: Code, d_pre: Code, d_x_hat: Array, *, subtract_b_dec: bool, want_x: bool
) -> Params:
    """Return the gradients of the four parameters, and of ``x`` under that name if asked.

    ``b_dec`` is used twice; through the encoder its gradient is ``−(Σ_rows d_pre) W_encᵀ``, a matrix-vector product.
    """
    d_b_enc = column_sum(d_pre)  # (d_sae,)
    d_b_dec = d_x_hat.sum(axis=-2)  # (d_in,)
    if subtract_b_dec:
        d_b_dec = d_b_dec - (d_b_enc[..., None, :] @ params["W_enc"].swapaxes(-1, -2))[..., 0, :]  # (d_in,)
    grads = {
        "W_enc": weight_slope(d_pre, seen).swapaxes(-1, -2),
        "b_enc": d_b_enc,
        "W_dec": weight_slope(f, d_x_hat),
        "b_dec": d_b_dec,
    }
    if want_x:
        grads["x"] = decode(d_pre, params["W_enc"].swapaxes(-1, -2))
    return grads
