"""Saved autoencoders come back; a checkpoint is one step's at every moment of a write; damage is one line."""

import json

import ml_dtypes
import numpy as np
import pytest

import minisae
from minisae import checkpoint
from minisae.checkpoint import fold_input_scale, read_run, write_run
from minisae.errors import InputError
from minisae.interop import files
from minisae.ops import SparseCode, dense
from minisae.sae import VARIANTS
from minisae.sae import units as units_of
from tests.sae.cases import Case, config, every_case, lived_in, parts


def make(name="topk", case=Case({"k": 3})):  # noqa: B008
    rng = np.random.default_rng(0)
    cfg = config(name, case.options)
    x = parts(name, rng.standard_normal((7, 5)), cfg)[0]
    params = {key: p.astype(np.float32) for key, p in lived_in(name, cfg, rng, x).items()}
    return minisae.SAE(name, cfg, params, {"hook_name": "blocks.1"}), x


@pytest.mark.parametrize(("name", "case"), every_case())
def test_save_and_load(name, case, tmp_path):
    sae, x = make(name, case)
    sae.save(tmp_path / "sae")
    again = minisae.load(tmp_path / "sae")
    assert (again.variant, again.cfg, again.metadata) == (sae.variant, sae.cfg, sae.metadata)
    for key, p in sae.params.items():
        np.testing.assert_array_equal(again.params[key], p)
    np.testing.assert_array_equal(again.encode(x), sae.encode(x))
    np.testing.assert_array_equal(again.decode(again.encode(x)), sae.decode(sae.encode(x)))
    assert again.params.get("W_enc", again.params["W_dec"].T).T.flags.c_contiguous


def test_encode_sparse_and_dense_agree():
    sae, x = make()
    code = sae.encode(x, sparse=True)
    assert isinstance(code, SparseCode)
    np.testing.assert_array_equal(code.dense(), sae.encode(x))
    np.testing.assert_allclose(sae.decode(code), sae.decode(sae.encode(x)), rtol=1e-6)
    assert sae.to("numpy").params["W_dec"] is sae.params["W_dec"]


def test_wrong_widths_are_one_line():
    sae, _ = make()
    with pytest.raises(InputError, match=r"^x: expected rows of width d_in = 5, got shape \(7, 6\)$"):
        sae.encode(np.zeros((7, 6)))
    with pytest.raises(InputError, match=r"^f: expected a code of width d_sae = 13, got \(7, 6\)$"):
        sae.decode(np.zeros((7, 6)))
    for code, came in ((np.zeros(13), r"\(13,\)"), ([0.0], "list"), (3.0, "float")):
        with pytest.raises(InputError, match=f"^f: expected a code of width d_sae = 13, got {came}$"):
            sae.decode(code)


SKIP = ("jumprelu_skip_transcoder", Case({"d_out": 3}))


@pytest.mark.parametrize("sparse", [False, True])
def test_decode_refuses_rows_that_are_not_those_of_the_code(sparse):
    sae, x = make(*SKIP)
    f = sae.encode(x, sparse=sparse)
    for wrong, line in {
        "fewer rows": (x[:3], "expected the 7 rows of the code, got 3"),
        "other width": (np.ones((7, 4)), r"expected rows of width d_in = 2, got shape \(7, 4\)"),
        "one row": (x[0], r"expected rows of width d_in = 2, got shape \(2,\)"),
        "a number": (3.0, r"expected an array \(NumPy, DLPack, __array__\), got float"),
        "whole numbers": (x.astype(int), "expected float16, bfloat16, float32 or float64, got int64"),
        "objects": (x.astype(object), "expected float16, bfloat16, float32 or float64, got object"),
        "NaN": (np.full((7, 2), np.nan), "expected finite rows, got 7 of 7 with NaN or infinity .*"),
    }.values():
        with pytest.raises(InputError, match=f"^x: {line}$"):
            sae.decode(f, wrong)
    np.testing.assert_array_equal(sae.decode(f, x), sae.reconstruct(x) if sparse else sae.decode(f, x.tolist()))


