"""The command line: what works, and wrong use as one line on standard error with its exit status."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minisae
from minisae import cli, commands, info
from minisae.cache import write_cache
from minisae.interop import files
from minisae.recipe import Recipe
from minisae.sae import VARIANTS
from tests.language import small_model, small_texts, text_cache
from tests.sae.cases import asked, config, every_case, first_options

N, D = 997, 13
RNG = np.random.default_rng(0)
SIZES = ["--d-sae", "37", "--k", "3", "--steps", "30", "--batch-size", "101", "--lr", "0.005", "--seed", "2"]
SETTINGS = [*SIZES, "--set", "log_every=5", "--set", "save_every=7", "--set", "dead_after=500"]


def rows(n=N, d=D):
    return RNG.standard_normal((n, d)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    known = {"doc_id": np.arange(N) // 97, "position": np.arange(N) % 97, "token": np.arange(N) % 31}
    write_cache(tmp_path / "cache", [{"acts": rows(), **known}], shard_rows=301)
    return tmp_path / "cache"


@pytest.fixture
def run(capsys):
    """Run the command line; give exit status, standard output, lines of standard error."""

    def run_(*words):
        status = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err.splitlines()

    return run_


@pytest.fixture
def refused(run):
    """Expect exit status 2 and one line that holds some words; nothing on standard output."""

    def refused_(words, *expected, status=2, lines=1):
        got, out, err = run(*words)
        assert (got, out) == (status, ""), err
        assert len(err) == lines, err
        for word in expected:
            assert word in err[-1], err
        return err[-1]

    return refused_


def bits(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_train_and_eval(cache, tmp_path, run):
    status, out, err = run("train", cache, "--out", tmp_path / "run", "--held-out", "0.3", *SETTINGS)
    assert status == 0
    assert "topk, 13 → 37 latents, 30 steps" in out
    assert sum("R²" in line for line in err) == 6
    status, out, _ = run("eval", tmp_path / "run", "--cache", cache, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["how"].startswith("held out: 3 of 11 documents, 291 of 997 rows")
    assert found["metrics"]["rows"] == 291
    assert found["metrics"]["l0"] <= 3
    status, out, _ = run("eval", tmp_path / "run", "--cache", cache)
    assert "pooled_r2" in out
    assert "share of the variance" in out


def test_train_says_what_it_trained_as_json(cache, tmp_path, run):
    _, out, _ = run("train", cache, "--out", tmp_path / "run", "--json", *SETTINGS)
    found = json.loads(out)
    assert (found["variant"], found["cfg"]["k"], found["step"]) == ("topk", 3, 30)


def test_relu_by_name_with_options(cache, tmp_path, run):
    words = ["train", cache, "--out", tmp_path / "run", "--variant", "relu", "--l1", "0.5", "--d-sae", "37"]
    words += ["--steps", "5", "--set", "l1_weight=decoder_norm", "--set", "decoder=free", "--dtype", "float64"]
    assert run(*words, "--reference", "--budget", "1")[0] == 0
    sae = minisae.load(tmp_path / "run")
    assert (sae.cfg.l1, sae.cfg.decoder, sae.params["W_dec"].dtype) == (0.5, "free", np.float64)


def test_lists_of_numbers_on_the_command_line(cache, tmp_path, run):
    words = ["train", cache, "--variant", "matryoshka", *SETTINGS, "--steps", "1", "--out"]
    said = ["prefixes=4,16", "level_weights=1,0.5,2"], ["prefixes=[4,16]", "level_weights=[1,0.5,2]"], ["prefixes=4"]
    for number, more in enumerate(said):
        assert run(*words, tmp_path / str(number), "--set", *more)[0] == 0
    sizes = [minisae.load(tmp_path / str(number)).cfg for number in range(3)]
    assert [(cfg.prefixes, cfg.level_weights) for cfg in sizes] == [
        *(((4, 16), (1, 0.5, 2)), ((4, 16), (1, 0.5, 2)), ((4,), ())),
    ]
    words = ["train", cache, "--variant", "crosscoder", "--d-sae", "7", "--steps", "1", "--out", tmp_path / "run"]
    assert run(*words, "--set", "splits=6")[0] == 0
    assert minisae.load(tmp_path / "run").cfg.splits == (6,)


def test_resume_gives_the_same_bits_as_one_run(cache, tmp_path, run, monkeypatch):
    assert run("train", cache, "--out", tmp_path / "whole", *SETTINGS)[0] == 0
    train, asked = commands.runs.train, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(commands.runs, "train", lambda *a, **k: train(*a, **{**k, "stop": lambda: next(asked) >= 17}))
        run("train", cache, "--out", tmp_path / "cut", *SETTINGS)
    assert commands._saved_step(tmp_path / "cut") == 17
    assert run("train", cache, "--out", tmp_path / "cut", "--resume", *SETTINGS)[0] == 0
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_eval_with_a_model(tmp_path, run, refused, monkeypatch):
    model = small_model()
    text_cache(tmp_path / "cache", model, small_texts())
    monkeypatch.setattr(commands, "load_model", lambda path: model)
    train = ["train", tmp_path / "cache", "--out", tmp_path / "run", "--held-out", "0.4", "--skip-positions", "2"]
    assert run(*train, *SETTINGS)[0] == 0
    words = ["eval", tmp_path / "run", "--cache", tmp_path / "cache", "--model", "char_gpt", "--json"]
    status, out, _ = run(*words)
    assert status == 0
    assert json.loads(out)["metrics"]["ce_zero_ablation"] > 0
    known = {"doc_id": np.arange(N) // 97, "position": np.arange(N) % 97, "token": np.arange(N) % 31}
    write_cache(tmp_path / "c", [{"acts": rows(d=12), **known}], meta={"hook": "mlp"})
    monkeypatch.setattr(commands, "evaluate", lambda *a, **k: pytest.fail("measured before the check"))
    refused([*words, "--cache", tmp_path / "c"], "expected a hook of char_gpt", "got 'mlp'")


def test_eval_of_what_knows_no_hook(tmp_path, run, refused):
    """A transcoder from elsewhere on a cache of two activations: options say which is its input, which its target."""
    write_cache(tmp_path / "two", [{"acts.in": rows(), "acts.out": rows(d=7)}])
    words = ["train", tmp_path / "two", "--out", tmp_path / "run", "--variant", "transcoder", *SETTINGS]
    assert run(*words, "--hook", "in", "--hook", "out")[0] == 0
    sae = minisae.load(tmp_path / "run")
    sae._replace(metadata={}).save(tmp_path / "foreign")
    words = ["eval", tmp_path / "foreign", "--cache", tmp_path / "two"]
    refused(words, "hook: expected one of acts.in, acts.out", "say which with hook (--hook)")
    status, out, _ = run(*words, "--hook", "in", "--hook", "acts.out", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["how"] == "all 997 rows: it is not known on what the autoencoder was trained"
    own = json.loads(run("eval", tmp_path / "run", *words[2:], "--json")[1])
    assert own["how"] == "all 997 rows: the autoencoder was trained on them, nothing was held out"
    assert found["metrics"] == own["metrics"]
    refused([*words, "--hook", "in"], "expected rows of width 20, got 13", lines=1)
    refused([*words, "--hook", "mlp"], "hook: expected one of acts.in, acts.out", "got 'mlp'")
    turned = json.loads(run("eval", tmp_path / "run", *words[2:], "--hook", "out", "--hook", "in", "--json")[1])
    assert turned["how"] == "all 997 rows of other data than the autoencoder was trained on"
    assert turned["metrics"]["pooled_r2"] != own["metrics"]["pooled_r2"]
    np.save(tmp_path / "a.npy", rows(d=20))
    refused([*words[:3], tmp_path / "a.npy", "--hook", "in"], "hook: expected none for an array, which has no hooks")


def test_cache_import_info_check(tmp_path, run):
    np.save(tmp_path / "a.npy", rows())
    status, out, _ = run("cache", "import", tmp_path / "a.npy", "--out", tmp_path / "c", "--meta", "model=toy")
    assert status == 0
    assert "toy" in out
    _, out, _ = run("cache", "info", tmp_path / "c", "--json")
    assert json.loads(out)["rows"] == N
    status, out, _ = run("cache", "check", tmp_path / "c")
    assert (status, out.strip().endswith("sound")) == (0, True)
    flip(tmp_path / "c" / "shard-000000.safetensors")
    status, out, _ = run("cache", "check", tmp_path / "c")
    assert status == 1
    assert "shard-000000.safetensors" in out


def flip(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_info(cache, tmp_path, run, refused):
    _, out, _ = run("info")
    assert {"minisae", "numpy", "blas", "gpu"} <= {line.split()[0] for line in out.splitlines()}
    run("train", cache, "--out", tmp_path / "run", *SETTINGS)
    _, out, _ = run("info", tmp_path / "run")
    assert "f     = ReLU(TopK(pre))" in out
    assert "whether b_dec is subtracted" in out
    assert VARIANTS["topk"].SOURCE in out
    assert "the data it was trained on" in out
    _, out, _ = run("info", tmp_path / "run", "--json")
    assert (strict(out)["cfg"]["k"], strict(out)["recipe"]["dead_after"]) == (3, 500)
    (tmp_path / "run" / "cfg.json").unlink()
    before = bits(tmp_path / "run")
    _, out, err = run("info", tmp_path / "run")
    assert "30 of 30" in out
    assert "dead_after        500" in out
    assert (bits(tmp_path / "run"), err) == (before, [])
    (tmp_path / "run" / "run.json").write_text('{"format": 1, "variant": "topk"}')
    refused(["info", tmp_path / "run"], "run.json", "cfg, recipe")


def strict(text):
    """Read JSON as other languages do: without NaN and Infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_help_says_whose_an_option_is(run):
    out = " ".join(run("train", "--help")[1].split())
    assert commands.owners("l1")[0] == "relu"
    assert commands.owners("k")[:2] == ["topk", "batch_topk"]
    for flag in ("k", "l1"):
        default = VARIANTS[commands.owners(flag)[0]].Config._field_defaults[flag]
        assert f"{', '.join(commands.owners(flag))}: " in out
        assert f"(default {default}" in out


