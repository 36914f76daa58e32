"""Matryoshka by hand: nested reconstructions, levels, drawn prefixes, AuxK of each level, a prefix alone."""

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minisae
from minisae.errors import InputError
from minisae.ops import decode, dense
from minisae.sae import matryoshka, split
from tests.helpers import perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case({"k": 1.8, "k_aux": 2, "auxk": 0.3}, {"k_start": 11, "k_anneal": 4}),
    "saelens": Case(
        {"k": 2.6, "k_aux": 7, "auxk": 0.7, "auxk_relu": False, "auxk_few": "proportional", "decoder": "free",
         "k_rounding": "down", "threshold_rule": "from_zero", "prefixes": (2, 5, 7), "auxk_levels": "each"}
    ),
    "by contribution": Case(
        {"k": 1.7, "auxk": 0.4, "prefixes": (4,), "select_by": "contribution", "auxk_reach": "everything",
         "auxk_levels": "each", "decoder": "free"}
    ),
    "dictionary_learning": Case(
        {"k": 3, "k_aux": 5, "auxk_normaliser": "residual_variance", "threshold_rule": "from_first",
         "threshold_decay": 0.9, "threshold_start": 2, "prefixes": (3, 8), "levels": "mean",
         "level_weights": (0.5, 0.2, 0.3)}
    ),
    "drawn": Case(
        {"k": 2, "auxk": 0.2, "auxk_reach": "decoder", "auxk_normaliser": "input_variance", "n_prefixes": 4,
         "least_prefix": 2, "prefix_power": 0.7, "subtract_b_dec": False, "reduction": "mean"}
    ),
}  # fmt: skip


def held_fixed(module, at, rows, cfg, dead):
    """AuxK explains residuals that are held fixed (unless it reaches everything), with codes that may be, too."""
    x, y = split(module, rows, cfg)
    first, cache = module.forward(at, x, cfg, dead=dead)

    def aux_of(params):
        if cfg.auxk_levels == "last":
            return decode(dense(cache.main.f_aux), params["W_dec"])
        levels = [dense(f) @ params["W_dec"][..., : f.shape[-1], :] for f in cache.f_aux]
        return np.stack(levels, axis=-3)

    def values(params, seen):
        out = module.forward(params, seen, cfg, dead=dead)[0]
        if out.aux is not None and cfg.auxk_reach == "decoder":
            out = out._replace(aux=aux_of(params))
        terms = module.objective(params, out, y, cfg, dead=dead)
        if out.aux is not None and cfg.auxk_reach != "everything":
            held = out._replace(x_hat=first.x_hat, nested=first.nested)
            terms["auxk"] = module.objective(params, held, y, cfg, dead=dead)["auxk"]
        return out, terms

    return values


def saelens_code(fields, arrays, pre):
    return np.maximum(pre, 0) * (pre > arrays["threshold"])


def saelens_metadata(cfg):
    details = {"k": cfg.k, "matryoshka_widths": list(matryoshka.widths(cfg))}
    return {"training_architecture": "matryoshka_batchtopk", "training_architecture_details": details}


def identity_params():
    return {
        "W_enc": np.eye(4, order="F"), "b_enc": np.zeros(4), "W_dec": np.eye(4), "b_dec": np.zeros(4),
        "threshold": np.full(4, -1.0),
    }  # fmt: skip


X = np.array([[3.0, 1.0, 2.0, 0.5], [-1.0, -2.0, 4.0, -3.0]])


