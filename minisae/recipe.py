"""The recipe of a training run: every number that decides how parameters move, with its default and its check."""

from typing import Any, NamedTuple

from minisae.conventions import SWITCHES, check, check_number
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
    lr_warmup_begins: str = "first_step"
    """With the first step of its rise, or with zero."""
    lr_decay: str = "linear"
    """``"constant"``, ``"linear"``, ``"cosine"`` or ``"quarter_cosine"``."""
    lr_decay_start: float = 0.8
    """Share of the steps after which the rate falls."""
    lr_end: float = 0.0
    """Share of the rate that is left at the last step."""
    sparsity_warmup: int = 0
    """Steps over which λ rises."""
    sparsity_warmup_begins: str = "first_step"
    """With the first step of its rise, or with zero."""
    k_start: int = 0
    """With ``k_anneal``: k on the first step."""
    k_anneal: int = 0
    """Steps over which k falls from ``k_start`` to the variant's k; 0 switches it off."""
    optimiser: str = "adam"
    """``"adam"``, or ``"signum"``: schedule-free sign descent, whose rate must not rise."""
    beta1: float = 0.9
    """Adam's decay of the first moment; β of schedule-free sign descent."""
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
    projection: str = "exact"
    """What the projection takes the norms of decoder rows to be."""
    project_eps: float = 0.0
    """ε that the projection adds to the norms of decoder rows (dictionary_learning: 1e-6)."""
    normalise_eps: float = 0.0
    """ε that the renormalisation adds to the norms of decoder rows."""
    ema: float = 0.0
    """Decay of the averaged weights, which are then what is saved; they start at the initial ones. 0: off."""
    dead_after: int = 1_000_000
    """Rows without firing after which a latent counts as dead (Gao et al.: ten million); lower it for short runs."""
    dead_judged: str = "before"
    """Before the batch, or with it; the second costs another forward pass while latents may be dead."""
    fired_above: float = 0.0
    """A latent fired where the size of its code is above this (OpenAI: 1e-3); 0 asks the variant."""
    ghost: bool = False
    """Add ghost gradients."""
    resample: str = "none"
    """``"none"``, or a name of :data:`minisae.dead.RESAMPLERS`."""
    resample_every: int = 25_000
    """Steps between resamplings."""
    resample_when: str = "multiple"
    """Which steps a resampling follows."""
    lr_warmup_again: bool = False
    """The rate's rise begins again after each ``resample_every`` steps."""
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
    b_dec_start: str = "variant"
    """Where ``b_dec`` starts."""
    train_b_dec: bool = True
    """Train ``b_dec``, or leave it where it starts."""
    start_norm: float = 1.0
    """What W_enc and W_dec are multiplied by at the start (SAELens: 0.1)."""
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
    for name in ("lr", "eps", "clip", "resample_scale", "project_eps", "normalise_eps", "fired_above", "start_norm"):
        check_number(name, getattr(recipe, name), least=0)
    for name in ("beta1", "beta2", "ema"):
        check_number(name, getattr(recipe, name), least=0, below=1)
    for name in ("lr_decay_start", "lr_end"):
        check_number(name, getattr(recipe, name), least=0, most=1)
    for name in Recipe._fields:
        if name in SWITCHES:
            check(name, getattr(recipe, name))
    for name, values in CHOICES.items():
        if getattr(recipe, name) not in values:
            raise InputError(f"{name}: expected one of {', '.join(map(str, values))}, got {getattr(recipe, name)!r}")
    _check_annealing(recipe, cfg)
    if recipe.optimiser == "signum":
        _check_signum(recipe)
    if recipe.sparsity_warmup and not hasattr(cfg, "l1"):
        raise InputError("sparsity_warmup: expected a variant with a penalty λ, this one has none")


def _check_signum(recipe: Recipe) -> None:
    """Refuse what schedule-free sign descent has no place for: a rate that rises, other averages, moments to reset."""
    fixed = {"lr_warmup": 0, "ema": 0.0, "resample": "none"}
    for name, value in fixed.items():
        if getattr(recipe, name) != value:
            raise InputError(f"{name}: expected {value} with optimiser signum, got {getattr(recipe, name)!r}")
    if recipe.beta1 == 0:
        raise InputError("beta1: expected a number above 0 with optimiser signum, got 0")


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
