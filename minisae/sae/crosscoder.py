"""Crosscoder: one code for several layers or models (Lindsey et al. 2024, "Sparse Crosscoders", Anthropic).

    pre   = Σ_s x_s W_enc,s + b_enc                              section "Crosscoder Basics"; x_s: source s of the row
    f     = ReLU(pre)
    x_hat_s = f W_dec,s + b_dec,s
    L     = (1/n) Σ_rows ( Σ_s ‖x_s − x_hat_s‖² + λ Σ_j f_j Σ_s ‖W_dec,s,j‖ )

A row of data holds the sources side by side, so that all but the penalty is an autoencoder of the whole row; the norms
in the penalty are those of each source's own part. ``source_norms="joint"`` takes the norm over all of them instead
(the paper's "L2 of norms"). Sources count by their units: bring them to one scale first. What the sources share is told
by :mod:`minisae.metrics.diffing`. Letters: n rows, d_in (all sources together), d_sae, d_s (one source).

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=5, d_sae=7, splits=(3,))
>>> params = init(cfg, np.random.default_rng(0))
>>> [part.shape for part in sources(params["W_dec"], cfg.splits)]
[(7, 3), (7, 2)]
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, dense, row_norms
from minisae.sae import linear, rectified

SOURCE = "Lindsey et al. 2024, Sparse Crosscoders, transformer-circuits.pub/2024/crosscoders"
SHAPES = linear.SHAPES
UNITS = linear.UNITS | {"l1": 1}
Params = rectified.Params
Out = rectified.Out
Cache = rectified.Cache
init = linear.init
encode = rectified.encode
decode = linear.reconstruct
forward = rectified.forward
backward = rectified.backward
fired_latents = rectified.fired_latents


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Width of a row: that of all sources together."""
    d_sae: int
    """Number of latents."""
    splits: tuple[int, ...] = ()
    """Columns at which the second and every further source begins; several hooks of a cache imply them."""
    l1: float = 1.0
    """λ, in the units of the activations."""
    source_norms: str = "sum"
    """The decoder norm that weights a latent's penalty: ``"sum"`` of those of each source, or ``"joint"``."""
    subtract_b_dec: bool = False
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    decoder: str = "free"
    """``"free"`` decoder rows, or ``"unit"``: the row of all sources together at norm 1."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    check_number("l1", cfg.l1, least=0)
    whole = isinstance(cfg.splits, tuple) and all(type(column) is int for column in cfg.splits)
    if not whole or not all(a < b for a, b in zip((0, *cfg.splits), (*cfg.splits, cfg.d_in), strict=True)):
        raise InputError(f"splits: expected ascending whole numbers between 0 and d_in = {cfg.d_in}, got {cfg.splits}")
    if not cfg.splits:
        raise InputError("splits: expected columns at which more sources begin: a crosscoder has two or more, got ()")


def sizes(widths: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``d_in`` and ``splits`` for sources of these widths; one width leaves ``splits`` to ``options``."""
    ends = tuple(sum(widths[: i + 1]) for i in range(len(widths) - 1))
    return {"d_in": sum(widths), "splits": options.get("splits", ends)}


def sources(W_dec: Array, splits: Sequence[int]) -> list[Array]:
    """Return each source's part ``(d_sae, d_s)`` of a decoder ``(d_sae, d_in)``; views."""
    ends = (0, *splits, W_dec.shape[-1])
    return [W_dec[..., ends[i] : ends[i + 1]] for i in range(len(ends) - 1)]


def _penalised(W_dec: Array, cfg: Config) -> list[Array]:
    """Return the parts ``(d_sae, d_s)`` of the decoder whose norms the penalty adds up."""
    return sources(W_dec, cfg.splits) if cfg.source_norms == "sum" else [W_dec]


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float | Array = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is a factor of λ, or one an instance."""
    xp, W_dec = namespace(y), params["W_dec"]  # (d_sae, d_in) last
    each = [losses.l1(out.f, coefficient=cfg.l1 * sparsity, W_dec=part) for part in _penalised(W_dec, cfg)]
    d_W_dec = xp.concatenate([term.params["W_dec"] for term in each], axis=-1)  # (d_sae, d_in)
    l1 = losses.Term(
        sum(term.value for term in each), {"f": sum(term.slopes["f"] for term in each)}, {"W_dec": d_W_dec}
    )
    return {"mse": losses.mse(out.x_hat, y, reduction=cfg.reduction), "l1": l1}


def row_penalty(params: Params, f: Code, cfg: Config) -> Array:
    """Return what the penalty adds to the loss of each row ``(n,)``; the mean over rows is the objective's ``l1``."""
    weight = sum(row_norms(part) for part in _penalised(params["W_dec"], cfg))  # (d_sae,)
    return cfg.l1 * (dense(f) * weight).sum(axis=-1)
