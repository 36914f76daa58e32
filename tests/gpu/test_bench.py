"""The benchmark of a step: it runs at a small size, and its floor is the arithmetic it says it is."""

import json

import pytest

from minisae.backend import _why_no_cupy
from minisae.gpu import bench
from minisae.sae import VARIANTS

SMALL = ["--batch-size", "61", "--d-in", "17", "--d-sae", "97", "--k", "3", "--steps", "2"]


@pytest.fixture(autouse=True)
def _small_copy(monkeypatch):
    monkeypatch.setattr(bench, "COPY_BYTES", {"numpy": 1 << 20, "cupy": 1 << 20})


def test_a_table_on_the_host(capsys):
    assert bench.main(["--backend", "numpy", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1 : 1 + len(VARIANTS)]] == [["numpy", name] for name in VARIANTS]
    assert "GFLOP/s" in lines[-1]


def test_records_as_json(capsys):
    assert bench.main(["--backend", "numpy", "--json", *SMALL]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["variant"] for r in records] == list(VARIANTS)
    for r in records:
        assert (r["n"], r["d_in"], r["d_sae"], r["k"], r["dtype"]) == (61, 17, 97, 3, "float32")
        assert 0 < r["fastest_ms"] <= r["step_ms"] <= r["slowest_ms"]
        assert r["times_floor"] == pytest.approx(r["step_ms"] / r["floor_ms"])
        assert r["fallbacks_a_step"] == {}


def test_the_floor():
    size = bench.Size(n=2, d_in=3, d_sae=5, k=1, dtype="float32")
    product, adam, rows = 2 * 2 * 3 * 5, 7 * 2 * 3 * 5 * 4, 4 * 2 * 1 * 3 * 4
    assert bench.floor("relu", size, (10.0, 100.0)) == pytest.approx(5 * product / 10 + adam / 100)
    assert bench.floor("topk", size, (10.0, 100.0)) == pytest.approx(product / 10 + (adam + rows) / 100)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_with_k_needs_less(name):
    size = bench.Size(n=5, d_in=3, d_sae=97, k=2, dtype="float32")
    dense, sparse = (bench.floor(other, size, (10.0, 1e9)) for other in ("relu", "topk"))
    assert bench.floor(name, size, (10.0, 1e9)) == (sparse if "k" in VARIANTS[name].Config._fields else dense) != 0
    assert sparse < dense


def test_a_size_that_makes_no_sense_is_one_line(capsys):
    assert bench.main(["--backend", "numpy", "--k", "0"]) == 2
    assert capsys.readouterr().err == "--k: expected at least 1, got 0\n"
    assert bench.main(["--backend", "numpy", *SMALL[:-4], "--k", "98"]) == 2
    assert capsys.readouterr().err == "k: expected at most d_sae = 97, got 98\n"


@pytest.mark.skipif(not _why_no_cupy(), reason="a device is here")
def test_without_a_device_one_line(capsys):
    assert bench.main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("backend: 'cupy' asked for, but ")
    assert err.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.skipif(bool(_why_no_cupy()), reason=_why_no_cupy())
def test_on_the_device(capsys):
    assert bench.main(["--json", *SMALL]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["backend"] for r in records] == ["numpy"] * len(VARIANTS) + ["cupy"] * len(VARIANTS)
