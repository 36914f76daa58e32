import numpy as np
import pytest

from minisae.errors import InputError
from minisae.models import activations, char_gpt, document_loss, documents, generate, load, random_init, save, text
from minisae.models.language_model import WEIGHTS, CharGPT, windows

TINY = char_gpt.Config(n_vocab=85, n_ctx=7, n_layer=2, d_model=6, n_head=2, d_mlp=13)
MIDDLE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def tiny():
    return random_init(TINY, np.random.default_rng(11))


@pytest.fixture(scope="module")
def shipped():
    return load()


def test_the_shipped_model(shipped):
    assert WEIGHTS.stat().st_size <= 2_000_000
    assert sum(p.size for p in shipped.params.values()) == 809_344
    assert {p.dtype for p in shipped.params.values()} == {np.dtype("float32")}
    assert shipped.cfg == char_gpt.Config()


def test_text_becomes_tokens_and_text_again(shipped):
    assert shipped.decode_text(shipped.encode_text("Call me Ishmael.")) == "Call me Ishmael."


def test_the_shipped_model_predicts_text_it_never_saw(shipped):
    sample = [d.text[:3000] for d in documents()[::4]]
    losses = np.concatenate([document_loss(shipped, shipped.encode_text(s)) for s in sample])
    assert len(losses) > 15_000
    assert losses.mean() < 1.5
    control = random_init(shipped.cfg, np.random.default_rng(0))
    assert document_loss(control, shipped.encode_text(sample[0])).mean() > 4


def test_norms_are_flat_over_position(shipped):
    tokens = [shipped.encode_text(d.text)[: 40 * 128] for d in documents()[:2]]
    found = list(activations(shipped, tokens, hooks=[MIDDLE]))
    norm = np.concatenate([np.linalg.norm(r.activations[MIDDLE], axis=1) for r in found])
    position = np.concatenate([r.position for r in found])
    mean = np.array([norm[position == p].mean() for p in range(128)])
    assert mean.max() < 2.5 * mean.min()
    assert mean[8:].max() < 1.5 * mean[8:].min()
    assert norm.max() < 5 * norm.mean()


def test_save_and_load_round_to_half_precision(tiny, tmp_path):
    save(tiny, tmp_path / "deep" / "x.safetensors")
    back = load(tmp_path / "deep" / "x.safetensors")
    assert back.cfg == tiny.cfg
    for name, p in tiny.params.items():
        np.testing.assert_array_equal(back.params[name], p.astype(np.float16))
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


def test_files_that_are_no_model_are_one_line(tiny, tmp_path):
    with pytest.raises(InputError, match="expected the weights of a character GPT"):
        load(tmp_path / "missing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"torn.safetensors: expected the weights"):
        load(tmp_path / "torn.safetensors")
    partial = {name: p for name, p in tiny.params.items() if name != "ln_final.w"}
    save(CharGPT(TINY, partial), tmp_path / "partial.safetensors")
    with pytest.raises(InputError, match=r"got others at ln_final.w"):
        load(tmp_path / "partial.safetensors")


def test_windows_cover_every_token_once():
    tokens = np.arange(7 * 5 + 3)
    parts = list(windows(tokens, 7, 2))
    assert [p.shape for p in parts] == [(2, 7), (2, 7), (1, 7), (1, 3)]
    np.testing.assert_array_equal(np.concatenate([p.ravel() for p in parts]), tokens)


def test_document_loss_is_the_loss_of_each_window(tiny):
    tokens = text.encode("To the House of Representatives.")
    found = document_loss(tiny, tokens, batch=3)
    assert found.shape == (len(tokens) - 1,)
    logits = tiny.forward(tokens[None, 7:14]).logits
    expected = -char_gpt.forward(tiny.params, tokens[None, 7:14], TINY)[0].logits[0, 2, tokens[10]]
    expected = expected + np.log(np.exp(logits[0, 2]).sum())
    np.testing.assert_allclose(found[9], expected, rtol=1e-5)
    ablated = document_loss(tiny, tokens, replace={MIDDLE: np.zeros_like})
    np.testing.assert_allclose(ablated, np.log(85), rtol=1e-5)
    with pytest.raises(InputError, match="at least 2 characters"):
        document_loss(tiny, tokens[:1])


def test_activations_say_where_each_row_comes_from(tiny):
    texts = [text.encode("Call me Ishmael. Some years ago"), text.encode("Loomings")]
    hooks = ["blocks.0.hook_mlp_out", MIDDLE]
    found = list(activations(tiny, texts, hooks=hooks, batch=2))
    doc_id, position, token, offset = (
        np.concatenate([getattr(r, field) for r in found]) for field in ("doc_id", "position", "token", "offset")
    )
    np.testing.assert_array_equal(doc_id, np.repeat([0, 1], [31, 8]))
    np.testing.assert_array_equal(token, np.concatenate(texts))
    np.testing.assert_array_equal(offset, np.r_[0:31, 0:8])
    np.testing.assert_array_equal(position, offset % 7)
    for name in hooks:
        rows = np.concatenate([r.activations[name] for r in found])
        assert rows.shape == (39, 6)
        assert rows.dtype == np.float32
        one = tiny.forward(texts[0][None, 7:14], read=[name]).activations[name][0]
        np.testing.assert_allclose(rows[7:14], one, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="hooks: expected names like"):
        next(activations(tiny, texts, hooks=["resid"]))


def test_generation_depends_on_prompt_temperature_and_seed(shipped):
    one, two = (generate(shipped, "The President", 40, temperature=0.8, seed=3) for _ in range(2))
    assert one == two
    assert len(one) == 40
    assert one != generate(shipped, "The President", 40, temperature=0.8, seed=4)
    greedy = {generate(shipped, "The United St", 3, temperature=0, seed=seed) for seed in range(2)}
    assert greedy == {"ate"}
    with pytest.raises(InputError, match="prompt"):
        generate(shipped, "", 3)
    with pytest.raises(InputError, match="temperature"):
        generate(shipped, "a", 3, temperature=-1.0)
