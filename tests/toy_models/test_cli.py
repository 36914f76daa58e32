"""``python -m toy_models``: every command writes what it says, and a mistake is one line and status 2."""

import json
import subprocess
import sys

import numpy as np
import pytest

from toy_models import cli, polytopes, train
from toy_models.commands import MODELS
from toy_models.experiments import phase

QUICK = ["--steps", "40", "--batch-size", "64"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.mark.parametrize("model", MODELS)
def test_train_writes_the_best_start_of_each_density(run, tmp_path, model):
    status, out, _ = run(
        *("train", "--model", model, "--n-feat", 5, "--n-hid", 3, "--density", 0.5, 0.1, "--instances", 2, "--json"),
        *QUICK,
    )
    assert status == 0
    best = json.loads(out)["best"]
    assert [one["density"] for one in best] == [0.5, 0.1]
    assert np.load(tmp_path / "toy-model" / "W.npy").shape == (2, 3, 5)
    assert json.loads((tmp_path / "toy-model" / "numbers.json").read_text()) == {"best": best}
    assert (tmp_path / "toy-model" / "features.png").stat().st_size > 5_000


@pytest.mark.parametrize("kind", ["--correlated", "--anticorrelated"])
def test_train_on_sets(run, kind):
    status, out, _ = run("train", "--n-feat", 6, "--n-hid", 2, kind, 3, "--instances", 2, *QUICK)
    assert status == 0
    assert "best of 2 starts" in out
    assert out.endswith("in toy-model: W.npy, model.safetensors, numbers.json, features.png\n")


def test_phase_draws_three_answers(run, tmp_path):
    status, out, _ = run("phase", "--size", 3, "--seeds", 1, "--json")
    numbers = json.loads(out)
    assert status == 0
    assert {name: np.shape(one) for name, one in numbers["labels"].items()} == dict.fromkeys(
        ("theory", "exact", "trained"), (3, 3)
    )
    density, importance = phase.grid(3)
    assert numbers["labels"]["theory"] == phase.theory_phase(density, importance).tolist()
    assert (tmp_path / "toy-phase" / "phase.png").stat().st_size > 5_000


def test_geometry_names_what_is_there(run, tmp_path):
    status, out, _ = run("geometry", "--n-feat", 7, "--n-hid", 3, "--steps", 30)
    assert status == 0
    assert len(out.splitlines()) == 18
    assert out.endswith("in toy-geometry: W.npy, numbers.json, geometry.png, graphs.png\n")
    assert np.load(tmp_path / "toy-geometry" / "W.npy").shape == (16, 3, 7)
    for picture in ("geometry.png", "graphs.png"):
        assert (tmp_path / "toy-geometry" / picture).stat().st_size > 5_000


@pytest.mark.parametrize("features", ["columns", "rows"])
def test_recognise_reads_anybodys_matrix(run, tmp_path, features):
    W = polytopes.polygon(5)  # (2, 5)
    np.save(tmp_path / "W.npy", W if features == "columns" else W.T)
    status, out, _ = run("recognise", "W.npy", "--features", features)
    assert status == 0
    assert out.startswith("1 pentagon")
    status, out, _ = run("recognise", "W.npy", "--features", features, "--json")
    [part] = json.loads(out)["frames"][0]["components"]
    assert (part["name"], part["k"], part["d"]) == ("pentagon", 5, 2)
    assert part["residual"] < 1e-6


def test_recognise_several_frames(run, tmp_path):
    np.save(tmp_path / "W.npy", np.stack([np.pad(polytopes.polygon(5), ((0, 0), (0, 2))), polytopes.polygon(7)]))
    status, out, _ = run("recognise", "W.npy")
    assert status == 0
    assert [part.split("    ")[0] for part in out.split("\n\n")] == ["1 pentagon", "1 heptagon"]


def test_recognise_says_what_to_do_about_short_columns(run, tmp_path):
    np.save(tmp_path / "W.npy", 0.01 * polytopes.polygon(5))
    status, out, _ = run("recognise", "W.npy")
    assert status == 0
    assert out.startswith("nothing learned")
    assert out.endswith("all columns are shorter than 0.3: try --floor\n")
    assert run("recognise", "W.npy", "--floor", 0.001)[1].startswith("1 pentagon")


def test_recognise_of_any_scale(run, tmp_path):
    np.save(tmp_path / "W.npy", 1e200 * polytopes.polygon(5))
    status, out, err = run("recognise", "W.npy", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["frames"][0]["sum_D"] == pytest.approx(2)


def test_training_that_diverges_is_one_line(run):
    status, out, err = run("train", "--lr", "1e30", "--instances", 2, *QUICK)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("toy_models: training diverged between steps 0 and 40")
    assert err.endswith("try a lower lr\n")


@pytest.mark.slow
def test_bench_alone(run):
    status, out, _ = run("bench", "--json")
    assert status == 0
    assert set(json.loads(out)["ms_per_step"]) == {"minisae", "minisae_every_row"}


MISTAKES = [
    ([], "expected a command: train, phase"),
    (["train", "--density", "0"], "density: expected numbers in (0, 1], got 0"),
    (["train", "--density", "1.5"], "density: expected numbers in (0, 1], got 1.5"),
    (["train", "--n-feat", "0"], "n_feat: expected"),
    (["train", "--n-hid", "0"], "n_hid: expected a whole number of at least 1, got 0"),
    (["train", "--importance-decay", "0"], "--importance-decay: expected a number in (0, 1], got 0"),
    (["train", "--instances", "0"], "--instances: expected a whole number of at least 1, got 0"),
    (["train", "--correlated", "2"], "sets: expected a divisor of 5 features, got 2"),
    (["train", "--correlated", "0"], "sets: expected a divisor of 5 features, got 0"),
    (["train", "--anticorrelated", "0"], "sets: expected a divisor of 5 features, got 0"),
    (["train", "--model", "absolute", "--correlated", "5"], "--model absolute: expected independent features"),
    (["train", "--seed", "-1"], "seed: expected a whole number of at least 0, got -1"),
    (["train", "--backend", "x"], "backend: expected one of numpy, cupy, auto, got 'x'"),
    (["train", "--out", ""], "argument --out: expected the name of a folder, got none"),
    (["train", "--out", "text.npy"], "text.npy: File exists"),
    (["phase", "--out", "text.npy/deep"], "text.npy/deep: Not a directory"),
    (["geometry", "--out", "text.npy"], "text.npy: File exists"),
    (["phase", "--seeds", "-2"], "--seeds: expected a whole number of at least 0, got -2"),
    (["phase", "--seed", "-1"], "--seed: expected a whole number of at least 0, got -1"),
    (["geometry", "--seed", "-1"], "seed: expected a whole number of at least 0, got -1"),
    (["geometry", "--backend", "x"], "backend: expected one of numpy, cupy, auto, got 'x'"),
    (["train", "--correlated", "1", "--anticorrelated", "1"], "not allowed with argument"),
    (["train", "--steps", "x"], "argument --steps: invalid int value"),
    (["phase", "--size", "1"], "size: expected"),
    (["geometry", "--seeds", "0"], "seeds: expected a whole number of at least 1, got 0"),
    (["recognise", "nothing.npy"], "nothing.npy: No such file"),
    (["recognise", "text.npy"], "text.npy: expected an .npy file of numbers, got a file that is none"),
    (["recognise", "objects.npy"], "objects.npy: expected an .npy file of numbers, got a file that is none"),
    (["recognise", "broken.npz"], "broken.npz: expected an .npy file of numbers, got a file that is none"),
    (["recognise", "flat.npy", "--floor", "x"], "argument --floor: invalid float value"),
    (["recognise", "square.npy", "--floor", "nan"], "floor: expected a number of at least 0, got nan"),
    (["recognise", "square.npy", "--floor", "-1"], "floor: expected a number of at least 0, got -1"),
    (["recognise", "nan.npy"], "nan.npy: expected finite numbers"),
    (["recognise", "flat.npy"], "flat.npy: expected an array"),
    (["recognise", "archive.npz"], "archive.npz: expected one .npy array"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, words, says):
    monkeypatch.setattr(train, "_train_block", None)  # nothing is computed before all is checked
    monkeypatch.setattr(phase, "theory_phase", None)
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "nan.npy", np.full((2, 3), np.nan))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.save(tmp_path / "square.npy", np.eye(3))
    np.savez(tmp_path / "archive.npz", W=np.ones((2, 3)))
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err


def test_the_module_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "toy_models", "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("toy_models of minisae ")
