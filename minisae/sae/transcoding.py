"""What transcoders share: a code of one activation that reconstructs another, with or without a skip connection.

pre   = x W_enc + b_enc                              b_dec has the width of the target: nothing to subtract
f     = ReLU(pre), or ReLU(TopK(pre)) with k > 0
y_hat = f W_dec + b_dec (+ x W_skipᵀ)
L     = (1/n) Σ_rows ‖y − y_hat‖² + λ‖f‖₁ with ReLU; with TopK no penalty, and AuxK (:mod:`minisae.sae.auxk`) if asked

A row of data holds input and target side by side, ``(n, d_in + d_out)``. Letters: n rows, d_in, d_out, d_sae.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, dense, fired, normalise_rows, relu, top_k, top_k_mask
from minisae.sae import auxk, linear

Params = linear.Params
Out = auxk.Out
Cache = auxk.Cache

SHAPES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
}
UNITS = linear.UNITS | {"l1": 1}


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Width of the input."""
    d_sae: int
    """Number of latents."""
    d_out: int
    """Width of the target; two hooks of a cache imply it, an array of rows does not."""
    k: int = 0
    """0 for ReLU with the L1 penalty; else the active latents a row (TopK), and no penalty."""
    l1: float = 1.0
    """λ with ReLU, in the units of the activations; not to be given beside ``k``."""
    k_aux: int = 0
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 0.0
    """Coefficient of AuxK, with TopK; 0 switches it off."""
    relu: str = "after"
    """With TopK, ReLU ``"after"`` the selection, or ``"before"``: zeros can be selected, and count as having fired."""
    selected_zero: str = "blocked"
    """``"passes"``: a selected latent of value 0 gets gradient; with ReLU before a selected zero (sparsify's encoder
    leaves ReLU's mask out), with ReLU after one that was selected below 0."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_out``."""
    mse_normaliser: str = "none"
    """What the squared error is divided by."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (sparsify)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``, which start at 0 (sparsify)."""

    @property
    def subtract_b_dec(self) -> bool:
        """Never: ``b_dec`` has another width than the input."""
        return False


def check_config(cfg: Any) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    auxk.check_config(cfg)
    check_number("d_out", cfg.d_out, least=1, whole=True)
    check_number("l1", cfg.l1, least=0)
    check_number("k", cfg.k, least=0, whole=True)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")
    if cfg.auxk and not cfg.k:
        raise InputError(f"auxk: expected 0 without k (AuxK goes with TopK), got {cfg.auxk}")


def check_asked(options: Mapping[str, Any]) -> None:
    """Refuse a penalty where there is none: ``l1`` beside ``k``."""
    if options.get("k") and "l1" in options:
        raise InputError(f"l1: expected none beside k = {options['k']} (TopK has no penalty), got {options['l1']!r}")


