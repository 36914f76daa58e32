"""Matching pursuit by hand: choices, ends of a pursuit, what it leaves, and what backward makes of it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisae
from minisae import synthetic
from minisae.errors import InputError
from minisae.ops import dense
from minisae.sae import matching_pursuit
from tests.sae.cases import Case

CASES = {
    "paper": Case({"k": 3}, {"k_start": 11, "k_anneal": 4}),
    "saelens": Case(
        {"k": 4, "match": "positive", "residual_threshold": 0.3, "stop_on_repeat": True, "decoder": "free"}
    ),
    "mean": Case({"k": 2, "reduction": "mean"}),
}


def saelens_code(fields, arrays, pre):
    """SAELens' loop, a row at a time; ``pre`` is what the encoder sees."""
    f = np.zeros((len(pre), len(arrays["W_dec"])), pre.dtype)
    for code, r in zip(f, pre.copy(), strict=True):
        for _ in range(fields["max_iterations"]):
            scores = np.maximum(arrays["W_dec"] @ r, 0)
            best, before = scores.argmax(), code != 0
            code[best] += scores[best]
            r = r - scores[best] * arrays["W_dec"][best]
            if fields["stop_on_duplicate_support"] and ((code != 0) == before).all():
                break
            if np.linalg.norm(r) < fields["residual_threshold"]:
                break
    return f


W = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 0.6, 0.8]])


def pursued(x, **options):
    cfg = matching_pursuit.Config(3, 4, **options)
    params = {"W_dec": W, "b_dec": np.array([0.0, 0.0, 1.0])}
    out, cache = matching_pursuit.forward(params, np.array(x), cfg)
    np.testing.assert_array_equal(dense(matching_pursuit.encode(params, np.array(x), cfg)), dense(out.f))
    return out, cache, cfg


def test_by_hand():
    """Of (3, 1, 0) the first takes 3 and leaves (0, 1, 0); of that the second takes 0.8 and leaves (−.48, .36, 0)."""
    out, cache, cfg = pursued([[3.0, 1.0, 1.0], [0.0, 0.0, 3.0]], k=2)
    np.testing.assert_allclose(dense(out.f), [[3, 0.8, 0, 0], [0, 0, 2, 0]], atol=1e-15)
    np.testing.assert_allclose(cache.residual, [[-0.48, 0.36, 0], [0, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(out.pre, [[3, 2.6, 0, 0.6], [0, 0, 2, 1.6]])
    np.testing.assert_allclose(out.x_hat, [[3.48, 0.64, 1], [0, 0, 3]])
    np.testing.assert_array_equal(matching_pursuit.fired_latents(out, cfg), [True, True, True, False])


def test_ties_go_to_the_lowest_latent():
    params = {"W_dec": np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), "b_dec": np.zeros(2)}
    out = matching_pursuit.forward(params, np.array([[2.0, 1.0]]), matching_pursuit.Config(2, 3, k=1))[0]
    np.testing.assert_array_equal(dense(out.f), [[0, 2, 0]])


def test_matches_below_zero():
    for match, f in (("signed", -0.5), ("positive", 0.0)):
        out = pursued([[-3.0, -1.0, 0.5]], k=1, match=match)[0]
        np.testing.assert_allclose(dense(out.f), [[0, 0, f, 0]])


def test_ends_of_a_pursuit():
    """The residuals of (3, 1, 0) have norm 1 and 0.6; a row by itself ends, the others go on."""
    rows = [[3.0, 1.0, 1.0], [0.0, 0.0, 3.0], [4.0, 4.0, 4.0]]
    lengths = {
        limit: [int(np.count_nonzero(v)) for v in np.array(pursued(rows, k=4, residual_threshold=limit)[1].values).T]
        for limit in (0.0, 0.7, 1.1, 99.0)
    }
    assert lengths[99.0] == [1, 1, 1]
    assert lengths[1.1][0] == 1
    assert lengths[0.7][0] == 2
    assert lengths[0.7][1] == 1
    assert lengths[0.7][2] > 1


def test_stop_on_repeat():
    """With short rows the first choice leaves most of itself: it comes again, counts once more, and is the last."""
    params = {"W_dec": 0.5 * np.eye(2), "b_dec": np.zeros(2)}
    x = np.array([[8.0, 1.0], [3.0, 2.9]])
    for stop, chosen in ((False, [[0, 0, 0, 0], [0, 1, 0, 1]]), (True, [[0, 0], [0, 1, 0]])):
        cfg = matching_pursuit.Config(2, 2, k=4, stop_on_repeat=stop, decoder="free")
        cache = matching_pursuit.forward(params, x, cfg)[1]
        for row, expected in enumerate(chosen):
            taken = [int(c[row]) for c, v in zip(cache.chosen, cache.values, strict=True) if v[row]]
            assert taken == expected


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 11), st.integers(1, 5), st.integers(0, 99))
def test_the_reconstruction_is_the_input_less_the_residual_which_shrinks(n, d_in, d_sae, k, seed):
    rng = np.random.default_rng(seed)
    cfg = matching_pursuit.Config(d_in, d_sae, k)
    params = matching_pursuit.init(cfg, rng, sample=rng.standard_normal((7, d_in)), dtype=np.float64)
    x = rng.standard_normal((n, d_in))
    out, cache = matching_pursuit.forward(params, x, cfg)
    np.testing.assert_allclose(out.x_hat, x - cache.residual, atol=1e-12)
    assert len(cache.values) <= k
    errors = [
        np.linalg.norm(x - matching_pursuit.forward(params, x, cfg._replace(k=j))[0].x_hat, axis=1)
        for j in range(1, k + 1)
    ]
    assert all((after <= before + 1e-12).all() for before, after in itertools.pairwise(errors))


