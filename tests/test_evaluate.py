"""What ``eval`` measures: the right rows, numbers equal to the metrics on whole arrays, the model behind the cache."""

import numpy as np
import pytest

import minisae
from minisae import metrics
from minisae.baselines import fit
from minisae.cache import ArraySource, Filters, split, view, write_cache
from minisae.checkpoint import SAE
from minisae.errors import InputError
from minisae.evaluate import MEANING, documents_of, evaluate, held_out_rows, in_order, model_numbers
from minisae.interventions import averaged, effects, spliced, zeroed
from minisae.runs import source_identity
from minisae.sae import relu, topk
from tests.language import HOOK, small_model, small_texts, text_cache

X = (np.random.default_rng(0).standard_normal((997, 11)) * 3 + 5).astype(np.float32)


def random_sae(module=topk, name="topk", d_in=11, **options):
    cfg = module.Config(d_in, 37, **options)
    return SAE(name, cfg, module.init(cfg, np.random.default_rng(1), sample=X if d_in == 11 else None), {})


@pytest.mark.parametrize(("module", "name"), [(topk, "topk"), (relu, "relu")])
def test_numbers_are_those_of_the_whole_arrays(module, name, monkeypatch):
    monkeypatch.setattr(minisae.evaluate, "CHUNK", 101)
    sae = random_sae(module, name)
    done = []
    found = evaluate(sae, ArraySource(X), progress=done.append)
    f = sae.encode(X)
    x_hat = sae.decode(f)
    for key in ("pooled_r2", "mean_of_ratios_legacy", "frac_variance_explained", "l2_ratio", "cosine_similarity"):
        assert found.numbers[key] == pytest.approx(float(getattr(metrics, key)(X, x_hat)), rel=1e-5), key
    assert found.numbers["l0"] == metrics.l0(f)
    assert found.numbers["dead_fraction"] == pytest.approx(float((f == 0).all(axis=0).mean()))
    assert found.numbers["decoder_coherence"] == metrics.cosine_structure(sae.params["W_dec"]).coherence
    np.testing.assert_allclose(found.totals.density, (f != 0).mean(axis=0))
    np.testing.assert_allclose(found.mean, X.mean(axis=0, dtype=np.float64))
    assert done[-1] == 997
    assert list(found.numbers) == [name for name in MEANING if name in found.numbers]


def test_a_baseline_is_measured_the_same_way():
    pca = fit([X], 4)
    found = evaluate(pca, ArraySource(X)).numbers
    assert found["pooled_r2"] == pytest.approx(float(pca.variances.sum() / pca.total_variance), abs=1e-5)
    assert "decoder_coherence" not in found


def test_rows_of_the_split_of_training(tmp_path):
    cache = text_cache(tmp_path / "cache", small_model(), small_texts())
    filters = Filters(skip_positions=2)
    chosen = {"held_out": 0.4, "seed": 3, "filters": filters._asdict(), "hook": None}
    parts = split(view(cache, filters=filters), held_out=0.4, seed=3)
    sae = random_sae(d_in=12)._replace(metadata={"cache": cache.identity, "selection": chosen})
    rows = held_out_rows(sae, cache)
    assert rows.source.rows == parts.held_out.rows
    np.testing.assert_array_equal(rows.source.kept.bits, parts.held_out.kept.bits)
    assert "held out" in rows.how
    everything = held_out_rows(sae._replace(metadata={"cache": cache.identity}), cache)
    assert everything.source.rows == cache.rows
    assert "trained on them" in everything.how
    other = held_out_rows(sae._replace(metadata={"cache": "another", "selection": chosen}), cache)
    assert other.source.rows == view(cache, filters=filters).rows
    assert other.how == f"all {other.source.rows} rows of other data than the autoencoder was trained on"
    part = held_out_rows(sae._replace(metadata={"cache": cache.identity, "rows": 17}), cache)
    assert part.how.endswith("was trained on 17 of them, nothing was held out")


