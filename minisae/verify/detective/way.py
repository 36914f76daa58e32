"""What the library's own code computes on a case when it deviates from the case's convention in one place or several.

A :class:`Deviation` is a set of functions, each called at one place of the computation. Several are applied one after
the other, so a combination needs nothing of its own:

    cfg, given          the configuration; data and parameters            then the variant's forward pass
    out                 its outputs and cache                             then the objective
    terms               the terms of the loss                             then the slopes on the outputs
    slopes              these, on their way to the variant's backward     then the variant's backward
    grads               the gradients; the last deviation first, for each looks at what it was given
    recipe, schedule, update      how a training step uses them
    report              what is handed over, by name: nothing is computed with it

Letters: n rows, d_in, d_sae.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minisae import dead as dead_
from minisae import losses
from minisae.backend import Array
from minisae.ops import dense, normalise_rows
from minisae.optim import AdamState, ema_update
from minisae.recipe import Recipe
from minisae.sae import variant
from minisae.train import Run, dead_latents, fired_now, now, update
from minisae.verify.cases import Case
from minisae.verify.inputs import split_rows
from minisae.verify.reference import batch, live_config

Arrays = dict[str, Array]
Terms = dict[str, losses.Term]


class At(NamedTuple):
    """What a pass is computed on."""

    module: Any
    """The variant."""
    cfg: Any
    """Its configuration."""
    params: Arrays
    """Parameters and state."""
    x: Array
    """Input ``(n, d_in)``."""
    y: Array
    """Target ``(n, d_in)``."""
    dead: Array
    """Which latents are dead: bool ``(d_sae,)``."""
    raw: Array
    """The input as it was given ``(n, d_in)``."""


class Pass(NamedTuple):
    """A forward pass."""

    before: tuple[At, ...]
    """What each deviation was given."""
    at: At
    """What the pass was computed on."""
    out: Any
    """The variant's outputs."""
    cache: Any
    """What its backward needs."""


class Deviation(NamedTuple):
    """One way in which an implementation may differ."""

    name: str
    """Short, for tests and machines."""
    says: str
    """The clause of a sentence: "your …"."""
    slot: str
    """What it decides; two that decide the same are not combined."""
    cfg: Callable[[Any], Any] | None = None
    given: Callable[[At], At] | None = None
    out: Callable[[At, Any, Any], tuple[Any, Any]] | None = None
    decode: Callable[[At, Array], Array] | None = None
    terms: Callable[[At, Any, Terms, float], Terms] | None = None
    slopes: Callable[[At, Any, Arrays], Arrays] | None = None
    grads: Callable[[At, Pass, Arrays, Arrays], Arrays] | None = None
    recipe: Callable[[Recipe], Recipe] | None = None
    schedule: Callable[[Run, tuple[Any, float, float]], tuple[Any, float, float]] | None = None
    update: Callable[[Run, Arrays, float], AdamState] | None = None
    report: Callable[[str, Array], Array] | None = None


Deviations = tuple[Deviation, ...]


def place(case: Case) -> At:
    """Return what a case's outputs are computed on."""
    cfg, given = live_config(case), case.inputs
    x, y = split_rows(case.variant, given.rows, cfg)  # (n, d_in), (n, d_out)
    return At(variant(case.variant), cfg, given.params, x, y, given.dead, x)


def trained(case: Case) -> set[str]:
    """Return the names of what has a gradient."""
    return case.inputs.params.keys() - set(getattr(variant(case.variant), "STATE", ()))


def forward(at: At, deviations: Deviations) -> Pass:
    """Return the forward pass."""
    before = []
    for deviation in deviations:
        if deviation.cfg:
            at = at._replace(cfg=deviation.cfg(at.cfg))
    for deviation in deviations:
        before.append(at)
        if deviation.given:
            at = deviation.given(at)
    out, cache = at.module.forward(at.params, at.x, at.cfg, dead=at.dead)
    for deviation in deviations:
        if deviation.out:
            out, cache = deviation.out(at, out, cache)
    return Pass(tuple(before), at, out, cache)


def outputs(seen: Pass, deviations: Deviations, given: Array) -> Arrays:
    """Return outputs, inference code, the reconstruction from a ``given`` code ``(n, d_sae)``, and who fired."""
    at, out = seen.at, seen.out
    found = {name: dense(value) for name, value in out._asdict().items() if value is not None}
    code = dense(at.module.encode(at.params, at.x, at.cfg))  # (n, d_sae)
    if np.array_equal(
        code, dense(at.module.forward(at.params, at.x, at.cfg)[0].f)
    ):  # what is shipped is what is trained
        code = found["f"]  # (n, d_sae)
    decoded = at.module.decode(at.params, given)  # (n, d_in)
    for deviation in deviations:
        decoded = deviation.decode(at, decoded) if deviation.decode else decoded  # (n, d_in)
    return found | {"encode": code, "decode": decoded, "fired": at.module.fired_latents(out, at.cfg)}


