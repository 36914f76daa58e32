"""ReLU sparse autoencoder with an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity").

    pre   = (x − b_dec) W_enc + b_enc                                section "Sparse Autoencoder Setup"
    f     = ReLU(pre)
    x_hat = f W_dec + b_dec
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + λ ‖f‖₁ ),  ‖W_dec,j‖ = 1

The error is summed over d_in. Decoder rows are kept at unit norm, or the penalty is weighted by their norm instead
(``decoder="free", l1_weight="decoder_norm"``: Anthropic, April 2024 update). What libraries do otherwise:

    λ ‖f ⊙ ‖W_dec‖‖_p                     SAELens 6.54: decoder="free", l1_weight="decoder_norm", p = lp_norm
    ‖x − x_hat‖² / ‖x‖²,  λ ‖f‖₁ / ‖x‖    OpenAI 2024-06, loss.py: relative=True; a zero row counts as it is
    (1/d_in) ‖x − x_hat‖²,  n λ ‖f‖₁      overcomplete 0.3, mse_l1: reduction="mean", penalty_reduction="sum";
                                          it subtracts no b_dec and has none

Letters: n rows, d_in, d_sae.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, l1=0.5)
>>> rng = np.random.default_rng(0)
>>> params, x = init(cfg, rng), rng.standard_normal((50, 3), dtype=np.float32)
>>> out, cache = forward(params, x, cfg)
>>> once, summed = (objective(params, out, x, cfg._replace(penalty_reduction=how)) for how in ("mean", "sum"))
>>> round(float(summed["l1"].value / once["l1"].value), 4)
50.0
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, dense, row_norms
from minisae.sae import linear, rectified

SOURCE = "Bricken et al. 2023, Towards Monosemanticity, transformer-circuits.pub/2023/monosemantic-features"
SHAPES = linear.SHAPES
UNITS = linear.UNITS | {"l1": 1}
SAELENS = "standard"
"""The architecture that SAELens 6 has for it."""
init = linear.init
encode = rectified.encode
decode = linear.reconstruct
forward = rectified.forward
backward = rectified.backward
fired_latents = rectified.fired_latents
Params = linear.Params
Out = rectified.Out
Cache = rectified.Cache


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    l1: float = 1.0
    """λ, in the units of the activations."""
    p: float = 1.0
    """The penalty is the p-norm of a row's code."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    l1_weight: str = "plain"
    """``"plain"``, or ``"decoder_norm"``: each latent's penalty counts with its decoder norm."""
    penalty_reduction: str = "mean"
    """Mean or sum of the penalty over rows."""
    relative: bool = False
    """Divide a row's squared error by ‖x‖², its penalty by ‖x‖; λ has no unit then."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    linear.check_config(cfg)
    for name in ("l1", "p"):
        check_number(name, getattr(cfg, name), least=0)
    if cfg.p == 0:
        raise InputError(f"p: expected a number above 0, got {cfg.p}")


def units(cfg: Config) -> dict[str, float]:
    """Return the power of the activations' unit in parameters and options; a relative λ has none."""
    return {**UNITS, "l1": 0 if cfg.relative else 1}


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float | Array = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``; ``sparsity`` is a factor of λ, or one an instance."""
    W_dec = params["W_dec"] if cfg.l1_weight == "decoder_norm" else None  # (d_sae, d_in), if any
    coefficient = cfg.l1 * sparsity * (y.shape[-2] if cfg.penalty_reduction == "sum" else 1)
    x_hat, f, size = out.x_hat, out.f, None  # (n, d_in), (n, d_sae)
    if cfg.relative:
        norms = row_norms(y)[..., None]  # (n, 1)
        size = namespace(y).where(norms > 0, norms, 1)  # (n, 1)
        x_hat, y, f = x_hat / size, y / size, dense(f) / size
    mse = losses.mse(x_hat, y, reduction=cfg.reduction)
    if cfg.p == 1:
        l1 = losses.l1(f, coefficient=coefficient, W_dec=W_dec)
    else:
        l1 = losses.lp(f, coefficient=coefficient, p=cfg.p, root=True, W_dec=W_dec)
    if size is not None:
        mse, l1 = (term._replace(slopes={at: d / size for at, d in term.slopes.items()}) for term in (mse, l1))
    return {"mse": mse, "l1": l1}


def row_penalty(params: Params, f: Code, cfg: Config) -> Array:
    """Return what the penalty adds to the loss of each row ``(n,)``: by itself, and not relative to the row's norm.

    The mean over rows is the objective's ``l1``, if that is a mean and not relative.
    """
    weight = row_norms(params["W_dec"]) if cfg.l1_weight == "decoder_norm" else 1.0  # (d_sae,), or a number
    return cfg.l1 * ((dense(f) * weight) ** cfg.p).sum(axis=1) ** (1 / cfg.p)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    return {"architecture": "standard"}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant.

    The penalty of a training checkpoint of SAELens 6.54 is kept; a folder for use alone has none.
    """
    if fields.get("architecture") != "standard":
        return None
    names = {"l1_coefficient": "l1", "lp_norm": "p"}
    own = {ours: fields[theirs] for theirs, ours in names.items() if fields.get(theirs) is not None}
    return own | {"l1_weight": "decoder_norm"} if own else own
