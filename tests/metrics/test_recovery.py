"""Recovery of a known dictionary: worked cases, brute force, and a perfect find."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import metrics as m
from minisae.errors import InputError
from minisae.ops import SparseCode

TRUTH = np.eye(3)
# the first feature twice, the second turned round, the third at cosine 0.8
LEARNED = np.array([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.6, 0.0, 0.8]])


def test_angles_by_hand():
    assert m.mmcs(TRUTH, LEARNED) == pytest.approx((1 + 0 + 0.8) / 3)
    assert m.mmcs(LEARNED, TRUTH) == pytest.approx((1 + 1 + 0 + 0.8) / 4)
    assert m.coverage(TRUTH, LEARNED) == pytest.approx(1 / 3)
    assert m.coverage(TRUTH, LEARNED, threshold=0.8 - 1e-9) == pytest.approx(2 / 3)
    assert m.best_match(TRUTH, LEARNED).tolist() == [0, 0, 0, 2]
    assert m.best_match(TRUTH, LEARNED, absolute=True).tolist() == [0, 0, 1, 2]
    assert m.uniqueness(TRUTH, LEARNED) == 0.5


def test_one_to_one_by_hand():
    """The second feature has no latent: it takes the second copy of the first, at cosine 0."""
    pairs = m.matched_pairs(TRUTH, LEARNED)
    np.testing.assert_allclose(sorted(pairs.cosines), [0, 0.8, 1])
    assert m.matched_cosine(TRUTH, LEARNED) == pytest.approx(0.6)
    assert m.max_abs_correlation_coefficient(TRUTH, LEARNED) == pytest.approx(2.8 / 3)
    assert m.matched_pairs(TRUTH, LEARNED, absolute=True).cosines.min() == -1


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_matching_is_the_best_of_all(seed, n_feat, d_sae, absolute):
    rng = np.random.default_rng(seed)
    truth, learned = rng.standard_normal((n_feat, 3)), rng.standard_normal((d_sae, 3))
    cos = m.unit_rows(truth) @ m.unit_rows(learned).T
    value = np.abs(cos) if absolute else cos
    if n_feat <= d_sae:
        best = max(value[np.arange(n_feat), list(p)].mean() for p in permutations(range(d_sae), n_feat))
    else:
        best = max(value[list(p), np.arange(d_sae)].mean() for p in permutations(range(n_feat), d_sae))
    pairs = m.matched_pairs(truth, learned, absolute=absolute)
    found = np.abs(pairs.cosines) if absolute else pairs.cosines
    assert found.mean() == pytest.approx(best)
    assert len(set(pairs.latents.tolist())) == len(set(pairs.features.tolist())) == min(n_feat, d_sae)


def test_detection_by_hand():
    f_true = np.array([[1.0, 0], [1, 0], [1, 2], [0, 0], [0, 3]])
    f = np.array([[0.5, 0, 0], [0, 0, 0], [0.1, 0, 4], [0.2, 0, 0], [0, 0, 1]])
    counts = m.detection_counts(f_true, f, features=np.array([0, 0, 1]))
    assert [c.tolist() for c in counts] == [[2, 0, 2], [3, 0, 2], [3, 3, 2]]
    scores = m.detection_scores(counts)
    np.testing.assert_allclose(scores["precision"], [2 / 3, 0, 1])
    np.testing.assert_allclose(scores["recall"], [2 / 3, 0, 1])
    np.testing.assert_allclose(scores["f1"], [2 / 3, 0, 1])
    some = m.detection_counts(f_true, f, features=np.array([1]), latents=np.array([0]))
    assert [c.tolist() for c in some] == [[1], [3], [2]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 30))
def test_detection_counts_add_up(seed, n, cut):
    rng = np.random.default_rng(seed)
    f_true, f = rng.integers(0, 2, (n, 3)), rng.integers(0, 2, (n, 7)).astype(float)
    features = rng.integers(0, 3, 7)
    whole = m.detection_counts(f_true, f, features=features)
    parts = [m.detection_counts(f_true[s], f[s], features=features) for s in (slice(cut), slice(cut, None))]
    for total, one, two in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(total, one + two)


def test_a_perfect_find_scores_one_everywhere():
    rng = np.random.default_rng(0)
    truth = m.unit_rows(rng.standard_normal((17, 11)))
    f_true = np.where(rng.random((101, 17)) < 0.2, rng.random((101, 17)), 0)
    order = rng.permutation(17)
    numbers = m.recovery_report(truth, 3 * truth[order], f_true, f_true[:, order] / 3)
    assert numbers == pytest.approx(dict.fromkeys(numbers, 1.0))
    assert numbers.keys() >= {"mmcs_truth_to_learned", "mmcs_learned_to_truth", "matched_cosine", "mcc", "coverage"}
    assert numbers.keys() >= {"uniqueness", "precision", "recall", "f1", "f1_matched"}


def test_a_find_turned_round_is_no_find_but_for_mcc():
    truth = np.eye(5)
    numbers = m.recovery_report(truth, -truth, np.eye(5), np.eye(5))
    assert numbers["mcc"] == 1
    assert numbers["coverage"] == numbers["matched_cosine"] == 0


def test_sparse_codes_and_bad_shapes():
    f = SparseCode(np.array([1.0, 2.0]), np.array([2, 0], np.int32), np.array([0, 1, 2], np.int32), (2, 3))
    counts = m.detection_counts(np.eye(2), f, features=np.array([1, 0, 0]))
    assert counts.both.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="f: expected 3 rows"):
        m.detection_counts(np.eye(3), f, features=np.array([1, 0, 0]))
    with pytest.raises(InputError, match="learned"):
        m.matched_pairs(np.eye(3), np.eye(2))
