"""What every shared test runs each variant on: the cases of its own test module, and combinations of its switches.

``tests/sae/test_NAME.py`` exports ``CASES``, each a ``Case`` that is valid from d_in = 2, d_sae = 11 and five steps
up. Together they must show every option of the variant's ``Config`` and every part of the recipe that it takes and
others refuse; :func:`unseen` says what they do not. It may export, where that is needed,

    held_fixed(module, at, rows, cfg, dead) -> values(params, x)     see :func:`as_it_is`
    saelens_code(fields, arrays, pre) -> f                        SAELens' own formula of the code
    saelens_metadata(cfg) -> dict                                 what SAELens itself notes in ``metadata``
    FIXED                                                         parameters and state that training may leave
"""

import importlib
import itertools
import random
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.recipe import Recipe, check_recipe
from minisae.sae import VARIANTS, sizes, split
from tests.helpers import perturbed

SIZES = ("d_in", "d_sae")
STRENGTH = 3
"""Every combination of this many switches is tested, and of the cases with one less."""
PARTIAL = ({"sparsity_warmup": 3}, {"k_start": 11, "k_anneal": 4})
"""Parts of the recipe that some variants refuse."""


class Case(NamedTuple):
    """One configuration of a variant."""

    options: dict[str, Any]
    """Of its ``Config``, beside the sizes."""
    recipe: dict[str, Any] = {}  # noqa: RUF012
    """Of the ``Recipe``, beside what each test sets."""


@cache
def module_of(name):
    """The variant's own test module."""
    place = f"tests.sae.test_{name}"
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name != place:
            raise
        raise LookupError(f"variant {name}: expected its tests in tests/sae/test_{name}.py, found none") from None
    if not getattr(module, "CASES", None):
        raise LookupError(f"variant {name}: expected CASES in tests/sae/test_{name}.py, found none")
    return module


def cases_of(name):
    """The cases of a variant, by label."""
    return module_of(name).CASES


def config(name, options, width=5, d_sae=13):
    """A configuration that the variant accepts, for rows of data of this width: d_in, unless they hold a target too."""
    module = VARIANTS[name]
    if "d_out" in module.Config._fields:
        options = options | {"d_out": min(options.get("d_out", 2), max(width - 1, 1))}
    cfg = module.Config(**{"d_sae": d_sae, **options, **sizes(module, (width,), options)})
    module.check_config(cfg)
    return cfg


def parts(name, rows, cfg):
    """Input and target of rows of data."""
    return split(VARIANTS[name], rows, cfg)


def explained(name, rows):
    """Rows of noise, in which the target, where it is another than the input, follows from the input."""
    rows = rows.copy()
    if hasattr(VARIANTS[name], "split"):
        rows[..., -1] = np.abs(rows[..., 0]) - rows[..., 1]
    return rows


def every_case():
    """Parameters ``(name, case)`` of a test."""
    return [pytest.param(n, case, id=f"{n}-{label}") for n in VARIANTS for label, case in cases_of(n).items()]


def first_options(name):
    """The options of the variant's first case."""
    return next(iter(cases_of(name).values())).options


def asked(name, options):
    """Options without those that training sets itself."""
    return {key: value for key, value in options.items() if key not in getattr(VARIANTS[name], "MOVING", ())}


def switches(name):
    """The variant's switches with their values."""
    return {field: SWITCHES[field].values for field in VARIANTS[name].Config._fields if field in SWITCHES}


def every_combination(more=None):
    """Parameters ``(name, options)``: cases of each variant under combinations of all its switches.

    ``more`` has further names with values: they are combined as the switches are, and follow as parameters.
    """
    found, more = [], more or {}
    for name in VARIANTS:
        cases = cases_of(name)
        for chosen in covering({"case": tuple(cases), **switches(name), **more}, STRENGTH):
            values = {field: value for field, value in chosen.items() if field != "case" and field not in more}
            label = "-".join(map(str, chosen.values()))
            beside = [chosen[field] for field in more]
            found.append(pytest.param(name, cases[chosen["case"]].options | values, *beside, id=f"{name}-{label}"))
    return found


def covering(values, strength):
    """Few choices of one value for each name, in which every combination of ``strength`` values occurs."""
    rng, strength = random.Random(0), min(strength, len(values))
    missing = {
        tuple(zip(names, chosen, strict=True)): None
        for names in itertools.combinations(values, strength)
        for chosen in itertools.product(*(values[name] for name in names))
    }
    found = []
    while missing:
        first = dict(next(iter(missing)))
        tries = [{name: first.get(name, rng.choice(options)) for name, options in values.items()} for _ in range(30)]
        held = [[part for part in itertools.combinations(a.items(), strength) if part in missing] for a in tries]
        best = max(range(len(tries)), key=lambda i: len(held[i]))
        for part in held[best]:
            del missing[part]
        found.append(tries[best])
    return found


def unseen(name, cases):
    """What of the variant's options no case shows: switch values, and numbers other than the default."""
    config_ = VARIANTS[name].Config
    found = []
    for field in config_._fields:
        default = config_._field_defaults.get(field)
        shown = [case.options.get(field, default) for case in cases.values()]
        if field in SWITCHES:
            found += [f"{field} = {value}" for value in SWITCHES[field].values if value not in shown]
        elif field not in SIZES and all(value == default for value in shown):
            found.append(f"{field} other than {default}")
    accepted = [part for part in PARTIAL if any(takes(name, case, part) for case in cases.values())]
    for option in (key for part in accepted for key in part):
        if not any(option in case.recipe for case in cases.values()):
            found.append(f"{option} of the recipe")
    return found


def takes(name, case, part):
    """Whether the variant trains with this part of a recipe."""
    try:
        check_recipe(Recipe(steps=5, **part), config(name, case.options, 17, 97))
    except InputError:
        return False
    return True


def lived_in(name, cfg, rng, x):
    """Parameters away from every special value, and the state after a few batches of rows ``x (n, d_in)``."""
    module = VARIANTS[name]
    params = perturbed(module, cfg, rng)
    for step in range(5 if hasattr(module, "after_step") else 0):
        module.after_step(params, module.forward(params, x, cfg)[0], cfg, step=step)
    return params


def as_it_is(module, at, rows, cfg, dead):
    """Outputs and loss terms as functions of parameters and input, for finite differences at ``at`` and ``rows``.

    A variant whose derivative is not that of its value (something is held fixed, or the slope is defined and not
    derived) exports a ``held_fixed`` of its own: functions with the derivative that its source states.
    """

    y = split(module, rows, cfg)[1]

    def values(params, seen):
        out = module.forward(params, seen, cfg, dead=dead)[0]
        return out, module.objective(params, out, y, cfg, dead=dead)

    return values


def differentiable(name):
    """The variant's ``held_fixed``, or :func:`as_it_is`."""
    return getattr(module_of(name), "held_fixed", as_it_is)
