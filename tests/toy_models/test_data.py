"""What the models see. Claims about distributions are in standard errors, over several seeds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from minisae.errors import InputError
from toy_models import data, models
from toy_models.models import Config

SEEDS = (0, 1, 2)
FAR = 4.5
"""Standard errors: one claim in 150,000 fails by chance, and the tests make some hundreds."""


def drawn(source, *, seed, draws=40, n=5_003, part=None, how="sampler"):
    """Rows ``(i, n, n_feat)`` of several draws from one sampler, and their weights, 1 in sum over all draws."""
    draw = getattr(source, how)(part or slice(0, source.instances), n, np.dtype(np.float32))
    rng, rows, shares = np.random.default_rng(seed), [], []
    for _ in range(draws):
        x, weights = draw(rng)
        rows.append(x.copy())
        shares.append(np.full(x.shape[:2], 1 / n) if weights is None else weights.copy())
    return np.concatenate(rows, axis=1), np.concatenate(shares, axis=1) / draws, draws * n


def patterns(x):
    """Which features are present in each row, as one number."""
    return ((x > 0) * (1 << np.arange(x.shape[-1]))).sum(axis=-1)


def errors_of_patterns(x, weights, p, total):
    """Observed minus true probability of every activity pattern of independent features, in standard errors."""
    observed = np.bincount(patterns(x), weights, minlength=1 << len(p))
    bits = np.arange(1 << len(p))[:, None] >> np.arange(len(p)) & 1
    true = np.where(bits, p, 1 - p).prod(axis=1)
    return (observed - true) / np.sqrt(np.maximum(true * (1 - true), 1e-12) / total)


P = np.array([[0.3, 0.05, 0.17], [0.02, 0.2, 0.1]])


@pytest.mark.parametrize(("how", "seed"), list(product(("sampler", "counted"), SEEDS)))
def test_independent_features(how, seed):
    """Every pattern of presence has its probability, so marginals and co-occurrence do; magnitudes are uniform."""
    x, weights, total = drawn(data.independent(P), seed=seed, how=how)
    assert ((x >= 0) & (x < 1)).all()
    for k in range(2):
        assert abs(errors_of_patterns(x[k], weights[k], P[k], total)).max() < FAR
        for j in range(3):
            assert kstest(x[k, :, j][x[k, :, j] > 0], "uniform").pvalue > 1e-4
        both = x[k][(x[k, :, 1] > 0) & (x[k, :, 2] > 0)]
        assert abs(np.corrcoef(both[:, 1], both[:, 2])[0, 1]) < FAR / np.sqrt(len(both))


@pytest.mark.parametrize("seed", SEEDS)
def test_counted_batches_are_the_same_distribution(seed):
    """Weights, moments and the loss of a model, each against listed rows."""
    source, cfg = data.independent(0.03, n_feat=7), Config(7, 3)
    listed, shares, total = drawn(source, seed=seed, part=slice(0, 1))
    x, weights, _ = drawn(source, seed=seed + 100, part=slice(0, 1), how="counted")
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert x.shape[1] < 0.3 * listed.shape[1]
    moments = []
    for rows, w in ((listed, shares), (x, weights)):
        params = {name: p[None] for name, p in models.init(cfg, np.random.default_rng(5), dtype=np.float64).items()}
        params["b"] += 0.1
        loss = ((models.forward(params, rows.astype(np.float64), cfg)[0].x_hat - rows) ** 2).sum(axis=-1)[0]
        values = np.stack([loss, loss**2, rows[0, :, 0], rows[0, :, 0] * rows[0, :, 1]])
        mean = values @ w[0].astype(np.float64)
        moments.append((mean, ((values - mean[:, None]) ** 2) @ w[0] / total))
    (first, noise), (second, other_noise) = moments
    assert (abs(first - second) < 4 * np.sqrt(noise + other_noise)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_counted_batches_count_as_many_rows_as_listed_ones(seed):
    """The number of rows that are not empty is binomial, with its variance: batches are as noisy as listed ones."""
    n, p = 101, 1 - 0.97**7
    draw = data.independent(0.03, n_feat=7).counted(slice(0, 3), n, np.dtype(np.float64))
    rng = np.random.default_rng(seed)
    counts = np.array([n * (1 - draw(rng).weights[:, 0]) for _ in range(2_000)])
    assert counts.shape == (2_000, 3)
    assert abs(counts.mean() - n * p) < FAR * np.sqrt(n * p * (1 - p) / counts.size)
    assert counts.var() == pytest.approx(n * p * (1 - p), rel=FAR * np.sqrt(2 / counts.size))
    np.testing.assert_allclose(np.corrcoef(counts.T), np.eye(3), atol=FAR / np.sqrt(len(counts)))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 50), st.integers(0, 99), st.floats(0.001, 1))
def test_counted_weights_of_any_shape(i, n_feat, n, seed, top):
    rng = np.random.default_rng(seed)
    p = top * rng.uniform(0.01, 1, (i, n_feat))
    draw = data.independent(p).counted(slice(0, i), n, np.dtype(np.float64))
    for _ in range(3):
        x, weights = draw(rng)
        if weights is None:
            assert x.shape == (i, n, n_feat)
            continue
        assert x.shape[:2] == weights.shape
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
        assert not x[:, 0].any()
        used = weights[:, 1:] > 0
        assert (x[:, 1:].any(axis=-1) | ~used).all(), "a row that counts as not empty is empty"
        np.testing.assert_allclose(n * weights[:, 1:], used, atol=1e-9)


def test_counted_buffers_grow():
    """A batch with more rows than the room at first: none may be lost."""

    class Full:
        """A generator whose binomial numbers are first small, then as large as they can be."""

        def __init__(self):
            self.rng, self.first = np.random.default_rng(0), True

        def binomial(self, n, p):
            self.first, small = False, self.first
            return np.zeros(p.shape, int) if small else np.full(p.shape, n)

        def random(self, **options):
            return self.rng.random(**options)

    rng, draw = Full(), data.independent(0.01, n_feat=3).counted(slice(0, 2), 97, np.dtype(np.float64))
    np.testing.assert_array_equal(draw(rng).weights[:, 0], 1)
    x, weights = draw(rng)
    assert ((x > 0).any(axis=-1).sum(axis=1) >= 97).all()
    np.testing.assert_allclose(weights[:, 1:98], 1 / 97)
    assert not weights[:, 98:].any()


@pytest.mark.parametrize("how", ["sampler", "counted"])
def test_signed_features(how):
    x, weights, total = drawn(data.independent([0.2, 0.1], signed=True), seed=0, how=how)
    assert ((x > -1) & (x < 1)).all()
    present = x[0][x[0, :, 0] != 0][:, 0]
    assert kstest((present + 1) / 2, "uniform").pvalue > 1e-4
    observed = [(weights[0] * (x[0, :, j] != 0)).sum() for j in range(2)]
    for seen, p in zip(observed, (0.2, 0.1), strict=True):
        assert abs(seen - p) < FAR * np.sqrt(p * (1 - p) / total)


@pytest.mark.parametrize("how", ["sampler", "counted"])
def test_each_instance_has_its_own_density(how):
    p = np.array([0.01, 0.05, 0.1, 0.2, 0.4])[:, None]
    x, weights, total = drawn(data.independent(p, n_feat=3), seed=0, part=slice(1, 4), how=how)
    seen = (weights[..., None] * (x > 0)).sum(axis=1)
    assert seen.shape == (3, 3)
    assert (abs(seen - p[1:4]) < FAR * np.sqrt(p[1:4] * (1 - p[1:4]) / total)).all()


def test_density_of_one_is_never_empty():
    assert (data.sample(data.independent(1, n_feat=5), 1_009, np.random.default_rng(0)) > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_correlated_sets(seed):
    """A set is present as a whole; sets do not know of each other; magnitudes are each feature's own."""
    x, _, total = drawn(data.correlated(np.array([[0.2, 0.05]]), sets=2, size=3), seed=seed)
    gates = (x[0] > 0).reshape(-1, 2, 3)
    assert (gates.all(axis=-1) == gates.any(axis=-1)).all()
    errors = errors_of_patterns(gates[:, :, 0].astype(int), np.full(total, 1 / total), np.array([0.2, 0.05]), total)
    assert abs(errors).max() < FAR
    inside = x[0][gates[:, 0, 0], :3]
    assert (abs(np.corrcoef(inside.T) - np.eye(3)) < FAR / np.sqrt(len(inside))).all()
    assert kstest(inside[:, 1], "uniform").pvalue > 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_anticorrelated_sets(seed):
    """Never two of a set; each member has density / size."""
    x, _, total = drawn(data.anticorrelated(0.3, sets=2, size=3), seed=seed)
    present = (x[0] > 0).reshape(-1, 2, 3)
    assert present.sum(axis=-1).max() == 1
    rate = present.mean(axis=0)
    assert (abs(rate - 0.1) < FAR * np.sqrt(0.09 / total)).all()
    both = present.any(axis=-1).all(axis=-1).mean()
    assert abs(both - 0.09) < FAR * np.sqrt(0.09 * 0.91 / total)
    assert kstest(x[0, :, 4][x[0, :, 4] > 0], "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("seed", "magnitude"), list(product(SEEDS, ("uniform", "one"))))
def test_hierarchies(seed, magnitude):
    """A child is present only with its parent, and then with its own probability."""
    source = data.hierarchical([0.4, 0.5, 0.25, 0.1], [-1, 0, 1, -1], magnitude=magnitude)
    x, _, _ = drawn(source, seed=seed)
    present = x[0] > 0
    for child, parent, p in ((1, 0, 0.5), (2, 1, 0.25), (3, None, 0.1), (0, None, 0.4)):
        given_parent = present if parent is None else present[present[:, parent]]
        if parent is not None:
            assert not present[~present[:, parent], child].any()
        assert abs(given_parent[:, child].mean() - p) < FAR * np.sqrt(p * (1 - p) / len(given_parent))
    values = x[0][present]
    assert (values == 1).all() if magnitude == "one" else kstest(values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_single_active_feature(seed):
    x, _, total = drawn(data.single_active(7), seed=seed)
    assert ((x > 0).sum(axis=-1) <= 1).all()
    assert (x > 0).any(axis=-1).mean() > 1 - 1e-5  # a magnitude may be 0
    rate = (x[0] > 0).mean(axis=0)
    assert (abs(rate - 1 / 7) < FAR * np.sqrt(6 / 49 / total)).all()
    assert kstest(x[0].max(axis=-1), "uniform").pvalue > 1e-4


def test_single_active_serves_any_number_of_instances():
    draw = data.single_active(5).sampler(slice(3, 7), 11, np.dtype(np.float32))
    x = draw(np.random.default_rng(0)).x
    assert x.shape == (4, 11, 5)
    assert len({row.tobytes() for row in x}) == 4


def test_fixed_rows():
    x = np.arange(24.0).reshape(2, 4, 3)
    own = data.fixed(x, [[0.1, 0.2, 0.3, 0.4], [0.25] * 4])
    assert (own.n_feat, own.instances) == (3, 2)
    batch = own.sampler(slice(1, 2), 999, np.dtype(np.float32))(None)
    np.testing.assert_array_equal(batch.x, x[1:])
    np.testing.assert_array_equal(batch.weights, [[0.25] * 4])
    shared = data.fixed(x[0], [0.1, 0.2, 0.3, 0.4])
    assert shared.instances == 1
    batch = shared.sampler(slice(2, 5), 999, np.dtype(np.float64))(None)
    assert batch.x.shape == (1, 4, 3)
    assert batch.x.dtype == batch.weights.dtype == np.float64
    assert data.fixed(x[0]).sampler(slice(0, 1), 1, np.dtype(np.float32))(None).weights is None


EVERY = {
    "independent": data.independent(0.1, n_feat=6),
    "dense": data.independent(0.9, n_feat=6),
    "signed": data.independent(0.1, n_feat=6, signed=True),
    "correlated": data.correlated(0.2, sets=3, size=2),
    "anticorrelated": data.anticorrelated(0.2, sets=3, size=2),
    "hierarchical": data.hierarchical([0.5] * 6, [-1, 0, 0, -1, 3, 3]),
    "single": data.single_active(6),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samplers_are_reproducible_and_keep_the_dtype(name, dtype):
    source = EVERY[name]
    first = data.sample(source, 53, np.random.default_rng(7), dtype=dtype)
    again = data.sample(source, 53, np.random.default_rng(7), dtype=dtype)
    other = data.sample(source, 53, np.random.default_rng(8), dtype=dtype)
    assert first.shape == (1, 53, 6)
    assert first.dtype == dtype
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for how in filter(None, (source.sampler, source.counted)):
        x, weights = how(slice(0, 3), 53, np.dtype(dtype))(np.random.default_rng(7))
        assert (len(x), x.dtype) == (3, dtype)
        assert weights is None or weights.dtype == dtype


def test_a_sample_is_the_callers_own():
    source = data.independent(0.5, n_feat=3)
    first = data.sample(source, 5, np.random.default_rng(0))
    kept = first.copy()
    data.sample(source, 5, np.random.default_rng(1))
    np.testing.assert_array_equal(first, kept)


ANY = np.random.default_rng(0)
BAD = {
    "a density of how many": (
        lambda: data.independent(0.5), "n_feat: expected a number of features beside a single density, got none",
    ),
    "zero": (lambda: data.independent(0, n_feat=3), r"density: expected numbers in \(0, 1\], got 0"),
    "above": (lambda: data.independent([0.5, 1.5]), r"density: expected numbers in \(0, 1\], got 1.5"),
    "negative": (lambda: data.independent([0.5, -0.1]), r"density: expected numbers in \(0, 1\], got -0.1"),
    "nan": (lambda: data.independent([0.5, np.nan]), r"density: expected numbers in \(0, 1\], got nan"),
    "axes": (lambda: data.independent(np.full((2, 2, 2), 0.5)), r"density: expected .*, got shape \(2, 2, 2\)"),
    "width": (lambda: data.independent([0.5, 0.5], n_feat=3), r"density: expected .*, got shape \(2,\)"),
    "no features": (lambda: data.independent(0.5, n_feat=0), "n_feat: expected a whole number .*, got 0"),
    "part of a feature": (lambda: data.independent(0.5, n_feat=2.5), r"n_feat: expected a whole number .*, got 2\.5"),
    "empty": (lambda: data.independent([]), "n_feat: expected a whole number of at least 1, got 0"),
    "words": (lambda: data.independent(["many"]), "density: expected real numbers, got dtype <U4"),
    "ragged": (lambda: data.independent([[0.5], [0.5, 0.5]]), "density: expected an array of real numbers, got list"),
    "single": (lambda: data.single_active(0), "n_feat: expected a whole number of at least 1, got 0"),
    "single of a part": (lambda: data.single_active(2.5), r"n_feat: expected a whole number .*, got 2\.5"),
    "sets": (lambda: data.correlated(0.5, sets=0, size=2), "sets: expected a whole number of at least 1, got 0"),
    "part of a set": (lambda: data.correlated(0.5, sets=2.5, size=2), r"sets: expected a whole number .*, got 2\.5"),
    "size": (lambda: data.anticorrelated(0.5, sets=2, size=0), "size: expected a whole number of at least 1, got 0"),
    "size nan": (lambda: data.anticorrelated(0.5, sets=2, size=np.nan), "size: expected a whole number .*, got nan"),
    "gate": (lambda: data.anticorrelated(1.2, sets=2, size=2), r"density: expected numbers in \(0, 1\], got 1.2"),
    "gates": (lambda: data.correlated([0.5] * 3, sets=2, size=2), r"density: expected .*, got shape \(3,\)"),
    "later parent": (lambda: data.hierarchical([0.5] * 2, [1, -1]), r"parents: expected .*, got \[1, -1\]"),
    "parent": (lambda: data.hierarchical([0.5] * 2, [-2, -1]), r"parents: expected .*, got \[-2, -1\]"),
    "part of a parent": (lambda: data.hierarchical([0.5] * 2, [-1, 0.5]), r"parents: expected .*, got \[-1\.0, 0\.5\]"),
    "magnitude": (
        lambda: data.hierarchical([0.5], [-1], magnitude="two"),
        "magnitude: expected 'uniform' or 'one', got 'two'",
    ),
    "rows": (lambda: data.fixed([1.0, 2.0]), r"x: expected .*, got shape \(2,\)"),
    "no rows": (lambda: data.fixed(np.zeros((0, 3))), r"x: expected .*, got shape \(0, 3\)"),
    "shares": (lambda: data.fixed(np.zeros((4, 3)), [1.0] * 3), r"weights: expected .*, got shape \(3,\)"),
    "instances": (
        lambda: data.fixed(np.zeros((2, 4, 3)), np.ones((3, 4))), r"weights: expected .*, got shape \(3, 4\)",
    ),
    "not finite": (lambda: data.fixed([[1.0, np.nan]]), "x, weights: expected finite numbers.*"),
    "negative share": (lambda: data.fixed([[1.0], [2.0]], [1.5, -0.5]), "x, weights: expected finite numbers.*"),
    "no share": (
        lambda: data.fixed(np.ones((2, 3)), np.zeros(2)), "weights: expected some above 0 for each instance, .*",
    ),
    "no share for one": (
        lambda: data.fixed(np.ones((2, 3)), [[1, 0], [0, 0]]), "weights: expected some above 0 for each instance, .*",
    ),
    "shares of shares": (
        lambda: data.fixed(np.ones((2, 3)), np.ones((1, 1, 2))), r"weights: .*, got shape \(1, 1, 2\)",
    ),
    "rows of words": (lambda: data.fixed([["a", "b"]]), "x: expected real numbers, got dtype <U1"),
    "shares of words": (lambda: data.fixed([[1.0]], ["a"]), "weights: expected real numbers, got dtype <U1"),
    "no sample": (lambda: data.sample(data.independent([0.5]), 0, ANY), "n: expected a whole number .*, got 0"),
    "part of a row": (lambda: data.sample(data.independent([0.5]), 2.5, ANY), r"n: expected .*, got 2\.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    call, message = BAD[case]
    with pytest.raises(InputError, match=f"^{message}$") as caught:
        call()
    assert "\n" not in str(caught.value)
