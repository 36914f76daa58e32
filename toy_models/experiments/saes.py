"""Sparse autoencoders on toy data, where the features are known: many at once, by the library's own variants.

    x = W · features          hidden activations of a trained toy (ARENA, "SAEs in toy models")
    x = f D                   rows made of a known dictionary D (Sharkey, Braun and Millidge 2022)

An instance is an autoencoder with its own start, and where wanted its own rows, λ and dead latents. Instances never
meet; the variants of :mod:`minisae.sae` take all of them in one call. All of it runs on the host, whatever the toy was
trained on: these autoencoders are small. Letters: instances i, rows n, d_in, d_sae,
n_feat, snapshots t.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae import dead as dead_
from minisae import losses, metrics
from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import normalise_rows, project_rows
from minisae.optim import AdamState, adam_init, adam_step
from minisae.sae import linear
from minisae.sae import variant as variant_module
from minisae.schedules import decay as fall
from minisae.streams import generator
from toy_models import models
from toy_models.data import Data
from toy_models.models import Params

WITH_L1 = ("relu", "gated")
"""Variants whose λ may differ from instance to instance."""
Rows = Callable[[np.random.Generator], Array]
"""``rows(rng)`` returns fresh rows ``(i, n, d_in)``; ``(1, n, d_in)`` are seen by every instance."""


class TrainedSAEs(NamedTuple):
    """What training returns."""

    variant: str
    """Name of the variant."""
    cfg: Any
    """Its ``Config``."""
    params: Params
    """Parameters (and state) by name, ``(i, …)``."""
    steps: np.ndarray
    """Steps at which snapshots were taken ``(t,)``."""
    snapshots: Params
    """Parameters by name at those steps ``(t, i, …)``."""
    alive: np.ndarray
    """Which latents had fired in the window before, bool ``(t, i, d_sae)``."""


class Resampling(NamedTuple):
    """When and how dead latents get a new start; see :mod:`minisae.dead`."""

    how: str
    """A name of :data:`minisae.dead.RESAMPLERS`."""
    every: int = 2500
    """Steps from one resampling to the next; none at the last step."""
    scale: float | None = None
    """Of new encoder rows; ``None``: the source's."""


def hidden_rows(cfg: models.Config, params: Params, data: Data, n: int, *, instances: int = 1) -> Rows:
    """Return rows that are hidden activations ``h`` of a trained toy, ``(instances, n, n_hid)``.

    ``params`` has one instance, which all autoencoders look at, or as many as there are of them.
    """
    if "b" not in params or "W" not in params:
        raise InputError(f"params: expected those of a toy with W and b, got {', '.join(params) or 'none'}")
    found = len(params["b"])
    if found not in (1, instances):
        raise InputError(f"params: expected 1 or {instances} toys for {instances} autoencoders, got {found}")
    draw = _drawer(data, cfg.n_feat, n, instances)
    host = {name: to_host(p) for name, p in params.items()}
    for name, p in host.items():
        if not np.isfinite(p).all():
            raise InputError(f"params: expected finite numbers, {name} has others")
    return lambda rng: models.forward(host, draw(rng).x, cfg)[0].h


def dictionary_rows(dictionary: Array, data: Data, n: int, *, instances: int = 1) -> Rows:
    """Return rows ``f D``, ``(instances, n, d_in)``, of a dictionary ``D (n_feat, d_in)`` and coefficients ``f``."""
    host = to_host(dictionary)  # (n_feat, d_in)
    if host.ndim != 2 or not np.isfinite(host).all():
        raise InputError(f"dictionary: expected (n_feat, d_in) of finite numbers, got shape {host.shape}")
    draw = _drawer(data, len(host), n, instances)
    return lambda rng: draw(rng).x @ host


def _drawer(data: Data, n_feat: int, n: int, instances: int) -> Any:
    """Return a sampler of ``n`` rows for each of so many instances."""
    if data.n_feat != n_feat:
        raise InputError(f"n_feat: the data has {data.n_feat} features, what it passes through has {n_feat}")
    if data.instances not in (1, instances):
        raise InputError(f"data: expected 1 or {instances} distributions, got {data.instances}")
    for name, value in (("n", n), ("instances", instances)):
        check_number(name, value, least=1, whole=True)
    return data.sampler(slice(0, instances), n, np.dtype(np.float32))


