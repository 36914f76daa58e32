"""One trainer on two kinds of array: on the CuPy costume the same bits as on NumPy, and no waiting but where it must.

And the comments that give shapes are true while it runs.
"""

import numpy as np
import pytest

from minisae.backend import backend_of, to_device, to_host
from minisae.ops import reference_ops
from minisae.optim import adam_init, adam_step
from tests.costume import no_sync, recorded
from toy_models import data, models, train
from toy_models.models import Config

ROWS = np.random.default_rng(0).random((11, 5))
INDEPENDENT = data.independent(np.array([[0.3], [0.05], [0.9]]), n_feat=5)
SPARSE = data.independent(0.02, n_feat=5)
SIGNED = data.independent(0.2, n_feat=5, signed=True)
MLP = Config(5, 3, kind="mlp", hidden="relu")
RUNS = {
    "linear": (Config(5, 2, output="identity"), INDEPENDENT, {}),
    "relu output": (Config(5, 2), INDEPENDENT, {"importance": np.arange(1.0, 6)}),
    "relu hidden": (Config(5, 2, hidden="relu", start="positive"), INDEPENDENT, {"hidden_l1": 0.1}),
    "sparse": (Config(5, 2), SPARSE, {"instances": 3, "hidden_l1": 0.1, "batch_size": 101}),
    "absolute": (MLP, SIGNED, {"instances": 3, "target": "absolute", "weight_decay": 0.1}),
    "square": (MLP, SIGNED, {"instances": 3, "target": "square", "warmup": 3}),
    "relu": (MLP, SIGNED, {"instances": 3, "target": "relu", "decay": "cosine"}),
    "pairs": (MLP._replace(n_out=10), data.hierarchical([0.5] * 5, [-1, 0, 0, -1, 3]), {"target": "pairs"}),
    "correlated": (Config(4, 2), data.correlated(0.5, sets=2, size=2), {"importance": np.ones((3, 4))}),
    "anticorrelated": (Config(4, 2), data.anticorrelated(0.5, sets=2, size=2), {"dtype": "float64"}),
    "single": (Config(5, 2), data.single_active(5), {"instances": 3, "decay": "linear"}),
    "fixed": (Config(5, 2), data.fixed(ROWS, np.full((3, 11), 1 / 11)), {}),
}
STEPS = 6


def run(name, on):
    cfg, source, options = RUNS[name]
    settings = {"steps": STEPS, "batch_size": 13, "lr": 0.05, "snapshots": (0, 2, STEPS), "seed": 1, **options}
    with reference_ops():
        return train.train(cfg, source, backend=on, **settings)


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits(name):
    expected = run(name, "numpy")
    with recorded() as seen:
        got = run(name, "costume")
    assert all(backend_of(p) == "costume" for p in got.params.values())
    for key, p in expected.params.items():
        assert np.isfinite(p).all()
        assert not np.array_equal(p, expected.snapshots[key][0])
        np.testing.assert_array_equal(to_host(got.params[key]), p, strict=True)
        np.testing.assert_array_equal(got.snapshots[key], expected.snapshots[key], strict=True)
    places = {(event.what, event.where.partition(" ")[0]) for event in seen}
    uploads = {("asarray(host data)", where) for where in ("train", "_on")}
    assert places <= {*uploads, ("get()", "_train_block"), ("bool()", "refuse_divergence")}, places
    copies = [event for event in seen if event.what == "get()"]
    assert len(copies) == 3 * len(expected.params), "copies to the host other than the snapshots"
    assert sum(event.what == "bool()" for event in seen) == 2, "one look at each snapshot but the start"


def test_buffers_are_made_once(monkeypatch):
    """On a device each draw is a new array, of the same size."""
    made = []
    monkeypatch.setattr(train, "_work", lambda *given, work=train._work: made.append(0) or work(*given))
    run("relu output", "costume")
    assert len(made) == 1


@pytest.mark.parametrize("name", [name for name in RUNS if name != "pairs"])
def test_a_step_never_waits(name):
    cfg, source, _ = RUNS[name]
    host = train.train(cfg, source, steps=0, instances=3).params
    params = {key: to_device(p, "costume") for key, p in host.items()}
    x = to_device(np.random.default_rng(2).random((3, 13, cfg.n_feat), np.float32), "costume")
    with no_sync(), reference_ops():
        out, cache = models.forward(params, x, cfg)
        slopes = models.squared_error(out.x_hat, x).slopes | models.hidden_l1(out.h, coefficient=0.1).slopes
        adam_step(params, models.backward(params, cache, cfg, slopes), adam_init(params), lr=0.1)
    assert not np.array_equal(to_host(params["b"]), host["b"])


def test_trained_on_a_device_tested_on_the_host():
    cfg, source, _ = RUNS["relu output"]
    losses = [train.evaluate(cfg, run("relu output", on).params, source, rows=101) for on in ("numpy", "costume")]
    np.testing.assert_array_equal(*losses)
