"""Bounds that no code beats, on frames whose answer is known and on random ones."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from minisae.errors import InputError
from minisae.metrics import welch_bound
from toy_models import limits as lim
from toy_models.geometry import coherence

TRIANGLE = np.array([[2.0, -0.5, -1.0], [0.0, 3**0.5 / 2, -(3**0.5)]])


def test_coherence_and_welch():
    assert coherence(TRIANGLE) == pytest.approx(0.5)
    assert welch_bound(3, 2) == 0.5
    assert coherence(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])) == 0
    assert coherence(np.array([[1.0, 0.0]])) == 0
    assert welch_bound(64, 32) == pytest.approx(0.126, abs=5e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 7))
def test_spark_of_random_frames_and_its_bound(seed, n_hid, n_feat):
    """In general position spark is min(n_hid, n_feat) + 1, and it is at least 1 + 1/μ where columns are dependent."""
    W = np.random.default_rng(seed).standard_normal((n_hid, n_feat))
    spark = lim.spark(W)
    assert spark == min(n_hid, n_feat) + 1
    mu = coherence(W)
    assert mu >= welch_bound(n_feat, n_hid) - 1e-9
    if n_feat > n_hid:
        assert spark >= 1 + 1 / mu - 1e-9
        assert lim.sparsity_guarantee(mu) <= lim.spark_guarantee(spark)


def test_spark_by_hand():
    assert lim.spark(np.eye(5)) == 6
    assert lim.spark(TRIANGLE) == 3
    assert lim.spark(np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])) == 2
    assert lim.spark(np.array([[1.0, 0.0], [0.0, 0.0]])) == 1
    plane = np.random.default_rng(0).standard_normal((4, 2)) @ np.random.default_rng(1).standard_normal((2, 3))
    W = np.concatenate([np.random.default_rng(2).standard_normal((4, 4)), plane], axis=1)
    assert lim.spark(W) == 3
    assert lim.spark(1e-6 * W) == lim.spark(1e6 * W) == 3


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(3, 6))
def test_spark_against_ranks(seed, n_hid, n_feat):
    """Small whole numbers, so that dependent sets are common."""
    W = np.random.default_rng(seed).integers(-1, 2, (n_hid, n_feat)).astype(float)
    dependent = [
        size
        for size in range(1, n_feat + 1)
        if any(np.linalg.matrix_rank(W[:, list(s)]) < size for s in combinations(range(n_feat), size))
    ]
    assert lim.spark(W) == (dependent[0] if dependent else n_feat + 1)


def test_guarantees():
    assert lim.sparsity_guarantee(0.542) == 1  # (1 + 1/.542)/2 = 1.42
    assert lim.sparsity_guarantee(1 / 3) == 1  # k < 2
    assert lim.sparsity_guarantee(0.33) == 2
    assert lim.sparsity_guarantee(1.0) == 0
    assert lim.sparsity_guarantee(0.0) > 10**9
    assert [lim.spark_guarantee(s) for s in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]


def test_the_guarantee_is_what_it_says():
    """At k = guarantee no two k-sparse codes agree: every 2k columns are independent."""
    W = np.linalg.qr(np.random.default_rng(3).standard_normal((7, 7)))[0]
    W = np.concatenate([W, np.ones((7, 1))], axis=1)
    k = lim.sparsity_guarantee(coherence(W))
    assert k == 1
    assert 2 * k < lim.spark(W)


def test_oracle_fvu():
    np.testing.assert_allclose(lim.oracle_fvu(6, np.arange(7)), [1, 0.625, 0.357, 0.179, 0.0714, 0.0179, 0], atol=5e-4)
    rng = np.random.default_rng(7)
    x2 = np.sort(rng.uniform(size=(200_003, 5)) ** 2, axis=1)
    for k in range(6):
        rows = x2[:, : 5 - k].sum(axis=1)
        sigma = rows.std() / len(rows) ** 0.5 / (5 / 3)
        assert abs(rows.mean() / (5 / 3) - lim.oracle_fvu(5, k)) < 4 * sigma + 1e-15


@pytest.mark.parametrize("l1", [0.0, 0.03, 0.5, 1.7, 2.0, 5.0])
def test_shrinkage_floor(l1):
    """The best code of each magnitude by search, integrated by the midpoint rule."""
    x = (np.arange(400) + 0.5) / 400
    best = [
        optimize.minimize_scalar(lambda f, v=v: (v - f) ** 2 + l1 * f, bounds=(0, 1), method="bounded").x for v in x
    ]
    error = ((x - best) ** 2).sum() / (x**2).sum()
    assert lim.shrinkage_floor(l1) == pytest.approx(error, abs=2e-3)
    assert lim.shrinkage_floor([0.0, 2.0, 9.0]).tolist() == [0, 1, 1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 9))
def test_capacity_is_what_a_readout_along_the_feature_keeps(seed, n_hid, n_feat):
    W = np.random.default_rng(seed).standard_normal((n_hid, n_feat))
    gram = W.T @ W
    squares = (gram**2).sum(axis=1)
    alpha = np.diagonal(gram) / squares
    error = 1 - 2 * alpha * np.diagonal(gram) + alpha**2 * squares
    capacity = np.diagonal(gram) ** 2 / squares
    np.testing.assert_allclose(lim.readout_loss(np.minimum(capacity, 1)), error, atol=1e-12)
    assert capacity.sum() <= n_hid + 1e-9


@pytest.mark.parametrize("p", [0.05, 0.3, 1.0])
def test_square_readout_against_its_moments(p):
    """A feature among many: W_i·W_j = ε for 400 others, moments of x exact; the spread term is off by ε⁴ alone."""
    kurtosis, others, eps = 9 / (5 * p), 400, 0.05
    capacity = 1 / (1 + others * eps**2)
    fourth, square = 1 + others * eps**4, 1 + others * eps**2
    fit = (kurtosis - 1) ** 2 / ((kurtosis - 1) * ((kurtosis - 3) * fourth + 2 * square**2))
    assert lim.square_readout_loss(capacity, kurtosis) == pytest.approx(1 - fit, abs=0.01)
    assert lim.square_readout_loss(0.0, kurtosis) == 1
    assert lim.square_readout_loss(1.0, kurtosis) == 0


def test_kurtosis_makes_sharing_pay():
    grid = np.linspace(0, 1, 201)
    shared = {}
    for kurtosis in (1.8, 3.0, 36.0):
        C, _ = lim.allocate_capacity(np.tile(lim.square_readout_loss(grid, kurtosis), (7, 1)), 3.0)
        assert C.sum() == pytest.approx(3)
        shared[kurtosis] = int(np.count_nonzero((C > 0.01) & (C < 0.99)))
    assert shared[1.8] == shared[3.0] == 0
    assert shared[36.0] >= 6


def test_capacity_of_quadratic_losses_by_hand():
    """I(1 − C)²: 2I(1 − C) is equal where 0 < C < 1, so C = 1 − λ/(2I)."""
    importance = np.array([4.0, 2.0, 1.0, 0.05])
    grid = np.linspace(0, 1, 4001)
    C, value = lim.allocate_capacity(importance[:, None] * (1 - grid) ** 2, 1.9)
    lam = optimize.brentq(lambda v: np.clip(1 - v / (2 * importance), 0, 1).sum() - 1.9, 0, 8)
    np.testing.assert_allclose(C, np.clip(1 - lam / (2 * importance), 0, 1), atol=1e-3)
    assert value == pytest.approx(lam, abs=2e-3)
    assert C[3] == 0


def test_linear_losses_are_bought_whole():
    """The linear model: the most important features, all or nothing."""
    losses = np.array([0.3, 2.0, 1.0, 0.7])[:, None] * np.array([1.0, 0.5, 0.0])
    C, value = lim.allocate_capacity(losses, 2.0)
    assert C.tolist() == [0, 1, 1, 0]
    assert value == pytest.approx(0.7)
    C, value = lim.allocate_capacity(losses, 2.25)
    np.testing.assert_allclose(C, [0, 1, 1, 0.25])
    assert value == pytest.approx(0.7)
    assert lim.allocate_capacity(losses, 9.0)[0].tolist() == [1, 1, 1, 1]
    assert lim.allocate_capacity(losses, 9.0)[1] == 0


def test_refusals():
    with pytest.raises(InputError, match=r"^W: expected a frame with at most"):
        lim.spark(np.random.default_rng(0).standard_normal((20, 60)))
    for bad in (np.ones(3), np.array([[np.nan]]), np.ones((0, 3))):
        with pytest.raises(InputError, match=r"^W: expected"):
            lim.spark(bad)
    for mu in (1.2, np.nan):
        with pytest.raises(InputError, match=r"^coherence: expected a number in"):
            lim.sparsity_guarantee(mu)
    for spark in (0, 2.5, np.nan):
        with pytest.raises(InputError, match=r"^spark: expected a whole number of at least 1, got"):
            lim.spark_guarantee(spark)
    for kept in (6, -1, np.nan):
        with pytest.raises(InputError, match=r"^kept: expected numbers from 0 to n_active, 5, got"):
            lim.oracle_fvu(5, kept)
    with pytest.raises(InputError, match=r"^n_active: expected a whole number of at least 1, got 0"):
        lim.oracle_fvu(0, 0)
    for l1 in (-1, np.nan):
        with pytest.raises(InputError, match=r"^l1: expected numbers from 0, got"):
            lim.shrinkage_floor(l1)
    with pytest.raises(InputError, match=r"^capacity"):
        lim.readout_loss([0.5, 1.5])
    with pytest.raises(InputError, match=r"^kurtosis"):
        lim.square_readout_loss(0.5, 0.5)
    with pytest.raises(InputError, match=r"^losses, total"):
        lim.allocate_capacity(np.ones(3), 1.0)
