"""Deviations in the training step: optimiser, order, schedules.

Letters: n rows, d_in, d_sae.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.optim import AdamState, clip_by_global_norm
from minisae.train import Run, now, update
from minisae.verify.cases import Case
from minisae.verify.detective.way import Arrays, Deviation

Stepper = Callable[[Run, Arrays, float], AdamState]
"""What takes an optimiser's step in place, from a run, gradients and a rate."""
EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 6.25e-10, 1e-12)


def deviations(case: Case) -> Iterator[Deviation]:
    """Yield those that make sense for a case."""
    yield from _recipes(case)
    yield from _schedules(case)
    yield from _updates(case)


def _recipes(case: Case) -> Iterator[Deviation]:
    r = case.recipe

    def other(name: str, says: str, slot: str, options: dict[str, Any]) -> Iterator[Deviation]:
        if any(getattr(r, key) != value for key, value in options.items()):
            yield Deviation(name, says, slot, recipe=lambda recipe: recipe._replace(**options))

    for eps in EPSILONS:
        yield from other(f"eps={eps:g}", f"your Adam has ε = {eps:g}", "eps", {"eps": eps})
    yield from other("betas swapped", "your Adam has its two β swapped", "betas", {"beta1": r.beta2, "beta2": r.beta1})
    for beta in (0.0, 0.5, 0.95, 0.9):
        yield from other(f"beta1={beta:g}", f"your Adam has β₁ = {beta:g}", "betas", {"beta1": beta})
    for beta in (0.9, 0.95, 0.98, 0.99, 0.999):
        yield from other(f"beta2={beta:g}", f"your Adam has β₂ = {beta:g}", "beta2", {"beta2": beta})
    yield from other("no clipping", "you do not clip the gradients", "clip", {"clip": 0.0})
    yield from other("clip=1", "you clip the gradients to a joint norm of 1", "clip", {"clip": 1.0})
    if case.cfg.decoder == "unit":
        for part, says in (
            ("project", "you do not project the gradient of the decoder"),
            ("normalise", "you do not renormalise the decoder after the step"),
        ):
            left = "-".join(word for word in r.order.split("-") if word != part)
            yield from other(f"no {part}", says, "order", {"order": left})
        for eps in (1e-6, 1e-8):
            for key, what in (("project_eps", "projection"), ("normalise_eps", "renormalisation")):
                yield from other(f"{key}={eps:g}", f"your {what} adds {eps:g} to the norms of rows", key, {key: eps})
    yield from other("no lr warm-up", "your learning rate has no warm-up", "lr_warmup", {"lr_warmup": 0})
    for by in (-1, 1):
        steps = r.lr_warmup + by
        if r.lr_warmup and steps > 1:
            yield from other(f"lr_warmup={steps}", f"your learning rate warms up over {steps} steps, not {r.lr_warmup}",
                             "lr_warmup", {"lr_warmup": steps})  # fmt: skip
    yield from other("no λ warm-up", "your λ has no warm-up", "sparsity_warmup", {"sparsity_warmup": 0})
    yield from other("no k annealing", "your k is not annealed", "k_anneal", {"k_start": 0, "k_anneal": 0})


def _schedules(case: Case) -> Iterator[Deviation]:
    Now = tuple[Any, float, float]

    def at(name: str, says: str, slot: str, how: Callable[[Run, Now], Now]) -> Deviation:
        return Deviation(name, says, slot, schedule=how)

    yield at("first lr 0", "your first step has a learning rate of 0", "lr schedule",
             lambda run, when: (when[0], when[1] * (run.step > 0), when[2]))  # fmt: skip
    yield at("lr a step late", "your learning rate is that of the step before", "lr schedule",
             lambda run, when: (when[0], _moved(run, -1)[1] if run.step else 0.0, when[2]))  # fmt: skip
    yield at("lr a step early", "your learning rate is that of the step after", "lr schedule",
             lambda run, when: (when[0], _moved(run, 1)[1], when[2]))  # fmt: skip
    if case.recipe.sparsity_warmup:
        yield at("λ a step late", "your λ is that of the step before", "λ schedule",
                 lambda run, when: (*when[:2], _moved(run, -1)[2] if run.step else 0.0))  # fmt: skip
        yield at("λ a step early", "your λ is that of the step after", "λ schedule",
                 lambda run, when: (*when[:2], _moved(run, 1)[2]))  # fmt: skip


def _moved(run: Run, by: int) -> tuple[Any, float, float]:
    return now(run._replace(step=run.step + by))


