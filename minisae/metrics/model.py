"""What splicing a reconstruction into the model costs it: cross-entropy and KL divergence, in nats per token.

Both are put on a scale from an ablation (0) to the clean model (1). The ablation is part of the number's name: the
libraries all replace the activation by zero; replacing it by its mean is the harder baseline. A value above 1 or below
0 is possible.
"""

from minisae.backend import Array, namespace
from minisae.errors import InputError


def cross_entropy(log_probs: Array, targets: Array) -> Array:
    """Return ``−log p(target)`` of each token ``(n,)``, in nats.

    Parameters
    ----------
    log_probs : ``(n, vocab)``, from :func:`~minisae.models.layers.log_softmax`
    targets : index of the token that came ``(n,)``
    """
    if log_probs.ndim != 2 or targets.shape != log_probs.shape[:1]:
        raise InputError(f"targets: expected one for each row of {log_probs.shape} log_probs, got {targets.shape}")
    xp = namespace(log_probs)
    return -xp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]


def kl_divergence(log_p: Array, log_q: Array) -> Array:
    """Return ``Σ_v p (log p − log q)`` of each token ``(n,)``, in nats; ``log_p``, ``log_q`` are ``(n, vocab)``.

    p is the clean model, q the model spliced or ablated. A token of probability 0 under p counts nothing.
    """
    if log_p.shape != log_q.shape:
        raise InputError(f"log_q: expected shape {log_p.shape} like log_p, got {log_q.shape}")
    xp = namespace(log_p)
    possible = log_p > -xp.inf  # (n, vocab)
    gap = xp.where(possible, log_p, 0) - xp.where(possible, log_q, 0)  # (n, vocab)
    return (xp.exp(log_p) * gap).sum(axis=-1)


def ce_recovered(ce_clean: float | Array, ce_sae: float | Array, ce_ablated: float | Array) -> float:
    """Return ``(CE_ablated − CE_sae) / (CE_ablated − CE_clean)``, of numbers or of means over per-token arrays.

    SAELens and dictionary_learning ("loss recovered"), there with zero ablation. nan if the ablation costs nothing.
    """
    clean, sae, ablated = _mean(ce_clean), _mean(ce_sae), _mean(ce_ablated)
    return (ablated - sae) / (ablated - clean) if ablated != clean else float("nan")


def kl_recovered(kl_sae: float | Array, kl_ablated: float | Array) -> float:
    """Return ``(KL_ablated − KL_sae) / KL_ablated``, of numbers or of means over per-token arrays; as SAEBench."""
    sae, ablated = _mean(kl_sae), _mean(kl_ablated)
    return (ablated - sae) / ablated if ablated else float("nan")


def recovered_report(
    *,
    ce_clean: float | Array,
    ce_sae: float | Array,
    ce_zero: float | Array,
    ce_mean: float | Array,
    kl_sae: float | Array,
    kl_zero: float | Array,
    kl_mean: float | Array,
) -> dict[str, float]:
    """Return the means of all arguments by their names, and what is recovered against each ablation.

    Arguments are numbers or per-token arrays in nats; ``_zero`` and ``_mean`` say by what the activation was replaced.
    """
    return {
        "ce_clean": _mean(ce_clean),
        "ce_sae": _mean(ce_sae),
        "ce_zero_ablation": _mean(ce_zero),
        "ce_mean_ablation": _mean(ce_mean),
        "ce_recovered_vs_zero_ablation": ce_recovered(ce_clean, ce_sae, ce_zero),
        "ce_recovered_vs_mean_ablation": ce_recovered(ce_clean, ce_sae, ce_mean),
        "kl_sae": _mean(kl_sae),
        "kl_zero_ablation": _mean(kl_zero),
        "kl_mean_ablation": _mean(kl_mean),
        "kl_recovered_vs_zero_ablation": kl_recovered(kl_sae, kl_zero),
        "kl_recovered_vs_mean_ablation": kl_recovered(kl_sae, kl_mean),
    }


def _mean(a: float | Array) -> float:
    return float(a.mean(dtype="float64")) if hasattr(a, "mean") else float(a)
