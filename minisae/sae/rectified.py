"""What variants share that are an affine map, a ReLU and an affine map: outputs and backward.

    pre   = (x − b_dec) W_enc + b_enc
    f     = ReLU(pre)
    x_hat = f W_dec + b_dec

A variant's ``Config`` has the field ``subtract_b_dec``. Letters: n rows, d_in, d_sae.
"""

from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.ops import Code, add_code, code_slope, fired, relu
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


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The encoder's input ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""


def encode(params: Params, x: Array, cfg: Any) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return relu(linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1])


def forward(params: Params, x: Array, cfg: Any, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used by these variants."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    f = relu(pre)  # (n, d_sae)
    return Out(linear.reconstruct(params, f), f, pre), Cache(seen, f)


def backward(params: Params, cache: Cache, cfg: Any, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``."""
    f = cache.f  # (n, d_sae)
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else namespace(cache.seen).zeros_like(cache.seen)  # (n, d_in)
    d_pre = code_slope(f, d_x_hat, params["W_dec"], slopes.get("f"))  # (n, d_sae)
    if "pre" in slopes:
        d_pre = add_code(d_pre, slopes["pre"])  # (n, d_sae)
    return linear.backward(params, cache.seen, f, d_pre, d_x_hat, subtract_b_dec=cfg.subtract_b_dec, want_x=want_x)


def fired_latents(out: Out, cfg: Any) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)