def _updates(case: Case) -> Iterator[Deviation]:
    if case.recipe.optimiser != "adam":
        return
    for name, says, how in (
        ("eps in root", "your Adam has ε inside the square root", _adam(inside=True)),
        ("no bias correction", "your Adam has no bias correction", _adam(first=False, second=False)),
        ("no correction of m", "your Adam does not correct the bias of its first moment", _adam(first=False)),
        ("no correction of v", "your Adam does not correct the bias of its second moment", _adam(second=False)),
        ("sgd", "your step is plain gradient descent, not Adam", _sgd),
        ("sign", "your step takes the sign of the gradient", _sign),
    ):
        yield Deviation(name, says, "optimiser", update=_ordered(how))
    for decay in (0.01, 0.001, 0.1):
        yield Deviation(
            f"weight decay {decay:g}", f"your optimiser decays weights by {decay:g} a step (AdamW)", "optimiser",
            update=_ordered(_decayed(decay)),
        )  # fmt: skip
        yield Deviation(
            f"L2 {decay:g}", f"your optimiser adds {decay:g} times the weights to their gradients (L2)", "optimiser",
            update=_ordered(_with_l2(decay)),
        )  # fmt: skip
    yield Deviation(
        "clipped one by one", "you clip each parameter's gradient by itself, not all together", "clip",
        update=_clipped_alone,
    )  # fmt: skip


def _ordered(take: Stepper) -> Stepper:
    """Return the update with another optimiser: what comes before and after it is as in the recipe."""

    def whole(run: Run, grads: Arrays, lr: float) -> AdamState:
        before, _, after = run.recipe.order.partition("step")
        unit = run.cfg.decoder == "unit"
        part = run._replace(recipe=run.recipe._replace(order=before.rstrip("-")))
        update(part, grads, lr, unit=unit)
        trained = {name: g for name, g in grads.items() if run.recipe.train_b_dec or name != "b_dec"}
        adam = take(run, trained, lr)
        update(run._replace(recipe=run.recipe._replace(order=after.lstrip("-"))), grads, lr, unit=unit)
        return adam

    return whole


def _adam(*, inside: bool = False, first: bool = True, second: bool = True) -> Stepper:
    """Return Adam with ε in the root, or with a correction missing, by the textbook."""

    def take(run: Run, grads: Arrays, lr: float) -> AdamState:
        r, state = run.recipe, run.adam
        t = state.t + 1
        for name, g in grads.items():
            m, v = state.m[name], state.v[name]
            m[...] = r.beta1 * m + (1 - r.beta1) * g
            v[...] = r.beta2 * v + (1 - r.beta2) * g * g
            m_hat = m / (1 - r.beta1**t if first else 1)  # (...,), the parameter's own shape
            v_hat = v / (1 - r.beta2**t if second else 1)  # (...,)
            late = r.eps if r.eps_convention == "after_correction" else r.eps / math.sqrt(1 - r.beta2**t)
            floor = np.sqrt(v_hat + r.eps) if inside else np.sqrt(v_hat) + late  # (...,)
            run.params[name][...] -= lr * m_hat / floor
        return AdamState(state.m, state.v, t)

    return take


def _sgd(run: Run, grads: Arrays, lr: float) -> AdamState:
    for name, g in grads.items():
        run.params[name][...] -= lr * g
    return run.adam


def _sign(run: Run, grads: Arrays, lr: float) -> AdamState:
    for name, g in grads.items():
        run.params[name][...] -= lr * np.sign(g)
    return run.adam


def _with_l2(decay: float) -> Stepper:
    plain = _adam()
    return lambda run, grads, lr: plain(run, {name: g + decay * run.params[name] for name, g in grads.items()}, lr)


def _decayed(decay: float) -> Stepper:
    """Return Adam with decoupled weight decay, which comes first (Loshchilov and Hutter 2019)."""
    plain = _adam()

    def take(run: Run, grads: Arrays, lr: float) -> AdamState:
        for name in grads:
            run.params[name][...] *= 1 - lr * decay
        return plain(run, grads, lr)

    return take


def _clipped_alone(run: Run, grads: Arrays, lr: float) -> AdamState:
    def each(a: dict[str, Array]) -> None:
        for name, g in a.items():
            clip_by_global_norm({name: g}, run.recipe.clip or 1.0)

    words = run.recipe.order.split("-")
    before = "-".join(words[: words.index("clip")]) if "clip" in words else ""
    after = run.recipe.order[len(before) :].lstrip("-")
    unit = run.cfg.decoder == "unit"
    update(run._replace(recipe=run.recipe._replace(order=before)), grads, lr, unit=unit)
    each(grads)
    rest = run.recipe._replace(order=after.replace("clip-", ""))
    return update(run._replace(recipe=rest), grads, lr, unit=unit)
