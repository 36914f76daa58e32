"""Runs on disk: killed anywhere and resumed, the same bits; what does not fit is one line."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from minisae.runs import job, read_records
from minisae.sae import VARIANTS
from tests.sae.cases import asked, every_case

RNG = np.random.default_rng(0)
X = RNG.standard_normal((997, 17)).astype(np.float32)
SETTINGS = {"variant": "topk", "d_sae": 61, "k": 3, "steps": 60, "batch_size": 101, "seed": 5, "lr": 5e-3}
OPTIONS = {"save_every": 7, "log_every": 5, "dead_after": 500, "ema": 0.9, "resample": "bricken", "resample_every": 20,
           "resample_after": 300, "resample_rows": 500, "input_scale": "mean_norm", "clip": 1.0}  # fmt: skip
CHANGES = [
    {"variant": name, "k": None, "options": OPTIONS | asked(name, case.options) | case.recipe}
    for name, case in (p.values for p in every_case())
]
"""The same for every case of every variant."""


def contents(folder):
    """Everything that a run leaves behind, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def train(folder, **change):
    settings = {**SETTINGS, "options": OPTIONS, "out": folder} | change
    return minisae.train(X, **settings)


def test_two_runs_leave_the_same_bytes(tmp_path):
    train(tmp_path / "a")
    train(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [record["step"] for record in read_records(tmp_path / "a")] == list(range(5, 61, 5))


@pytest.mark.parametrize(
    ("change", "after"),
    [
        *(({}, after) for after in (0, 1, 23, 35, 59)),
        *zip(CHANGES, itertools.cycle((0, 1, 3, 23, 35, 59))),
    ],
    ids=[*("topk",) * 5, *(p.id for p in every_case())],
)
def test_stopped_and_resumed_leaves_the_same_bytes(change, after, tmp_path):
    train(tmp_path / "whole", **change)
    asked = iter(range(1000))
    train(tmp_path / "cut", stop=lambda: next(asked) >= after, **change)
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["step"] == after
    with pytest.raises(InputError, match="this run has not ended yet"):
        minisae.load(tmp_path / "cut")
    train(tmp_path / "cut", resume=True, **change)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


CHILD = """
import sys, json, numpy as np, minisae
settings, options, out = json.loads(sys.argv[1])
x = np.random.default_rng(0).standard_normal((997, 17)).astype(np.float32)
minisae.train(x, **settings, options=options, out=out, resume=True)
"""


def kill_and_resume(tmp_path, kills, *, steps):
    """SIGKILL a training process ``kills`` times at random moments, let it end, compare with one never killed."""
    settings, options = SETTINGS | {"steps": steps}, OPTIONS | {"save_every": 3}
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def start(folder):
        argument = json.dumps([settings, options, str(folder)])
        return subprocess.Popen([sys.executable, "-c", CHILD, argument], env=env)

    assert start(tmp_path / "whole").wait() == 0
    rng, died = random.Random(7), 0
    run = tmp_path / "killed" / "run.json"
    while died < kills:
        child = start(tmp_path / "killed")
        began = time.monotonic()
        while child.poll() is None and not run.exists() and time.monotonic() - began < 30:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.2))
        child.send_signal(signal.SIGKILL)
        died += child.wait() == -signal.SIGKILL
        if child.returncode == 0:
            break
    assert start(tmp_path / "killed").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    return died


def test_killed_three_times(tmp_path):
    assert kill_and_resume(tmp_path, 3, steps=1200) == 3


@pytest.mark.slow
def test_killed_twenty_five_times(tmp_path):
    assert kill_and_resume(tmp_path, 25, steps=9000) == 25


def test_output_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"expected an empty or new folder, it holds thesis.txt$"):
            train(tmp_path, resume=resume)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_a_run_is_not_overwritten(tmp_path):
    train(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"add --resume \(resume=True\) to go on with the run in it"):
        train(tmp_path / "run")
    train(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"lr": 1e-4}, "lr: the run in .* was started with 0.005, resume asked for 0.0001"),
        ({"k": 4}, "k: the run in .* was started with 3, resume asked for 4"),
        ({"variant": "relu", "k": None}, "the run trains variant topk, resume asked for relu"),
    ],
)
def test_resume_with_other_settings_is_refused(change, line, tmp_path):
    train(tmp_path / "run")
    with pytest.raises(InputError, match=line):
        train(tmp_path / "run", resume=True, **change)


def test_resume_on_other_data_is_refused(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(InputError, match="was started on other data"):
        minisae.train(X[:-1], **SETTINGS, options=OPTIONS, out=tmp_path / "run", resume=True)


def test_resuming_elsewhere_warns(tmp_path):
    train(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    info["machine"]["threads"] = 77
    path.write_text(json.dumps(info))
    with pytest.warns(UserWarning, match="resumed elsewhere \\(threads 77 → .*\\); the last bits may differ"):
        train(tmp_path / "run", resume=True)


def test_a_run_file_without_its_keys_is_one_line(tmp_path):
    train(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    del info["machine"]
    path.write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"run.json: expected variant, .*; machine missing"):
        train(tmp_path / "run", resume=True)


def test_bf16_arrays_are_taken():
    x = X.astype(ml_dtypes.bfloat16)
    sae = minisae.train(x, **SETTINGS | {"steps": 3})
    assert sae.metadata["dtype"] == "bfloat16"


def test_unknown_options_are_named():
    with pytest.raises(InputError, match="option speed: topk has none of that name; expected some of d_in, d_sae, k"):
        job(5, variant="topk", d_sae=7, options={"steps": 3, "speed": 9})
    with pytest.raises(InputError, match=f"variant: expected one of {', '.join(VARIANTS)}, got 'vanilla'"):
        job(5, variant="vanilla", d_sae=7, options={"steps": 3})
    with pytest.raises(InputError, match=r"k: expected at most d_sae = 7, got 8$"):
        job(5, variant="topk", d_sae=7, options={"steps": 3, "k": 8})
    with pytest.raises(InputError, match="l1: expected a number of at least 0, got -1"):
        job(5, variant="relu", d_sae=7, options={"steps": 3, "l1": -1.0})