def test_by_hand():
    """With identity weights the code is the input: 3, 2, 1 and 4 are kept, and a prefix sees its own columns of it."""
    cfg = matryoshka.Config(4, 4, k=2, prefixes=(1, 3), auxk=0.5)
    out, _ = matryoshka.forward(identity_params(), X, cfg)
    np.testing.assert_array_equal(dense(out.f), [[3, 1, 2, 0], [0, 0, 4, 0]])
    np.testing.assert_array_equal(out.nested, [[[3, 0, 0, 0], [0, 0, 0, 0]], [[3, 1, 2, 0], [0, 0, 4, 0]]])
    terms = matryoshka.objective(identity_params(), out, X, cfg)
    # rows' errors: level 1 (1 + 4 + .25, 1 + 4 + 16 + 9), level 2 and the last (.25, 1 + 4 + 9)
    np.testing.assert_allclose(terms["mse"].value, (0.25 + 14) / 2)
    np.testing.assert_allclose(terms["nested"].value, (5.25 + 30 + 0.25 + 14) / 2)
    averaged = matryoshka.objective(identity_params(), out, X, cfg._replace(levels="mean", level_weights=(4, 2, 1)))
    np.testing.assert_allclose(averaged["mse"].value, (0.25 + 14) / 2 / 3)
    np.testing.assert_allclose(averaged["nested"].value, (4 * (5.25 + 30) + 2 * (0.25 + 14)) / 2 / 3)


def test_auxk_of_each_level_by_hand():
    """Dead are the first and the last: the first answers for the first level's residual, the last for the last's."""
    cfg = matryoshka.Config(4, 4, k=2, prefixes=(1, 3), auxk=0.5, auxk_levels="each", k_aux=1, auxk_relu=False)
    dead = np.array([True, False, False, True])
    out, _ = matryoshka.forward(identity_params(), X, cfg, dead=dead)
    np.testing.assert_array_equal(out.aux[:, :, 1:3], 0)
    np.testing.assert_array_equal(out.aux[:, :, 0], [[3, -1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(out.aux[:, :, 3], [[0, 0], [0, 0], [0.5, -3]])
    term = matryoshka.objective(identity_params(), out, X, cfg, dead=dead)["auxk"]
    # misses: level 1 (3,−1,−2,−.5) and (0,2,−4,3); level 2 has no dead latent; level 3 zero, and (1, 2, 0, 0)
    np.testing.assert_allclose(term.value, 0.5 * ((9 + 1 + 4 + 0.25 + 0 + 4 + 16 + 9) + (1 + 4)) / 2)


@given(st.integers(1, 300))
def test_prefixes_where_none_are_given(d_sae):
    found = matryoshka.widths(matryoshka.Config(5, d_sae, k=1))
    assert list(found) == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] == d_sae
    assert len(found) <= 5


def test_the_papers_prefixes():
    assert matryoshka.widths(matryoshka.Config(2304, 65536)) == (2048, 6144, 14336, 30720, 65536)


@given(st.integers(2, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99), st.sampled_from((0.3, 1.0, 2.0)))
def test_drawn_prefixes_are_nested(d_sae, n_prefixes, least, seed, power):
    assume(n_prefixes <= 1 + d_sae - least)
    options = {"n_prefixes": n_prefixes, "least_prefix": least, "prefix_power": power}
    cfg = matryoshka.Config(5, d_sae, k=1, **options)
    matryoshka.check_config(cfg)
    now = matryoshka.at_step(cfg, step=3, steps=9, seed=seed)
    assert now == matryoshka.at_step(cfg, step=3, steps=100, seed=seed)
    found = matryoshka.widths(now)
    assert found == now.prefixes
    assert len(set(found)) == n_prefixes
    assert least <= found[0] <= found[-1] == d_sae


def test_distribution_of_drawn_prefixes():
    """One prefix beside d_sae: P(least + i) = √((i + 1)/n) − √(i/n), as in the source."""
    cfg = matryoshka.Config(5, 9, k=1, n_prefixes=2, least_prefix=3)
    found = [matryoshka.at_step(cfg, step=step, steps=1, seed=1).prefixes[0] for step in range(2000)]
    shares = np.bincount(found, minlength=9)[3:] / 2000
    np.testing.assert_allclose(shares, np.diff(np.sqrt(np.arange(7) / 6)), atol=0.03)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *(({"prefixes": no}, f"prefixes: expected a list of numbers, got {no}") for no in (12, None, 2.5, True, {})),
        ({"level_weights": {}}, "level_weights: expected a list of numbers, got {}"),
        ({"prefixes": (3, 3)}, "prefixes: expected widths that rise, got 3, 3"),
        ({"prefixes": (0, 3)}, "prefixes: expected a whole number of at least 1 and at most 13, got 0"),
        ({"prefixes": (14,)}, "prefixes: expected a whole number of at least 1 and at most 13, got 14"),
        ({"prefixes": (3,), "n_prefixes": 2}, "n_prefixes: expected 0 beside prefixes"),
        ({"n_prefixes": 5, "least_prefix": 10}, "n_prefixes: expected no more than there are widths to draw, got 5"),
        ({"prefix_power": 0}, "prefix_power: expected a number above 0, got 0"),
        ({"prefixes": (3,), "level_weights": (1, 1, 1)}, "level_weights: expected one for each of 2 prefixes"),
        ({"levels": "each"}, "levels: expected one of sum, mean, got 'each'"),
    ],
)
def test_refused(options, says):
    with pytest.raises(InputError, match=re.escape(says)):
        matryoshka.check_config(matryoshka.Config(5, 13, k=2, **options))


