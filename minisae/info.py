"""What ``minisae info`` tells: versions and devices, a trained autoencoder, the options of training, presets."""

import argparse
import ast
import inspect
import itertools
import re
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from minisae import checkpoint, runs
from minisae.backend import resolve
from minisae.console import Result
from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.evaluate import load_sae
from minisae.interop.files import read_json
from minisae.ledger import described
from minisae.presets import PRESETS, Sizes
from minisae.presets.words import describe
from minisae.recipe import CHOICES, Recipe
from minisae.sae import VARIANTS, variant
from minisae.settings import settings

Options = argparse.Namespace
FLAGS = ("variant", "d_sae", "k", "l1", "steps", "batch_size", "lr", "seed", "dtype")
"""Options of ``minisae train`` that are no matter for ``--set``."""
IMPLIED = {"d_in": "(the data's)", "d_out": "(needed without two hooks)"}
"""What stands for the default of an option that has none but may follow from the data."""


def info_(options: Options) -> Result:
    """Show versions and devices, what an autoencoder or a preset computes, options, or what libraries deviate in."""
    if options.path == Path("preset"):
        return _preset_info(options)
    if options.path == Path("ledger"):
        return Result(*_ledger_info(options.name))
    if options.name:
        raise InputError(f"{options.name}: expected a name after the words preset and ledger alone")
    if options.path == Path("options"):
        return _options_info()
    return _sae_info(options) if options.path else _machine_info()


def _machine_info() -> Result:
    try:
        resolve("cupy")
        device = "CuPy sees a device"
    except InputError as error:
        device = str(error).partition("but ")[2]
    versions = {name: _version(name) for name in ("scipy", "matplotlib", "ml_dtypes", "safetensors", "cupy", "torch")}
    known = {**runs.machine(), "gpu": device, "backend": resolve(None), **versions}
    return Result("\n".join(f"{name:<12} {value}" for name, value in known.items()), known)


def _version(name: str) -> str:
    """Return the version of an installed package; its distribution may have another name (cupy-cuda13x)."""
    found = packages.packages_distributions().get(name, ())
    return packages.version(found[0]) if found else "not installed"


def _sae_info(options: Options) -> Result:
    path = options.path
    known = read_json(path / checkpoint.RUN) if (path / checkpoint.RUN).exists() else {}
    had = known.get("recipe", {})
    recipe = {key: had[key] for key in Recipe._fields if key in had}
    if known and not (path / "cfg.json").exists():
        missing = [key for key in runs.RUN_KEYS if key not in known]
        if missing:
            raise InputError(f"{path / checkpoint.RUN}: {', '.join(missing)} missing")
        name, cfg = known["variant"], known["cfg"]
        more = {"step": f"{known['step']} of {recipe.get('steps', '?')}", **known["source"]}
    else:
        sae = load_sae(path, format=options.format, options=settings(options.set))
        name, cfg, more = sae.variant, sae.cfg._asdict(), sae.metadata
    formula = [line for line in (variant(name).__doc__ or "").split("\n\n")[1].splitlines() if line.startswith("    ")]
    lines = [f"{path}: {name}", f"sections are those of {variant(name).SOURCE}", "", *formula]
    for kind, values in ((variant(name).Config, cfg), (Recipe, recipe)):
        says = meanings(kind)
        lines += ["", *(f"{key:<17} {value!s:<28} {says.get(key, '')}".rstrip() for key, value in values.items())]
    lines += ["", "the data it was trained on", *(f"{key:<17} {value}" for key, value in more.items())]
    about = {"path": str(path), "variant": name, "cfg": cfg, "recipe": recipe, "formula": formula, "metadata": more}
    return Result("\n".join(lines), about)


def meanings(kind: Any) -> dict[str, str]:
    """Return one line on each field of a NamedTuple: what its switch says, else the text below it in the source."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            name, text = ast.unparse(field.target), str(below.value.value)
            found[name] = (
                SWITCHES[name].says if name in SWITCHES else " ".join(re.sub(r":\w+:(?=`)|`", "", text).split())
            )
    return found


def _options_info() -> Result:
    """List every option of every variant and of the recipe: name or flag, default, meaning, allowed values."""
    lines, numbers = ["What minisae train --set NAME=VALUE sets; where a flag stands, give that instead."], {}
    for title, kind in {**{name: module.Config for name, module in VARIANTS.items()}, "recipe": Recipe}.items():
        lines += ["", title]
        set_by_training = getattr(VARIANTS.get(title), "MOVING", ())
        shown = {name: says for name, says in meanings(kind).items() if name not in set_by_training}
        numbers[title] = {name: _option(kind, name, says) for name, says in shown.items()}
        for name, option in numbers[title].items():
            default = kind._field_defaults.get(name, IMPLIED.get(name, "(needed)"))
            lines.append(f"  {option['flag'] or name:<16} {default!s:<28} {option['says']}")
            lines += [f"{'':<47} {' | '.join(map(str, option['values']))}"] if option["values"] else []
    return Result("\n".join(lines), numbers)


def _option(kind: Any, name: str, says: str) -> dict[str, Any]:
    flag = f"--{name.replace('_', '-')}" if name in FLAGS else None
    values = SWITCHES[name].values if name in SWITCHES else CHOICES.get(name)
    if values is None and kind.__annotations__[name] is bool:
        values = (False, True)
    return {"default": kind._field_defaults.get(name), "says": says, "values": values, "flag": flag}


def _ledger_info(library: str | None) -> tuple[str, dict[str, Any]]:
    """List the known deviations, all or of one library, their numbers computed now."""
    text, found = described(library)
    return text, {"deviations": found}


def _preset_info(options: Options) -> Result:
    """List the presets, or describe one: formula, recipe, differences from the paper's defaults."""
    if options.name:
        own = getattr(PRESETS.get(options.name), "batch_size", 1)
        rows = own if options.batch_size is None else options.batch_size
        return Result(*describe(options.name, Sizes(options.d_in, options.d_sae, options.steps, rows)))
    numbers = {name: {"variant": p.variant, "source": p.source} for name, p in PRESETS.items()}
    width = max(map(len, numbers))
    lines = [f"{name:<{width}}  {p['variant']:<16} {p['source']}" for name, p in numbers.items()]
    return Result(
        "\n".join([*lines, "", "minisae info preset NAME describes one; minisae train --preset NAME"]), numbers
    )
