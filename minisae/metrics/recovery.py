"""Whether a known dictionary was found: by the angles of its rows, and by when they fire.

``truth (n_feat, d_in)`` and ``learned (d_sae, d_in)`` are dictionaries; their rows need not be unit vectors. Cosines
are signed unless a name says otherwise: a latent that points the wrong way has not found its feature.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from minisae.backend import Array, namespace, to_host
from minisae.errors import InputError
from minisae.metrics.geometry import max_cosines, unit_rows
from minisae.ops.code import Code, dense


def mmcs(of: Array, among: Array) -> float:
    """Return ``mean_i max_j cos(of_i, among_j)``: the mean maximum cosine similarity of Sharkey et al. 2022.

    ``mmcs(truth, learned)`` asks whether each feature was found, and a larger dictionary always scores better;
    ``mmcs(learned, truth)`` asks whether each latent is a feature.
    """
    return float(max_cosines(of, among)[0].mean())


def coverage(truth: Array, learned: Array, *, threshold: float = 0.9) -> float:
    """Return the share of features with a latent at cosine ``threshold`` or more."""
    return float((max_cosines(truth, learned)[0] >= threshold).mean())


def uniqueness(truth: Array, learned: Array) -> float:
    """Return (number of features that are some latent's best match) / d_sae, as SAELens; 1 if no two latents share one.

    Ties go to the first feature. With d_sae > n_feat it cannot reach 1.
    """
    features = best_match(truth, learned)  # (d_sae,)
    return len(np.unique(features)) / len(features)


def best_match(truth: Array, learned: Array, *, absolute: bool = False) -> np.ndarray:
    """Return for each latent the feature of largest cosine: int ``(d_sae,)``, on the host."""
    return to_host(max_cosines(learned, truth, absolute=absolute)[1])


class Matching(NamedTuple):
    """A one-to-one matching of ``pairs = min(n_feat, d_sae)`` features and latents."""

    features: np.ndarray
    """``(pairs,)``, ascending."""
    latents: np.ndarray
    """``(pairs,)``."""
    cosines: np.ndarray
    """Signed, also where absolute ones were matched ``(pairs,)``."""


def matched_pairs(truth: Array, learned: Array, *, absolute: bool = False) -> Matching:
    """Match features and latents one to one so that the sum of their (absolute) cosines is largest.

    The Hungarian problem, solved on the host by SciPy; holds all ``(n_feat, d_sae)`` cosines.
    """
    if truth.ndim != 2 or learned.ndim != 2 or truth.shape[1] != learned.shape[1]:
        raise InputError(f"learned: expected a matrix of the width of truth {truth.shape}, got {learned.shape}")
    cos = to_host(unit_rows(truth) @ unit_rows(learned).T)  # (n_feat, d_sae)
    features, latents = linear_sum_assignment(abs(cos) if absolute else cos, maximize=True)
    return Matching(features, latents, cos[features, latents])


def matched_cosine(truth: Array, learned: Array) -> float:
    """Return the mean cosine of the best one-to-one matching; says nothing of features left unmatched."""
    return float(matched_pairs(truth, learned).cosines.mean())


def max_abs_correlation_coefficient(truth: Array, learned: Array) -> float:
    """Return the mean absolute cosine of the best one-to-one matching of absolute cosines.

    SAELens' "MCC", after arXiv:2505.20254; blind to signs.
    """
    return float(abs(matched_pairs(truth, learned, absolute=True).cosines).mean())


class DetectionCounts(NamedTuple):
    """For each of m pairs of a latent and a feature, rows in which they fire. Counts of several chunks add up."""

    both: Array
    """``(m,)``."""
    latent: Array
    """``(m,)``."""
    feature: Array
    """``(m,)``."""


def detection_counts(f_true: Array, f: Code, *, features: Array, latents: Array | None = None) -> DetectionCounts:
    """Count in how many rows each latent, its feature, and both fire.

    Parameters
    ----------
    f_true : true coefficients ``(n, n_feat)``; a feature fires where it is not 0
    f : code ``(n, d_sae)``, dense or sparse
    features : the feature each latent is compared with ``(m,)``, from :func:`best_match` or :func:`matched_pairs`
    latents : ``(m,)``; None for all, in order
    """
    code = dense(f)  # (n, d_sae)
    if len(code) != len(f_true):
        raise InputError(f"f: expected {len(f_true)} rows like f_true, got {len(code)}")
    xp = namespace(f_true, code)
    fires = code != 0 if latents is None else code[:, xp.asarray(latents)] != 0  # (n, m)
    real = f_true[:, xp.asarray(features)] != 0  # (n, m)
    return DetectionCounts((fires & real).sum(axis=0), fires.sum(axis=0), real.sum(axis=0))


def detection_scores(counts: DetectionCounts) -> dict[str, np.ndarray]:
    """Return precision, recall and F1 of each pair, arrays ``(m,)`` on the host.

        precision = both / latent     recall = both / feature     F1 = 2 both / (latent + feature)

    0 where a denominator is 0, so a silent latent scores 0.
    """
    both, latent, feature = (to_host(c).astype(np.float64) for c in counts)
    return {
        "precision": both / np.maximum(latent, 1),
        "recall": both / np.maximum(feature, 1),
        "f1": 2 * both / np.maximum(latent + feature, 1),
    }


def recovery_report(truth: Array, learned: Array, f_true: Array, f: Code) -> dict[str, float]:
    """Return every number of this module for a dictionary and its code on one set of rows.

    Precision, recall and F1 are means over latents, each against its best-matched feature (as in SAELens, but by
    signed cosine); those with ``_matched`` are means over the pairs of the one-to-one matching.
    """
    pairs = matched_pairs(truth, learned)
    by_latent = detection_scores(detection_counts(f_true, f, features=best_match(truth, learned)))
    by_pair = detection_scores(detection_counts(f_true, f, features=pairs.features, latents=pairs.latents))
    return {
        "mmcs_truth_to_learned": mmcs(truth, learned),
        "mmcs_learned_to_truth": mmcs(learned, truth),
        "matched_cosine": float(pairs.cosines.mean()),
        "mcc": max_abs_correlation_coefficient(truth, learned),
        "coverage": coverage(truth, learned),
        "uniqueness": uniqueness(truth, learned),
        **{name: float(value.mean()) for name, value in by_latent.items()},
        **{f"{name}_matched": float(value.mean()) for name, value in by_pair.items()},
    }
