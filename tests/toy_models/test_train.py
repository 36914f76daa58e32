"""The trainer: against a loop written out in a few lines; the same on any number of threads; refusals."""

import os
from itertools import pairwise

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.streams import generator
from minisae.train import Diverged
from toy_models import data, exact, models, train
from toy_models.data import Batch
from toy_models.models import TARGETS, Config

CFG = Config(5, 2)
ROWS = np.random.default_rng(0).random((11, 5))
SHARES = np.random.default_rng(1).dirichlet(np.ones(11))


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, p in expected.items():
        np.testing.assert_array_equal(got[name], p, err_msg=name, strict=True)


def by_hand(cfg, params, *, steps, lr, rate, weight_decay=0.0, hidden_l1=0.0, importance=None, target="identity"):
    """Adam, written out, on the fixed rows; ``rate(step)`` scales the learning rate."""
    p = {name: a.astype(np.float64) for name, a in params.items()}
    m, v = ({name: np.zeros_like(a) for name, a in p.items()} for _ in range(2))
    for step in range(steps):
        out, cache = models.forward(p, ROWS[None], cfg)
        slopes = dict(
            models.squared_error(
                out.x_hat, TARGETS[target](ROWS[None]), importance=importance, weights=SHARES[None]
            ).slopes
        )
        if hidden_l1:
            slopes["h"] = hidden_l1 * np.sign(out.h) * SHARES[None, :, None]
        for name, g in models.backward(p, cache, cfg, slopes).items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            now, t = lr * rate(step), step + 1
            p[name] -= now * weight_decay * p[name]
            p[name] -= now * (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
    return p


QUARTER = {"rate": lambda step: np.cos(np.pi / 2 * step / 17)}
LOOPS = {
    "plain": ({}, QUARTER),
    "constant": ({"decay": "constant"}, {"rate": lambda step: 1}),
    "linear": ({"decay": "linear"}, {"rate": lambda step: 1 - step / 17}),
    "warmup": ({"warmup": 5}, {"rate": lambda step: min(1, (step + 1) / 5) * np.cos(np.pi / 2 * step / 17)}),
    "weight decay": ({"weight_decay": 0.3}, {"weight_decay": 0.3, **QUARTER}),
    "hidden L1": ({"hidden_l1": 0.2}, {"hidden_l1": 0.2, **QUARTER}),
    "importance": ({"importance": [1, 2, 3, 4, 5]}, {"importance": np.arange(1.0, 6), **QUARTER}),
    "target": ({"target": "square"}, {"target": "square", **QUARTER}),
}


@pytest.mark.parametrize("case", LOOPS)
@pytest.mark.parametrize("cfg", [Config(5, 2), Config(5, 3, kind="mlp", hidden="relu")], ids=["tied", "mlp"])
def test_against_a_loop_by_hand(case, cfg):
    options, hand = LOOPS[case]
    run = train.train(
        cfg, data.fixed(ROWS, SHARES), steps=17, lr=0.01, instances=3, seed=4, dtype="float64", snapshots=[0], **options
    )
    start = {name: p[0] for name, p in run.snapshots.items()}
    for name, p in by_hand(cfg, start, steps=17, lr=0.01, **hand).items():
        np.testing.assert_allclose(run.params[name], p, rtol=1e-9, atol=1e-11)
        assert not np.array_equal(run.params[name], start[name])


def test_importance_of_each_instance():
    each = np.random.default_rng(2).random((3, 5))
    together = train.train(CFG, data.fixed(ROWS), steps=9, importance=each, dtype="float64", snapshots=[0])
    for k in range(3):
        start = {name: p[0, k : k + 1] for name, p in together.snapshots.items()}
        alone = train.train(CFG, data.fixed(ROWS), steps=9, importance=each[k], params=start, dtype="float64")
        for name, p in alone.params.items():
            np.testing.assert_allclose(together.params[name][k], p[0], rtol=1e-12)


WIDE = Config(37, 3)


def wide_run(threads, seed=3, steps=6, **options):
    """Five instances in five blocks: a block's rows fill the room for one."""
    source = data.independent(0.2, n_feat=37)
    return train.train(
        WIDE, source, steps=steps, batch_size=4_001, instances=5, seed=seed, threads=threads, **options
    ).params


def test_threads_change_no_bit():
    alone = wide_run(1)
    for threads in (2, 3, 5):
        same(wide_run(threads), alone)
    assert len({p.tobytes() for p in alone["W"]}) == 5


def test_blocks_see_rows_of_their_own():
    """From one start each block goes its own way; a single step from a common start differs by the rows alone."""
    start = {name: np.repeat(p[:1], 5, axis=0) for name, p in wide_run(1, steps=0).items()}
    after = wide_run(2, params=start, steps=3)
    assert len({p.tobytes() for p in after["W"]}) == 5


def test_seeds():
    same(wide_run(1), wide_run(1))
    assert not np.array_equal(wide_run(1)["W"], wide_run(1, seed=4)["W"])


def test_an_error_in_a_thread_is_not_lost():
    def broken(part, n, dtype):
        raise InputError("rows: gone")

    source = data.Data(37, 1, broken)
    with pytest.raises(InputError, match=r"^rows: gone$"):
        train.train(WIDE, source, steps=1, batch_size=4_001, instances=5, threads=2)


@pytest.mark.parametrize(("told", "threads"), [({"OMP_NUM_THREADS": "1"}, None), ({"OPENBLAS_NUM_THREADS": "1"}, None),
                                               ({}, 1), ({"OMP_NUM_THREADS": "2"}, 1)])  # fmt: skip
def test_all_cores_only_where_blas_takes_one(monkeypatch, told, threads):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert train.thread_count() == (threads or cores)


def test_start_of_each_instance():
    run = train.train(CFG, data.independent(0.1, n_feat=5), steps=0, instances=3, seed=9)
    for k in range(3):
        for name, p in models.init(CFG, generator(9, "toy_init", k)).items():
            np.testing.assert_array_equal(run.params[name][k], p, strict=True)


def test_params_given_are_copied():
    source = data.independent(0.1, n_feat=5)
    start = train.train(CFG, source, steps=0, instances=3).params
    kept = {name: p.copy() for name, p in start.items()}
    run = train.train(CFG, source, steps=5, batch_size=7, params=start)
    same(start, kept)
    assert not np.array_equal(run.params["W"], start["W"])


def test_snapshots():
    source = data.independent(0.1, n_feat=5)
    run = train.train(CFG, source, steps=12, batch_size=7, instances=3, decay="constant", snapshots=(12, 0, 5, 5))
    np.testing.assert_array_equal(run.steps, [0, 5, 12])
    assert run.snapshots["W"].shape == (3, 3, 2, 5)
    for t, steps in enumerate((0, 5, 12)):
        shorter = train.train(CFG, source, steps=steps, batch_size=7, instances=3, decay="constant")
        same({name: p[t] for name, p in run.snapshots.items()}, shorter.params)
    none = train.train(CFG, source, steps=2, batch_size=7)
    assert none.steps.size == none.snapshots["W"].shape[0] == 0


@pytest.mark.parametrize("cfg", [Config(5, 2, hidden="relu"), Config(5, 3, kind="mlp", n_out=10)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(cfg, dtype):
    run = train.train(
        cfg, data.independent(0.05, n_feat=5, signed=True), steps=3, batch_size=97, instances=2, weight_decay=0.01,
        hidden_l1=0.01, importance=np.arange(1, models.n_out(cfg) + 1), target="pairs" if cfg.n_out else "absolute",
        snapshots=[1], dtype=dtype,
    )  # fmt: skip
    assert {p.dtype for p in (*run.params.values(), *run.snapshots.values())} == {np.dtype(dtype)}


def test_counted_and_listed_rows_train_alike():
    """The same distribution: measured over eight seeds, the best losses differ by at most 0.07 %."""
    source = data.independent(0.05, n_feat=5)
    rows = exact.batch(0.05, n_feat=5, nodes=8, max_active=3)
    for seed in range(2):
        losses = []
        for kind in (source, source._replace(counted=None)):
            run = train.train(CFG, kind, steps=1_500, batch_size=256, lr=5e-3, instances=8, seed=seed)
            losses.append(train.evaluate(CFG, run.params, rows).min())
        assert losses[0] == pytest.approx(losses[1], rel=0.004)


class TestEvaluate:
    def drawn(self, i=3):
        rng = np.random.default_rng(5)
        return {"W": rng.standard_normal((i, 2, 5)), "b": rng.standard_normal((i, 5))}

    def test_by_hand_on_a_batch(self):
        params, importance = self.drawn(), np.random.default_rng(6).random((3, 5))
        got = train.evaluate(CFG, params, Batch(ROWS[None], SHARES[None]), importance=importance)
        for k in range(3):
            x_hat = np.maximum(ROWS @ params["W"][k].T @ params["W"][k] + params["b"][k], 0)
            assert got[k] == pytest.approx((SHARES @ (x_hat - ROWS) ** 2) @ importance[k], rel=1e-12)
        assert got.dtype == np.float64

    def test_weights_of_each_instance(self):
        params, shares = self.drawn(), np.random.default_rng(7).dirichlet(np.ones(11), 3)
        got = train.evaluate(CFG, params, Batch(ROWS[None], shares))
        for k in range(3):
            one = {name: p[k : k + 1] for name, p in params.items()}
            assert got[k] == train.evaluate(CFG, one, Batch(ROWS[None], shares[[k]]))[0]

    def test_common_rows(self):
        """The same parameters have the same loss, and each loss is that of the rows drawn by one generator."""
        params = {name: np.repeat(p[:1], 3, axis=0) for name, p in self.drawn().items()}
        source = data.independent(0.3, n_feat=5)
        got = train.evaluate(CFG, params, source, rows=4_096, seed=8)
        assert got[0] == got[1] == got[2]
        x = data.sample(source, 4_096, generator(8, "toy_test"), dtype=np.float64)
        x_hat = np.maximum(x[0] @ params["W"][0].T @ params["W"][0] + params["b"][0], 0)
        assert got[0] == pytest.approx(((x_hat - x[0]) ** 2).sum(axis=1).mean(), rel=1e-12)
        assert got[0] != train.evaluate(CFG, params, source, rows=4_096, seed=9)[0]

    def test_common_random_numbers_for_several_densities(self):
        """Instances of the same density among others see the same rows."""
        source = data.independent(np.array([[0.3], [0.1], [0.3]]), n_feat=5)
        params = {name: np.repeat(p[:1], 3, axis=0) for name, p in self.drawn().items()}
        got = train.evaluate(CFG, params, source, rows=5_000)
        assert got[0] == got[2] != got[1]

    def test_many_rows_in_parts(self):
        params, source = self.drawn(), data.independent(0.3, n_feat=5)
        true = train.evaluate(CFG, params, exact.batch(0.3, n_feat=5, nodes=8))
        got = train.evaluate(CFG, params, source, rows=100_003)
        np.testing.assert_allclose(got, true, rtol=0.03)

    def test_fixed_data_is_the_same_as_its_batch(self):
        params = self.drawn()
        as_data = train.evaluate(CFG, params, data.fixed(ROWS, SHARES), rows=9_000)
        np.testing.assert_allclose(as_data, train.evaluate(CFG, params, Batch(ROWS[None], SHARES[None])), rtol=1e-12)

    def test_target(self):
        got = train.evaluate(CFG, self.drawn(), Batch(ROWS[None] - 0.5, None), target="absolute")
        plain = train.evaluate(CFG, self.drawn(), Batch(ROWS[None] - 0.5, None))
        assert (got != plain).all()


def test_training_lowers_the_loss():
    source = data.independent(0.1, n_feat=5)
    run = train.train(CFG, source, steps=400, batch_size=128, lr=1e-2, instances=4, snapshots=(0, 50, 400))
    losses = [train.evaluate(CFG, {k: p[t] for k, p in run.snapshots.items()}, source, rows=8_192) for t in range(3)]
    for before, after in pairwise(losses):
        assert (after < before).all()


def test_best_of_each_group():
    loss = np.array([3.0, 1, 2, 0.5, 9, 0.5, 7, 8, 6])
    np.testing.assert_array_equal(train.best(loss, per=3), [1, 3, 8])
    np.testing.assert_array_equal(train.best(loss, per=9), [3])
    params = {"W": np.arange(9 * 6).reshape(9, 2, 3), "b": np.arange(27).reshape(9, 3)}
    chosen = train.take(params, train.best(loss, per=3))
    np.testing.assert_array_equal(chosen["b"][:, 0], [3, 9, 24])
    assert chosen["W"].shape == (3, 2, 3)
    for per in (0, 2, 10):
        with pytest.raises(InputError, match=f"^per: expected a divisor of 9 instances, got {per}$"):
            train.best(loss, per=per)


def test_a_loss_that_is_not_finite_is_never_best():
    loss = np.array([np.nan, 3, np.inf, 2, -np.inf, np.nan])
    np.testing.assert_array_equal(train.best(loss, per=3), [1, 3])
    with pytest.raises(InputError, match=r"^loss: expected a finite number among each 2 instances, got none$"):
        train.best(loss, per=2)


class TestDivergence:
    """What is not finite is refused, with no warning of NumPy's: warnings are errors here."""

    def run(self, **options):
        settings = {"steps": 350, "batch_size": 7, "lr": 1e30, "seed": 1} | options
        return train.train(CFG, data.independent(0.5, n_feat=5), **settings)

    def test_within_the_first_steps(self):
        with pytest.raises(
            Diverged, match=r"^training diverged between steps 0 and 100: .*; try a lower lr$"
        ) as caught:
            self.run()
        assert caught.value.step == 100

    def test_snapshots_narrow_it_down(self):
        with pytest.raises(Diverged, match="between steps 0 and 3:"):
            self.run(snapshots=(0, 3))

    def test_at_the_end(self):
        with pytest.raises(Diverged, match="between steps 0 and 5:"):
            self.run(steps=5)

    def test_later(self):
        """One row grows so large after step 230 that its error overflows."""

        def sampler(part, n, dtype):
            seen = []

            def draw(rng):
                seen.append(0)
                return Batch(np.full((1, 1, 5), 1e30 if len(seen) > 230 else 0.5, dtype))

            return draw

        with pytest.raises(Diverged, match="between steps 200 and 300:"):
            train.train(CFG, data.Data(5, 1, sampler), steps=350)

    def test_moments_that_overflow_would_freeze_the_parameters(self):
        """Parameters stay finite, but the second moments are not."""
        source = data.fixed(np.full((1, 5), 1e25))
        with pytest.raises(Diverged, match="between steps 0 and 2:"):
            train.train(CFG, source, steps=2, lr=1e-3, params={"W": np.zeros((1, 2, 5)), "b": np.full((1, 5), 1.0)})

    def test_in_a_thread(self):
        with pytest.raises(Diverged, match="between steps 0 and 6:"):
            wide_run(2, lr=1e30)


GOOD = {"W": np.ones((3, 2, 5)), "b": np.ones((3, 5))}
BAD = {
    "n_feat": ({"cfg": Config(0, 2)}, "n_feat: expected a whole number of at least 1, got 0"),
    "n_hid": ({"cfg": Config(5, 0)}, "n_hid: expected a whole number of at least 1, got 0"),
    "features": ({"cfg": Config(7, 2)}, "n_feat: the data has 5 features, the model 7"),
    "steps": ({"steps": -1}, "steps: expected a whole number of at least 0, got -1"),
    "fraction": ({"steps": 2.5}, r"steps: expected a whole number of at least 0, got 2\.5"),
    "batch": ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
    "lr": ({"lr": 0}, "lr: expected a number above 0, got 0"),
    "lr nan": ({"lr": np.nan}, "lr: expected a number of at least 0, got nan"),
    "lr word": ({"lr": "fast"}, "lr: expected a number of at least 0, got 'fast'"),
    "seed": ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    "threads": ({"threads": -3}, "threads: expected a whole number of at least 1, got -3"),
    "no thread": ({"threads": 0}, "threads: expected a whole number of at least 1, got 0"),
    "backend": ({"backend": "x"}, "backend: expected one of numpy, cupy, auto, got 'x'"),
    "no arrays": ({"backend": "json"}, "backend: expected one of numpy, cupy, auto, got 'json'"),
    "late snapshot": ({"snapshots": [7]}, "snapshots: expected a whole number .* at most 2, got 7"),
    "part of a step": ({"snapshots": [0.5]}, r"snapshots: expected a whole number .*, got 0\.5"),
    "part of an instance": ({"instances": 1.5}, r"instances: expected a whole number of at least 1, got 1\.5"),
    "no params": ({"params": {}}, r"params: expected \(instances, …\) of .*, got \{\}"),
    "words": ({"params": {**GOOD, "b": [["a"] * 5] * 3}}, "params: expected real numbers, got dtype <U1"),
    "ragged": ({"params": {**GOOD, "b": [[1.0], [1.0, 2.0]]}}, "params: expected an array of real numbers, got list"),
    "important words": ({"importance": ["a"] * 5}, "importance: expected real numbers, got dtype <U1"),
    "decay": ({"decay": "steep"}, "decay: expected one of constant, .*, got 'steep'"),
    "warmup": ({"warmup": -1}, "warmup: expected a number of at least 0, got -1"),
    "weight decay": ({"weight_decay": -0.1}, "weight_decay: expected a number of at least 0, got -0.1"),
    "hidden l1": ({"hidden_l1": np.nan}, "hidden_l1: expected a number of at least 0, got nan"),
    "dtype": ({"dtype": "int32"}, "dtype: expected one of float32, float64, got 'int32'"),
    "target": ({"target": "cube"}, "target: expected one of identity, .*, got 'cube'"),
    "outputs": ({"target": "pairs"}, "n_out: target 'pairs' has 10 outputs, the model 5"),
    "negative": ({"importance": [1, 1, 1, 1, -1]}, "importance: expected numbers that are not negative, and not all 0"),
    "all zero": ({"importance": [0] * 5}, "importance: expected numbers that are not negative, and not all 0"),
    "one zero row": (
        {"importance": [[1] * 5, [0] * 5]}, "importance: expected numbers that are not negative, and not all 0",
    ),
    "nan": ({"importance": [np.nan] * 5}, "importance: expected numbers that are not negative, and not all 0"),
    "width": ({"importance": [1, 1]}, r"importance: expected \(n_out,\) or .*, n_out 5, got \(1, 2\)"),
    "axes": ({"importance": np.ones((2, 2, 5))}, r"importance: expected .*, got \(2, 2, 5\)"),
    "instances": ({"instances": 0}, "instances: expected a whole number of at least 1, got 0"),
    "two counts": ({"instances": 2, "importance": np.ones((3, 5))}, "instances: describes 2 instances, others 3"),
    "too few": ({"instances": 1, "importance": np.ones((3, 5))}, "instances: asked for 1, but .* describe more"),
    "params": ({"params": GOOD, "instances": 4}, "params: describes 3 instances, others 4"),
    "one start": (
        {"params": {name: p[:1] for name, p in GOOD.items()}, "instances": 4}, "params: expected 4 instances, got 1",
    ),
    "shape": ({"params": {**GOOD, "W": np.ones((3, 5, 2))}}, r"params: expected \(instances, …\) of .*"),
    "names": ({"params": {"V": GOOD["W"], "b": GOOD["b"]}}, r"params: expected \(instances, …\) of .*"),
    "lengths": ({"params": {**GOOD, "b": np.ones((2, 5))}}, r"params: expected one number of instances, got \[3, 2\]"),
    "not finite": ({"params": {**GOOD, "b": np.full((3, 5), np.nan)}}, "params: expected finite numbers, .*"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    options, message = BAD[case]
    given = {"cfg": CFG, "data": data.independent(0.1, n_feat=5), "steps": 2, "batch_size": 3} | options
    with pytest.raises(InputError, match=f"^{message}$") as caught:
        train.train(given.pop("cfg"), given.pop("data"), **given)
    assert "\n" not in str(caught.value)


BAD_TEST = {
    "shape": ({"params": {**GOOD, "W": np.ones((3, 5, 2))}}, r"params: expected \(instances, …\) of .*"),
    "no params": ({"params": {}}, r"params: expected \(instances, …\) of .*, got \{\}"),
    "nan": ({"params": {**GOOD, "W": np.full((3, 2, 5), np.nan)}}, "params: expected finite numbers, .*"),
    "target": ({"target": "cube"}, "target: expected one of identity, .*, got 'cube'"),
    "features": ({"data": data.independent(0.1, n_feat=7)}, "n_feat: the data has 7 features, the model 5"),
    "instances": ({"data": data.independent(np.full((2, 5), 0.1))}, "data: describes 2 instances, others 3"),
    "importance": ({"importance": np.zeros(5)}, "importance: expected numbers that are not negative, and not all 0"),
    "rows": ({"rows": 0}, "rows: expected a whole number of at least 1, got 0"),
    "batch": ({"data": Batch(np.full((1, 2, 5), np.nan))}, "x, weights: expected finite numbers.*"),
    "lengths": ({"params": {**GOOD, "b": np.ones((2, 5))}}, r"params: expected one number of instances, got \[3, 2\]"),
}


@pytest.mark.parametrize("case", BAD_TEST)
def test_bad_input_to_evaluate_is_one_line(case):
    options, message = BAD_TEST[case]
    given = {"params": GOOD, "data": data.independent(0.1, n_feat=5)} | options
    with pytest.raises(InputError, match=f"^{message}$") as caught:
        train.evaluate(CFG, given.pop("params"), given.pop("data"), **given)
    assert "\n" not in str(caught.value)
