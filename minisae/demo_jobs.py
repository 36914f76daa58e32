"""The demo's work in independent pieces, each for a process of its own.

Each process computes on one thread: for matrices as small as these, two processes on two cores are faster than two
threads in one, and nothing waits for a thread that the system does not schedule. Results do not depend on who ran what.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.baselines import PCA, PCATopK
from minisae.baselines import fit as fit_pca
from minisae.cache import ArraySource, View, open_cache, split, write_cache
from minisae.checkpoint import SAE
from minisae.demo_report import Settings
from minisae.evaluate import Evaluation, documents_of, evaluate
from minisae.interpret.contexts import token_mass
from minisae.interpret.pictures import Point
from minisae.interventions import Coder, averaged, effects, spliced, zeroed
from minisae.metrics import recovered_report
from minisae.models import CharGPT, activations
from minisae.runs import train

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
WORKERS = 2


class Job(NamedTuple):
    """A function of this module, and what to call it with."""

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]


@contextlib.contextmanager
def workers() -> Iterator[Callable[[Sequence[Job]], Iterator[tuple[str, Any]]]]:
    """Start processes, and give the function that runs jobs in them and yields ``(name, result)`` in their order."""
    with _children_on_one_thread():
        pool = multiprocessing.get_context("spawn").Pool(WORKERS)

    def run(jobs: Sequence[Job]) -> Iterator[tuple[str, Any]]:
        started = [(job.name, pool.apply_async(job.work, job.arguments)) for job in jobs]
        yield from ((name, result.get()) for name, result in started)

    with pool:  # leaving it stops the processes, also in mid-work
        yield run


@contextlib.contextmanager
def _children_on_one_thread() -> Iterator[None]:
    """Let processes that are started meanwhile compute on one thread, and leave Ctrl-C to this one."""
    before = {name: os.environ.get(name) for name in THREADS}
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Halves(NamedTuple):
    """Rows of documents to train on, and of others."""

    train: View
    held_out: View
    how: str
    """What was held out."""


@functools.cache
def halves(path: Path, settings: Settings) -> Halves:
    """Open a cache and hold out documents; which ones does not depend on the activations."""
    parts = split(open_cache(path), held_out=settings.held_out, seed=settings.seed)
    assert isinstance(parts.train, View)  # as a cache gives
    assert isinstance(parts.held_out, View)
    return Halves(parts.train, parts.held_out, parts.how)


@functools.cache
def samples(path: Path, settings: Settings) -> tuple[ArraySource, ArraySource]:
    """Draw the rows that short runs train on, and those that measure them."""
    parts = halves(path, settings)
    train_rows = next(parts.train.batches(min(settings.sample, parts.train.rows), seed=settings.seed))
    held_rows = next(parts.held_out.batches(min(settings.sweep_rows, parts.held_out.rows), seed=settings.seed))
    return ArraySource(train_rows), ArraySource(held_rows)


def write_activations(model: CharGPT, texts: Sequence[Array], hook: str, path: Path) -> None:
    """Write the activations of ``model`` at ``hook`` on encoded ``texts`` as a cache."""

    def batches() -> Iterator[dict[str, Array]]:
        for rows in activations(model, texts, hooks=[hook], batch=8):
            known = {"doc_id": rows.doc_id, "position": rows.position, "token": rows.token}
            yield {"acts": rows.activations[hook], **known}

    about = {"model": model.name, "hook": hook, "row": "a character", "dataset": "the documents shipped with minisae"}
    write_cache(path, batches(), meta=about)


def options(variant: str, settings: Settings, steps: int) -> dict[str, Any]:
    """Return the recipe all runs of the demo share; only a penalty λ can warm up."""
    penalty = {"sparsity_warmup": steps // 5} if variant == "relu" else {}
    return penalty | {
        "input_scale": "mean_norm",
        "lr_warmup": steps // 20,
        "dead_after": settings.dead_after,
        "log_every": max(1, steps // 25),
    }


def long_run(
    variant: str, path: Path, n_vocab: int, settings: Settings, out: Path | None
) -> tuple[SAE, Evaluation, np.ndarray]:
    """Train and measure a main autoencoder: it, its numbers on held-out rows, and each latent's mass on characters."""
    parts = halves(path, settings)
    own: dict[str, Any] = {"k": settings.k} if variant == "topk" else {"l1": settings.l1}
    sae = train(
        parts.train,
        variant=variant,
        d_sae=settings.expansion * parts.train.d_in,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        options={**own, **options(variant, settings, settings.steps)},
        out=out,
        metadata={"selection": {"held_out": settings.held_out, "seed": settings.seed}},
    )
    return sae, evaluate(sae, parts.held_out), token_mass(sae, parts.held_out, n_vocab)


def short_run(variant: str, name: str, value: float, path: Path, settings: Settings) -> Point:
    """Train for a few steps with one k or λ and measure."""
    train_rows, held_rows = samples(path, settings)
    sae = train(
        train_rows,
        variant=variant,
        d_sae=settings.expansion * train_rows.d_in,
        steps=settings.sweep_steps,
        batch_size=settings.sweep_batch,
        lr=settings.sweep_lr,
        seed=settings.seed,
        options={name: value, **options(variant, settings, settings.sweep_steps)},
    )
    return _point(evaluate(sae, held_rows), f"{'k' if name == 'k' else 'λ'} = {value:g}")


def principal_components(path: Path, settings: Settings) -> tuple[PCA, Evaluation, dict[str, list[Point]]]:
    """Fit principal components: the first k, their numbers on held-out rows, and the points of all k."""
    train_rows, held_rows = samples(path, settings)
    every = fit_pca((chunk.x for chunk in train_rows.chunks(8192)), train_rows.d_in)

    def first(k: int) -> PCA:
        return every._replace(components=every.components[:k], variances=every.variances[:k])

    points = {
        "PCA, first k": [_point(evaluate(first(k), held_rows), "") for k in settings.ks],
        "PCA, largest k per row": [_point(evaluate(PCATopK(every, k), held_rows), "") for k in settings.ks],
    }
    pca = first(settings.k)
    return pca, evaluate(pca, halves(path, settings).held_out), points


def _point(result: Evaluation, label: str) -> Point:
    return Point(result.numbers["l0"], 1 - result.numbers["pooled_r2"], label)


def model_losses(
    model: CharGPT, hook: str, path: Path, coders: Mapping[str, Coder | SAE], mean: Array, settings: Settings
) -> dict[str, dict[str, float]]:
    """Splice each coder into the model on the beginnings of the held-out documents."""
    documents = documents_of(halves(path, settings).held_out, model.cfg.n_ctx)
    starts = [document.tokens[: settings.splice_characters] for document in documents]
    replacements = {name: spliced(coder) for name, coder in coders.items()}
    found = effects(model, starts, hook, {"zero": zeroed, "mean": averaged(mean), **replacements})
    fixed = {"ce_clean": found["clean"].cross_entropy}
    for name in ("zero", "mean"):
        fixed |= {f"ce_{name}": found[name].cross_entropy, f"kl_{name}": found[name].kl}
    return {name: recovered_report(**fixed, ce_sae=found[name].cross_entropy, kl_sae=found[name].kl) for name in coders}
