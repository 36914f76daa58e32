"""Training: a ``Run`` holds all state, ``step`` takes it one batch further, ``fit`` does so until the end.

    forward → objective → backward → (project, clip, Adam, normalise, in the recipe's order) → counters, state

State that a variant keeps beside its parameters, such as a running threshold, it names in ``STATE`` and moves in its
``after_step``: the optimiser and the averaged weights leave it alone.

A step changes parameters, moments and counters in place and takes nothing off the device; numbers are read at the
declared points only: logging, checkpoints, resampling.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minisae import dead as dead_
from minisae import losses
from minisae.backend import Array, backend_of, namespace, to_device, to_host
from minisae.cache.stream import Source
from minisae.errors import InputError
from minisae.ops import dense, geometric_median, known_false, l0, normalise_rows, project_rows
from minisae.optim import (
    AdamState,
    adam_init,
    adam_step,
    clip_by_global_norm,
    ema_update,
    signum_init,
    signum_step,
)
from minisae.recipe import Recipe, check_recipe
from minisae.sae import row_width, split
from minisae.sae import variant as variant_module
from minisae.schedules import anneal, decay, warmup
from minisae.streams import child_seed, generator


class Run(NamedTuple):
    """The whole state of a training run."""

    variant: str
    """Name of the variant."""
    cfg: Any
    """Its ``Config``."""
    recipe: Recipe
    """How to train."""
    params: dict[str, Array]
    """Parameters and the variant's state, changed in place."""
    adam: AdamState
    """Adam's moments, changed in place."""
    average: dict[str, Array]
    """Averaged weights; empty where they are off."""
    idle: Array
    """Rows since each latent fired, int64 ``(d_sae,)``."""
    bad_step: Array
    """First step whose loss was not finite, int64 ``(1,)``; −1 while there is none."""
    scale: float
    """What inputs are multiplied by."""
    resampled: int
    """Latents resampled so far."""
    step: int
    """Steps taken."""


class Diverged(ArithmeticError):
    """A loss was not finite, or what a step left behind; ``step`` is that step, counted from 0."""

    def __init__(self, step: int) -> None:
        super().__init__(f"loss or parameters were not finite at step {step}")
        self.step = step


Record = dict[str, float]
Hook = Callable[[Run, Record], None]


def start(source: Source, variant: str, cfg: Any, recipe: Recipe, *, backend: str = "numpy") -> Run:
    """Return a run at step 0: parameters drawn, ``b_dec`` and the input scale estimated on rows of the source."""
    module = variant_module(variant)
    module.check_config(cfg)
    check_recipe(recipe, cfg)
    if recipe.start_norm != 1 and hasattr(module, "derived"):
        raise InputError(f"start_norm: expected 1 for {variant}, whose W_dec follows, got {recipe.start_norm}")
    if source.d_in != row_width(module, cfg):
        raise InputError(f"d_in: the data has width {source.d_in}, the configuration says {row_width(module, cfg)}")
    seed = child_seed(recipe.seed, "init_rows")
    sample = np.concatenate(list(sample_chunks(source, recipe.init_rows, seed=seed)))  # (n, width)
    scale = input_scale(sample, recipe.input_scale)
    dtype = np.dtype(recipe.dtype)
    rng = generator(recipe.seed, "init")
    host = module.init(cfg, rng, sample=sample * np.float32(scale), dtype=dtype)
    starting_point(host, split(module, sample * np.float32(scale), cfg)[1], recipe)
    params = {name: to_device(p, backend) for name, p in host.items()}
    trained = {name: p for name, p in params.items() if name not in getattr(module, "STATE", ())}
    xp = namespace(params["W_dec"])
    return Run(
        variant, cfg, recipe, params, (signum_init if recipe.optimiser == "signum" else adam_init)(trained),
        {name: p.copy(order="K") for name, p in trained.items()} if recipe.ema else {},
        xp.zeros(cfg.d_sae, dtype=xp.int64), xp.full(1, -1, dtype=xp.int64), scale, 0, 0,
    )  # fmt: skip


