"""The exact loss: a rule that integrates, the same number as many random rows, and minima known otherwise."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.errors import InputError
from toy_models import data, exact, models, train
from toy_models.models import Config


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_weights_are_probabilities(n_feat, i, nodes, seed):
    p = np.random.default_rng(seed).uniform(0.01, 1, (i, n_feat))
    x, weights = exact.batch(p, nodes=nodes)
    assert x.shape == (1, (1 + nodes) ** n_feat, n_feat)
    assert weights.shape == (i, x.shape[1])
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose((weights[..., None] * (x > 0)).sum(axis=1), p, rtol=1e-12)


@pytest.mark.parametrize(("nodes", "signed"), list(product((3, (7, 3), (9, 5, 3, 2)), (False, True))))
def test_polynomials_are_integrated_exactly(nodes, signed):
    """Degree up to 5 in each feature with three nodes: E[x_jᵃ] = p / (a + 1), or 0 for odd a if x has a sign."""
    p = np.array([0.3, 0.07, 0.9])
    x, weights = exact.batch(p, nodes=nodes, signed=signed)
    assert x.min() < 0 if signed else x.min() >= 0

    def moment(j, power):
        if power == 0:
            return 1
        return 0 if signed and power % 2 else p[j] / (power + 1)

    for powers in product(range(6), range(4), range(4)):
        got = weights[0] @ (x[0] ** powers).prod(axis=1)
        expected = np.prod([moment(j, power) for j, power in enumerate(powers)])
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-15), powers


def test_nodes_for_each_number_of_active_features():
    """nodes (5, 3) of four features: 1 empty row, 4 · 5 alone, then 3 for each active feature."""
    x, _ = exact.batch(0.1, n_feat=4, nodes=(5, 3))
    active = (x[0] > 0).sum(axis=1)
    np.testing.assert_array_equal(np.bincount(active), [1, 4 * 5, 6 * 3**2, 4 * 3**3, 3**4])


def test_missing_patterns_are_missing_weight():
    p, n = 0.2, 5
    _, weights = exact.batch(p, n_feat=n, nodes=2, max_active=2)
    expected = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(3))
    assert weights.sum() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(exact.batch(p, n_feat=2, nodes=2, max_active=9).x, exact.batch([p, p], nodes=2).x)


@pytest.mark.parametrize(("n_feat", "p", "seed"), list(product((2, 3), (0.1, 0.5, 1.0), range(3))))
def test_random_rows_agree(n_feat, p, seed):
    """Quadrature against 400,000 rows, four standard errors (rule of 128, 48, 24 nodes: error below that)."""
    rng = np.random.default_rng(seed)
    cfg = Config(n_feat, n_feat - 1)
    params = {"W": rng.standard_normal((1, n_feat - 1, n_feat)), "b": 0.3 * rng.standard_normal((1, n_feat))}
    importance = rng.uniform(0.2, 2, n_feat)
    x = data.sample(data.independent(p, n_feat=n_feat), 400_000, rng, dtype=np.float64)
    losses = ((models.forward(params, x, cfg)[0].x_hat - x) ** 2 @ importance)[0]
    rows = exact.batch(p, n_feat=n_feat, nodes=(128, 48, 24))
    loss = train.evaluate(cfg, params, rows, importance=importance)[0]
    assert abs(loss - losses.mean()) < 4 * losses.std() / np.sqrt(losses.size)


@pytest.mark.parametrize("p", [0.05, 0.3, 1.0])
def test_closed_forms(p):
    """An ignored feature costs p/3 − p²/4, predicted by its mean; each of an antipodal pair p²/6."""
    x, weights = exact.batch(p, n_feat=2, nodes=(64, 48))
    rows = data.Batch(x, weights)
    ignored = {"W": np.array([[[1.0, 0.0]]]), "b": np.array([[0, p / 2]])}
    assert train.evaluate(Config(2, 1), ignored, rows)[0] == pytest.approx(p / 3 - p**2 / 4, rel=1e-12)
    pair = {"W": np.array([[[1.0, -1.0]]]), "b": np.zeros((1, 2))}
    assert train.evaluate(Config(2, 1), pair, rows)[0] == pytest.approx(p**2 / 3, rel=1e-3)


def test_loss_and_gradient_are_those_of_training():
    rng = np.random.default_rng(3)
    cfg, rows = Config(3, 2), exact.batch([[0.3], [0.1]], n_feat=3, nodes=4)
    params = {"W": rng.standard_normal((2, 2, 3)), "b": rng.standard_normal((2, 3))}
    loss, grads = exact.loss_and_grads(cfg, params, rows)
    np.testing.assert_allclose(loss, train.evaluate(cfg, params, rows), rtol=1e-12)
    step = 1e-6
    for sign in (1, -1):
        moved = params | {"b": params["b"] + sign * step}
        change = train.evaluate(cfg, moved, rows) - loss
        np.testing.assert_allclose(change, sign * step * grads["b"].sum(axis=1), rtol=1e-3)


def pentagon(length=1.1, b=-0.2):
    angle = 2 * np.pi * np.arange(5) / 5
    return {"W": length * np.array([[np.cos(angle), np.sin(angle)]]), "b": np.full((1, 5), b)}


GOLDEN = [
    ({"nodes": 8, "max_active": 3}, 0.0088411, 1.1283, -0.2364),
    ({"nodes": (256, 32, 12, 6, 3)}, 0.0089035, 1.1349, -0.2467),
]
"""The first is an independent implementation's with the same rule; the second rule is finer: 1,103,126 rows give
.0089036, 1.1346 and −.2463."""


@pytest.mark.parametrize(("rule", "loss", "length", "b"), GOLDEN)
def test_the_pentagon(rule, loss, length, b):
    """n_feat = 5, n_hid = 2, p = 0.05: the minimum next to a pentagon is a regular one."""
    rows = exact.batch(0.05, n_feat=5, **rule)
    found, losses = exact.minimise(Config(5, 2), pentagon(), rows)
    W = found["W"][0]
    size = np.linalg.norm(W, axis=0)
    assert losses[0] == pytest.approx(loss, abs=5e-8)
    np.testing.assert_allclose(size, length, atol=5e-5)
    np.testing.assert_allclose(found["b"], b, atol=5e-5)
    cos = np.sort(W.T @ W / np.outer(size, size), axis=1)
    np.testing.assert_allclose(cos, [[np.cos(0.8 * np.pi)] * 2 + [np.cos(0.4 * np.pi)] * 2 + [1]] * 5, atol=1e-4)


def test_minimise_takes_each_instance_to_its_own_minimum():
    """Linear, one hidden: W = (1, 0), b = (0, p/2) loses the less important feature, for each density."""
    p, importance = np.array([[0.2], [0.7]]), np.array([[1.0, 0.3], [0.3, 1.0]])
    rows = exact.batch(p, n_feat=2, nodes=3)
    start = {"W": np.array([[[0.7, 0.2]], [[0.2, 0.7]]]), "b": np.zeros((2, 2))}
    kept = {name: a.copy() for name, a in start.items()}
    found, loss = exact.minimise(Config(2, 1, output="identity"), start, rows, importance=importance)
    np.testing.assert_allclose(loss, 0.3 * (p[:, 0] / 3 - p[:, 0] ** 2 / 4), rtol=1e-9)
    np.testing.assert_allclose(abs(found["W"][:, 0]), [[1, 0], [0, 1]], atol=1e-5)
    np.testing.assert_allclose(found["b"], [[0, 0.1], [0.35, 0]], atol=1e-5)
    for name, a in start.items():
        np.testing.assert_array_equal(a, kept[name])


BAD = {
    "density": ({"density": 0}, r"density: expected numbers in \(0, 1\], got 0"),
    "nodes": ({"nodes": 0}, "nodes: expected a whole number of at least 1, got 0"),
    "part of a node": ({"nodes": 2.5}, r"nodes: expected a whole number of at least 1, got 2\.5"),
    "part of one node": ({"nodes": (3, 2.5)}, r"nodes: expected a whole number of at least 1, got 2\.5"),
    "no nodes": ({"nodes": ()}, "nodes: expected a whole number or several, got none"),
    "active": ({"max_active": -1}, "max_active: expected a whole number of at least 0, got -1"),
    "partly active": ({"max_active": 1.5}, r"max_active: expected a whole number of at least 0, got 1\.5"),
    "rows": ({"n_feat": 6}, r"max_active: 24137569 rows are too many; ask for .*"),
    "many features": ({"n_feat": 100}, r"max_active: \d+ rows are too many; ask for .*"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    options, message = BAD[case]
    with pytest.raises(InputError, match=f"^{message}$"):
        exact.batch(**{"density": 0.1, "n_feat": 3, **options})
