"""The checker finds planted errors, and tells a kink from an error."""

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.losses import gather
from minisae.sae import VARIANTS, topk
from minisae.verify import check_directions, check_gradients
from tests.helpers import perturbed


def quadratic(p):
    return float((p["w"] ** 2).sum() + (p["w"] ** 3).sum())


def test_right_gradient_passes_and_parameters_are_put_back():
    w = np.random.default_rng(0).standard_normal((3, 5))
    before = w.copy()
    [check] = check_gradients(quadratic, {"w": w}, {"w": 2 * w + 3 * w**2})
    assert check.error < 1e-8
    assert (check.entries, check.kinks) == (15, 0)
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1.0])
def test_planted_error_is_found_and_located(size):
    w = np.random.default_rng(1).standard_normal((3, 5)) + 2
    wrong = 2 * w + 3 * w**2
    wrong[1, 4] += size * np.abs(wrong).max()
    [check] = check_gradients(quadratic, {"w": w}, {"w": wrong})
    assert check.worst == (1, 4)
    assert 0.3 * size < check.error < 3 * size


def test_kinks_are_counted_and_not_compared():
    w = np.array([0.0, 1e-6, 0.5, -0.5])
    [check] = check_gradients(lambda p: float(np.abs(p["w"]).sum()), {"w": w}, {"w": np.array([0.0, 1, 1, -1])})
    assert check.kinks == 1
    assert check.error < 1e-6


def test_a_jump_is_a_kink():
    """At a tie TopK jumps: the loss has no derivative there."""
    cfg = topk.Config(3, 5, 2)
    params = perturbed(topk, cfg, np.random.default_rng(2))
    params["W_enc"][...] = 0
    params["b_enc"][...] = [1.0, 1.0, 1.0, 0.0, 0.0]
    x = np.ones((1, 3))

    def loss(p):
        return float((topk.forward(p, x, cfg)[0].x_hat ** 2).sum())

    _, cache = topk.forward(params, x, cfg)
    grads = topk.backward(params, cache, cfg, {"x_hat": 2 * topk.forward(params, x, cfg)[0].x_hat})
    check = next(c for c in check_gradients(loss, params, {"b_enc": grads["b_enc"]}) if c.name == "b_enc")
    assert check.kinks == 3


def test_what_is_not_finite_is_never_right():
    w = np.array([1.0, -2.0, 3.0])
    for bad in (np.nan, np.inf):
        [check] = check_gradients(lambda p: float((p["w"] ** 2).sum()), {"w": w}, {"w": np.array([bad, -4.0, 6.0])})
        assert check.error == np.inf
        assert check.worst == (0,)
    with pytest.raises(InputError, match="loss: expected a finite number at the given parameters, got nan"):
        check_gradients(lambda p: float("nan"), {"w": w}, {"w": 2 * w})


def test_a_small_entry_beside_a_large_one_is_compared_by_its_own_size():
    w = np.array([1e3, 2e1])
    [check] = check_gradients(lambda p: float((p["w"] ** 2).sum()), {"w": w}, {"w": np.array([2e3, 4.1e1])})
    assert check.worst == (1,)
    assert check.error > 0.01


def test_refuses_float32_and_wrong_shapes():
    w = np.ones(3, np.float32)
    with pytest.raises(InputError, match="expected float64 for finite differences, got float32"):
        check_gradients(lambda p: 0.0, {"w": w}, {"w": w})
    with pytest.raises(InputError, match=r"expected shape \(3,\), got \(2,\)"):
        check_gradients(lambda p: 0.0, {"w": np.ones(3)}, {"w": np.ones(2)})


def large(name, d_in=61, d_sae=499, n=97, **options):
    """A loss of a wide autoencoder, its parameters, and its gradient by hand."""
    module, rng = VARIANTS[name], np.random.default_rng(3)
    cfg = module.Config(d_in, d_sae, **options)
    params, x = perturbed(module, cfg, rng), rng.standard_normal((n, d_in))

    def loss(p):
        return float(gather(module.objective(p, module.forward(p, x, cfg)[0], x, cfg))[0])

    out, cache = module.forward(params, x, cfg)
    _, slopes, direct = gather(module.objective(params, out, x, cfg))
    grads = module.backward(params, cache, cfg, slopes)
    for key, slope in direct.items():
        grads[key] = grads[key] + slope
    return loss, params, grads


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("relu", {"l1": 0.3, "l1_weight": "decoder_norm"}),
        ("topk", {"k": 31}),
        ("jumprelu", {"l1": 0.3, "penalty": "tanh", "first_threshold": 0.5}),
    ],
)
def test_directions_of_a_large_case(name, options):
    loss, params, grads = large(name, **options)
    before = {key: p.copy() for key, p in params.items()}
    grads.pop("threshold", None)  # defined, not derived
    checks = check_directions(loss, params, grads, directions=4)
    assert {check.name for check in checks} == grads.keys()
    assert sum(check.kinks for check in checks) <= 2
    assert all(check.error <= 1e-6 for check in checks), checks
    for key, p in params.items():
        np.testing.assert_array_equal(p, before[key])


def test_directions_find_an_error_of_a_hundredth_of_the_norm():
    loss, params, grads = large("relu", l1=0.3)
    grads["W_enc"][7, 11] += 0.01 * np.linalg.norm(grads["W_enc"])
    errors = {check.name: check.error for check in check_directions(loss, params, grads)}
    assert errors.pop("W_enc") > 1e-3
    assert all(error <= 1e-6 for error in errors.values()), errors


def test_a_direction_across_a_kink_is_not_compared_and_one_beside_it_is():
    w = np.array([0.0, 0.5])
    [check] = check_directions(lambda p: float(np.abs(p["w"]).sum()), {"w": w}, {"w": np.array([0.0, 1.0])})
    assert (check.entries, check.kinks) == (0, 8)
    w[0] = 1e-5
    [check] = check_directions(lambda p: float(np.abs(p["w"]).sum()), {"w": w}, {"w": np.array([1.0, 1.0])})
    assert (check.entries, check.kinks) == (8, 0)
    assert check.error < 1e-6


def test_directions_of_what_is_not_finite_or_wrongly_asked():
    w = np.array([1.0, -2.0])
    [check] = check_directions(lambda p: float((p["w"] ** 2).sum()), {"w": w}, {"w": np.array([np.nan, 1.0])})
    assert check.error == np.inf
    with pytest.raises(InputError, match="directions: expected at least 1, got 0"):
        check_directions(quadratic, {"w": w}, {"w": w}, directions=0)
    with pytest.raises(InputError, match=r"grads\['v'\]: expected one of w, got that"):
        check_directions(quadratic, {"w": w}, {"v": w})
