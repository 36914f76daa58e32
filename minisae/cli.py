"""The command line: arguments in, exit status out.

0 success; 1 a check did not hold, or training diverged; 2 wrong use, with one line on standard error; 130 Ctrl-C.
The work is in :mod:`minisae.commands`.
"""

import argparse
import contextlib
import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minisae import commands
from minisae.errors import InputError
from minisae.evaluate import plain
from minisae.recipe import DTYPES, Recipe
from minisae.sae import VARIANTS
from minisae.train import Diverged
from minisae.version import __version__

Parser = argparse.ArgumentParser
COMMANDS = ("demo", "cache", "train", "eval", "info", "bench")
SHOWN = "a run or a saved autoencoder to describe; or the word options: all that train --set can set"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``minisae``; return the exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _one_line_warning
        try:
            options = _parsed(argv)
            result = options.run(options)
            _write(result, as_json=options.json)
            return int(result.status)
        except SystemExit as stop:  # --help and --version
            return int(stop.code or 0)
        except commands.Stopped as stopped:
            return _complain(str(stopped), 130)
        except KeyboardInterrupt:
            return _complain("stopped", 130)
        except InputError as error:
            return _complain(str(error), 2)
        except Diverged as error:
            return _complain(str(error), 1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            return _complain(_os_message(error), 2)
        except MemoryError:
            return _complain("out of memory: a smaller --d-sae, --batch-size or --budget needs less", 2)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; wrong use becomes one line."""
    if not (sys.argv[1:] if argv is None else argv):
        raise InputError(f"expected a command: {', '.join(COMMANDS)}; try minisae demo or minisae --help")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser().parse_args(argv)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(said.getvalue().strip().rsplit("\n", 1)[-1].replace(": error: ", ": ", 1)) from None


def _write(result: commands.Result, *, as_json: bool) -> None:
    text = json.dumps(plain(result.numbers), indent=1, allow_nan=False) if as_json else result.text
    print(text)
    sys.stdout.flush()


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(line if line.startswith("minisae") else f"minisae: {line}", file=sys.stderr)
    return status


def _os_message(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the disk; finished files and checkpoints are intact"
    return f"{where}{error.strerror or error}"


def _one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Show a warning as the rest of the command line speaks."""
    print(f"minisae: warning: {' '.join(str(message).split())}", file=sys.stderr)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="minisae", description="Sparse autoencoders: train, evaluate, look.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"minisae {__version__}")
    sub = top.add_subparsers(metavar="command", required=True)
    for name, add in {"demo": _demo, "train": _train, "eval": _eval, "info": _info, "bench": _bench}.items():
        add(_command(sub, name, getattr(commands, f"{name}_")))
    cache = sub.add_parser("cache", help="import, describe or verify an activation cache", allow_abbrev=False)
    parts = cache.add_subparsers(metavar="import|info|check", required=True)
    for name, add in {"import": _cache_import, "info": _cache_path, "check": _cache_path}.items():
        add(_command(parts, name, getattr(commands, f"cache_{name}_")))
    return top


def _command(sub: Any, name: str, run: Any) -> Parser:
    """Add a command; the first line of its function's docstring is its help."""
    about = run.__doc__.split("\n")[0].rstrip(".")
    part: Parser = sub.add_parser(name, help=about, description=f"{about}.", allow_abbrev=False)
    part.add_argument("--json", action="store_true", help="write results as JSON")
    part.set_defaults(run=run)
    return part


def _demo(part: Parser) -> None:
    part.add_argument("--out", type=Path, default=Path("minisae-demo"), help="folder to write (default %(default)s)")


def _default(variant: str, name: str) -> Any:
    return VARIANTS[variant].Config._field_defaults[name]


def _train(part: Parser) -> None:
    default = Recipe._field_defaults
    part.add_argument("cache", type=Path, metavar="CACHE", help="an activation cache, or one .npy array")
    part.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    part.add_argument("--variant", choices=tuple(VARIANTS), default="topk", help="(default %(default)s)")
    part.add_argument("--d-sae", type=int, required=True, help="number of latents")
    part.add_argument("--k", type=int, help=f"topk: active latents per row (default {_default('topk', 'k')})")
    l1 = f"relu: weight λ of the L1 penalty, in the units of the activations (default {_default('relu', 'l1')})"
    part.add_argument("--l1", type=float, help=l1)
    part.add_argument("--steps", type=int, required=True, help="optimiser steps")
    for name, kind in (("batch_size", int), ("lr", float), ("seed", int)):
        flag = f"--{name.replace('_', '-')}"
        part.add_argument(flag, type=kind, default=default[name], help="(default %(default)s)")
    part.add_argument("--dtype", choices=DTYPES, default=default["dtype"], help="(default %(default)s)")
    part.add_argument("--resume", action="store_true", help="go on with the run in RUN, to the same bits")
    part.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any other options of the variant or the recipe; minisae info options lists them",
    )
    part.add_argument(
        "--held-out", type=float, default=0.0, metavar="FRACTION", help="keep whole documents out, for eval (default 0)"
    )
    part.add_argument("--reference", action="store_true", help="textbook formulas only, no fast twins")
    part.add_argument("--budget", type=int, default=512, metavar="MIB", help="memory for shuffling (default 512 MiB)")
    part.add_argument("--hook", help="which activation, where the cache has several")
    _backend(part)
    _filters(part, tokens=False)


