"""Presets: each builds, trains, and says what it does; what a recipe's switches do on values worked by hand."""

import importlib
import json
import re

import numpy as np
import pytest

import minisae
from minisae import cli
from minisae.errors import InputError
from minisae.ops import dense
from minisae.presets import PRESETS, Sizes, options, preset, with_preset
from minisae.presets.formula import CODES, formula
from minisae.presets.words import describe, recipe_words, settings
from minisae.recipe import Recipe
from minisae.sae import VARIANTS, relu, topk, variant
from tests.helpers import ArraySource, perturbed

# ``minisae.train`` the function hides the module of the same name.
t = importlib.import_module("minisae.train")
D_IN, D_SAE, ROWS = 7, 41, 31
SIZES = Sizes(D_IN, D_SAE, 20_000, 2048)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((307, D_IN)).astype(np.float32) + 0.5


def rows_of(name):
    """Rows of data for a preset, with a target beside where it has one."""
    double = "transcoder" in PRESETS[name].variant
    return np.hstack([X, X[::-1] ** 2]) if double else X, {"d_out": D_IN} if double else {}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(name):
    data, own = rows_of(name)
    sae = minisae.train(data, preset=name, d_sae=D_SAE, steps=5, batch_size=ROWS, options={"log_every": 1, **own})
    assert sae.variant == PRESETS[name].variant
    assert sae.metadata["preset"] == name
    assert all(np.isfinite(p).all() for p in sae.params.values())
    kept = options(name, Sizes(D_IN, D_SAE, 5, ROWS))
    changed = variant(sae.variant).UNITS.keys() | {"select_by"}  # by the input's scale; where norms are folded in
    same = {key: getattr(sae.cfg, key) for key in (kept.keys() & set(sae.cfg._fields)) - changed}
    assert same == {key: kept[key] for key in same}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_described(name):
    text, about = describe(name, SIZES)
    library, _, what = name.partition("/")
    assert library.rpartition("-")[0] or library
    assert what
    assert text.startswith(f"{name}: {about['variant']}")
    assert json.loads(json.dumps(about)) == json.loads(json.dumps(about, allow_nan=False))
    assert about["formula"][-1].strip()
    for key, change in about["options"].items():
        assert change["default"] != change["value"], key


ALONE = {"first_threshold", "threshold_start", "log_unit"}
"""Options that are numbers of a start or a unit: the formula has no place for them, or only beside another."""