@pytest.mark.parametrize("select_by", ["pre", "contribution"])
def test_a_prefix_alone(select_by):
    rng = np.random.default_rng(4)
    cfg = matryoshka.Config(5, 13, k=6, prefixes=(2, 7), level_weights=(0.2, 0.3, 0.5), select_by=select_by)
    params, x = perturbed(matryoshka, cfg, rng), rng.standard_normal((17, 5))
    params["threshold"][...] = 0.2
    small, its = matryoshka.prefix(params, cfg, 5)
    matryoshka.check_config(its)
    assert (its.d_sae, its.k, its.prefixes, its.level_weights) == (5, 5, (2, 5), (0.2, 0.3))
    np.testing.assert_array_equal(
        dense(matryoshka.encode(small, x, its)), dense(matryoshka.encode(params, x, cfg))[:, :5]
    )
    whole = matryoshka.prefix(params, cfg, 13)
    np.testing.assert_array_equal(whole[0]["W_dec"], params["W_dec"])
    assert whole[1] == cfg._replace(prefixes=(2, 7, 13))
    with pytest.raises(InputError, match="width: expected a whole number of at least 1 and at most 13, got 14"):
        matryoshka.prefix(params, cfg, 14)


def test_the_threshold_by_contribution_is_the_folded_ones():
    """Folding the decoder norms into the encoder changes neither what is above the threshold nor the reconstruction."""
    rng = np.random.default_rng(6)
    cfg = matryoshka.Config(5, 13, k=2, select_by="contribution", decoder="free")
    params, x = perturbed(matryoshka, cfg, rng), rng.standard_normal((17, 5))
    params["threshold"][...] = 0.5
    folded, its = matryoshka.folded(params, cfg)
    f, folded_f = dense(matryoshka.encode(params, x, cfg)), dense(matryoshka.encode(folded, x, its))
    np.testing.assert_array_equal(f != 0, folded_f != 0)
    assert 0 < np.count_nonzero(f) < f.size / 2
    np.testing.assert_allclose(matryoshka.decode(params, f), matryoshka.decode(folded, folded_f), rtol=1e-12)


def test_a_run_with_drawn_prefixes_resumes(tmp_path):
    """The prefixes come from the seed and the step: a run that was stopped ends like one that was not."""
    x = np.random.default_rng(8).standard_normal((97, 5)).astype(np.float32)
    own = {"n_prefixes": 3, "save_every": 2, "log_every": 1, "input_scale": "mean_norm"}
    options = {"variant": "matryoshka", "d_sae": 13, "k": 2, "steps": 9, "batch_size": 31, "options": own}
    whole = minisae.train(x, **options)

    def stop(run, record):
        if run.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minisae.train(x, **options, out=tmp_path / "run", hooks=[stop])
    again = minisae.train(x, **options, out=tmp_path / "run", resume=True)
    for key, p in whole.params.items():
        np.testing.assert_array_equal(again.params[key], p)
    assert again.cfg == whole.cfg == minisae.load(tmp_path / "run").cfg
    assert whole.cfg.prefixes == ()