def test_info_options_lists_every_option(run):
    _, out, _ = run("info", "options")
    words = out.split()
    listed = strict(run("info", "options", "--json")[1])
    kinds = {**{name: module.Config for name, module in VARIANTS.items()}, "recipe": Recipe}
    assert list(listed) == list(kinds)
    for title, kind in kinds.items():
        moving = getattr(VARIANTS.get(title), "MOVING", ())
        assert list(listed[title]) == [name for name in kind._fields if name not in moving]
        for name, option in listed[title].items():
            assert option["says"], name
            default = kind._field_defaults.get(name)
            assert option["default"] == (list(default) if isinstance(default, tuple) else default)
            assert (option["flag"] or name) in words
            if kind.__annotations__[name] in (str, bool):
                assert option["default"] in option["values"], name
    assert "two hooks of a cache imply it" in listed["transcoder"]["d_out"]["says"]
    assert "(needed without two hooks)" in run("info", "options")[1]
    assert listed["topk"]["relu"]["values"] == ["after", "before"]
    assert listed["topk"]["k"] == {"default": 32, "says": "Active latents a row.", "values": None, "flag": "--k"}
    assert "minisae info options" in " ".join(run("train", "--help")[1].split())


@pytest.fixture
def said(run):
    """Turn options of a variant or of the recipe into words, with the flag that ``info options`` lists for them."""
    listed = strict(run("info", "options", "--json")[1])

    def said_(options, title):
        for name, value in options.items():
            flag = (listed[title] if name in listed[title] else listed["recipe"])[name]["flag"]
            value = list(value) if isinstance(value, tuple) else value
            yield from (flag, value) if flag else ("--set", f"{name}={value}")

    return said_


