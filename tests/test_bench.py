"""The benchmark: small sizes, so only that it runs, what it reports, and how it refuses."""

import importlib.util
import json

import pytest

from minisae import bench
from minisae.errors import InputError

SMALL = bench.Size(d_in=17, d_sae=61, batch=53, k=3)


def test_minisae_alone():
    notes = []
    report = bench.bench(size=SMALL, rounds=2, seconds=0.001, progress=notes.append)
    assert len(report["results"]) == len(notes) == len(bench.WORKLOADS) * len(bench.ALLOCATORS)
    for result in report["results"]:
        assert result["steps"] >= 4
        assert 0 < result["min_ms"] <= result["median_ms"]
        assert result["floor_ms"] > 0
    fresh, trained = (
        next(r for r in report["results"] if r["workload"] == f"relu_{name}") for name in ("fresh", "trained")
    )
    assert 0.3 < fresh["active"] < 0.7
    assert trained["active"] < 0.02
    assert json.loads(json.dumps(report)) == report
    assert "relu_trained  tuned" in bench.table(report)
    assert "ratio" not in bench.table(report)


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("workload", bench.WORKLOADS)
def test_torch_takes_the_same_step(workload):
    assert bench._difference(SMALL, workload) < 1e-10


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_against_torch():
    report = bench.bench(against="torch", size=SMALL, rounds=1, seconds=0.001)
    assert report["agrees"]
    assert [r["contender"] for r in report["results"]] == ["minisae", "torch"] * 6
    assert all(r["ratio"] > 0 for r in report["results"][1::2])
    text = bench.table(report)
    assert "ratio" in text
    assert "x" in text.splitlines()[-len(bench.FOOTER) - 2]


def test_refusals(monkeypatch):
    with pytest.raises(InputError, match="against: expected torch, got 'jax'"):
        bench.bench(against="jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="against: expected an installed torch"):
        bench.bench(against="torch")
