"""The harness passes the reference itself, finds what is wrong in another, and says so in rows, JSON and status."""

import ast
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from minisae import cli, losses
from minisae.cache.stream import ArraySource
from minisae.errors import InputError
from minisae.ops import dense
from minisae.recipe import Recipe
from minisae.sae import VARIANTS
from minisae.train import start, step
from minisae.verify import adapters
from minisae.verify.adapter import NEEDED, Adapter, load_adapter
from minisae.verify.harness import TOLERANCES, check


def config_of(config):
    module = VARIANTS[config["variant"]]
    return module, module.Config(**{field: config[field] for field in module.Config._fields})


def ours_encode(params, x, config):
    module, cfg = config_of(config)
    return dense(module.encode(params, x, cfg))


def ours_decode(params, f, config):
    module, _ = config_of(config)
    return module.decode(params, f)


def ours_forward(params, x, config):
    module, cfg = config_of(config)
    out = module.forward(params, x, cfg, dead=config["dead"])[0]
    return {name: dense(value) for name, value in out._asdict().items() if value is not None}


def ours_loss(params, x, config):
    module, cfg = config_of(config)
    out = module.forward(params, x, cfg, dead=config["dead"])[0]
    terms = module.objective(params, out, config["target"], cfg, dead=config["dead"])
    return {name: term.value for name, term in terms.items()}


def ours_grads(params, x, config, slopes):
    module, cfg = config_of(config)
    out, cache = module.forward(params, x, cfg, dead=config["dead"])
    if slopes is not None:
        return module.backward(params, cache, cfg, slopes, want_x=True)
    _, slopes, direct = losses.gather(module.objective(params, out, config["target"], cfg, dead=config["dead"]))
    grads = module.backward(params, cache, cfg, slopes)
    return {name: grad + direct.get(name, 0) for name, grad in grads.items()}


def ours_step(params, batches, config, recipe):
    _, cfg = config_of(config)
    recipe = Recipe(**{field: recipe[field] for field in Recipe._fields})._replace(dtype=config["dtype"])
    run = start(ArraySource(batches[0]), config["variant"], cfg, recipe)
    for name, p in params.items():
        run.params[name][...] = p
    run.idle[...] = np.where(config["dead"], recipe.dead_after, 0)
    for x in batches:
        run, _ = step(run, x)
    return run.params


OURS = {
    "encode": ours_encode, "decode": ours_decode, "forward": ours_forward, "loss": ours_loss, "grads": ours_grads,
    "step": ours_step,
}  # fmt: skip


def adapter(conventions=None, **changed):
    functions = {name: function for name, function in (OURS | changed).items() if function}
    return Adapter("ours", functions, conventions or {})


def test_what_ships_as_an_adapter_is_one():
    folder = Path(adapters.__file__).parent
    public = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("[a-z]*.py")}
    assert public.keys() == {"dictionary_learning", "overcomplete", "saelens", "sparsify"}
    for text in public.values():
        assert {node.name for node in ast.parse(text).body if hasattr(node, "name")} >= set(NEEDED)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_library_passes_in_its_fast_form_and_in_both_dtypes(name, dtype):
    report = check(adapter(), name, dtype=dtype, case="base" if dtype == "float32" else None)
    assert report.ok, str(report)
    assert all(row.verdict == "ok" for row in report.rows)
    assert report.explanation == ""
    assert {row.slope_on for row in report.rows} >= {"", "x_hat", "f", "pre", "all", "objective"}


def test_a_wrong_gradient_is_found_with_the_output_its_slope_was_on():
    def transposed_bias(params, x, config, slopes):
        grads = ours_grads(params, x, config, slopes)
        return grads | ({"b_enc": grads["b_enc"][::-1]} if slopes is not None and list(slopes) == ["pre"] else {})

    report = check(adapter(grads=transposed_bias), "relu")
    assert not report.ok
    failed = {(row.quantity, row.slope_on) for row in report.rows if row.verdict == "FAIL"}
    assert failed == {("gradient of b_enc", "pre")}


def test_a_known_deviation_is_named():
    def averaged(params, x, config):
        terms = ours_loss(params, x, config)
        return terms | {"l1": terms["l1"] / config["d_sae"]}

    report = check(adapter(loss=averaged, grads=None, step=None), "relu")
    assert not report.ok
    assert report.explanation == "your L1 is averaged over d_sae: every value is 1/7 of the reference's"
    assert str(report).endswith(report.explanation)
    assert {row.quantity for row in report.rows if row.verdict == "FAIL"} == {"loss/l1"}


def test_no_explanation_is_made_up():
    report = check(adapter(encode=lambda params, x, config: ours_encode(params, x, config) + x.sum() ** 2), "relu")
    assert report.explanation.startswith("no known difference of convention")