SHIPPED = {"select_by": "pre"}
"""What is folded into the weights when a run ends."""


def test_every_listed_value_is_taken(cache, tmp_path, run, said):
    listed = strict(run("info", "options", "--json")[1])
    for title, options in listed.items():
        variant = ["--d-sae", "37", "--steps", "1", *(["--variant", title] if title in VARIANTS else [])]
        first = asked(title, first_options(title)) if title in VARIANTS else {}
        for name, option in options.items():
            for value in option["values"] or []:
                out = tmp_path / f"{title} {name} {value}"
                words = said(first | {name: value}, title)
                assert run("train", cache, "--out", out, *variant, *words)[0] == 0, out
                if title in VARIANTS:
                    assert getattr(minisae.load(out).cfg, name) == SHIPPED.get(name, value)


@pytest.mark.parametrize(("name", "case"), every_case())
def test_every_case_is_trained_by_what_is_said(name, case, cache, tmp_path, run, said):
    words = ["train", cache, "--out", tmp_path / "run", "--variant", name, "--d-sae", "37", "--steps", "5"]
    options = asked(name, case.options)
    assert run(*words, *said(options | case.recipe, name))[0] == 0
    known = json.loads((tmp_path / "run" / "run.json").read_text())
    assert known["cfg"] == json.loads(json.dumps(config(name, options, D, 37)._asdict()))
    assert known["recipe"].items() >= case.recipe.items()
    _, out, _ = run("info", tmp_path / "run")
    assert VARIANTS[name].SOURCE in out
    status, out, _ = run("eval", tmp_path / "run", "--cache", cache, "--json")
    shipped = {key: SHIPPED.get(key, value) for key, value in known["cfg"].items()}
    assert (status, json.loads(out)["cfg"]) == (0, shipped)


