"""Small float64 cases of every variant under every convention, and what the reference computes on them.

Cases are made from what the library knows of itself: the variants in ``VARIANTS``, the fields of their ``Config`` and
of the ``Recipe``, and the values of the switches. So a new variant or a new value of a switch is in them by itself.
Every input is a multiple of 1/64 (what is put at an edge, of 1/4096): products and short sums of these are exact in
float64, so which latents are selected does not depend on the order in which a BLAS adds, and a tie is a tie everywhere.
Letters: n rows, d_in, d_sae.
"""

import functools
import typing
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minisae import presets
from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.ops import dense
from minisae.recipe import CHOICES, Recipe, check_recipe
from minisae.sae import variant
from minisae.streams import generator

GRID = 64
"""Inputs are multiples of ``1 / GRID``."""
N, D_IN, D_SAE = 5, 3, 7
"""Sizes: distinct primes, so that a transposed shape cannot pass."""
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


class Inputs(NamedTuple):
    """What is given."""

    rows: np.ndarray
    """Rows of data ``(n, d_in)``; wider where a row holds input and target."""
    odd_rows: np.ndarray
    """Rows of the second, fourth, … training step, of the same shape."""
    dead: np.ndarray
    """Which latents count as dead: bool ``(d_sae,)``."""
    params: dict[str, np.ndarray]
    """Parameters and state, by name."""
    slopes: dict[str, np.ndarray]
    """A slope for each output, of its shape, by the output's name."""


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


SITUATIONS = {
    "plain": "nothing special: b_dec, b_enc and thresholds are not 0, decoder rows have no unit norm, some are dead",
    "ties": "latents 0, 2 and 4 have the same pre-activations, and so have 1 and 5: the lowest index is selected first",
    "negative row": "all pre-activations of row 0 are negative, and those of latent 0 in every row",
    "at the edge": "the largest pre-activation of row 0 is exactly at its threshold; at 0 where there is none",
    "threshold below 0": "the thresholds of latents 0 and 3 are -1; row 0 excites them by about -1/4 and by exactly 0",
    "all latents": "k = d_sae",
    "dead latent": "latent 2 never fires, and is the one that counts as dead",
    "zero decoder row": "row 3 of W_dec is 0",
    "x = b_dec": "row 1 of the input is b_dec",
    "lambda = 0": "every coefficient of a penalty is 0",
}
"""What is awkward in each set of inputs, or in the numbers of the configuration."""
NO_B_DEC = "no b_dec"
"""Plain inputs with ``b_dec`` at 0, for a convention in which it stays there."""


def grid(a: Any) -> np.ndarray:
    """Round to multiples of 1/64."""
    return np.round(np.asarray(a, dtype=np.float64) * GRID) / GRID


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
        return Base(name, sizes | small, RECIPE, PARTIAL)
    if presets.preset(preset).variant != name:
        raise InputError(f"preset: {preset} is of {presets.preset(preset).variant}, got variant {name}")
    chosen = presets.options(preset, presets.Sizes(D_IN, D_SAE, STEPS[-1], N, "float64"))
    small = {key: value for key, value in small.items() if key in SIZES}
    training = {key: RECIPE[key] for key in ("steps", "batch_size", "dtype")}
    training |= {key: value for key, value in chosen.items() if key in Recipe._fields and key not in FIXED}
    return Base(name, sizes | {key: v for key, v in chosen.items() if key in fields} | small, training, ())


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


