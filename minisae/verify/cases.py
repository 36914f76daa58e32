"""Small float64 cases of every variant under every convention, and what the reference computes on them.

Cases are made from what the library knows of itself: the variants in ``VARIANTS``, the fields of their ``Config`` and
of the ``Recipe``, and the values of the switches. So a new variant or a new value of a switch is in them by itself.
Letters: n rows, d_in, d_sae.
"""

import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minisae import presets
from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.recipe import CHOICES, Recipe, check_recipe
from minisae.sae import variant
from minisae.verify.inputs import NO_B_DEC, SITUATIONS, Inputs, N, changed, draw

D_IN, D_SAE = 3, 7
"""Sizes; with ``inputs.N`` distinct primes, so that a transposed shape cannot pass."""
STEPS = (1, 3, 10)
"""After how many training steps parameters are given."""
MIDDLE = 5
"""The step whose configuration the outputs are computed with, for variants whose configuration moves in training."""
SMALL: dict[str, Any] = {
    "d_out": 4, "splits": (1,), "k": 3, "k_aux": 2, "auxk": 0.375, "l1": 0.25, "target": 3.0, "tanh_scale": 1.5,
    "bandwidth": 0.75, "first_threshold": 0.25, "log_unit": 0.75, "threshold_decay": 0.875,
}  # fmt: skip
"""Numbers of a ``Config`` whose default is too large for such sizes or hides what they do; the others are default.

So what is no part of the variant's paper is off: an implementation of the paper agrees.
"""
TOPK = ("k", "k_aux", "auxk")
"""Those that switch TopK on where a variant's paper has ReLU (its k is 0 by default): off there, as other extras."""
SIZES = ("d_out", "splits", "k")
"""Which of these a preset gets too."""
ALSO: dict[str, tuple[Any, ...]] = {
    "p": (0.5,), "multi": (1,), "prefixes": ((2, 5),), "n_prefixes": (3,), "residual_threshold": (0.5,),
    "delta": (0.25,), "threshold_start": (1,), "mse_weight": (0.75,), "pre_act": (0.375,), "bias_decay": (0.125,),
}  # fmt: skip
"""Numbers that are shown with another value too, for they switch something on or change more than a size."""
RECIPE: dict[str, Any] = {
    "steps": STEPS[-1], "batch_size": N, "dtype": "float64", "lr": 0.03125, "lr_warmup": 2, "lr_decay_start": 0.5,
    "eps": 2.0**-10, "clip": 0.5, "dead_after": 3 * N, "init_rows": 1,
}  # fmt: skip
"""Options of the ten training steps; Adam's ε is large, or it would blow gradients up that are rounding errors of 0."""
PARTIAL: tuple[dict[str, Any], ...] = ({"sparsity_warmup": 4}, {"k_start": 5, "k_anneal": 4})
"""Parts of the recipe that some variants refuse."""
COEFFICIENTS = ("l1", "auxk", "pre_act", "bias_decay")
"""What a Config calls the weights of its penalties."""
FIXED = ("dtype", "input_scale", "resample")
"""Choices of the recipe that are no part of a single training step."""


class Case(NamedTuple):
    """One configuration on one set of inputs."""

    name: str
    """``"base"``, ``"reduction=mean"``, ``"ties"``, …; ``"recipe.order=…"`` where only the training differs."""
    variant: str
    """Name of the variant."""
    cfg: Any
    """Its ``Config``."""
    recipe: Recipe
    """How it is trained."""
    situation: str
    """Which inputs: a name of :data:`SITUATIONS`, or the case's own where it needs others."""
    inputs: Inputs
    """They themselves."""


class Base(NamedTuple):
    """From which options a variant's cases start: our own, or those of a preset."""

    variant: str
    """Name of the variant."""
    options: Mapping[str, Any]
    """Of its ``Config``."""
    recipe: Mapping[str, Any]
    """Of the ``Recipe``."""
    partial: tuple[Mapping[str, Any], ...]
    """More of the recipe, each part taken if the variant takes it."""


def base(name: str, *, preset: str | None = None) -> Base:
    """Return the options from which a variant's cases start.

    Raises
    ------
    InputError
        If there is no such variant or preset, or the preset is of another variant.
    """
    fields = variant(name).Config._fields
    sizes = {"d_in": D_IN, "d_sae": D_SAE}
    small = {key: value for key, value in SMALL.items() if key in fields}
    if preset is None:
        off = extra_topk(name)
        return Base(name, sizes | {key: value for key, value in small.items() if key not in off}, RECIPE, PARTIAL)
    if presets.preset(preset).variant != name:
        raise InputError(f"preset: {preset} is of {presets.preset(preset).variant}, got variant {name}")
    chosen = presets.options(preset, presets.Sizes(D_IN, D_SAE, STEPS[-1], N, "float64"))
    small = {key: value for key, value in small.items() if key in SIZES}
    training = {key: RECIPE[key] for key in ("steps", "batch_size", "dtype")}
    training |= {key: value for key, value in chosen.items() if key in Recipe._fields and key not in FIXED}
    return Base(name, sizes | {key: v for key, v in chosen.items() if key in fields} | small, training, ())