def starting_point(params: dict[str, Array], sample: Array, recipe: Recipe) -> None:
    """Put ``b_dec`` and the norms of the weights where the recipe starts them, in place, on the host.

    ``sample (n, d_in)``: scaled targets. Without ``start_norm`` and with ``b_dec_start="variant"`` nothing changes.
    """
    if recipe.b_dec_start != "variant":
        if "b_dec" not in params:
            raise InputError(f"b_dec_start: expected a variant with b_dec, got {recipe.b_dec_start!r} for one without")
        how = recipe.b_dec_start
        params["b_dec"][...] = (
            0 if how == "zero" else sample.mean(axis=0) if how == "mean" else geometric_median(sample)
        )
    if recipe.start_norm != 1:
        for name in params.keys() & {"W_enc", "W_dec"}:
            params[name] *= recipe.start_norm


def sample_chunks(source: Source, n: int, *, seed: int) -> Iterator[np.ndarray]:
    """Yield up to ``n`` rows of a shuffled source, as many as it has, in chunks of at most 4096 ``(rows, d_in)``."""
    left = n if source.rows is None else min(n, source.rows)
    for batch in source.batches(min(left, 4096), seed=seed):
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return


def input_scale(x: np.ndarray, how: str) -> float:
    """Return the factor that gives rows ``x (n, d_in)`` a mean norm of √d_in, or a mean squared norm of 1."""
    if how == "none":
        return 1.0
    squares = np.square(x, dtype=np.float64).sum(axis=1)  # (n,)
    size = float(np.sqrt(squares).mean()) if how == "mean_norm" else float(np.sqrt(squares.mean()))
    if size == 0:
        raise InputError("input_scale: the rows it is estimated on are all zero")
    return float(np.sqrt(x.shape[1])) / size if how == "mean_norm" else 1 / size


def now(run: Run) -> tuple[Any, float, float]:
    """Return the configuration (k annealed), the learning rate and the factor of λ at this step."""
    r, cfg, module = run.recipe, run.cfg, variant_module(run.variant)
    if r.k_anneal:
        k = anneal(run.step, first=r.k_start, last=cfg.k, steps=r.k_anneal)
        cfg = cfg._replace(k=k if getattr(module, "FRACTIONAL_K", False) else round(k))
    if hasattr(module, "at_step"):
        cfg = module.at_step(cfg, step=run.step, steps=r.steps, seed=r.seed)
    start = int(r.lr_decay_start * r.steps + 1e-9)  # a whole number of steps stays one
    falling = decay(run.step, total=r.steps, start=start, shape=r.lr_decay, end=r.lr_end)
    since = run.step % r.resample_every if r.lr_warmup_again else run.step
    rising = warmup(since, r.lr_warmup, begins=r.lr_warmup_begins)
    return cfg, r.lr * rising * falling, warmup(run.step, r.sparsity_warmup, begins=r.sparsity_warmup_begins)


def dead_latents(run: Run, x: Array, cfg: Any) -> Array:
    """Return which latents are dead ``(d_sae,)`` in the step on rows ``x (n, d_in)``, as the recipe judges it."""
    r = run.recipe
    if r.dead_judged == "before":
        return run.idle >= r.dead_after
    due = run.idle + x.shape[0] >= r.dead_after  # (d_sae,), unless they fire now
    if known_false(due.any()):
        return due
    return due & ~fired_now(variant_module(run.variant).forward(run.params, x, cfg)[0], run, cfg)


def fired_now(out: Any, run: Run, cfg: Any) -> Array:
    """Return which latents fired in this batch ``(d_sae,)``, as the recipe or else the variant says."""
    if run.recipe.fired_above:
        return (abs(dense(out.f)) > run.recipe.fired_above).any(axis=-2)
    return variant_module(run.variant).fired_latents(out, cfg)