def split_rows(name: str, rows: np.ndarray, cfg: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return input and target of rows of data; they are the same but where a row holds both."""
    module = variant(name)
    return module.split(rows, cfg) if hasattr(module, "split") else (rows, rows)


@functools.cache
def draw(name: str, cfg: Any) -> Inputs:
    """Return inputs with nothing special about them."""
    module, rng = variant(name), generator(0, "conformance", zlib.crc32(name.encode()))
    width = module.row_width(cfg) if hasattr(module, "row_width") else cfg.d_in
    rows, odd_rows = grid(rng.standard_normal((2, N, width)))  # (n, d_row) each
    params = module.init(cfg, rng, sample=rows, dtype=np.float64)
    params = {key: grid(p + 0.3 * rng.standard_normal(p.shape)) for key, p in params.items()}
    dead = np.arange(cfg.d_sae) % 3 == 1  # (d_sae,)
    x = split_rows(name, rows, cfg)[0]  # (n, d_in)
    out = module.forward(params, x, cfg, dead=dead)[0]
    for step in range(3 if hasattr(module, "after_step") else 0):
        module.after_step(params, out, cfg, step=step)
    params = {key: grid(p) for key, p in params.items()}
    shapes = {key: dense(value).shape for key, value in out._asdict().items() if value is not None}
    return Inputs(rows, odd_rows, dead, params, {key: grid(rng.standard_normal(s)) for key, s in shapes.items()})


def changed(situation: str, name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs in which something is awkward, or ``None`` where the variant knows no such thing."""
    shapes = variant(name).SHAPES
    params = {key: p.copy() for key, p in plain.params.items()}
    rows, dead = plain.rows.copy(), plain.dead  # (n, d_row), (d_sae,)
    if situation == "ties":
        for key in shapes:
            if "d_sae" in shapes[key] and (key != "W_dec" or "W_enc" not in shapes):
                latents = np.moveaxis(params[key], shapes[key].index("d_sae"), 0)  # (d_sae, ...), a view
                latents[[2, 4]], latents[5] = latents[0], latents[1]
    elif situation == "negative row":
        return _with_negative_row(name, cfg, plain)
    elif situation == "at the edge":
        return _at_the_edge(name, cfg, plain)
    elif situation == "threshold below 0":
        return _below_zero(name, cfg, plain)
    elif situation == "dead latent":
        dead = np.arange(cfg.d_sae) == 2  # (d_sae,)
        if "b_enc" in params:
            params["b_enc"][..., 2] = -16
    elif situation == "zero decoder row":
        if "W_dec" not in shapes:
            return None
        np.moveaxis(params["W_dec"], shapes["W_dec"].index("d_sae"), 0)[3] = 0
    elif situation == "x = b_dec":
        if shapes.get("b_dec") != ("d_in",):
            return None
        rows[1, : cfg.d_in] = params["b_dec"]
    return plain._replace(rows=rows, dead=dead, params=params)


def _at_the_edge(name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs in which one pre-activation is exactly where its latent begins to fire."""
    out = variant(name).forward(plain.params, split_rows(name, plain.rows, cfg)[0], cfg, dead=plain.dead)[0]
    j = int(out.pre[0].argmax())
    key = next((k for k in ("threshold", "b_enc") if k in plain.params and plain.params[k].shape == (cfg.d_sae,)), None)
    if key is None:
        return None
    edge = plain.params[key].copy()  # (d_sae,)
    edge[j] = out.pre[0, j] if key == "threshold" else edge[j] - out.pre[0, j]
    if (edge * GRID**2 % 1).any():  # this variant's pre-activations are not exact
        return None
    return plain._replace(params=plain.params | {key: edge})


def _below_zero(name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs with two trained thresholds below 0, and pre-activations between them and 0, whatever was drawn."""
    if not hasattr(cfg, "kernel") or getattr(cfg, "threshold_as", "itself") != "itself":
        return None
    pre = variant(name).forward(plain.params, split_rows(name, plain.rows, cfg)[0], cfg)[0].pre[0]  # (d_sae,)
    threshold, b_enc = plain.params["threshold"].copy(), plain.params["b_enc"].copy()  # (d_sae,) each
    threshold[[0, 3]] = -1
    b_enc[[0, 3]] -= grid(pre[0]) + 0.25, pre[3]
    return plain._replace(params=plain.params | {"threshold": threshold, "b_enc": b_enc})


def _with_negative_row(name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs whose row 0 is small, or near ``b_dec``, with ``b_enc`` below 0: all it can excite is negative."""
    if "b_enc" not in plain.params or plain.params["b_enc"].shape != (cfg.d_sae,):
        return None
    b_enc = -np.abs(plain.params["b_enc"]) - 0.5  # (d_sae,)
    b_enc[0] = -16
    params = plain.params | {"b_enc": b_enc}
    for centre in (plain.params.get("b_dec", 0), 0):
        if np.shape(centre) not in ((), plain.rows[0].shape):
            continue
        rows = plain.rows.copy()  # (n, d_row)
        rows[0] = grid(rows[0] / 16) + centre
        inputs = plain._replace(rows=rows, params=params)
        out = variant(name).forward(params, split_rows(name, rows, cfg)[0], cfg, dead=plain.dead)[0]
        if (out.pre[0] < 0).all():
            return inputs
    return None
