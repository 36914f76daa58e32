"""One trainer for many instances at once: draw, forward, backward, Adam; the best of several starts; a common test.

Instances never meet, so they are trained in blocks that stay in a core's cache, several blocks at a time. Blocks follow
from the sizes alone, and each has its own random numbers: the result does not depend on the number of threads.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, namespace, to_device, to_host
from minisae.errors import InputError
from minisae.ops.blocks import row_blocks
from minisae.optim import adam_init, adam_step
from minisae.schedules import decay as fall
from minisae.schedules import warmup as rise
from minisae.streams import generator
from toy_models import models
from toy_models.data import Batch, Data
from toy_models.models import Config, Params

BLOCK_BYTES = 1 << 19
"""Size of a block's x: a step's half dozen arrays of that size still lie in a core's cache."""


class Trained(NamedTuple):
    """What training returns."""

    cfg: Config
    """The model."""
    params: Params
    """Parameters by name, ``(i, …)``."""
    steps: np.ndarray
    """Steps at which snapshots were taken ``(t,)``."""
    snapshots: Params
    """Parameters by name at those steps ``(t, i, …)``, on the host."""


class Settings(NamedTuple):
    """How to train; see :func:`train`."""

    steps: int
    batch_size: int
    lr: float
    decay: str
    warmup: int
    weight_decay: float
    hidden_l1: float
    target: str
    seed: int


def train(
    cfg: Config,
    data: Data,
    *,
    steps: int,
    batch_size: int = 1024,
    lr: float = 1e-3,
    decay: str = "quarter_cosine",
    warmup: int = 0,
    weight_decay: float = 0.0,
    hidden_l1: float = 0.0,
    instances: int | None = None,
    importance: Any = None,
    target: str = "identity",
    params: Params | None = None,
    snapshots: Sequence[int] = (),
    seed: int = 0,
    dtype: str = "float32",
    threads: int | None = None,
    backend: str = "numpy",
) -> Trained:
    """Train every instance of a model with Adam on fresh batches of the data.

    Elhage et al. 2022 (their notebook: AdamW with weight decay 0.01, constant rate 1e-3, batch 1024, 10,000 steps, loss
    divided by n_feat). A falling rate ends with sharper geometry, so it is the default.

    Parameters
    ----------
    cfg, data : the model and what it sees
    steps, batch_size, lr : Adam's steps, rows a step (a fixed data set ignores it), learning rate at its top
    decay, warmup : shape in which the rate falls, and steps over which it rises first (:mod:`minisae.schedules`)
    weight_decay : decoupled, as in AdamW: ``p −= lr · weight_decay · p``
    hidden_l1 : coefficient of :func:`toy_models.models.hidden_l1`
    instances : how many; by default as many as ``params``, ``data`` or ``importance`` describe
    importance : I, ``(n_out,)`` or ``(i, n_out)``; by default all 1
    target : a name of :data:`toy_models.models.TARGETS`
    params : where to start ``(i, …)``, copied; by default :func:`toy_models.models.init`, a stream for each instance
    snapshots : steps after which to keep the parameters; 0 is the start
    seed : start of every random stream
    dtype : ``"float32"`` or ``"float64"``
    threads : blocks at a time; by default the cores, if ``OMP_NUM_THREADS`` is 1, else one: BLAS has threads of its own
    backend : ``"numpy"`` or ``"cupy"``

    Raises
    ------
    InputError
        If a size, a name, an importance or a shape makes no sense.
    """
    models.check_config(cfg)
    check_settings(cfg, data, steps, batch_size, lr, target)
    weights = _importance(importance, models.n_out(cfg))
    i = _count(instances, data, weights, params)
    start = _start(cfg, i, params, seed, np.dtype(dtype))
    for p in start.values():
        if len(p) != i:
            raise InputError(f"params: expected {i} instances, got {len(p)}")
    settings = Settings(steps, batch_size, lr, decay, warmup, weight_decay, hidden_l1, target, seed)
    kept = sorted({int(s) for s in snapshots if 0 <= s <= steps})
    history = {name: np.empty((len(kept), *p.shape), p.dtype) for name, p in start.items()}
    device = {name: to_device(p, backend) for name, p in start.items()}
    importances = None if weights is None else np.broadcast_to(weights, (i, weights.shape[1])).astype(dtype)

    def work(part: slice) -> None:
        mine = {name: p[part] for name, p in device.items()}
        scale = None if importances is None else to_device(importances[part], backend)
        seen = {name: h[:, part] for name, h in history.items()}
        _train_block(cfg, mine, data, part, scale, settings, dict(zip(kept, range(len(kept)), strict=True)), seen)

    blocks = row_blocks(i, batch_size * max(cfg.n_feat, models.n_out(cfg)) * np.dtype(dtype).itemsize, BLOCK_BYTES)
    _each(work, blocks, 1 if backend != "numpy" else threads or thread_count())
    return Trained(cfg, device, np.array(kept, int), history)


