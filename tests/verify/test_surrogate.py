"""Pseudo-derivatives: the formula that is stated, and the smoothed expectation that they are the derivative of."""

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.ops.kernels import KERNELS
from minisae.sae import jumprelu
from minisae.verify import check_surrogate

BANDWIDTH = 0.37


def pseudo_of(kernel, of, **options):
    """The slope at each threshold, from ``jumprelu.backward`` on one row whose pre-activations are given."""
    output = {"gate": "gate", "code": "f"}[of]

    def pseudo(pre, theta):
        m = len(pre)
        cfg = jumprelu.Config(1, m, kernel=kernel, bandwidth=BANDWIDTH, **options)
        params = {"W_enc": np.zeros((1, m)), "b_enc": pre, "W_dec": np.zeros((m, 1)), "b_dec": np.zeros(1)}
        params["threshold"] = np.log(theta) if options.get("threshold_as") == "log" else theta
        _, cache = jumprelu.forward(params, np.zeros((1, 1)), cfg)
        grad = jumprelu.backward(params, cache, cfg, {output: np.ones((1, m))})["threshold"]
        return grad / theta if options.get("threshold_as") == "log" else grad

    return pseudo


@pytest.mark.parametrize("of", ["gate", "code"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_of_jumprelu(kernel, of):
    for options in ({}, {"threshold_as": "log"}):
        check = check_surrogate(pseudo_of(kernel, of, **options), kernel=kernel, bandwidth=BANDWIDTH, of=of)
        assert (check.points, check.kinks) == (108, 0)
        assert check.formula <= 1e-12
        assert check.smoothed <= 1e-6
        assert abs(check.mass - 1) <= 1e-12


def test_the_slope_at_the_encoder_is_the_other_sign():
    def pseudo(pre, theta):
        m = len(pre)
        cfg = jumprelu.Config(1, m, bandwidth=BANDWIDTH, kernel="quartic", ste_reach="everything")
        params = {"W_enc": np.zeros((1, m)), "b_enc": pre, "W_dec": np.zeros((m, 1)), "b_dec": np.zeros(1)}
        params["threshold"] = theta
        _, cache = jumprelu.forward(params, np.zeros((1, 1)), cfg)
        return -jumprelu.backward(params, cache, cfg, {"gate": np.ones((1, m))})["b_enc"]

    check = check_surrogate(pseudo, kernel="quartic", bandwidth=BANDWIDTH)
    assert max(check.formula, check.smoothed * 1e-6) <= 1e-12


def test_one_over_the_bandwidth_too_much():
    """overcomplete 0.3 has it: its formula is not the stated one, and it is not the slope of anything smoothed."""
    right = pseudo_of("rectangle", "code")
    check = check_surrogate(lambda pre, theta: right(pre, theta) / BANDWIDTH, bandwidth=BANDWIDTH, of="code")
    np.testing.assert_allclose([check.formula, check.smoothed], 1 / BANDWIDTH - 1, rtol=1e-6)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_kernel_whose_integral_is_not_one_meets_its_own_formula_and_fails_the_expectation(share):
    def kernel(u):
        return share * KERNELS["gaussian"](u)

    right = pseudo_of("gaussian", "gate")
    check = check_surrogate(lambda pre, theta: share * right(pre, theta), kernel=kernel, bandwidth=BANDWIDTH)
    assert check.formula <= 1e-12
    np.testing.assert_allclose(check.mass, share, rtol=1e-12)
    np.testing.assert_allclose(check.smoothed, abs(share - 1) / share, rtol=0.05)


def test_a_slope_in_half_of_the_window():
    """dictionary_learning 2025-08 looks at the code in place of the pre-activation: below θ nothing is left."""
    right = pseudo_of("rectangle", "gate")
    check = check_surrogate(lambda pre, theta: right(np.where(pre > theta, pre, 0), theta), bandwidth=BANDWIDTH)
    assert check.formula == pytest.approx(1, abs=1e-12)
    assert check.smoothed > 0.99


@pytest.mark.parametrize("kernel", ["gaussian", "quartic", "triangular"])
def test_what_it_stands_for_on_data(kernel):
    """Section 4 of the paper: on many rows the mean is the slope of the expected L0, within its standard error."""
    theta, n = 0.6, 400_000
    pre = np.random.default_rng(0).standard_normal(n)
    slopes = -KERNELS[kernel]((pre - theta) / 0.05) / 0.05
    density = np.exp(-(theta**2) / 2) / np.sqrt(2 * np.pi)
    error = slopes.std() / np.sqrt(n)
    assert abs(slopes.mean() + density) <= 4 * error
    assert error < 0.01


def test_points_at_a_corner_are_not_compared():
    theta = np.full(4, 0.8)
    for kernel, pre, kinks in (
        ("rectangle", theta + np.array([0, 0.5, -0.5, 0.2]), 2),
        ("triangular", theta + np.array([0, 0.1, 0.2, 3]), 1),
    ):
        check = check_surrogate(
            lambda p, t, kernel=kernel: -KERNELS[kernel](p - t), kernel=kernel, bandwidth=1.0, pre=pre, theta=theta
        )
        assert (check.points, check.kinks) == (4 - kinks, kinks)
        assert check.smoothed <= 1e-6


def test_not_finite_is_not_right():
    assert check_surrogate(lambda pre, theta: pre * np.nan, bandwidth=1.0).formula == np.inf


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kernel": "box"}, "kernel: expected one of rectangle, .*, got 'box'"),
        ({"of": "x_hat"}, "of: expected gate or code, got 'x_hat'"),
        ({"bandwidth": 0.0}, "bandwidth: expected a number above 0, got 0.0"),
        ({"pre": np.ones(3)}, "pre: expected together with theta"),
        ({"pre": np.ones(3), "theta": np.ones(2)}, r"two arrays \(m,\) of one length, got \(3,\) and \(2,\)"),
    ],
)
def test_refuses(options, says):
    with pytest.raises(InputError, match=says):
        check_surrogate(lambda pre, theta: pre, **{"bandwidth": 1.0} | options)
    with pytest.raises(InputError, match=r"expected slopes of shape \(108,\), got \(1,\)"):
        check_surrogate(lambda pre, theta: pre[:1], bandwidth=1.0)
