"""What variants share that select from a whole batch, and encode row by row with the threshold they learnt from it.

    f     = ReLU(BatchTopK(rank))                 training: the k·n largest of the whole batch of n rows
    f     = pre · 1[rank > θ]                     inference: rows do not depend on each other
    θ     = E[ min { rank_ij | f_ij > 0 } ]       expectation over training batches

Bussmann et al. 2024, arXiv:2412.06410. rank is what latents are selected by (:mod:`minisae.sae.ranking`): the
pre-activations, unless ``select_by`` says otherwise. θ is state: ``threshold (d_sae,)``, the same number in each entry.
How it moves is said in :mod:`minisae.sae.batch_topk`. Letters: n rows, d_in, d_sae, k.
"""

from typing import Any

import numpy as np

from minisae.backend import Array, namespace
from minisae.conventions import check_number, option
from minisae.errors import InputError
from minisae.ops import Code, above, batch_top_k, least_positive, with_values
from minisae.ops.code import row_norms0
from minisae.sae import auxk, linear, ranking

Params = linear.Params

SHAPES = linear.SHAPES | {"threshold": ("d_sae",)}
UNITS = linear.UNITS | {"threshold": 1}
STATE = ("threshold",)
"""What stands beside the parameters and is not trained; :func:`after_step` moves it."""


def check_config(cfg: Any) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    auxk.check_config(cfg)
    check_number("k", cfg.k, least=0)
    if not 0 < cfg.k <= cfg.d_sae and (cfg.k == 0 or option(cfg, "k_per") == "row"):
        raise InputError(f"k: expected above 0 and at most d_sae = {cfg.d_sae}, got {cfg.k}")
    check_number("threshold_decay", cfg.threshold_decay, least=0, below=1)
    check_number("threshold_start", cfg.threshold_start, least=0, whole=True)


def init(cfg: Any, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the parameters of :func:`minisae.sae.linear.init`, and a threshold that nothing was learnt of yet: −1."""
    return linear.init(cfg, rng, sample=sample, dtype=dtype) | {"threshold": np.full(cfg.d_sae, -1, dtype)}


def k_total(cfg: Any, n: int) -> int:
    """Return how many entries are kept in a batch of ``n`` rows: at least 1, and no more than there are."""
    total = cfg.k * n if option(cfg, "k_per") == "row" else cfg.k
    whole = round(total) if cfg.k_rounding == "nearest" else int(total)
    return int(min(max(1, whole), n * cfg.d_sae))


def select(ranked: Array, cfg: Any) -> Code:
    """Return what is kept ``(n, d_sae)`` of a batch ``ranked (n, d_sae)`` in training."""
    kept = batch_top_k(ranked, k_total(cfg, ranked.shape[-2]))  # (n, d_sae)
    if option(cfg, "ties") == "lowest":
        return kept
    edge = least_positive(kept)[..., None]  # (1,)
    return above(ranked, namespace(edge).broadcast_to(edge, (*edge.shape[:-1], cfg.d_sae)), reached=True)


def encode(params: Params, x: Array, cfg: Any) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``, each by itself: what is above the threshold."""
    pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)[1]  # (n, d_sae)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    kept = above(ranked, params["threshold"], reached=option(cfg, "ties") == "all")  # (n, d_sae)
    return ranking.code_of(kept, ranked, pre)


def after_step(params: Params, out: Any, cfg: Any, *, step: int) -> None:
    """Move the running threshold in place by the batch of this step, counted from 0."""
    if step < cfg.threshold_start:
        return
    xp, threshold, how = namespace(params["threshold"]), params["threshold"], cfg.threshold_rule
    least = least_positive(with_values(out.f, out.pre))[..., None]  # (1,)
    if option(cfg, "threshold_of") == "kth":
        short = row_norms0(out.f).sum(axis=-1) < k_total(cfg, out.f.shape[-2])  # ()
        least = xp.where(short[..., None], 0, least)  # (1,)
    if how == "from_first":
        least = xp.where(xp.isfinite(least), least, 0)  # (1,)
    share = 1 - cfg.threshold_decay
    if how == "corrected":
        share /= 1 - cfg.threshold_decay ** (step - cfg.threshold_start + 1)
    moved = (1 - share) * xp.maximum(threshold, 0) + share * least  # (d_sae,)
    if how != "from_zero":
        moved = xp.where(threshold < 0, least, moved)  # (d_sae,)
    threshold[...] = xp.where(xp.isfinite(least), moved, threshold)
