"""Loss terms by hand; their slopes are checked with the variants' gradients."""

import numpy as np

from minisae import losses
from minisae.ops import relu


def test_l1_by_hand_plain_and_weighted():
    f = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    W_dec = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    np.testing.assert_allclose(losses.l1(f, coefficient=0.5).value, 0.5 * 6 / 2)
    term = losses.l1(f, coefficient=0.5, W_dec=W_dec)
    np.testing.assert_allclose(term.value, 0.5 * (1 * 5 + 3 * 2 + 2 * 1) / 2)
    np.testing.assert_allclose(term.slopes["f"], [[1.25, 0.5, 0.25]])
    # (λ/n) Σ f · unit row: .25 · 1 · (.6, .8), .25 · 3 · (0, 1), .25 · 2 · (1, 0)
    np.testing.assert_allclose(term.params["W_dec"], [[0.15, 0.2], [0, 0.75], [0.5, 0]])


def test_l1_with_a_coefficient_for_each_instance_is_as_many_separate_terms():
    rng = np.random.default_rng(2)
    f = np.maximum(rng.standard_normal((3, 13, 7)), 0).astype(np.float32)
    W_dec = rng.standard_normal((3, 7, 5)).astype(np.float32)
    coefficient = np.array([0.5, 0, 3], np.float32)
    for W in (None, W_dec):
        together = losses.l1(f, coefficient=coefficient, W_dec=W)
        assert together.value.shape == (3,)
        for k, one in enumerate(coefficient):
            alone = losses.l1(f[k], coefficient=one, W_dec=None if W is None else W[k])
            np.testing.assert_array_equal(together.value[k], alone.value)
            np.testing.assert_array_equal(
                np.broadcast_to(together.slopes["f"], f.shape)[k], f[k] * 0 + alone.slopes["f"]
            )
            for name, slope in alone.params.items():
                np.testing.assert_array_equal(together.params[name][k], slope, strict=True)


def test_dense_and_sparse_codes_give_the_same_term():
    rng = np.random.default_rng(0)
    pre = rng.standard_normal((31, 67)) - 2.5
    sparse, dense = relu(pre), np.maximum(pre, 0)
    assert type(sparse) is not type(dense)
    W_dec = rng.standard_normal((67, 5))
    for W in (None, W_dec):
        a, b = losses.l1(sparse, coefficient=0.3, W_dec=W), losses.l1(dense, coefficient=0.3, W_dec=W)
        np.testing.assert_allclose(a.value, b.value, rtol=1e-12)


def test_mse_is_summed_over_the_width_and_averaged_over_rows():
    x_hat, y = np.zeros((2, 3)), np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 4.0]])
    np.testing.assert_allclose(losses.mse(x_hat, y).value, (9 + 16) / 2)
    np.testing.assert_allclose(losses.mse(x_hat, y, reduction="mean").value, (9 + 16) / 6)


def test_gather_adds_slopes_of_the_same_output():
    a = losses.Term(np.float64(1), {"f": np.ones(2)}, {"W_dec": np.ones(3)})
    b = losses.Term(np.float64(2), {"f": np.ones(2), "pre": np.ones(2)}, {"W_dec": np.ones(3)})
    value, slopes, params = losses.gather({"a": a, "b": b})
    assert value == 3
    np.testing.assert_array_equal(slopes["f"], [2, 2])
    np.testing.assert_array_equal(slopes["pre"], [1, 1])
    np.testing.assert_array_equal(params["W_dec"], [2, 2, 2])


def test_float32_stays_float32():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 7, 5)).astype(np.float32)
    aux = losses.aux_k(x, y, x + y, np.int64(1), coefficient=0.5, normaliser="residual_variance", through_residual=True)
    ghost = losses.ghost(
        rng.standard_normal((7, 11)).astype("f"), x, y, rng.standard_normal((11, 5)).astype("f"), np.arange(11) > 7
    )
    terms = {"mse": losses.mse(x, y), "aux": aux, "ghost": ghost}
    for term in terms.values():
        for slope in (*term.slopes.values(), *term.params.values()):
            assert slope.dtype == np.float32
        assert term.value.dtype == np.float32
