"""The quality benchmark: its world, what it measures, what it says of made-up scores; and, slowly, the real thing."""

import numpy as np
import pytest

from minisae import SAE, metrics, quality
from minisae.ops import dense
from minisae.sae import VARIANTS, relu


def score(variant, seed=0, **numbers):
    return quality.Score(variant, seed, None, dict.fromkeys(quality.COLUMNS, 0.5) | numbers)


def made_up(**changed):
    """Scores of two seeds of every entry, in which the orderings of the literature hold, but for what is changed."""
    numbers = {name: {"f1": 0.6, "r2": 0.8, "bias": 1.0} for name in quality.ENTRIES}
    numbers["matryoshka"]["f1"] = 0.8
    numbers["matching_pursuit"] |= {"r2": 0.9, "f1": 0.5}
    numbers["relu"]["bias"] = numbers["tied"]["bias"] = 0.8
    for name, other in changed.items():
        numbers[name] |= other
    return [score(name, seed, **values) for name, values in numbers.items() for seed in (0, 1)]


def test_every_variant_that_reconstructs_its_input_takes_part():
    assert set(quality.ENTRIES) == {name for name, module in VARIANTS.items() if not hasattr(module, "sizes")}
    for name, entry in quality.ENTRIES.items():
        has = VARIANTS[name].Config._fields
        assert ("l1" in has) == (entry.bracket is not None), name


def test_the_world_is_what_the_docstring_says():
    model = quality.world(3)
    parent = model.hierarchy.parent
    assert (model.n_feat, model.d_in, (parent < 0).sum()) == (512, 128, 24 + 8)
    assert model.factor.shape[1] == 25
    sample = quality.synthetic.sample(model, 20_000, np.random.default_rng(0))
    on = sample.f > 0
    np.testing.assert_allclose(on.sum(axis=1).mean(), 8.7, atol=0.1)
    children = np.flatnonzero(parent >= 0)
    assert (on[:, parent[children]] | ~on[:, children]).all()


def test_the_true_dictionary_scores_full_marks(monkeypatch):
    """Rows with one feature at most: encoder and decoder are the dictionary, and every latent finds its feature."""
    monkeypatch.setattr(quality, "TEST_ROWS", 500)
    model = quality.synthetic.make(n_feat=7, d_in=11, seed=0, p=0.2, orthogonal_steps=400)
    test = quality.synthetic.sample(model, 500, np.random.default_rng(0))
    W = model.dictionary
    params = {"W_enc": W.T.copy(), "b_enc": np.full(7, -0.01, "f"), "W_dec": W, "b_dec": np.zeros(11, "f")}
    numbers = quality.measure(SAE("relu", relu.Config(11, 7), params, {}), quality.Data(model, test.x, test))
    for name in ("mmcs_truth_to_learned", "matched_cosine", "coverage"):
        assert numbers[name] == pytest.approx(1, abs=1e-5)
    assert numbers["f1"] > 0.9
    assert numbers["r2"] > 0.98
    assert numbers["dead"] == 0
    assert numbers.keys() == quality.COLUMNS.keys()


def test_claims_hold_and_fail():
    assert all(quality.claims(made_up()).values())
    for changed, claim in (
        ({"topk": {"f1": 0.9}}, "matryoshka is ahead in F1"),
        ({"topk": {"r2": 0.95}}, "matching pursuit is ahead in R²"),
        ({"batch_topk": {"f1": 0.4}}, "matching pursuit is behind batch_topk in F1"),
        ({"tied": {"bias": 0.99}}, "L1 shortens"),
        ({"jumprelu": {"bias": 0.9}}, "gated and jumprelu do not"),
    ):
        held = quality.claims(made_up(**changed))
        assert [name for name, yes in held.items() if not yes] == [claim]


def test_the_table_has_means_and_bands():
    lines = quality.table([score("relu", 0, f1=0.5), score("relu", 1, f1=0.7), score("topk")]).splitlines()
    assert len(lines) == 3
    assert all(heading in lines[0] for heading in quality.COLUMNS.values())
    assert "0.600 ± 0.100" in lines[1]
    assert "0.500 ± 0.000" in lines[2]


def test_bisection_finds_a_penalty(monkeypatch):
    """With an L0 that is 3 / λ, what is wanted lies at λ = 3 / L0."""
    monkeypatch.setattr(quality, "data", lambda seed: quality.Data(None, None, None))
    monkeypatch.setattr(quality, "fit", lambda variant, seed, rows, *, l1: l1)
    monkeypatch.setattr(quality, "measure", lambda l1, truth: {"l0": 3 / l1})
    found = quality.match_l0("relu", 0)
    assert abs(found.numbers["l0"] / quality.L0 - 1) <= quality.TOLERANCE
    assert found.l1 == pytest.approx(3 / quality.L0, rel=0.04)


@pytest.mark.slow
def test_the_orderings_of_selecting_variants_on_one_seed():
    """All variants and five seeds: ``minisae bench --quality``."""
    numbers = {v: quality.score(v, 1, None).numbers for v in ("batch_topk", "matryoshka", "matching_pursuit")}
    f1 = {v: row["f1"] for v, row in numbers.items()}
    assert f1["matryoshka"] > f1["batch_topk"] > f1["matching_pursuit"]
    r2 = {v: row["r2"] for v, row in numbers.items()}
    assert r2["matching_pursuit"] > r2["batch_topk"] > r2["matryoshka"]


@pytest.mark.slow
def test_abs_topk_gives_one_latent_two_features():
    """Strengths are positive in this world: a latent that fires with either sign stands for two directions."""
    truth = quality.data(1)
    sae = quality.fit("abs_topk", 1, truth.rows, l1=None)
    f, W = dense(sae.encode(truth.test.x)), sae.params["W_dec"]  # (n, d_sae), (d_sae, d_in)
    shares = np.stack([(f > 0).mean(axis=0), (f < 0).mean(axis=0)])  # (2, d_sae)
    both = float((shares.min(axis=0) > 0.1 * shares.sum(axis=0)).mean())
    plain, halves = (metrics.mmcs(truth.model.dictionary, rows) for rows in (W, np.concatenate([W, -W])))
    print(f"both signs in a tenth of firings or more: {both:.2f} of the latents; MMCS {plain:.2f}, halves {halves:.2f}")
    assert both > 0.4
    assert halves > plain + 0.08
