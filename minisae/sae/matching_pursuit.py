"""Matching-pursuit sparse autoencoder (Costa et al. 2025, "From Flat to Hierarchical: Extracting Sparse Representations
with Matching Pursuit", arXiv:2506.03093): an encoder without weights of its own, that looks again after each choice.

    r_0   = x − b_dec
    j_t   = argmax_j ⟨r_{t−1}, W_dec,j⟩                      t = 1 … k; not the modulus
    v_t   = ⟨r_{t−1}, W_dec,j_t⟩,   r_t = r_{t−1} − v_t W_dec,j_t
    f_j   = Σ_{t: j_t = j} v_t                               the same latent can be chosen again
    x_hat = f W_dec + b_dec = x − r_k
    L     = (1/n) Σ_rows ‖x − x_hat‖²

Backward goes through the whole pursuit with the choices held fixed. With g_t the slope at x_hat less that at r_t:

    g_k   = ∂L/∂x_hat                                        the pursuit of the slope, last choice first
    d_v_t = ⟨g_t, W_dec,j_t⟩ + ∂L/∂f_j_t,   g_{t−1} = g_t − d_v_t W_dec,j_t
    ∂L/∂W_dec,j = Σ_{t: j_t = j} (v_t g_t + d_v_t r_{t−1}),   ∂L/∂r_0 = ∂L/∂x_hat − g_0

overcomplete 0.3 computes this, without b_dec. SAELens 6.54 counts a match below 0 as 0 (``match="positive"``), ends a
row's pursuit once its residual is small or a latent comes up again (``residual_threshold``, ``stop_on_repeat``), and
leaves the norms of W_dec free. Letters: n rows, d_in, d_sae, k.

Examples
--------
>>> from minisae.ops import dense
>>> params = {"W_dec": np.array([[1.0, 0.0], [0.6, 0.8]]), "b_dec": np.zeros(2)}
>>> dense(encode(params, np.array([[3.0, 1.0]]), Config(d_in=2, d_sae=2, k=2)))  # 3, then 0.8 of what is left
array([[3. , 0.8]])
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, best_match, fired, known_false, row_norms, rows_at, scatter, weight_slope
from minisae.ops import decode as product
from minisae.sae import linear

SOURCE = "Costa et al. 2025, From Flat to Hierarchical: Sparse Representations with Matching Pursuit, arXiv:2506.03093"
SHAPES = {"W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
UNITS = {"b_dec": 1, "residual_threshold": 1}
SAELENS = "matching_pursuit"
"""The architecture that SAELens 6 has for it."""
MOST = 10
"""Choices a row at most, as a multiple of ``d_in`` or ``d_sae``: what more could add is rounding."""
decode = linear.reconstruct
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    k: int = 32
    """Choices a row, and so its active latents at most."""
    residual_threshold: float = 0.0
    """Norm of the residual below which a row makes no further choice, in the units of the activations; 0: none."""
    stop_on_repeat: bool = False
    """End a row's pursuit once a latent was chosen again; that choice still counts."""
    match: str = "signed"
    """What a best match below 0 counts."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""

    @property
    def subtract_b_dec(self) -> bool:
        """Always: the code is of what ``b_dec`` leaves."""
        return True


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """What the first choice is the largest of: ``(x − b_dec) W_decᵀ`` ``(n, d_sae)``."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    seen: Array
    """The pursuit's input ``(n, d_in)``."""
    residual: Array
    """What it left ``(n, d_in)``."""
    chosen: list[Array]
    """The latent of each choice ``(n,)``."""
    values: list[Array]
    """Its value ``(n,)``; 0 where the row's pursuit had ended."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("k", cfg.k, least=1, most=MOST * max(cfg.d_in, cfg.d_sae), whole=True)
    check_number("residual_threshold", cfg.residual_threshold, least=0)


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the decoder and ``b_dec`` of :func:`minisae.sae.linear.init`."""
    start = linear.init(cfg, rng, sample=sample, dtype=dtype)
    return {name: start[name] for name in SHAPES}


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    seen = x - params["b_dec"][..., None, :]  # (n, d_in)
    return _code(_pursue(params, seen, best_match(seen, params["W_dec"]), cfg), cfg)


