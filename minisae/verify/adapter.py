"""Adapters: how another implementation is reached, as a Python file or module of a few functions.

Everything goes in and comes out as NumPy arrays and plain dicts, under this library's names and orientation:

    encode(params, x, config) -> f                       needed: the code for use, (n, d_sae)
    decode(params, f, config) -> x_hat                   needed: (n, d_in)
    forward(params, x, config) -> {name: array}          outputs in training: x_hat, f, pre, …, as many as it has
    loss(params, x, config) -> {term: number}            terms of the objective by name, or their sum as "total"
    grads(params, x, config, slopes) -> {name: array}    derivative of Σ output · slope over the outputs in ``slopes``,
                                                         by parameters and "x"; with slopes None, of the objective
                                                         by parameters
    step(params, batches, config, recipe) -> params      parameters after a training step on each of the batches

``config`` holds the variant's options by name, and ``variant``, ``dtype``, ``dead`` (which latents count as dead, bool
``(d_sae,)``) and ``target`` (of the reconstruction: ``x`` unless a row holds both). Numbers such as ``k``, ``l1`` or
``auxk`` are not at their defaults in the cases: read them from ``config``. What yours does not have, or does otherwise,
stands in ``CONVENTIONS``.

``recipe`` holds the options of training and ``schedule``, a dict for each step:
``{"lr": 0.01, "sparsity": 0.5, "config": {"k": 5}}``, the rate, the factor of λ, and what of config is otherwise at
that step. Each of ``batches`` holds whole rows: for a transcoder input and target side by side. ``dead`` latents have
been idle for ``dead_after`` rows at the first step.

A function may be missing, may leave names out, and may raise ``NotImplementedError``: that is "not offered", and not
counted. ``grads`` is asked about outputs that ``forward`` names (and ``x_hat`` and ``f``); without ``forward``, about
all.

``KNOWN`` may say in which awkward cases a library is known to have other numbers, and why, by variant and case:
``{"topk": {"ties": "torch takes any of equal entries"}}``. What fails there is reported as "known", with the reason,
and does not count as a failure.

    # adapter.py, for  minisae verify run adapter.py --variant topk
    import torch
    from mylibrary import TopK

    CONVENTIONS = {"topk": {"decoder": "free", "auxk": 0.0}}      # by variant: what is not as in the paper;
                                                                  # "preset": NAME starts from a preset

    def model(params, config):
        sae = TopK(config["d_in"], config["d_sae"], k=config["k"])
        sae.load_state_dict({name: torch.from_numpy(p) for name, p in params.items()})
        return sae

    def encode(params, x, config):
        return model(params, config).encode(torch.from_numpy(x)).detach().numpy()

    def decode(params, f, config):
        return model(params, config).decode(torch.from_numpy(f)).detach().numpy()
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from minisae.errors import InputError
from minisae.sae import variant

FUNCTIONS = ("encode", "decode", "forward", "loss", "grads", "step")
NEEDED = FUNCTIONS[:2]
SHIPPED = "minisae.verify.adapters."
HINT = '; pip install "minisae[peers]" brings the libraries of the adapters here'


class Adapter(NamedTuple):
    """A way to another implementation."""

    name: str
    """File or module."""
    functions: Mapping[str, Callable[..., Any]]
    """Those of :data:`FUNCTIONS` that it has."""
    conventions: Mapping[str, Mapping[str, Any]]
    """By variant: its own options of config and recipe, and with ``preset`` the name of that from which they start."""
    known: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """By variant and case: why the library is known to have other numbers there."""


def load_adapter(where: str | Path | ModuleType) -> Adapter:
    """Return the adapter of a file, of a module's dotted name, or of a module.

    Raises
    ------
    InputError
        If it cannot be loaded, has no ``encode`` or ``decode``, or says something else under CONVENTIONS or KNOWN.
    """
    name = where.__name__ if isinstance(where, ModuleType) else str(where)
    module = where if isinstance(where, ModuleType) else _loaded(name)
    functions = {key: getattr(module, key) for key in FUNCTIONS if callable(getattr(module, key, None))}
    missing = [key for key in NEEDED if key not in functions]
    if missing:
        raise InputError(f"{name}: expected functions encode and decode, found no {' and no '.join(missing)}")
    conventions = _by_variant(module, "CONVENTIONS", "a dict of options", name)
    known = _by_variant(module, "KNOWN", "a dict of cases and reasons", name)
    return Adapter(name, functions, conventions, known)


def _by_variant(module: ModuleType, key: str, what: str, name: str) -> Mapping[str, Mapping[str, Any]]:
    found = getattr(module, key, {})
    if not isinstance(found, Mapping) or not all(isinstance(own, Mapping) for own in found.values()):
        raise InputError(f"{name}: expected {key} to be {what} for each variant, got {found!r}")
    for own, options in found.items():
        variant(own)
        preset = options.get("preset", "")
        if key == "CONVENTIONS" and not isinstance(preset, str):
            raise InputError(f"{name}: expected the preset of {own} to be a name, got {preset!r}")
    return found


def _loaded(name: str) -> ModuleType:
    path = Path(name)
    if path.suffix == ".py" and not path.is_file():
        raise InputError(f"{name}: no such file")
    try:
        if path.is_dir():
            raise InputError(f"{name}: expected a Python file or the dotted name of a module, got a folder")
        if not path.is_file():
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{name}: expected a Python file with the ending .py")
        module = importlib.util.module_from_spec(spec)
        if (folder := str(path.resolve().parent)) not in sys.path:  # as ``python FILE`` has it; last, to hide nothing
            sys.path.append(folder)
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a foreign file may do wrong
        hint = HINT if isinstance(error, ImportError) and name.startswith(SHIPPED) else ""
        raise InputError(f"{name}: could not be loaded: {said(error)}{hint}") from error
    return module


def said(error: BaseException) -> str:
    """Return an error's kind and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