def test_json_has_no_nan(run, monkeypatch):
    found = commands.Result("", {"a": float("nan"), "b": [1.5, (float("inf"), {"c": float("-inf")})], "d": "NaN"})
    monkeypatch.setattr(info, "_machine_info", lambda: found)
    assert strict(run("info", "--json")[1]) == {"a": None, "b": [1.5, [None, {"c": None}]], "d": "NaN"}


def test_eval_of_equal_rows_is_json(tmp_path, run):
    np.save(tmp_path / "a.npy", np.ones((101, D), np.float32))
    assert run("train", tmp_path / "a.npy", "--out", tmp_path / "run", "--json", *SETTINGS)[0] == 0
    status, out, _ = run("eval", tmp_path / "run", "--cache", tmp_path / "a.npy", "--json")
    assert (status, strict(out)["metrics"]["pooled_r2"]) == (0, None)


def test_help_and_version(run):
    status, out, err = run("--version")
    assert (status, out.strip(), err) == (0, f"minisae {minisae.__version__}", [])
    for words in ([], ["train"], ["cache", "import"]):
        status, out, err = run(*words, "--help")
        assert (status, err) == (0, [])
        assert "usage: minisae" in out


USE = [
    (["train"], ["--out, --d-sae, --steps"]),
    ([], ["minisae: expected a command: demo, cache, train, eval, convert, info, bench, verify; try minisae demo"]),
    (["fly"], ["fly", "demo"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--variant", "fancy"], ["--variant", "fancy", "topk"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--k", "2.5"], ["k: expected a whole number", "2.5"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--k", "41"], ["k: expected at most d_sae = 37, got 41"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--steps", "0"], ["steps", "at least 1", "0"]),
    (
        ["train", "CACHE", "--out", "RUN", *SETTINGS, "--l1", "1"],
        [f"--l1 belongs to {' and '.join(commands.owners('l1'))}; topk takes --k"],
    ),
    (
        ["train", "CACHE", "--out", "RUN", *SETTINGS, "--variant", "relu"],
        [f"--k belongs to {' and '.join(commands.owners('k'))}; relu takes --l1"],
    ),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--set", "dead_aftr=3", "clip=1"], ["did you mean dead_after"]),
    (
        ["train", "CACHE", "--out", "RUN", "--variant", "relu", "--d-sae", "7", "--steps", "3", "--l1", "-1"],
        ["l1", "-1"],
    ),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--set", "relu=during"], ["relu", "after, before", "during"]),
    (
        ["train", "CACHE", "--out", "RUN", *SETTINGS, "--set", "colour=red"],
        ["no option colour for topk; minisae info options"],
    ),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--set", "colour"], ["--set", "NAME=VALUE", "colour"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--set", "k=3"], ["--set", "--k"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--set", "clip=1e999"], ["--set", "finite", "clip", "1e999"]),
    *(
        (["train", "CACHE", "--out", "RUN", "--variant", "matryoshka", *SETTINGS, "--set", said], [expected])
        for said, expected in {
            "prefixes=4,x": "expected a list of whole numbers, such as 4,16 for prefixes, got '4,x'",
            "prefixes=half": "expected a list of whole numbers",
            "prefixes=4,2.5": "expected a list of whole numbers",
            "prefixes=true": "expected a list of whole numbers",
            'prefixes=[4,"a"]': "expected a list of whole numbers",
            "level_weights=1,b": "expected a list of numbers, such as 1,0.5 for level_weights, got '1,b'",
        }.items()
    ),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--backend", "tpu"], ["backend", "numpy, cupy, auto", "tpu"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--held-out", "1.5"], ["held_out", "1.5"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--hook", "mlp"], ["hook", "mlp"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--skip-positions", "-1"], ["skip_positions", "-1"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--skip-positions", "99"], ["expected rows past the filters"]),
    (["train", "CACHE", "--out", "RUN", *SETTINGS, "--budget", "0"], ["budget"]),
    (["train", "nowhere", "--out", "RUN", *SETTINGS], ["nowhere: no such file or folder"]),
    (["train", "CACHE", "--out", "CACHE", *SETTINGS], ["expected an empty or new folder, it holds"]),
    (["train", "CACHE", "--out", "CACHE/manifest.json", *SETTINGS], ["expected a folder to write to, found a file"]),
    (["eval", "nowhere", "--cache", "CACHE"], ["nowhere", "expected the folder of a run"]),
    (["info", "nowhere"], ["nowhere"]),
    (["cache", "info", "nowhere"], ["nowhere: no such file or folder"]),
    (["cache", "check", "nowhere"], ["nowhere: no such file or folder"]),
    (["cache", "check", "CACHE/manifest.json"], ["expected an activation cache (a folder); make a cache with"]),
    (["train", "CACHE/manifest.json", "--out", "RUN", *SETTINGS], ["or a .npy file; make a cache with: minisae cache"]),
    (["train", "nowhere.npy", "--out", "RUN", *SETTINGS], ["nowhere.npy: no such file"]),
    (["eval", "CACHE", "--cache", "CACHE"], ["this is an activation cache (minisae cache info"]),
    (["info", "CACHE"], ["expected a run or a saved autoencoder, this is an activation cache"]),
    (["cache", "import", "nowhere.npy", "--out", "RUN"], ["nowhere.npy"]),
    (["demo", "--out", "CACHE"], ["expected a new folder or a former demo's, it holds"]),
]