def terms(seen: Pass, deviations: Deviations, sparsity: float = 1.0) -> Terms:
    """Return the terms of the loss."""
    at = seen.at
    found = at.module.objective(at.params, seen.out, at.y, at.cfg, sparsity=sparsity, dead=at.dead)
    for deviation in deviations:
        found = deviation.terms(at, seen.out, found, sparsity) if deviation.terms else found
    return dict(found)


def gradients(seen: Pass, deviations: Deviations, put: Arrays, direct: Arrays, *, want_x: bool = False) -> Arrays:
    """Return the gradients for slopes ``put`` on the outputs, and ``direct`` ones on parameters."""
    at, slopes = seen.at, dict(put)
    follow = direct.keys() & set(seen.out._fields)  # a parameter that follows from others is an output
    slopes |= {name: slopes[name] + direct[name] if name in slopes else direct[name] for name in follow}
    for deviation in reversed(deviations):
        slopes = deviation.slopes(at, seen.out, slopes) if deviation.slopes else slopes
    grads: Arrays = at.module.backward(at.params, seen.cache, at.cfg, slopes, want_x=want_x)
    for name in direct.keys() - follow:
        grads[name] = grads[name] + direct[name]
    for deviation, before in zip(reversed(deviations), reversed(seen.before), strict=True):
        grads = deviation.grads(before, seen, put, grads) if deviation.grads else grads
    return grads


def stored(case: Case, seen: Pass, on: str) -> Arrays:
    """Return the case's slopes for ``on``, an output or ``all``.

    Raises
    ------
    ValueError
        If a deviation gave an output another shape than that of its slope.
    """
    found = {}
    for name, value in seen.out._asdict().items():
        if value is None or on not in (name, "all") or name not in case.inputs.slopes:
            continue
        if dense(value).shape != case.inputs.slopes[name].shape:
            raise ValueError(f"{name}: expected shape {case.inputs.slopes[name].shape}, got {dense(value).shape}")
        found[name] = case.inputs.slopes[name]
    return found


def training(case: Case, begun: Run, deviations: Deviations, last: int) -> Iterator[tuple[int, Arrays]]:
    """Yield, after each of ``last`` steps, its number and all parameters and state."""
    run = begun._replace(
        params={name: p.copy(order="K") for name, p in begun.params.items()},
        adam=AdamState(
            {name: m.copy(order="K") for name, m in begun.adam.m.items()},
            {name: v.copy(order="K") for name, v in begun.adam.v.items()},
            begun.adam.t,
        ),
        average={name: a.copy(order="K") for name, a in begun.average.items()},
        idle=begun.idle.copy(),
    )
    for deviation in deviations:
        run = run._replace(
            cfg=deviation.cfg(run.cfg) if deviation.cfg else run.cfg,
            recipe=deviation.recipe(run.recipe) if deviation.recipe else run.recipe,
        )
    for number in range(last):
        run = step(run, batch(case, number), deviations)
        yield run.step, run.params


def step(run: Run, rows: Array, deviations: Deviations) -> Run:
    """Take one training step, as :func:`minisae.train.step` does, with deviations."""
    module, r = variant(run.variant), run.recipe
    when = now(run)
    for deviation in deviations:
        when = deviation.schedule(run, when) if deviation.schedule else when
    cfg, lr, sparsity = when
    x, y = split_rows(run.variant, rows, cfg)  # (n, d_in), (n, d_out)
    if cfg.decoder == "unit" and r.order.startswith("normalise-forward"):
        normalise_rows(run.params["W_dec"], eps=r.normalise_eps)
    if hasattr(module, "before_step"):
        module.before_step(run.params, cfg)
    at = At(module, cfg, run.params, x, y, dead_latents(run, x, cfg), x)
    seen = forward(at, tuple(d._replace(cfg=None) for d in deviations))
    found = terms(seen, deviations, sparsity)
    if r.ghost:
        found["ghost"] = losses.ghost(
            seen.out.pre, seen.out.x_hat, y, run.params["W_dec"], at.dead, reduction=cfg.reduction
        )
    _, put, direct = losses.gather(found)
    grads = {name: grad for name, grad in gradients(seen, deviations, put, direct).items() if name in run.params}
    own = next((d.update for d in deviations if d.update), None)
    adam = own(run, grads, lr) if own else update(run, grads, lr, unit=cfg.decoder == "unit")
    if r.ema:
        ema_update(run.average, run.params, decay=r.ema)
    if hasattr(module, "after_step"):
        module.after_step(run.params, seen.out, cfg, step=run.step)
    run.idle[...] = dead_.count_idle(run.idle, fired_now(seen.out, run, cfg), len(x))
    return run._replace(adam=adam, step=run.step + 1)
