"""Rows from a synthetic model, and the training source made of them."""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from minisae.backend import Array
from minisae.errors import InputError
from minisae.ops import decode, relu
from minisae.streams import generator
from minisae.synthetic.firing import Hierarchy
from minisae.synthetic.model import SyntheticModel


class Sample(NamedTuple):
    """Rows and the truth behind them."""

    x: Array
    """Float32 ``(n, d_in)``."""
    f: Array
    """The coefficients they were made of, float32 ``(n, n_feat)``."""


def sample(model: SyntheticModel, n: int, rng: np.random.Generator) -> Sample:
    """Draw ``n`` rows ``x = f W + bias + noise`` and return them with their coefficients ``f``.

    Raises
    ------
    InputError
        If ``n`` is less than 1.
    """
    if n < 1:
        raise InputError(f"n: expected a whole number from 1, got {n}")
    f = np.zeros((n, model.n_feat), np.float32)  # (n, n_feat)
    flat = f.reshape(-1)  # (n*n_feat,), a view
    where = _propose(model, n, rng)  # (n_proposed,)
    values = _magnitudes(model, where % model.n_feat, rng)  # (n_proposed,)
    if model.hierarchy is None:
        flat[where] = values
    else:
        stands = _allowed(model, model.hierarchy, where, values, n)  # (n_proposed,)
        where = where[stands]  # (nnz,)
        flat[where] = values[stands]
        if model.hierarchy.scale_by_parent:
            flat[where] = _scale_by_ancestors(model, model.hierarchy, where, f)
    x = decode(relu(f), model.dictionary)  # (n, d_in)
    x += model.bias
    if model.noise:
        x += np.float32(model.noise) * rng.standard_normal(x.shape, np.float32)
    return Sample(x, f)


class SyntheticSource(NamedTuple):
    """An endless source of training rows from a synthetic model."""

    model: SyntheticModel
    rows: int | None = None
    """None: there is no end."""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self.model.d_in

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield float32 ``(batch_size, d_in)`` batches for ever, from batch number ``start``.

        Each batch comes from a generator of its own, made from ``(seed, batch number)``: resuming replays nothing.

        Raises
        ------
        InputError
            If ``batch_size`` is less than 1, or ``seed`` or ``start`` negative.
        """
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("start", start, 0)):
            if value < least:
                raise InputError(f"{name}: expected a whole number from {least}, got {value}")
        return (sample(self.model, batch_size, generator(seed, "synthetic_batch", index)).x for index in count(start))


def _propose(model: SyntheticModel, n: int, rng: np.random.Generator) -> Array:
    """Return the flat positions ``(nnz,)``, ascending, at which features are proposed."""
    if not model.factor.shape[1]:
        return _propose_independent(model, n, rng)
    factor = model.factor  # (n_feat, rank)
    z = rng.standard_normal((n, model.n_feat), np.float32)  # (n, n_feat)
    z *= np.sqrt(1 - (factor * factor).sum(axis=1))
    z += rng.standard_normal((n, factor.shape[1]), np.float32) @ factor.T
    return np.flatnonzero(z > -ndtri(model.proposal).astype(np.float32))


def _propose_independent(model: SyntheticModel, n: int, rng: np.random.Generator) -> Array:
    """Thin in two stages, exactly: one random byte an entry, then a finer draw for the few that are left.

    A feature passes the first stage with the next multiple of 1/256 above its probability.
    """
    level = np.clip(np.ceil(model.proposal * 256), 1, 256)  # (n_feat,)
    words = rng.integers(2**64, size=-(-n * model.n_feat // 8), dtype=np.uint64)  # (m,)
    draws = words.view(np.uint8)[: n * model.n_feat].reshape(n, model.n_feat)  # (n, n_feat)
    where = np.flatnonzero(draws <= (level - 1).astype(np.uint8))  # (nnz,), before the second stage
    accept = (model.proposal * 256 / level).astype(np.float32)  # (n_feat,)
    return where[rng.random(len(where), np.float32) < accept[where % model.n_feat]]


def _magnitudes(model: SyntheticModel, features: Array, rng: np.random.Generator) -> Array:
    """Draw one magnitude for each entry of ``features (nnz,)``: float32 ``(nnz,)``."""
    nnz, scale = len(features), model.scale[features]
    if model.magnitude == "constant":
        return scale
    if model.magnitude == "uniform":
        return scale * (1 - rng.random(nnz, np.float32))
    if model.magnitude == "exponential":
        return scale * rng.standard_exponential(nnz, np.float32)
    normal = scale + model.std[features] * rng.standard_normal(nnz, np.float32)  # (nnz,)
    return np.abs(normal) if model.magnitude == "folded_normal" else np.maximum(normal, 0)


def mean_magnitude(model: SyntheticModel) -> Array:
    """Return each feature's mean coefficient over the rows in which it is positive ``(n_feat,)``."""
    mean, std = model.scale.astype(np.float64), np.maximum(model.std, 1e-30).astype(np.float64)
    if model.magnitude == "uniform":
        return mean / 2
    if model.magnitude in ("constant", "exponential"):
        return mean
    ratio = mean / std  # (n_feat,)
    density = std * np.exp(-ratio * ratio / 2) / np.sqrt(2 * np.pi)  # (n_feat,)
    if model.magnitude == "folded_normal":
        return 2 * density + mean * (2 * ndtr(ratio) - 1)
    return mean + density / ndtr(ratio)


def _allowed(model: SyntheticModel, hierarchy: Hierarchy, where: Array, values: Array, n: int) -> Array:
    """Return which proposals ``(nnz,)`` are positive and stand: their parent does, and no earlier exclusive sibling."""
    rows, columns = np.divmod(where, model.n_feat)
    fires = np.zeros((model.n_feat + 1, n), bool)  # (n_feat+1, n), the last row stands above the roots
    fires[columns, rows] = values > 0
    fires[-1] = True
    free = fires.copy()  # (n_feat+1, n), and no exclusive child fires yet
    for c in model.waves:
        up, alone = hierarchy.parent[c], hierarchy.exclusive[c]
        fires[c] &= np.where(alone[:, None], free[up], fires[up])
        free[c] = fires[c]
        free[up[alone]] &= ~fires[c[alone]]
    return fires[columns, rows]


def _scale_by_ancestors(model: SyntheticModel, hierarchy: Hierarchy, where: Array, f: Array) -> Array:
    """Return the values ``(nnz,)`` of ``f (n, n_feat)`` at ``where``, times each ancestor's value over its mean.

    That is a child's own magnitude times its parent's scaled coefficient over the parent's mean, level after level.
    """
    mean = np.append(mean_magnitude(model), 1).astype(np.float32)  # (n_feat+1,)
    parent = np.append(hierarchy.parent, -1)  # (n_feat+1,)
    rows, columns = np.divmod(where, model.n_feat)
    values = f[rows, columns]  # (nnz,)
    up = parent[columns]  # (nnz,)
    while (up >= 0).any():
        values *= np.where(up >= 0, f[rows, up] / mean[up], 1)
        up = parent[up]  # (nnz,)
    return values
