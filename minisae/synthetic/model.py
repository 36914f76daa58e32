"""The model of the data: made once from a seed."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from minisae.backend import Array
from minisae.errors import InputError
from minisae.streams import generator
from minisae.synthetic.dictionary import orthogonalise, random_dictionary
from minisae.synthetic.firing import Hierarchy, calibrate, correlation_factor, waves

MAGNITUDES = ("uniform", "constant", "exponential", "folded_normal", "relu_normal")
NEED_STD = ("folded_normal", "relu_normal")


class SyntheticModel(NamedTuple):
    """Everything that is needed to draw rows; see :func:`make`."""

    dictionary: Array
    """Unit rows, float32 ``(n_feat, d_in)``."""
    bias: Array
    """Float32 ``(d_in,)``."""
    p: Array
    """Share of rows in which each coefficient is positive ``(n_feat,)``."""
    proposal: Array
    """Firing probabilities before parents and siblings have their say ``(n_feat,)``."""
    factor: Array
    """Low-rank part of the copula's correlation matrix, float32 ``(n_feat, rank)``."""
    hierarchy: Hierarchy | None
    waves: list[Array]
    """The order in which dependent features are decided."""
    magnitude: str
    scale: Array
    """Float32 ``(n_feat,)``."""
    std: Array
    """Float32 ``(n_feat,)``; zeros where the magnitude has none."""
    noise: float

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return int(self.dictionary.shape[1])

    @property
    def n_feat(self) -> int:
        """Number of features."""
        return int(self.dictionary.shape[0])


def make(
    *,
    n_feat: int,
    d_in: int,
    seed: int,
    p: float | Array,
    orthogonal_steps: int = 0,
    orthogonal_lr: float = 0.01,
    correlation_rank: int = 0,
    correlation_scale: float = 0.1,
    hierarchy: Hierarchy | None = None,
    magnitude: str = "uniform",
    magnitude_scale: float | Array = 1.0,
    magnitude_std: float | Array | None = None,
    noise: float = 0.0,
    bias: float = 0.0,
) -> SyntheticModel:
    """Make a model of data with a known dictionary.

    Parameters
    ----------
    n_feat, d_in : number of features, width of a row
    seed : decides the dictionary, the correlations and the direction of the bias, each from its own generator
    p : share of rows in which each feature's coefficient is positive, one number or ``(n_feat,)``; see
        :func:`~minisae.synthetic.firing_probabilities` and :func:`~minisae.synthetic.given_parent`
    orthogonal_steps, orthogonal_lr : steps and rate of :func:`~minisae.synthetic.orthogonalise`; 0 steps leave a
        random dictionary
    correlation_rank, correlation_scale : of the copula's random factor; rank 0 makes proposals independent
    hierarchy : parents and exclusions; None for neither
    magnitude : of a feature that fires, with s = ``magnitude_scale`` and σ = ``magnitude_std``, numbers or
        ``(n_feat,)``: ``uniform`` s·U(0, 1], ``constant`` s, ``exponential`` s·Exp(1), ``folded_normal`` abs(s + σ·N),
        ``relu_normal`` max(0, s + σ·N)
    noise : standard deviation of the normal noise on each entry of x
    bias : norm of a constant vector of random direction that is added to x

    Raises
    ------
    InputError
        For a size, probability or name out of range, and for probabilities that the hierarchy cannot meet.
    """
    for name, least in {"n_feat": (n_feat, 1), "d_in": (d_in, 1), "seed": (seed, 0), "noise": (noise, 0)}.items():
        _at_least(name, *least)
    _at_least("orthogonal_steps", orthogonal_steps, 0)
    _at_least("correlation_rank", correlation_rank, 0)
    _at_least("bias", bias, 0)
    if hierarchy is not None and len(hierarchy.parent) != n_feat:
        raise InputError(f"hierarchy: expected {n_feat} parents, got {len(hierarchy.parent)}")
    wanted = _per_feature("p", p, n_feat, high=1)  # (n_feat,)
    scale, std = _magnitude_options(magnitude, magnitude_scale, magnitude_std, n_feat)
    parts = [generator(seed, "synthetic_model", i) for i in range(4)]
    dictionary = random_dictionary(n_feat, d_in, parts[0])  # (n_feat, d_in)
    if orthogonal_steps:
        dictionary = orthogonalise(dictionary, steps=orthogonal_steps, lr=orthogonal_lr)  # (n_feat, d_in)
    factor = correlation_factor(n_feat, rank=correlation_rank, scale=correlation_scale, rng=parts[1])  # (n_feat, rank)
    positive = ndtr(scale / np.maximum(std, 1e-30)) if magnitude == "relu_normal" else np.ones(n_feat)  # (n_feat,)
    return SyntheticModel(
        dictionary=dictionary,
        bias=bias * random_dictionary(1, d_in, parts[2])[0],
        p=wanted,
        proposal=calibrate(wanted, positive, factor, hierarchy, parts[3]),
        factor=factor,
        hierarchy=hierarchy,
        waves=[] if hierarchy is None else waves(hierarchy),
        magnitude=magnitude,
        scale=scale.astype(np.float32),
        std=std.astype(np.float32),
        noise=noise,
    )


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"{name}: expected a number from {least}, got {value}")


def _per_feature(name: str, value: float | Array, n_feat: int, *, high: float = np.inf) -> Array:
    """Return a number or an array ``(n_feat,)`` as a float64 array ``(n_feat,)``."""
    if np.shape(value) not in ((), (n_feat,)):
        raise InputError(f"{name}: expected a number or {n_feat} of them, got shape {np.shape(value)}")
    a = np.full(n_feat, value, np.float64)  # (n_feat,)
    if not ((a >= 0) & (a <= high)).all():
        raise InputError(f"{name}: expected values from 0 to {high}, got {a.min()} to {a.max()}")
    return a


def _magnitude_options(
    magnitude: str, scale: float | Array, std: float | Array | None, n_feat: int
) -> tuple[Array, Array]:
    """Return scale and deviation of the magnitudes, each ``(n_feat,)``."""
    if magnitude not in MAGNITUDES:
        raise InputError(f"magnitude: expected one of {', '.join(MAGNITUDES)}, got {magnitude!r}")
    if (std is not None) != (magnitude in NEED_STD):
        raise InputError(f"magnitude_std: expected it for {' and '.join(NEED_STD)} only, got {std} for {magnitude}")
    scales = _per_feature("magnitude_scale", scale, n_feat)  # (n_feat,)
    stds = _per_feature("magnitude_std", 0.0 if std is None else std, n_feat)  # (n_feat,)
    if not (scales + stds > 0).all():
        raise InputError("magnitude_scale: expected magnitudes that are not all zero, got 0 for a feature")
    return scales, stds