def test_what_is_not_offered_is_not_counted():
    def no_objective(params, x, config, slopes):
        if slopes is None or "aux" in slopes:
            raise NotImplementedError
        return {name: grad for name, grad in ours_grads(params, x, config, slopes).items() if name != "x"}

    report = check(adapter(grads=no_objective, step=None, loss=None, forward=None), "topk")
    assert report.ok
    missing = {row.quantity for row in report.rows if row.verdict == "not offered"}
    assert missing >= {"x_hat", "loss/mse", "gradient of x", "W_enc after 10 steps"}
    assert "not offered: x_hat, f, pre, aux, loss/mse" in str(report)
    assert "gradients from objective, parameters after 1 steps" in str(report)


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"encode": lambda params, x, config: ours_encode(params, x, config).T}, "expected shape (5, 7), got (7, 5)"),
        ({"encode": lambda params, x, config: 1 / 0}, "encode raised ZeroDivisionError: division by zero"),
        ({"encode": lambda params, x, config: np.full((5, 7), np.nan)}, "35 of 35 entries are not finite"),
        ({"encode": lambda params, x, config: np.full((5, 7), "f")}, "expected real numbers, got <U1"),
        ({"loss": lambda params, x, config: {"l2": 1.0}}, "the reference has no such quantity; expected some of mse"),
        ({"grads": lambda params, x, config, slopes: [1]}, "grads raised AttributeError"),
        ({"forward": lambda params, x, config: {"F": x}}, "the reference has no such quantity; expected some of x_hat"),
    ],
)
def test_what_is_wrong_is_said_in_a_note(changed, note):
    report = check(adapter(**changed), "relu", case="base")
    assert not report.ok
    assert any(row.verdict == "FAIL" and row.note.startswith(note) for row in report.rows), report.rows


def test_a_total_stands_for_the_terms():
    report = check(adapter(loss=lambda *given: {"total": sum(ours_loss(*given).values())}), "gated")
    assert report.ok
    assert {row.quantity: row.verdict for row in report.rows}["loss/total"] == "ok"
    wrong = adapter(loss=lambda *given: {"total": sum(ours_loss(*given).values()) + 1e-6}, grads=None, step=None)
    assert not check(wrong, "gated", case="base").ok
    assert check(wrong, "gated", case="base", tolerance=1e-5).ok


def test_what_the_adapter_changes_in_place_does_not_matter():
    def careless(params, x, config):
        x -= params["b_dec"]
        params["b_dec"][...] = 0
        return ours_encode(params, x, config)

    assert check(adapter(encode=careless), "relu").ok


def test_conventions_and_presets_are_those_of_the_reference():
    seen = []

    def note(params, x, config):
        seen.append(config)
        return ours_encode(params, x, config)

    own = {"relu": {"reduction": "mean", "order": "clip-project-step-normalise", "clip": 0.25}}
    assert check(adapter(own, encode=note), "relu", case="base").ok
    assert (seen[-1]["reduction"], seen[-1]["d_in"], seen[-1]["dead"].dtype) == ("mean", 3, bool)
    report = check(adapter({"topk": {"preset": "sparsify-1.3.3/topk"}}, encode=note), "topk")
    assert report.ok, str(report)
    assert seen[-1]["mse_normaliser"] == "input_variance"
    assert check(adapter(), "topk", preset="saelens-6.54/topk", options={"k": 2}).ok
    with pytest.raises(InputError, match=r"^variant: ours is for relu, got 'topk'$"):
        check(adapter(own), "topk")
    with pytest.raises(InputError, match=r"^spline: relu has no such option; expected some of d_in, d_sae, l1"):
        check(adapter({"relu": {"spline": 3}}), "relu")
    with pytest.raises(InputError, match=r"^preset: saelens-6.54/topk is of topk, got variant relu$"):
        check(adapter(), "relu", preset="saelens-6.54/topk")
    with pytest.raises(InputError, match=r"^case: expected one of base, ties, .*, got 'tie'$"):
        check(adapter(), "relu", case="tie")
    with pytest.raises(InputError, match=r"^dtype: expected one of float64, float32, got 'bf16'$"):
        check(adapter(), "relu", dtype="bf16")


GOOD = """
import numpy as np

CONVENTIONS = {"relu": {"l1": 0.5}}


def encode(params, x, config):
    return np.maximum((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"], 0)


def decode(params, f, config):
    return f @ params["W_dec"] + params["b_dec"]
"""


