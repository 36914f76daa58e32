"""One trainer for many instances at once: draw, forward, backward, Adam; the best of several starts; a common test.

Instances never meet, so they are trained in blocks that stay in a core's cache, several blocks at a time. Blocks follow
from the sizes alone, and each has its own random numbers: the result does not depend on the number of threads.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, namespace, to_device, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops.blocks import core_count, row_blocks
from minisae.optim import adam_init, adam_step
from minisae.schedules import decay as fall
from minisae.schedules import warmup as rise
from minisae.streams import generator
from toy_models import checks, models
from toy_models.data import Batch, Data, fixed
from toy_models.models import Config, Params

Progress = Callable[[float], None]

BLOCK_BYTES = 1 << 19
"""Size of a block's x: a step's half dozen arrays of that size still lie in a core's cache."""
CHECK_EVERY = 100
"""Steps between two looks at whether parameters and moments are finite: the only waits for a device but snapshots."""


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
    progress: Progress | None = None,
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
    snapshots : steps after which to keep the parameters, at most ``steps``; 0 is the start
    seed : start of every random stream
    dtype : ``"float32"`` or ``"float64"``
    threads : blocks at a time; by default the cores, if ``OMP_NUM_THREADS`` is 1, else one: BLAS has threads of its own
    backend : ``"numpy"``, ``"cupy"`` or ``"auto"``
    progress : called now and then with the share of the work that is done, 0 to 1

    Raises
    ------
    InputError
        If a size, a name, an importance or a shape makes no sense.
    minisae.train.Diverged
        If parameters or Adam's moments are not finite any more, with the steps between which that began.
    """
    models.check_config(cfg)
    checks.check_settings(cfg, data, steps, batch_size, lr, target)
    settings = checks.Settings(steps, batch_size, lr, decay, warmup, weight_decay, hidden_l1, target, seed)
    checks.check_rates(settings, dtype)
    weights = checks.check_importance(importance, models.n_out(cfg))  # (one_or_i, n_out)
    if threads is not None:
        check_number("threads", threads, least=1, whole=True)
    backend, kept = checks.array_module(backend), checks.check_snapshots(snapshots, steps)
    given = None if params is None else checks.check_params(cfg, params, np.dtype(dtype))
    i = checks.count_instances(instances, data, weights, given)
    start = checks.start_params(cfg, i, given, seed, np.dtype(dtype))
    history = {name: np.empty((len(kept), *p.shape), p.dtype) for name, p in start.items()}
    device = {name: to_device(p, backend) for name, p in start.items()}
    if weights is not None:
        weights = np.broadcast_to(weights, (i, weights.shape[1])).astype(dtype)  # (i, n_out)

    moved = _counter(i * steps, progress)

    def work(part: slice) -> None:
        mine = {name: p[part] for name, p in device.items()}
        scale = None if weights is None else to_device(weights[part], backend)  # (block, n_out)
        seen = {name: h[:, part] for name, h in history.items()}
        _train_block(cfg, mine, data, part, scale, settings, {at: k for k, at in enumerate(kept)}, seen, moved)

    blocks = row_blocks(i, batch_size * max(cfg.n_feat, models.n_out(cfg)) * np.dtype(dtype).itemsize, BLOCK_BYTES)
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is refused, in one line
        _each(work, blocks, 1 if backend != "numpy" else threads or thread_count())
    return Trained(cfg, device, np.array(kept, int), history)


def thread_count() -> int:
    """Return how many blocks to train at a time: all cores if BLAS is told to use one, else one."""
    if os.environ.get("OMP_NUM_THREADS") != "1" and os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        return 1
    return core_count()


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Return what blocks call after each step with their instances; it tells ``progress`` at each hundredth."""
    if progress is None:
        return lambda done: None
    lock, count = Lock(), 0

    def moved(done: int) -> None:
        nonlocal count
        with lock:
            before, count = count, count + done
            if 100 * count // total > 100 * before // total:
                progress(count / total)

    return moved


