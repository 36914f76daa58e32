"""The models: gradients against finite differences, formulas of their own, symmetries; values worked by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.verify import check_gradients
from toy_models import models
from toy_models.models import TARGETS, Config, Work

TOLERANCE = 1e-6
TIED = {
    "linear": {"output": "identity"},
    "relu output": {},
    "relu hidden": {"hidden": "relu"},
    "relu hidden, linear output": {"hidden": "relu", "output": "identity"},
}
MLP = {f"mlp {h} {o}": {"kind": "mlp", "hidden": h, "output": o} for h, o in product(models.ACTIVATIONS, repeat=2)}
KINDS = TIED | MLP
TARGETS_OF_WIDTH_N_FEAT = [name for name in TARGETS if name != "pairs"]


def drawn(cfg, rng, *, i=2, n=7, shared=False):
    """Parameters and rows away from every special value."""
    params = {name: rng.standard_normal((i, *shape)) for name, shape in models.sizes(cfg).items()}
    return params, rng.standard_normal((1 if shared else i, n, cfg.n_feat))


def objective(params, x, cfg, *, target="identity", importance=None, weights=None, l1=0.0):
    """The sum of the instances' losses, and the gradient of every parameter."""
    out, cache = models.forward(params, x, cfg)
    term = models.squared_error(out.x_hat, TARGETS[target](x), importance=importance, weights=weights)
    total, slopes = term.value.sum(), dict(term.slopes)
    if l1:
        penalty = models.hidden_l1(out.h, coefficient=l1, weights=weights)
        total, slopes = total + penalty.value.sum(), slopes | penalty.slopes
    return float(total), models.backward(params, cache, cfg, slopes)


def assert_right(params, x, cfg, **options):
    _, grads = objective(params, x, cfg, **options)
    checks = check_gradients(lambda p: objective(p, x, cfg, **options)[0], params, grads)
    assert {check.name for check in checks} == models.sizes(cfg).keys()
    assert all(check.error <= TOLERANCE for check in checks), checks
    assert sum(check.kinks for check in checks) <= 2


@pytest.mark.parametrize(("kind", "l1"), list(product(KINDS, (0.0, 0.7))))
def test_gradients_of_every_model(kind, l1):
    rng = np.random.default_rng(1)
    cfg = Config(5, 3, **KINDS[kind])
    params, x = drawn(cfg, rng)
    assert_right(params, x, cfg, l1=l1, importance=rng.random((2, 5)), weights=rng.random((2, 7)))


