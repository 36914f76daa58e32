"""The attack on models worked by hand, and check 19 of the reference (slow)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.streams import generator
from toy_models import data, geometry, models, train
from toy_models.experiments import adversarial
from toy_models.models import Config

LINEAR = Config(2, 2, output="identity")
ONE = {"W": np.eye(2)[None], "b": np.zeros((1, 2))}


def test_directions_by_hand():
    W = np.array([[1.0, -2, 0], [0, 0, 0]])
    got = adversarial.directions(W)
    np.testing.assert_allclose(got, np.array([[1, -2, 0], [-1, 2, 0], [0, 0, 0]]) / 5**0.5 * [[1], [1], [0]])


def test_an_orthonormal_model_loses_exactly_epsilon_squared():
    x = np.array([[0.3, 0.7], [0.0, 0.9], [1.0, 0.0]])
    np.testing.assert_allclose(adversarial.worst_errors(LINEAR, ONE, x, epsilon=0.2), 0.04)
    np.testing.assert_allclose(adversarial.worst_errors(LINEAR, ONE, x, epsilon=0.2, importance=[3, 1]), 0.12)
    np.testing.assert_allclose(adversarial.worst_errors(LINEAR, ONE, x, epsilon=0.0), 0, atol=1e-15)


def test_a_digon_loses_twice_as_much():
    """W = [1, −1]: z = ±(x_1 − x_2) moves by √2 ε in both outputs; ReLU keeps one of them."""
    digon, cfg = {"W": np.array([[[1.0, -1.0]]]), "b": np.zeros((1, 2))}, Config(2, 1)
    x = np.array([[0.5, 0.0], [0.0, 0.8]])
    np.testing.assert_allclose(adversarial.worst_errors(cfg, digon, x, epsilon=0.1), 2 * 0.1**2)
    linear = cfg._replace(output="identity")
    np.testing.assert_allclose(
        adversarial.worst_errors(linear, digon, np.zeros((1, 2)), epsilon=0.1), 4 * 0.1**2, rtol=1e-12
    )


@given(n_feat=st.integers(1, 7), n_hid=st.integers(1, 5), seed=st.integers(0, 999))
def test_the_worst_is_the_worst_of_the_directions(n_feat, n_hid, seed):
    rng = np.random.default_rng(seed)
    cfg = Config(n_feat, n_hid)
    params = {"W": rng.standard_normal((1, n_hid, n_feat)), "b": rng.standard_normal((1, n_feat))}
    x = rng.random((11, n_feat))
    got = adversarial.worst_errors(cfg, params, x, epsilon=0.3)
    W = params["W"][0]
    expected = np.zeros(11)
    for j in range(n_feat):
        g = (W.T @ W)[j]
        for sign in (1, -1):
            x_hat = np.maximum((x + sign * 0.3 * g / np.linalg.norm(g)) @ W.T @ W + params["b"], 0)
            expected = np.maximum(expected, ((x_hat - x) ** 2).sum(axis=1))
    np.testing.assert_allclose(got, expected)


def test_the_rise_of_linear_models_by_hand():
    """x_hat = x s²: the attack adds ε s² along one axis, so the rise over ε² is s⁴ where the clean error is 0."""
    params = {"W": np.stack([np.eye(2), np.eye(2)[::-1]]), "b": np.zeros((2, 2))}
    seen = data.independent([[1.0], [0.3]], n_feat=2)
    got = adversarial.vulnerability(LINEAR, params, seen, rows=211)
    np.testing.assert_allclose(got.relative, [1, 1])
    np.testing.assert_allclose(got.per_dim, [1, 1])
    np.testing.assert_allclose(got.clean, 0, atol=1e-15)
    np.testing.assert_allclose(got.worst, got.epsilon**2)
    assert got.epsilon[1] < got.epsilon[0]
    x = data.sample(data.independent(1.0, n_feat=2), 211, generator(0, "toy_test"), dtype=np.float64)[0]
    np.testing.assert_allclose(got.epsilon[0], 0.1 * np.linalg.norm(x, axis=1).mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adversarial.worst_errors(LINEAR, ONE, np.ones((3, 5)), epsilon=0.1), "params, x: expected"),
        (lambda: adversarial.worst_errors(LINEAR, ONE, np.ones((3, 2)), epsilon=-1.0), "epsilon: expected"),
        (lambda: adversarial.worst_errors(LINEAR, ONE, np.ones((3, 2)), epsilon=np.nan), "epsilon: expected"),
        (
            lambda: adversarial.vulnerability(Config(2, 2, kind="mlp"), ONE, data.single_active(2)),
            "cfg: expected a tied model",
        ),
        (
            lambda: adversarial.vulnerability(LINEAR, ONE, data.single_active(2), reference=1),
            "reference, share, rows, data",
        ),
        (lambda: adversarial.vulnerability(LINEAR, ONE, data.single_active(2), share=0), "reference, share"),
        (
            lambda: adversarial.vulnerability(LINEAR, ONE | {"W": np.zeros((1, 2, 2))}, data.single_active(2)),
            "reference: instance 0 is not hurt",
        ),
        (lambda: adversarial.directions(np.full((2, 3), np.nan)), "W: expected finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


INVERSE = np.array([1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100])


@pytest.fixture(scope="module")
def sweep():
    """100 features in 10 dimensions at 16 densities."""
    cfg, seen = Config(100, 10), data.independent(1 / INVERSE[:, None], n_feat=100)
    return cfg, seen, train.train(cfg, seen, steps=8000, batch_size=512, lr=2e-3).params


@pytest.mark.slow
def test_vulnerability_follows_features_per_dimension(sweep):
    """Check 19."""
    cfg, seen, params = sweep
    found = adversarial.vulnerability(cfg, params, seen)
    assert np.corrcoef(found.relative, found.per_dim)[0, 1] > 0.97
    at = {x: found.relative[x == INVERSE][0] for x in (4, 5)}
    assert max(at.values()) >= 3
    assert found.relative[0] == 1
    assert (found.worst > found.clean).all()


@pytest.mark.slow
def test_the_attack_beats_random_directions(sweep):
    """A direction drawn evenly hurts less than the analytic one, at every density."""
    cfg, seen, params = sweep
    rng = np.random.default_rng(0)
    found = adversarial.vulnerability(cfg, params, seen, rows=257)
    for k in range(len(INVERSE)):
        one = {name: p[k : k + 1].astype(np.float64) for name, p in params.items()}
        x = data.sample(data.independent(1 / INVERSE[k], n_feat=100), 257, rng, dtype=np.float64)
        move = geometry.unit_columns(rng.standard_normal((100, 257))).T * found.epsilon[k]
        loss = [((models.forward(one, x + step, cfg)[0].x_hat - x) ** 2).sum() / 257 for step in (0, move)]
        assert loss[1] - loss[0] < 0.5 * (found.worst[k] - found.clean[k])