@pytest.mark.parametrize("name", PRESETS)
def test_every_option_of_a_preset_shows_in_its_words(name):
    """Text that is made from the options cannot drift from them: put one back to its default, and the text changes."""
    cfg, recipe = settings(name, SIZES)
    on = {"auxk": 0.5, "pre_act": 0.1}
    cfg = cfg._replace(**{key: value for key, value in on.items() if key in cfg._fields and not getattr(cfg, key)})
    lines = formula(PRESETS[name].variant, cfg)
    words = recipe_words(recipe, unit=cfg.decoder == "unit")
    for key in options(name, SIZES):
        if key in cfg._fields and key not in ALONE:
            default = cfg._field_defaults[key]
            if getattr(cfg, key) != default:
                assert formula(PRESETS[name].variant, cfg._replace(**{key: default})) != lines, key
        elif key in recipe._fields and key not in (
            "batch_size",
            "sparsity_warmup_begins",
            "init_rows",
            "resample_when",
        ):
            other = recipe._replace(**{key: Recipe._field_defaults[key]})
            assert recipe_words(other, unit=cfg.decoder == "unit") != words, key


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].variant in ("batch_topk", "matryoshka")])
def test_the_printed_code_of_inference_is_the_one_computed(name):
    """The line is read back and computed, with thresholds above and below 0 and entries that reach theirs exactly."""
    module, cfg = variant(PRESETS[name].variant), settings(name, SIZES)[0]
    (line,) = [line for line in formula(PRESETS[name].variant, cfg) if line.startswith("inference")]
    of, how = re.fullmatch(r"inference: f = ReLU\(pre\) · 1\[(pre|rank) ([>≥]) θ\]", line).groups()
    params = perturbed(module, cfg, np.random.default_rng(3))
    pre = (X - cfg.subtract_b_dec * params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    ranked = pre * (np.linalg.norm(params["W_dec"], axis=1) if of == "rank" else 1)
    params["threshold"] = np.where(np.arange(D_SAE) % 3, ranked[np.arange(D_SAE)].diagonal(), -0.5)
    for theta in (params["threshold"], np.full(D_SAE, -1.0)):
        want = np.maximum(pre, 0) * (ranked > theta if how == ">" else ranked >= theta)
        np.testing.assert_array_equal(dense(module.encode(params | {"threshold": theta}, X, cfg)), want)


def test_formulas_by_heart():
    cfg = settings("saelens-6.54/relu", SIZES)[0]
    assert formula("relu", cfg._replace(l1=0.25)) == [
        "pre = (x − b_dec) W_enc + b_enc",
        "f = ReLU(pre)",
        "x_hat = f W_dec + b_dec,  the rows of W_dec are free",
        "L = (1/n) Σ_rows ‖x − x_hat‖²",
        "  + λ (1/n) Σ_rows Σ_j f_j ‖W_dec,j‖,  λ = 1/4",
    ]
    assert formula("topk", topk.Config(7, 41, 3)) == [
        "pre = (x − b_dec) W_enc + b_enc",
        "f = ReLU(Top3(pre))",
        "x_hat = f W_dec + b_dec,  ‖W_dec,j‖ = 1",
        "L = (1/n) Σ_rows ‖x − x_hat‖²",
        "  + 1/32 · (1/n) Σ_rows ‖aux − e‖²",
        "    aux = ReLU(Top(d_in/2)(pre of dead latents)) W_dec,  e = x − x_hat;  e held fixed",
    ]
    with pytest.raises(InputError, match="formula: expected one of"):
        formula("tied", cfg)
    assert CODES.keys() <= VARIANTS.keys()


def test_sizes_decide():
    many, few = (options("dictionary_learning-2025-08/topk", Sizes(7, d_sae, 20_000, 64)) for d_sae in (2**16, 2**14))
    assert (many["lr"], few["lr"]) == (1e-4, 2e-4)
    assert options("saelens-6.54/topk", SIZES._replace(batch_size=100))["dead_after"] == 100_100
    assert options("openai-2024-06/topk", SIZES._replace(batch_size=3_000_000))["dead_after"] == 9_000_000
    short = options("sparsify-1.3.3/topk", SIZES._replace(steps=500))
    assert (short["lr_warmup"], short["lr_decay_start"]) == (499, 499 / 500)
    double = options("dictionary_learning-2025-08/topk", SIZES._replace(dtype="float64"))
    assert double["normalise_eps"] == 2.0**-52


def test_what_is_asked_wins():
    chosen = {"steps": 9, "lr": 0.25, "k": 3}
    found = with_preset("saelens-6.54/topk", chosen, d_in=D_IN, d_sae=D_SAE)
    assert (found["lr"], found["k"], found["auxk"], found["batch_size"]) == (0.25, 3, 1.0, 4096)
    assert with_preset(None, chosen, d_in=D_IN, d_sae=D_SAE) == chosen
    for name, k_start in (("dictionary_learning-2025-08/topk", D_IN), ("sparsify-1.3.3/topk", D_SAE)):
        annealed = with_preset(name, {**chosen, "k_anneal": 5}, d_in=D_IN, d_sae=D_SAE)
        assert annealed["k_start"] == k_start
        assert minisae.train(X, preset=name, d_sae=D_SAE, steps=9, k=3, options={"k_anneal": 5}).cfg.k == 3
    assert with_preset(name, {**chosen, "k_anneal": 5}, d_in=D_IN, d_sae=999)["k_start"] == 10 * D_IN


def test_levels_weigh_one_over_their_number_with_prefixes_that_are_asked_for():
    name = "dictionary_learning-2025-08/matryoshka"
    asked = {"preset": name, "d_sae": D_SAE, "steps": 2, "batch_size": ROWS, "k": 3}
    for prefixes in ([5, 17], (5, 17), (5, 17, D_SAE)):
        cfg = minisae.train(X, **asked, options={"prefixes": prefixes}).cfg
        assert (cfg.prefixes, cfg.level_weights) == (tuple(prefixes), (1 / 3,) * 3)
    own = {"prefixes": (5,), "level_weights": (1.0, 2.0)}
    assert minisae.train(X, **asked, options=own).cfg.level_weights == (1.0, 2.0)
    with pytest.raises(InputError, match=r"^prefixes: expected a list of numbers, got 12$"):
        minisae.train(X, **asked, options={"prefixes": 12})


def test_auxk_says_what_it_ranks():
    ranked = {"abs_topk": ", by |pre · ‖W_dec,j‖|", "topk": ", by rank"}
    for name, by in ranked.items():
        module = VARIANTS[name]
        text = "\n".join(formula(name, module.Config(7, 41, 3, auxk=0.5, select_by="contribution")))
        assert f"(pre of dead latents{by})" in text
    assert "(pre of dead latents, by |pre|)" in "\n".join(formula("abs_topk", VARIANTS["abs_topk"].Config(7, 41, 3)))


def test_a_selected_zero_shows_with_relu_on_either_side():
    plain = topk.Config(7, 41, 3)
    assert formula("topk", plain) != formula("topk", plain._replace(selected_zero="passes"))


def test_wrong_use_is_one_line():
    with pytest.raises(InputError, match=r"preset: no preset 'saelens/topk'; did you mean .*saelens-6.54/topk.*\?"):
        preset("saelens/topk")
    with pytest.raises(InputError, match=r"variant: preset saelens-6\.54/topk trains topk, got 'relu'"):
        minisae.train(X, preset="saelens-6.54/topk", variant="relu", d_sae=D_SAE, steps=5)
    with pytest.raises(InputError, match="d_sae: expected a whole number of at least 1, got 0"):
        minisae.train(X, preset="sparsify-1.3.3/topk", d_sae=0, steps=5)


def test_on_the_command_line(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    words = ["train", tmp_path / "x.npy", "--out", tmp_path / "run", "--preset", "dictionary_learning-2025-08/relu"]
    words += ["--d-sae", 41, "--steps", 5, "--l1", 0.25, "--set", "log_every=1", "init_rows=100"]
    assert cli.main([str(word) for word in words]) == 0
    known = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (known["variant"], known["cfg"]["l1"], known["recipe"]["lr"]) == ("relu", 0.25, 1e-3)
    assert known["recipe"]["lr_warmup_begins"] == "zero"
    assert known["source"]["preset"] == "dictionary_learning-2025-08/relu"
    capsys.readouterr()
    assert cli.main(["info", "preset"]) == 0
    assert all(name in capsys.readouterr().out for name in [next(iter(PRESETS))])
    words = ["info", "preset", "saelens-6.54/topk", "--d-sae", "999", "--json"]
    assert cli.main(words) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["options"]["k"]["value"] == 100
    assert about["sizes"]["batch_size"] == 4096
    assert cli.main(["info", "preset", "saelens"]) == 2
    assert cli.main(["info", "options", "saelens"]) == 2
    capsys.readouterr()
    for size in ("--d-in", "--d-sae", "--steps", "--batch-size"):
        for bad in ("0", "-5"):
            assert cli.main(["info", "preset", "saelens-6.54/topk", f"{size}={bad}"]) == 2
            name = size[2:].replace("-", "_")
            assert capsys.readouterr().err == f"minisae: {name}: expected a whole number of at least 1, got {bad}\n"
    assert cli.main(["info", "options", "--json"]) == 0
    assert not {"at"} & json.loads(capsys.readouterr().out)["p_anneal"].keys()


def begun(cfg, **recipe):
    """A float64 run of this recipe at step 0, decoder rows of norms from 0.5 to 2 where it is not told otherwise."""
    source = ArraySource(X.astype(np.float64))
    name = "topk" if isinstance(cfg, topk.Config) else "relu"
    fixed = {"steps": 16, "batch_size": ROWS, "lr": 1e-2, "dtype": "float64", "init_rows": 307}
    return t.start(source, name, cfg, Recipe(**(fixed | recipe)))


def test_a_start_that_would_be_overwritten_is_refused():
    with pytest.raises(InputError, match=r"^start_norm: expected 1 for archetypal, whose W_dec follows, got 0\.1$"):
        minisae.train(X, variant="archetypal", k=3, d_sae=D_SAE, steps=5, options={"start_norm": 0.1})


def test_the_start():
    sample = np.concatenate(list(t.sample_chunks(ArraySource(X), 307, seed=0)))
    plain, small = begun(relu.Config(D_IN, D_SAE)), begun(relu.Config(D_IN, D_SAE), start_norm=0.25, b_dec_start="mean")
    np.testing.assert_array_equal(small.params["W_enc"], plain.params["W_enc"] * 0.25)
    np.testing.assert_allclose(small.params["b_dec"], sample.mean(axis=0), rtol=1e-6)
    assert not begun(relu.Config(D_IN, D_SAE), b_dec_start="zero").params["b_dec"].any()
    median = begun(relu.Config(D_IN, D_SAE), b_dec_start="median").params["b_dec"]
    np.testing.assert_array_equal(median, plain.params["b_dec"])
    tied = VARIANTS["tied"].Config(D_IN, D_SAE)
    with pytest.raises(InputError, match="b_dec_start: expected a variant with b_dec, got 'mean'"):
        t.start(ArraySource(X), "tied", tied, Recipe(steps=3, b_dec_start="mean"))


def test_b_dec_stays():
    run = begun(relu.Config(D_IN, D_SAE, subtract_b_dec=False), train_b_dec=False)
    before = run.params["b_dec"].copy()
    for _ in range(3):
        run, _ = t.step(run, X[:ROWS].astype(np.float64))
    np.testing.assert_array_equal(run.params["b_dec"], before)
    assert not run.adam.m["b_dec"].any()


def test_normalising_before_the_forward_pass():
    run = begun(relu.Config(D_IN, D_SAE), order="normalise-forward-project-clip-step")
    run.params["W_dec"] *= 3
    x = X[:ROWS].astype(np.float64)
    unit = run.params["W_dec"] / 3
    out, _ = relu.forward(run.params | {"W_dec": unit}, x, run.cfg)
    run, measures = t.step(run, x)
    np.testing.assert_allclose(measures["mse"], ((out.x_hat - x) ** 2).sum() / ROWS)
    norms = np.linalg.norm(run.params["W_dec"], axis=1)
    assert 1e-6 < np.abs(norms - 1).max() < 0.1  # left as the step made them


def test_when_a_latent_is_dead():
    """Of four latents: fires now; is silent; fires now and long silent; silent for too long."""
    run = begun(topk.Config(D_IN, D_SAE, k=1, k_aux=2), dead_after=50)
    x = X[:ROWS].astype(np.float64)
    out, _ = topk.forward(run.params, x, run.cfg)
    fired = topk.fired_latents(out, run.cfg)
    now, silent = np.flatnonzero(fired)[:2], np.flatnonzero(~fired)[:2]
    run.idle[now[1]], run.idle[silent[1]], run.idle[silent[0]] = 60, 60, 50 - ROWS
    assert set(np.flatnonzero(t.dead_latents(run, x, run.cfg))) == {now[1], silent[1]}
    with_batch = run._replace(recipe=run.recipe._replace(dead_judged="with_batch"))
    assert set(np.flatnonzero(t.dead_latents(with_batch, x, run.cfg))) == {silent[0], silent[1]}


def test_what_counts_as_firing():
    run = begun(topk.Config(D_IN, D_SAE, k=2))
    x = X[:ROWS].astype(np.float64)
    out, _ = topk.forward(run.params, x, run.cfg)
    f = np.asarray(out.f.dense() if hasattr(out.f, "dense") else out.f)
    level = float(np.median(f[f > 0]))
    above = run._replace(recipe=run.recipe._replace(fired_above=level))
    np.testing.assert_array_equal(t.fired_now(out, run, run.cfg), (f > 0).any(axis=0))
    np.testing.assert_array_equal(t.fired_now(out, above, run.cfg), (f > level).any(axis=0))
    assert (f > level).any(axis=0).sum() < (f > 0).any(axis=0).sum()
    negative = out._replace(f=-f)
    np.testing.assert_array_equal(t.fired_now(negative, above, run.cfg), (f > level).any(axis=0))


def test_signum_saves_the_average_and_resumes(tmp_path):
    """The average after t steps of a constant rate is the mean of z₁ … z_t."""
    run = begun(relu.Config(D_IN, D_SAE, decoder="free"), optimiser="signum", beta1=0.9, lr_decay="constant")
    points = []
    for _ in range(4):
        run, _ = t.step(run, X[:ROWS].astype(np.float64))
        points.append(run.adam.m["W_enc"].copy())
    sae = minisae.runs.finished(run, metadata={})
    np.testing.assert_allclose(sae.params["W_enc"], np.mean(points, axis=0), rtol=1e-12)
    whole = minisae.train(X, preset="sparsify-1.3.3/topk-signum", d_sae=D_SAE, steps=9, batch_size=ROWS)
    asked = {"preset": "sparsify-1.3.3/topk-signum", "d_sae": D_SAE, "steps": 9, "batch_size": ROWS}
    stop = iter([False] * 4 + [True] * 9)
    minisae.train(X, **asked, out=tmp_path / "run", stop=lambda: next(stop))
    again = minisae.train(X, **asked, out=tmp_path / "run", resume=True)
    for key, p in whole.params.items():
        np.testing.assert_array_equal(again.params[key], p)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"optimiser": "signum", "lr_warmup": 3}, "lr_warmup: expected 0 with optimiser signum, got 3"),
        ({"optimiser": "signum", "ema": 0.5}, "ema: expected 0.0 with optimiser signum, got 0.5"),
        ({"optimiser": "signum", "beta1": 0}, "beta1: expected a number above 0 with optimiser signum, got 0"),
        ({"optimiser": "sgd"}, "optimiser: expected one of adam, signum, got 'sgd'"),
        ({"projection": "none"}, "projection: expected one of exact, assumes_unit, got 'none'"),
        ({"train_b_dec": 1}, "train_b_dec: expected one of True, False, got 1"),
        ({"normalise_eps": -1e-8}, "normalise_eps: expected a number of at least 0, got -1e-08"),
        ({"lr_end": 2}, "lr_end: expected a number of at least 0 and at most 1, got 2"),
    ],
)
def test_bad_recipes(change, line):
    with pytest.raises(InputError) as caught:
        begun(relu.Config(D_IN, D_SAE), **change)
    assert str(caught.value) == line
