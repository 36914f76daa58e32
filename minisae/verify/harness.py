"""Check another implementation against the reference: what it offers, on every case, row by row.

:mod:`minisae.verify.adapter` says what it has to offer and shows an example, :mod:`minisae.verify.adapters` has four.
"""

import contextlib
import copy
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.sae import variant
from minisae.verify.adapter import NEEDED, Adapter, load_adapter, said
from minisae.verify.cases import STEPS, Case, cases
from minisae.verify.detective import explain
from minisae.verify.inputs import split_rows
from minisae.verify.reference import Arrays, batch, live_config, results, schedule
from minisae.verify.report import Report, Row, compared, excused, table

__all__ = ["TOLERANCES", "Adapter", "Report", "Row", "check", "load_adapter", "table"]

TOLERANCES = {
    "float64": {"code": 1e-12, "loss": 1e-12, "grads": 1e-12, "steps": 1e-10},
    "float32": {"code": 1e-5, "loss": 1e-5, "grads": 1e-5, "steps": 1e-4},
}
"""Largest error that passes, relative to the largest entry of the array, by dtype and kind of quantity."""


def check(
    adapter: Adapter,
    name: str,
    *,
    case: str | None = None,
    dtype: str = "float64",
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Compare everything that an adapter offers with the reference.

    Parameters
    ----------
    adapter : from :func:`load_adapter`
    name : of the variant
    case : only this one of :func:`minisae.verify.cases.cases`
    dtype : ``"float64"`` or ``"float32"``: what the adapter is given; the reference computes in float64
    preset : compare with this preset, in place of what the adapter says of itself
    options : of config and recipe, over the adapter's own conventions
    tolerance : relative error that passes, in place of :data:`TOLERANCES`

    Raises
    ------
    InputError
        If there is no such variant, case or option.
    """
    if dtype not in TOLERANCES:
        raise InputError(f"dtype: expected one of {', '.join(TOLERANCES)}, got {dtype!r}")
    if tolerance is not None:
        check_number("tolerance", tolerance, least=0)
    tolerances = dict.fromkeys(TOLERANCES[dtype], tolerance) if tolerance is not None else TOLERANCES[dtype]
    rows: list[Row] = []
    failed: list[Case] = []
    numbers: list[Arrays] = []
    for one in chosen_cases(adapter, name, case=case, preset=preset, options=options).values():
        reference = results(one)
        candidate, errors = offered(adapter, one, np.dtype(dtype), reference)
        found = compared(one.name, reference, candidate, errors, tolerances)
        found = excused(found, adapter.known.get(name, {}).get(one.name))
        rows += found
        if any(row.verdict == "FAIL" and row.numbers for row in found):
            failed.append(one)
            numbers.append(usable(candidate, reference))
    explanation = explained(failed, numbers)
    if not failed and any(row.verdict == "FAIL" for row in rows):
        explanation = "what failed gave no numbers that could be explained: see the notes"
    return Report(adapter.name, name, dtype, tuple(rows), explanation)


def usable(candidate: Arrays, reference: Arrays) -> Arrays:
    """Return what of a candidate's arrays has a name, a shape and a kind of number that the reference knows."""
    shapes = {key: a.shape for key, a in reference.items()} | {"loss/total": ()}
    return {key: a for key, a in candidate.items() if a.shape == shapes.get(key) and a.dtype.kind in "biuf"}


def explained(failed: list[Case], numbers: list[Arrays]) -> str:
    """Return what would explain the numbers of all cases that failed, or else those of the first."""
    if not failed:
        return ""
    found = explain(failed, numbers)
    if found.verdict == "unknown" and len(failed) > 1:
        first = explain(failed[0], numbers[0])
        if first.verdict != "unknown":
            return f"{first} (in case {failed[0].name}, but not in all that fail)"
    return str(found)


def chosen_cases(
    adapter: Adapter,
    name: str,
    *,
    case: str | None = None,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Case]:
    """Return the cases on which an adapter is checked: the reference in the adapter's conventions."""
    variant(name)
    if adapter.conventions and name not in adapter.conventions:
        raise InputError(f"variant: {adapter.name} is for {', '.join(adapter.conventions)}, got {name!r}")
    own = dict(adapter.conventions.get(name, {}))
    found = cases(name, preset=preset or own.pop("preset", None), options=own | dict(options or {}))
    if case is not None and case not in found:
        raise InputError(f"case: expected one of {', '.join(found)}, got {case!r}")
    return found if case is None else {case: found[case]}


def offered(adapter: Adapter, case: Case, dtype: np.dtype[Any], reference: Arrays) -> tuple[Arrays, dict[str, str]]:
    """Return what an adapter computes on a case, by quantity, and where it raised an error, what that said.

    It decodes the code of the ``reference``, and gets slopes on the outputs that this has and that its own ``forward``,
    if there is one, names.
    """
    cfg, given = live_config(case), case.inputs
    x, y = (part.astype(dtype) for part in split_rows(case.variant, given.rows, cfg))  # (n, d_in), (n, d_out)
    params = {key: p.astype(dtype) for key, p in given.params.items()}
    slopes = {key: slope.astype(dtype) for key, slope in given.slopes.items() if key in reference}
    config = {"variant": case.variant, "dtype": dtype.name, **cfg._asdict(), "dead": given.dead, "target": y}
    recipe = {**case.recipe._asdict(), "schedule": schedule(case)}
    batches = [batch(case, number).astype(dtype) for number in range(STEPS[-1])]
    each = {f"grads/{on}": {on: slope} for on, slope in slopes.items()} | {"grads/all": slopes, "grads/objective": None}
    calls: list[tuple[str, str, tuple[Any, ...]]] = [
        ("encode", "encode", (x, config)),
        ("decode", "decode", (reference["encode"].astype(dtype), config)),
        ("forward", "", (x, config)),  # before grads: what it names decides which slopes are asked about
        ("loss", "loss", (x, config)),
        *(("grads", on, (x, config, put)) for on, put in each.items()),
        *(("step", f"steps/{n}", (batches[:n], config | case.cfg._asdict(), recipe)) for n in STEPS),
    ]
    found: Arrays = {}
    errors: dict[str, str] = {}
    for function, place, arguments in calls:
        if function not in adapter.functions or not named_all(place, arguments, found, adapter):
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what it prints is not part of a report
                result = adapter.functions[function](*copy.deepcopy((params, *arguments)))
            named = {place: result} if function in NEEDED else {f"{place}/{key}": a for key, a in result.items()}
            named.pop("grads/objective/x", None)  # the target is no function of x there: the reference has none
            found |= {key.removeprefix("/"): np.asarray(a) for key, a in named.items()}
        except NotImplementedError:
            continue
        except (Exception, SystemExit) as error:  # whatever a foreign function may do wrong
            errors[place] = f"{function} raised {said(error)}"
    return found, errors


def named_all(place: str, arguments: tuple[Any, ...], found: Arrays, adapter: Adapter) -> bool:
    """Return whether the outputs on which a call puts slopes are among those that ``forward`` named, if it ran."""
    slopes = arguments[-1] if place.startswith("grads/") else None
    if not slopes or "forward" not in adapter.functions:
        return True
    outputs = found.keys() - {"encode", "decode"} | {"x_hat", "f"}
    return bool(slopes.keys() <= outputs)
