"""The command line of the toy models: what may be said. The work is in :mod:`toy_models.commands`."""

from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from minisae import console
from minisae.console import Parser, command
from minisae.version import __version__
from toy_models import commands

COMMANDS = ("train", "phase", "geometry", "recognise", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m toy_models``; return the exit status."""
    return console.main(parser(), argv, nothing=f"expected a command: {', '.join(COMMANDS)}; try --help")


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="toy_models", description="Toy models of superposition.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"toy_models of minisae {__version__}")
    sub = top.add_subparsers(metavar="|".join(COMMANDS), required=True)
    for name, add in zip(COMMANDS, (_train, _phase, _geometry, _recognise, _bench), strict=True):
        add(command(sub, name, getattr(commands, f"{name}_")))
    return top


def _train(part: Parser) -> None:
    part.add_argument("--n-feat", type=int, default=5, metavar="N", help="features (default %(default)s)")
    part.add_argument("--n-hid", type=int, default=2, metavar="M", help="hidden dimensions (default %(default)s)")
    what = "relu output, linear, privileged (ReLU on the hidden layer) or absolute (an mlp that computes |x|)"
    part.add_argument("--model", choices=tuple(commands.MODELS), default="relu", help=f"{what} (default relu)")
    part.add_argument(
        "--density", type=float, nargs="+", default=[0.05], metavar="P", help="p = 1 − S, one or more (default 0.05)"
    )
    decay = "importance of feature j is R to the power j (default 1: all alike)"
    part.add_argument("--importance-decay", type=float, default=1.0, metavar="R", help=decay)
    sets = part.add_mutually_exclusive_group()
    sets.add_argument("--correlated", type=int, metavar="SETS", help="features of a set are present together")
    sets.add_argument("--anticorrelated", type=int, metavar="SETS", help="at most one feature of a set is present")
    part.add_argument("--instances", type=int, default=10, help="starts at each density (default %(default)s)")
    part.add_argument("--steps", type=int, default=6000, help="steps of Adam (default %(default)s)")
    part.add_argument("--batch-size", type=int, default=512, help="rows a step (default %(default)s)")
    part.add_argument("--lr", type=float, default=1e-3, help="learning rate at its top (default %(default)s)")
    _seed(part)
    _backend(part)
    _out(part, "toy-model")


def _phase(part: Parser) -> None:
    part.add_argument("--n-feat", type=int, default=2, choices=(2, 3), help="in one dimension less (default 2)")
    part.add_argument("--size", type=int, default=21, help="points along each axis (default %(default)s)")
    trained = "train so many starts at each point as well: slow (6 s for each point and ten starts)"
    part.add_argument("--seeds", type=int, default=0, metavar="K", help=trained)
    _seed(part)
    _out(part, "toy-phase")


def _geometry(part: Parser) -> None:
    part.add_argument("--n-feat", type=int, default=100, metavar="N", help="features (default %(default)s)")
    part.add_argument("--n-hid", type=int, default=10, metavar="M", help="hidden dimensions (default %(default)s)")
    part.add_argument("--steps", type=int, default=8000, help="steps of Adam (default %(default)s)")
    part.add_argument("--seeds", type=int, default=1, metavar="K", help="starts at each density (default %(default)s)")
    _seed(part)
    _backend(part)
    _out(part, "toy-geometry")


def _recognise(part: Parser) -> None:
    part.add_argument("path", type=Path, metavar="FILE.npy", help="W (n_hid, n_feat), or several (…, n_hid, n_feat)")
    part.add_argument("--features", choices=("columns", "rows"), default="columns", help="(default %(default)s)")
    part.add_argument("--floor", type=float, default=0.3, help="columns shorter than this are no feature (default 0.3)")


def _bench(part: Parser) -> None:
    part.add_argument("--against", choices=("torch",), help="time the same in eager PyTorch beside ours")


def _seed(part: Parser) -> None:
    part.add_argument("--seed", type=int, default=0, help="start of every random stream (default %(default)s)")


def _backend(part: Parser) -> None:
    part.add_argument("--backend", metavar="numpy|cupy|auto", help="(default: MINISAE_BACKEND, or numpy)")


def _out(part: Parser, folder: str) -> None:
    part.add_argument("--out", type=_folder, default=Path(folder), help="folder to write (default %(default)s)")


def _folder(name: str) -> Path:
    if not name:
        raise ArgumentTypeError("expected the name of a folder, got none")
    return Path(name)
