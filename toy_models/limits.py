"""What no sparse code can beat: bounds from compressed sensing, an oracle, shrinkage, and how capacity is best spent.

A frame is ``W (n_hid, n_feat)``, a feature being a column. Worst-case bounds (coherence, spark) are far from what
codes do on average, as their docstrings say; the oracle and the shrinkage floor are exact for orthonormal features.
Coherence itself is :func:`toy_models.geometry.coherence`, its least value :func:`minisae.metrics.welch_bound`.
"""

from itertools import combinations, islice
from math import comb, floor, inf, nextafter

import numpy as np

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models.geometry import frame
from toy_models.polygons import lower_hull

SUBSETS = 2_000_000
"""Sets of columns that :func:`spark` looks at before it gives up."""


def spark(W: Array, *, tolerance: float = 1e-10) -> int:
    """Return the least number of columns of ``W`` that are linearly dependent; ``n_feat + 1`` if none are.

    Donoho and Elad 2003. Every set of up to rank W columns is tried, for no faster way is known: sets of s columns are
    dependent if their smallest singular value is below ``tolerance`` times the largest of W.

    Raises
    ------
    InputError
        If there are more than ``SUBSETS`` sets to try.
    """
    W = np.asarray(frame(to_host(W), batched=False), dtype=np.float64)  # (n_hid, n_feat)
    n_feat = W.shape[1]
    scale = np.linalg.norm(W, 2)  # ()
    rank = int(np.linalg.matrix_rank(W, tol=tolerance * scale))
    if sum(comb(n_feat, size) for size in range(1, rank + 1)) > SUBSETS:
        raise InputError(
            f"W: expected a frame with at most {SUBSETS} sets of up to {rank} columns, got {n_feat} columns"
        )
    for size in range(1, rank + 1):
        subsets = combinations(range(n_feat), size)
        while chosen := list(islice(subsets, 4096)):
            blocks = np.moveaxis(W[:, np.array(chosen)], 0, 1)  # (sets, n_hid, size)
            if (np.linalg.svd(blocks, compute_uv=False)[:, -1] <= tolerance * scale).any():
                return size
    return rank + 1


def sparsity_guarantee(coherence: float) -> int:
    """Return the largest k for which coherence alone proves every k-sparse code unique: ``k < (1 + 1/μ)/2``.

    Donoho and Elad 2003, Gribonval and Nielsen 2003; ℓ1 minimisation and matching pursuit then find it too. A worst
    case: 64 random directions in 32 dimensions have μ ≈ 0.54 and so k = 1, while SAEs on them work with 3 active.
    """
    if not 0 <= coherence <= 1 + 1e-9:
        raise InputError(f"coherence: expected a number in [0, 1], got {coherence}")
    return _below((1 + 1 / coherence) / 2) if coherence else 2**63 - 1


def spark_guarantee(spark: int) -> int:
    """Return the largest k for which every k-sparse code is unique: ``2k < spark``, exactly (Donoho and Elad 2003)."""
    check_number("spark", spark, least=1, whole=True)
    return _below(spark / 2)


def _below(bound: float) -> int:
    """Return the largest whole number below the bound, equal up to rounding not being below."""
    return floor(nextafter(bound - 1e-12 * bound, -inf))


def oracle_fvu(n_active: int, kept: Array) -> Array:
    """Return the least FVU, over the uncentred energy, of a code that keeps the best ``kept`` of ``n_active`` features.

    ``(K−k)(K−k+1)(K−k+2)/(K(K+1)(K+2))`` for orthonormal features, always K active with magnitudes U[0, 1]. The oracle
    drops the smallest: the j-th smallest has ``E[x²] = j(j+1)/((K+1)(K+2))``, the sum over j ≤ K−k is telescopic, and
    all together have K/3. A code of correlated features goes below it by mixing them: then look at its dictionary.
    """
    check_number("n_active", n_active, least=1, whole=True)
    k = np.asarray(to_host(kept), dtype=np.float64)  # (...,)
    if not np.all((k >= 0) & (k <= n_active)):
        raise InputError(f"kept: expected numbers from 0 to n_active, {n_active}, got {kept}")
    left = n_active - k  # (...,)
    return left * (left + 1) * (left + 2) / (n_active * (n_active + 1) * (n_active + 2))