def test_backward_leaves_the_cache_alone():
    rng = np.random.default_rng(3)
    cfg = matching_pursuit.Config(5, 13, 4, residual_threshold=1.0)
    params, x = matching_pursuit.init(cfg, rng, dtype=np.float64), rng.standard_normal((17, 5))
    out, cache = matching_pursuit.forward(params, x, cfg)
    assert any((value == 0).any() for value in cache.values)
    first, again = (matching_pursuit.backward(params, cache, cfg, {"x_hat": out.x_hat, "f": 2.0}) for _ in range(2))
    for key, grad in first.items():
        np.testing.assert_array_equal(grad, again[key])


def test_training_recovers_a_dictionary():
    model = synthetic.make(n_feat=17, d_in=13, p=0.1, seed=0, orthogonal_steps=100)
    sae = minisae.train(
        synthetic.SyntheticSource(model), variant="matching_pursuit", d_sae=17, k=4, steps=600, batch_size=256, lr=1e-2,
        options={"input_scale": "mean_norm", "residual_threshold": 1e-3},
    )  # fmt: skip
    assert sae.cfg.residual_threshold < 1e-3  # for rows as they are
    cosines = (sae.params["W_dec"] @ model.dictionary.T).max(axis=0)
    assert (cosines > 0.95).sum() >= 15, cosines


def test_saelens_fields():
    fields = {"architecture": "matching_pursuit", "d_in": 5, "max_iterations": None}
    own = {"k": 5, "match": "positive", "residual_threshold": 1e-2, "stop_on_repeat": True}
    assert matching_pursuit.from_saelens(fields) == own
    assert matching_pursuit.from_saelens({"architecture": "topk"}) is None
    with pytest.raises(InputError, match="apply_b_dec_to_input: expected true for a matching pursuit, got false"):
        matching_pursuit.from_saelens(fields | {"apply_b_dec_to_input": False})
    assert "architecture" not in matching_pursuit.to_saelens(matching_pursuit.Config(5, 13))


def test_choices_without_end_are_refused():
    matching_pursuit.check_config(matching_pursuit.Config(5, 13, k=130))
    with pytest.raises(InputError, match=r"^k: expected a whole number of at least 1 and at most 130, got 131$"):
        matching_pursuit.check_config(matching_pursuit.Config(5, 13, k=131))
