"""What every command line of this project does alike: arguments in, text or JSON out, one line for a user's mistake.

Exit status: 0 success; 1 a check did not hold, or training diverged; 2 wrong use, with one line on standard error;
130 Ctrl-C.
"""

import argparse
import contextlib
import errno
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minisae.errors import InputError
from minisae.train import Diverged

Parser = argparse.ArgumentParser


class Result(NamedTuple):
    """What a command has to say."""

    text: str
    """For people."""
    numbers: Mapping[str, Any]
    """For ``--json``."""
    status: int = 0


class Stopped(Exception):
    """Ctrl-C, after a checkpoint was saved."""


def main(parser: Parser, argv: Sequence[str] | None, *, nothing: str) -> int:
    """Parse, run ``options.run(options) -> Result``, write what it says, and return the exit status.

    Parameters
    ----------
    parser : of the whole command line; its ``prog`` opens every message
    argv : arguments, ``None`` for the process's own
    nothing : what to say where there is none
    """
    name = parser.prog
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _warner(name)
        try:
            options = _parsed(parser, argv, nothing)
            result = options.run(options)
            _write(result, as_json=options.json)
            return int(result.status)
        except SystemExit as stop:  # --help and --version
            return int(stop.code or 0)
        except Stopped as stopped:
            return _complain(name, str(stopped), 130)
        except KeyboardInterrupt:
            return _complain(name, "stopped", 130)
        except InputError as error:
            return _complain(name, str(error), 2)
        except Diverged as error:
            return _complain(name, str(error), 1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            return _complain(name, _os_message(error), 2)
        except MemoryError:
            return _complain(name, "out of memory: a smaller model, batch or budget needs less", 2)


def _parsed(parser: Parser, argv: Sequence[str] | None, nothing: str) -> argparse.Namespace:
    """Parse; wrong use becomes one line."""
    if not (sys.argv[1:] if argv is None else argv):
        raise InputError(nothing)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(argv)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(said.getvalue().strip().rsplit("\n", 1)[-1].replace(": error: ", ": ", 1)) from None


def command(sub: Any, name: str, run: Callable[[argparse.Namespace], Result]) -> Parser:
    """Add a command; the first line of its function's docstring is its help."""
    about = (run.__doc__ or "").split("\n")[0].rstrip(".")
    part: Parser = sub.add_parser(name, help=about, description=f"{about}.", allow_abbrev=False)
    part.add_argument("--json", action="store_true", help="write results as JSON")
    part.set_defaults(run=run)
    return part


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite become ``None``, at any depth."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(result: Result, *, as_json: bool) -> None:
    print(json.dumps(plain(result.numbers), indent=1, allow_nan=False) if as_json else result.text)
    sys.stdout.flush()


def _complain(name: str, message: str, status: int) -> int:
    line = " ".join(message.split())
    print(line if line.startswith(name) else f"{name}: {line}", file=sys.stderr)
    return status


def _os_message(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the disk; finished files and checkpoints are intact"
    return f"{where}{error.strerror or error}"


def _warner(name: str) -> Any:
    """Show a warning as the rest of the command line speaks; one of somebody else's code says where it stands."""
    ours = str(Path(__file__).parent)

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        place = "" if filename.startswith(ours) else f" {filename}:{lineno}:"
        print(f"{name}: warning:{place} {' '.join(str(message).split())}", file=sys.stderr)

    return show
