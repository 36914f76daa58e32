"""Model diffing: by hand, and on two models of which it is known what they share."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisae
from minisae.errors import InputError
from minisae.metrics import diff_models, diffing, max_cosines, norm_shares, relative_norms
from minisae.sae.crosscoder import sources


def test_by_hand():
    """Norms (5, 5), (2, 0), (0, 3), (4, 1) and (0, 0)."""
    W_a = np.array([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    W_b = np.array([[4.0, 3.0], [0.0, 0.0], [0.0, -3.0], [0.0, -1.0], [0.0, 0.0]])
    found = diff_models(W_a, W_b)
    np.testing.assert_allclose(found.relative, [0.5, 0, 1, 0.5 * (1 - 3 / 4), 0.5])
    np.testing.assert_allclose(found.cosine, [24 / 25, 0, 0, -1, 0])
    np.testing.assert_array_equal(found.shared, [True, False, False, False, False])
    np.testing.assert_array_equal(found.only_a, [False, True, False, False, False])
    np.testing.assert_array_equal(found.only_b, [False, False, True, False, False])
    assert diff_models(W_a, W_b, exclusive=0.125).only_a[3]
    assert diff_models(W_a, W_b[:, :1]).cosine is None
    shares = norm_shares([W_a, W_b, W_b])
    np.testing.assert_allclose(shares[:, 0], [1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(shares[:, 3], [4 / 6, 1 / 6, 1 / 6])
    assert not shares[:, 4].any()


@given(d_sae=st.integers(1, 11), d_a=st.integers(1, 5), d_b=st.integers(1, 5), seed=st.integers(0, 99))
def test_swapping_the_models_mirrors_everything(d_sae, d_a, d_b, seed):
    rng = np.random.default_rng(seed)
    W_a, W_b = rng.standard_normal((d_sae, d_a)), 10 ** rng.uniform(-2, 2) * rng.standard_normal((d_sae, d_b))
    one, other = diff_models(W_a, W_b), diff_models(W_b, W_a)
    np.testing.assert_allclose(one.relative, 1 - other.relative, atol=1e-12)
    np.testing.assert_array_equal(one.only_a, other.only_b)
    np.testing.assert_array_equal(one.shared, other.shared)
    assert ((one.only_a.astype(int) + one.only_b + one.shared) <= 1).all()
    np.testing.assert_allclose(relative_norms(W_a * 7, W_b * 7), one.relative, rtol=1e-12)
    np.testing.assert_allclose(norm_shares([W_a, W_b]).sum(axis=0), 1, rtol=1e-12)


def two_models(n, seed):
    """Rows of two models side by side: features 0 to 7 in both (0 to 3 in one direction), 8 to 11 in a, 12 to 15 in b.

    Each feature is on in a tenth of the rows; directions are nearly orthogonal.
    """
    truth = np.random.default_rng(100)
    a, b = (np.linalg.qr(truth.standard_normal((19, 16)))[0].T for _ in range(2))  # (16, 19) each
    b[:4] = a[:4]
    a[12:], b[8:12] = 0, 0
    rng = np.random.default_rng(seed)
    f = (rng.random((n, 16)) < 0.1) * rng.uniform(0.5, 1.5, (n, 16))
    return np.hstack([f @ a, f @ b]).astype(np.float32), a, b


@pytest.mark.parametrize("seed", [0, 1])
def test_a_crosscoder_tells_what_two_models_share(seed):
    rows, a, b = two_models(20_011, seed)
    sae = minisae.train(
        rows, variant="crosscoder", d_sae=23, steps=2000, batch_size=251, lr=3e-3, seed=seed, l1=0.05,
        options={"splits": [19], "sparsity_warmup": 200},
    )  # fmt: skip
    W_a, W_b = sources(sae.params["W_dec"], sae.cfg.splits)
    found = diff_models(W_a, W_b)
    whole = np.hstack([a, b])
    cosine, latent = max_cosines(whole, sae.params["W_dec"])
    assert cosine.min() > 0.95, cosine
    assert len(set(latent.tolist())) == 16
    np.testing.assert_array_equal(found.shared[latent], np.arange(16) < 8)
    np.testing.assert_array_equal(found.only_a[latent], (np.arange(16) >= 8) & (np.arange(16) < 12))
    np.testing.assert_array_equal(found.only_b[latent], np.arange(16) >= 12)
    assert found.cosine[latent[:4]].min() > 0.95
    assert abs(found.cosine[latent[4:8]]).max() < 0.6


def test_bad_arguments_are_one_line():
    with pytest.raises(InputError, match=r"^W_b: expected the decoder of the same latents as W_a \(3, 2\), got"):
        diff_models(np.ones((3, 2)), np.ones((5, 2)))
    with pytest.raises(InputError, match=r"^exclusive, shared: expected distances that add up below 0.5, got 0.3"):
        diff_models(np.ones((3, 2)), np.ones((3, 2)), exclusive=0.3, shared=0.2)


def test_docstring_examples():
    result = doctest.testmod(diffing)
    assert result.attempted
    assert not result.failed
