"""Several activations of the same rows: from a cache to a trained and evaluated transcoder or crosscoder."""

import json

import numpy as np
import pytest

import minisae
from minisae import cli
from minisae.cache import view, write_cache
from minisae.dead import resample, row_losses
from minisae.evaluate import evaluate
from minisae.optim import adam_init
from minisae.sae import VARIANTS
from tests.helpers import perturbed
from tests.sae.test_transcoder import mlp_rows

SIZES = ["--d-sae", "17", "--steps", "200", "--batch-size", "101", "--lr", "0.01", "--set", "dead_after=5000"]
TRANSCODER = ["--variant", "skip_transcoder", "--k", "3", "--set", "decoder=free"]


@pytest.fixture
def cache(tmp_path):
    rows, doc_id = mlp_rows(), np.arange(997) // 97
    parts = {"acts.in": rows[:, :7], "acts.more": rows[:, :2], "acts.out": rows[:, 7:], "doc_id": doc_id}
    return write_cache(tmp_path / "cache", [parts], dtype="fp32").path


@pytest.fixture
def run(capsys):
    def run_(*words):
        status = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run_


def test_hooks_of_a_cache_become_input_and_target(cache, tmp_path, run):
    words = ["train", cache, "--out", tmp_path / "run", "--hook", "in", "--hook", "out", "--held-out", "0.2"]
    assert run(*words, *SIZES, *TRANSCODER)[0] == 0
    sae = minisae.load(tmp_path / "run")
    assert (sae.cfg.d_in, sae.cfg.d_out) == (7, 3)
    status, out, _ = run("eval", tmp_path / "run", "--cache", cache, "--json")
    assert status == 0
    found = json.loads(out)
    assert "held out: 2 of 11 documents" in found["how"]
    assert found["metrics"]["pooled_r2"] > 0.8
    again = json.loads(run(*words, *SIZES, *TRANSCODER, "--resume", "--json")[1])
    assert again["step"] == 200
    status, _, err = run("eval", tmp_path / "run", "--cache", cache, "--model", "char_gpt")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "expected one activation to splice into char_gpt, got rows of several" in err


def test_hooks_of_a_cache_become_sources(cache, tmp_path, run):
    hooks = [word for hook in ("in", "more", "out") for word in ("--hook", hook)]
    words = ["train", cache, "--out", tmp_path / "run", *hooks, *SIZES, "--variant", "crosscoder", "--l1", "0.1"]
    assert run(*words)[0] == 0
    sae = minisae.load(tmp_path / "run")
    assert (sae.cfg.d_in, sae.cfg.splits) == (12, (7, 9))
    status, out, _ = run("eval", tmp_path / "run", "--cache", cache, "--json")
    assert status == 0
    assert json.loads(out)["metrics"]["pooled_r2"] > 0.5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--hook", "in"], "d_out: expected the width of the target, of rows that hold input and target side by side"),
        (["--hook", "in", "--hook", "no"], "hook"),
        (["--hook", "in", "--hook", "out", "--set", "d_out=10"], "d_out: "),
    ],
)
def test_wrong_use_is_one_line(words, line, cache, tmp_path, run):
    status, out, err = run("train", cache, "--out", tmp_path / "run", *words, *SIZES, *TRANSCODER)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert line in err
    assert not (tmp_path / "run").exists()


def test_a_cache_of_another_width_is_refused(cache, tmp_path, run):
    words = ["train", cache, "--out", tmp_path / "run", "--hook", "in", "--hook", "out", *SIZES, *TRANSCODER]
    assert run(*words)[0] == 0
    np.save(tmp_path / "rows.npy", mlp_rows()[:, :9])
    status, _, err = run("eval", tmp_path / "run", "--cache", tmp_path / "rows.npy")
    assert status == 2
    assert "expected rows of width 10, got 9" in err


def test_evaluated_against_the_target_of_a_view(cache):
    """What is measured is the target's part alone."""
    module, rng = VARIANTS["transcoder"], np.random.default_rng(0)
    cfg = module.Config(7, 17, 3, k=2)
    params = {key: p.astype(np.float32) for key, p in perturbed(module, cfg, rng).items()}
    source = view(minisae.cache.open_cache(cache), hook=["in", "out"])
    numbers = evaluate(minisae.SAE("transcoder", cfg, params, {}), source).numbers
    x, y = mlp_rows()[:, :7], mlp_rows()[:, 7:]
    out = module.forward(params, x, cfg)[0]
    error = ((out.x_hat - y).astype(float) ** 2).sum(axis=1).mean()
    assert numbers["squared_error_per_row"] == pytest.approx(error, 1e-5)
    assert numbers["squared_error_per_element"] == pytest.approx(numbers["squared_error_per_row"] / 3)


@pytest.mark.parametrize("how", ["bricken", "arena_advanced"])
def test_resampling_takes_input_and_target_of_one_row(how):
    """A new latent reads the direction of a row's input and writes that of its target."""
    module, rng = VARIANTS["skip_transcoder"], np.random.default_rng(3)
    cfg, dead = module.Config(7, 17, 3, l1=0.1), np.arange(17) % 5 == 0
    params, rows = perturbed(module, cfg, rng), mlp_rows(101).astype(float)
    x, y = module.split(rows, cfg)
    y = y - (params["b_dec"] if how == "arena_advanced" else 0)
    loss = row_losses(module, params, rows, cfg, penalty=False)
    np.testing.assert_allclose(loss, ((module.forward(params, x, cfg)[0].x_hat - rows[:, 7:]) ** 2).sum(axis=1))
    assert resample(how, module, params, adam_init(params), cfg, dead, lambda: [rows[:50], rows[50:]], rng) == 4
    into, out_of = params["W_enc"].T[dead], params["W_dec"][dead]
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    into = into / np.linalg.norm(into, axis=1, keepdims=True)
    chosen = (into @ x.T).argmax(axis=1)
    np.testing.assert_allclose(into, x[chosen], rtol=1e-10)
    np.testing.assert_allclose(out_of, y[chosen], rtol=1e-10)
