"""The toy models, forward and backward by hand, many instances at once (Elhage et al. 2022, arXiv:2209.10652).

    tied   a = x Wᵀ    h = φ(a)    z = h W + b          x_hat = ψ(z)        one W, used twice
    mlp    a = x W_1ᵀ  h = φ(a)    z = h W_2ᵀ + b       x_hat = ψ(z)        "Computation in superposition"

φ, ψ are the identity or ReLU: tied with neither is the linear model, with ψ the ReLU output model, with both the model
of "Superposition in a privileged basis". The paper writes h = Wx for one column x; here rows are multiplied from the
right. Letters: instances i, rows n, n_feat, n_hid, n_out (tied: n_feat). Features are the columns of W and of W_1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.losses import Slopes, Term

Params = dict[str, Array]

SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "tied": {"W": ("n_hid", "n_feat"), "b": ("n_feat",)},
    "mlp": {"W_1": ("n_hid", "n_feat"), "W_2": ("n_out", "n_hid"), "b": ("n_out",)},
}
"""Parameters by kind; every array has a leading instance axis besides."""
ACTIVATIONS = ("identity", "relu")
STARTS = ("xavier", "positive")


class Config(NamedTuple):
    """Which model."""

    n_feat: int
    """Number of features."""
    n_hid: int
    """Hidden width."""
    kind: str = "tied"
    """``"tied"`` or ``"mlp"``."""
    hidden: str = "identity"
    """φ: ``"identity"``, or ``"relu"``, which makes single neurons special (a privileged basis)."""
    output: str = "relu"
    """ψ: ``"relu"``, or ``"identity"``."""
    n_out: int = 0
    """Outputs of an mlp; 0 takes ``n_feat``."""
    start: str = "xavier"
    """Initial W: ``"xavier"`` normal, or its absolute value, ``"positive"``."""


class Out(NamedTuple):
    """What a loss may touch."""

    x_hat: Array
    """Output ``(i, n, n_out)``."""
    h: Array
    """Hidden activations ``(i, n, n_hid)``."""


class Work(NamedTuple):
    """Room for one step's arrays, so that training allocates nothing; without it every array is fresh."""

    h: Array | None = None
    """``(i, n, n_hid)``"""
    x_hat: Array | None = None
    """``(i, n, n_out)``"""
    d_z: Array | None = None
    """``(i, n, n_out)``"""
    d_h: Array | None = None
    """``(i, n, n_hid)``"""
    on_x_hat: Array | None = None
    """bool ``(i, n, n_out)``"""
    on_h: Array | None = None
    """bool ``(i, n, n_hid)``"""


class Cache(NamedTuple):
    """What backward needs from forward."""

    x: Array
    """``(i, n, n_feat)``"""
    out: Out


def n_out(cfg: Config) -> int:
    """Return the number of outputs."""
    return cfg.n_feat if cfg.kind == "tied" else cfg.n_out or cfg.n_feat


def sizes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, without the instance axis."""
    value = {"n_feat": cfg.n_feat, "n_hid": cfg.n_hid, "n_out": n_out(cfg)}
    return {name: tuple(value[letter] for letter in shape) for name, shape in SHAPES[cfg.kind].items()}


def check_config(cfg: Config) -> None:
    """Refuse a model that makes no sense, in one line."""
    for name, least in (("n_feat", 1), ("n_hid", 1), ("n_out", 0)):
        check_number(name, getattr(cfg, name), least=least, whole=True)
    for name, known in (("kind", SHAPES), ("hidden", ACTIVATIONS), ("output", ACTIVATIONS), ("start", STARTS)):
        if getattr(cfg, name) not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, got {getattr(cfg, name)!r}")


def init(cfg: Config, rng: np.random.Generator, *, dtype: Any = np.float32) -> Params:
    """Return the parameters of one instance: Xavier-normal matrices, variance 2 / (rows + columns), and zero b."""
    params = {}
    for name, shape in sizes(cfg).items():
        p = rng.standard_normal(shape) * np.sqrt(2 / sum(shape)) if len(shape) == 2 else np.zeros(shape)
        params[name] = (np.abs(p) if cfg.start == "positive" else p).astype(dtype)
    return params


def forward(params: Params, x: Array, cfg: Config, *, work: Work | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (i, n, n_feat)`` (or (1, n, n_feat), seen by all), and the cache."""
    xp, work = namespace(x), work or Work()
    read, write = _matrices(params)  # (i, n_feat, n_hid), (i, n_hid, n_out)
    h = xp.matmul(x, read, out=work.h)  # (i, n, n_hid)
    if cfg.hidden == "relu":
        xp.maximum(h, 0, out=h)
    x_hat = xp.matmul(h, write, out=work.x_hat)  # (i, n, n_out)
    x_hat += params["b"][:, None]
    if cfg.output == "relu":
        xp.maximum(x_hat, 0, out=x_hat)
    out = Out(x_hat, h)
    return out, Cache(x, out)