@pytest.mark.parametrize("sparse", [False, True])
def test_codes_that_are_no_finite_floats_are_refused(sparse):
    sae, x = make(*SKIP)

    def changed(change):
        code = sae.encode(x, sparse=sparse)
        return code._replace(values=change(code.values)) if sparse else change(code)

    def holed(values):
        values = values.copy()
        values.flat[1] = np.inf
        return values

    kind = "entries" if sparse else "rows"
    for change, line in {
        lambda values: values.astype(object): "expected float16, bfloat16, float32 or float64, got object",
        lambda values: values.astype(int): "expected float16, bfloat16, float32 or float64, got int64",
        holed: rf"expected finite {kind}, got 1 of \d+ with NaN or infinity",
    }.items():
        for given in ((), (x,)):
            with pytest.raises(InputError, match=f"^f: {line}$"):
                sae.decode(changed(change), *given)


def test_rows_that_are_not_finite_are_refused():
    sae, x = make()
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="x: "):
        sae.encode(x)


def test_arrays_of_other_types_are_taken():
    sae, x = make()
    f = sae.encode(x)
    np.testing.assert_array_equal(sae.encode(x.tolist()), f)
    rounded = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(sae.encode(rounded), sae.encode(rounded.astype(np.float32)))


@pytest.mark.peers
def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra peers)")
    sae, x = make()
    tensor = torch.from_numpy(x).to(torch.bfloat16).requires_grad_()
    np.testing.assert_array_equal(sae.encode(tensor), sae.encode(tensor.detach().float().numpy()))
    trained = minisae.train(tensor.detach(), d_sae=13, k=2, steps=3, batch_size=5)
    assert trained.cfg.d_in == 5


def test_saving_into_a_folder_of_something_else_is_refused(tmp_path):
    sae, _ = make()
    sae.save(tmp_path / "sae")
    sae.save(tmp_path / "sae")
    (tmp_path / "sae" / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"expected a new folder or one that save wrote, it holds run.json$"):
        sae.save(tmp_path / "sae")


def test_one_line_says_what_it_is():
    assert repr(make()[0]) == "SAE(topk, 5 → 13, k=3)"
    assert repr(make("relu", Case({"l1": 0.5}))[0]) == "SAE(relu, 5 → 13, l1=0.5)"
    assert repr(make("batch_topk", Case({"k": 1.8}))[0]) == "SAE(batch_topk, 5 → 13, k=1.8)"


@pytest.mark.parametrize(("name", "case"), every_case())
def test_one_line_begins_with_name_and_sizes(name, case):
    sae, _ = make(name, case)
    line = repr(sae)
    assert line.startswith(f"SAE({name}, {sae.cfg.d_in} → 13")
    assert "\n" not in line


def test_half_precision_weights_compute_in_single(tmp_path):
    sae, x = make()
    half = sae._replace(params={key: p.astype(np.float16) for key, p in sae.params.items()})
    half.save(tmp_path)
    again = minisae.load(tmp_path)
    assert {p.dtype for p in again.params.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(again.decode(again.encode(x)), sae.decode(sae.encode(x)), atol=0.02)


def test_saving_over_a_file_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match="expected a folder to write to, found a file"):
        make()[0].save(tmp_path / "taken")


def damage_missing(folder):
    (folder / "sae_weights.safetensors").unlink()
    return "no such file"


def damage_truncated(folder):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    return "it is truncated"


def damage_json(folder):
    (folder / "cfg.json").write_text("{")
    return "not readable as JSON"


def damage_shape(folder):
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["d_sae"] = cfg["metadata"]["minisae"]["cfg"]["d_sae"] = 17
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return r"W_enc is \(5, 13\); expected \(d_in, d_sae\) = \(5, 17\)"


def damage_option(folder):
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"]["minisae"]["cfg"]["surprise"] = 1
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return "topk has no option surprise"


def damage_metadata(folder):
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"]["minisae"] = "x"
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return "expected metadata.minisae with variant and cfg, got 'x'"


def damage_width(folder):
    cfg = json.loads((folder / "cfg.json").read_text())
    del cfg["metadata"]["minisae"]["cfg"]["d_in"]
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return "d_in missing"