def thread_count() -> int:
    """Return how many blocks to train at a time: all cores if BLAS is told to use one, else one."""
    if os.environ.get("OMP_NUM_THREADS") != "1" and os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each(work: Any, blocks: list[slice], threads: int) -> None:
    if threads == 1 or len(blocks) == 1:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
        for done in [pool.submit(copy_context().run, work, block) for block in blocks]:
            done.result()


def check_settings(cfg: Config, data: Data, steps: int, batch_size: int, lr: float, target: str) -> None:
    """Refuse settings that make no sense, in one line."""
    for name, value, least in (("steps", steps, 0), ("batch_size", batch_size, 1)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if not (np.isfinite(lr) and lr > 0):
        raise InputError(f"lr: expected a number above 0, got {lr!r}")
    if data.n_feat != cfg.n_feat:
        raise InputError(f"n_feat: the data has {data.n_feat} features, the model {cfg.n_feat}")
    if target not in models.TARGETS:
        raise InputError(f"target: expected one of {', '.join(models.TARGETS)}, got {target!r}")
    width = models.TARGETS[target](np.zeros((1, cfg.n_feat))).shape[1]
    if width != models.n_out(cfg):
        raise InputError(f"n_out: target {target!r} has {width} outputs, the model {models.n_out(cfg)}")


def _importance(importance: Any, width: int) -> np.ndarray | None:
    """Return importances as ``(1 or i, n_out)``, checked."""
    if importance is None:
        return None
    weights = np.atleast_2d(np.asarray(importance, np.float64))  # (i, n_out)
    if weights.ndim != 2 or weights.shape[1] != width:
        raise InputError(f"importance: expected (n_out,) or (instances, n_out), n_out {width}, got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any(axis=1).all():
        raise InputError("importance: expected numbers that are not negative, and not all 0")
    return weights


def _count(instances: int | None, data: Data, weights: np.ndarray | None, params: Params | None) -> int:
    """Return the number of instances on which all that describe some agree."""
    told = {"data": data.instances, "importance": 1 if weights is None else len(weights)}
    told |= {} if params is None else {"params": len(next(iter(params.values())))}
    told |= {} if instances is None else {"instances": instances}
    for name, value in told.items():
        if value < 1 or (value != 1 and value != max(told.values())):
            raise InputError(f"{name}: describes {value} instances, others {max(told.values())}")
    if instances is not None and instances != max(told.values()):
        raise InputError(f"instances: asked for {instances}, but the data, importance or params describe more")
    return max(told.values())


def _start(cfg: Config, instances: int, params: Params | None, seed: int, dtype: Any) -> Params:
    """Return the parameters to start from ``(i, …)``, on the host, a copy."""
    shapes = models.sizes(cfg)
    if params is None:
        drawn = [models.init(cfg, generator(seed, "toy_init", i), dtype=dtype) for i in range(instances)]
        return {name: np.stack([one[name] for one in drawn]) for name in shapes}
    given = {name: np.array(to_host(p), dtype) for name, p in params.items()}
    if {name: p.shape[1:] for name, p in given.items()} != shapes:
        got = {name: p.shape for name, p in given.items()}
        raise InputError(f"params: expected (instances, …) of {shapes}, got {got}")
    return given


def _train_block(
    cfg: Config, params: Params, data: Data, part: slice, importance: Array | None, settings: Settings,
    kept: dict[int, int], history: Params,
) -> None:  # fmt: skip
    """Train the instances of one block in place, and write their snapshots."""
    s, b = settings, params["b"]
    sampler = data.counted or data.sampler
    draw, rng = sampler(part, s.batch_size, b.dtype), generator(s.seed, "toy_batch", part.start)
    target = models.TARGETS[s.target]
    adam = adam_init(params)
    work, last = models.Work(), None
    for step in range(s.steps + 1):
        if step in kept:
            for name, p in params.items():
                history[name][kept[step]] = to_host(p)
        if step == s.steps:
            return
        x, weights = _on(backend_of(b), draw(rng))
        if x is not last:
            work, last = _work(cfg, params, x), x
        out, cache = models.forward(params, x, cfg, work=work)
        slope = models.error_slope(out.x_hat, target(x), importance=importance, weights=weights, out=work.d_z)
        slopes = {"x_hat": slope}  # (i, n, n_out)
        if s.hidden_l1:
            slopes |= models.hidden_l1(out.h, coefficient=s.hidden_l1, weights=weights).slopes
        grads = models.backward(params, cache, cfg, slopes, work=work)
        lr = s.lr * rise(step, s.warmup) * fall(step, total=s.steps, start=0, shape=s.decay)
        if s.weight_decay:
            for p in params.values():
                p *= 1 - lr * s.weight_decay
        adam = adam_step(params, grads, adam, lr=lr)


def _on(backend: str, batch: Batch) -> Batch:
    return Batch(to_device(batch.x, backend), None if batch.weights is None else to_device(batch.weights, backend))


def _work(cfg: Config, params: Params, x: Array) -> models.Work:
    """Return room for the arrays of a step on rows ``x (i, n, n_feat)``."""
    b, xp = params["b"], namespace(x)
    outer, inner = (len(b), x.shape[1], models.n_out(cfg)), (len(b), x.shape[1], cfg.n_hid)

    def room(shape: tuple[int, ...], dtype: Any) -> Array:
        return xp.empty(shape, dtype)

    return models.Work(
        h=room(inner, b.dtype), x_hat=room(outer, b.dtype), d_z=room(outer, b.dtype), d_h=room(inner, b.dtype),
        on_x_hat=room(outer, bool), on_h=room(inner, bool),
    )  # fmt: skip


def evaluate(
    cfg: Config,
    params: Params,
    data: Data | Batch,
    *,
    importance: Any = None,
    target: str = "identity",
    rows: int = 65_536,
    seed: int = 0,
) -> np.ndarray:
    """Return the loss of every instance ``(i,)``, float64, all on the same rows.

    Solutions that look alike differ by several per cent on batches of their own: compare on common ones, or exactly.

    Parameters
    ----------
    cfg, params : the model and its parameters ``(i, …)``
    data : a batch (:func:`toy_models.exact.batch` for the exact loss), or a distribution, of which ``rows`` are drawn
        with the same random numbers for every instance
    importance, target : as in :func:`train`
    """
    i = len(params["b"])
    weights = _importance(importance, models.n_out(cfg))
    weights = None if weights is None else np.broadcast_to(weights, (i, weights.shape[1]))
    loss = np.empty(i)
    for k in range(i):
        mine = {name: np.asarray(to_host(p)[k : k + 1], np.float64) for name, p in params.items()}
        scale = None if weights is None else weights[k : k + 1]
        chunks = _same_rows(data, k, rows, seed) if isinstance(data, Data) else _single(data, k)
        loss[k] = sum(share * float(_loss(cfg, mine, batch, scale, target)) for batch, share in chunks)
    return loss


def _same_rows(data: Data, k: int, rows: int, seed: int) -> Iterator[tuple[Batch, float]]:
    """Yield batches for instance ``k`` and the share of all rows that each is: the same random numbers for every k."""
    rng = generator(seed, "toy_test")
    part = slice(k, k + 1) if data.instances > 1 else slice(0, 1)
    for block in row_blocks(rows, 1, 4096):
        n = block.stop - block.start
        yield data.sampler(part, n, np.dtype(np.float64))(rng), n / rows


def _single(batch: Batch, k: int) -> Iterator[tuple[Batch, float]]:
    x, weights = batch
    yield Batch(x[k : k + 1] if len(x) > 1 else x, weights if weights is None or len(weights) == 1 else weights[[k]]), 1


def _loss(cfg: Config, params: Params, batch: Batch, importance: np.ndarray | None, target: str) -> Any:
    out, _ = models.forward(params, batch.x, cfg)
    y = models.TARGETS[target](batch.x)  # (i, n, n_out)
    return models.squared_error(out.x_hat, y, importance=importance, weights=batch.weights).value[0]


def best(loss: np.ndarray, *, per: int) -> np.ndarray:
    """Return the index of the lowest loss among each ``per`` consecutive instances, ``(i / per,)``.

    Raises
    ------
    InputError
        If the number of instances is not a multiple of ``per``.
    """
    if per < 1 or len(loss) % per:
        raise InputError(f"per: expected a divisor of {len(loss)} instances, got {per}")
    index: np.ndarray = loss.reshape(-1, per).argmin(axis=1) + per * np.arange(len(loss) // per)  # (i / per,)
    return index


def take(params: Params, index: Any) -> Params:
    """Return the parameters of some instances."""
    return {name: p[index] for name, p in params.items()}
