"""The benchmark compares like with like, and reads the numbers off correctly."""

import importlib.util

import pytest

from minisae.errors import InputError
from toy_models import bench


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed (extra peers)")
def test_both_contenders_take_the_same_step():
    assert bench.first_step_difference() < bench.TOLERANCE


def test_turns_are_taken_in_turn(monkeypatch):
    asked = []

    def turn(process, steps):
        asked.append((process, steps))
        return {"minisae": 0.1, "minisae_every_row": 0.2}[process] * steps

    monkeypatch.setattr(bench, "_turn", turn)
    monkeypatch.setattr(bench, "_opened", lambda name: _Open(name))
    report = bench.bench(against=None, rounds=2, steps=7, progress=lambda note: None)
    assert asked == [("minisae", 7), ("minisae_every_row", 7)] * 2
    assert report["ms_per_step"] == pytest.approx({"minisae": 100, "minisae_every_row": 200})
    assert "ratio" not in report
    assert "  600.0 s for 6,000 steps" in bench.table(report)
    with_torch = report | {"ms_per_step": report["ms_per_step"] | {"torch": 400.0}, "difference": 1e-15}
    with_torch["ratio"] = {name: 400 / ms for name, ms in with_torch["ms_per_step"].items()}
    assert [line.split()[-1] for line in bench.table(with_torch).splitlines()[3:5]] == ["4.00x", "2.00x"]


class _Open:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self.name

    def __exit__(self, *error):
        return None


def test_an_unknown_contender_is_one_line():
    with pytest.raises(InputError, match="against: expected torch, got 'jax'"):
        bench.bench(against="jax", progress=lambda note: None)
