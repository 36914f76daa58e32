"""The command line: what may be said. The work is in :mod:`minisae.commands`, the manners in :mod:`minisae.console`."""

from collections.abc import Sequence
from pathlib import Path

from minisae import commands, console
from minisae.console import Parser, command
from minisae.recipe import DTYPES, Recipe
from minisae.sae import VARIANTS
from minisae.version import __version__

COMMANDS = ("demo", "cache", "train", "eval", "info", "bench")
SHOWN = "a run or a saved autoencoder to describe; or the word options: all that train --set can set"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``minisae``; return the exit status."""
    nothing = f"expected a command: {', '.join(COMMANDS)}; try minisae demo or minisae --help"
    return console.main(parser(), argv, nothing=nothing)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="minisae", description="Sparse autoencoders: train, evaluate, look.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"minisae {__version__}")
    sub = top.add_subparsers(metavar="command", required=True)
    for name, add in {"demo": _demo, "train": _train, "eval": _eval, "info": _info, "bench": _bench}.items():
        add(command(sub, name, getattr(commands, f"{name}_")))
    cache = sub.add_parser("cache", help="import, describe or verify an activation cache", allow_abbrev=False)
    parts = cache.add_subparsers(metavar="import|info|check", required=True)
    for name, add in {"import": _cache_import, "info": _cache_path, "check": _cache_path}.items():
        add(command(parts, name, getattr(commands, f"cache_{name}_")))
    return top


def _demo(part: Parser) -> None:
    part.add_argument("--out", type=Path, default=Path("minisae-demo"), help="folder to write (default %(default)s)")


def _own(option: str, says: str) -> str:
    """Return the help on an option that some variants have: whose it is, what it says, its default in each."""
    defaults = {name: VARIANTS[name].Config._field_defaults[option] for name in commands.owners(option)}
    same = len(set(defaults.values())) == 1
    default = next(iter(defaults.values())) if same else ", ".join(f"{k} {v}" for k, v in defaults.items())
    return f"{', '.join(defaults)}: {says} (default {default})"


def number(text: str) -> int | float:
    """Return a whole number as one, and any other as a float."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _train(part: Parser) -> None:
    default = Recipe._field_defaults
    part.add_argument("cache", type=Path, metavar="CACHE", help="an activation cache, or one .npy array")
    part.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    part.add_argument("--variant", choices=tuple(VARIANTS), default="topk", help="(default %(default)s)")
    part.add_argument("--d-sae", type=int, required=True, help="number of latents")
    fractional = ", ".join(name for name, module in VARIANTS.items() if getattr(module, "FRACTIONAL_K", False))
    part.add_argument("--k", type=number, help=_own("k", f"active latents per row, {fractional} also a fraction"))
    l1 = "weight λ of the L1 penalty, in the units of the activations"
    part.add_argument("--l1", type=float, help=_own("l1", l1))
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
