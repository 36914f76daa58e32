"""Every reconstruction and sparsity metric of many rows in one pass, without holding them.

    totals = measure(x, x_hat, f)                     the first chunk
    totals = add(totals, x, x_hat, f)                 the others
    report(totals)                                    a dict of numbers

Sums are float64 and stay on the arrays' device until :func:`report`. Means and second moments of chunks are merged by
the formula of Chan, Golub and LeVeque (1983), which does not cancel where activations have a large mean.
"""

from typing import NamedTuple

import numpy as np

from minisae.backend import Array, namespace, to_host
from minisae.errors import InputError
from minisae.metrics.reconstruction import float_pair, ratio, row_cosines, row_errors
from minisae.metrics.sparsity import dead_fraction, firing_counts
from minisae.ops.code import Code, SparseCode


class Moments(NamedTuple):
    """Of the rows of a chunk: mean ``(d_in,)`` and sum of squared deviations from it ``(d_in,)``."""

    mean: Array
    m2: Array


class Totals(NamedTuple):
    """What :func:`report` needs to know of the rows seen."""

    rows: int
    x: Moments
    residual: Moments
    """Of ``x − x_hat``."""
    counts: Array
    """Rows in which each latent fires ``(d_sae,)``."""
    sums: dict[str, Array]
    """Sums over rows, 0-d."""

    @property
    def density(self) -> Array:
        """Share of rows in which each latent fires ``(d_sae,)``."""
        return self.counts / self.rows


def measure(x: Array, x_hat: Array, f: Code, *, center: Array | None = None) -> Totals:
    """Return the totals of one chunk.

    Parameters
    ----------
    x, x_hat : ``(n, d_in)``
    f : code ``(n, d_sae)``, dense or sparse
    center : mean row of *all* data ``(d_in,)``, from an earlier pass. ``mean_of_ratios_legacy`` needs it; without it
        the report leaves that number out.
    """
    if f.shape[0] != len(x):
        raise InputError(f"f: expected {len(x)} rows like x, got {f.shape[0]}")
    x, x_hat = float_pair(x, x_hat)
    xp = namespace(x)
    error = row_errors(x, x_hat)  # (n,)
    power = (x * x).sum(axis=1)  # (n,)
    power_hat = (x_hat * x_hat).sum(axis=1)  # (n,)
    known = power > 0  # (n,)
    safe = xp.where(known, power, 1)  # (n,)
    sums = {
        "error": error.sum(),
        "power": power.sum(),
        "power_hat": power_hat.sum(),
        "dot": (x * x_hat).sum(),
        "cosine": row_cosines(x, x_hat).sum(),
        "known": known.sum(),
        "error_ratio": xp.where(known, error / safe, 0).sum(),
        "norm_ratio": xp.where(known, xp.sqrt(power_hat / safe), 0).sum(),
        "l1": abs(f.values if isinstance(f, SparseCode) else f).sum(dtype="float64"),
    }
    if center is not None:
        v = row_errors(x, center)  # (n,)
        sums["off_center"] = (v > 0).sum()
        sums["centered_ratio"] = xp.where(v > 0, error / xp.where(v > 0, v, 1), 0).sum()
    return Totals(len(x), _moments(x), _moments(x - x_hat), firing_counts(f), sums)


def add(totals: Totals, x: Array, x_hat: Array, f: Code, *, center: Array | None = None) -> Totals:
    """Return ``totals`` with one chunk more; arguments as in :func:`measure`."""
    return merge(totals, measure(x, x_hat, f, center=center))


def merge(a: Totals, b: Totals) -> Totals:
    """Return the totals of the rows of both, as if they had been measured together."""
    if a.sums.keys() != b.sums.keys():
        raise InputError("center: expected it for all chunks or for none, got it for some")
    return Totals(
        rows=a.rows + b.rows,
        x=_merge_moments(a.x, a.rows, b.x, b.rows),
        residual=_merge_moments(a.residual, a.rows, b.residual, b.rows),
        counts=a.counts + b.counts,
        sums={name: value + b.sums[name] for name, value in a.sums.items()},
    )


def report(totals: Totals) -> dict[str, float]:
    """Return every metric by the name of its function in this package, as Python numbers.

    The variants of explained variance treat all rows as one batch (dictionary_learning and SAEBench average over
    batches).
    """
    n, d_in = totals.rows, len(totals.x.mean)
    s = {name: to_host(value) for name, value in totals.sums.items()}
    mean, m2 = to_host(totals.x.mean), to_host(totals.x.m2)
    counts = to_host(totals.counts)  # (d_sae,)
    variance = m2.sum()  # ()
    power = s["power"] / n  # ()
    numbers = {
        "squared_error_per_row": s["error"] / n,
        "squared_error_per_element": s["error"] / (n * d_in),
        "pooled_r2": 1 - ratio(np, s["error"], variance),
        "frac_variance_explained": 1 - ratio(np, to_host(totals.residual.m2).sum(), variance),
        "saebench_0_6_explained_variance": 1 - ratio(np, s["error"] / n, power - (power / d_in) ** 2),
        "overcomplete_r2": 1 - ratio(np, s["error"], variance + n * ((mean - mean.mean()) ** 2).sum()),
        "openai_about_zero": 1 - ratio(np, s["error_ratio"], s["known"]),
        "cosine_similarity": s["cosine"] / n,
        "l2_ratio": ratio(np, s["norm_ratio"], s["known"]),
        "relative_reconstruction_bias": ratio(np, s["power_hat"], s["dot"]),
        "l0": counts.sum() / n,
        "l1": s["l1"] / n,
        "dead_fraction": dead_fraction(counts),
    }
    if "off_center" in s:
        numbers["mean_of_ratios_legacy"] = 1 - ratio(np, s["centered_ratio"], s["off_center"])
    return {"rows": n} | {name: float(value) for name, value in numbers.items()}


def _moments(x: Array) -> Moments:
    mean = x.mean(axis=0)  # (d_in,)
    return Moments(mean, ((x - mean) ** 2).sum(axis=0))


def _merge_moments(a: Moments, n_a: int, b: Moments, n_b: int) -> Moments:
    step = b.mean - a.mean  # (d_in,)
    n = n_a + n_b
    return Moments(a.mean + step * (n_b / n), a.m2 + b.m2 + step * step * (n_a * n_b / n))
