"""Gemma Scope 1 and 2: JumpReLU without subtraction; embeddings; transcoders; what has no variant is refused."""

import numpy as np
import pytest

import minisae
from minisae.errors import InputError
from minisae.interop import gemma_scope
from minisae.interop.common import Stored
from tests.interop.tiny import D, F, above, arrays, rows, same, write_json, write_tensors

KEYS = gemma_scope.KEYS


def save(path, a, **more):
    path.mkdir(parents=True, exist_ok=True)
    np.savez(path / "params.npz", **{key: a[key] for key in KEYS}, **more)
    return path


def code(a, x):
    return above(x @ a["W_enc"] + a["b_enc"], a["threshold"])


def test_gemma_scope(tmp_path):
    a, x = arrays(), rows()
    f = code(a, x)
    for path in (save(tmp_path, a), tmp_path / "params.npz"):
        same(minisae.load(path), x, f, f @ a["W_dec"] + a["b_dec"])


def test_compressed_fortran_and_half_precision_members(tmp_path):
    a, x = arrays(), rows()
    turned = {key: np.asfortranarray(a[key]) for key in KEYS} | {"b_dec": a["b_dec"].astype(np.float16)}
    np.savez_compressed(tmp_path / "params.npz", **turned)
    f = code(a, x)
    same(minisae.load(tmp_path), x, f, f @ a["W_dec"] + a["b_dec"].astype(np.float16).astype(np.float32))


def test_an_embedding_s_autoencoder_takes_the_hook_s_rows(tmp_path):
    a, x = arrays(), rows()
    sae = minisae.load(save(tmp_path / "embedding" / "width_4k" / "average_l0_6", a))
    f = above(x @ (a["W_enc"] / np.sqrt(D)) + a["b_enc"], a["threshold"])
    same(sae, x, f, f @ (a["W_dec"] * np.sqrt(D)) + a["b_dec"])
    assert "√d_in" in sae.metadata["notes"][0]
    plain = minisae.load(tmp_path / "embedding" / "width_4k" / "average_l0_6", options={"embedding": False})
    np.testing.assert_allclose(plain.encode(x), code(a, x), atol=1e-6)


def test_a_scaling_factor_is_folded(tmp_path):
    a, x = arrays(), rows()
    factor = np.linspace(1, 2, F).astype(np.float32)
    f = code(a, x)
    sae = minisae.load(save(tmp_path, a, scaling_factor=factor))
    same(sae, x, f, (f * factor) @ a["W_dec"] + a["b_dec"])
    with pytest.raises(InputError, match=r"expected scaling_factor \(13,\), got shape \(3,\)"):
        minisae.load(save(tmp_path, a, scaling_factor=factor[:3]))


def test_the_way_there_and_back_changes_no_bit(tmp_path):
    a = arrays()
    sae = minisae.load(save(tmp_path / "theirs", a))
    gemma_scope.export(tmp_path / "ours", Stored(*sae))
    with np.load(tmp_path / "ours" / "params.npz") as ours:
        assert set(ours) == set(KEYS)
        for key in KEYS:
            np.testing.assert_array_equal(ours[key], a[key])
            assert ours[key].dtype == a[key].dtype


def second(path, a, *, fields=(("architecture", "jump_relu"),), **more):
    tensors = {"w_enc": a["W_enc"], "w_dec": a["W_dec"], "b_enc": a["b_enc"], "b_dec": a["b_dec"]}
    write_tensors(path / "params.safetensors", tensors | {"threshold": a["threshold"]} | more)
    write_json(path / "config.json", dict(fields))
    return path


def test_gemma_scope_2(tmp_path):
    a, x = arrays(), rows()
    fields = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": "model.layers.3.output"}
    f = code(a, x)
    sae = minisae.load(second(tmp_path, a, fields=fields.items()))
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])
    assert sae.metadata["hook_name"] == "model.layers.3.output"
    same(minisae.load(tmp_path / "params.safetensors"), x, f, f @ a["W_dec"] + a["b_dec"])


HOOKS = {"hf_hook_point_in": "layers.3.norm_in", "hf_hook_point_out": "layers.3.norm_out"}


