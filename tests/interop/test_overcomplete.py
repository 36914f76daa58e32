"""overcomplete, Qwen Scope and Goodfire: state dicts that do not say everything."""

import json

import numpy as np
import pytest

import minisae
from minisae import cli
from minisae.convert import convert
from minisae.errors import InputError
from tests.interop.tiny import D, F, arrays, relu, rows, same, top_k, write_state

K = 3
MULTIPLIER = np.float32(0.3)


def state_of(a, **more):
    return {
        "encoder.final_block.0.weight": a["W_enc"].T,
        "encoder.final_block.0.bias": a["b_enc"],
        "dictionary._weights": a["W_dec"],
        "dictionary.multiplier": np.array(MULTIPLIER),
        **more,
    }


def dictionary(a):
    norms = np.linalg.norm(a["W_dec"], axis=1, keepdims=True)
    return a["W_dec"] / (norms + 1e-8) * np.exp(MULTIPLIER)


def test_relu_and_topk_are_said_by_options(tmp_path):
    a, x = arrays(), rows()
    path = write_state(tmp_path / "x.pt", state_of(a))
    with pytest.raises(InputError, match=r"expected variant to be one of relu, topk, .*: the file does not"):
        minisae.load(path)
    pre = x @ a["W_enc"] + a["b_enc"]
    same(minisae.load(path, options={"variant": "relu"}), x, relu(pre), relu(pre) @ dictionary(a))
    f = top_k(pre, K)
    same(minisae.load(path, options={"variant": "topk", "k": K}), x, f, f @ dictionary(a))
    raw = minisae.load(path, options={"variant": "topk", "k": K, "normalization": "identity"})
    same(raw, x, f, f @ a["W_dec"] * np.exp(MULTIPLIER))
    with pytest.raises(InputError, match=r"expected a whole number above 0 for k: the file does not say, .*--set k=…$"):
        minisae.load(path, options={"variant": "topk"})
    with pytest.raises(InputError, match="no option spline; expected some of variant, k, threshold, normalization"):
        minisae.load(path, options={"spline": 1})


def test_eval_and_info_take_what_the_file_does_not_say(tmp_path, capsys):
    a, x = arrays(), rows().astype(np.float32)
    path = write_state(tmp_path / "x.pt", state_of(a))
    np.save(tmp_path / "x.npy", x)
    said = ["--set", "variant=topk", f"k={K}"]
    assert cli.main(["eval", str(path), "--cache", str(tmp_path / "x.npy"), "--json", *said]) == 0
    assert json.loads(capsys.readouterr().out)["cfg"]["k"] == K
    assert cli.main(["info", str(path), *said, "--format", "overcomplete"]) == 0
    assert f"{path}: topk" in capsys.readouterr().out
    assert cli.main(["info", str(path)]) == 2
    assert "--set variant=…" in capsys.readouterr().err


def test_a_jump_sae_keeps_what_equals_its_threshold(tmp_path):
    a, x = arrays(), rows()
    x[0] = 0  # a row on which pre is b_enc: for one latent its threshold
    logs, first = np.log(a["threshold"]), 3
    a["b_enc"][first] = np.exp(logs)[first]
    pre, held = x @ a["W_enc"] + a["b_enc"], np.exp(logs)
    f = relu(pre) * (relu(pre) >= held)
    sae = minisae.load(write_state(tmp_path / "x.pt", state_of(a, thresholds=logs)))
    same(sae, x, f, f @ dictionary(a))
    assert sae.encode(x)[0, first] == held[first] > 0
    convert(tmp_path / "x.pt", tmp_path / "jump", to="gemma_scope")
    again = minisae.load(tmp_path / "jump")
    same(again, x, f, f @ dictionary(a))
    np.testing.assert_array_equal(np.nextafter(again.params["threshold"], np.float32(np.inf)), held)


def test_a_running_threshold_is_given(tmp_path):
    a, x = arrays(), rows()
    path = write_state(tmp_path / "x.pt", state_of(a))
    pre = relu(x @ a["W_enc"] + a["b_enc"])
    f = pre * (pre >= np.float32(0.6))
    sae = minisae.load(path, options={"variant": "batch_topk", "k": 11, "threshold": 0.6})
    same(sae, x, f, f @ dictionary(a))


def test_a_matching_pursuit(tmp_path):
    a, x = arrays(), rows()
    state = {"dictionary._weights": a["W_dec"], "dictionary.multiplier": np.array(0, np.float32)}
    own = {"variant": "matching_pursuit", "k": K}
    sae = minisae.load(write_state(tmp_path / "x.pt", state), options=own)
    W = a["W_dec"] / (np.linalg.norm(a["W_dec"], axis=1, keepdims=True) + 1e-8)
    f, left = np.zeros((len(x), F), np.float32), x.copy()
    for _ in range(K):
        best = (left @ W.T).argmax(axis=1)
        for row, latent in enumerate(best):
            value = left[row] @ W[latent]
            f[row, latent] += value
            left[row] -= value * W[latent]
    same(sae, x, f, f @ W)
    with pytest.raises(InputError, match="expected a dictionary alone for a matching pursuit, got an encoder too"):
        minisae.load(write_state(tmp_path / "x.pt", state_of(a)), options=own)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_encoders_and_those_without_a_bias(bias, tied, tmp_path):
    a, x = arrays(), rows()
    state = {"dictionary._weights": a["W_dec"], "dictionary.multiplier": np.array(MULTIPLIER)}
    state |= {"encoder.bias": a["b_enc"]} if bias else {}
    state |= {} if tied else {"encoder.weight": a["W_enc"].T}
    sae = minisae.load(write_state(tmp_path / "x.pt", state), options={"variant": "relu"})
    f = relu(x @ (dictionary(a).T if tied else a["W_enc"]) + (a["b_enc"] if bias else 0))
    same(sae, x, f, f @ dictionary(a))


