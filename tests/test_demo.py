"""The demo: small, whole and twice; its folder, its report, and what it refuses. At full size it is slow."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from matplotlib import image

from minisae import cli, demo, demo_report
from minisae.demo_report import Settings
from minisae.errors import InputError
from tests.language import small_model, small_texts

SMALL = Settings(
    seed=3, held_out=0.4, k=3, l1=0.5, steps=20, batch_size=101, dead_after=300, ks=(2, 5), l1s=(0.1, 1.0),
    sweep_steps=10, sweep_batch=53, sample=307, sweep_rows=97, splice_characters=61, latents=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A small demo, run twice into the same folder, to the same bytes: the folder, and what was said last."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    folder.mkdir()
    first = written(folder)
    assert written(folder) == first
    return folder, first[0]


@pytest.fixture
def out(ran):
    return ran[0]


def written(folder):
    """Run the demo and return what it wrote, without how long it took."""
    words, _ = demo.run(folder, settings=SMALL, model=small_model(), texts=small_texts())
    numbers = json.loads((folder / "metrics.json").read_text())
    del numbers["seconds"]
    report = re.sub(r"in \d+ s\.", "", (folder / "report.md").read_text())
    pictures = [(folder / name).read_bytes() for name in demo_report.PICTURES]
    runs = [path.read_bytes() for name in ("topk", "relu") for path in sorted((folder / name).iterdir())]
    return words, numbers, report, pictures, runs


def test_the_folder_holds_what_it_says(out):
    assert sorted(path.name for path in out.iterdir()) == sorted(set(demo.MADE) - {"control"})
    text = (out / "metrics.json").read_text()
    numbers = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert numbers["finished"]
    assert set(numbers["metrics"]) == {"topk", "relu", "pca", "control"}
    assert [len(points) for points in numbers["sweeps"].values()] == [2, 2, 2, 2]
    assert len(numbers["latents"]) == 5
    assert numbers["rows"]["train"] + numbers["rows"]["held_out"] == sum(map(len, small_texts()))
    for name in demo_report.PICTURES:
        assert image.imread(out / name).shape[1] > 500


def test_the_report_shows_everything(out):
    report = (out / "report.md").read_text()
    for name in demo_report.PICTURES:
        assert f"({name})" in report
    numbers = json.loads((out / "metrics.json").read_text())
    for page in numbers["latents"]:
        assert f"latent {page['latent']}: {'dead' if page['dead'] else 'fires'}" in report
        assert all(line in report for line in page["contexts"])
    assert f"**{numbers['headline']['pooled_r2']:.3f}**" in report


def test_last_words_are_the_path_and_three_numbers(ran):
    out, words = ran
    found = json.loads((out / "metrics.json").read_text())["headline"]
    path, r2, ce, dead = words.splitlines()
    assert path == str(out / "report.md")
    assert r2.startswith(f"R² {found['pooled_r2']:.3f}:")
    assert ce.startswith(f"cross-entropy recovered {found['ce_recovered_vs_zero_ablation']:.3f}:")
    assert dead.startswith(f"dead share {found['dead_fraction']:.2%}:")


def test_eval_on_the_demos_folder_gives_the_demos_numbers(out, capsys, monkeypatch):
    monkeypatch.setattr("minisae.commands.load_model", lambda path: small_model())
    words = ["eval", str(out / "topk"), "--cache", str(out / "cache"), "--model", "char_gpt", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    told = json.loads((out / "metrics.json").read_text())
    assert found["how"] == f"held out: {told['rows']['how']}"
    for name, value in told["metrics"]["topk"].items():
        assert found["metrics"][name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("name", ["letter.txt", "metrics.json", "report.md"])
def test_a_folder_that_holds_something_else(name, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match="expected a new folder or a former demo's, it holds"):
        demo.run(tmp_path, settings=SMALL, model=small_model(), texts=small_texts())
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_an_unfinished_demo_may_be_replaced(tmp_path):
    demo.prepare(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "manifest.json").write_text("{}")
    demo.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_purity():
    assert demo.purity(np.array([[3.0, 1.0], [0, 0], [1, 1]])) == pytest.approx(0.625)
    assert demo.purity(np.zeros((2, 3))) == 0


def start(folder):
    command = [sys.executable, "-m", "minisae", "demo", "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_interrupted_is_one_line(tmp_path):
    process = start(tmp_path / "out")
    until = time.monotonic() + 60
    while not (tmp_path / "out" / "cache").exists() and time.monotonic() < until:
        time.sleep(0.01)
    for _ in range(3):  # one can be lost in a destructor, which swallows what is raised in it; a person presses again
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=30)
            break
    else:
        process.kill()
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    announced, stopped = err.splitlines()
    assert announced == f"demo: 17 jobs, about two minutes on 2 cores, 150 MB in {tmp_path / 'out'}"
    assert stopped == "minisae: stopped"


@pytest.mark.slow
def test_the_whole_demo_meets_what_is_asked_of_it(tmp_path):
    process = start(tmp_path / "out")
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert out.splitlines()[0] == str(tmp_path / "out" / "report.md")
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["rows"]["held_out"] >= 100_000
    assert numbers["headline"]["pooled_r2"] >= 0.85
    assert numbers["headline"]["ce_recovered_vs_zero_ablation"] >= 0.95
    assert numbers["headline"]["dead_fraction"] <= 0.02
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime < 200  # 100 s on two cores, were nothing else to run
