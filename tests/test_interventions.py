"""Splicing: the identity changes nothing, known replacements give known losses, skipped positions stay."""

import numpy as np
import pytest

from minisae.checkpoint import SAE
from minisae.errors import InputError
from minisae.interventions import averaged, effects, from_position, reconstruct, spliced, zeroed
from minisae.models import CharGPT, document_loss
from minisae.models.char_gpt import Config, init
from minisae.sae import topk

CFG = Config(n_vocab=17, n_ctx=13, n_layer=2, d_model=12, n_head=3, d_mlp=19)
HOOK = "blocks.0.hook_resid_post"
RNG = np.random.default_rng(0)
MODEL = CharGPT(CFG, init(CFG, np.random.default_rng(1)))
TEXTS = [RNG.integers(0, 17, n).astype(np.int32) for n in (101, 7, 1)]


class Same:
    """A coder that loses nothing."""

    def encode(self, x):
        return x

    def decode(self, f):
        return f


def test_clean_is_the_document_loss():
    found = effects(MODEL, TEXTS, HOOK, {})
    losses = np.concatenate([document_loss(MODEL, text) for text in TEXTS[:2]])
    assert found["clean"].cross_entropy == pytest.approx(losses.mean(), abs=1e-6)
    assert found["clean"].kl == 0


def test_a_perfect_reconstruction_changes_nothing_and_ablations_do():
    done = []
    replacements = {"same": spliced(Same()), "zero": zeroed, "mean": averaged(np.ones(12))}
    found = effects(MODEL, TEXTS, HOOK, replacements, batch=3, progress=done.append)
    assert found["same"] == found["clean"]
    assert found["zero"].kl > 0.01
    assert found["mean"].kl > 0.01
    assert done[-1] == sum(len(text) - 1 for text in TEXTS)


def test_a_constant_in_the_residual_stream_is_what_the_model_goes_on_from():
    """Against the replacement written out: the same logits at every window."""
    constant = RNG.standard_normal(12)
    tokens = TEXTS[0][None, :13]
    ours = MODEL.forward(tokens, replace={HOOK: averaged(constant)}).logits
    by_hand = MODEL.forward(tokens, replace={HOOK: lambda x: np.broadcast_to(constant, x.shape).astype("f4")}).logits
    np.testing.assert_array_equal(ours, by_hand)


def test_positions_before_the_first_are_left_alone():
    x = RNG.standard_normal((3, 5, 12)).astype(np.float32)
    new = from_position(2, zeroed)(x)
    np.testing.assert_array_equal(new[:, :2], x[:, :2])
    assert not new[:, 2:].any()
    assert from_position(0, zeroed) is zeroed


def test_an_autoencoder_keeps_dtype_and_shape():
    cfg = topk.Config(12, 29, k=3)
    sae = SAE("topk", cfg, topk.init(cfg, np.random.default_rng(2), dtype=np.float64), {})
    x = RNG.standard_normal((5, 7, 12)).astype(np.float32)
    out = spliced(sae)(x)
    assert (out.shape, out.dtype) == (x.shape, np.dtype("float32"))
    np.testing.assert_allclose(out[2], reconstruct(sae, x[2]), rtol=1e-6)


@pytest.mark.parametrize("texts", [[], [TEXTS[2]]])
def test_nothing_to_predict(texts):
    with pytest.raises(InputError, match="documents: expected one of at least 2 tokens"):
        effects(MODEL, texts, HOOK, {})


def test_unknown_hook():
    with pytest.raises(InputError, match="hook"):
        effects(MODEL, TEXTS, "blocks.7.nowhere", {"zero": zeroed})
