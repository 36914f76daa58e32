"""A k below the number of features that are on: the latents mix correlated features, and the error gets *smaller*.

Chanin and Garriga-Alonso 2025, "Sparse but wrong: incorrect L0 leads to incorrect features in sparse autoencoders",
arXiv:2508.16560. Five orthonormal features, each on with probability 0.4, so two in the mean; feature 0 is correlated
with every other. BatchTopK starts at the truth and is trained with k too low, right, or too high. Two numbers that need
no truth tell them apart: ``c_dec``, the mean |cosine| of decoder rows, and the n-th decoder projection.

Letters: instances i, rows n, d_in, d_sae, n_feat, values of k t.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.sae import batch_topk
from minisae.streams import generator
from toy_models.data import Batch, Data, Draw, check_density
from toy_models.experiments import saes
from toy_models.experiments.absorption import cosines, orthonormal
from toy_models.models import Params

N_FEAT, DENSITY = 5, 0.4
TRUE_L0 = N_FEAT * DENSITY
"""Features that are on in a row, in the mean."""


def star(n_feat: int, correlation: float) -> np.ndarray:
    """Return the correlation matrix ``(n_feat, n_feat)`` in which feature 0 has this one with each other, they none.

    It has no negative eigenvalue while ``|correlation| ≤ 1/√(n_feat − 1)``.
    """
    check_number("n_feat", n_feat, least=1, whole=True)
    c = np.eye(n_feat)  # (n_feat, n_feat)
    c[0, 1:] = c[1:, 0] = correlation
    return c


def copula(density: Any, correlation: Array, *, mean: float = 1.0, std: float = 0.15) -> Data:
    """Return features that fire together through a Gaussian copula: j fires where z_j > Φ⁻¹(1 − p_j), z ~ N(0, C).

    Parameters
    ----------
    density : p, a number or ``(n_feat,)``
    correlation : C ``(n_feat, n_feat)``; the correlation of the events is a little nearer to 0
    mean, std : of the normal magnitudes; below 0 they count as 0
    """
    c = np.asarray(correlation, np.float64)  # (n_rows, n_columns)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not np.allclose(c, c.T) or not np.allclose(np.diag(c), 1):
        raise InputError(f"correlation: expected a symmetric matrix with diagonal 1, got shape {c.shape}")
    least = float(np.linalg.eigvalsh(c)[0])
    if least <= 0:
        raise InputError(f"correlation: expected positive eigenvalues, got {least:.3g}")
    check_number("mean", mean, least=-sys.float_info.max)
    check_number("std", std, least=0)
    p = check_density("density", density, len(c))  # (1, n_feat)
    if len(p) != 1:
        raise InputError(f"density: expected one distribution, got {len(p)}")
    bound = -ndtri(p[0]).astype(np.float32)  # (n_feat,)
    root = np.linalg.cholesky(c).astype(np.float32)  # (n_feat, n_feat)

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        shape = (part.stop - part.start, n, len(c))

        def draw(rng: np.random.Generator) -> Batch:
            on = rng.standard_normal(shape, np.float32) @ root.T > bound  # (i, n, n_feat)
            x = mean + std * rng.standard_normal(shape, np.float32)  # (i, n, n_feat)
            return Batch((np.maximum(x, 0) * on).astype(dtype, copy=False))

        return draw

    return Data(len(c), 1, sampler)


def truth_start(dictionary: Array) -> Params:
    """Return one instance's parameters ``(1, …)`` at the truth: decoder rows and encoder columns are the features."""
    D = to_host(dictionary).astype(np.float32)  # (n_feat, d_in)
    if D.ndim != 2 or not D.size or not np.isfinite(D).all():
        raise InputError(f"dictionary: expected (n_feat, d_in) of finite numbers, got shape {D.shape}")
    n_feat, d_in = D.shape
    return {
        "W_enc": D.T[None].copy(),
        "b_enc": np.zeros((1, n_feat), np.float32),
        "W_dec": D[None].copy(),
        "b_dec": np.zeros((1, d_in), np.float32),
        "threshold": np.full((1, n_feat), -1, np.float32),
    }


def decoder_overlap(W_dec: Array) -> np.ndarray:
    """Return ``c_dec``, the mean |cosine| of two decoder rows, of each instance: ``(i, d_sae, d_in) -> (i,)``.

    Low where latents are features that are nearly orthogonal; mixing raises it.
    """
    if W_dec.ndim != 3 or W_dec.shape[1] < 2:
        raise InputError(f"W_dec: expected (instances, 2 or more latents, d_in), got shape {W_dec.shape}")
    rows = to_host(W_dec)  # (i, d_sae, d_in)
    size = np.sqrt(np.square(rows).sum(axis=2, keepdims=True))  # (i, d_sae, 1)
    if not (np.isfinite(size) & (size > 0)).all():
        raise InputError("W_dec: expected finite rows that are not zero")
    unit = rows / size  # (i, d_sae, d_in)
    overlap = abs(unit @ unit.swapaxes(1, 2))  # (i, d_sae, d_sae)
    d_sae = W_dec.shape[1]
    own = np.trace(overlap, axis1=1, axis2=2)  # (i,)
    return np.asarray((overlap.sum(axis=(1, 2)) - own) / (d_sae * (d_sae - 1)))