def _each(work: Any, blocks: list[slice], threads: int) -> None:
    if threads == 1 or len(blocks) == 1:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
        running = [pool.submit(copy_context().run, work, block) for block in blocks]
        try:
            for done in running:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train_block(
    cfg: Config, params: Params, data: Data, part: slice, importance: Array | None, settings: checks.Settings,
    kept: dict[int, int], history: Params, moved: Callable[[int], None],
) -> None:  # fmt: skip
    """Train the instances of one block in place, and write their snapshots."""
    s, b = settings, params["b"]
    sampler = data.counted or data.sampler
    draw, rng = sampler(part, s.batch_size, b.dtype), generator(s.seed, "toy_batch", part.start)
    target = models.TARGETS[s.target]
    adam = adam_init(params)
    work, rows, sound = models.Work(), 0, 0
    for step in range(s.steps + 1):
        if step > sound and (step in kept or step == s.steps or step % CHECK_EVERY == 0):
            checks.refuse_divergence((*params.values(), *adam.m.values(), *adam.v.values()), first=sound, last=step)
            sound = step
        if step in kept:
            for name, p in params.items():
                history[name][kept[step]] = to_host(p)
        if step == s.steps:
            return
        x, weights = _on(backend_of(b), draw(rng))
        if x.shape[1] != rows:  # on a device every draw is a new array, of the same size
            work, rows = _work(cfg, params, x), x.shape[1]
        out, cache = models.forward(params, x, cfg, work=work)
        y = target(x)  # (one_or_i, n, n_out)
        slopes = {"x_hat": models.error_slope(out.x_hat, y, importance=importance, weights=weights, out=work.d_z)}
        if s.hidden_l1:
            slopes |= models.hidden_l1(out.h, coefficient=s.hidden_l1, weights=weights).slopes
        grads = models.backward(params, cache, cfg, slopes, work=work)
        lr = s.lr * rise(step, s.warmup) * fall(step, total=s.steps, start=0, shape=s.decay)
        if s.weight_decay:
            for p in params.values():
                p *= 1 - lr * s.weight_decay
        adam = adam_step(params, grads, adam, lr=lr)
        moved(len(b))


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

    Raises
    ------
    InputError
        If the shapes do not fit the model or each other, the target is unknown, or a parameter is not finite.
    """
    models.check_config(cfg)
    source = data if isinstance(data, Data) else fixed(data.x, data.weights)
    checks.check_settings(cfg, source, steps=0, batch_size=1, lr=1.0, target=target)
    check_number("rows", rows, least=1, whole=True)
    start = checks.check_params(cfg, params, np.float64)
    weights = checks.check_importance(importance, models.n_out(cfg))  # (one_or_i, n_out)
    i = checks.count_instances(len(start["b"]), source, weights, start)
    weights = None if weights is None else np.broadcast_to(weights, (i, weights.shape[1]))  # (i, n_out)
    sizes = [part.stop - part.start for part in row_blocks(rows, 1, 4096)] if source is data else [1]
    loss = np.zeros(i)  # (i,)
    for k in range(i):
        mine = {name: p[k : k + 1] for name, p in start.items()}
        scale = None if weights is None else weights[k : k + 1]  # (1, n_out)
        for batch, share in _same_rows(source, k, sizes, seed):
            loss[k] += share * float(_loss(cfg, mine, batch, scale, target))
    return loss


def _same_rows(data: Data, k: int, sizes: list[int], seed: int) -> Iterator[tuple[Batch, float]]:
    """Yield batches for instance ``k`` and the share of all rows that each is: the same random numbers for every k."""
    rng = generator(seed, "toy_test")
    part = slice(k, k + 1) if data.instances > 1 else slice(0, 1)
    for n in sizes:
        yield data.sampler(part, n, np.dtype(np.float64))(rng), n / sum(sizes)


def _loss(cfg: Config, params: Params, batch: Batch, importance: np.ndarray | None, target: str) -> Any:
    out, _ = models.forward(params, batch.x, cfg)
    y = models.TARGETS[target](batch.x)  # (i, n, n_out)
    return models.squared_error(out.x_hat, y, importance=importance, weights=batch.weights).value[0]


def best(loss: np.ndarray, *, per: int) -> np.ndarray:
    """Return the index of the lowest loss among each ``per`` consecutive instances, ``(i / per,)``.

    A loss that is not finite is never the lowest.

    Raises
    ------
    InputError
        If the number of instances is not a multiple of ``per``, or some ``per`` of them have no finite loss at all.
    """
    if not isinstance(per, (int, np.integer)) or per < 1 or len(loss) % per:
        raise InputError(f"per: expected a divisor of {len(loss)} instances, got {per}")
    ranked = np.where(np.isfinite(loss), loss, np.inf).reshape(-1, per)  # (groups, per)
    if np.isinf(ranked).all(axis=1).any():
        raise InputError(f"loss: expected a finite number among each {per} instances, got none")
    index: np.ndarray = ranked.argmin(axis=1) + per * np.arange(len(ranked))  # (groups,)
    return index


def take(params: Params, index: Any) -> Params:
    """Return the parameters of some instances."""
    return {name: p[index] for name, p in params.items()}