DAMAGES = [
    damage_missing, damage_truncated, damage_json, damage_shape, damage_option, damage_metadata, damage_width,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_one_line_that_names_the_file(damage, tmp_path):
    make()[0].save(tmp_path)
    line = damage(tmp_path)
    with pytest.raises(InputError, match=line) as caught:
        minisae.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_in_a_file_is_refused(tmp_path):
    sae, _ = make()
    sae.params["b_enc"][3] = np.nan
    sae.save(tmp_path)
    with pytest.raises(InputError, match="b_enc has 1 entries that are not finite"):
        minisae.load(tmp_path)


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a run or of a saved autoencoder, found none"):
        minisae.load(tmp_path / "nothing")


@pytest.mark.parametrize(("name", "case"), every_case())
def test_fold_input_scale_is_exact_in_function(name, case):
    sae, x = make(name, case)
    params = {key: p.astype(np.float64) for key, p in sae.params.items()}
    for key in getattr(VARIANTS[name], "STATE", ()):
        params[key] *= 3  # as rows of this size would have left it
    scaled = dense(VARIANTS[name].encode(params, x * 3, sae.cfg))
    assert scaled.any()
    cfg, folded = fold_input_scale(name, sae.cfg, params, 3.0)
    units = units_of(VARIANTS[name], cfg)
    assert units.keys() <= {*VARIANTS[name].SHAPES, *cfg._fields}
    raw = {key: old / 3.0 ** units[key] if key in units else old for key, old in sae.cfg._asdict().items()}
    assert cfg._asdict() == raw
    np.testing.assert_allclose(dense(VARIANTS[name].encode(folded, x, cfg)), scaled / 3, rtol=1e-12)
    back = VARIANTS[name].decode(params, scaled) / 3
    np.testing.assert_allclose(VARIANTS[name].decode(folded, scaled / 3), back, rtol=1e-12)


@pytest.mark.parametrize(("name", "case"), every_case())
def test_every_loss_term_has_the_unit_of_the_squared_error_or_none(name, case):
    """In other units of the activations all terms change by one factor, or a λ among the options was left behind."""
    sae, x = make(name, case)
    variant, dead = VARIANTS[name], np.arange(13) % 3 == 0
    params = {key: p.astype(np.float64) for key, p in sae.params.items()}
    values = []
    for scale, cfg, own in ((3, sae.cfg, params), (1, *fold_input_scale(name, sae.cfg, params, 3.0))):
        y = scale * (x[:, : cfg.d_out] if hasattr(variant, "split") else x)
        terms = variant.objective(own, variant.forward(own, scale * x, cfg, dead=dead)[0], y, cfg, dead=dead)
        values.append({key: float(term.value) for key, term in terms.items()})
    for key, value in values[0].items():
        assert value > 0, key
        normaliser = "mse_normaliser" if key == "multi" else f"{key}_normaliser"
        unitless = getattr(cfg, normaliser, "none") != "none" or getattr(cfg, "relative", False)
        assert values[1][key] == pytest.approx(value / (1 if unitless else 9)), key


class Killed(BaseException):
    """Stands for a kill between two system calls."""


@pytest.mark.parametrize("moment", range(12))
def test_a_checkpoint_belongs_to_one_step_whenever_the_writer_dies(moment, tmp_path, monkeypatch):
    """Die before the ``moment``-th file operation of the second or third write; what is read is one step's, whole."""

    def write(step):
        write_run(tmp_path, {"step": step}, {"p": np.full(3, step)}, {"m": np.full(2, step)})

    write(1)
    left = [moment]

    def counted(real):
        def call(*args):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args)

        return call

    for name in ("write_beside", "rename"):
        monkeypatch.setattr(checkpoint, name, counted(getattr(files, name)))
    try:
        write(2)
        write(3)
    except Killed:
        pass
    left[0] = 99
    info, (params, moments) = read_run(tmp_path)
    assert info["step"] in (1, 2, 3)
    assert (params["p"] == info["step"]).all()
    assert (moments["m"] == info["step"]).all()


def test_another_format_is_refused(tmp_path):
    write_run(tmp_path, {"step": 1}, {}, {})
    text = (tmp_path / "run.json").read_text().replace('"format": 1', '"format": 2')
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="expected format 1, got 2"):
        read_run(tmp_path)


def test_a_flipped_byte_is_named(tmp_path):
    write_run(tmp_path, {"step": 1}, {"p": np.arange(97)}, {"m": np.arange(3)})
    path = tmp_path / "params.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"params.safetensors: damaged, its checksum is not the one in run.json"):
        read_run(tmp_path)
