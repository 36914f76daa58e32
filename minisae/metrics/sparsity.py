"""How sparse the code is, and which latents never fire. A latent fires in a row if its entry is not 0."""

from typing import NamedTuple

from minisae.backend import Array, namespace
from minisae.errors import InputError
from minisae.ops.code import Code, SparseCode


def l0(f: Code) -> float:
    """Return the mean number of latents that fire in a row; ``f`` is a code ``(n, d_sae)``, dense or sparse."""
    return float(firing_counts(f).sum()) / f.shape[0]


def l1(f: Code) -> float:
    """Return ``mean_i Σ_j |f_ij|``, in units of the code."""
    return float(abs(_entries(f)).sum(dtype="float64")) / f.shape[0]


def firing_counts(f: Code) -> Array:
    """Return in how many rows each latent fires: int64 ``(d_sae,)``. Counts of several chunks add up."""
    if isinstance(f, SparseCode):
        xp = namespace(f.columns)
        return xp.bincount(f.columns[f.values != 0], minlength=f.shape[1])
    return (f != 0).sum(axis=0)


def firing_density(f: Code) -> Array:
    """Return the share of rows in which each latent fires ``(d_sae,)``."""
    return firing_counts(f) / f.shape[0]


def dead_fraction(counts: Array) -> float:
    """Return the share of latents that are silent on the rows counted; ``counts`` or densities ``(d_sae,)``.

    Silent on these rows is all it says: on more rows it can only fall.
    """
    return float((counts == 0).sum()) / len(counts)


def share_above(density: Array, threshold: float) -> float:
    """Return the share of latents whose firing density ``(d_sae,)`` exceeds ``threshold`` (SAEBench: 0.01 and 0.1)."""
    return float((density > threshold).sum()) / len(density)


class DensityHistogram(NamedTuple):
    """Latents by the base-10 logarithm of their firing density."""

    counts: Array
    """Latents in each bin ``(bins,)``."""
    edges: Array
    """Ends of the bins in log10 density ``(bins+1,)``."""
    silent: int
    """Latents that never fire; they have no logarithm and are in no bin."""


def density_histogram(density: Array, *, bins: int = 50, low: float = -6.0) -> DensityHistogram:
    """Count latents by log10 of their firing density ``(d_sae,)``, from ``low`` to 0.

    Densities under ``10**low`` go into the lowest bin. Silent latents are counted apart, where other plots give them a
    density of 1e-10.
    """
    if bins < 1 or low >= 0:
        raise InputError(f"bins, low: expected at least 1 bin and a negative number, got {bins}, {low}")
    xp = namespace(density)
    fires = density > 0  # (d_sae,)
    logs = xp.log10(xp.where(fires, density, 1))  # (d_sae,)
    counts, edges = xp.histogram(xp.maximum(logs, low)[fires], bins=bins, range=(low, 0.0))
    return DensityHistogram(counts, edges, int((~fires).sum()))


def _entries(f: Code) -> Array:
    return f.values if isinstance(f, SparseCode) else f
