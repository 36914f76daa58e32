"""Primitive operations, each forward and backward: no parameters, no loss."""

from minisae.ops.code import (
    Code,
    SparseCode,
    add_code,
    column_sum,
    dense,
    fired,
    l0,
    sparse,
)
from minisae.ops.dispatch import fallbacks, known_false, reference_ops
from minisae.ops.products import affine, code_slope, decode, weight_slope
from minisae.ops.rows import geometric_median, normalise_rows, project_rows, row_norms
from minisae.ops.select import above, batch_top_k, least_positive, relu, top_k, top_k_among, top_k_mask

__all__ = [
    "Code",
    "SparseCode",
    "above",
    "add_code",
    "affine",
    "batch_top_k",
    "code_slope",
    "column_sum",
    "decode",
    "dense",
    "fallbacks",
    "fired",
    "geometric_median",
    "known_false",
    "l0",
    "least_positive",
    "normalise_rows",
    "project_rows",
    "reference_ops",
    "relu",
    "row_norms",
    "sparse",
    "top_k",
    "top_k_among",
    "top_k_mask",
    "weight_slope",
]
