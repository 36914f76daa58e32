"""Progress of long work on standard error: a bar on a terminal, plain lines in a log."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from tqdm import tqdm


class Report(Protocol):
    """How far the work is."""

    def __call__(self, done: int, note: str = "") -> None:
        """Report units done so far, and a few words."""


@contextlib.contextmanager
def progress(what: str, total: int | None, *, unit: str = "rows") -> Iterator[Report]:
    """Open a bar, or plain lines, for ``total`` units of ``what``, and give the function that moves it on.

    A line is written for every report with a note, and otherwise each time another tenth is done.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True) as bar:

            def move(done: int, note: str = "") -> None:
                bar.update(done - bar.n)
                if note:
                    bar.set_postfix_str(note)

            yield move
        return
    tenths = 0

    def line(done: int, note: str = "") -> None:
        nonlocal tenths
        now = 10 * done // total if total else 0
        if note or now > tenths:
            tenths = max(now, tenths)
            of = f" of {total:,}" if total else ""
            sys.stderr.write(f"{what}: {done:,}{of} {unit}{', ' + note if note else ''}\n")
            sys.stderr.flush()

    yield line


def say(text: str) -> None:
    """Write a line to standard error."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
