"""Angles of a dictionary, and the bound that none goes under."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import metrics as m
from minisae.errors import InputError

TRIANGLE = np.array([[2.0, 0.0], [-0.5, 3**0.5 / 2], [-1.0, -(3**0.5)]])


def test_three_vectors_at_120_degrees_meet_the_welch_bound():
    s = m.cosine_structure(TRIANGLE, bins=4)
    assert s.welch_bound == 0.5
    assert s.coherence == pytest.approx(0.5)
    assert s.rms == pytest.approx(0.5)
    np.testing.assert_allclose(s.max_abs, 0.5)
    assert s.counts.sum() == 6
    assert s.counts[:2].sum() == 6


def test_welch_bound_by_hand():
    assert m.welch_bound(3, 2) == 0.5
    assert m.welch_bound(4, 3) == pytest.approx(1 / 3)
    assert m.welch_bound(5, 5) == m.welch_bound(2, 5) == m.welch_bound(1, 1) == 0
    with pytest.raises(InputError, match="d_sae, d_in"):
        m.welch_bound(0, 3)


def test_histogram_leaves_out_the_diagonal_and_keeps_twins():
    s = m.cosine_structure(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, -2.0]]), bins=5)
    np.testing.assert_allclose(s.edges, [-1, -0.6, -0.2, 0.2, 0.6, 1])
    assert s.counts.tolist() == [0, 0, 4, 0, 2]
    assert s.nearest.tolist()[:2] == [1, 0]
    assert s.coherence == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 37), st.integers(1, 7), st.integers(1, 40))
def test_any_dictionary_in_any_chunks(seed, d_sae, d_in, chunk):
    W = np.random.default_rng(seed).standard_normal((d_sae, d_in))
    s, whole = m.cosine_structure(W, chunk=chunk), m.cosine_structure(W)
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    cos = np.abs(unit @ unit.T) * (1 - np.eye(d_sae))
    np.testing.assert_allclose(s.max_abs, cos.max(axis=1), atol=1e-12)
    np.testing.assert_allclose(cos[np.arange(d_sae), s.nearest], s.max_abs, atol=1e-12)
    assert s.counts.sum() == d_sae * (d_sae - 1)
    np.testing.assert_array_equal(s.edges, whole.edges)
    assert s.coherence == pytest.approx(cos.max())
    assert s.rms == pytest.approx(np.sqrt((cos**2).sum() / max(d_sae * (d_sae - 1), 1)))
    assert s.coherence >= s.rms * (1 - 1e-12) >= s.welch_bound * (1 - 1e-9) - 1e-12


def test_a_row_of_zeros_has_no_direction():
    W = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(m.unit_rows(W), W)
    assert m.cosine_structure(W).coherence == 0


def test_max_cosines_signed_and_absolute():
    A = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    B = np.array([[-5.0, 0.0], [0.0, 2.0]])
    best, where = m.max_cosines(A, B)
    np.testing.assert_allclose(best, [0, 0.5**0.5, 0])
    assert where.tolist() == [1, 1, 0]
    best, where = m.max_cosines(A, B, absolute=True, chunk=2)
    np.testing.assert_allclose(best, [1, 0.5**0.5, 0])
    assert where.tolist()[0] == 0


@pytest.mark.parametrize("B", [np.ones((3, 5)), np.ones((0, 2)), np.ones(2)])
def test_bad_shapes_are_refused(B):
    with pytest.raises(InputError, match="B: expected"):
        m.max_cosines(TRIANGLE, B)
    if B.shape != (3, 5):
        with pytest.raises(InputError, match="W_dec"):
            m.cosine_structure(B)
