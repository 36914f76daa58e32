"""The search: which single deviation, or which two together, give a candidate's numbers.

A trial goes through four levels: outputs, terms of the loss, gradients, training. It ends at the first quantity that
does not agree, and what a level computes is kept for all combinations that are the same up to there.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array
from minisae.ops import dense, reference_ops
from minisae.train import Run
from minisae.verify.cases import Case
from minisae.verify.detective.loss import weighted
from minisae.verify.detective.way import (
    Arrays,
    Deviation,
    Deviations,
    Pass,
    forward,
    gradients,
    outputs,
    place,
    stored,
    terms,
    training,
)
from minisae.verify.reference import begun

TIGHT, LOOSE = 1e-9, 3e-5
"""Tolerances relative to the largest entry of an array: of float64, and of float32 or float32 inside."""
FLOOR = 1e-3
"""Arrays this much smaller than the largest of their kind are compared with that."""
LEVELS = ("outputs", "loss", "grads", "steps")
"""Kinds of quantities, in the order of the search."""
ENOUGH = 5
"""Numbers that a fitted weight has to rest on."""
NO, ROUNDED, EXACT = 0, 1, 2
"""How far a trial agrees: not, up to float32 rounding, or fully."""
FAILURES = (ValueError, ArithmeticError, IndexError, KeyError)
"""What a combination that makes no sense may end in; it explains nothing then."""


class Search(NamedTuple):
    """One candidate against one case."""

    case: Case
    wanted: Arrays
    """The candidate's numbers."""
    tolerances: tuple[float, float]
    """For ``EXACT`` and for ``ROUNDED``."""
    sizes: dict[str, float]
    """Largest entry of each kind of quantity."""
    run: Run | None
    """The run at step 0, if steps are wanted."""
    kept: dict[Any, Any]
    """What was computed, by level and deviations."""
    names: tuple[list[str], ...]
    """The wanted quantities of each level."""
    levels: dict[str, int]
    """The first level on which a deviation can show, by its name."""


def search_for(case: Case, wanted: Arrays, tolerances: tuple[float, float]) -> Search:
    """Return an empty search."""
    sizes: dict[str, float] = {}
    for name, a in wanted.items():
        finite = np.abs(a[np.isfinite(a)])  # (n_finite,)
        sizes[kind(name)] = max(sizes.get(kind(name), 0.0), float(finite.max(initial=0)))
    with reference_ops():
        run = begun(case) if any(kind(name) == "steps" for name in wanted) else None
    names = tuple([name for name in wanted if kind(name) == level] for level in LEVELS)
    return Search(case, wanted, tolerances, sizes, run, {}, names, {})


def kind(name: str) -> str:
    """Return the kind of a quantity: outputs, loss, grads or steps."""
    first = name.partition("/")[0]
    return first if first in LEVELS[1:] else "outputs"


def level_of(deviation: Deviation) -> int:
    """Return the first level on which a deviation can show."""
    if any((deviation.cfg, deviation.given, deviation.out, deviation.decode, deviation.report)):
        return 0
    if deviation.terms:
        return 1
    return 2 if deviation.slopes or deviation.grads else 3


def agreement(search: Search, deviations: Deviations) -> int:
    """Return how far the numbers under these deviations agree with the candidate's: NO, ROUNDED or EXACT."""
    worst = EXACT
    with np.errstate(all="ignore"), reference_ops():
        for level in (level for level, names in enumerate(search.names) if names):
            worst = min(worst, _verdict(search, level, deviations))
            if worst == NO:
                break
    return worst


def _up_to(search: Search, level: int, deviations: Deviations) -> Deviations:
    for d in deviations:
        if d.name not in search.levels:
            search.levels[d.name] = level_of(d)
    return tuple([d for d in deviations if search.levels[d.name] <= level])