def archetypal(a, **more):
    """Points, weights whose rows sum to 1 (one row of zeros, as overcomplete starts what it has no point for)."""
    rng = np.random.default_rng(3)
    W, C = rng.random((F, 5)).astype(np.float32), rng.standard_normal((5, D)).astype(np.float32)
    W /= W.sum(axis=1, keepdims=True)
    W[-1] = 0
    relax = 0.4 * rng.standard_normal((F, D)).astype(np.float32)
    return {
        "encoder.final_block.0.weight": a["W_enc"].T, "encoder.final_block.0.bias": a["b_enc"],
        "dictionary.W": W, "dictionary.C": C, "dictionary.Relax": relax,
        "dictionary.multiplier": np.array(MULTIPLIER), **more,
    }  # fmt: skip


def test_an_archetypal_dictionary_becomes_w_dec_of_a_topk(tmp_path):
    a, x = arrays(), rows()
    state = archetypal(a)
    W, C, relax = (state[f"dictionary.{key}"] for key in ("W", "C", "Relax"))
    atoms, f = (W @ C + relax) * np.exp(MULTIPLIER), top_k(x @ a["W_enc"] + a["b_enc"], K)
    path = write_state(tmp_path / "x.pt", state)
    sae = minisae.load(path, options={"k": K})
    same(sae, x, f, f @ atoms)
    assert (sae.variant, sae.cfg.decoder, sae.cfg.subtract_b_dec) == ("topk", "free", False)
    assert "an archetypal dictionary was folded into W_dec" in sae.metadata["notes"]
    short = relax * np.minimum(0.2 / np.linalg.norm(relax, axis=1, keepdims=True), 1)
    clipped = minisae.load(path, options={"k": K, "delta": 0.2})
    same(clipped, x, f, f @ ((W @ C + short) * np.exp(MULTIPLIER)))
    between = write_state(tmp_path / "between.pt", state | {"dictionary.W": 3 * W - (W == 0)})
    same(minisae.load(between, options={"k": K, "delta": 0.2}), x, f, f @ ((W @ C + short) * np.exp(MULTIPLIER)))
    jump = minisae.load(write_state(tmp_path / "jump.pt", archetypal(a, thresholds=np.log(a["threshold"]))))
    code = relu(x @ a["W_enc"] + a["b_enc"])
    same(jump, x, code * (code >= a["threshold"]), code * (code >= a["threshold"]) @ atoms)
    wrong = [
        (between, {"k": K}, "expected the option delta: the dictionary was saved before it was projected"),
        (path, {}, "expected a whole number above 0 for k"),
        (path, {"k": K, "variant": "relu"}, "^variant: expected topk for an archetypal dictionary, got 'relu'$"),
        (path, {"k": K, "normalization": "l2"}, "^normalization: expected none, an archetypal"),
        (write_state(tmp_path / "y.pt", state_of(a)), {"variant": "relu", "delta": 1}, "^delta: expected none"),
        (write_state(tmp_path / "z.pt", archetypal(a, Q=a["b_enc"])), {"k": K}, "got Q too"),
        (write_state(tmp_path / "w.pt", state | {"dictionary.C": C[1:]}), {"k": K}, "to be float matrices of W C"),
    ]
    for where, options, line in wrong:
        with pytest.raises(InputError, match=line):
            minisae.load(where, options=options)


def test_other_encoders_are_refused(tmp_path):
    for key in ("Q", "encoder.final_block.1.weight", "dictionary.Relax"):
        path = write_state(tmp_path / "x.pt", state_of(arrays(), **{key: np.zeros(3, np.float32)}))
        with pytest.raises(InputError, match=f"expected a linear encoder and a dictionary, got {key} too"):
            minisae.load(path, options={"variant": "relu"})


def test_qwen_scope_has_its_k_in_the_folder_s_name(tmp_path):
    a, x = arrays(), rows()
    state = {"W_enc": a["W_enc"].T, "W_dec": a["W_dec"].T, "b_enc": a["b_enc"], "b_dec": a["b_dec"]}
    path = write_state(tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3" / "layer0.sae.pt", state)
    f = top_k(x @ a["W_enc"] + a["b_enc"], K)
    same(minisae.load(path), x, f, f @ a["W_dec"] + a["b_dec"])
    other = write_state(tmp_path / "layer0.sae.pt", state)
    with pytest.raises(
        InputError, match="expected a folder named …L0_K above the file, or the option k; found neither"
    ):
        minisae.load(other)
    same(minisae.load(other, options={"k": K}), x, f, f @ a["W_dec"] + a["b_dec"])


def test_goodfire(tmp_path):
    a, x = arrays(), rows()
    state = {
        "encoder_linear.weight": a["W_enc"].T, "encoder_linear.bias": a["b_enc"],
        "decoder_linear.weight": a["W_dec"].T, "decoder_linear.bias": a["b_dec"],
    }  # fmt: skip
    f = relu(x @ a["W_enc"] + a["b_enc"])
    same(minisae.load(write_state(tmp_path / "x.pth", state)), x, f, f @ a["W_dec"] + a["b_dec"])
    assert a["W_enc"].shape == (D, F)
