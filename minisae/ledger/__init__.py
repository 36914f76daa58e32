"""The ledger: where libraries do otherwise than the papers of what they implement, each with a case that shows it.

An entry names the library and the version, says what happens and what follows, and computes both behaviours with this
library's own code: its switches where there is one, a few lines otherwise. ``checked`` tells whether a test compares
its number with the library itself, in the version named, or whether it was read only. Conventions that are merely
different, such as a sum for a mean, are in :mod:`minisae.conventions`.

    minisae info ledger                all entries
    minisae info ledger overcomplete   those of one library

Examples
--------
>>> [entry] = [e for e in entries("overcomplete") if e.name == "threshold slope"]
>>> shown = entry.show()
>>> shown.right, shown.theirs
(-2.0, -4.0)
>>> told(entry, shown)
'thresholds learn 2 times as fast as the formula says; at ε = 0.001 a thousand times'
"""

from typing import Any

from minisae.errors import InputError
from minisae.ledger import files, jump, measures, penalties, selection, thresholds, training
from minisae.ledger.base import Deviation, Number, Shown

__all__ = ["LEDGER", "Deviation", "Shown", "described", "entries", "told"]

LEDGER: tuple[Deviation, ...] = tuple(
    sorted(
        (
            entry
            for part in (penalties, jump, selection, thresholds, training, measures, files)
            for entry in part.ENTRIES
        ),
        key=lambda entry: entry.library.lower(),
    )
)
"""All entries, by library."""


def entries(library: str | None = None) -> tuple[Deviation, ...]:
    """Return the entries of a library, or all.

    Raises
    ------
    InputError
        If no entry is of that library.
    """
    known = {entry.library.lower(): entry.library for entry in LEDGER}
    if library and library.lower() not in known:
        raise InputError(f"library: expected one of {', '.join(known.values())}, got {library!r}")
    return tuple(entry for entry in LEDGER if not library or entry.library.lower() == library.lower())


def written(value: Number) -> str:
    """Return a number, or several, as text."""
    if isinstance(value, tuple):
        return ", ".join(written(one) for one in value)
    return f"{value + 0.0:.4g}".replace("-", "−")


def told(entry: Deviation, shown: Shown) -> str:
    """Return the consequence of an entry with its numbers filled in."""
    ratio = (
        shown.theirs / shown.right
        if isinstance(shown.right, float) and isinstance(shown.theirs, float) and shown.right
        else None
    )
    return entry.consequence.format(
        right=written(shown.right), theirs=written(shown.theirs), ratio="" if ratio is None else written(ratio)
    )


def described(library: str | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Return entries as text for people and as a list of dicts, their numbers computed now."""
    lines: list[str] = []
    about: list[dict[str, Any]] = []
    for entry in entries(library):
        shown = entry.show()
        checked = "compared with the library itself" if entry.checked == "run" else "read, not run"
        lines += [
            f"{entry.library} {entry.version}: {entry.name}",
            f"    {entry.says}",
            f"    {shown.what}: {written(shown.right)}, there {written(shown.theirs)}    ({shown.case})",
            f"    so {told(entry, shown)}",
            f"    {entry.source}; {checked}{f'; fixed in {entry.fixed}' if entry.fixed else ''}",
            "",
        ]
        known = {key: value for key, value in entry._asdict().items() if key != "show"}
        about.append(known | shown._asdict() | {"consequence": told(entry, shown)})
    return "\n".join([*lines, f"{len(about)} known deviations"]), about
