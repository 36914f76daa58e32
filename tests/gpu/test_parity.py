"""The parity check: as CI runs it, with the costume for a device, and on a device where one is at hand."""

import importlib

import numpy as np
import pytest

from minisae.backend import _why_no_cupy
from minisae.conventions import SWITCHES
from minisae.gpu import parity
from minisae.ops import fallbacks
from minisae.sae import VARIANTS
from tests import costume
from tests.sae.cases import cases_of, switches

no_device = bool(_why_no_cupy())


def test_numpy_against_itself(capsys):
    assert parity.main(["--self"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(parity.CASES)
    assert all(line.endswith(" ok") for line in lines[1:])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_value_of_every_switch_is_in_a_case(name):
    mine = [case for case in parity.CASES.values() if case.variant == name]
    shown = {field: {case.options.get(field) for case in mine} for field in switches(name)}
    assert shown == {field: set(values) for field, values in switches(name).items()}
    assert {case.recipe["order"] for case in mine} == set(SWITCHES["order"].values)
    for case in mine:
        for option in ("sparsity_warmup", "k_anneal"):
            assert (option in case.recipe) == any(option in other.recipe for other in cases_of(name).values())


def test_cases_have_dead_latents_where_they_need_them():
    for name, case in parity.CASES.items():
        if case.recipe.get("dead_after"):
            held = parity.train(case, backend="numpy", dtype="float64", reference=True)
            assert held["measures.dead"] > 0 or "params.b_enc" not in held, name


@pytest.mark.parametrize("case", parity.CASES.values(), ids=parity.CASES)
def test_the_costume_is_bit_identical(case):
    expected = parity.train(case, backend="numpy", dtype="float32", reference=True)
    got = parity.train(case, backend=costume.xp.__name__, dtype="float32", reference=True)
    assert parity.worst(expected, got) == ("none", 0.0)


def test_a_difference_is_reported(monkeypatch, capsys):
    real, chosen = parity.train, list(VARIANTS)[1]

    def broken(case, *, backend, dtype, reference):
        held = real(case, backend="numpy", dtype=dtype, reference=True)
        if backend == "costume" and case.variant == chosen and dtype == "float64":
            held["m.b_enc"] = held["m.b_enc"] * (1 + 1e-6)
        return held

    monkeypatch.setattr(parity, "train", broken)
    assert not parity.compare("costume")
    bad = [line for line in capsys.readouterr().out.splitlines() if line.endswith("DIFFERS")]
    assert len(bad) == 2 * sum(case.variant == chosen for case in parity.CASES.values()) > 0
    assert all("m.b_enc" in line and "1.0e-06" in line for line in bad)


def test_worst_sees_what_is_not_a_number_and_what_is_missing():
    a = {"x": np.ones(3), "y": np.zeros(2)}
    assert parity.worst(a, a) == ("none", 0.0)
    assert parity.worst(a, {**a, "x": np.array([1, np.nan, 1])}) == ("x", float("inf"))
    assert parity.worst(a, {"x": a["x"]})[1] == float("inf")


@pytest.mark.skipif(not no_device, reason="a device is here")
def test_without_a_device_one_line(capsys):
    assert parity.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("backend: 'cupy' asked for, but ")
    assert err.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.skipif(no_device, reason=_why_no_cupy())
def test_on_the_device(capsys):
    importlib.import_module("cupy")
    fallbacks.clear()
    assert parity.main([]) == 0, capsys.readouterr().out
