"""Ten steps of each preset beside ten steps of the real library's own trainer, in float64.

    pytest -m peers -s tests/peers/test_trajectories.py

prints the worst difference of each quantity at the end. Without the libraries the tests are skipped.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from minisae import dead
from minisae.presets import PRESETS, Sizes, options
from minisae.runs import job
from minisae.sae import relu
from tests.helpers import ArraySource
from tests.peers import drivers

t = importlib.import_module("minisae.train")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
D_IN, D_SAE, ROWS, STEPS = 7, 23, 31, 16
AT = (1, 3, 10)
EXACT, CAST = 1e-12, 1e-7
"""Largest difference, over the value where that is above 1.

The second where the library casts to float32 inside, or divides by a sum + 1e-8.
"""
SCHEDULE = {
    "lr": 1e-2, "lr_warmup": 4, "lr_decay": "linear", "lr_decay_start": drivers.DECAY_START / STEPS,
}  # fmt: skip
AGAIN = 1e-9
"""The same where the library normalises the dictionary with ε = 1e-8 between two uses of it in one step."""
worst: dict[str, dict[str, float]] = {}


class Case(NamedTuple):
    """How one preset meets its library."""

    library: str
    """Module to import."""
    peer: Callable[[Any], drivers.Peer]
    """The library's trainer for a run of ours."""
    options: dict[str, Any] = {}  # noqa: RUF012
    """Beside the preset and the schedule."""
    tolerance: float = EXACT


def saelens(kind, own, *, window=1000, **more):
    """A case of SAELens; ``own`` are options of its config."""
    return Case("sae_lens", lambda run: drivers.saelens(kind, run, own, window=window), **more)


def dl(module, name, own, *, dead_after=None, decay_start=drivers.DECAY_START, **more):
    """A case of dictionary_learning; ``own`` are arguments of its trainer."""

    def peer(run):
        own_and_decay = {**own, "decay_start": decay_start}
        return drivers.dictionary_learning((module, name), run, own_and_decay, dead_after=dead_after)

    return Case("dictionary_learning", peer, **more)


DEAD = {"dead_after": 2 * ROWS}


def sp(own, *, auxk=0.5, optimiser="adam", options=None, **more):
    """A case of sparsify; ``own`` are options of its coder."""

    def peer(run):
        return drivers.sparsify(run, own, auxk_alpha=auxk, dead_after=2 * ROWS - 1, optimiser=optimiser)

    own_schedule = {"lr_warmup_begins": "zero", "lr_decay_start": 4 / STEPS}
    if optimiser == "signum":
        own_schedule = {"lr_warmup": 0, "lr_decay": "constant", "lr": 1e-3}
    return Case("sparsify", peer, {"k": 3, "auxk": auxk, **DEAD, **own_schedule, **(options or {})}, **more)


def oc(kind, own, criterion, penalty, **more):
    """A case of overcomplete."""

    def peer(run, **switches):
        return drivers.overcomplete(kind, run, own, criterion=criterion, penalty=penalty, **switches)

    return Case("overcomplete", peer, **more)


