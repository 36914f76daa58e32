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
    with_values,
)
from minisae.ops.columns import columns, widen
from minisae.ops.dispatch import fallbacks, known_false, reference_ops
from minisae.ops.products import affine, code_slope, decode, weight_slope
from minisae.ops.pursuit import best_match, rows_at, scatter
from minisae.ops.rows import geometric_median, normalise_rows, project_rows, row_norms
from minisae.ops.select import (
    above,
    batch_top_k,
    group_max,
    group_winners,
    least_positive,
    relu,
    top_k,
    top_k_among,
    top_k_mask,
)

__all__ = [
    "Code",
    "SparseCode",
    "above",
    "add_code",
    "affine",
    "batch_top_k",
    "best_match",
    "code_slope",
    "column_sum",
    "columns",
    "decode",
    "dense",
    "fallbacks",
    "fired",
    "geometric_median",
    "group_max",
    "group_winners",
    "known_false",
    "l0",
    "least_positive",
    "normalise_rows",
    "project_rows",
    "reference_ops",
    "relu",
    "row_norms",
    "rows_at",
    "scatter",
    "sparse",
    "top_k",
    "top_k_among",
    "top_k_mask",
    "weight_slope",
    "widen",
    "with_values",
]
