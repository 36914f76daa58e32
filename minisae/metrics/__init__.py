"""Metrics: plain functions on arrays, each with its formula, its source and its units.

Inputs are NumPy or CuPy arrays; results are numbers of the same backend unless said otherwise. Activations and
reconstructions are compared in the units and the space in which they are given: undo an input scaling first.
"""

from minisae.metrics.diffing import Diffing, diff_models, norm_shares, relative_norms
from minisae.metrics.geometry import CosineStructure, cosine_structure, max_cosines, unit_rows, welch_bound
from minisae.metrics.model import (
    ce_recovered,
    cross_entropy,
    kl_divergence,
    kl_recovered,
    recovered_report,
)
from minisae.metrics.reconstruction import (
    cosine_similarity,
    frac_variance_explained,
    l2_ratio,
    mean_of_ratios_legacy,
    openai_about_zero,
    overcomplete_r2,
    pooled_r2,
    relative_reconstruction_bias,
    saebench_0_6_explained_variance,
    squared_error_per_element,
    squared_error_per_row,
)
from minisae.metrics.recovery import (
    DetectionCounts,
    Matching,
    best_match,
    coverage,
    detection_counts,
    detection_scores,
    matched_cosine,
    matched_pairs,
    max_abs_correlation_coefficient,
    mmcs,
    recovery_report,
    uniqueness,
)
from minisae.metrics.sparsity import (
    DensityHistogram,
    dead_fraction,
    density_histogram,
    firing_counts,
    firing_density,
    l0,
    l1,
    share_above,
)
from minisae.metrics.totals import Totals, add, measure, merge, report
from minisae.models.layers import log_softmax

__all__ = [
    "CosineStructure",
    "DensityHistogram",
    "DetectionCounts",
    "Diffing",
    "Matching",
    "Totals",
    "add",
    "best_match",
    "ce_recovered",
    "cosine_similarity",
    "cosine_structure",
    "coverage",
    "cross_entropy",
    "dead_fraction",
    "density_histogram",
    "detection_counts",
    "detection_scores",
    "diff_models",
    "firing_counts",
    "firing_density",
    "frac_variance_explained",
    "kl_divergence",
    "kl_recovered",
    "l0",
    "l1",
    "l2_ratio",
    "log_softmax",
    "matched_cosine",
    "matched_pairs",
    "max_abs_correlation_coefficient",
    "max_cosines",
    "mean_of_ratios_legacy",
    "measure",
    "merge",
    "mmcs",
    "norm_shares",
    "openai_about_zero",
    "overcomplete_r2",
    "pooled_r2",
    "recovered_report",
    "recovery_report",
    "relative_norms",
    "relative_reconstruction_bias",
    "report",
    "saebench_0_6_explained_variance",
    "share_above",
    "squared_error_per_element",
    "squared_error_per_row",
    "uniqueness",
    "unit_rows",
    "welch_bound",
]
