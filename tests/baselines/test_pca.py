"""Principal components: exact cases, chunks, optimality, and scikit-learn where it is present."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.baselines import PCATopK, fit
from minisae.errors import InputError
from minisae.metrics import pooled_r2


def rows(seed, n=101, d_in=7):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d_in)) @ rng.standard_normal((d_in, d_in)) + 3 * rng.standard_normal(d_in)


def test_by_hand():
    """Points on the line y = x, and one direction more with less variance."""
    x = np.array([[3.0, 3.0], [1.0, 1.0], [2.5, 1.5], [1.5, 2.5]])
    pca = fit([x], 1)
    np.testing.assert_allclose(pca.mean, [2, 2])
    np.testing.assert_allclose(pca.components, [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(pca.variances, [4 / 3])
    assert pca.total_variance == pytest.approx(5 / 3)
    np.testing.assert_allclose(pca.encode(x)[:, 0], [2**0.5, -(2**0.5), 0, 0], atol=1e-12)
    np.testing.assert_allclose(pca.decode(pca.encode(x)), [[3, 3], [1, 1], [2, 2], [2, 2]])
    assert float(pooled_r2(x, pca.decode(pca.encode(x)))) == pytest.approx(0.8)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 101), max_size=5), st.integers(1, 7))
def test_chunks_do_not_matter(seed, cuts, k):
    x = rows(seed)
    whole, parts = fit([x], k), fit(np.split(x, sorted(cuts)), k)
    np.testing.assert_allclose(parts.mean, whole.mean)
    np.testing.assert_allclose(parts.variances, whole.variances)
    np.testing.assert_allclose(parts.decode(parts.encode(x)), whole.decode(whole.encode(x)), atol=1e-6)
    np.testing.assert_allclose(whole.components @ whole.components.T, np.eye(k), atol=1e-12)
    explained = float(pooled_r2(x, whole.decode(whole.encode(x))))
    assert explained == pytest.approx(whole.variances.sum() / whole.total_variance)


def test_all_components_give_everything_back():
    x = rows(0)
    pca = fit([x], 7)
    np.testing.assert_allclose(pca.decode(pca.encode(x)), x, atol=1e-12)


def test_no_other_projection_does_better():
    x, rng = rows(1), np.random.default_rng(2)
    pca = fit([x], 3)
    best = float(pooled_r2(x, pca.decode(pca.encode(x))))
    for _ in range(20):
        basis = np.linalg.qr(pca.components.T + 0.1 * rng.standard_normal((7, 3)))[0].T
        other = pca._replace(components=basis)
        assert float(pooled_r2(x, other.decode(other.encode(x)))) < best


def test_k_of_d_by_hand():
    pca = fit([rows(3)], 7)._replace(mean=np.zeros(7), components=np.eye(7))
    x = np.array([[1.0, -5, 2, 0, 5, 3, 0], [1, 1, 1, 1, 1, 1, 1]])
    code = PCATopK(pca, k=2).encode(x)
    np.testing.assert_array_equal(code, [[0, -5, 0, 0, 5, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(PCATopK(pca, k=2).decode(code), code)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_choosing_k_of_d_is_never_worse_than_the_first_k(seed, k):
    x = rows(seed)
    first, chosen = fit([x], k), PCATopK(fit([x], 7), k=k)
    code = chosen.encode(x)
    assert (np.count_nonzero(code, axis=1) <= k).all()
    errors = [((x - b.decode(b.encode(x))) ** 2).sum(axis=1) for b in (first, chosen)]
    assert (errors[1] <= errors[0] + 1e-9).all()


def test_dtypes_and_a_large_mean():
    """Float32 rows at 1000 with deviation near 1: the moments are float64, the result float32."""
    x = rows(4) + 1000
    exact, single = fit([x], 3), fit([x.astype(np.float32)], 3)
    assert single.mean.dtype == single.components.dtype == single.variances.dtype == np.float32
    np.testing.assert_allclose(single.components, exact.components, atol=1e-4)
    np.testing.assert_allclose(single.variances, exact.variances, rtol=1e-4)


@pytest.mark.parametrize(
    ("chunks", "k", "names"),
    [
        ([], 1, "chunks"),
        ([np.ones((1, 3))], 1, "chunks"),
        ([np.ones((0, 3))], 1, "chunks"),
        ([np.ones(3)], 1, "chunks"),
        ([np.ones((2, 3)), np.ones((2, 4))], 1, "chunks"),
        ([np.ones((2, 3))], 0, "k: "),
        ([np.ones((2, 3))], 4, "k: "),
    ],
)
def test_bad_input_is_refused(chunks, k, names):
    with pytest.raises(InputError, match=names):
        fit(chunks, k)


def test_agrees_with_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is not installed")
    x = rows(5, n=211)
    ours, theirs = fit([x[:100], x[100:]], 4), decomposition.PCA(4, svd_solver="full").fit(x)
    np.testing.assert_allclose(ours.mean, theirs.mean_)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_)
    np.testing.assert_allclose(ours.variances / ours.total_variance, theirs.explained_variance_ratio_)
    np.testing.assert_allclose(ours.decode(ours.encode(x)), theirs.inverse_transform(theirs.transform(x)), atol=1e-9)
