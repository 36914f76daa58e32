"""A preset in words: its formula, its recipe, and where it is not what the papers say."""

from typing import Any

from minisae.conventions import SWITCHES, check_number
from minisae.presets import Sizes, options, preset
from minisae.presets.formula import formula, number
from minisae.recipe import Recipe
from minisae.sae import variant

STEPS = {
    "project": "project the gradient of W_dec onto the tangent of its rows", "clip": "clip",
    "normalise": "divide the rows of W_dec by their norms", "forward": "forward and backward pass",
}  # fmt: skip


def settings(name: str, sizes: Sizes) -> tuple[Any, Recipe]:
    """Return the configuration and the recipe of a preset; a target of its own is as wide as the input."""
    chosen = preset(name)
    kind, given = variant(chosen.variant).Config, dict(options(name, sizes))
    own = {"d_in": sizes.d_in, "d_sae": sizes.d_sae, **({"d_out": sizes.d_in} if "d_out" in kind._fields else {})}
    cfg = kind(**own, **{key: given.pop(key) for key in list(given) if key in kind._fields})
    return cfg, Recipe(**{"steps": sizes.steps, "dtype": sizes.dtype, "batch_size": sizes.batch_size, **given})


def recipe_words(r: Recipe, *, unit: bool) -> list[str]:
    """Return a recipe in words, a line each: order, optimiser, rate, penalty, dead latents, start."""
    lines = [_order(r, unit=unit), _rate(r)]
    if r.sparsity_warmup:
        lines.append(f"λ · min(1, {_rise(r.sparsity_warmup, r.sparsity_warmup_begins)}) at step t = 0, 1, …")
    judged = ", this batch counted" if r.dead_judged == "with_batch" else ", before this batch"
    fired = f"; it fired where |f| > {r.fired_above:g}" if r.fired_above else ""
    lines.append(f"a latent is dead after {r.dead_after:,} rows without firing{judged}{fired}")
    if r.resample != "none":
        late = ", from the first step on" if r.resample_when == "one_later" else ""
        lines.append(f"dead latents are resampled as {r.resample} does, every {r.resample_every:,} steps{late}")
    where = {
        "variant": "where the variant starts it", "median": "at the geometric median of", "mean": "at the mean of",
        "zero": "at 0",
    }[r.b_dec_start]  # fmt: skip
    sample = f" {r.init_rows:,} rows" if r.b_dec_start in ("median", "mean") else ""
    still = "" if r.train_b_dec else ", and stays there"
    lines.append(f"b_dec starts {where}{sample}{still}; W_enc and W_dec at {r.start_norm:g} times the variant's start")
    if r.input_scale != "none":
        goal = {"mean_norm": "a mean norm of √d_in", "mean_square": "a mean squared norm of 1"}[r.input_scale]
        lines.append(f"activations are scaled to {goal}")
    return lines


def _rise(steps: int, begins: str) -> str:
    return f"(t + 1)/{steps}" if begins == "first_step" else f"t/{steps}"


def _rate(r: Recipe) -> str:
    rise = f" · min(1, {_rise(r.lr_warmup, r.lr_warmup_begins)})" if r.lr_warmup else ""
    start = int(r.lr_decay_start * r.steps + 1e-9)
    of = " of it" if r.lr_end else ""
    fall = "" if r.lr_decay == "constant" else f", falling ({r.lr_decay}) to {r.lr_end:g}{of} from step {start:,}"
    return f"rate {r.lr:g}{rise} at step t = 0, 1, …{fall}"


def _order(r: Recipe, *, unit: bool) -> str:
    """Return what a step does, in order."""
    adam = f"Adam (β {r.beta1:g}, {r.beta2:g}, ε {r.eps:g})"
    step = adam if r.optimiser == "adam" else f"schedule-free sign descent (β {r.beta1:g})"
    by_norm = "" if r.projection == "exact" else ", as if their norm were 1"
    words = STEPS | {"step": step, "clip": f"scale all gradients to a joint norm of {r.clip:g} at most"}
    words["project"] += by_norm + (f", norm + {r.project_eps:g}" if r.project_eps else "")
    words["normalise"] += f" + {r.normalise_eps:.2g}" if r.normalise_eps else ""
    parts = r.order.split("-")
    parts = parts if "forward" in parts else ["forward", *parts]
    skipped = {"clip"} if not r.clip else set()
    skipped |= set() if unit else {"project", "normalise"}
    return "a step: " + "; ".join(words[part] for part in parts if part not in skipped)


def differences(name: str, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return what a preset sets otherwise than the paper's defaults here: name → default, value, what it changes."""
    defaults = variant(preset(name).variant).Config._field_defaults | Recipe._field_defaults
    return {
        key: {"default": defaults[key], "value": value, "says": SWITCHES[key].says if key in SWITCHES else ""}
        for key, value in options(name, sizes).items()
    }


def describe(name: str, sizes: Sizes) -> tuple[str, dict[str, Any]]:
    """Return a preset as text for people, and as a dict: formula, recipe, options, known deviations, what is apart.

    Raises
    ------
    InputError
        If there is no preset of that name, or a size is below 1.
    """
    chosen = preset(name)
    for key in ("d_in", "d_sae", "steps", "batch_size"):
        check_number(key, getattr(sizes, key), least=1, whole=True)
    cfg, recipe = settings(name, sizes)
    about: dict[str, Any] = {
        "preset": name, "source": chosen.source, "variant": chosen.variant, "sizes": sizes._asdict(),
        "formula": formula(chosen.variant, cfg), "recipe": recipe_words(recipe, unit=cfg.decoder == "unit"),
        "options": differences(name, sizes), "known": list(chosen.known), "apart": list(chosen.apart),
    }  # fmt: skip
    at = f"d_in {sizes.d_in}, d_sae {sizes.d_sae}, {sizes.steps:,} steps of {sizes.batch_size:,} rows, {sizes.dtype}"
    lines = [f"{name}: {chosen.variant}, as {chosen.source}", f"numbers are for {at}", ""]
    lines += [f"    {line}" for line in about["formula"]]
    lines += ["", *about["recipe"], "", "options that are not at the paper's default"]
    for key, o in about["options"].items():
        change = f"{_value(o['default'])} → {_value(o['value'])}"
        lines.append(f"  {key:<22} {change}".ljust(57) + f" {o['says']}".rstrip())
    for title, found in (("known deviations, reproduced", chosen.known), ("not the same as there", chosen.apart)):
        lines += ["", title, *(f"  {line}" for line in found)] if found else []
    return "\n".join(lines), about


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
