"""Taking features out of superposition: rows from a known dictionary, and which λ and width find it.

Sharkey, Braun and Millidge 2022, "Taking features out of superposition with sparse autoencoders" (interim report,
Alignment Forum). Features fire with p_j ∝ decay^j, ``active`` of them in the mean, magnitudes U[0, 1]; a row without
any gets one at 1. A dictionary is scored by MMCS: the mean over true features of the largest cosine of a latent.

Departures from the report: fewer dimensions; the decoder starts as random unit rows, the encoder as its transpose, and
rows are renormalised after each step. Letters: instances i, rows n, d_in, n_feat, λs l, widths w.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from minisae import metrics
from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.sae import relu
from minisae.streams import generator
from minisae.synthetic import random_dictionary
from toy_models import geometry, models, train
from toy_models.data import Batch, Data, Draw, independent
from toy_models.experiments import saes
from toy_models.models import Params

LARGER = models.Config(n_feat=64, n_hid=24)
DENSITY = 0.05
"""A toy larger than the pentagon, all importances 1: more features than antipodal pairs would hold."""


def densities(n_feat: int, active: float, *, decay: float = 0.99) -> np.ndarray:
    """Return p_j ∝ decay^j with a sum of ``active``, ``(n_feat,)``.

    Raises
    ------
    InputError
        If a size makes no sense, or the first feature would need more than probability 1.
    """
    check_number("n_feat", n_feat, least=1, whole=True)
    if not (active > 0 and 0 < decay <= 1):
        raise InputError(f"active, decay: expected numbers above 0, decay at most 1, got {active}, {decay}")
    share = decay ** np.arange(n_feat)  # (n_feat,)
    p: np.ndarray = active * share / share.sum()  # (n_feat,)
    if p[0] > 1:
        raise InputError(f"active: expected at most {1 / (p[0] / active):.3g} for this decay, got {active}")
    return p


def random_correlation(n_feat: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random correlation matrix ``(n_feat, n_feat)``: (U + Uᵀ)/2 plus what makes it positive, diagonal 1.

    The public replication (HoagyC/sparse_coding) leaves the diagonal larger than 1.
    """
    check_number("n_feat", n_feat, least=1, whole=True)
    u = rng.random((n_feat, n_feat))  # (n_feat, n_feat)
    c = (u + u.T) / 2  # (n_feat, n_feat)
    c -= min(0.0, 1.001 * float(np.linalg.eigvalsh(c)[0])) * np.eye(n_feat)
    size = np.sqrt(np.diag(c))  # (n_feat,)
    return np.asarray(c / np.outer(size, size))


def features(n_feat: int, active: float, *, decay: float = 0.99, correlation: Array | None = None) -> Data:
    """Return the report's distribution of coefficients, for any number of instances.

    Parameters
    ----------
    n_feat, active, decay : as in :func:`densities`
    correlation : ``(n_feat, n_feat)``, for features that fire together: for each row z ~ N(0, C), and
        p_j ∝ Φ(z_j) · decay^j with a sum of ``active`` (a p_j above 1 counts as 1). The public replication draws one z
        for a whole batch, within which features are then independent.
    """
    p = densities(n_feat, active, decay=decay)  # (n_feat,)
    root = None if correlation is None else _root(correlation, n_feat)  # (n_feat, n_feat), if any

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        shape = (part.stop - part.start, n, n_feat)
        x = np.empty(shape, dtype)  # (i, n, n_feat)

        def draw(rng: np.random.Generator) -> Batch:
            rng.random(out=x, dtype=dtype)
            chance = p if root is None else _tilted(p, root, rng.standard_normal(shape, np.float32))  # (..., n_feat)
            x[rng.random(shape, dtype=np.float32) >= chance.astype(np.float32)] = 0
            empty = np.nonzero(~x.any(axis=2))
            x[(*empty, rng.integers(n_feat, size=len(empty[0])))] = 1
            return Batch(x)

        return draw

    return Data(n_feat, 1, sampler)