L1 = {"l1": 0.3, "sparsity_warmup": 3}
JUMP = {"l0_coefficient": 0.3, "l0_warm_up_steps": 3, "jumprelu_bandwidth": 0.3}
OUR_JUMP = {"l1": 0.3, "sparsity_warmup": 3, "bandwidth": 0.3}
CASES = {
    "saelens-6.54/relu": saelens("Standard", {"l1_coefficient": 0.3, "l1_warm_up_steps": 3}, options=L1),
    "saelens-6.54/topk": saelens(
        "TopK", {"k": 3}, window=1, options={"k": 3, **DEAD}
    ),
    "saelens-6.54/batch_topk": saelens(
        "BatchTopK", {"k": 2.5, "topk_threshold_lr": 0.1}, window=1,
        options={"k": 2.5, "threshold_decay": 0.9, **DEAD},
    ),
    "saelens-6.54/abs_topk": saelens("AbsTopK", {"k": 3}, window=1, options={"k": 3, **DEAD}),
    "saelens-6.54/matryoshka": saelens(
        "MatryoshkaBatchTopK", {"k": 2.5, "matryoshka_widths": [5, 11, D_SAE], "topk_threshold_lr": 0.1}, window=1,
        options={"k": 2.5, "prefixes": (5, 11), "threshold_decay": 0.9, **DEAD},
    ),
    "saelens-6.54/matching_pursuit": saelens(
        "MatchingPursuit", {"max_iterations": 9, "residual_threshold": 0.5}, options={"k": 9, "residual_threshold": 0.5}
    ),
    "saelens-6.54/jumprelu": saelens("JumpReLU", JUMP, options=OUR_JUMP, tolerance=CAST),
    "saelens-6.54/jumprelu-tanh": saelens(
        "JumpReLU",
        {**JUMP, "jumprelu_sparsity_loss_mode": "tanh", "jumprelu_ste_to_input": True, "pre_act_loss_coefficient": 0.1},
        window=1, options={**OUR_JUMP, **DEAD, "pre_act": 0.1}, tolerance=CAST,
    ),
    "saelens-6.54/jumprelu-quadratic": saelens(
        "JumpReLU", {**JUMP, "jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 5.0}, tolerance=CAST,
        options={**OUR_JUMP, "target": 5.0, "l1": 2 * 5.0 * 0.3},
    ),
    "dictionary_learning-2025-08/jumprelu": dl(
        "jumprelu", "JumpReluTrainer",
        {"bandwidth": 0.6, "sparsity_penalty": 0.3, "target_l0": 5.0, "sparsity_warmup_steps": 3},
        options={"l1": 0.3, "sparsity_warmup": 3, "target": 5.0, "bandwidth": 0.6}, tolerance=CAST,
    ),
    "saelens-6.54/gated": saelens("Gated", {"l1_coefficient": 0.3, "l1_warm_up_steps": 3}, options=L1),
    "dictionary_learning-2025-08/relu": dl(
        "standard", "StandardTrainer", {"l1_penalty": 0.3, "sparsity_warmup_steps": 3}, options=L1
    ),
    "dictionary_learning-2025-08/relu-april": dl(
        "standard", "StandardTrainerAprilUpdate", {"l1_penalty": 0.3, "sparsity_warmup_steps": 3}, options=L1
    ),
    "dictionary_learning-2025-08/gated": dl(
        "gdm", "GatedSAETrainer", {"l1_penalty": 0.3, "sparsity_warmup_steps": 3}, options=L1
    ),
    "dictionary_learning-2025-08/p_anneal": dl(
        "p_anneal", "PAnnealTrainer",
        {
            "initial_sparsity_penalty": 0.3, "sparsity_warmup_steps": 3, "anneal_start": 3, "anneal_end": 9,
            "p_end": 0.2, "n_sparsity_updates": 4,
        },
        options={**L1, "anneal_start": 3, "anneal_end": 9, "p_count": 4}, tolerance=CAST,
    ),
    "dictionary_learning-2025-08/topk": dl(
        "top_k", "TopKTrainer", {"k": 3}, dead_after=2 * ROWS, options={"k": 3, **DEAD}, tolerance=CAST
    ),
    "dictionary_learning-2025-08/batch_topk": dl(
        "batch_top_k", "BatchTopKTrainer", {"k": 3, "threshold_start_step": 2, "threshold_beta": 0.9},
        dead_after=2 * ROWS, options={"k": 3, "threshold_start": 3, "threshold_decay": 0.9, **DEAD}, tolerance=CAST,
    ),
    "dictionary_learning-2025-08/matryoshka": dl(
        "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer",
        {"k": 3, "group_fractions": [w / D_SAE for w in (5, 6, 12)], "threshold_start_step": 2, "threshold_beta": 0.9},
        dead_after=2 * ROWS, tolerance=CAST,
        options={
            "k": 3, "threshold_start": 3, "threshold_decay": 0.9, "prefixes": (5, 11), "level_weights": (1 / 3,) * 3,
            **DEAD,
        },
    ),
    "sparsify-1.3.3/topk": sp({}),
    "sparsify-1.3.3/topk-signum": sp({}, optimiser="signum"),
    "sparsify-1.3.3/multi_topk": sp({"multi_topk": True}, options={"k": 1}),
    "sparsify-1.3.3/group_max": sp({"activation": "groupmax"}, options={"k": 1}),
    "sparsify-1.3.3/transcoder": sp({"transcode": True}),
    "sparsify-1.3.3/skip_transcoder": sp({"transcode": True, "skip_connection": True}),
    "overcomplete-0.3/relu": oc("SAE", {}, "mse_l1", 1e-4, options={"l1": 1e-4}),
    "overcomplete-0.3/topk": oc(
        "TopKSAE", {"top_k": 3}, "top_k_auxiliary_loss", 0.1, options={"k": 3}, tolerance=AGAIN
    ),
    "overcomplete-0.3/batch_topk": oc(
        "BatchTopKSAE", {"top_k": 70}, "top_k_auxiliary_loss", 0.1, tolerance=AGAIN,
        options={"k": 70, "k_aux": D_SAE // 2},
    ),
    "overcomplete-0.3/archetypal": oc("RATopKSAE", {"top_k": 3}, "mse_l1", 0.0, options={"k": 3}, tolerance=CAST),
    "overcomplete-0.3/jumprelu": oc(
        "JumpSAE", {"bandwidth": 0.5}, "mse_l1", 1e-4, options={"l1": 1e-4, "bandwidth": 0.5}, tolerance=CAST
    ),
    "overcomplete-0.3/matching_pursuit": oc("MpSAE", {"k": 4}, "mse_l1", 0.0, options={"k": 4}, tolerance=AGAIN),
}  # fmt: skip


def started(name, case):
    """A run of the preset at step 0, with parameters away from every special value and some latents that never fire."""
    rng = np.random.default_rng(5)
    preset = PRESETS[name]
    widths = (D_IN, D_IN) if "transcoder" in preset.variant else (D_IN,)
    data = 2 * rng.standard_normal((STEPS, ROWS, sum(widths))) + 0.5
    chosen = {**options(name, Sizes(D_IN, D_SAE, STEPS, ROWS, "float64")), **SCHEDULE, **case.options}
    todo = job(widths, variant=preset.variant, d_sae=D_SAE, options={**chosen, "steps": STEPS, "dtype": "float64"})
    run = t.start(ArraySource(data.reshape(-1, sum(widths))), preset.variant, todo.cfg, todo.recipe)
    for key, p in run.params.items():
        if key not in run.adam.m:
            continue
        if key == "threshold":
            high = np.where(np.arange(len(p)) % 2, 0.5, 0.02)  # some fall below 0 in ten steps
            p += (rng.uniform(0, 1, p.shape) * high).astype(np.float32)  # in float32 some libraries keep it
        elif key != "b_dec" or run.recipe.train_b_dec:
            p += 0.1 * rng.standard_normal(p.shape)
    if "A" in run.params:  # as a step leaves it
        A = np.maximum(run.params["A"], 0)
        run.params["A"][...] = A / A.sum(axis=1, keepdims=True)
    seldom = [2, 19]  # fewer than AuxK takes
    if hasattr(run.cfg, "k") and "W_enc" in run.params:  # small, but above 0: never chosen until AuxK has trained them
        run.params["W_enc"][:, seldom] *= 0.02
        run.params["b_enc"][seldom] = 0.02
    elif "b_enc" in run.params:
        run.params["b_enc"][seldom] -= 40
    return run, data


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print the worst differences when all is done."""
    yield
    if worst and request.config.getoption("capture") == "no":
        print(f"\n\n{'preset':<44} {'quantity':<12} {'worst after 1, 3, 10 steps':>28}")
        for name, found in worst.items():
            for key, value in found.items():
                print(f"{name:<44} {key:<12} {value:>28.1e}")


def ten_steps(name, case, found):
    """Train ours and theirs side by side; ``found`` gets the worst difference of each quantity."""
    if importlib.util.find_spec(case.library) is None:
        pytest.skip(f"{case.library} is not installed (extra peers)")
    run, data = started(name, case)
    peer = case.peer(run)
    run.params.update(peer.first(data[0]))
    peer.load(run.params)
    before = {key: p.copy() for key, p in run.params.items()}
    terms: dict[str, float] = {}
    for step in range(max(AT)):
        run, measures = t.step(run, data[step])
        terms |= {key: max(abs(float(value)), terms.get(key, 0)) for key, value in measures.items()}
        peer.step(step, data[step].copy())
        if step + 1 in AT:
            theirs = peer.state() | peer.read()
            for key in theirs.keys() & run.params:
                apart = np.abs(theirs[key] - run.params[key]) / np.maximum(np.abs(theirs[key]), 1)
                found[key] = max(found.get(key, 0.0), float(apart.max()))
    assert peer.parameters.keys() >= {key for key in run.adam.m if key != "b_dec" or run.recipe.train_b_dec}
    assert all(terms.values()), terms  # each term of the loss took part
    for key in found:
        assert np.abs(run.params[key] - before[key]).max() > 1e-3, key
    assert max(found.values()) < case.tolerance, found


@pytest.mark.parametrize("name", CASES)
def test_ten_steps(name):
    ten_steps(name, CASES[name], worst.setdefault(name, {}))


@pytest.mark.parametrize("kind", ["topk", "batch_topk", "matching_pursuit", "archetypal"])
def test_epsilon_is_all_that_is_between_us_and_overcomplete(kind):
    """It divides rows by norm + 1e-8 (archetypal: sum + 1e-8) several times a step; with 0 there, rounding is left."""
    name = f"overcomplete-0.3/{kind}"
    case = CASES[name]
    options = case.options | ({} if kind == "archetypal" else {"normalise_eps": 0.0})
    peer = case.peer
    case = case._replace(peer=lambda run: peer(run, epsilon=False), options=options, tolerance=EXACT)
    ten_steps(name, case, worst.setdefault(f"{name}, without ε", {}))


class Greedy:
    """Draws the most probable entries, so that two libraries draw the same."""

    @staticmethod
    def choice(n, size, *, replace, p):
        assert not replace
        return np.argsort(-p, kind="stable")[:size]


def test_resampling_of_dictionary_learning(monkeypatch):
    """With resampling after steps 0, 4 and 8, the rate rising anew each time, and the same rows drawn."""
    case = dl(
        "standard", "StandardTrainer", {"l1_penalty": 0.3, "sparsity_warmup_steps": 3, "resample_steps": 4},
        decay_start=None,
        options={
            **L1, "lr_warmup": 2, "lr_decay": "constant", "resample": "dictionary_learning", "resample_every": 4,
            "lr_warmup_again": True,
        },
    )  # fmt: skip
    if importlib.util.find_spec(case.library) is None:
        pytest.skip(f"{case.library} is not installed (extra peers)")
    torch = importlib.import_module("torch")

    def multinomial(weights, *, num_samples, replacement):
        p = weights.detach().numpy()
        return torch.as_tensor(Greedy.choice(len(p), int(num_samples), replace=replacement, p=p / p.sum()).copy())

    monkeypatch.setattr(torch, "multinomial", multinomial)
    run, data = started("dictionary_learning-2025-08/relu", case)
    peer, count = case.peer(run), 0
    peer.load(run.params)
    for step in range(max(AT)):
        run, _ = t.step(run, data[step])
        if step % 4 == 0:  # maybe_resample takes other rows than those of the step
            idle = run.idle > 2 * ROWS
            x = data[step]
            count += dead.resample(
                "dictionary_learning", relu, run.params, run.adam, run.cfg, idle, lambda x=x: [x], Greedy
            )
        peer.step(step, data[step].copy())
        theirs = peer.read()
        for key, p in theirs.items():
            np.testing.assert_allclose(run.params[key], p, rtol=0, atol=EXACT)
    assert count