@pytest.mark.parametrize("with_skip", [False, True])
@pytest.mark.parametrize("width", [D, D + 2])
def test_a_transcoder_of_gemma_scope_2(with_skip, width, tmp_path):
    """The file has the skip connection as (d_in, d_out); what it computes is written out here."""
    rng, x = np.random.default_rng(3), rows()
    a = arrays() | {
        "W_dec": rng.standard_normal((F, width)).astype("f"),
        "b_dec": rng.standard_normal(width).astype("f"),
    }
    skip = rng.standard_normal((D, width)).astype(np.float32)
    more = {"affine_skip_connection": skip} if with_skip else {}
    sae = minisae.load(second(tmp_path, a, fields=({"architecture": "jump_relu"} | HOOKS).items(), **more))
    assert (sae.variant, sae.cfg.d_out) == (f"jumprelu_{'skip_' * with_skip}transcoder", width)
    about = {"hook_name": "layers.3.norm_in", "hook_name_out": "layers.3.norm_out"}
    assert sae.metadata == {"format": "gemma_scope_2", "notes": []} | about
    f = code(a, x)
    y_hat = f @ a["W_dec"] + a["b_dec"] + (x @ skip if with_skip else 0)
    np.testing.assert_allclose(sae.encode(x), f, atol=1e-6)
    np.testing.assert_allclose(sae.reconstruct(x), y_hat, atol=1e-5)
    sae.save(tmp_path / "again")
    again = minisae.load(tmp_path / "again")
    assert again.variant == sae.variant
    np.testing.assert_array_equal(again.reconstruct(x), sae.reconstruct(x))


def test_equal_hooks_or_none_mean_an_autoencoder(tmp_path):
    same_hook = dict.fromkeys(HOOKS, "layers.3.output")
    for fields in ({}, same_hook, {"hf_hook_point_in": "layers.3.output"}):
        assert minisae.load(second(tmp_path, arrays(), fields=fields.items())).variant == "jumprelu"


@pytest.mark.parametrize("with_skip", [False, True])
def test_affine_connection_must_agree_with_the_file(with_skip, tmp_path):
    more = {"affine_skip_connection": np.ones((D, D), np.float32)} if with_skip else {}
    fields = {"architecture": "jump_relu"} | HOOKS
    name = f"jumprelu_{'skip_' * with_skip}transcoder"
    for said in (with_skip, None):
        path = second(tmp_path, arrays(), fields=(fields | {"affine_connection": said}).items(), **more)
        assert minisae.load(path).variant == name
    for said in (not with_skip, int(with_skip), "yes"):
        second(tmp_path, arrays(), fields=(fields | {"affine_connection": said}).items(), **more)
        line = f"expected affine_connection to say what the file of arrays holds, got {said!r} and"
        with pytest.raises(InputError, match=f"{line} {'an' if with_skip else 'no'} array affine_skip_connection$"):
            minisae.load(tmp_path)


@pytest.mark.parametrize("key", HOOKS)
def test_a_hook_that_is_no_text_is_refused(key, tmp_path):
    fields = {"architecture": "jump_relu"} | HOOKS | {key: ["a", "b"]}
    with pytest.raises(InputError, match=rf"config\.json: expected {key} to be text, got a list$"):
        minisae.load(second(tmp_path, arrays(), fields=fields.items()))


def test_what_has_no_variant_is_refused(tmp_path):
    a = arrays()
    with pytest.raises(
        InputError, match=r"expected w_dec \(d_sae, d_out\), got \(13, 2, 5\): a cross-layer transcoder"
    ):
        minisae.load(second(tmp_path, a | {"W_dec": np.zeros((F, 2, D), np.float32)}))
    with pytest.raises(InputError, match=r"W_skip is \(7, 5\); expected \(d_out, d_in\) = \(5, 5\)$"):
        minisae.load(second(tmp_path, a, affine_skip_connection=np.zeros((D, D + 2), np.float32)))
    with pytest.raises(InputError, match="expected architecture jump_relu, got 'topk'"):
        minisae.load(second(tmp_path, a, fields=[("architecture", "topk")]))