@pytest.mark.parametrize(("words", "expected"), USE, ids=lambda part: " ".join(map(str, part))[:60])
def test_wrong_use_is_one_line(words, expected, cache, tmp_path, refused):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    places = {"CACHE": cache, "RUN": tmp_path / "run", "CACHE/manifest.json": cache / "manifest.json"}
    refused([places.get(word, word) for word in words], *expected)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_cupy_missing_is_one_line(cache, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("minisae.backend._why_no_cupy", lambda: "CuPy sees no CUDA device on this machine")
    words = ["train", cache, "--out", tmp_path / "run", *SETTINGS, "--backend", "cupy"]
    refused(words, "backend: 'cupy' asked for, but CuPy sees no CUDA device")


def test_rows_that_are_not_finite(tmp_path, refused, run):
    x = rows()
    x[[3, 700]] = np.nan
    np.save(tmp_path / "a.npy", x)
    refused(["train", tmp_path / "a.npy", "--out", tmp_path / "run", *SETTINGS], "2", "997", "3", "700")
    refused(["cache", "import", tmp_path / "a.npy", "--out", tmp_path / "c"], "2 of 997", "3, 700", "--drop-nonfinite")
    words = ["train", tmp_path / "a.npy", "--out", tmp_path / "run", *SETTINGS, "--drop-nonfinite"]
    assert run(*words, "--held-out", "0.2")[0] == 0
    held = "held out: the last 199 of 995 rows"
    assert held in run("eval", tmp_path / "run", "--cache", tmp_path / "a.npy")[1]
    np.save(tmp_path / "b.npy", rows())
    run("train", tmp_path / "b.npy", "--out", tmp_path / "finite", *SETTINGS)
    words = ["eval", tmp_path / "finite", "--cache", tmp_path / "a.npy"]
    refused(words, "2 of 997", "--drop-nonfinite")
    assert "all 995 rows of other data" in run(*words, "--drop-nonfinite")[1]


def test_eval_on_the_array_of_training_and_on_others(tmp_path, run):
    x = rows()
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x[::-1])
    run("train", tmp_path / "a.npy", "--out", tmp_path / "run", "--held-out", "0.2", *SETTINGS)
    found = {
        name: json.loads(run("eval", tmp_path / "run", "--cache", tmp_path / f"{name}.npy", "--json")[1])
        for name in ("a", "b")
    }
    assert found["a"]["how"] == "held out: the last 199 of 997 rows (an array has no documents)"
    assert (found["a"]["metrics"]["rows"], found["b"]["metrics"]["rows"]) == (199, 997)
    assert found["b"]["how"] == "all 997 rows of other data than the autoencoder was trained on"
    np.save(tmp_path / "tail.npy", x[-199:])
    alone = json.loads(run("eval", tmp_path / "run", "--cache", tmp_path / "tail.npy", "--json")[1])
    assert alone["metrics"] == found["a"]["metrics"]