def start(variant: str, cfg: Any, instances: int, *, seed: int = 0, dtype: Any = np.float32) -> Params:
    """Return the variant's own start for each instance, a stream each: ``(i, …)``, ``W_enc`` feature-major."""
    module = variant_module(variant)
    module.check_config(cfg)
    check_number("instances", instances, least=1, whole=True)
    drawn = [module.init(cfg, generator(seed, "toy_saes", 0, k), dtype=dtype) for k in range(instances)]
    return _feature_major({name: np.stack([one[name] for one in drawn]) for name in drawn[0]})


def untied_start(variant: str, cfg: Any, instances: int, *, seed: int = 0) -> Params:
    """Return a start in which encoder and decoder know nothing of each other, as in ARENA's notebook.

    ``W_enc`` is uniform within ±√(6 / (d_in d_sae)), which is what PyTorch's ``kaiming_uniform_`` makes of ARENA's
    three-dimensional array; decoder rows are random unit vectors. Latents die from this start that the tied one of
    :func:`start` keeps alive.
    """
    params = start(variant, cfg, instances, seed=seed)
    bound = np.sqrt(6 / (cfg.d_in * cfg.d_sae))
    rng = generator(seed, "toy_saes", 4)
    params["W_enc"][...] = rng.uniform(-bound, bound, params["W_enc"].shape)
    return params


def _feature_major(params: Params) -> Params:
    return {name: linear.feature_major(p) if name == "W_enc" else p for name, p in params.items()}


def train(
    variant: str,
    cfg: Any,
    rows: Rows,
    *,
    steps: int,
    instances: int = 1,
    lr: float = 1e-3,
    decay: str = "constant",
    l1_factor: Any = None,
    params: Params | None = None,
    frozen: Sequence[str] = (),
    resampling: Resampling | None = None,
    window: int = 500,
    snapshots: Sequence[int] = (),
    seed: int = 0,
) -> TrainedSAEs:
    """Train autoencoders with Adam on fresh rows: project, step, normalise where the decoder's rows are unit vectors.

    AuxK is off: the rows of a toy bring no latent back that way in the sources that this serves.

    Parameters
    ----------
    variant, cfg : a name of :data:`minisae.sae.VARIANTS` and its ``Config``
    rows : where rows come from; all share one random stream
    steps, lr, decay : Adam's steps, learning rate at its top, and how it falls (:mod:`minisae.schedules`)
    instances : how many autoencoders
    l1_factor : what λ is multiplied by, one number an instance ``(i,)``; a variant of :data:`WITH_L1`
    params : where to start ``(i, …)`` or ``(1, …)``, copied; by default :func:`start`
    frozen : names of parameters that stay as they are
    resampling : of dead latents; by default none
    window : steps without firing after which a latent counts as dead
    snapshots : steps after which to keep the parameters, before any resampling; 0 is the start
    seed : start of every random stream

    Raises
    ------
    InputError
        If a size, a name or a shape makes no sense.
    """
    module = variant_module(variant)
    begun = start(variant, cfg, instances, seed=seed) if params is None else _given(params, module, cfg, instances)
    _check(begun, rows, module, cfg, steps, lr, window, frozen, resampling)
    factor = None if l1_factor is None else _factors(l1_factor, instances, variant)  # (i,), if any
    keep = {name: p for name, p in begun.items() if name not in (*frozen, *getattr(module, "STATE", ()))}
    adam, rng = adam_init(keep), generator(seed, "toy_saes", 1)
    idle = np.zeros((instances, cfg.d_sae), np.int64)  # (i, d_sae)
    kept = sorted({int(s) for s in snapshots if 0 <= s <= steps})
    taken: list[Params] = []
    alive = np.zeros((len(kept), *idle.shape), bool)  # (t, i, d_sae)
    window_rows = 0
    for step in range(steps + 1):
        if step in kept:
            alive[len(taken)] = (idle < window_rows) | (window_rows == 0)
            taken.append({name: p.copy() for name, p in begun.items()})
        if step == steps:
            break
        if resampling and step and step % resampling.every == 0:
            _resample(module, begun, adam, cfg, idle, window_rows, rows, resampling, (seed, step))
        x = rows(rng)  # (rows_for, n, d_in)
        window_rows = window * x.shape[1]
        rate = lr * fall(step, total=steps, start=0, shape=decay)
        adam, fired = _step(module, begun, adam, x, cfg, rate, factor, step)
        idle = dead_.count_idle(idle, fired, x.shape[1])  # (i, d_sae)
    history = {name: np.stack([one[name] for one in taken]) for name in begun} if taken else {}
    return TrainedSAEs(variant, cfg, begun, np.array(kept, int), history, alive)


