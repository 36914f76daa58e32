"""BatchTopK sparse autoencoder (Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders", arXiv:2412.06410).

    pre   = (x − b_dec) W_enc + b_enc
    f     = ReLU(BatchTopK(pre))                  training: the k·n largest of the whole batch of n rows
    f     = pre · 1[pre > θ]                      inference: rows do not depend on each other
    x_hat = f W_dec + b_dec
    θ     = E[ min { f_ij | f_ij > 0 } ]          expectation over training batches
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² )         AuxK as in topk

The error is summed over d_in; ties go to the lowest index of the flattened batch. θ is no parameter but state: it
stands beside the parameters as ``threshold (d_sae,)``, the same number in each entry, and only the training step
moves it. With m the smallest positive value kept in a batch and β ``threshold_decay``, θ ← r θ + (1 − r) m where

    corrected     1 − r = (1 − β) / (1 − βᵗ) on the t-th batch: Adam's bias correction, so a mean from the start
    from_zero     1 − r = 1 − β, from θ = 0: SAELens 6.54, with β = 0.99; 63 % of the way after 100 steps
    from_first    1 − r = 1 − β, from the first m: dictionary_learning 2025-08, β = 0.999, ``threshold_start=1001``

A batch in which nothing positive is kept is left out; ``from_first`` counts it as m = 0, as its source does. Before the
first m (θ = −1) encode is plain ReLU, as in both libraries. :func:`calibrated` sets θ from held-out rows instead.
overcomplete 0.3 counts k in the batch (``k_per``), keeps every entry equal to the last (``ties``), and takes that value
for m, with β = 0.9 (``threshold_of="kth"``, ``from_first``). SAELens ranks pre · ‖W_dec‖ (``select_by``).
Letters: n rows, d_in, d_sae, k.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae.backend import Array, backend_of, namespace, to_device
from minisae.ops import fired
from minisae.sae import auxk, batchwise, linear, ranking

SOURCE = "Bussmann, Leask and Nanda 2024, BatchTopK Sparse Autoencoders, arXiv:2412.06410"
SHAPES = batchwise.SHAPES
UNITS = batchwise.UNITS
SAELENS = "jumprelu trained as batchtopk"
"""The architecture that SAELens 6 has for it: a threshold for each latent, once it is trained."""
STATE = batchwise.STATE
"""What stands beside the parameters and is not trained; ``after_step`` moves it."""
FRACTIONAL_K = True
"""Annealing k does not round it."""
CHUNK = 1024
"""Rows that :func:`calibrated` encodes at a time."""
check_config = batchwise.check_config
init = batchwise.init
k_total = batchwise.k_total
encode = batchwise.encode
after_step = batchwise.after_step
folded = ranking.folded
decode = linear.reconstruct
aux_width = auxk.aux_width
backward = auxk.backward
objective = auxk.objective
Params = linear.Params
Out = auxk.Out
Cache = auxk.Cache


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    k: float = 32
    """Active latents a row on average, not necessarily whole: k times the rows of a batch is rounded."""
    k_aux: int = 0
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 1 / 32
    """Coefficient of AuxK; 0 switches it off."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    k_rounding: str = "nearest"
    """How ``k · n`` becomes whole, at least 1; SAELens cuts it ``"down"``."""
    k_per: str = "row"
    """``"batch"``: ``k`` is what a whole batch keeps, however many rows it has (overcomplete)."""
    ties: str = "lowest"
    """``"all"``: entries equal to the last one kept are kept, and at inference those equal to θ (overcomplete)."""
    select_by: str = "pre"
    """What is ranked, and θ the threshold of; SAELens: ``"contribution"``."""
    threshold_of: str = "least_kept"
    """What θ is the mean of; ``"kth"`` is 0 in a batch with fewer positive entries than are to be kept."""
    threshold_rule: str = "corrected"
    """How the running threshold starts."""
    threshold_decay: float = 0.99
    """β of the running threshold."""
    threshold_start: int = 0
    """First step, counted from 0, whose batch counts for the running threshold."""
    auxk_over: str = "dead"
    """Among whom AuxK selects; ``"unchosen"`` (overcomplete) counts in full whoever is dead."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_relu: bool = True
    """ReLU on the code of the dead latents; without it (SAELens) negative values enter too."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (SAELens)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    return auxk.outputs(params, seen, ranked, batchwise.select(ranked, cfg), cfg, dead, raw=pre)


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)


def calibrated(params: Params, x: Array, cfg: Config) -> Params:
    """Return the parameters with the threshold at which ``x (n, d_in)`` has ``k`` active latents a row in the mean.

    It lies midway between the ``k_total``-th largest pre-activation of all rows and the next. Where too few are
    positive it is 0, and where the two are equal, those are left out; the mean is below k then. With ``k_per="batch"``
    the rows are one batch: ``k`` are active in all of them together.

    Examples
    --------
    >>> import numpy as np
    >>> cfg = Config(d_in=3, d_sae=7, k=1.8)
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((50, 3), dtype=np.float32)
    >>> params = calibrated(init(cfg, rng), x, cfg)
    >>> float((encode(params, x, cfg).astype(bool)).sum(axis=1).mean())
    1.8
    """
    like, kept = params["threshold"], k_total(cfg, len(x))
    xp = namespace(like)
    largest = xp.zeros(kept + 1, dtype=like.dtype)  # (n_kept,)
    for first in range(0, len(x), CHUNK):
        part = to_device(x[first : first + CHUNK], backend_of(like)).astype(like.dtype, copy=False)  # (rows, d_in)
        pre = linear.encode(params, part, subtract_b_dec=cfg.subtract_b_dec)[1]  # (rows, d_sae)
        pre = ranking.rank(params, pre, cfg)  # (rows, d_sae)
        both = xp.concatenate((largest, pre.reshape(-1)))  # (n_both,)
        largest = xp.partition(both, both.size - kept - 1)[both.size - kept - 1 :]  # (n_kept,)
    pair = xp.partition(largest, 1)[:2]  # (2,), the next one and the last that is kept
    middle = pair[:1] + (pair[1:] - pair[:1]) / 2  # (1,)
    middle = xp.where(middle < pair[1:], middle, pair[:1])  # (1,), neighbouring numbers have none between them
    return params | {"threshold": xp.zeros_like(like) + middle}


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; none before it is ``folded``."""
    return {"architecture": "jumprelu"} if cfg.select_by == "pre" and cfg.ties == "lowest" else {}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant.

    A ``jumprelu`` is this variant where its metadata say that it was trained as ``batchtopk``, and with which k.
    """
    metadata = fields.get("metadata") or {}
    details = metadata.get("training_architecture_details")
    trained_so = fields.get("architecture") == "jumprelu" and metadata.get("training_architecture") == "batchtopk"
    if not trained_so or not isinstance(details, dict):
        return None
    return {"k": details.get("k"), "k_rounding": "down", "threshold_rule": "from_zero"}
