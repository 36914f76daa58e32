"""The dictionary, its overlap and the gradient of that."""

import numpy as np
import pytest

from minisae.synthetic import orthogonalise, overlap_loss, random_dictionary


def test_random_dictionary_has_unit_rows_in_all_directions():
    W = random_dictionary(997, 7, np.random.default_rng(0))
    assert W.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(W.astype(float), axis=1), 1, atol=1e-6)
    # the second moment of a uniform direction is 1/d; standard error about 0.006
    np.testing.assert_allclose(W.T @ W / len(W), np.eye(7) / 7, atol=0.03)


def test_overlap_loss_by_hand():
    # cosines 1·3 + 0·4 = 3, ordered pairs twice: 2·9; lengths² 1 and 25: 2·(0 + 24²)
    loss, _ = overlap_loss(np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert loss == 18 + 2 * 576


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_overlap_gradient(chunk):
    rng = np.random.default_rng(1)
    W = rng.standard_normal((7, 5))
    _, d_W = overlap_loss(W, chunk=chunk)
    for i in range(7):
        for j in range(5):
            bump = np.zeros_like(W)
            bump[i, j] = 1e-5
            slope = (overlap_loss(W + bump)[0] - overlap_loss(W - bump)[0]) / 2e-5
            assert slope == pytest.approx(d_W[i, j], rel=1e-6, abs=1e-6)


def test_orthogonalise_reaches_the_floor_of_a_tight_frame():
    W = random_dictionary(37, 19, np.random.default_rng(2))
    near = orthogonalise(W, steps=200, lr=0.01)
    np.testing.assert_allclose(np.linalg.norm(near.astype(float), axis=1), 1, atol=1e-6)
    floor = 37**2 / 19 - 37
    assert overlap_loss(W.astype(float))[0] > 1.5 * floor
    assert floor * (1 - 1e-5) <= overlap_loss(near.astype(float))[0] < 1.001 * floor


def test_orthogonalise_makes_few_rows_orthogonal():
    W = orthogonalise(random_dictionary(11, 17, np.random.default_rng(3)), steps=300, lr=0.01)
    np.testing.assert_allclose(W @ W.T, np.eye(11), atol=1e-3)
