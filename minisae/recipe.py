"""The recipe of a training run: every number that decides how parameters move, with its default and its check."""

from typing import Any, NamedTuple

from minisae.conventions import check, check_number
from minisae.dead import RESAMPLERS
from minisae.errors import InputError
from minisae.optim import EPS_CONVENTIONS
from minisae.schedules import DECAYS

INPUT_SCALES = ("none", "mean_norm", "mean_square")
DTYPES = ("float32", "float64")
CHOICES: dict[str, tuple[object, ...]] = {
    "dtype": DTYPES, "lr_decay": DECAYS, "eps_convention": EPS_CONVENTIONS, "input_scale": INPUT_SCALES,
    "resample": ("none", *RESAMPLERS), "ghost": (False, True),
}  # fmt: skip
"""What options that are no switches can be."""


class Recipe(NamedTuple):
    """How to train; what is trained is the variant's ``Config``."""

    steps: int
    """Optimiser steps."""
    batch_size: int = 2048
    """Rows a step."""
    lr: float = 1e-3
    """Learning rate at its top."""
    seed: int = 0
    """Start of every random stream of the run."""
    dtype: str = "float32"
    """``"float32"``, or ``"float64"`` for checking."""
    lr_warmup: int = 0
    """Steps over which the rate rises."""
    lr_decay: str = "linear"
    """``"constant"``, ``"linear"``, ``"cosine"`` or ``"quarter_cosine"``."""
    lr_decay_start: float = 0.8
    """Share of the steps after which the rate falls."""
    sparsity_warmup: int = 0
    """Steps over which λ rises."""
    k_start: int = 0
    """With ``k_anneal``: k on the first step."""
    k_anneal: int = 0
    """Steps over which k falls from ``k_start`` to the variant's k; 0 switches it off."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    eps: float = 1e-8
    """Adam's ε."""
    eps_convention: str = "after_correction"
    """Where ε stands, see :mod:`minisae.optim`."""
    clip: float = 0.0
    """Largest joint gradient norm; 0 switches clipping off."""
    order: str = "project-clip-step-normalise"
    """Order of what follows the gradients; with ``normalise`` first, saved rows are one step off unit norm."""
    ema: float = 0.0
    """Decay of the averaged weights, which are then what is saved; they start at the initial ones. 0: off."""
    dead_after: int = 1_000_000
    """Rows without firing after which a latent counts as dead (Gao et al.: ten million); lower it for short runs."""
    ghost: bool = False
    """Add ghost gradients."""
    resample: str = "none"
    """``"none"``, or a name of :data:`minisae.dead.RESAMPLERS`."""
    resample_every: int = 25_000
    """Steps between resamplings."""
    resample_until: int = 0
    """Last step at which to resample; 0 means the end."""
    resample_after: int = 0
    """Rows without firing that count as dead for resampling; 0 takes half of ``resample_every`` steps."""
    resample_rows: int = 819_200
    """Rows to draw from; ARENA's advanced resampler uses one batch."""
    resample_scale: float = 0.0
    """Scale of new encoder rows; 0 takes the source's."""
    input_scale: str = "none"
    """Scale activations to a mean norm of √d_in or to a mean squared norm of 1; folded out on saving."""
    init_rows: int = 16_384
    """Rows from which ``b_dec`` and the input scale are estimated."""
    log_every: int = 100
    """Steps between records."""
    save_every: int = 1000
    """Steps between checkpoints."""


def check_recipe(recipe: Recipe, cfg: Any) -> None:
    """Refuse a recipe that makes no sense, by itself or for the variant's ``Config``, in one line."""
    at_least_one = ("steps", "batch_size", "log_every", "save_every", "resample_every", "init_rows", "dead_after")
    for name in (*at_least_one, "resample_rows"):
        check_number(name, getattr(recipe, name), least=1, whole=True)
    for name in ("seed", "lr_warmup", "sparsity_warmup", "k_start", "k_anneal", "resample_until", "resample_after"):
        check_number(name, getattr(recipe, name), least=0, whole=True)
    for name in ("lr", "eps", "clip", "resample_scale"):
        check_number(name, getattr(recipe, name), least=0)
    for name in ("beta1", "beta2", "ema"):
        check_number(name, getattr(recipe, name), least=0, below=1)
    check_number("lr_decay_start", recipe.lr_decay_start, least=0, most=1)
    check("order", recipe.order)
    for name, values in CHOICES.items():
        if getattr(recipe, name) not in values:
            raise InputError(f"{name}: expected one of {', '.join(map(str, values))}, got {getattr(recipe, name)!r}")
    _check_annealing(recipe, cfg)
    if recipe.sparsity_warmup and not hasattr(cfg, "l1"):
        raise InputError("sparsity_warmup: expected a variant with a penalty λ, this one has none")


def _check_annealing(recipe: Recipe, cfg: Any) -> None:
    start, steps = recipe.k_start, recipe.k_anneal
    if not start and not steps:
        return
    if not hasattr(cfg, "k"):
        raise InputError("k_anneal: expected a variant with k, this one has none")
    if not start or not steps:
        raise InputError(f"k_anneal: expected k_start and k_anneal together, got k_start {start}, k_anneal {steps}")
    if not cfg.k <= start <= cfg.d_sae:
        raise InputError(f"k_start: expected between k = {cfg.k} and d_sae = {cfg.d_sae}, got {start}")
    if steps > recipe.steps:
        raise InputError(f"k_anneal: expected at most steps = {recipe.steps}, got {steps}")
