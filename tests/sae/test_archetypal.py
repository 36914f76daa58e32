"""Archetypal autoencoders by hand: the dictionary, its constraints, what follows from what, centroids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisae
from minisae.errors import InputError
from minisae.interop import folding
from minisae.recipe import Recipe
from minisae.sae import archetypal, k_means
from minisae.train import start, step
from tests.helpers import ArraySource, perturbed
from tests.sae import auxk
from tests.sae.cases import Case

CASES = {
    "paper": Case({"k": 3, "candidates": 4}, {"k_start": 11, "k_anneal": 4}),
    "overcomplete": Case(
        {"k": 2, "k_aux": 3, "auxk": 0.1, "auxk_over": "unchosen", "auxk_reach": "everything", "reduction": "mean"}
    ),
    "tight": Case({"k": 4, "candidates": 17, "delta": 0.05, "scaled": False, "auxk": 0.3, "auxk_reach": "decoder"}),
}
FIXED = ("points", "b_dec", "log_scale")


def held_fixed(module, at, rows, cfg, dead):
    """As for TopK, with the dictionary that follows from the parameters."""
    values = auxk.held_fixed(module, at, rows, cfg, dead)
    return lambda params, seen: values(params | module.derived(params, cfg), seen)


def small(**options):
    """Three latents over two points in the plane."""
    cfg = archetypal.Config(2, 3, k=1, candidates=2, **options)
    params = {
        "W_enc": np.eye(2, 3, order="F"), "b_enc": np.zeros(3), "A": np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]),
        "relaxation": np.array([[0.0, 0.0], [0.3, 0.4], [0.0, 0.0]]), "log_scale": np.log([2.0]),
        "points": np.array([[1.0, 0.0], [0.0, 2.0]]), "W_dec": np.zeros((3, 2)), "b_dec": np.zeros(2),
    }  # fmt: skip
    return cfg, params


def test_the_dictionary_by_hand():
    cfg, params = small()
    D = [[2, 0], [1.6, 2.8], [0, 4]]
    np.testing.assert_allclose(archetypal.derived(params, cfg)["W_dec"], D)
    out, _ = archetypal.forward(params, np.array([[3.0, 1.0]]), cfg)
    np.testing.assert_allclose(out.W_dec, D)
    np.testing.assert_allclose(out.x_hat, [[6, 0]])
    np.testing.assert_allclose(archetypal.derived(params, cfg._replace(scaled=False))["W_dec"], np.array(D) / 2)


def test_what_a_step_brings_back_by_hand():
    """Negative entries go, rows are divided by their sums, a long Λ is shortened to δ; a row of zeros stays."""
    cfg, params = small(delta=0.1)
    params["A"][...] = [[3.0, 1.0], [-2.0, 0.5], [-1.0, -1.0]]
    archetypal.after_step(params, None, cfg, step=0)
    np.testing.assert_allclose(params["A"], [[0.75, 0.25], [0, 1], [0, 0]])
    np.testing.assert_allclose(params["relaxation"], [[0, 0], [0.06, 0.08], [0, 0]])
    np.testing.assert_allclose(params["W_dec"], [[1.5, 1], [0.12, 4.16], [0, 0]])
    before = {key: p.copy() for key, p in params.items()}
    archetypal.after_step(params, None, cfg, step=1)
    for key, p in params.items():
        np.testing.assert_allclose(p, before[key], rtol=1e-15, err_msg=key)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 9), st.sampled_from((0.0, 0.2, 3.0)), st.integers(0, 99))
def test_the_dictionary_stays_near_the_convex_hull(d_sae, d_in, candidates, delta, seed):
    """D e^−s − Λ is a mixture of the points: its products with any direction lie between those of the points."""
    rng = np.random.default_rng(seed)
    cfg = archetypal.Config(d_in, d_sae, k=1, candidates=candidates, delta=delta)
    params = perturbed(archetypal, cfg, rng)
    archetypal.after_step(params, None, cfg, step=0)
    assert (params["A"] >= 0).all()
    sums = params["A"].sum(axis=1)
    assert (np.isclose(sums, 1) | (sums == 0)).all()
    assert (np.linalg.norm(params["relaxation"], axis=1) <= delta * (1 + 1e-12)).all()
    direction = rng.standard_normal(d_in)
    mixed = (params["W_dec"] * np.exp(-params["log_scale"]) - params["relaxation"]) @ direction
    among = params["points"] @ direction
    assert ((mixed >= among.min() - 1e-9) & (mixed <= among.max() + 1e-9))[sums > 0].all()


def test_the_start():
    """Latents are centroids, then between two; each answers with 1 to its own row of the dictionary."""
    rng = np.random.default_rng(0)
    cfg = archetypal.Config(5, 13, k=2, candidates=7)
    params = archetypal.init(cfg, rng, sample=rng.standard_normal((97, 5)) + 3, dtype=np.float64)
    np.testing.assert_array_equal(params["W_dec"][:7], params["points"])
    assert ((params["A"] > 0).sum(axis=1)[7:] == 2).all()
    assert len(np.unique(params["W_dec"].round(9), axis=0)) == 13
    np.testing.assert_allclose(params["A"].sum(axis=1), 1)
    np.testing.assert_allclose(np.einsum("ij,ji->i", params["W_dec"], params["W_enc"]), 1)
    assert archetypal.Config(5, 13).n_points == 13
    assert archetypal.Config(5, 5000).n_points == archetypal.MOST_POINTS


def test_centroids_of_clusters():
    """Far clusters are found, whatever rows the start draws from them, as long as it draws one from each."""
    rng = np.random.default_rng(1)
    centres = np.array([[9.0, 0.0], [0.0, 9.0], [-9.0, -9.0]])
    x = np.repeat(centres, 11, axis=0) + 0.1 * rng.standard_normal((33, 2))
    x_means = x.reshape(3, 11, 2).mean(axis=1)
    found = min(
        (k_means.centroids(x, 3, np.random.default_rng(seed)) for seed in range(9)),
        key=lambda points: sum(np.linalg.norm(x_means - p, axis=1).min() for p in points),
    )
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], x_means[np.argsort(x_means[:, 0])], rtol=1e-12)
    assert k_means.centroids(x[:2], 5, rng).shape == (5, 2)


def test_ghost_gradients_reach_the_points_mixture():
    """A slope on the dictionary itself, as ghost gradients put it, goes on to A, Λ and s."""
    x = np.random.default_rng(2).standard_normal((97, 5)).astype(np.float32)
    moved = {}
    for ghost in (False, True):
        recipe = Recipe(steps=3, batch_size=31, init_rows=97, dead_after=1, ghost=ghost, dtype="float64")
        run = start(ArraySource(x), "archetypal", archetypal.Config(5, 13, k=2), recipe)
        run.params["b_enc"][:4] = -9
        run, measures = step(run, x[:31].astype(np.float64))
        run, measures = step(run, x[31:62].astype(np.float64))
        moved[ghost] = run.params["relaxation"][:4].copy()
    assert measures["ghost"] > 0
    assert not moved[False].any()
    assert moved[True].any()


def test_a_finished_run_with_averaged_weights_has_their_dictionary():
    x = np.random.default_rng(3).standard_normal((97, 5)).astype(np.float32)
    for recipe in ({"ema": 0.9}, {"optimiser": "signum", "lr_decay": "constant"}):
        options = {"init_rows": 97, "input_scale": "mean_norm", **recipe}
        sae = minisae.train(x, variant="archetypal", d_sae=13, k=2, steps=9, batch_size=31, options=options)
        np.testing.assert_allclose(sae.params["W_dec"], archetypal.derived(sae.params, sae.cfg)["W_dec"], rtol=1e-6)


def test_it_is_written_as_a_topk():
    x = np.random.default_rng(4).standard_normal((97, 5)).astype(np.float32)
    sae = minisae.train(x, variant="archetypal", d_sae=13, k=2, steps=9, batch_size=31)
    plain, notes = folding.plain(sae)
    assert (plain.variant, notes) == ("topk", ["an archetypal dictionary became W_dec of a topk"])
    np.testing.assert_array_equal(plain.encode(x), sae.encode(x))
    np.testing.assert_array_equal(plain.reconstruct(x), sae.reconstruct(x))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"candidates": -1}, "candidates: expected a whole number of at least 0, got -1"),
        ({"delta": -0.5}, "delta: expected a number of at least 0, got -0.5"),
        ({"scaled": "yes"}, "scaled: expected one of True, False, got 'yes'"),
        ({"k": 14}, "k: expected at most d_sae = 13, got 14"),
    ],
)
def test_refused(options, says):
    with pytest.raises(InputError, match=says):
        archetypal.check_config(archetypal.Config(5, 13, **{"k": 2} | options))