def shrinkage_floor(l1: Array) -> Array:
    """Return the FVU, uncentred, of the best code under ``‖x − x̂‖² + λ Σ f``: orthonormal features, magnitudes U[0, 1].

    ``(x − f)² + λf`` is least at ``f = ReLU(x − s)``, ``s = λ/2``. The error ``∫₀ˢ x² + ∫ₛ¹ s² = s² − 2s³/3`` over 1/3
    is ``3s²(1 − 2s/3)``; from s = 1 on nothing is left of the code, and it is 1.
    """
    lam = np.asarray(to_host(l1), dtype=np.float64)  # (...,)
    if not np.all(lam >= 0):
        raise InputError(f"l1: expected numbers from 0, got {l1}")
    s = np.minimum(lam / 2, 1)  # (...,)
    return 3 * s * s * (1 - 2 * s / 3)


def readout_loss(capacity: Array) -> Array:
    """Return ``1 − C``: the share of its variance that feature i loses when read along its own direction.

    ``C_i = ‖W_i‖⁴ / Σ_j (W_i·W_j)²`` is the capacity of Scherlis et al. 2022 ("Polysemanticity and capacity in neural
    networks") and the dimensionality of Elhage et al. The best multiple α of ``W_i·Wx`` has, for independent features
    of equal variance, error ``1 − 2α‖W_i‖² + α² Σ_j (W_i·W_j)²``, least 1 − C. Linear in C: no superposition pays.
    """
    return 1 - _capacity(capacity)


def square_readout_loss(capacity: Array, kurtosis: float) -> Array:
    """Return the share of the variance of ``x_i²`` lost when read as ``α(W_i·Wx)² + β``; x symmetric, independent.

    ``2(1 − C²)/(2 + (κ − 3)C²)``, κ being ``E[x⁴]/E[x²]²`` (9/(5p) for U[−1, 1] at density p). With ``g = W_i·Wx`` and
    σ = 1, ``Cov(x_i², g²) = ‖W_i‖⁴(κ − 1)`` and ``Var g² = (κ − 3)Σ_j(W_i·W_j)⁴ + 2(Σ_j(W_i·W_j)²)²``; interference is
    taken as spread over many features, so that the sum of fourth powers is ``‖W_i‖⁸``. Concave at κ = 3, where
    superposition does not pay; at high kurtosis most is gained early, and many features share: the conclusion of
    Scherlis et al. 2022, whose own model is another.
    """
    C = _capacity(capacity)  # (...,)
    if not kurtosis >= 1:
        raise InputError(f"kurtosis: expected a number from 1, got {kurtosis}")
    return 2 * (1 - C * C) / (2 + (kurtosis - 3) * C * C)


def allocate_capacity(losses: Array, total: float) -> tuple[Array, float]:
    """Return how capacity is best shared: ``C (n_feat,)`` with ``ΣC ≤ total``, and the marginal value of more of it.

    Scherlis et al. 2022: where a feature is represented in part, one more unit of capacity must reduce the loss as much
    as anywhere else; ignored features would gain less, whole ones (C = 1) more. ``losses (n_feat, grid)``
    are those of each feature at capacities ``linspace(0, 1, grid)``. Each row is replaced by its lower convex hull,
    whose pieces are bought steepest first; a piece of a concave row is bought as a whole if the budget lasts, so at
    most one feature ends between two corners of its hull. Ties go to the lower index.
    """
    losses = np.asarray(to_host(losses), dtype=np.float64)  # (...,), (n_feat, grid) if it is right
    if losses.ndim != 2 or losses.shape[1] < 2 or not np.isfinite(losses).all() or not total >= 0:
        raise InputError(
            f"losses, total: expected (n_feat, grid ≥ 2), finite, and total ≥ 0, got {losses.shape}, {total}"
        )
    grid = np.linspace(0, 1, losses.shape[1])  # (grid,)
    pieces = []
    for i, row in enumerate(losses):
        corners = lower_hull(grid, row)
        slopes = np.diff(row[corners]) / np.diff(grid[corners])  # (pieces,)
        pieces += [(slope, i, width) for slope, width in zip(slopes, np.diff(grid[corners]), strict=True) if slope < 0]
    C = np.zeros(len(losses))  # (n_feat,)
    for slope, i, width in sorted(pieces):
        left = total - float(C.sum())
        C[i] += min(width, left)
        if left < width - 1e-12:
            return C, -float(slope)
    return C, 0.0


def _capacity(capacity: Array) -> Array:
    C = np.asarray(to_host(capacity), dtype=np.float64)  # (...,)
    if not np.all((C >= 0) & (C <= 1 + 1e-9)):
        raise InputError(f"capacity: expected numbers in [0, 1], got {capacity}")
    return C