def extra_topk(name: str) -> dict[str, Any]:
    """Return the options that give a variant TopK in place of its paper's ReLU; none where there is no such choice."""
    return {key: SMALL[key] for key in TOPK} if variant(name).Config._field_defaults.get("k") == 0 else {}


def config(start: Base, options: Mapping[str, Any]) -> Any:
    """Return the configuration of a case, with ``options`` over those it starts from.

    Raises
    ------
    InputError
        If the variant has no such option or refuses a value.
    """
    module = variant(start.variant)
    for option in options:
        if option not in module.Config._fields:
            known = ", ".join(module.Config._fields)
            raise InputError(f"{option}: {start.variant} has no such option; expected some of {known}")
    cfg = module.Config(**{**start.options, **options})
    module.check_config(cfg)
    return cfg


def recipe(start: Base, cfg: Any, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the ten training steps, with ``options`` over those it starts from."""
    found = Recipe(**start.recipe)
    for part in start.partial:
        try:
            check_recipe(found._replace(**part), cfg)
        except InputError:
            continue
        found = found._replace(**part)
    found = found._replace(**options)
    check_recipe(found, cfg)
    return found


def choices(name: str) -> dict[str, tuple[Any, ...]]:
    """Return the named options of a variant and what each can be: switches, flags, and more."""
    config = variant(name).Config
    hints = typing.get_type_hints(config)
    found: dict[str, tuple[Any, ...]] = {}
    for field in config._fields:
        if field in SWITCHES:
            found[field] = SWITCHES[field].values
        elif field in ALSO or hints[field] is bool:
            found[field] = ALSO.get(field, (False, True))
        elif typing.get_origin(hints[field]) is typing.Literal:
            found[field] = typing.get_args(hints[field])
    return found


def recipe_choices() -> dict[str, tuple[Any, ...]]:
    """Return the named options of the recipe that bear on a single step."""
    known = {**CHOICES, **{name: switch.values for name, switch in SWITCHES.items()}}
    return {field: known[field] for field in Recipe._fields if field in known and field not in (*FIXED, "b_dec_start")}


def cases(name: str, *, preset: str | None = None, options: Mapping[str, Any] | None = None) -> dict[str, Case]:
    """Return the cases of a variant that differ in their inputs, all of one configuration: a *convention*.

    Parameters
    ----------
    name : of the variant
    preset : start from this preset, not from :data:`SMALL` and :data:`RECIPE`
    options : of its ``Config`` or of the ``Recipe``, over these

    Raises
    ------
    InputError
        If a name is not known, or an option refused.

    Examples
    --------
    >>> found = cases("topk", options={"reduction": "mean"})
    >>> list(found)[:5]
    ['base', 'ties', 'negative row', 'at the edge', 'all latents']
    """
    start = base(name, preset=preset)
    training = {key: value for key, value in (options or {}).items() if key in Recipe._fields}
    own = {key: value for key, value in (options or {}).items() if key not in training}
    cfg = config(start, own)
    first = Case("base", name, cfg, recipe(start, cfg, training), "plain", draw(name, cfg))
    if first.recipe.b_dec_start == "zero" and not first.recipe.train_b_dec:
        zero = {"b_dec": np.zeros_like(first.inputs.params["b_dec"])}
        first = first._replace(situation=NO_B_DEC, inputs=first.inputs._replace(params=first.inputs.params | zero))
    plain, found = first.inputs, {"base": first}
    for situation in list(SITUATIONS)[1:]:
        numbers = numbers_of(situation, cfg)
        inputs = plain if numbers else changed(situation, name, cfg, plain)
        if inputs is None or numbers is None:
            continue
        try:
            other = config(start, own | numbers)
        except InputError:  # a variant that cannot select every latent
            continue
        found[situation] = Case(situation, name, other, recipe(start, other, training), situation, inputs)
    return found


def numbers_of(situation: str, cfg: Any) -> dict[str, Any] | None:
    """Return the options that a situation asks for; ``None`` if the variant has none of them."""
    if situation == "all latents":
        return {"k": cfg.d_sae} if "k" in cfg._fields else None
    if situation == "lambda = 0":
        return {key: 0.0 for key in COEFFICIENTS if key in cfg._fields} or None
    return {}
