"""The vectors that ship are what the library computes, are complete, and are read as their format says."""

import functools
import json
import shutil
import subprocess

import numpy as np
import pytest

from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.ops import dense
from minisae.presets import PRESETS
from minisae.sae import VARIANTS
from minisae.verify import vectors
from minisae.verify.cases import cases, choices
from minisae.verify.inputs import changed, grid, split_rows
from minisae.verify.reference import results

MIB = 2**20
packed = functools.cache(vectors.packed)


def numbers_apart(one, other, where=""):
    """Places at which two values of JSON differ by more than rounding."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [place for key in one for place in numbers_apart(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for i, (a, b) in pairs for place in numbers_apart(a, b, f"{where}/{i}")]
    same = abs(one - other) <= 1e-12 * abs(one) if isinstance(one, float) and isinstance(other, float) else one == other
    return [] if same else [where]


def whole(about, arrays, name):
    """The arrays of a case with those that it shares with the base case, as a reader puts them together."""
    case = next(case for case in about["cases"] if case["name"] == name)
    known = {}
    for owner in ("base", name):
        known |= {key.partition(":")[2]: a for key, a in arrays.items() if key.partition(":")[0] == owner}
    for owner in ("plain", case["inputs"]):
        known |= {key.partition(":")[2]: a for key, a in arrays.items() if key.partition(":")[0] == owner}
    return case, known


@pytest.mark.parametrize("name", VARIANTS)
def test_what_ships_is_what_the_library_computes(name):
    """Masks and shapes equal, numbers within 1e-12."""
    about, arrays = packed(name)
    if not (vectors.FOLDER / f"{name}.json").exists():
        pytest.fail(f"no vectors of {name}: minisae verify write --out minisae/verify/data")
    shipped, numbers = vectors.read(name)
    version = {"minisae": shipped["minisae"]}
    assert not numbers_apart(about | version, shipped), "minisae verify write --out minisae/verify/data"
    assert not vectors.mismatches(arrays, numbers)


@pytest.mark.parametrize("name", VARIANTS)
def test_computed_twice_on_one_machine_the_bits_are_the_same(name):
    for case in list(vectors.every_case(name).values())[:: 1 if name == "topk" else 13]:
        once, again = results(case), results(case)
        assert once.keys() == again.keys()
        assert all(again[key].tobytes() == a.tobytes() for key, a in once.items()), case.name


def test_what_ships_is_small_and_of_these_variants():
    files = [path for path in vectors.FOLDER.iterdir() if path.suffix in (".json", ".safetensors")]
    assert sum(path.stat().st_size for path in files) < 3 * MIB
    assert {path.stem for path in files} == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_value_of_every_option_and_every_preset_is_in_some_case(name):
    found = vectors.every_case(name)
    for option, values in choices(name).items():
        shown = {getattr(case.cfg, option) for case in found.values()}
        assert shown >= set(values), option
    assert {f"preset {key}" for key, preset in PRESETS.items() if preset.variant == name} <= found.keys()
    assert choices(name).keys() >= {field for field in VARIANTS[name].Config._fields if field in SWITCHES}


def test_the_awkward_cases_are_what_they_say():
    found = cases("topk")
    pre = {name: case.inputs.rows[0] for name, case in found.items()}
    assert pre.keys() == {"base", *list(vectors.SITUATIONS)[1:]} - {"threshold below 0"}

    def outputs(name):
        return {key.partition(":")[2]: a for key, a in arrays.items() if key.startswith(f"{name}:")}

    arrays = packed("topk")[1]
    ties = outputs("ties")["pre"]
    np.testing.assert_array_equal(ties[:, [0, 0, 1]], ties[:, [2, 4, 5]])
    order = np.sort(ties, axis=1)[:, ::-1]
    assert (order[:, 2] == order[:, 3]).any(), "no row in which a tie decides what is selected"
    assert (outputs("negative row")["pre"][0] < 0).all()
    assert not outputs("negative row")["f"][0].any()
    assert outputs("at the edge")["pre"][0].max() < arrays["base:pre"][0].max()
    assert (outputs("at the edge")["pre"][0] == 0).any()
    assert found["all latents"].cfg.k == found["all latents"].cfg.d_sae
    assert not outputs("dead latent")["fired"][2]
    assert found["dead latent"].inputs.dead.tolist() == [i == 2 for i in range(7)]
    assert not found["zero decoder row"].inputs.params["W_dec"][3].any()
    np.testing.assert_array_equal(found["x = b_dec"].inputs.rows[1], found["x = b_dec"].inputs.params["b_dec"])
    assert found["lambda = 0"].cfg.auxk == 0
    thresholds = cases("jumprelu")["at the edge"]
    module = VARIANTS["jumprelu"]
    out = module.forward(thresholds.inputs.params, thresholds.inputs.rows, thresholds.cfg)[0]
    assert (out.pre[0] == out.theta).any()


@pytest.mark.parametrize("name", [name for name in VARIANTS if hasattr(VARIANTS[name].Config, "kernel")])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_below_zero_have_pre_activations_above_them(name, seed):
    """Whatever was drawn: one that a raw threshold lets pass, and one that it counts as active at 0."""
    module, plain = VARIANTS[name], cases(name)["base"]
    rng = np.random.default_rng(seed)
    params = {key: grid(rng.standard_normal(p.shape)) for key, p in plain.inputs.params.items()}
    for inputs in (plain.inputs, plain.inputs._replace(params=params)):
        given = changed("threshold below 0", name, plain.cfg, inputs)
        out = module.forward(given.params, split_rows(name, given.rows, plain.cfg)[0], plain.cfg)[0]
        assert given.params["threshold"][[0, 3]].tolist() == [-1, -1]
        assert abs(out.pre[0, 0] + 0.25) <= 1 / 128
        assert out.pre[0, 3] == 0
        assert not dense(out.f)[0, [0, 3]].any()
        assert not out.gate[0, [0, 3]].any()
    if name == "jumprelu":
        assert "threshold below 0" not in cases(name, options={"threshold_as": "log"})


@pytest.mark.parametrize("name", VARIANTS)
def test_inputs_are_on_a_grid_on_which_sums_of_products_are_exact(name):
    for case in cases(name).values():
        fine = 64 * 64 if case.name in ("at the edge", "threshold below 0") else 64
        given = (case.inputs.rows, case.inputs.odd_rows, *case.inputs.params.values(), *case.inputs.slopes.values())
        assert all(np.array_equal(a * fine, np.round(a * fine)) for a in given), case.name


def test_a_reader_can_rebuild_a_case_by_the_rules_of_the_format():
    """The base case of topk from its file alone: forward, loss and one gradient by their formulas."""
    about, arrays = packed("topk")
    case, a = whole(about, arrays, "reduction=mean")
    k, weight = ((about["config"] | case["config"])[key] for key in ("k", "mse_weight"))
    pre = (a["rows"] - a["params/b_dec"]) @ a["params/W_enc"] + a["params/b_enc"]
    np.testing.assert_allclose(a["pre"], pre, rtol=1e-13)
    kept = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    f = np.zeros_like(pre)
    np.put_along_axis(f, kept, np.maximum(np.take_along_axis(pre, kept, axis=1), 0), axis=1)
    np.testing.assert_allclose(a["f"], f, rtol=1e-13)
    x_hat = f @ a["params/W_dec"] + a["params/b_dec"]
    np.testing.assert_allclose(a["loss"][case["terms"].index("mse")], weight * ((x_hat - a["rows"]) ** 2).mean())
    on = case["outputs"].index("x_hat")
    np.testing.assert_allclose(a["grads/W_dec"][on], f.T @ a["slopes/x_hat"], atol=1e-13)
    np.testing.assert_allclose(a["grads/W_dec"][-1], a["grads/W_dec"][:-1].sum(axis=0), atol=1e-13)
    assert a["steps/W_dec"].shape == (len(about["steps"]), 7, 3)


def test_files_are_written_and_read(tmp_path):
    paths = vectors.write(tmp_path, ["tied"])
    assert [path.name for path in paths] == ["tied.json", "tied.safetensors"]
    about, arrays = vectors.read("tied", tmp_path)
    ours = packed("tied")
    assert (about, arrays.keys()) == (ours[0], ours[1].keys())
    (tmp_path / "tied.json").write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(InputError, match=r"tied\.json: expected format 1, got 2$"):
        vectors.read("tied", tmp_path)
    with pytest.raises(InputError, match=r"relu\.json: no such file$"):
        vectors.read("relu", tmp_path)


def test_differences_are_found():
    ours = {"f": np.array([1.0, 0.0]), "fired": np.array([1, 0], np.uint8), "x": np.zeros(2)}
    assert not vectors.mismatches(ours, {**ours, "f": np.array([1.0 + 1e-13, 0.0])})
    assert vectors.mismatches(ours, {**ours, "f": np.array([1.0 + 1e-11, 0.0])}) == ["f: differs by 1.0e-11 of 1.0e+00"]
    assert vectors.mismatches(ours, {**ours, "fired": np.array([1, 1], np.uint8)}) == ["fired: masks differ"]
    assert vectors.mismatches(ours, {**ours, "f": np.array([np.nan, 0.0])})
    assert vectors.mismatches(ours, {"f": np.zeros(3), "fired": ours["fired"]}) == [
        "x: only on one side", "f: expected float64 (2,), got float64 (3,)"
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_reader_in_another_language(tmp_path):
    assert len(vectors.READER.splitlines()) <= 20
    (tmp_path / "read.mjs").write_text(vectors.READER)
    vectors.write(tmp_path, ["topk"])
    done = subprocess.run(["node", "read.mjs", "topk"], cwd=tmp_path, capture_output=True, text=True, check=True)
    *shapes, last = done.stdout.splitlines()
    about, arrays = vectors.read("topk", tmp_path)
    assert {line.rpartition(" ")[0]: json.loads(line.rpartition(" ")[2]) for line in shapes} == {
        key: list(a.shape) for key, a in arrays.items()
    }
    form, count, top = last.split(" ")
    assert (int(form), int(count), float(top)) == (about["format"], len(about["cases"]), arrays["base:f"].max())