def nth_projection(params: Params, x: Array, n_th: int) -> np.ndarray:
    """Return the n-th largest of ``(x − b_dec) · W_dec,j`` over latents j, mean over rows: ``(i,)``.

    With n above the number of features that are on, what is projected is interference, and mixing raises it. It also
    moves with ``b_dec``. ``x`` is ``(i, n, d_in)``, or (1, n, d_in) for all.
    """
    W_dec, b_dec, rows = (to_host(a) for a in (params["W_dec"], params["b_dec"], x))
    d_sae = W_dec.shape[1]
    check_number("n_th", n_th, least=1, most=d_sae, whole=True)
    if rows.ndim != 3 or rows.shape[2] != W_dec.shape[2] or len(rows) not in (1, len(W_dec)):
        raise InputError(f"x: expected (1 or {len(W_dec)}, n, d_in = {W_dec.shape[2]}), got shape {rows.shape}")
    projection = (rows - b_dec[:, None]) @ W_dec.swapaxes(1, 2)  # (i, n, d_sae)
    return np.asarray(np.partition(projection, d_sae - n_th, axis=2)[..., d_sae - n_th].mean(axis=1))


class Wrong(NamedTuple):
    """What training from the truth made of it for each k, means over instances ``(t,)``."""

    k: np.ndarray
    """Active latents a row."""
    cosine: np.ndarray
    """Mean cosine of the latents 1 … with feature 0; 0 at the truth."""
    learned_mse: np.ndarray
    """‖x − x̂‖² of what was learned."""
    truth_mse: np.ndarray
    """The same of the truth, with the same k and rows."""
    overlap: np.ndarray
    """``c_dec``."""
    projection: np.ndarray
    """n-th decoder projection."""


def sweep(
    correlation: float,
    *,
    k: Sequence[float] = (1.8, 2.0, 2.2),
    d_in: int = 20,
    instances: int = 1,
    steps: int = 6000,
    batch_size: int = 512,
    lr: float = 1e-3,
    n_th: int = 4,
    test_rows: int = 20_000,
    seed: int = 0,
) -> Wrong:
    """Train BatchTopK from the truth for every k, and compare the result with the truth at the same k.

    Errors are those of the training code, which chooses k·n entries of the whole batch of ``test_rows``.

    Parameters
    ----------
    correlation : of feature 0 with each other, in the copula
    k : active latents a row, on average
    d_in : width of the dictionary
    instances : repetitions with other rows
    steps, batch_size, lr : of Adam
    n_th : which decoder projection
    test_rows : fresh rows on which everything is measured
    seed : start of every random stream
    """
    if not len(k):
        raise InputError("k: expected at least one, got none")
    dictionary = orthonormal(N_FEAT, d_in, generator(seed, "toy_frames"))  # (n_feat, d_in)
    data = copula(DENSITY, star(N_FEAT, correlation))
    rows = saes.dictionary_rows(dictionary, data, batch_size, instances=instances)
    x = saes.dictionary_rows(dictionary, data, test_rows)(generator(seed, "toy_test"))  # (1, n, d_in)
    truth, found = truth_start(dictionary), []
    for one in k:
        cfg = batch_topk.Config(d_in, N_FEAT, k=one)
        trained = saes.train(
            "batch_topk", cfg, rows, steps=steps, instances=instances, lr=lr, decay="quarter_cosine", params=truth,
            seed=seed,
        )  # fmt: skip
        W_dec = trained.params["W_dec"]  # (i, d_sae, d_in)
        mixed = np.mean([cosines(W[1:], dictionary[:1]).mean() for W in W_dec])
        found.append((
            one, mixed, training_mse(trained.params, x, cfg).mean(), training_mse(truth, x, cfg).mean(),
            decoder_overlap(W_dec).mean(), nth_projection(trained.params, x, n_th).mean(),
        ))  # fmt: skip
    return Wrong(*(np.array(column) for column in zip(*found, strict=True)))


def training_mse(params: Params, x: Array, cfg: batch_topk.Config) -> np.ndarray:
    """Return each instance's squared error ``(i,)``, summed over d_in, when k·n entries of all rows are kept."""
    error = x - batch_topk.forward(params, x, cfg)[0].x_hat  # (i, n, d_in)
    return to_host((error * error).sum(axis=2).mean(axis=1))
