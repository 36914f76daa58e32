"""What a comparison with the reference came to: a row for each quantity, and a table for people."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from minisae.verify.reference import Arrays


class Row(NamedTuple):
    """One comparison."""

    case: str
    """Name of the case."""
    quantity: str
    """What was compared, as :mod:`minisae.verify.reference` names it."""
    slope_on: str
    """For a gradient: on what the slope was put."""
    absolute: float | None
    """Largest absolute error."""
    relative: float | None
    """The same over the largest entry of the reference."""
    tolerance: float
    """What the relative error may be."""
    verdict: str
    """``"ok"``, ``"FAIL"``, ``"not offered"``, or ``"known"``: apart, as the adapter says of this case."""
    note: str
    """What else is to be said."""

    @property
    def numbers(self) -> bool:
        """Whether the candidate gave numbers of the right shape, finite or not."""
        return self.absolute is not None or self.note.endswith("not finite")


class Report(NamedTuple):
    """All comparisons of one adapter on one variant."""

    adapter: str
    """Its name."""
    variant: str
    """The variant it was checked on."""
    dtype: str
    """What it computed in."""
    rows: tuple[Row, ...]
    """One for each quantity of each case."""
    explanation: str
    """What would explain a failure, in a sentence; empty where nothing failed."""

    def __str__(self) -> str:
        return table(self)

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing failed but what is known to."""
        verdicts = {row.verdict for row in self.rows}
        return bool(verdicts & {"ok", "known"}) and "FAIL" not in verdicts


def compared(
    case: str, reference: Arrays, candidate: Arrays, errors: Mapping[str, str], tolerances: Mapping[str, float]
) -> list[Row]:
    """Return a row for each quantity of the reference, and for what the candidate has beside these."""
    total = sum(a for key, a in reference.items() if key.startswith("loss/"))
    wanted = reference | ({"loss/total": np.asarray(total)} if "loss/total" in candidate else {})
    wanted = {key: a for key, a in wanted.items() if key != "fired" or key in candidate}
    rows = [_row(case, key, a, candidate.get(key), _error_at(key, errors), tolerances) for key, a in wanted.items()]
    for key in sorted(candidate.keys() - wanted.keys()):
        if key.startswith("loss/") and np.array_equal(candidate[key], 0):  # a term that is switched off
            continue
        place = key.rpartition("/")[0]
        known = ", ".join(k.removeprefix(f"{place}/") for k in wanted if k.rpartition("/")[0] == place)
        note = f"the reference has no such quantity; expected some of {known or 'none'}"
        rows.append(Row(case, key, "", None, None, 0.0, "FAIL", note))
    return rows


def _error_at(key: str, errors: Mapping[str, str]) -> str:
    """Return what the call said that was to compute a quantity; that of ``forward`` has the place ""."""
    return errors.get(key) or errors.get(key.rpartition("/")[0], "")


def _row(
    case: str, key: str, expected: np.ndarray, got: np.ndarray | None, error: str, tolerances: Mapping[str, float]
) -> Row:
    """Return the comparison of one quantity."""
    part, _, rest = key.rpartition("/")
    slope_on = part.removeprefix("grads/") if part.startswith("grads/") else ""
    kind = part.partition("/")[0] or "code"
    tolerance = tolerances[kind]
    quantity = f"gradient of {rest}" if slope_on else f"{rest} after {part[6:]} steps" if kind == "steps" else key
    row = Row(case, quantity, slope_on, None, None, tolerance, "FAIL", "")
    if got is None:
        return row._replace(note=error) if error else row._replace(verdict="not offered")
    if got.shape != expected.shape:
        return row._replace(note=f"expected shape {expected.shape}, got {got.shape}")
    if got.dtype.kind not in "biuf":
        return row._replace(note=f"expected real numbers, got {got.dtype}")
    got = got.astype(np.float64)  # (...), as expected
    if not np.isfinite(got).all():
        return row._replace(note=f"{int((~np.isfinite(got)).sum())} of {got.size} entries are not finite")
    absolute = float(np.abs(got - expected).max(initial=0))
    relative = absolute / (float(np.abs(expected).max(initial=0)) or 1.0)
    good = relative <= tolerance
    apart = int(((got != 0) != (expected != 0)).sum())
    note = f"{apart} of {got.size} entries are 0 in one only" if apart and not good else ""
    return row._replace(absolute=absolute, relative=relative, verdict="ok" if good else "FAIL", note=note)


def excused(rows: list[Row], reason: str | None) -> list[Row]:
    """Return the rows of a case, those that failed as known where there is a ``reason`` for it."""
    if reason is None:
        return rows
    return [row._replace(verdict="known", note=f"known: {reason}") if row.verdict == "FAIL" else row for row in rows]


def worst(rows: Iterable[Row]) -> list[Row]:
    """Return for each quantity and slope the worst of its rows over all cases: what failed, by the largest error."""
    order = {"FAIL": 0, "ok": 1, "not offered": 2}
    found: dict[tuple[str, str], Row] = {}

    def badness(row: Row) -> tuple[int, float]:
        return -order[row.verdict], np.inf if row.relative is None else row.relative

    for row in rows:
        key = (row.quantity, row.slope_on)
        if key not in found or badness(row) > badness(found[key]):
            found[key] = row
    return list(found.values())


def table(report: Report) -> str:
    """Return a report for people: the worst row of each quantity, what was not offered, and the verdict."""
    rows = worst(row for row in report.rows if row.verdict != "known")
    shown = [row for row in rows if row.verdict != "not offered"]
    head = ("quantity", "slope on", "absolute", "relative", "tolerance", "verdict", "worst case")
    cells = [head] + [
        (row.quantity, row.slope_on, *(f"{v:.1e}" if v is not None else "" for v in row[3:6]), row.verdict, row.case)
        for row in shown
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines = [lines[0], *(f"{line}  {row.note}".rstrip() for line, row in zip(lines[1:], shown, strict=True))]
    missing = dict.fromkeys(_in_short(row) for row in rows if row.verdict == "not offered")
    lines += [f"not offered: {', '.join(missing)}"] if missing else []
    lines += _known([row for row in report.rows if row.verdict == "known"])
    number = Counter(row.verdict for row in report.rows)
    counts = f"{number['ok']} comparisons agree, {number['FAIL']} do not"
    counts += f", {number['known']} are known to differ" if number["known"] else ""
    lines += ["", f"{report.adapter}: {report.variant}, {report.dtype}: {counts}"]
    lines += [report.explanation] if report.explanation else []
    return "\n".join(lines)


def _known(rows: list[Row]) -> list[str]:
    """Return a line for each case in which an adapter says that its library is apart: the reason, and in what."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        found.setdefault((row.case, row.note), {})[_in_short(row)] = None
    return [f"{note} ({case}: {', '.join(names)})" for (case, note), names in found.items()]


def _in_short(row: Row) -> str:
    """Return a name that the rows of several parameters share."""
    if row.slope_on:
        return f"gradients from {row.slope_on}"
    return f"parameters {row.quantity.partition(' ')[2]}" if " after " in row.quantity else row.quantity