def sizes(widths: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``d_in`` and ``d_out``: the last of several widths is the target's, unless ``d_out`` is among ``options``.

    Raises
    ------
    InputError
        If neither says where the target begins, or ``d_out`` cuts through one of several widths.
    """
    d_out, total = options.get("d_out", widths[-1] if len(widths) > 1 else None), sum(widths)
    ends = [sum(widths[i:]) for i in range(1, len(widths))]
    if ends and d_out not in ends:
        wanted = " or ".join(map(str, reversed(ends)))
        raise InputError(f"d_out: expected {wanted}, where a source of widths {list(widths)} begins, got {d_out!r}")
    if type(d_out) is not int or not 1 <= d_out < total:
        wanted = "expected the width of the target, of rows that hold input and target side by side"
        raise InputError(f"d_out: {wanted}: a whole number below their width {total}, got {d_out!r}")
    return {"d_in": total - d_out, "d_out": d_out}


def row_width(cfg: Any) -> int:
    """Return the width of a row of data, ``d_in + d_out``."""
    return int(cfg.d_in + cfg.d_out)


def split(rows: Array, cfg: Any) -> tuple[Array, Array]:
    """Return input ``(n, d_in)`` and target ``(n, d_out)`` of rows ``(n, d_in + d_out)``."""
    xp = namespace(rows)
    return xp.ascontiguousarray(rows[..., : cfg.d_in]), xp.ascontiguousarray(rows[..., cfg.d_in :])


def init(cfg: Any, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return parameters: the mean target is predicted, and the encoder is centred on the mean input.

    ``b_dec`` starts at the mean target and ``b_enc`` at −mean(x) W_enc (sparsify 1.3.3), of rows ``sample (n, d_in +
    d_out)``, else both at 0. The encoder's rows are random directions; the decoder's too while they are kept at unit
    norm, else they start at 0, as in sparsify.
    """
    into, out_of = rng.standard_normal((cfg.d_sae, cfg.d_in)), rng.standard_normal((cfg.d_sae, cfg.d_out))
    normalise_rows(into)
    normalise_rows(out_of)
    if cfg.decoder == "free":
        out_of[...] = 0
    x, y = split(np.zeros((1, row_width(cfg))) if sample is None else sample.astype(np.float64), cfg)
    return {
        "W_enc": into.astype(dtype).T,
        "b_enc": -(into @ x.mean(axis=0)).astype(dtype),
        "W_dec": out_of.astype(dtype),
        "b_dec": y.mean(axis=0).astype(dtype),
    }


def encode(params: Params, x: Array, cfg: Any) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return _code(linear.encode(params, x, subtract_b_dec=False)[1], cfg)


def _code(pre: Array, cfg: Any) -> Code:
    return top_k(pre, cfg.k) if cfg.k else relu(pre)


def _chosen(pre: Array, cfg: Any) -> Array:
    """Mark what TopK selects ``(n, d_sae)``, with ReLU before the selection zeros too."""
    return top_k_mask(namespace(pre).maximum(pre, 0) if cfg.relu == "before" else pre, cfg.k)


def skip(params: Params, x: Array) -> Array:
    """Return what a skip connection adds to the reconstruction of ``x (n, d_in)``: ``x W_skipᵀ`` ``(n, d_out)``."""
    return x @ params["W_skip"].swapaxes(-1, -2)


def forward(params: Params, x: Array, cfg: Any, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=False)
    passed = _chosen(pre, cfg) if cfg.k and cfg.selected_zero == "passes" else None  # (n, d_sae), if any
    out, cache = auxk.outputs(params, seen, pre, _code(pre, cfg), cfg, dead, passed=passed)
    if "W_skip" in params:
        out = out._replace(x_hat=out.x_hat + skip(params, x))
    return out, cache


def backward(params: Params, cache: Cache, cfg: Any, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``."""
    seen, xp = cache.seen, namespace(cache.seen)  # (n, d_in), and its module
    if "x_hat" not in slopes:
        d_none = xp.zeros((*seen.shape[:-1], cfg.d_out), dtype=seen.dtype)  # (n, d_out)
        slopes = slopes | {"x_hat": d_none}
    grads = auxk.backward(params, cache, cfg, slopes, want_x=want_x)
    if "W_skip" in params:
        d_x_hat = slopes["x_hat"]  # (n, d_out)
        grads["W_skip"] = d_x_hat.swapaxes(-1, -2) @ seen
        if want_x:
            grads["x"] = grads["x"] + d_x_hat @ params["W_skip"]
    return grads


def objective(
    params: Params, out: Out, y: Array, cfg: Any, *, sparsity: float | Array = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_out)``; ``sparsity`` is a factor of λ, or one an instance."""
    terms = auxk.objective(params, out, y, cfg, dead=dead)
    if not cfg.k:
        terms["l1"] = losses.l1(out.f, coefficient=cfg.l1 * sparsity)
    return terms


def row_penalty(params: Params, f: Code, cfg: Any) -> Array:
    """Return what the penalty adds to the loss of each row ``(n,)``; the mean over rows is the objective's ``l1``."""
    return (0.0 if cfg.k else cfg.l1) * dense(f).sum(axis=-1)


def fired_latents(out: Out, cfg: Any) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``. With ReLU before TopK, a selected zero counts."""
    return _chosen(out.pre, cfg).any(axis=-2) if cfg.k and cfg.relu == "before" else fired(out.f)


def from_saelens(fields: Mapping[str, Any], architecture: str) -> dict[str, Any] | None:
    """Return the options in SAELens' ``cfg.json`` of a transcoder, or ``None`` if it is of another architecture."""
    return {"d_out": fields.get("d_out")} if fields.get("architecture") == architecture else None
