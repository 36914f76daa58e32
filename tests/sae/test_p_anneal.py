"""p-annealing: schedule, penalty and its λ by hand, and that a change of p does not show in the penalty."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisae
from minisae import losses
from minisae.errors import InputError
from minisae.recipe import Recipe
from minisae.runs import load_run, save_run
from minisae.sae import p_anneal, relu
from minisae.train import fit, now, start, step
from minisae.verify import check_gradients
from tests.helpers import ArraySource, perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case(
        {"l1": 0.3, "p_end": 0.6, "p_count": 3, "anneal_end": 3, "queue": 2, "at": 2}, {"sparsity_warmup": 3}
    ),
    "dictionary_learning": Case(
        {
            "l1": 0.1, "p_start": 0.9, "p_end": 0.5, "p_root": True, "p_count": 2, "anneal_start": 1, "anneal_end": 4,
            "at": 5,
        }
    ),
    "others": Case({"subtract_b_dec": False, "reduction": "mean", "decoder": "free", "p_start": 1.3, "at": 1}),
}  # fmt: skip


def rows(n=97, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 5))


def test_by_hand():
    """Two rows of codes 4, 0, 1 and 0, 9, 16; p goes 1, 0.75, 0.5."""
    f, y = np.array([[4.0, 0, 1], [0, 9, 16]]), np.zeros((2, 2))
    cfg = p_anneal.Config(2, 3, l1=0.5, p_end=0.5, p_count=3, anneal_end=10, queue=3)
    params = p_anneal.init(cfg, np.random.default_rng(0), dtype=np.float64)
    out = p_anneal.Out(y, f, f)
    for at, powers in ((0, [5, 25]), (5, [5, 25]), (6, [4**0.75 + 1, 9**0.75 + 8]), (11, [3, 7])):
        term = p_anneal.objective(params, out, y, cfg._replace(at=at))["lp"]
        np.testing.assert_allclose(term.value, 0.5 * np.mean(powers))
        np.testing.assert_allclose(p_anneal.row_penalty(params, f, cfg._replace(at=at)), 0.5 * np.array(powers))
    # ½ · ½ · p / f^(1−p): 4 and 9 and 16 have roots 2, 3 and 4
    np.testing.assert_allclose(term.slopes["f"], [[0.0625, 0, 0.125], [0, 0.125 / 3, 0.03125]])
    # the square of the sum of roots; its slope is 2 · sum · ½ / root
    term = p_anneal.objective(params, out, y, cfg._replace(at=11, p_root=True))["lp"]
    np.testing.assert_allclose(term.value, 0.5 * (9 + 49) / 2)
    np.testing.assert_allclose(term.slopes["f"], 0.25 * np.array([[1.5, 0, 3], [0, 7 / 3, 7 / 4]]))


def test_lambda_by_hand():
    """With a queue of 3, p 1 → ½ after step 10: λ times the mean of ‖f‖₁ over that of Σ√f in steps 8 to 10."""
    cfg = p_anneal.Config(2, 2, p_end=0.5, p_count=2, anneal_end=10, queue=3)
    params = p_anneal.init(cfg, np.random.default_rng(0), dtype=np.float64)
    for number, size in zip(range(13), (1e6,) * 8 + (1.0, 4.0, 16.0) + (1e6,) * 2, strict=True):
        f = np.array([[size, 0.0]])
        before = params["l1_scale"].copy()
        p_anneal.after_step(params, p_anneal.Out(f, f, f), cfg, step=number)
        assert (params["l1_scale"] != before).any() == (number == 10)
    np.testing.assert_allclose(params["l1_scale"], [(1 + 4 + 16) / (1 + 2 + 4)] * 2)


def test_nothing_active_leaves_lambda():
    cfg = p_anneal.Config(2, 3, p_end=0.5, p_count=2, anneal_end=2)
    params = p_anneal.init(cfg, np.random.default_rng(0))
    f = np.zeros((4, 3), np.float32)
    for number in range(4):
        p_anneal.after_step(params, p_anneal.Out(f, f, f), cfg, step=number)
    np.testing.assert_array_equal(params["l1_scale"], 1)
    for root in (False, True):
        at_zero = p_anneal.objective(params, p_anneal.Out(f, f, f), f, cfg._replace(at=3, p_root=root))["lp"]
        assert at_zero.value == 0
        assert not at_zero.slopes["f"].any()


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [0.3, 1.0, 2.0, 2.7])
def test_the_penalty_is_differentiable_where_it_is_not_zero(p, root, weighted):
    rng = np.random.default_rng(1)
    at = {"f": 0.2 + rng.random((7, 11)), "W_dec": rng.standard_normal((11, 5))}
    at["f"][:, 3] = 0

    def term(q):
        return losses.lp(q["f"], coefficient=0.7, p=p, root=root, W_dec=q["W_dec"] if weighted else None)

    found = term(at)
    own = {key: a for key, a in at.items() if weighted or key == "f"}
    fixed = {"f": at["f"][:, 3].copy()}

    def loss(q):
        code = q["f"].copy()
        code[:, 3] = fixed["f"]  # what is 0 is no part of it
        return float(term(at | q | {"f": code}).value)

    checks = check_gradients(loss, own, {"f": found.slopes["f"], **found.params})
    assert all(check.error < 1e-6 for check in checks), checks
    assert (found.slopes["f"][:, 3] == 0).all() or p == 1
    if p == 1:
        plain = losses.l1(at["f"], coefficient=0.7, W_dec=at["W_dec"] if weighted else None)
        np.testing.assert_allclose(found.value, plain.value, rtol=1e-13)


def test_the_penalty_goes_on_where_it_was():
    """Trained through two changes of p: the step after each has the penalty of the step before it, within a few %."""
    cfg = p_anneal.Config(5, 13, l1=0.05, p_end=0.4, p_count=3, anneal_start=20, anneal_end=60, queue=10)
    source = ArraySource(9 * rows(2003))
    run = start(
        source, "p_anneal", cfg, Recipe(steps=80, batch_size=199, lr=1e-4, lr_decay="constant", dtype="float64")
    )
    found, exponents = [], []
    for _, batch in zip(range(80), source.batches(199, seed=0), strict=False):
        exponents.append(p_anneal.exponent(now(run)[0], run.step))
        run, measures = step(run, batch)
        found.append(float(measures["lp"]))
    changes = np.flatnonzero(np.diff(exponents)) + 1
    np.testing.assert_array_equal(changes, [41, 61])
    np.testing.assert_allclose(np.array(exponents)[[0, 40, 41, 60, 61, 79]], [1, 1, 0.7, 0.7, 0.4, 0.4])
    for change in changes:
        before, after = np.mean(found[change - 10 : change]), np.mean(found[change : change + 5])
        assert after == pytest.approx(before, rel=0.05)
    assert run.params["l1_scale"][0] > 2  # without which the penalty would jump


def test_until_the_first_change_it_is_the_relu_variant():
    source, runs = ArraySource(rows().astype(np.float32)), []
    for name, own in (("p_anneal", {"anneal_start": 20}), ("relu", {})):
        cfg = {"relu": relu, "p_anneal": p_anneal}[name].Config(5, 13, l1=0.2, **own)
        runs.append(fit(start(source, name, cfg, Recipe(steps=21, batch_size=31)), source))
    for key, p in runs[1].params.items():
        np.testing.assert_allclose(runs[0].params[key], p, rtol=1e-5, atol=1e-6)


def test_resumed_within_the_queue_it_ends_the_same(tmp_path):
    """Stopped between two changes of p, where the queue is half full, and read back from the disk."""
    cfg = p_anneal.Config(5, 13, l1=0.2, p_end=0.5, p_count=4, anneal_start=3, anneal_end=24, queue=6)
    source = ArraySource(rows().astype(np.float32))
    whole = fit(start(source, "p_anneal", cfg, Recipe(steps=30, batch_size=31)), source)
    first = fit(
        start(source, "p_anneal", cfg, Recipe(steps=30, batch_size=31)),
        source,
        stop=iter([False] * 14 + [True]).__next__,
    )
    assert first.step == 14
    assert first.params["recent"].any()
    save_run(first, tmp_path, source={})
    again = fit(load_run(tmp_path)[0], source)
    for key, p in whole.params.items():
        np.testing.assert_array_equal(again.params[key], p, err_msg=key)


def test_perturbed_state_stays_finite():
    rng = np.random.default_rng(4)
    cfg = p_anneal.Config(5, 13, **CASES["paper"].options)
    params = perturbed(p_anneal, cfg, rng)
    for number in range(5):
        p_anneal.after_step(params, p_anneal.forward(params, rows(), cfg)[0], cfg, step=number)
    assert np.isfinite(params["l1_scale"]).all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"p_count": 1}, "p_count: expected a whole number of at least 2, got 1"),
        ({"p_end": 0, "p_root": True}, "p_root: expected p_start and p_end above 0 for a p-th root, got 0"),
        ({"anneal_start": 7, "anneal_end": 7}, "anneal_end: expected above anneal_start = 7, got 7"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        p_anneal.check_config(p_anneal.Config(5, 11)._replace(**change))
    assert str(caught.value) == line


@given(st.integers(0, 20), st.integers(1, 40), st.integers(2, 60))
def test_where_p_changes(begin, span, count):
    """What the divisions find is what a list of all changes says."""
    cfg = p_anneal.Config(5, 11, anneal_start=begin, anneal_end=begin + span, p_count=count)
    changes = [begin + span * i // (count - 1) for i in range(count)]
    for number in range(begin + span + 3):
        passed = max(0, sum(change < number for change in changes) - 1)
        assert p_anneal.exponent(cfg, number) == cfg.p_start + (cfg.p_end - cfg.p_start) * passed / (count - 1)
        assert p_anneal._next_change(cfg, number) == min((c for c in changes[1:] if c >= number), default=None)


def test_many_values_of_p_cost_nothing():
    own = {"p_count": 10**9, "log_every": 1}
    sae = minisae.train(rows().astype(np.float32), variant="p_anneal", d_sae=11, steps=5, batch_size=31, options=own)
    assert np.isfinite(sae.params["l1_scale"]).all()


def test_what_training_sets_is_not_to_be_asked_for(tmp_path):
    x, asked = rows().astype(np.float32), {"variant": "p_anneal", "d_sae": 11, "steps": 5, "batch_size": 31}
    with pytest.raises(InputError, match=r"^at: training sets it, expected it left out, got 5$"):
        minisae.train(x, **asked, options={"at": 5})
    whole = minisae.train(x, **asked, options={"at": 0})
    stop = iter([False] * 3 + [True])
    minisae.train(x, **asked, out=tmp_path / "run", stop=lambda: next(stop))
    again = minisae.train(x, **asked, out=tmp_path / "run", resume=True)
    assert minisae.load(tmp_path / "run").cfg == again.cfg == whole.cfg
    np.testing.assert_array_equal(again.params["W_dec"], whole.params["W_dec"])


def test_an_annealing_behind_the_end_is_one_line():
    with pytest.raises(InputError, match=r"^anneal_start: expected below the run's 30 steps, got 30$"):
        p_anneal.at_step(p_anneal.Config(5, 11, anneal_start=30), step=0, steps=30, seed=0)


def test_the_example_runs():
    for module in (p_anneal, relu):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