def _root(correlation: Array, n_feat: int) -> np.ndarray:
    """Return R with C = R Rᵀ, float32 ``(n_feat, n_feat)``, of a correlation matrix, checked."""
    c = np.asarray(correlation, np.float64)  # (n_rows, n_columns)
    if c.shape != (n_feat, n_feat) or not np.allclose(c, c.T) or not np.allclose(np.diag(c), 1):
        raise InputError(f"correlation: expected a symmetric ({n_feat}, {n_feat}) with diagonal 1, got {c.shape}")
    size, axes = np.linalg.eigh(c)
    if size[0] < -1e-8:
        raise InputError(f"correlation: expected no negative eigenvalue, got {size[0]:.3g}")
    return np.asarray(axes * np.sqrt(np.maximum(size, 0)), np.float32)


def _tilted(p: np.ndarray, root: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return each row's own probabilities ``(i, n, n_feat)`` for independent normal ``z (i, n, n_feat)``."""
    chance = ndtr(z @ root.T) * p  # (i, n, n_feat)
    return np.asarray(chance * (p.sum() / chance.sum(axis=2, keepdims=True)))


class Map(NamedTuple):
    """λ × width: how well each autoencoder does. ``(w, l)`` unless told."""

    l1: np.ndarray
    """λ ``(l,)``."""
    widths: np.ndarray
    """Latents ``(w,)``."""
    mmcs: np.ndarray
    """Mean over true features of the largest cosine of a latent."""
    matched: np.ndarray
    """Mean cosine of the best one-to-one matching."""
    l0: np.ndarray
    """Mean number of active latents a row."""
    fvu: np.ndarray
    """Error over variance."""
    silent: np.ndarray
    """Share of latents that never fire."""
    random: np.ndarray
    """MMCS of a random dictionary of that width ``(w,)``."""
    true_l0: float
    """Mean number of features a row, of those that are looked for."""


def recovery_map(
    dictionary: Array,
    data: Data,
    *,
    l1: Sequence[float],
    widths: Sequence[int],
    steps: int = 10_000,
    batch_size: int = 512,
    lr: float = 1e-3,
    test_rows: int = 20_000,
    scored: Array | None = None,
    seed: int = 0,
) -> Map:
    """Train an autoencoder for every λ and width on rows ``f D``, and compare its decoder with D.

    All λs of a width are instances of one training and see the same rows. The loss is the squared error, summed over
    d_in, plus λ‖f‖₁; there is no decoder bias, as in the report.

    Parameters
    ----------
    dictionary : D ``(n_feat, d_in)``
    data : coefficients f, as from :func:`features`
    l1, widths : λs and numbers of latents
    steps, batch_size, lr : of Adam
    test_rows : fresh rows on which L0 and FVU are measured
    scored : bool ``(n_feat,)``, the features to look for; by default all
    seed : start of every random stream

    Raises
    ------
    InputError
        If a shape or a number makes no sense.
    """
    dictionary = to_host(dictionary)  # (n_feat, d_in)
    wanted = _wanted(scored, len(dictionary))  # (n_feat,)
    truth = dictionary[wanted]  # (n_wanted, d_in)
    if not len(l1) or not len(widths):
        raise InputError(f"l1, widths: expected at least one of each, got {len(l1)} and {len(widths)}")
    for width in widths:
        check_number("widths", width, least=1, whole=True)
    rows = saes.dictionary_rows(dictionary, data, batch_size)
    test = saes.dictionary_rows(dictionary, data, test_rows)(generator(seed, "toy_test"))  # (1, n, d_in)
    f_true = data.sampler(slice(0, 1), test_rows, np.dtype(np.float32))(generator(seed, "toy_test")).x  # (1, n, n_feat)
    scores, random = [], []
    for at, width in enumerate(widths):
        cfg = relu.Config(dictionary.shape[1], int(width), l1=1.0, subtract_b_dec=False)
        trained = saes.train(
            "relu", cfg, rows, steps=steps, instances=len(l1), lr=lr, l1_factor=l1, frozen=("b_dec",), seed=seed
        )
        scores.append(saes.score(trained, truth, test))
        random.append(random_mmcs(truth, int(width), generator(seed, "random_directions", at)))
    columns = {
        name: np.stack([getattr(s, name) for s in scores]) for name in ("mmcs", "matched", "l0", "fvu", "silent")
    }
    true_l0 = float((f_true[..., wanted] != 0).sum(axis=2).mean())
    return Map(np.asarray(l1, float), np.asarray(widths), random=np.array(random), true_l0=true_l0, **columns)


def _wanted(scored: Array | None, n_feat: int) -> np.ndarray:
    """Return which features to look for, bool ``(n_feat,)``, checked."""
    wanted = np.ones(n_feat, bool) if scored is None else to_host(scored)  # (n_feat,)
    if wanted.shape != (n_feat,) or wanted.dtype != bool or not wanted.any():
        raise InputError(f"scored: expected bool ({n_feat},) with one or more True, got {wanted.dtype} {wanted.shape}")
    return wanted


def toy(*, steps: int = 4000, batch_size: int = 512, lr: float = 2e-3, seed: int = 0) -> Params:
    """Return a trained toy of 64 features in 24 dimensions, one instance ``(1, …)``; density 0.05, importance 1."""
    features = independent(DENSITY, n_feat=LARGER.n_feat)
    return train.train(LARGER, features, steps=steps, batch_size=batch_size, lr=lr, instances=1, seed=seed).params


def toy_map(
    params: Params,
    *,
    l1: Sequence[float],
    widths: Sequence[int] = (LARGER.n_feat,),
    steps: int = 3000,
    batch_size: int = 512,
    lr: float = 3e-3,
    test_rows: int = 20_000,
    seed: int = 0,
) -> Map:
    """Return which λ and width find the features of a trained toy in its hidden activations ``h = W x``.

    The dictionary of :func:`recovery_map` is the columns of W with their norms. What is looked for is the features that
    the toy has learned (:func:`toy_models.geometry.learned`).

    Parameters
    ----------
    params : of the :func:`toy`
    l1, widths, steps, batch_size, lr, test_rows, seed : as in :func:`recovery_map`
    """
    if len(params["W"]) != 1 or params["W"].shape[2] != LARGER.n_feat:
        raise InputError(f"params: expected W of shape (1, n_hid, {LARGER.n_feat}), got {params['W'].shape}")
    W = to_host(params["W"])[0]  # (n_hid, n_feat)
    return recovery_map(
        W.T, independent(DENSITY, n_feat=LARGER.n_feat), l1=l1, widths=widths, steps=steps, batch_size=batch_size,
        lr=lr, test_rows=test_rows, scored=geometry.learned(W), seed=seed,
    )  # fmt: skip


def random_mmcs(truth: Array, width: int, rng: np.random.Generator, *, draws: int = 10) -> float:
    """Return the mean MMCS of random unit dictionaries of ``width`` rows: what a score has to beat."""
    if width < 1 or draws < 1:
        raise InputError(f"width, draws: expected at least 1, got {width} and {draws}")
    d_in = truth.shape[1]
    return float(np.mean([metrics.mmcs(truth, random_dictionary(width, d_in, rng)) for _ in range(draws)]))


class Comparison(NamedTuple):
    """Ways to compare two dictionaries."""

    found: float
    """MMCS, mean over true features: a latent between two features serves both."""
    real: float
    """MMCS the other way, mean over latents: copies of one feature count each."""
    matched: float
    """One-to-one: each feature and each latent counts once."""


def compare(truth: Array, learned: Array) -> Comparison:
    """Return MMCS both ways beside the one-to-one matched cosine, for ``(n_feat, d_in)`` and ``(d_sae, d_in)``."""
    return Comparison(
        metrics.mmcs(truth, learned), metrics.mmcs(learned, truth), metrics.matched_cosine(truth, learned)
    )


def duplicated(truth: Array, *, copies: int = 1) -> np.ndarray:
    """Return ``truth (n_feat, d_in)`` with its last ``copies`` rows replaced by its first: the double counting of MMCS.

    With orthonormal rows the mean over latents stays at 1, while the one-to-one matching falls to
    ``1 − copies / n_feat``.
    """
    if not 0 <= copies < len(truth):
        raise InputError(f"copies: expected 0 to {len(truth) - 1}, got {copies}")
    learned = np.array(truth)  # (n_feat, d_in)
    learned[len(truth) - copies :] = truth[0]
    return learned