def test_rows_of_another_hook_than_that_of_training(tmp_path):
    known = {"doc_id": np.arange(997) // 97}
    two = write_cache(tmp_path / "two", [{"acts.in": X, "acts.out": X[:, :7], **known}])
    chosen = {"held_out": 0.4, "seed": 3, "filters": {}, "hook": "in"}
    about = {"cache": two.identity, "hooks": ["acts.in"], "selection": chosen}
    sae = random_sae()._replace(metadata=about)
    for hook in (None, "in", "acts.in", ["acts.in"]):
        rows = held_out_rows(sae, two, hook=hook)
        assert rows.how.startswith("held out")
        assert rows.source.kept.hooks == ("acts.in",)
    for hook in ("out", ["in", "out"]):
        rows = held_out_rows(sae, two, hook=hook)
        assert rows.source.d_in == (7 if hook == "out" else 18)
        assert rows.how == "all 997 rows of other data than the autoencoder was trained on"
    with pytest.raises(InputError, match=r"^hook: expected one of acts\.in, acts\.out in .*two, got 'mlp'$"):
        held_out_rows(sae, two, hook="mlp")
    for noted, line in {None: "no hook is", "mlp": "that is"}.items():
        other = sae._replace(metadata=about | {"selection": {"hook": noted}})
        said = rf"got {noted!r}; {line} in the autoencoder's metadata, say which with hook \(--hook\)$"
        with pytest.raises(InputError, match=said):
            held_out_rows(other, two)
    with pytest.raises(InputError, match=r"^hook: expected none for an array, which has no hooks, got 'in'$"):
        held_out_rows(sae, X, hook="in")
    with pytest.raises(InputError, match=r"^metadata: expected selection to be what training here notes"):
        held_out_rows(sae._replace(metadata={"selection": {"hook": {"in": 1}}}), two)


def test_rows_of_an_array():
    known = source_identity(ArraySource(X[:701]))
    sae = random_sae()._replace(metadata=known)
    held = held_out_rows(sae, X)
    np.testing.assert_array_equal(held.source.x, X[701:])
    assert held.how == "held out: the last 296 of 997 rows (an array has no documents)"
    np.testing.assert_array_equal(held_out_rows(sae, X.astype(np.float64)).source.x, X[701:])
    assert "was trained on them, nothing was held out" in held_out_rows(sae, X[:701]).how
    for other in (X[1:], X[:13], X[:, :7]):
        rows = held_out_rows(sae, other)
        assert rows.how == f"all {len(other)} rows of other data than the autoencoder was trained on"
        assert rows.source.rows == len(other)


def test_rows_for_what_came_from_elsewhere(tmp_path):
    cache = text_cache(tmp_path / "cache", small_model(), small_texts())
    for sae, data in ((random_sae(), X), (random_sae(d_in=12), cache)):
        foreign = sae._replace(metadata={"format": "sparsify", "notes": []})
        rows = held_out_rows(foreign, data)
        assert rows.source.rows == (997 if data is X else cache.rows)
        assert rows.how == f"all {rows.source.rows} rows: it is not known on what the autoencoder was trained"


def test_rows_of_an_array_past_the_filter_of_training():
    x = X.copy()
    x[[3, 800]] = np.nan
    finite = np.delete(x, [3, 800], axis=0)
    chosen = {"filters": Filters(drop_nonfinite=True)._asdict(), "held_out": 0.3, "seed": 3, "hook": None}
    known = source_identity(ArraySource(finite[:701])) | {"selection": chosen}
    np.testing.assert_array_equal(held_out_rows(random_sae()._replace(metadata=known), x).source.x, finite[701:])
    with pytest.raises(InputError, match="2 of 997 with NaN"):
        held_out_rows(random_sae(), x)
    assert held_out_rows(random_sae(), x, drop_nonfinite=True).source.rows == 995


def test_documents_come_back_from_the_cache(tmp_path):
    texts = small_texts()
    cache = text_cache(tmp_path / "cache", small_model(), texts)
    parts = split(view(cache, filters=Filters(skip_positions=3)), held_out=0.4, seed=3)
    held = documents_of(parts.held_out, 13)
    starts = np.cumsum([0, *map(len, texts)])
    for document in held:
        number = int(np.searchsorted(starts, document.first))
        np.testing.assert_array_equal(document.tokens, texts[number])
    assert 0 < len(held) < len(texts)


def test_a_cache_without_whole_documents(tmp_path):
    cache = text_cache(tmp_path / "a", small_model(), small_texts(), filters=Filters(skip_positions=1))
    with pytest.raises(InputError, match="expected document 0 whole, in windows of 13 positions"):
        documents_of(view(cache), 13)


def test_model_numbers_are_the_interventions(tmp_path):
    model, texts = small_model(), small_texts()
    cache = text_cache(tmp_path / "cache", model, texts, dtype="fp32")
    sae, mean = random_sae(d_in=12), np.ones(12)
    found = model_numbers(sae, model, view(cache), mean)
    by_hand = effects(model, texts, HOOK, {"sae": spliced(sae), "zero": zeroed, "mean": averaged(mean)})
    assert found["ce_clean"] == by_hand["clean"].cross_entropy
    assert found["ce_sae"] == by_hand["sae"].cross_entropy
    assert found["kl_mean_ablation"] == by_hand["mean"].kl
    assert set(in_order(found)) == set(found)


def test_another_model_than_the_cache_says(tmp_path):
    cache = text_cache(tmp_path / "cache", small_model(), small_texts())
    with pytest.raises(InputError, match=r"expected activations of char_gpt at blocks\.0\.hook_resid_post, got others"):
        model_numbers(random_sae(d_in=12), small_model(seed=5), view(cache), np.ones(12))