def test_the_command_line(tmp_path, capsys):
    path = tmp_path / "adapter.py"
    path.write_text(GOOD)
    assert cli.main(["verify", "run", str(path), "--variant", "relu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert {row["quantity"] for row in found["rows"] if row["verdict"] == "ok"} == {"encode", "decode"}
    path.write_text(GOOD.replace(" - params", " + params"))
    assert cli.main(["verify", "run", str(path), "--variant", "relu", "--case", "base", "--dtype", "float32"]) == 1
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == [
        *("quantity", "slope", "on", "absolute", "relative", "tolerance", "verdict", "worst", "case")
    ]
    assert "FAIL" in shown
    assert cli.main(["verify", "write", "--out", str(tmp_path / "v"), "--variant", "tied"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'v'}: 2 files, 0.0")
    assert {file.name for file in (tmp_path / "v").iterdir()} == {"tied.json", "tied.safetensors"}


NORMED = """

def forward(params, x, config):
    norms = np.linalg.norm(params["W_dec"], axis=1)
    return {"f": encode(params, x, config) * norms / norms}
"""


def test_what_an_adapter_declares_as_known_is_no_failure(tmp_path, capsys):
    path = tmp_path / "adapter.py"
    command = ["verify", "run", str(path), "--variant", "relu"]
    path.write_text(GOOD + NORMED)
    with np.errstate(all="ignore"):
        assert cli.main(command) == 1
        assert capsys.readouterr().out.endswith("\nyour numbers are not finite where a decoder row is zero\n")
        path.write_text(GOOD + NORMED + 'KNOWN = {"relu": {"zero decoder row": "0 divided by 0"}}')
        assert cli.main(command) == 0
        shown = capsys.readouterr().out
        assert "\nknown: 0 divided by 0 (zero decoder row: f)\n" in shown
        assert shown.endswith("0 do not, 1 are known to differ\n")
        assert cli.main([*command, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(row["case"], row["note"]) for row in found["rows"] if row["verdict"] == "known"] == [
            ("zero decoder row", "known: 0 divided by 0")
        ]
        path.write_text(GOOD + NORMED + 'KNOWN = {"relu": {"ties": "0 divided by 0"}}')
        assert cli.main(command) == 1  # it fails in another case


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("import nothing_like_it", "could not be loaded: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("x = (", "could not be loaded: SyntaxError: '(' was never closed"),
        ("def encode(): ...", "expected functions encode and decode, found no decode"),
        (GOOD + "CONVENTIONS = {'mean': 1}", "expected CONVENTIONS to be a dict of options for each variant"),
        (GOOD + "KNOWN = {'relu': 'ties'}", "expected KNOWN to be a dict of cases and reasons for each variant"),
    ],
)
def test_a_bad_adapter_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "adapter.py"
    if text is not None:
        path.write_text(text)
    assert cli.main(["verify", "run", str(path), "--variant", "relu"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"minisae: {path}: {message}")


def test_adapters_are_files_modules_and_names_of_modules(monkeypatch):
    module = types.ModuleType("mine")
    module.encode = module.decode = lambda *given: None
    assert load_adapter(module).functions.keys() == {"encode", "decode"}
    assert load_adapter("tests.verify.good_adapter").name == "tests.verify.good_adapter"
    with pytest.raises(InputError, match=r"^no\.such\.module: could not be loaded: ModuleNotFoundError"):
        load_adapter("no.such.module")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sae_lens", None)  # as if it were not installed
        patch.delitem(sys.modules, "minisae.verify.adapters.saelens", raising=False)
        with pytest.raises(InputError, match=r'^minisae\.verify.*; pip install "minisae\[peers\]"'):
            load_adapter("minisae.verify.adapters.saelens")
    module.CONVENTIONS = {"spline": {}}
    with pytest.raises(InputError, match=r"^variant: expected one of relu, .*, got 'spline'$"):
        load_adapter(module)


def relu_with(**functions):
    own = {"encode": ours_encode, "decode": ours_decode} | functions
    return check(Adapter("mine", own, {}), "relu", case="base")


def test_a_gradient_of_x_for_the_objective_is_not_asked_for():
    def grads(params, x, config, slopes):
        return ours_grads(params, x, config, slopes) | {"x": 0 * x if slopes is None else x}

    failed = {(row.quantity, row.slope_on) for row in relu_with(grads=grads).rows if row.verdict == "FAIL"}
    assert failed == {("gradient of x", on) for on in ("x_hat", "f", "pre", "all")}  # of the outputs it is


def test_slopes_are_put_on_outputs_that_forward_names():
    asked = []

    def grads(params, x, config, slopes):
        asked.append(set(slopes or ()))
        return ours_grads(params, x, config, slopes)

    def forward(params, x, config):
        return {"x_hat": ours_forward(params, x, config)["x_hat"]}

    assert relu_with(grads=grads, forward=forward).ok
    assert asked == [{"x_hat"}, {"f"}, set()]
    asked.clear()
    assert relu_with(grads=grads).ok
    assert {"pre"} in asked


def test_an_adapter_finds_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_adapter.py").write_text("encode = decode = print\n")
    (tmp_path / "adapter.py").write_text("from beside_the_adapter import decode, encode\n")
    assert load_adapter(tmp_path / "adapter.py").functions.keys() == {"encode", "decode"}