def _step(
    module: Any, params: Params, adam: AdamState, x: Array, cfg: Any, lr: float, factor: Array | None, step: int
) -> tuple[AdamState, Array]:
    """Take one step in place; return Adam's state and which latents fired ``(i, d_sae)``."""
    out, cache = module.forward(params, x, cfg)
    terms = module.objective(params, out, x, cfg, sparsity=1.0 if factor is None else factor)
    _, slopes, direct = losses.gather(terms)
    grads = module.backward(params, cache, cfg, slopes)
    for name, slope in direct.items():
        grads[name] += slope
    if cfg.decoder == "unit":
        project_rows(grads["W_dec"], params["W_dec"])
    adam = adam_step(params, {name: grads[name] for name in adam.m}, adam, lr=lr)
    if cfg.decoder == "unit":
        normalise_rows(params["W_dec"])
    if hasattr(module, "after_step"):
        module.after_step(params, out, cfg, step=step)
    return adam, module.fired_latents(out, cfg)


def _resample(
    module: Any, params: Params, adam: AdamState, cfg: Any, idle: Array, window_rows: int, rows: Rows, how: Resampling,
    key: tuple[int, int],
) -> None:  # fmt: skip
    """Give the dead latents of every instance a new start, in place, from rows of a batch of its own."""
    seed, step = key
    x = rows(generator(seed, "toy_saes", 2, step)).copy()  # (rows_for, n, d_in)
    gone = idle >= window_rows  # (i, d_sae)
    for k in np.flatnonzero(gone.any(axis=1)).tolist():
        mine = {name: p[k] for name, p in params.items()}
        moments = AdamState({name: m[k] for name, m in adam.m.items()}, {name: v[k] for name, v in adam.v.items()}, 0)
        seen = x[k if len(x) > 1 else 0]  # (n, d_in)
        rng = generator(seed, "toy_saes", 3, step, k)
        chunks = functools.partial(iter, (seen,))
        dead_.resample(how.how, module, mine, moments, cfg, gone[k], chunks, rng, scale=how.scale)
    idle[gone] = 0


def _given(params: Params, module: Any, cfg: Any, instances: int) -> Params:
    """Return copies of parameters to start from ``(i, …)``, checked."""
    module.check_config(cfg)
    check_number("instances", instances, least=1, whole=True)
    for name, letters in module.SHAPES.items():
        wanted = tuple(getattr(cfg, letter) for letter in letters)
        got = np.shape(params[name]) if name in params else None
        if got is None or got[1:] != wanted or got[0] not in (1, instances):
            raise InputError(f"params: expected {name} of shape (1 or {instances}, {wanted}), got {got}")
    full = {name: np.array(np.broadcast_to(to_host(p), (instances, *np.shape(p)[1:]))) for name, p in params.items()}
    return _feature_major(full)