def _matrices(params: Params) -> tuple[Array, Array]:
    """Return what multiplies x and what multiplies h: ``(i, n_feat, n_hid)`` and ``(i, n_hid, n_out)``."""
    if "W" in params:
        return params["W"].swapaxes(-1, -2), params["W"]
    return params["W_1"].swapaxes(-1, -2), params["W_2"].swapaxes(-1, -2)


def backward(params: Params, cache: Cache, cfg: Config, slopes: Slopes, *, work: Work | None = None) -> Params:
    """Return the gradient of every parameter for slopes on ``x_hat`` and ``h`` (each may be absent).

        d_z = d_x_hat · ψ'(z)           d_b = Σ_rows d_z
        d_h = d_z · writeᵀ + slope on h           d_a = d_h · φ'(a)
        tied   d_W   = hᵀ d_z + d_aᵀ x            two terms: W is used twice
        mlp    d_W_1 = d_aᵀ x,   d_W_2 = d_zᵀ h

    A slope array may be used up: with ``work`` it is overwritten.
    """
    xp, work = namespace(cache.x), work or Work()
    x, (x_hat, h) = cache
    d_z = slopes["x_hat"] if "x_hat" in slopes else xp.zeros_like(x_hat)  # (i, n, n_out)
    if cfg.output == "relu":
        d_z = xp.multiply(d_z, xp.greater(x_hat, 0, out=work.on_x_hat), out=work.d_z)  # (i, n, n_out)
    d_h = xp.matmul(d_z, _matrices(params)[1].swapaxes(-1, -2), out=work.d_h)  # (i, n, n_hid)
    if "h" in slopes:
        d_h += slopes["h"]
    if cfg.hidden == "relu":
        xp.multiply(d_h, xp.greater(h, 0, out=work.on_h), out=d_h)
    d_read = d_h.swapaxes(-1, -2) @ x  # (i, n_hid, n_feat)
    d_b = d_z.sum(axis=-2)  # (i, n_out)
    if cfg.kind == "tied":
        d_read += h.swapaxes(-1, -2) @ d_z
        return {"W": d_read, "b": d_b}
    return {"W_1": d_read, "W_2": d_z.swapaxes(-1, -2) @ h, "b": d_b}


def squared_error(x_hat: Array, y: Array, *, importance: Array | None = None, weights: Array | None = None) -> Term:
    """Return ``L = Σ_rows w Σ_j I_j (x_hat_j − y_j)²`` of each instance, ``(i,)``, and its slope on ``x_hat``.

    Elhage et al. 2022, "Loss": summed over features (the official notebook divides by n_feat), mean over rows.

    Parameters
    ----------
    x_hat, y : output and target ``(i, n, n_out)``
    importance : I, ``(n_out,)`` or ``(i, n_out)``; ``None``: all 1
    weights : w, ``(i, n)``; ``None``: 1/n each
    """
    slope = error_slope(x_hat, y, importance=importance, weights=weights)  # (i, n, n_out)
    return Term(((x_hat - y) * slope).sum(axis=(-2, -1)) / 2, {"x_hat": slope}, {})


def error_slope(
    x_hat: Array, y: Array, *, importance: Array | None = None, weights: Array | None = None, out: Array | None = None
) -> Array:
    """Return the slope of :func:`squared_error` on ``x_hat``: ``2 w I (x_hat − y)``, ``(i, n, n_out)``."""
    slope = namespace(x_hat).subtract(x_hat, y, out=out)  # (i, n, n_out)
    factor = 2.0 if weights is not None else 2.0 / x_hat.shape[-2]
    slope *= factor if importance is None else factor * importance[..., None, :]
    if weights is not None:
        slope *= weights[..., None]
    return slope


def hidden_l1(h: Array, *, coefficient: float, weights: Array | None = None) -> Term:
    """Return ``λ Σ_rows w Σ |h|`` of each instance, ``(i,)``: a penalty that takes a toy out of superposition."""
    xp = namespace(h)
    w = 1.0 / h.shape[-2] if weights is None else weights[..., None]  # (i, n, 1)
    return Term((abs(h) * w).sum(axis=(-2, -1)) * coefficient, {"h": xp.sign(h) * (w * coefficient)}, {})


def _identity(x: Array) -> Array:
    return x


def _pairs(x: Array) -> Array:
    """Return the products of all pairs of features: AND, where features are 0 or 1."""
    parts = [x[..., j : j + 1] * x[..., j + 1 :] for j in range(x.shape[-1] - 1)]
    return namespace(x).concatenate([x[..., :0], *parts], axis=-1)


TARGETS: dict[str, Callable[[Array], Array]] = {
    "identity": _identity,
    "absolute": abs,
    "square": lambda x: x * x,
    "relu": lambda x: namespace(x).maximum(x, 0),
    "pairs": _pairs,
}
"""What the output is compared with, computed from x: ``"pairs"`` has n_feat (n_feat − 1) / 2 outputs."""