def _verdict(search: Search, level: int, deviations: Deviations) -> int:
    deviations = _up_to(search, level, deviations)
    key = "verdict", level, tuple(d.name for d in deviations)
    if key not in search.kept:
        worst = EXACT
        try:
            for name, a in _numbers(search, level, deviations):
                worst = min(worst, compare(search, name, a))
                if worst == NO:
                    break
        except FAILURES:
            worst = NO
        search.kept[key] = worst
    return int(search.kept[key])


def _kept(search: Search, what: str, level: int, deviations: Deviations) -> Any:
    deviations = _up_to(search, level, deviations)
    key = what, tuple(d.name for d in deviations)
    if key not in search.kept:
        if what == "pass":
            search.kept[key] = forward(place(search.case), deviations)
        else:
            seen = _pass(search, deviations)
            search.kept[key] = terms(seen, deviations)
    return search.kept[key]


def _pass(search: Search, deviations: Deviations) -> Pass:
    """Return the forward pass, with a place for every deviation that is asked for later."""
    seen: Pass = _kept(search, "pass", 0, deviations)
    early = _up_to(search, 0, deviations)
    if len(early) == len(deviations):
        return seen
    by_name = {d.name: at for d, at in zip(early, seen.before, strict=True)}
    first = seen.before[0] if seen.before else seen.at
    return seen._replace(before=tuple(by_name.get(d.name, first) for d in deviations))


def numbers(search: Search, deviations: Deviations) -> Arrays:
    """Return every wanted quantity under some deviations, as the candidate would hand it over."""
    found: Arrays = {}
    with np.errstate(all="ignore"), reference_ops():
        for level in range(4):
            found |= dict(_numbers(search, level, _up_to(search, level, deviations)))
    return found


def reported(name: str, a: Array, deviations: Deviations) -> Array:
    """Return a quantity as it is handed over."""
    for deviation in deviations:
        a = deviation.report(name, a) if deviation.report else a  # (...,)
    return np.asarray(a, np.float64)


def _numbers(search: Search, level: int, deviations: Deviations) -> Iterator[tuple[Any, ...]]:
    names = search.names[level]
    if not names:
        return
    make = (_outputs, _losses, _gradients, _steps)[level]
    for name, a in make(search, deviations, names):
        yield name, reported(name, a, deviations)


def _outputs(search: Search, deviations: Deviations, names: list[str]) -> Iterator[tuple[str, Array]]:
    at = place(search.case)
    found = outputs(_pass(search, deviations), deviations, dense(at.module.encode(at.params, at.x, at.cfg)))
    yield from ((name, np.asarray(found[name])) for name in names)


def _losses(search: Search, deviations: Deviations, names: list[str]) -> Iterator[tuple[str, Array]]:
    found = _kept(search, "terms", 1, deviations)
    values = {f"loss/{name}": np.asarray(term.value) for name, term in found.items()}
    total = np.asarray(sum(term.value for term in found.values()))  # ()
    yield from ((name, total if name in ("loss", "loss/total") else values[name]) for name in names)


def _gradients(search: Search, deviations: Deviations, names: list[str]) -> Iterator[tuple[str, Array]]:
    seen = _pass(search, deviations)
    for on in dict.fromkeys(name.split("/")[1] for name in names):
        direct: Arrays = {}
        if on == "objective":
            _, put, direct = losses.gather(_kept(search, "terms", 1, deviations))
        else:
            put = stored(search.case, seen, on)
        mine = [name for name in names if name.split("/")[1] == on]
        grads = gradients(seen, deviations, put, direct, want_x=f"grads/{on}/x" in mine)
        yield from ((name, grads[name.split("/")[2]]) for name in mine)


def _steps(search: Search, deviations: Deviations, names: list[str]) -> Iterator[tuple[str, Array]]:
    last = max(int(name.split("/")[1]) for name in names)
    assert search.run is not None
    for number, params in training(search.case, search.run, deviations, last):
        for name in names:
            _, step, key = name.split("/")
            if int(step) == number:
                yield name, params[key].copy()