def test_rows_of_another_width(cache, tmp_path, run, refused):
    run("train", cache, "--out", tmp_path / "run", *SETTINGS)
    np.save(tmp_path / "wide.npy", rows(d=17))
    refused(["eval", tmp_path / "run", "--cache", tmp_path / "wide.npy"], "wide.npy", "width 13", "17")
    run("cache", "import", tmp_path / "wide.npy", "--out", tmp_path / "wide")
    refused(["eval", tmp_path / "run", "--cache", tmp_path / "wide"], "wide", "width 13", "17")
    refused(["eval", tmp_path / "run", "--cache", cache, "--model", "gpt9"], "--model", "char_gpt", "gpt9")
    refused(["eval", tmp_path / "run", "--cache", tmp_path / "wide.npy", "--model", "char_gpt"], "wide.npy")


@pytest.mark.parametrize(("content", "expected"), [(np.zeros((0, 13), "f4"), "non-empty"), ("text", ".npy")])
def test_a_file_that_is_no_matrix(content, expected, tmp_path, refused):
    path = tmp_path / "a.npy"
    path.write_text(content) if isinstance(content, str) else np.save(path, content)
    refused(["train", path, "--out", tmp_path / "run", *SETTINGS], expected)


def test_empty_cache(cache, tmp_path, refused):
    log = cache / "shards.jsonl"
    log.write_text("")
    for shard in cache.glob("shard-*"):
        shard.unlink()
    refused(["train", cache, "--out", tmp_path / "run", *SETTINGS], str(cache))


def test_damaged_shard_is_named_and_refused(cache, tmp_path, refused):
    flip(cache / "shard-000002.safetensors")
    refused(["train", cache, "--out", tmp_path / "run", *SETTINGS], "shard-000002.safetensors", "sha256", "damaged")
    assert not (tmp_path / "run").exists()


