"""Cross-entropy, KL divergence and what is recovered of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax

from minisae import metrics as m
from minisae.errors import InputError


def test_by_hand():
    log_p = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    log_q = np.log([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(m.cross_entropy(log_p, np.array([0, 1])), [np.log(2), np.log(10)])
    np.testing.assert_allclose(m.kl_divergence(log_p, log_q), [0.25 * np.log(2), 0], atol=1e-15)


def test_recovered_by_hand():
    assert m.ce_recovered(1.0, 1.5, 3.0) == 0.75
    assert m.ce_recovered(np.array([0.5, 1.5]), np.array([1.0, 2.0]), np.array([4.0, 2.0])) == 0.75
    assert m.kl_recovered(0.5, 2.0) == 0.75
    assert np.isnan(m.ce_recovered(1.0, 1.5, 1.0))
    assert np.isnan(m.kl_recovered(0.5, 0.0))


def test_report_names_both_ablations():
    numbers = m.recovered_report(
        ce_clean=1.0, ce_sae=1.5, ce_zero=3.0, ce_mean=2.0, kl_sae=0.5, kl_zero=2.0, kl_mean=np.array([0.5, 1.5])
    )
    assert numbers["ce_recovered_vs_zero_ablation"] == 0.75
    assert numbers["ce_recovered_vs_mean_ablation"] == 0.5
    assert numbers["kl_recovered_vs_zero_ablation"] == 0.75
    assert numbers["kl_recovered_vs_mean_ablation"] == 0.5
    assert numbers["kl_mean_ablation"] == 1.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 19), st.integers(1, 13), st.floats(0, 1000))
def test_log_softmax_and_kl_for_any_shape(seed, n, vocab, size):
    rng = np.random.default_rng(seed)
    logits, other = size * rng.standard_normal((2, n, vocab))
    log_p, log_q = m.log_softmax(logits), m.log_softmax(other)
    np.testing.assert_allclose(log_p, scipy_log_softmax(logits, axis=-1), atol=1e-9)
    np.testing.assert_allclose(m.kl_divergence(log_p, log_p), 0, atol=1e-12)
    assert (m.kl_divergence(log_p, log_q) >= -1e-12).all()


def test_impossible_tokens_count_nothing():
    log_p = np.array([[0.0, -np.inf]])
    assert m.kl_divergence(log_p, np.log([[0.5, 0.5]]))[0] == pytest.approx(np.log(2))
    assert m.kl_divergence(log_p, log_p)[0] == 0


def test_bad_shapes_are_refused():
    with pytest.raises(InputError, match="targets"):
        m.cross_entropy(np.zeros((3, 2)), np.zeros(2, int))
    with pytest.raises(InputError, match="log_q"):
        m.kl_divergence(np.zeros((3, 2)), np.zeros((3, 1)))