def _pursue(params: Params, seen: Array, first: Array, cfg: Config) -> Cache:
    """Return the choices of a pursuit of ``seen (n, d_in)`` that begins with the latents ``first (n,)``."""
    xp, W_dec, r, best = namespace(seen), params["W_dec"], seen, first  # (d_sae, d_in) the second
    going = xp.ones(seen.shape[:-1], dtype=bool)  # (n,)
    chosen: list[Array] = []
    values: list[Array] = []
    while True:
        row = rows_at(W_dec, best)  # (n, d_in)
        value = (r * row).sum(axis=-1)  # (n,)
        value = xp.where(going & (value > 0) if cfg.match == "positive" else going, value, 0)  # (n,)
        r = r - value[..., None] * row  # (n, d_in)
        if cfg.stop_on_repeat:
            for then, what in zip(chosen, values, strict=True):
                going = going & ((then != best) | (what == 0))  # (n,)
        if cfg.residual_threshold > 0:
            going = going & (row_norms(r) >= cfg.residual_threshold)  # (n,)
        chosen.append(best)
        values.append(value)
        if len(chosen) == cfg.k or known_false(going.any()):
            return Cache(seen, r, chosen, values)
        best = best_match(r, W_dec)  # (n,)


def _code(cache: Cache, cfg: Config) -> Code:
    xp = namespace(cache.seen)
    return scatter(xp.stack(cache.values, axis=-1), xp.stack(cache.chosen, axis=-1), cfg.d_sae)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead`` is not used by this variant."""
    seen = x - params["b_dec"][..., None, :]  # (n, d_in)
    pre = seen @ params["W_dec"].swapaxes(-1, -2)  # (n, d_sae)
    cache = _pursue(params, seen, pre.argmax(axis=-1), cfg)
    f = _code(cache, cfg)  # (n, d_sae)
    return Out(decode(params, f), f, pre), cache


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The choices are held fixed: exact wherever no tie, and no end of a row's pursuit, is crossed.
    """
    seen, W_dec, xp = cache.seen, params["W_dec"], namespace(cache.seen)  # (d_sae, d_in) the second
    d_x_hat = slopes["x_hat"] if "x_hat" in slopes else xp.zeros_like(seen)  # (n, d_in)
    d_f = None
    if "f" in slopes:
        d_f = xp.zeros((*seen.shape[:-1], cfg.d_sae), dtype=seen.dtype) + slopes["f"]  # (n, d_sae)
    d_W_dec, g, r = xp.zeros_like(W_dec), d_x_hat, cache.residual  # (d_sae, d_in), (n, d_in), (n, d_in)
    for best, value in zip(reversed(cache.chosen), reversed(cache.values), strict=True):
        row, where = rows_at(W_dec, best), best[..., None]
        r = r + value[..., None] * row  # (n, d_in), before this choice
        d_value = (g * row).sum(axis=-1)  # (n,)
        if d_f is not None:
            d_value = d_value + xp.take_along_axis(d_f, where, axis=-1)[..., 0]  # (n,)
        d_value = d_value * (value != 0)  # (n,)
        weight_slope(scatter(value[..., None], where, cfg.d_sae), g, into=d_W_dec)
        weight_slope(scatter(d_value[..., None], where, cfg.d_sae), r, into=d_W_dec)
        g = g - d_value[..., None] * row  # (n, d_in)
    d_seen = d_x_hat - g  # (n, d_in)
    if "pre" in slopes:
        d_seen = d_seen + product(slopes["pre"], W_dec)  # (n, d_in)
        weight_slope(slopes["pre"], seen, into=d_W_dec)
    grads = {"W_dec": d_W_dec, "b_dec": (d_x_hat - d_seen).sum(axis=-2)}
    return grads | {"x": d_seen} if want_x else grads


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; there is no penalty for ``sparsity`` to weigh."""
    return {"mse": losses.mse(out.x_hat, y, reduction=cfg.reduction)}


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; matches below 0 it does not have."""
    if cfg.match == "signed":
        return {}
    own = {"max_iterations": cfg.k, "residual_threshold": cfg.residual_threshold}
    return own | {"architecture": SAELENS, "stop_on_duplicate_support": cfg.stop_on_repeat}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant.

    Raises
    ------
    InputError
        If ``b_dec`` is not subtracted from the input: SAELens then does not add it either.
    """
    if fields.get("architecture") != SAELENS:
        return None
    if not fields.get("apply_b_dec_to_input", True):
        raise InputError("apply_b_dec_to_input: expected true for a matching pursuit, got false")
    own = {"k": fields.get("max_iterations") or fields.get("d_in"), "match": "positive"}
    own["residual_threshold"] = fields.get("residual_threshold", 1e-2)
    return own | {"stop_on_repeat": fields.get("stop_on_duplicate_support", True)}
