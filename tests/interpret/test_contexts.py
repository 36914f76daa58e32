"""Contexts: the strongest rows, apart from each other, inside their document, with the firing characters marked."""

import numpy as np

from minisae.cache import view
from minisae.checkpoint import SAE
from minisae.interpret import Context, Firing, firing, latent_page, marked
from minisae.interpret.contexts import token_mass
from minisae.sae import topk
from tests.language import small_model, small_texts, text_cache

TEXTS = small_texts()


def random_sae():
    cfg = topk.Config(12, 41, k=3)
    return SAE("topk", cfg, topk.init(cfg, np.random.default_rng(1)), {})


def test_firing_is_the_code_row_by_row(tmp_path):
    source, sae = view(text_cache(tmp_path / "cache", small_model(), TEXTS)), random_sae()
    found = firing(sae, source, [7, 3])
    f = sae.encode(source.read(0, source.rows).x)
    np.testing.assert_allclose(found.values, f[:, [7, 3]], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.token, np.concatenate(TEXTS))
    np.testing.assert_array_equal(found.doc_id, np.repeat(np.arange(6), [len(t) for t in TEXTS]))
    mass = token_mass(sae, source, 85)
    np.testing.assert_allclose(mass.sum(axis=1), f.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(mass[:, 4], f[found.token == 4].sum(axis=0), rtol=1e-5)


def made_up(values, documents=None):
    n = len(values)
    documents = np.zeros(n, int) if documents is None else documents
    return Firing(np.array([17]), np.array(values, dtype=float)[:, None], np.arange(n) % 5, documents)


def test_peaks_are_the_strongest_and_apart():
    values = np.zeros(50)
    values[[10, 11, 30, 45]] = [3, 4, 2, 5]
    page = latent_page(made_up(values), 0, contexts=3, before=4, after=2)
    assert [c.values[c.peak] for c in page.contexts] == [5, 4, 2]
    assert (page.latent, page.largest, page.density) == (17, 5, 4 / 50)
    first = page.contexts[0]
    np.testing.assert_array_equal(first.tokens, np.arange(41, 48) % 5)
    assert first.peak == 4
    assert sum(share for _, share in page.tokens) <= 1
    assert page.tokens[0] == (0, 10 / 14)  # rows 10, 30 and 45; row 11 is token 1


def test_a_context_ends_with_its_document():
    values = np.zeros(20)
    values[10] = 1
    page = latent_page(made_up(values, np.arange(20) // 10), 0, before=5, after=3)
    assert (page.contexts[0].peak, len(page.contexts[0].tokens), page.contexts[0].document) == (0, 4, 1)


def test_a_dead_latent_has_no_contexts():
    page = latent_page(made_up(np.zeros(9)), 0)
    assert (page.contexts, page.tokens, page.density) == ((), (), 0)


def test_marked_text():
    context = Context(0, 1, np.array([0, 1, 2, 0, 1]), np.array([0, 2.0, 1.0, 0, 3.0]))
    assert marked(context, "ab\n") == "a⟦b↵⟧a⟦b⟧"
    assert marked(context, "ab\n", threshold=1.5) == "a⟦b⟧↵a⟦b⟧"
