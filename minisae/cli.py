"""The command line: what may be said. The work is in :mod:`minisae.commands`, the manners in :mod:`minisae.console`."""

from collections.abc import Sequence
from pathlib import Path

from minisae import commands, console, convert, info
from minisae.console import Parser, command
from minisae.interop import formats
from minisae.recipe import DTYPES, Recipe
from minisae.sae import VARIANTS
from minisae.verify import commands as verify_commands
from minisae.verify import harness
from minisae.version import __version__

COMMANDS = ("demo", "cache", "train", "eval", "convert", "info", "bench", "verify")
SHOWN = (
    "a run or a saved autoencoder to describe; or a word: options, all that train --set can set, preset, or ledger, "
    "what libraries do otherwise than their papers"
)

SAID = "what a foreign file does not say: k of a TopK in a bare state dict, variant, threshold, dict_class, embedding"


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
        add(command(sub, name, info.info_ if name == "info" else getattr(commands, f"{name}_")))
    _convert(command(sub, "convert", convert.convert_))
    cache = sub.add_parser("cache", help="import, describe or verify an activation cache", allow_abbrev=False)
    parts = cache.add_subparsers(metavar="import|info|check", required=True)
    for name, add in {"import": _cache_import, "info": _cache_path, "check": _cache_path}.items():
        add(command(parts, name, getattr(commands, f"cache_{name}_")))
    verify = sub.add_parser("verify", help="check another implementation against this one", allow_abbrev=False)
    parts = verify.add_subparsers(metavar="run|write", required=True)
    for name, add in {"run": _verify_run, "write": _verify_write}.items():
        add(command(parts, name, getattr(verify_commands, f"{name}_")))
    return top


def _demo(part: Parser) -> None:
    part.add_argument("--out", type=Path, default=Path("minisae-demo"), help="folder to write (default %(default)s)")


def _own(option: str, says: str) -> str:
    """Return the help on an option that some variants have: whose it is, what it says, its default in each."""
    defaults = {name: VARIANTS[name].Config._field_defaults[option] for name in commands.owners(option)}
    default = next(iter(defaults.values()))
    others = "".join(f", {name} {value}" for name, value in defaults.items() if value != default)
    return f"{', '.join(defaults)}: {says} (default {default}{others})"


def number(text: str) -> int | float:
    """Return a whole number as one, and any other as a float."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _train(part: Parser) -> None:
    default = Recipe._field_defaults
    part.add_argument("cache", type=Path, metavar="CACHE", help="an activation cache, or one .npy array")
    part.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    part.add_argument("--variant", choices=tuple(VARIANTS), help="(default topk, or the preset's)")
    part.add_argument("--preset", metavar="NAME", help="a library's way of training; minisae info preset lists them")
    part.add_argument("--d-sae", type=int, required=True, help="number of latents")
    fractional = ", ".join(name for name, module in VARIANTS.items() if getattr(module, "FRACTIONAL_K", False))
    part.add_argument("--k", type=number, help=_own("k", f"active latents per row, {fractional} also a fraction"))
    l1 = "weight λ of the L1 penalty, in the units of the activations"
    part.add_argument("--l1", type=float, help=_own("l1", l1))
    part.add_argument("--steps", type=int, required=True, help="optimiser steps")
    for name, kind in (("batch_size", int), ("lr", float), ("seed", int)):
        flag = f"--{name.replace('_', '-')}"
        part.add_argument(flag, type=kind, help=f"(default {default[name]}, or the preset's)")
    part.add_argument("--dtype", choices=DTYPES, help=f"(default {default['dtype']})")
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
    _hook(part, "")
    _backend(part)
    _filters(part, tokens=False)


def _eval(part: Parser) -> None:
    part.add_argument("path", type=Path, metavar="RUN", help="folder of a run or a saved autoencoder")
    part.add_argument("--cache", type=Path, required=True, help="an activation cache, or one .npy array")
    part.add_argument("--model", metavar="NAME", help="char_gpt, or a file of its weights: what splicing costs it")
    part.add_argument("--drop-nonfinite", action="store_true", help="drop rows of an array with NaN or infinity")
    _hook(part, " (default: that of training)")
    _foreign(part)
    _backend(part)


def _info(part: Parser) -> None:
    part.add_argument("path", type=Path, nargs="?", metavar="RUN|options|preset|ledger", help=SHOWN)
    part.add_argument("name", nargs="?", metavar="NAME", help="after preset or ledger: the one, or the library")
    for name, size in (("d_in", 768), ("d_sae", 16_384), ("steps", 100_000), ("batch_size", None)):
        default = "%(default)s" if size else "the preset's"
        says = f"a preset is described for this {name} (default {default})"
        part.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help=says)
    _foreign(part)


def _convert(part: Parser) -> None:
    part.add_argument("source", type=Path, metavar="SRC", help="a run, or a trained autoencoder's folder or file")
    part.add_argument("target", type=Path, metavar="DST", help="folder to write")
    part.add_argument("--to", required=True, metavar="FORMAT", help=f"one of {', '.join(formats.WRITTEN)}")
    _foreign(part)


def _bench(part: Parser) -> None:
    part.add_argument("--against", choices=("torch",), help="time another library's step beside ours")
    part.add_argument("--quality", action="store_true", help="not speed: what every variant finds in synthetic data")
    part.add_argument("--seeds", type=int, metavar="N", help="of --quality (default 5)")


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


def _verify_run(part: Parser) -> None:
    part.add_argument("adapter", metavar="ADAPTER", help="a Python file, or the dotted name of a module")
    part.add_argument("--variant", choices=tuple(VARIANTS), required=True, help="what it implements")
    part.add_argument("--case", help="only this case (default: all)")
    part.add_argument("--dtype", choices=tuple(harness.TOLERANCES), default="float64", help="(default %(default)s)")
    part.add_argument("--preset", metavar="NAME", help="the convention of a library (default: what the adapter says)")
    part.add_argument("--tolerance", type=float, help="relative error that passes (default: by quantity and dtype)")


def _verify_write(part: Parser) -> None:
    part.add_argument("--out", type=Path, default=Path("minisae-vectors"), help="folder (default %(default)s)")
    part.add_argument("--variant", choices=tuple(VARIANTS), nargs="+", default=tuple(VARIANTS), help="(default: all)")


def _backend(part: Parser) -> None:
    part.add_argument("--backend", metavar="numpy|cupy|auto", help="(default: MINISAE_BACKEND, or numpy)")


def _foreign(part: Parser) -> None:
    shown = f"of a foreign file, where its content does not show it: {', '.join(formats.FORMATS)}"
    part.add_argument("--format", metavar="FORMAT", help=shown)
    part.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=SAID)


def _hook(part: Parser, default: str) -> None:
    says = "which activation, where the cache has several; repeated, several side by side: a transcoder's input and "
    help_ = f"{says}target, a crosscoder's sources{default}"
    part.add_argument("--hook", action="append", default=[], metavar="NAME", help=help_)


def _filters(part: Parser, *, tokens: bool) -> None:
    part.add_argument("--skip-positions", type=int, default=0, metavar="N", help="drop the first N positions")
    part.add_argument("--max-norm", type=float, metavar="TIMES", help="drop rows of more than TIMES the median norm")
    part.add_argument("--drop-nonfinite", action="store_true", help="drop rows with NaN or infinity")
    if tokens:
        part.add_argument("--drop-tokens", type=int, nargs="+", default=(), metavar="T", help="drop these tokens")
        part.add_argument("--keep-tokens", type=int, nargs="+", default=(), metavar="T", help="keep only these")