def compare(search: Search, name: str, a: Array) -> int:
    """Return how far an array agrees with the candidate's: NO, ROUNDED or EXACT."""
    wanted = search.wanted[name]  # (...,)
    if a.shape != wanted.shape:
        return NO
    miss, floor = np.abs(a - wanted), FLOOR * search.sizes[kind(name)]
    size = max(float(np.abs(wanted).max(initial=0)), floor)
    rounding = [0.0, 0.0]
    if kind(name) == "steps":  # how far it moved, not where it is: a step is short beside its parameter
        before = search.case.inputs.params.get(name.split("/")[2])
        if before is not None and before.shape == wanted.shape:
            rounding = [16 * float(np.finfo(t).eps) * size for t in (np.float64, np.float32)]
            size = float(np.abs(wanted - before).max(initial=0))
    worst = float(miss.max(initial=0))
    if not np.isfinite(worst):
        return NO
    exact, rounded = search.tolerances
    if worst <= exact * size + rounding[0]:
        return EXACT
    return ROUNDED if worst <= rounded * size + rounding[1] else NO


def telling(search: Search, deviations: Deviations, tolerance: float) -> int:
    """Return on how many numbers an agreement rests: in how many different proportions the wanted ones are changed.

    A factor common to all entries is one number, however many entries there are.
    """
    plain, changed = numbers(search, ()), numbers(search, deviations)
    ratios = set()
    for name, a in changed.items():
        reference = plain[name]
        if reference.shape != a.shape:
            return int(a.size)
        size = max(float(np.abs(a).max(initial=0)), float(np.abs(reference).max(initial=0)))
        moved = np.abs(a - reference) > tolerance * size
        ratio = a[moved] / np.where(reference[moved] == 0, np.nan, reference[moved])
        ratios |= set(np.round(np.nan_to_num(ratio, nan=np.inf), 4).tolist())
    return len(ratios)


def pairs(deviations: list[Deviation]) -> Iterator[Deviations]:
    """Yield all combinations of two that do not decide the same thing."""
    for one, other in itertools.combinations(deviations, 2):
        if one.slot != other.slot and not (one.update and other.update):
            yield one, other


def fitted(search: Search) -> Deviation | None:
    """Return the deviation that the terms of the loss have other weights, if that is what the gradients say.

    The weights are those of least squares over the gradients of the objective and the values of the terms; they count
    only where there are many more numbers than weights, and whoever asks compares what they give with everything.
    """
    with np.errstate(all="ignore"), reference_ops():
        found = _kept(search, "terms", 1, ())
        names = [n for n in search.wanted if n.startswith("grads/objective/") and not n.endswith("/x")]
        columns: list[Array] = []
        for key, term in found.items():
            grads = gradients(_pass(search, ()), (), term.slopes, term.params)
            parts = [grads[name.split("/")[2]].ravel() for name in names]
            parts += [
                np.ravel(term.value * (name in (f"loss/{key}", "loss", "loss/total")))
                for name in search.wanted
                if kind(name) == "loss"
            ]
            columns.append(np.concatenate(parts or [np.zeros(0)]))
        total = [search.wanted[name].ravel() for name in names]
        total += [search.wanted[name].ravel() for name in search.wanted if kind(name) == "loss"]
    right = np.concatenate(total or [np.zeros(0)])  # (n_numbers,)
    if not names or len(right) < ENOUGH * len(found) or any(len(c) != len(right) for c in columns):
        return None
    weights, _, rank, _ = np.linalg.lstsq(np.stack(columns, axis=1), right)
    if rank < len(found) or not np.isfinite(weights).all():
        return None
    slopes = sum(search.wanted[name].size for name in names)
    for weight, column in zip(weights, columns, strict=True):  # one that only its own value tells is no finding
        if abs(weight - 1) > LOOSE and np.count_nonzero(column[:slopes]) < ENOUGH:
            return None
    return weighted(dict(zip(found, map(float, weights), strict=True)))