def test_resume_with_other_settings(cache, tmp_path, run, refused):
    words = ["train", cache, "--out", tmp_path / "run"]
    run(*words, *SETTINGS)
    refused([*words, *SETTINGS], "add --resume")
    refused([*words, *SETTINGS, "--resume", "--k", "5"], "k: the run in", "started with 3", "asked for 5")
    refused([*words, *SETTINGS, "--resume", "--held-out", "0.2"], "started on other data")
    refused([*words, *SETTINGS, "--resume", "--steps", "60"], "finished at step 30", "start a new one")
    assert "already finished" in run(*words, *SETTINGS, "--resume")[1]
    refused(["cache", "check", tmp_path / "run"], "expected an activation cache, this is a run")


@pytest.mark.parametrize("lr", ["1e30", "1e39"])
def test_divergence_says_the_step_and_what_is_kept(lr, cache, tmp_path, run):
    words = ["train", cache, "--out", tmp_path / "run", "--variant", "relu", "--d-sae", "37", "--steps", "90"]
    status, out, err = run(*words, "--lr", lr, "--set", "log_every=1", "--set", "decoder=free")
    assert (status, out) == (1, "")
    kept = re.escape(f"the checkpoint of step 0 in {tmp_path / 'run'} is kept")
    assert re.fullmatch(rf"minisae: training diverged at step \d+; {kept}", err[-1])
    assert commands._saved_step(tmp_path / "run") == 0


@pytest.mark.parametrize("after", [0, 3, 7])
def test_full_disk_is_one_line_and_keeps_the_last_checkpoint(after, cache, tmp_path, run, refused, monkeypatch):
    assert run("train", cache, "--out", tmp_path / "whole", *SETTINGS)[0] == 0
    sync, calls = os.fsync, iter(range(1000))

    def full(handle):
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    words = ["train", cache, "--out", tmp_path / "run", *SETTINGS]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        status, _, err = run(*words)
    assert status == 2
    assert "no space left" in err[-1]
    assert run(*words, "--resume")[0] == 0
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_full_disk_while_importing(tmp_path, refused, monkeypatch):
    np.save(tmp_path / "a.npy", rows())

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("minisae.cache.shards.os.fsync", full)
    refused(["cache", "import", tmp_path / "a.npy", "--out", tmp_path / "c"], "No space left", "run it again")


def test_warnings_are_one_line(cache, tmp_path, run, monkeypatch):
    run("train", cache, "--out", tmp_path / "run", *SETTINGS)
    monkeypatch.setattr("minisae.runs.machine", lambda: {"blas": "another"})
    status, _, err = run("train", cache, "--out", tmp_path / "run", "--resume", *SETTINGS)
    assert status == 0
    assert next(line for line in err if "resumed elsewhere" in line).startswith("minisae: warning: ")


def child(*words):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "minisae", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_interrupted_with_a_checkpoint_and_resumed_to_the_same_bits(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    long = [*SIZES, "--set", "log_every=20", "--set", "save_every=500", "--steps", "3000"]
    words = ["train", cache, *long]
    process = child(*words, "--out", tmp_path / "cut")
    records = tmp_path / "cut" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (records.exists() and records.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    step = commands._saved_step(tmp_path / "cut")
    assert 0 < step < 3000
    assert err.splitlines()[-1].startswith(f"minisae: stopped at step {step}; the checkpoint is in ")
    for folder, more in (("cut", ["--resume"]), ("whole", [])):
        process = child(*words, "--out", tmp_path / folder, *more)
        assert process.wait(timeout=60) == 0
        process.communicate()
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_a_closed_pipe_is_no_error(cache):
    process = child("cache", "info", cache)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(("agrees", "status"), [(True, 0), (False, 1)])
def test_bench_passes_on_what_was_found(agrees, status, run, monkeypatch):
    from minisae import bench

    found = {"agrees": agrees, "results": []}
    monkeypatch.setattr(bench, "bench", lambda *, against, progress: progress(f"timing {against}") or found)
    monkeypatch.setattr(bench, "table", lambda report: "a table")
    assert run("bench", "--against", "torch") == (status, "a table\n", ["timing torch"])
