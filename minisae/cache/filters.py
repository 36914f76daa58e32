"""Filters that real activations need: which rows of a batch are kept."""

import math
from typing import Any, NamedTuple

import numpy as np

from minisae.errors import InputError

NORM_SAMPLE = 65536
"""Rows whose median norm sets the limit of ``max_norm`` while a cache is written."""


class Filters(NamedTuple):
    """What is kept; the defaults keep every row.

    ``max_norm`` is for attention sinks: after block 15 of SmolLM2-135M the first position has
    about 136 times the usual norm.
    """

    skip_positions: int = 0
    """Drop rows whose position in their sequence is below this."""
    max_norm: float | None = None
    """Drop rows whose norm exceeds this many times the median norm."""
    drop_tokens: tuple[int, ...] = ()
    """Drop rows of these tokens."""
    keep_tokens: tuple[int, ...] = ()
    """If not empty: keep rows of these tokens only."""
    drop_nonfinite: bool = False
    """Drop rows with NaN or infinity instead of refusing them."""


KEEP_ALL = Filters()


def check_filters(filters: Filters) -> Filters:
    """Return ``filters`` with lists made tuples, or refuse a value that makes no sense."""
    if filters.skip_positions < 0:
        raise InputError(f"skip_positions: expected a number >= 0, got {filters.skip_positions}")
    if filters.max_norm is not None and not 0 < filters.max_norm < math.inf:
        raise InputError(f"max_norm: expected a number > 0 (times the median norm), got {filters.max_norm}")
    return filters._replace(drop_tokens=tuple(filters.drop_tokens), keep_tokens=tuple(filters.keep_tokens))


def needed_columns(filters: Filters) -> tuple[str, ...]:
    """Return the columns that the filters look at."""
    tokens = bool(filters.drop_tokens or filters.keep_tokens)
    return (("position",) if filters.skip_positions else ()) + (("token",) if tokens else ())


def require_columns(filters: Filters, present: Any, where: str) -> None:
    """Refuse filters that look at a column which is not there."""
    for name in needed_columns(filters):
        if name not in present:
            option = "skip_positions" if name == "position" else "drop_tokens and keep_tokens"
            raise InputError(f"{where}: expected a column {name!r} for the filter {option}, got none")


def keep_by_columns(filters: Filters, columns: dict[str, np.ndarray], n: int) -> np.ndarray:
    """Return which of ``n`` rows the filters on position and token keep: ``(n,)`` of bool."""
    keep = np.ones(n, bool)  # (n,)
    if filters.skip_positions:
        keep &= columns["position"] >= filters.skip_positions
    if filters.drop_tokens:
        keep &= ~np.isin(columns["token"], filters.drop_tokens)
    if filters.keep_tokens:
        keep &= np.isin(columns["token"], filters.keep_tokens)
    return keep


def row_norms(x: np.ndarray) -> np.ndarray:
    """Return the Euclidean norms of the rows of ``x (n, d_in)``: ``(n,)`` float32, not finite where the row is not."""
    x = x.astype(np.float32, copy=False)  # (n, d_in)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.einsum("nd,nd->n", x, x)))
