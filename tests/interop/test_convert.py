"""``minisae convert``: every pair of formats that can hold it keeps the function; what cannot be held is refused."""

import json

import numpy as np
import pytest

import minisae
from minisae import cli
from minisae.convert import convert
from minisae.errors import InputError
from minisae.interop import formats
from tests.interop.tiny import D, F, N, rows
from tests.sae.cases import config, every_case, lived_in

JUMPS = ("relu", "p_anneal", "gated", "tied", "batch_topk", "matryoshka", "jumprelu")
HOLDS = {
    "saelens": (*JUMPS, "topk", "multi_topk", "abs_topk", "matching_pursuit"),
    "dictionary_learning": (*JUMPS, "topk", "multi_topk"),
    "sparsify": ("topk", "multi_topk", "group_max"),
    "gemma_scope": JUMPS,
}
"""What each format must be able to hold, of the variants whose rows are input and target."""
CASES = [p for p in every_case() if any(p.values[0] in names for names in HOLDS.values())]


def make(name, case):
    rng = np.random.default_rng(0)
    x, cfg = rows(), config(name, case.options)
    params = {key: p.astype(np.float32) for key, p in lived_in(name, cfg, rng, x).items()}
    # Other rows than x: a threshold is the code of one of those, and on it rounding decides.
    return minisae.SAE(name, cfg, params, {"model_name": "m"}), rows(seed=9)


def beyond(to, sae):
    """Whether a format cannot hold this, as the formats themselves are: no such class, or no such option."""
    if sae.variant not in HOLDS[to]:
        return True
    k = getattr(sae.cfg, "k", 1)
    signed = getattr(sae.cfg, "match", "") == "signed"
    uneven = sae.variant == "group_max" and F % k != 0
    return signed or uneven or (to == "dictionary_learning" and k % 1 != 0)


@pytest.mark.parametrize("to", formats.WRITTEN)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_function_is_kept(name, case, to, tmp_path):
    sae, x = make(name, case)
    sae.save(tmp_path / "a")
    if beyond(to, sae):
        with pytest.raises(InputError, match=r"^[^\n]*cannot hold [^\n]*; nothing was written$"):
            convert(tmp_path / "a", tmp_path / "b", to=to)
        assert not (tmp_path / "b").exists()
        return
    read, notes = convert(tmp_path / "a", tmp_path / "b", to=to)
    again = minisae.load(tmp_path / "b")
    assert formats.recognise(tmp_path / "b") == to
    np.testing.assert_allclose(again.reconstruct(x), sae.reconstruct(x), atol=3e-6, rtol=1e-5)
    by_norm = getattr(sae.cfg, "select_by", "pre") != "pre" and again.cfg != sae.cfg
    norms = np.linalg.norm(sae.params["W_dec"], axis=1) if by_norm else 1
    np.testing.assert_allclose(again.encode(x), sae.encode(x) * norms, atol=3e-6, rtol=1e-5)
    assert read.variant == name
    assert all(isinstance(note, str) and note for note in notes)


def test_what_was_folded_is_said(tmp_path):
    sae, _ = make(*next(p.values for p in CASES if p.values[0] == "gated"))
    sae._replace(cfg=sae.cfg._replace(subtract_b_dec=True)).save(tmp_path / "a")
    notes = convert(tmp_path / "a", tmp_path / "b", to="gemma_scope")[1]
    assert notes == [
        "a gated autoencoder became the jumprelu that computes the same",
        "b_dec is not subtracted any more: b_enc was lowered by b_dec W_enc",
        "options of training (penalty, kernel, AuxK) have no place in the file",
    ]


def test_rows_normalised_at_run_time_go_to_saelens_alone(tmp_path):
    sae, x = make(*next(p.values for p in CASES if p.values[0] == "topk"))
    sae._replace(normalise="layer_norm", cfg=sae.cfg._replace(select_by="pre")).save(tmp_path / "a")
    for to in ("dictionary_learning", "sparsify", "gemma_scope"):
        with pytest.raises(
            InputError, match=r"cannot hold rows normalised at run time \(layer_norm\); nothing was written"
        ):
            convert(tmp_path / "a", tmp_path / to, to=to)
    convert(tmp_path / "a", tmp_path / "b", to="saelens")
    want = minisae.load(tmp_path / "a").reconstruct(x)
    np.testing.assert_array_equal(minisae.load(tmp_path / "b").reconstruct(x), want)


@pytest.mark.parametrize("to", ["dictionary_learning", "saelens", "gemma_scope"])
def test_float64_stays_float64(to, tmp_path):
    sae = make(*next(p.values for p in CASES if p.values[0] == "batch_topk"))[0]
    params = {key: p + np.float64(1e-9) for key, p in sae.params.items()}
    cfg = sae.cfg._replace(k=3, subtract_b_dec=to != "gemma_scope")
    sae._replace(params=params, cfg=cfg).save(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", to=to)
    again = minisae.load(tmp_path / "b")
    for key, p in params.items():
        np.testing.assert_array_equal(again.params[key], p)


def test_thresholds_that_differ_are_refused(tmp_path):
    sae, _ = make(*next(p.values for p in CASES if p.values[0] == "batch_topk"))
    sae.params["threshold"][3] += 1
    sae._replace(cfg=sae.cfg._replace(k=3)).save(tmp_path / "a")
    with pytest.raises(InputError, match="cannot hold thresholds that differ"):
        convert(tmp_path / "a", tmp_path / "b", to="dictionary_learning")


def test_wrong_names_and_full_folders_are_refused(tmp_path):
    make(*CASES[0].values)[0].save(tmp_path / "a")
    with pytest.raises(InputError, match=r"--to: expected one of saelens, sparsify, .*, got 'spline'"):
        convert(tmp_path / "a", tmp_path / "b", to="spline")
    with pytest.raises(InputError, match="no option k; this format says everything itself"):
        minisae.load(tmp_path / "a", options={"k": 3})
    with pytest.raises(InputError, match=r"format: expected one of .*, got 'spline'"):
        minisae.load(tmp_path / "a", format="spline")
    with pytest.raises(InputError, match="a: expected a new or an empty folder to write to"):
        convert(tmp_path / "a", tmp_path / "a", to="saelens")


def test_what_is_no_format_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected an autoencoder of dictionary_learning, .*; found an empty folder$"):
        minisae.load(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"found a folder with notes\.txt$"):
        minisae.load(tmp_path / "other")
    make(*CASES[0].values)[0].save(tmp_path / "sae")
    with pytest.raises(InputError, match=r"found one of its files: expected the folder .*sae$"):
        minisae.load(tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(InputError, match="found a file that is none of them"):
        minisae.load(tmp_path / "other" / "notes.txt")


def test_the_command(tmp_path, capsys):
    sae, x = make(*next(p.values for p in CASES if p.values[0] == "relu"))
    sae.save(tmp_path / "a")
    assert cli.main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "dictionary_learning", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["variant"], said["to"], said["cfg"]["d_in"]) == ("relu", "dictionary_learning", D)
    np.save(tmp_path / "x.npy", rows(n=97))
    assert cli.main(["eval", str(tmp_path / "b"), "--cache", str(tmp_path / "x.npy"), "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)["metrics"]
    assert cli.main(["eval", str(tmp_path / "a"), "--cache", str(tmp_path / "x.npy"), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)["metrics"]
    assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6)
    words = ["convert", str(tmp_path / "a"), str(tmp_path / "c"), "--to", "sparsify"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == "minisae: sparsify: cannot hold variant relu; nothing was written\n"
    assert (13, len(x)) == (F, N)