def step(run: Run, rows: Array, *, error: Callable[[Array], losses.Term] | None = None) -> tuple[Run, dict[str, Array]]:
    """Take one step on rows ``(n, d_in)`` of the run's backend and dtype.

    Parameters, state, moments, averages and counters change in place.

    Parameters
    ----------
    run, rows : the run; rows of data, which also hold the target where the variant has one of its own
    error : in place of the squared error, a loss of the reconstruction ``(n, d_in)``, with its slope on it

    Returns
    -------
    run, measures
        The run, one step on; and 0-d arrays: ``loss``, each of its terms, ``l0``, ``r2`` (pooled, of this batch) and
        ``dead``.
    """
    variant, r = variant_module(run.variant), run.recipe
    cfg, lr, sparsity = now(run)
    x, y = split(variant, rows * run.scale if run.scale != 1 else rows, cfg)
    if cfg.decoder == "unit" and r.order.startswith("normalise-forward"):
        normalise_rows(run.params["W_dec"], eps=r.normalise_eps)
    if hasattr(variant, "before_step"):
        variant.before_step(run.params, cfg)
    dead = dead_latents(run, x, cfg)  # (d_sae,)
    out, cache = variant.forward(run.params, x, cfg, dead=dead)
    terms = variant.objective(run.params, out, y, cfg, sparsity=sparsity, dead=dead)
    if error:
        terms["mse"] = error(out.x_hat)
    if r.ghost:
        terms["ghost"] = losses.ghost(out.pre, out.x_hat, y, run.params["W_dec"], dead, reduction=cfg.reduction)
    loss, slopes, direct = losses.gather(terms)
    for name in direct.keys() & set(out._fields):  # a parameter that follows from others is an output
        slopes[name] = direct.pop(name)
    grads = variant.backward(run.params, cache, cfg, slopes)
    for name, slope in direct.items():
        grads[name] += slope
    adam = update(run, grads, lr, unit=cfg.decoder == "unit")
    if r.ema:
        ema_update(run.average, run.params, decay=r.ema)
    xp = namespace(x)
    if hasattr(variant, "after_step"):
        variant.after_step(run.params, out, cfg, step=run.step)
    run.idle[...] = dead_.count_idle(run.idle, fired_now(out, run, cfg), x.shape[0])
    run.bad_step[...] = xp.where((run.bad_step < 0) & ~xp.isfinite(loss), run.step, run.bad_step)
    measures = {"loss": loss, **{name: term.value for name, term in terms.items()}}
    if (run.step + 1) % r.log_every == 0 or run.step + 1 == r.steps:
        measures |= {"l0": l0(out.f), "r2": _batch_r2(y, out.x_hat), "dead": dead.sum()}
    return run._replace(adam=adam, step=run.step + 1), measures


def _batch_r2(x: Array, x_hat: Array) -> Array:
    error, spread = x - x_hat, x - x.mean(axis=0)  # (n, d_in) each
    total = (spread * spread).sum()  # ()
    return 1 - (error * error).sum() / (total + (total == 0))


def update(run: Run, grads: dict[str, Array], lr: float, *, unit: bool) -> AdamState:
    """Project, clip, step and normalise in the recipe's order, in place; return the optimiser's new state."""
    r, adam = run.recipe, run.adam
    if not r.train_b_dec:
        grads = {name: grad for name, grad in grads.items() if name != "b_dec"}
    for what in r.order.removeprefix("normalise-forward-").split("-"):
        if what == "project" and unit:
            W_dec = run.params["W_dec"]  # (d_sae, d_in)
            project_rows(grads["W_dec"], W_dec, eps=r.project_eps, assume_unit=r.projection == "assumes_unit")
        elif what == "normalise" and unit:
            normalise_rows(run.params["W_dec"], eps=r.normalise_eps)
        elif what == "clip" and r.clip:
            clip_by_global_norm(grads, r.clip)
        elif what == "step" and r.optimiser == "signum":
            adam = signum_step(run.params, grads, adam, lr=lr, beta=r.beta1)
        elif what == "step":
            adam = adam_step(
                run.params, grads, adam, lr=lr, beta1=r.beta1, beta2=r.beta2, eps=r.eps, eps_convention=r.eps_convention
            )
    return adam


