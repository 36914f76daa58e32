"""``minisae demo``: the main job on what ships with the package.

Activations of the shipped model on the shipped text, cached; a ``topk`` and a ``relu`` autoencoder trained on them;
both measured on documents they did not see, beside principal components and beside the same autoencoder on a model
with random weights; pictures, a page of latents, and a report.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisae import demo_jobs, demo_report
from minisae.backend import Array
from minisae.checkpoint import SAE
from minisae.console import plain
from minisae.demo_jobs import Halves, Job, workers
from minisae.demo_report import Findings, Settings
from minisae.errors import InputError
from minisae.interop.files import write_atomically
from minisae.interpret import LatentPage, firing, latent_page
from minisae.metrics import cosine_structure
from minisae.models import CharGPT, documents, load, random_init
from minisae.models.text import encode
from minisae.progress import progress, say
from minisae.runs import machine, read_records
from minisae.streams import generator

MADE = ("cache", "control", "topk", "relu", "metrics.json", "report.md", *demo_report.PICTURES)
"""All that a demo's folder can hold."""
DEFAULTS = Settings()
ONE_THREAD = {"threads": 1, "processes": demo_jobs.WORKERS}
"""What the jobs compute on."""


def run(
    out: Path, *, settings: Settings = DEFAULTS, model: CharGPT | None = None, texts: Sequence[Array] | None = None
) -> tuple[str, dict[str, Any]]:
    """Do the whole demo and return its last words and its numbers.

    Parameters
    ----------
    out : folder to write; may hold a former demo, which is replaced, and nothing else
    settings : sizes and recipes
    model, texts : another model than the shipped one, other encoded documents

    Raises
    ------
    InputError
        If the folder holds something else.
    """
    began = time.perf_counter()
    prepare(out)
    count = 7 + len(settings.ks) + len(settings.l1s)
    if settings == DEFAULTS:
        say(f"demo: {count} jobs, about two minutes on 2 cores, 150 MB in {out}")
    model = model or load()
    texts = [encode(document.text) for document in documents()] if texts is None else texts
    with workers() as pool, progress("demo", count, unit="jobs") as move:
        done = 0

        def finished(jobs: Sequence[Job]) -> dict[str, Any]:
            nonlocal done
            results = {}
            for name, result in pool(jobs):
                results[name] = result
                done += 1
                move(done, f"{name} ({time.perf_counter() - began:.0f} s)")
            return results

        found = explored(out, settings, model, texts, finished)
    demo_report.draw(found, out)
    seconds = time.perf_counter() - began
    numbers = demo_report.numbers(found) | {"machine": machine() | ONE_THREAD, "seconds": round(seconds, 1)}
    (out / "report.md").write_text(demo_report.text(found, seconds), encoding="utf-8")
    write_atomically(out / "metrics.json", (json.dumps(plain(numbers), indent=1, allow_nan=False) + "\n").encode())
    return demo_report.last_words(found, out), numbers


def explored(
    out: Path,
    settings: Settings,
    model: CharGPT,
    texts: Sequence[Array],
    finished: Callable[[Sequence[Job]], dict[str, Any]],
) -> Findings:
    """Write the caches, then train and measure everything; ``finished`` runs jobs and returns their results by name."""
    hook = f"blocks.{max(model.cfg.n_layer // 2 - 1, 0)}.hook_resid_post"
    cache, control = out / "cache", out / "control"
    other = random_init(model.cfg, np.random.default_rng(settings.seed))
    writing = {
        "activations": (model, texts, hook, cache),
        "activations of random weights": (other, texts, hook, control),
    }
    finished([Job(name, demo_jobs.write_activations, arguments) for name, arguments in writing.items()])
    ran = finished(training_jobs(settings, cache, control, model.cfg.n_vocab, out))
    shutil.rmtree(control)
    saes = {name: ran[name][0] for name in ("topk", "relu")}
    pca, pca_measured, pca_points = ran["principal components"]
    measured = {"topk": ran["topk"][1], "relu": ran["relu"][1], "pca": pca_measured}
    splicing = (model, hook, cache, {**saes, "pca": pca}, measured["topk"].mean, settings)
    losses = finished([Job("splicing", demo_jobs.model_losses, splicing)])["splicing"]
    parts, (_, control_measured, control_mass) = demo_jobs.halves(cache, settings), ran["topk on random weights"]
    return Findings(
        settings=settings,
        how=parts.how,
        hook=hook,
        cfg=model.cfg._asdict(),
        rows=(parts.train.rows, parts.held_out.rows),
        metrics={name: result.numbers for name, result in measured.items()} | {"control": control_measured.numbers},
        losses=losses,
        purity={"topk": purity(ran["topk"][2]), "control": purity(control_mass)},
        densities={name: measured[name].totals.density for name in saes},
        records={name: read_records(out / name) for name in saes},
        points={"topk": [ran[f"k = {k}"] for k in settings.ks], "relu": [ran[f"λ = {l1:g}"] for l1 in settings.l1s]}
        | pca_points,
        structures={name: cosine_structure(sae.params["W_dec"]) for name, sae in saes.items()},
        pages=pages(saes["topk"], parts, settings),
    )


def training_jobs(settings: Settings, cache: Path, control: Path, n_vocab: int, out: Path) -> list[Job]:
    """Return everything that can be trained once the caches are there, the longest first."""
    return [
        Job("relu", demo_jobs.long_run, ("relu", cache, n_vocab, settings, out / "relu")),
        Job("topk", demo_jobs.long_run, ("topk", cache, n_vocab, settings, out / "topk")),
        Job("topk on random weights", demo_jobs.long_run, ("topk", control, n_vocab, settings, None)),
        *(Job(f"λ = {l1:g}", demo_jobs.short_run, ("relu", "l1", l1, cache, settings)) for l1 in settings.l1s),
        *(Job(f"k = {k}", demo_jobs.short_run, ("topk", "k", k, cache, settings)) for k in settings.ks),
        Job("principal components", demo_jobs.principal_components, (cache, settings)),
    ]


def prepare(out: Path) -> None:
    """Make the folder; empty it if it holds a former demo, whole or not; refuse one that holds anything else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, found a file")
    held = sorted(path.name for path in out.iterdir()) if out.exists() else []
    others = [name for name in held if name not in MADE]
    if others or (held and not is_demo(out)):
        raise InputError(f"{out}: expected a new folder or a former demo's, it holds {', '.join((others or held)[:3])}")
    for name in held:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "metrics.json", (json.dumps({"made_by": "minisae demo", "finished": False}) + "\n").encode())


def is_demo(out: Path) -> bool:
    """Tell whether a folder was written by the demo."""
    try:
        return bool(json.loads((out / "metrics.json").read_text(encoding="utf-8"))["made_by"] == "minisae demo")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def purity(mass: np.ndarray) -> float:
    """Return the median over live latents of the share of ``mass (d_sae, n_vocab)`` on a latent's main character."""
    total = mass.sum(axis=1)  # (d_sae,)
    live = total > 0  # (d_sae,)
    return float(np.median(mass[live].max(axis=1) / total[live])) if live.any() else 0.0


def pages(sae: SAE, parts: Halves, settings: Settings) -> list[LatentPage]:
    """Return the pages of latents drawn by the seed, from held-out rows."""
    count = min(settings.latents, sae.cfg.d_sae)
    latents = np.sort(
        generator(settings.seed, "demo_latents").choice(sae.cfg.d_sae, count, replace=False)
    )  # (latents,)
    found = firing(sae, parts.held_out, latents.tolist())
    return [latent_page(found, column) for column in range(count)]