@pytest.mark.parametrize(("kind", "target"), list(product(MLP, TARGETS)))
def test_gradients_of_every_target(kind, target):
    rng = np.random.default_rng(2)
    cfg = Config(5, 3, n_out=10 if target == "pairs" else 0, **MLP[kind])
    params, x = drawn(cfg, rng)
    assert_right(params, x, cfg, target=target, importance=rng.random(models.n_out(cfg)))


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99), st.data())
def test_gradients_of_any_shape(i, n, n_feat, n_hid, seed, data):
    rng = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(list(KINDS)))
    wide = kind in MLP and n_feat > 1 and data.draw(st.booleans())
    target = "pairs" if wide else data.draw(st.sampled_from(TARGETS_OF_WIDTH_N_FEAT))
    cfg = Config(n_feat, n_hid, n_out=n_feat * (n_feat - 1) // 2 if wide else 0, **KINDS[kind])
    width = models.n_out(cfg)
    importance = data.draw(st.sampled_from([None, rng.random(width), rng.random((i, width)), rng.random((1, width))]))
    weights = data.draw(st.sampled_from([None, rng.random((i, n)), rng.random((1, n))]))
    params, x = drawn(cfg, rng, i=i, n=n, shared=data.draw(st.booleans()))
    l1 = data.draw(st.sampled_from([0.0, 0.4]))
    assert_right(params, x, cfg, target=target, importance=importance, weights=weights, l1=l1)


@pytest.mark.parametrize(("kind", "outputs"), list(product(KINDS, (("x_hat",), ("h",), ("x_hat", "h")))))
def test_slopes_on_each_output(kind, outputs):
    rng = np.random.default_rng(3)
    cfg = Config(5, 3, **KINDS[kind])
    params, x = drawn(cfg, rng)
    out, cache = models.forward(params, x, cfg)
    slopes = {name: rng.standard_normal(getattr(out, name).shape) for name in outputs}
    grads = models.backward(params, cache, cfg, {name: slope.copy() for name, slope in slopes.items()})

    def loss(p):
        got = models.forward(p, x, cfg)[0]
        return float(sum((getattr(got, name) * slope).sum() for name, slope in slopes.items()))

    checks = check_gradients(loss, params, grads)
    assert all(check.error <= TOLERANCE for check in checks), checks
    assert sum(check.entries for check in checks) >= 2 * sum(p.size for p in params.values()) // 3


@pytest.mark.parametrize("kind", KINDS)
def test_room_for_the_arrays_changes_nothing(kind):
    """Twice through the same buffers: nothing of the first batch is left in the second."""
    rng = np.random.default_rng(4)
    cfg = Config(5, 3, **KINDS[kind])
    params, first = drawn(cfg, rng)
    room, wide = np.empty((2, 7, 3)), np.empty((2, 7, 5))
    work = Work(room, wide, wide.copy(), room.copy(), np.empty(wide.shape, bool), np.empty(room.shape, bool))
    for x in (first, first[:, ::-1] * 1.5):
        out, cache = models.forward(params, x, cfg, work=work)
        slope = models.error_slope(out.x_hat, x, out=work.d_z)
        grads = models.backward(params, cache, cfg, {"x_hat": slope}, work=work)
        for name, grad in objective(params, x, cfg)[1].items():
            np.testing.assert_array_equal(grads[name], grad)
        assert out.x_hat is work.x_hat


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 999))
def test_linear_gradient_by_another_formula(n_feat, n_hid, seed):
    """∂W = 2W(CMΛ + ΛMC), C = E[xxᵀ], M = WᵀW − 1, Λ = diag(importance): for the linear model without b."""
    rng = np.random.default_rng(seed)
    cfg = Config(n_feat, n_hid, output="identity")
    params, x = drawn(cfg, rng, i=1)
    params["b"][:] = 0
    importance, weights = rng.random(n_feat), rng.dirichlet(np.ones(7))[None]
    W, C, L = params["W"][0], np.einsum("n,nj,nk->jk", weights[0], x[0], x[0]), np.diag(importance)
    M = W.T @ W - np.eye(n_feat)
    expected = 2 * W @ (C @ M @ L + L @ M @ C)
    _, grads = objective(params, x, cfg, importance=importance, weights=weights)
    np.testing.assert_allclose(grads["W"][0], expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def orthogonal(n, rng):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


@given(st.sampled_from(["linear", "relu output"]), st.integers(1, 7), st.integers(1, 5), st.integers(0, 999))
def test_rotation_of_the_hidden_space(kind, n_feat, n_hid, seed):
    """Nothing distinguishes a basis of h: loss(OW) = loss(W), ∂(OW) = O ∂W."""
    rng = np.random.default_rng(seed)
    cfg = Config(n_feat, n_hid, **KINDS[kind])
    params, x = drawn(cfg, rng, i=1)
    turn = orthogonal(n_hid, rng)
    loss, grads = objective(params, x, cfg)
    turned, turned_grads = objective(params | {"W": turn @ params["W"]}, x, cfg)
    assert turned == pytest.approx(loss, rel=1e-10)
    size = abs(grads["W"]).max()
    np.testing.assert_allclose(turned_grads["W"], turn @ grads["W"], rtol=1e-8, atol=1e-9 * size)
    np.testing.assert_allclose(turned_grads["b"], grads["b"], rtol=1e-8, atol=1e-9 * size)


@pytest.mark.parametrize("seed", range(5))
def test_relu_in_the_middle_makes_a_basis_special(seed):
    """A rotation changes the loss; the neurons can still change places."""
    rng = np.random.default_rng(seed)
    cfg = Config(7, 5, hidden="relu")
    params, x = drawn(cfg, rng, i=1)
    loss, grads = objective(params, x, cfg)
    turned, _ = objective(params | {"W": orthogonal(5, rng) @ params["W"]}, x, cfg)
    assert abs(turned - loss) > 1e-2 * loss
    order = rng.permutation(5)
    moved, moved_grads = objective(params | {"W": params["W"][:, order]}, x, cfg)
    assert moved == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(moved_grads["W"], grads["W"][:, order], rtol=1e-10)


@given(st.sampled_from(list(TIED)), st.integers(1, 7), st.integers(1, 5), st.integers(0, 999))
def test_features_may_change_places(kind, n_feat, n_hid, seed):
    rng = np.random.default_rng(seed)
    cfg = Config(n_feat, n_hid, **TIED[kind])
    params, x = drawn(cfg, rng)
    importance, order = rng.random(n_feat), rng.permutation(n_feat)
    loss, grads = objective(params, x, cfg, importance=importance, l1=0.3)
    moved = {name: p[..., order] for name, p in params.items()}
    got, moved_grads = objective(moved, x[..., order], cfg, importance=importance[order], l1=0.3)
    assert got == pytest.approx(loss, rel=1e-11)
    for name, grad in grads.items():
        np.testing.assert_allclose(moved_grads[name], grad[..., order], rtol=1e-9, atol=1e-10 * abs(grad).max())


@given(st.integers(1, 5), st.integers(0, 99))
def test_scale_of_a_neuron_is_free(n_hid, seed):
    """W_1 → D W_1, W_2 → W_2 D⁻¹ for D > 0 leaves an mlp as it is."""
    rng = np.random.default_rng(seed)
    cfg = Config(3, n_hid, kind="mlp", hidden="relu")
    params, x = drawn(cfg, rng)
    scale = rng.uniform(0.5, 2, n_hid)
    scaled = params | {"W_1": params["W_1"] * scale[:, None], "W_2": params["W_2"] / scale}
    loss = objective(params, x, cfg, target="absolute")[0]
    assert objective(scaled, x, cfg, target="absolute")[0] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_instances_never_meet(kind):
    rng = np.random.default_rng(6)
    cfg = Config(5, 3, **KINDS[kind])
    params, x = drawn(cfg, rng, i=3)
    importance, weights = rng.random((3, 5)), rng.random((3, 7))
    _, together = objective(params, x, cfg, importance=importance, weights=weights, l1=0.2)
    for k in range(3):
        one = {name: p[k : k + 1] for name, p in params.items()}
        part = slice(k, k + 1)
        alone = objective(one, x[part], cfg, importance=importance[part], weights=weights[part], l1=0.2)[1]
        for name, grad in alone.items():
            np.testing.assert_allclose(together[name][part], grad, rtol=1e-12, atol=1e-14)


def test_antipodal_pair_by_hand():
    """W = [1, −1]: h = x − y, x_hat = (ReLU(x − y), ReLU(y − x)); two active features cost min(x, y)² twice."""
    params = {"W": np.array([[[1.0, -1.0]]]), "b": np.zeros((1, 2))}
    x = np.array([[[0.5, 0.25], [0.75, 0.0]]])
    out, cache = models.forward(params, x, Config(2, 1))
    np.testing.assert_array_equal(out.h[0, :, 0], [0.25, 0.75])
    np.testing.assert_array_equal(out.x_hat[0], [[0.25, 0], [0.75, 0]])
    term = models.squared_error(out.x_hat, x, importance=np.array([1.0, 3.0]))
    assert term.value[0] == (0.25**2 + 3 * 0.25**2) / 2
    np.testing.assert_array_equal(term.slopes["x_hat"][0], [[-0.25, -0.75], [0, 0]])
    # d_z = (−¼, 0): the second output is off. d_h = −¼. d_W = h d_z + d_h x = (−1/16 − 1/8, −1/16).
    grads = models.backward(params, cache, Config(2, 1), term.slopes)
    np.testing.assert_array_equal(grads["W"][0], [[-3 / 16, -1 / 16]])
    np.testing.assert_array_equal(grads["b"][0], [-0.25, 0])


def test_absolute_value_by_hand():
    """Two neurons, ReLU(x) and ReLU(−x), summed."""
    params = {"W_1": np.array([[[1.0], [-1.0]]]), "W_2": np.array([[[1.0, 1.0]]]), "b": np.zeros((1, 1))}
    x = np.array([[[0.5], [-0.25]]])
    out, _ = models.forward(params, x, Config(1, 2, kind="mlp", hidden="relu"))
    np.testing.assert_array_equal(out.x_hat[0, :, 0], [0.5, 0.25])
    assert models.squared_error(out.x_hat, TARGETS["absolute"](x)).value[0] == 0


def test_hidden_l1_by_hand():
    h = np.array([[[1.0, -2.0], [0.0, 3.0]]])
    term = models.hidden_l1(h, coefficient=0.5)
    assert term.value[0] == 0.5 * 6 / 2
    np.testing.assert_array_equal(term.slopes["h"][0], [[0.25, -0.25], [0, 0.25]])
    weighted = models.hidden_l1(h, coefficient=0.5, weights=np.array([[0.25, 0.75]]))
    assert weighted.value[0] == 0.5 * (3 * 0.25 + 3 * 0.75)


def test_targets_by_hand():
    x = np.array([[0.5, -1.0, 2.0]])
    expected = {
        "identity": [0.5, -1, 2], "absolute": [0.5, 1, 2], "square": [0.25, 1, 4], "relu": [0.5, 0, 2],
        "pairs": [-0.5, 1, -2],
    }  # fmt: skip
    assert TARGETS.keys() == expected.keys()
    for name, target in TARGETS.items():
        np.testing.assert_array_equal(target(x)[0], expected[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_start(dtype):
    """Xavier's variance 2 / (rows + columns), measured over 60,000 numbers; b is zero."""
    params = models.init(Config(300, 200), np.random.default_rng(0), dtype=dtype)
    assert params["W"].shape == (200, 300)
    assert params["W"].dtype == params["b"].dtype == dtype
    assert params["W"].var() == pytest.approx(2 / 500, rel=0.03)
    assert abs(params["W"].mean()) < 4 * np.sqrt(2 / 500 / 60_000)
    assert not params["b"].any()
    positive = models.init(Config(300, 200, start="positive"), np.random.default_rng(0), dtype=dtype)
    np.testing.assert_array_equal(positive["W"], abs(params["W"]))


def test_float32_stays_float32():
    cfg = Config(5, 3, hidden="relu")
    params = {name: p[None] for name, p in models.init(cfg, np.random.default_rng(0)).items()}
    x = np.random.default_rng(1).random((1, 7, 5), np.float32)
    weights = np.full((1, 7), 1 / 7, np.float32)
    loss = models.squared_error(models.forward(params, x, cfg)[0].x_hat, x, importance=x[0, 0], weights=weights)
    _, grads = objective(params, x, cfg, importance=x[0, 0], weights=weights, l1=0.1)
    assert {a.dtype for a in (loss.value, *grads.values())} == {np.dtype(np.float32)}


BAD = {
    "n_feat": (Config(0, 2), "n_feat: expected a whole number of at least 1, got 0"),
    "n_hid": (Config(5, 0), "n_hid: expected a whole number of at least 1, got 0"),
    "fraction": (Config(5, 2.5), "n_hid: expected a whole number of at least 1, got 2.5"),
    "n_out": (Config(5, 2, n_out=-1), "n_out: expected a whole number of at least 0, got -1"),
    "kind": (Config(5, 2, kind="deep"), "kind: expected one of tied, mlp, got 'deep'"),
    "hidden": (Config(5, 2, hidden="tanh"), "hidden: expected one of identity, relu, got 'tanh'"),
    "output": (Config(5, 2, output="tanh"), "output: expected one of identity, relu, got 'tanh'"),
    "start": (Config(5, 2, start="zeros"), "start: expected one of xavier, positive, got 'zeros'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configuration(case):
    cfg, message = BAD[case]
    with pytest.raises(InputError) as caught:
        models.check_config(cfg)
    assert str(caught.value) == message