def maybe_resample(run: Run, source: Source) -> int:
    """Resample if the recipe says so after the run's last step; return how many latents were, counters set to 0."""
    r = run.recipe
    last = min(r.resample_until or r.steps, r.steps - 1)
    taken = run.step - (r.resample_when == "one_later")
    if r.resample == "none" or taken % r.resample_every or run.step > last:
        return 0
    window = r.resample_after or r.resample_every * r.batch_size // 2
    dead = to_host(run.idle) >= window  # (d_sae,)
    if not dead.any():
        return 0
    rows = r.resample_rows if r.resample == "bricken" else r.batch_size
    seed = child_seed(r.seed, "resample_rows", run.step)

    def chunks() -> Iterator[Array]:
        for x in sample_chunks(source, rows, seed=seed):
            x = x.astype(r.dtype, copy=False)  # (rows, width)
            yield x * run.scale if run.scale != 1 else x

    count = dead_.resample(
        r.resample, variant_module(run.variant), run.params, run.adam, now(run)[0], dead, chunks,
        generator(r.seed, "resample", run.step), scale=r.resample_scale or None,
    )  # fmt: skip
    run.idle[...] = namespace(run.idle).where(to_device(dead, backend_of(run.idle)), 0, run.idle)
    return count


def fit(
    run: Run,
    source: Source,
    *,
    hooks: Iterable[Hook] = (),
    save: Callable[[Run], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train until ``recipe.steps``; a run that was loaded goes on where it stood.

    Parameters
    ----------
    run, source : state and data
    hooks : called as ``hook(run, record)`` every ``log_every`` steps and at the end; a record holds numbers
    save : called every ``save_every`` steps, at the end, and when stopped
    stop : asked before each step; True ends the run early

    Raises
    ------
    Diverged
        If a loss was not finite, or what a step left behind. Nothing is saved from then on.
    """
    r, backend = run.recipe, backend_of(run.idle)
    hooks = tuple(hooks)
    for host in source.batches(r.batch_size, seed=r.seed, start=run.step) if run.step < r.steps else ():
        if stop():
            break
        run, measures = step(run, to_device(host.astype(r.dtype, copy=False), backend))
        run = run._replace(resampled=run.resampled + maybe_resample(run, source))
        ending = run.step == r.steps
        if ending or run.step % r.log_every == 0:
            refuse_divergence(run)
            record = {"step": run.step, "rows": run.step * r.batch_size, "lr": now(run._replace(step=run.step - 1))[1]}
            record |= {name: float(value) for name, value in measures.items()} | {"resampled": run.resampled}
            for hook in hooks:
                hook(run, record)
        if ending:
            break
        if save and run.step % r.save_every == 0:
            refuse_divergence(run)
            refuse_broken_state(run)
            save(run)
    refuse_divergence(run)
    refuse_broken_state(run)
    if save:
        save(run)
    return run


def refuse_divergence(run: Run) -> None:
    """Raise :class:`Diverged` if a loss was not finite so far; this reads one number off the device."""
    first = int(run.bad_step[0])
    if first >= 0:
        raise Diverged(first)


def refuse_broken_state(run: Run) -> None:
    """Raise :class:`Diverged` if the last step left a parameter or moment that is not finite, whatever its loss was."""
    for arrays in (run.params, run.adam.m, run.adam.v, run.average):
        for a in arrays.values():
            if not namespace(a).isfinite(a).all():
                raise Diverged(run.step - 1)