def _eval(part: Parser) -> None:
    part.add_argument("path", type=Path, metavar="RUN", help="folder of a run or a saved autoencoder")
    part.add_argument("--cache", type=Path, required=True, help="an activation cache, or one .npy array")
    part.add_argument("--model", metavar="NAME", help="char_gpt, or a file of its weights: what splicing costs it")
    part.add_argument("--drop-nonfinite", action="store_true", help="drop rows of an array with NaN or infinity")
    _backend(part)


def _info(part: Parser) -> None:
    part.add_argument("path", type=Path, nargs="?", metavar="RUN|options", help=SHOWN)


def _bench(part: Parser) -> None:
    part.add_argument("--against", choices=("torch",), help="time another library's step beside ours")


def _cache_import(part: Parser) -> None:
    part.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="files or folders of activations")
    part.add_argument("--out", type=Path, required=True, metavar="CACHE", help="folder of the cache")
    part.add_argument("--key", action="append", default=[], metavar="NAME", help="take this array (may be repeated)")
    part.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="(default %(default)s)")
    part.add_argument("--source-dtype", choices=("bf16", "fp16"), help="what nameless 2-byte values are")
    part.add_argument("--shard-rows", type=int, help="rows of a shard (default: 256 MiB)")
    part.add_argument(
        "--meta", action="append", default=[], metavar="NAME=VALUE", help="a word on the rows: model, hook, …"
    )
    _filters(part, tokens=True)


def _cache_path(part: Parser) -> None:
    part.add_argument("path", type=Path, metavar="CACHE", help="folder of the cache")


def _backend(part: Parser) -> None:
    part.add_argument("--backend", metavar="numpy|cupy|auto", help="(default: MINISAE_BACKEND, or numpy)")


def _filters(part: Parser, *, tokens: bool) -> None:
    part.add_argument("--skip-positions", type=int, default=0, metavar="N", help="drop the first N positions")
    part.add_argument("--max-norm", type=float, metavar="TIMES", help="drop rows of more than TIMES the median norm")
    part.add_argument("--drop-nonfinite", action="store_true", help="drop rows with NaN or infinity")
    if tokens:
        part.add_argument("--drop-tokens", type=int, nargs="+", default=(), metavar="T", help="drop these tokens")
        part.add_argument("--keep-tokens", type=int, nargs="+", default=(), metavar="T", help="keep only these")