def _check(
    params: Params, rows: Rows, module: Any, cfg: Any, steps: int, lr: float, window: int, frozen: Sequence[str],
    resampling: Resampling | None,
) -> None:  # fmt: skip
    check_number("steps", steps, least=0, whole=True)
    check_number("window", window, least=1, whole=True)
    if not (np.isfinite(lr) and lr > 0):
        raise InputError(f"lr: expected a number above 0, got {lr!r}")
    for name in frozen:
        if name not in module.SHAPES:
            raise InputError(f"frozen: expected names of {', '.join(module.SHAPES)}, got {name!r}")
    if resampling is not None:
        if resampling.how not in dead_.RESAMPLERS:
            raise InputError(f"resampling: expected one of {', '.join(dead_.RESAMPLERS)}, got {resampling.how!r}")
        check_number("resampling.every", resampling.every, least=1, whole=True)
    shape, instances = np.shape(rows(np.random.default_rng(0))), len(params["b_dec"])
    if len(shape) != 3 or shape[0] not in (1, instances) or shape[2] != cfg.d_in:
        raise InputError(f"rows: expected (1 or {instances}, n, d_in = {cfg.d_in}), got {shape}")


def _factors(l1_factor: Any, instances: int, variant: str) -> np.ndarray:
    """Return the factor of each instance's λ ``(i,)``, checked."""
    factor = np.asarray(l1_factor, np.float32)  # (i,)
    if variant not in WITH_L1:
        raise InputError(f"l1_factor: expected a variant with an L1 penalty, {', '.join(WITH_L1)}, got {variant!r}")
    if factor.shape != (instances,) or not np.isfinite(factor).all() or (factor < 0).any():
        raise InputError(f"l1_factor: expected {instances} numbers that are not negative, got {l1_factor!r}")
    return factor


class Scores(NamedTuple):
    """How well each instance did, arrays ``(i,)``."""

    found: np.ndarray
    """Features that a latent points at with a cosine above the threshold."""
    mmcs: np.ndarray
    """Mean over features of the largest cosine of a latent (:func:`minisae.metrics.mmcs`)."""
    matched: np.ndarray
    """Mean cosine of the best one-to-one matching (:func:`minisae.metrics.matched_cosine`)."""
    l0: np.ndarray
    """Mean number of active latents a row."""
    fvu: np.ndarray
    """Error over variance, 1 − pooled R²."""
    silent: np.ndarray
    """Share of latents that fire on none of the rows."""


def score(trained: TrainedSAEs, truth: Array, x: Array, *, threshold: float = 0.95) -> Scores:
    """Compare each instance with the features ``truth (n_feat, d_in)``, on rows ``x (i, n, d_in)`` or (1, n, d_in).

    Codes are those of ``encode``, which is what is used after training.
    """
    module = variant_module(trained.variant)
    truth, x = to_host(truth), to_host(x)
    if truth.ndim != 2 or x.ndim != 3 or truth.shape[1] != trained.cfg.d_in or x.shape[2] != trained.cfg.d_in:
        raise InputError(f"truth, x: expected width d_in = {trained.cfg.d_in}, got shapes {truth.shape}, {x.shape}")
    if not (truth.size and x.size and np.isfinite(truth).all() and np.isfinite(x).all()):
        raise InputError(f"truth, x: expected finite numbers, at least one row each, got {len(truth)} and {x.shape[1]}")
    if len(x) not in (1, len(trained.params["b_dec"])):
        raise InputError(f"x: expected rows for 1 or {len(trained.params['b_dec'])} instances, got {len(x)}")
    check_number("threshold", threshold, least=-1, most=1)
    found = []
    for k in range(len(trained.params["b_dec"])):
        mine = {name: p[k] for name, p in trained.params.items()}
        seen, learned = x[k if len(x) > 1 else 0], mine["W_dec"]
        f = module.encode(mine, seen, trained.cfg)  # (n, d_sae)
        found.append((
            round(metrics.coverage(truth, learned, threshold=threshold) * len(truth)),
            metrics.mmcs(truth, learned), metrics.matched_cosine(truth, learned), metrics.l0(f),
            1 - float(metrics.pooled_r2(seen, module.decode(mine, f))),
            metrics.dead_fraction(metrics.firing_counts(f)),
        ))  # fmt: skip
    return Scores(*(np.array(column) for column in zip(*found, strict=True)))
