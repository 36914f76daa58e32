"""Conformance vectors: what the reference computes on small cases, in files that any language can read.

Format 1. Each variant has two files. ``NAME.safetensors`` holds arrays (little-endian, row-major; F64, masks U8), and
``NAME.json`` says what they are:

    format, minisae, variant, source     number of the format; version that wrote it; the variant and its publication
    letters                              n, d_in, d_sae
    shapes, state                        axes of each parameter; which of them are moved by rule and not trained
    inputs                               name → what is special about it
    config, recipe                       every option of the base case, by the names of ``minisae info options``
    schedule                             its training, step by step: rate ``lr``, factor ``sparsity`` of λ, and what
                                         of config is otherwise
    steps                                after how many training steps parameters are given
    cases                                a list, each:

        name                   base; a situation (ties …); option=value; recipe.option=value; or preset NAME
        inputs                 which inputs it is computed on
        config, recipe         options that are not those of the file
        schedule               where it is not that of the file
        outputs, terms         names of the forward pass's outputs; of the terms of the objective, in the order of loss

An array that is the same as in ``plain`` (of inputs) or in ``base`` (of a case) is left out. Arrays of the inputs are
``INPUTS:rows``, ``odd_rows``, ``dead``, ``params/NAME`` and ``slopes/OUTPUT``; arrays of a case are ``CASE:``

    x_hat, f, pre, …           outputs in training, at the config of step 5 of the schedule, counted from 0
    encode, decode             the inference code and the reconstruction from it
    fired                      which latents fired in this batch
    loss                       (terms,) the terms of the objective, λ in full
    grads/NAME                 (outputs + 1, …) gradient of a parameter, or of ``x``, from slopes/OUTPUT on each output
                               alone, in the order of outputs, and last from all of these together
    objective/NAME             gradient of the objective
    steps/NAME                 (steps, …) parameters and state; thresholds are among them

A case whose name begins with ``recipe.`` has ``steps/NAME`` only. Training takes ``rows`` on steps 0, 2, 4 … and
``odd_rows`` on 1, 3, 5 …; ``dead`` latents have been idle for ``dead_after`` rows at the start, the others for none;
Adam starts at 0. Where a row of data holds input and target, the input comes first.

What should hold of another implementation: masks equal, numbers within 1e-12 of the largest of their array. A reader
in Node with nothing but its standard library is in :data:`READER`.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from minisae.errors import InputError
from minisae.interop.files import read_json, write_atomically
from minisae.interop.saelens import read_arrays
from minisae.presets import PRESETS
from minisae.sae import VARIANTS, variant
from minisae.verify.cases import (
    D_IN,
    D_SAE,
    STEPS,
    Base,
    Case,
    cases,
    choices,
    config,
    extra_topk,
    recipe,
    recipe_choices,
)
from minisae.verify.cases import base as origin
from minisae.verify.inputs import NO_B_DEC, SITUATIONS, Inputs, draw
from minisae.verify.reference import Arrays, apart, differ, results, schedule, training
from minisae.version import __version__

FORMAT = 1
FOLDER = Path(__file__).parent / "data"
"""The vectors that ship."""
DESCRIBED = SITUATIONS | {NO_B_DEC: "b_dec is 0, for a convention in which it stays there"}
"""What each set of inputs is, of those that several cases share."""
READER = """\
// node read.mjs topk: the shapes of all arrays; then format, number of cases, largest entry of the base case's code
import { readFileSync } from "node:fs";
const name = process.argv[2];
const about = JSON.parse(readFileSync(`${name}.json`, "utf8"));
const file = readFileSync(`${name}.safetensors`);
const length = Number(file.readBigUInt64LE(0)); // 8 bytes: how long the header is
const header = JSON.parse(file.toString("utf8", 8, 8 + length)); // by name: dtype, shape, data_offsets
delete header.__metadata__;
const arrays = {};
for (const [key, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
  const bytes = file.subarray(8 + length + from, 8 + length + to);
  const values = []; // row-major
  for (let at = 0; at < bytes.length; at += dtype === "F64" ? 8 : 1)
    values.push(dtype === "F64" ? bytes.readDoubleLE(at) : bytes[at]);
  arrays[key] = { shape, values };
  console.log(key, JSON.stringify(shape));
}
console.log(about.format, about.cases.length, Math.max(...arrays["base:f"].values));
"""
"""A reader in Node, of its standard library only."""


@functools.cache
def every_case(name: str) -> dict[str, Case]:
    """Return all cases of a variant: its situations under the defaults, and each other value of each option in turn.

    A value that changes nothing in the base case is shown on the first inputs on which it does, or together with the
    first value of another option with which it does: ``"target_of=batch, penalty=target_l0"``. Where TopK is a choice,
    the situations are shown with it too. Cases of the recipe
    change the training alone, and are left out where they do not (an order of steps that the variant does not take) or
    where rounding decides (the sign of a gradient that is 0 but for rounding).

    Raises
    ------
    InputError
        If a value changes nothing anywhere: a number of :data:`minisae.verify.cases.SMALL` would help.
    """
    found, start = cases(name), origin(name)
    base, values = found["base"], choices(name)
    default = base.cfg._asdict()
    places = [base] + [case for case in found.values() if case.cfg == base.cfg and case is not base]
    topk = extra_topk(name)
    places += with_topk(name, topk) if topk else []
    found |= {place.name: place for place in places}
    for option, value in others(values, default):
        on = {place.name: {key: v for key, v in topk.items() if getattr(place.cfg, key) == v} for place in places}
        tries = [(place, on[place.name]) for place in places]
        tries += [(base, {key: v}) for key, v in others(values, default) if key != option]
        shown = (with_options(start, place, {option: value, **also}, also) for place, also in tries)
        case = next((case for case in shown if case), None)
        if case is None:
            raise InputError(f"{name}: expected {option}={value} to change something in some case; it changes nothing")
        found[case.name] = case
    steps = training(base)
    for option, value in others(recipe_choices(), base.recipe._asdict()):
        case = with_recipe(start, base, option, value)
        if case and apart(training(case), steps) and not hangs_on_rounding(case):
            found[case.name] = case
    for preset in (p for p in PRESETS.values() if p.variant == name):
        case = cases(name, preset=preset.name)["base"]._replace(name=f"preset {preset.name}")
        found[case.name] = fitted(case, base.inputs) if case.situation == "plain" else case
    return found


def with_topk(name: str, topk: Mapping[str, Any]) -> list[Case]:
    """Return the situations of a variant under TopK; each has its inputs, for there is one more output: ``aux``."""
    said, found = ", ".join(f"{key}={value}" for key, value in topk.items()), cases(name, options=topk)
    same = [case for case in found.values() if case.cfg == found["base"].cfg]
    labels = [said if case is found["base"] else f"{case.name}, {said}" for case in same]
    return [case._replace(name=label, situation=label) for case, label in zip(same, labels, strict=True)]


def others(values: Mapping[str, Iterable[Any]], default: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return every option with every value but its default."""
    return [(key, value) for key, all_ in values.items() for value in all_ if value != default[key]]


def with_options(start: Base, place: Case, options: Mapping[str, Any], also: Mapping[str, Any]) -> Case | None:
    """Return a case under other options; ``None`` where they are refused, or change nothing that ``also`` does not."""
    one, without = (reconfigured(start, place, chosen) for chosen in (options, also))
    return one if one and without and differ(one, without) else None


def reconfigured(start: Base, place: Case, options: Mapping[str, Any]) -> Case | None:
    """Return a case under other options of the variant, or ``None`` where the variant refuses them."""
    try:
        cfg = config(start, options)
    except InputError:
        return None
    label = ", ".join(f"{key}={value}" for key, value in options.items())
    return fitted(place._replace(name=label, cfg=cfg, recipe=recipe(start, cfg, {})), place.inputs)


def fitted(case: Case, inputs: Inputs) -> Case:
    """Return a case on the inputs given, or on its own where it needs other arrays."""
    drawn = draw(case.variant, case.cfg)
    pairs = [(inputs.params, drawn.params), (inputs.slopes, drawn.slopes), ({"": inputs.rows}, {"": drawn.rows})]
    if all(key in have and have[key].shape == a.shape for have, need in pairs for key, a in need.items()):
        return case._replace(inputs=inputs)
    return case._replace(situation=case.name, inputs=drawn)


def with_recipe(start: Base, place: Case, option: str, value: Any) -> Case | None:
    """Return a case under another recipe, or ``None`` where the recipe makes no sense for the variant."""
    try:
        chosen = recipe(start, place.cfg, {option: value, **NEEDS.get(value, {})})
    except InputError:
        return None
    return place._replace(name=f"recipe.{option}={value}", recipe=chosen)


def hangs_on_rounding(case: Case) -> bool:
    """Whether training by sign descent ends elsewhere when parameters change by rounding errors."""
    if case.recipe.optimiser != "signum":
        return False
    params = {name: p * (1 + 2.0**-43) for name, p in case.inputs.params.items()}
    once, again = (training(c) for c in (case, case._replace(inputs=case.inputs._replace(params=params))))
    return apart(once, again)


NEEDS: dict[object, dict[str, Any]] = {"signum": {"lr_warmup": 0, "lr_decay": "constant"}}
"""What a value of the recipe asks of the rest of it."""


def packed(name: str) -> tuple[dict[str, Any], Arrays]:
    """Return what the two files of a variant hold: the JSON, and the arrays by name, masks as uint8."""
    module, found = variant(name), every_case(name)
    base = found["base"]
    common = {"config": base.cfg._asdict(), "recipe": base.recipe._asdict(), "schedule": schedule(base)}
    inputs: dict[str, str] = {}
    arrays: Arrays = {}
    described = []
    plain, first = given(base.inputs), described_case(base, common)[1]
    for case in found.values():
        if case.situation not in inputs:
            inputs[case.situation] = DESCRIBED.get(
                case.situation.partition(",")[0], "drawn for this case: it needs other arrays"
            )
            arrays |= novel(case.situation, given(case.inputs), {} if case is base else plain)
        about, own = described_case(case, common)
        described.append(about)
        arrays |= novel(case.name, own, {} if case is base else first)
    about = {
        "format": FORMAT, "minisae": __version__, "variant": name, "source": module.SOURCE,
        "letters": {"n": len(base.inputs.rows), "d_in": D_IN, "d_sae": D_SAE}, "shapes": module.SHAPES,
        "state": getattr(module, "STATE", ()), "inputs": inputs, "steps": STEPS, **common, "cases": described,
    }  # fmt: skip
    masks = {key: a.astype(np.uint8) for key, a in arrays.items() if a.dtype == bool}
    return json.loads(json.dumps(about)), arrays | masks


def novel(owner: str, arrays: Arrays, known: Arrays) -> Arrays:
    """Return arrays as ``OWNER:NAME``, without those that are known to the last bit under their name."""
    return {f"{owner}:{key}": a for key, a in arrays.items() if key not in known or a.tobytes() != known[key].tobytes()}


def given(inputs: Inputs) -> Arrays:
    """Return the arrays of the inputs by their names in the file."""
    parts = {"params": inputs.params, "slopes": inputs.slopes}
    nested = {f"{part}/{key}": a for part, arrays in parts.items() for key, a in arrays.items()}
    return {"rows": inputs.rows, "odd_rows": inputs.odd_rows, "dead": inputs.dead, **nested}


def described_case(case: Case, common: Mapping[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """Return what the JSON says of a case, beside what is common to all, and its arrays."""
    about: dict[str, Any] = {"name": case.name, "inputs": case.situation}
    for part, options in (("config", case.cfg), ("recipe", case.recipe)):
        about[part] = {key: v for key, v in options._asdict().items() if v != common[part][key]}
    if (moved := schedule(case)) != common["schedule"]:
        about["schedule"] = moved
    if case.name.startswith("recipe."):
        return about, stacked(training(case), "steps", [str(step) for step in STEPS])
    found = results(case)
    on = list(dict.fromkeys(key.split("/")[1] for key in found if key.startswith("grads/")))[:-1]
    terms = {key.partition("/")[2]: a for key, a in found.items() if key.startswith("loss/")}
    about |= {"outputs": on[:-1], "terms": list(terms)}
    plain = {key: a for key, a in found.items() if "/" not in key}
    last = {f"objective/{key.split('/')[2]}": a for key, a in found.items() if key.startswith("grads/objective/")}
    more = stacked(found, "grads", on) | stacked(found, "steps", [str(step) for step in STEPS])
    return about, plain | {"loss": np.array(list(terms.values()))} | last | more


def stacked(found: Arrays, part: str, order: list[str]) -> Arrays:
    """Return the arrays ``PART/ONE/NAME`` as ``PART/NAME``, with a first axis over ONE in the order given."""
    names = [key.split("/")[2] for key in found if key.startswith(f"{part}/{order[0]}/")]
    return {f"{part}/{name}": np.stack([found[f"{part}/{one}/{name}"] for one in order]) for name in names}


def write(folder: Path, names: Iterable[str] = tuple(VARIANTS)) -> list[Path]:
    """Write the vectors of variants into a folder, two files each; return their paths.

    The same library on the same machine writes the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        about, arrays = packed(name)
        files = {"json": f"{as_text(about)}\n".encode(), "safetensors": safetensors.numpy.save(arrays)}
        for ending, data in files.items():
            write_atomically(folder / f"{name}.{ending}", data)
            paths.append(folder / f"{name}.{ending}")
    return paths


def as_text(about: Mapping[str, Any]) -> str:
    """Return JSON with a line for each entry, and for each case."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.items()]
    each = [json.dumps(case, ensure_ascii=False) for case in about["cases"]]
    lines[-1] = '"cases": [\n ' + ",\n ".join(each) + "\n]"
    return "{\n" + ",\n".join(lines) + "\n}"


def read(name: str, folder: Path = FOLDER) -> tuple[dict[str, Any], Arrays]:
    """Read the two files of a variant.

    Raises
    ------
    InputError
        If a file is missing or damaged, or of another format.
    """
    about = read_json(folder / f"{name}.json")
    if about.get("format") != FORMAT:
        raise InputError(f"{folder / name}.json: expected format {FORMAT}, got {about.get('format')!r}")
    return about, read_arrays(folder / f"{name}.safetensors")


def mismatches(ours: Arrays, theirs: Arrays, *, tolerance: float = 1e-12) -> list[str]:
    """Return a line for each array that is missing, has another shape, or differs; integers must be equal.

    Parameters
    ----------
    ours, theirs : by name
    tolerance : of floats, relative to the largest entry of the array
    """
    found = [f"{key}: only on one side" for key in sorted(ours.keys() ^ theirs.keys())]
    for key in ours.keys() & theirs.keys():
        a, b = ours[key], theirs[key]
        if a.shape != b.shape or a.dtype != b.dtype:
            found.append(f"{key}: expected {a.dtype} {a.shape}, got {b.dtype} {b.shape}")
        elif a.dtype.kind != "f":
            found += [] if np.array_equal(a, b) else [f"{key}: masks differ"]
        elif not np.abs(a - b).max(initial=0) <= tolerance * np.abs(a).max(initial=0):
            found.append(f"{key}: differs by {np.abs(a - b).max():.1e} of {np.abs(a).max():.1e}")
    return found
