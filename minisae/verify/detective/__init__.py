"""The detective: which known difference of convention, alone or with one other, would explain another's numbers.

:mod:`~minisae.verify.detective.way` computes what the library's own code gives when it deviates in named places,
:mod:`~minisae.verify.detective.space` lists the deviations that make sense for a case, and
:mod:`~minisae.verify.detective.search` compares. An explanation has to give *all* the numbers that were offered, and
these must be more than chance can give. Nothing is fitted, except the weights of the terms of a loss: last, and only
against many more numbers than weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.errors import InputError
from minisae.verify.cases import Case
from minisae.verify.detective.finite import SAID, filled, finite, only_at_zero_rows
from minisae.verify.detective.search import (
    EXACT,
    LOOSE,
    NO,
    ROUNDED,
    TIGHT,
    Search,
    agreement,
    fitted,
    numbers,
    pairs,
    search_for,
    telling,
)
from minisae.verify.detective.space import deviations
from minisae.verify.detective.way import Deviation, Deviations
from minisae.verify.reference import results

__all__ = ["Explanation", "explain"]

CHANCE = 1e-2
"""How probable it may be that one of all the deviations tried agrees by chance."""
NOTHING = "no known difference of convention, alone or with one other, explains these numbers"
ROUNDING = ", up to float32 rounding"
COARSE = 0.02
"""Tolerance that bfloat16 needs, whose numbers have eight bits."""
HALF = (
    "no known difference of convention explains these numbers, but they are the reference's to two digits: "
    "is something computed in bfloat16 or float16?"
)


class Explanation(NamedTuple):
    """What would explain a candidate's numbers."""

    sentence: str
    """One sentence for people."""
    verdict: str
    """``"same"``, ``"rounding"`` (the reference's, up to float32 rounding), ``"explained"`` or ``"unknown"``."""
    deviations: tuple[str, ...]
    """Names of the deviations that explain; none otherwise."""
    same_numbers: tuple[tuple[str, ...], ...]
    """Other deviations, as few, that give the same numbers on what was offered."""
    except_in: tuple[str, ...] = ()
    """Names of the cases, less than half of them, that are not explained so."""

    def __str__(self) -> str:
        return self.sentence


ROUNDED_REFERENCE = Explanation("your numbers are those of the reference" + ROUNDING, "rounding", (), ())


def explain(
    reference: Case | Sequence[Case],
    candidate: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    tolerance: float | None = None,
) -> Explanation:
    """Say what would explain a candidate's numbers on a case, or on several cases of one convention.

    Parameters
    ----------
    reference : the case, or cases; the search is on the first on which the candidate is not the reference. What holds
        on all comes first; else what holds on more than half of them, and the sentence names the others
    candidate : for each case what was computed on it, by the names of :mod:`minisae.verify.reference`, or
        ``loss/total`` for the sum of all terms; any of them
    tolerance : what counts as the same, relative to the largest entry of an array; 1e-9 unless told otherwise. Where
        nothing agrees so well, or the numbers came in float32, it is 3e-5, and the sentence says so

    Returns
    -------
    Explanation

    Raises
    ------
    InputError
        If there is a candidate too many or too few, or one offers nothing that the reference has.

    Examples
    --------
    >>> from minisae.verify.cases import cases
    >>> from minisae.verify.reference import results
    >>> case = cases("relu")["base"]
    >>> numbers = results(case)
    >>> print(explain(case, {"loss/mse": numbers["loss/mse"], "loss/l1": numbers["loss/l1"] / case.cfg.d_sae}))
    your L1 is averaged over d_sae: every value is 1/7 of the reference's
    >>> explain(case, {"f": numbers["f"] + np.arange(7.0)}).verdict
    'unknown'
    """
    cases_ = [reference] if isinstance(reference, Case) else list(reference)
    offered = [candidate] if isinstance(candidate, Mapping) else list(candidate)
    if len(cases_) != len(offered) or not cases_:
        raise InputError(f"candidate: expected numbers for each of {len(cases_)} cases, got {len(offered)}")
    if only_at_zero_rows(cases_, offered):
        return _beside_zero_rows(cases_, offered, tolerance)
    searches = [_search(case, one, tolerance) for case, one in zip(cases_, offered, strict=True)]
    plain = min(agreement(search, ()) for search in searches)
    low = any(np.asarray(a).dtype == np.float32 for one in offered for a in one.values())
    if plain == EXACT:
        return Explanation("your numbers are those of the reference", "same", (), ())
    if plain == ROUNDED and low:
        return ROUNDED_REFERENCE
    searches.sort(key=lambda search: agreement(search, ()))
    return _investigated(searches, plain, low)


def _beside_zero_rows(
    cases: Sequence[Case], offered: Sequence[Mapping[str, Any]], tolerance: float | None
) -> Explanation:
    """Explain what is finite, where all that is not has a zero row of the decoder beside it."""
    whole = [filled(case, one) for case, one in zip(cases, offered, strict=True)]
    if explain(cases, whole, tolerance=tolerance).verdict in ("same", "rounding"):
        return Explanation(SAID, "explained", (), ())
    found = explain(cases, [finite(one) for one in offered], tolerance=tolerance)
    if found.verdict in ("same", "rounding"):  # so what is wrong stands beside them in the same arrays
        found = Explanation(NOTHING, "unknown", (), ())
    return found._replace(sentence=f"{found.sentence}; and {SAID}")


def _search(case: Case, candidate: Mapping[str, Any], tolerance: float | None) -> Search:
    known = results(case).keys() | {"loss/total", "loss"}
    wanted = {name: np.asarray(a, np.float64) for name, a in candidate.items() if name in known and _real(a)}
    if not wanted:
        raise InputError(
            f"candidate: expected some of {', '.join(sorted(known))}, got {', '.join(candidate) or 'none'}"
        )
    exact = TIGHT if tolerance is None else tolerance
    return search_for(case, wanted, (exact, max(exact, LOOSE)))


def _real(a: Any) -> bool:
    return np.asarray(a).dtype.kind in "biuf"


class Held(NamedTuple):
    """On what deviations agree with the candidate."""

    chosen: Deviations
    """They themselves."""
    how: int
    """How well, where they do: EXACT or ROUNDED."""
    except_in: tuple[str, ...]
    """Cases in which they do not."""


def _investigated(searches: list[Search], plain: int, low: bool) -> Explanation:
    """Return the simplest explanation: one deviation before two, exact agreement before rounding (but ``low`` ones)."""
    spaces = [{d.name: d for d in deviations(search.case)} for search in searches]
    singles: list[Deviations] = [(d,) for d in spaces[0].values()]
    rounded: list[Held] = []
    partly: list[Held] = []
    tried = 0
    for many in (singles, pairs(list(spaces[0].values()))):
        here: list[Held] = []
        for chosen in many:
            tried += 1
            if agreement(searches[0], chosen) != NO:
                here.append(_held(searches, spaces, chosen))
        here = [held for held in here if _sure(searches[0], held.chosen, tried, held.how)]
        whole = [held for held in here if not held.except_in]
        found = [held for held in whole if held.how == EXACT]
        if found:
            return _told(found)
        rounded = rounded or whole
        if rounded and low:
            return _told(rounded)
        partly += [held for held in here if held.except_in]
    if plain == ROUNDED:
        return ROUNDED_REFERENCE
    weights = fitted(searches[0])
    if weights and all(agreement(search, (weights,)) == EXACT for search in searches):
        return _told([Held((weights,), EXACT, ())])
    answer = _told(rounded) if rounded else _mostly(partly, len(searches))
    coarse = [search._replace(tolerances=(COARSE, COARSE), kept={}) for search in searches]
    if answer.verdict == "unknown" and all(agreement(search, ()) for search in coarse):
        return answer._replace(sentence=HALF)
    return answer


def _held(searches: list[Search], spaces: list[dict[str, Deviation]], chosen: Deviations) -> Held:
    """Look at the same deviations in all cases."""
    hows = {}
    for search, space in zip(searches, spaces, strict=True):
        known = all(d.name in space for d in chosen)
        hows[search.case.name] = agreement(search, tuple(space[d.name] for d in chosen)) if known else NO
    return Held(
        chosen, min(how for how in hows.values() if how != NO), tuple(n for n, how in hows.items() if how == NO)
    )


def _mostly(partly: list[Held], n_cases: int) -> Explanation:
    """Return what holds in most cases, if anything does: an awkward one may have a difference of its own (ties)."""
    least = min((len(held.except_in) for held in partly), default=n_cases)
    if 2 * least >= n_cases:
        return Explanation(NOTHING, "unknown", (), ())
    best = [held for held in partly if len(held.except_in) == least]
    best = [held for held in best if (len(held.chosen), held.except_in) == (len(best[0].chosen), best[0].except_in)]
    return _told(best)


def _sure(search: Search, chosen: Deviations, tried: int, how: int) -> bool:
    """Whether an agreement rests on more numbers than chance would give one of so many tries."""
    tolerance = search.tolerances[0 if how == EXACT else 1]
    return tried * tolerance ** telling(search, chosen, tolerance) < CHANCE


def _told(found: list[Held]) -> Explanation:
    """Return the first of what was found as a sentence, and the others of its class."""
    first, *others = found
    names = [tuple(d.name for d in held.chosen) for held in found]
    clauses = [", and ".join(d.says for d in held.chosen) for held in found]
    more = ""
    if others and len(first.chosen) == 1:
        more = f" (what gives the same numbers: {'; or '.join(clauses[1:4])}{'; and more' if len(others) > 3 else ''})"
    elif others:
        count = "another combination" if len(others) == 1 else f"{len(others)} other combinations"
        more = f" ({count} of two would give the same numbers: {' and '.join(names[1])}{' …' * (len(others) > 1)})"
    ending = ROUNDING if first.how == ROUNDED else ""
    ending += f"; that holds in all cases but {', '.join(first.except_in)}" if first.except_in else ""
    return Explanation(clauses[0] + more + ending, "explained", names[0], tuple(names[1:]), first.except_in)


def produced(case: Case, names: Sequence[str], wanted: Sequence[str]) -> dict[str, Array]:
    """Return the ``wanted`` quantities as an implementation with the named deviations computes them."""
    space = {d.name: d for d in deviations(case)}
    search = search_for(case, {name: np.zeros(()) for name in wanted}, (TIGHT, LOOSE))
    return numbers(search, tuple(space[name] for name in names))
