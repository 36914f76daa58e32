"""Runs on disk, and :func:`train`, which does the whole job.

A run's folder: the checkpoint (see :mod:`minisae.checkpoint`), ``metrics.jsonl`` (a line a record), and at the end the
autoencoder itself as a SAELens 6 folder. Killed at any moment and resumed, a run ends with the same bits.
"""

import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, resolve, to_device, to_host
from minisae.cache import ArraySource, Source, View, as_source
from minisae.checkpoint import ARRAYS, RUN, SAE, fold_input_scale, read_run, write_run
from minisae.errors import InputError
from minisae.interop import saelens
from minisae.interop.files import write_atomically
from minisae.ops import normalise_rows
from minisae.optim import AdamState, signum_average
from minisae.presets import variant_of, with_preset
from minisae.recipe import Recipe, check_recipe
from minisae.sae import sizes
from minisae.sae import variant as variant_module
from minisae.synthetic import SyntheticSource
from minisae.train import Hook, Record, Run, fit, start
from minisae.version import __version__

METRICS = "metrics.jsonl"
RUN_KEYS = ("variant", "cfg", "recipe", "step", "adam_steps", "input_scale", "resampled", "source", "machine")


def machine() -> dict[str, Any]:
    """Return what the last bits of a result depend on: versions, BLAS, threads, processor."""
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    return {
        "minisae": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "threads": int(threads) if threads and threads.isdigit() else os.cpu_count(),
        "processor": platform.machine(),
    }


def save_run(run: Run, path: Path, *, source: Mapping[str, Any]) -> None:
    """Write a checkpoint of everything that the rest of the run depends on."""
    info = {
        "variant": run.variant,
        "cfg": run.cfg._asdict(),
        "recipe": run.recipe._asdict(),
        "step": run.step,
        "rows_seen": run.step * run.recipe.batch_size,
        "adam_steps": run.adam.t,
        "input_scale": run.scale,
        "resampled": run.resampled,
        "generators": "every draw comes from (recipe.seed, stream, step): nothing else to restore",
        "source": source,
        "machine": machine(),
    }
    moments = {f"{kind}.{key}": to_host(a) for kind in ("m", "v") for key, a in getattr(run.adam, kind).items()}
    state = {"idle": to_host(run.idle), **{f"average.{key}": to_host(a) for key, a in run.average.items()}}
    write_run(path, info, {key: to_host(p) for key, p in run.params.items()}, moments | state)


def load_run(path: Path, *, backend: str = "numpy") -> tuple[Run, dict[str, Any]]:
    """Read a run's last checkpoint: the run, and what ``run.json`` says beside it.

    Warns where versions, BLAS or threads are not those of the checkpoint: the last bits may differ then.
    """
    info, (params, state) = read_run(path)
    missing = [key for key in RUN_KEYS if key not in info]
    if missing:
        raise InputError(f"{path / RUN}: expected {', '.join(RUN_KEYS)}; {', '.join(missing)} missing")
    here = machine()
    changed = [
        f"{key} {info['machine'].get(key)} → {value}"
        for key, value in here.items()
        if info["machine"].get(key) != value
    ]
    if changed:
        warnings.warn(f"{path}: resumed elsewhere ({', '.join(changed)}); the last bits may differ", stacklevel=2)
    cfg = saelens.config_from(info["variant"], info["cfg"], path / RUN)
    recipe = options_to(Recipe, info["recipe"], path / RUN)

    def group(prefix: str) -> dict[str, Array]:
        return _placed({key.removeprefix(prefix): a for key, a in state.items() if key.startswith(prefix)}, backend)

    adam = AdamState(group("m."), group("v."), info["adam_steps"])
    idle = to_device(state["idle"], backend)  # (d_sae,)
    none_bad = to_device(np.full(1, -1), backend)  # (1,)
    run = Run(
        info["variant"], cfg, recipe, _placed(params, backend), adam, group("average."), idle, none_bad,
        info["input_scale"], info["resampled"], info["step"],
    )  # fmt: skip
    return run, info


def _placed(arrays: Mapping[str, np.ndarray], backend: str) -> dict[str, Array]:
    """Bring arrays to the backend, encoder matrices feature-major."""
    return {
        key: to_device(a.T.copy(), backend).T if key == "W_enc" else to_device(a, backend) for key, a in arrays.items()
    }


def options_to(kind: Any, options: Mapping[str, Any], source: object) -> Any:
    """Return a NamedTuple of ``kind`` from named options; unknown or missing names are one line."""
    unknown = sorted(set(options) - set(kind._fields))
    if unknown:
        raise InputError(f"{source}: unknown {', '.join(unknown)}; expected some of {', '.join(kind._fields)}")
    missing = sorted(set(kind._fields) - set(kind._field_defaults) - set(options))
    if missing:
        raise InputError(f"{source}: {', '.join(missing)} missing")
    return kind(**options)


def finished(run: Run, *, metadata: Mapping[str, Any]) -> SAE:
    """Return the autoencoder of a run: averaged weights where they are on, the input scale folded out.

    A penalty λ is in the units of the activations, so it is scaled along.
    """
    signum = run.recipe.optimiser == "signum"
    average = signum_average(run.params, run.adam, beta=run.recipe.beta1) if signum else run.average
    module, params = variant_module(run.variant), run.params | average
    if hasattr(module, "derived"):
        params |= module.derived(params, run.cfg)
    cfg, params = fold_input_scale(run.variant, run.cfg, params, run.scale)
    if run.average and run.cfg.decoder == "unit":
        normalise_rows(params["W_dec"])  # an average of unit rows is a little shorter
    if hasattr(module, "folded"):
        params, cfg = module.folded(params, cfg)  # decoder norms that ranked latents, into the encoder
    return SAE(run.variant, cfg, params, dict(metadata))


class Job(NamedTuple):
    """What to train: all that decides the result, besides the data."""

    variant: str
    cfg: Any
    recipe: Recipe


def job(widths: int | Sequence[int], *, variant: str, d_sae: int, options: Mapping[str, Any]) -> Job:
    """Sort named options into the variant's configuration and the recipe, and check both.

    ``widths`` is that of a row of data, or those of what it holds side by side: what follows from them need no word.

    Raises
    ------
    InputError
        For an option that neither has, and for a value that makes no sense.
    """
    fields = variant_module(variant).Config._fields
    mine = {key: value for key, value in options.items() if key in fields}
    rest = {key: value for key, value in options.items() if key not in fields}
    unknown = sorted(set(rest) - set(Recipe._fields))
    if unknown:
        known = ", ".join((*fields, *Recipe._fields))
        raise InputError(f"option {', '.join(unknown)}: {variant} has none of that name; expected some of {known}")
    side_by_side = (widths,) if isinstance(widths, int) else widths
    follows = sizes(variant_module(variant), side_by_side, mine)
    cfg = saelens.config_from(variant, {"d_sae": d_sae, **mine, **follows}, "options")
    if hasattr(variant_module(variant), "check_asked"):
        variant_module(variant).check_asked(mine)
    recipe = options_to(Recipe, rest, "options")
    check_recipe(recipe, cfg)
    return Job(variant, cfg, recipe)


def train(
    data: Any,
    *,
    variant: str | None = None,
    d_sae: int,
    steps: int,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    k: float | None = None,
    l1: float | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    backend: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    metadata: Mapping[str, Any] | None = None,
    hooks: Iterable[Hook] = (),
    stop: Callable[[], bool] = lambda: False,
) -> SAE:
    """Train a sparse autoencoder and return it.

    Parameters
    ----------
    data : array ``(n, d_in)``, the path of an activation cache, or anything with ``d_in``, ``rows`` and ``batches``; a
        transcoder's rows are ``(n, d_in + d_out)``, a crosscoder's those of all sources side by side
    variant : a name of :data:`minisae.sae.VARIANTS`; ``None`` is the preset's, or topk without one
    d_sae, steps, batch_size, lr, seed : dictionary size and the recipe's first numbers, ``None`` for their defaults
    k, l1 : active latents a row, or weight of the L1 penalty: what a variant has of them
    options : any further field of the variant's ``Config`` or of :class:`~minisae.recipe.Recipe`, by name
    preset : a name of :data:`minisae.presets.PRESETS`; whatever else is given wins over it
    backend : ``"numpy"``, ``"cupy"``, ``"auto"``; ``None`` reads ``MINISAE_BACKEND``
    out : folder for checkpoints, records and the result
    resume : go on with the run in ``out``, which must have been started with the same settings and data
    metadata : further words on the data, kept beside its identity; a resumed run must bring the same
    hooks : called as ``hook(run, record)`` every ``log_every`` steps
    stop : asked before each step; True saves a checkpoint and returns what there is

    Raises
    ------
    InputError
        For bad input, before anything is written.
    Diverged
        If the loss was not finite; the last good checkpoint stays.
    """
    source = as_source(data)
    named = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "k": k, "l1": l1}
    chosen = {key: value for key, value in named.items() if value is not None} | dict(options or {})
    chosen = {key: value.item() if isinstance(value, np.generic) else value for key, value in chosen.items()}
    chosen = with_preset(preset, chosen, d_in=source.d_in, d_sae=d_sae)
    todo = job(widths_of(source), variant=variant_of(preset, variant), d_sae=d_sae, options=chosen)
    folder, identity = (None if out is None else Path(out)), source_identity(source) | dict(metadata or {})
    identity |= {"preset": preset} if preset else {}
    run = _begin(todo, source, identity, folder, resume=resume, backend=resolve(backend))
    if folder is None:
        return finished(fit(run, source, hooks=hooks, stop=stop), metadata=identity)

    def save(state: Run) -> None:
        save_run(state, folder, source=identity)

    run = fit(run, source, hooks=(*hooks, _recorder(folder)), save=save, stop=stop)
    sae = finished(run, metadata=identity)
    if run.step == run.recipe.steps:
        saelens.write(folder, *sae)
    return sae


def widths_of(source: Source) -> tuple[int, ...]:
    """Return the widths of what a row of data holds side by side; of one thing, unless the source knows better."""
    if not isinstance(source, View):
        return (source.d_in,)
    return tuple(source.kept.cache.manifest.d_in[hook] for hook in source.kept.hooks)


def array_sha256(a: np.ndarray) -> str:
    """Return a hash of an array's bytes, of any dtype."""
    return hashlib.sha256(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data).hexdigest()


def source_identity(source: Source) -> dict[str, Any]:
    """Return what tells this data from other data, as far as the kind of source lets one say."""
    known: dict[str, Any] = {"d_in": source.d_in, "rows": source.rows}
    if isinstance(source, View):
        index = source.kept
        known |= {"cache": index.cache.identity, "hooks": list(index.hooks), "budget": source.budget}
        known |= {"kept": hashlib.sha256(index.bits.tobytes()).hexdigest(), "meta": dict(index.cache.manifest.meta)}
    elif isinstance(source, ArraySource):
        known |= {"dtype": str(source.x.dtype), "sha256": array_sha256(source.x)}
    elif isinstance(source, SyntheticSource):
        known["dictionary_sha256"] = array_sha256(source.model.dictionary)
    return known


def _begin(
    todo: Job, source: Source, identity: Mapping[str, Any], folder: Path | None, *, resume: bool, backend: str
) -> Run:
    """Load the run to go on with, or start one and commit its step 0."""
    if folder is not None:
        if resume and (folder / RUN).exists():
            run, info = load_run(folder, backend=backend)
            refuse_other_job(todo, run, info, identity, folder)
            _cut_records(folder, run.step)
            return run
        refuse_other_content(folder, resume=resume)
    run = start(source, todo.variant, todo.cfg, todo.recipe, backend=backend)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _cut_records(folder, 0)
        save_run(run, folder, source=identity)
    return run


def refuse_other_content(folder: Path, *, resume: bool) -> None:
    """Refuse an output folder that holds anything, except what a run killed before its first commit leaves behind."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder to write to, found a file")
    left = {name + ".new" for name in (*ARRAYS, RUN, METRICS)} | {METRICS}
    held = sorted(p.name for p in folder.iterdir() if not (resume and p.name in left)) if folder.exists() else []
    if held:
        hint = "; add --resume (resume=True) to go on with the run in it" if RUN in held else ""
        raise InputError(f"{folder}: expected an empty or new folder, it holds {', '.join(held[:3])}{hint}")


def refuse_other_job(todo: Job, run: Run, info: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume a run with other settings or on other data than it was started with."""
    if todo.variant != run.variant:
        raise InputError(f"{folder}: the run trains variant {run.variant}, resume asked for {todo.variant}")
    for asked, had in ((todo.cfg, run.cfg), (todo.recipe, run.recipe)):
        for name in asked._fields:
            new, old = getattr(asked, name), getattr(had, name)
            if new != old:
                raise InputError(f"{name}: the run in {folder} was started with {old}, resume asked for {new}")
    if json.loads(json.dumps(identity)) != info["source"]:
        raise InputError(f"{folder}: the run was started on other data ({info['source']}) than it is to go on with")


def _recorder(folder: Path) -> Hook:
    def record(run: Run, values: Record) -> None:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            file.write(json.dumps(finite, allow_nan=False) + "\n")

    return record


def _cut_records(folder: Path, step: int) -> None:
    """Drop the records after ``step``, and a torn last one: they will be written again."""
    path = folder / METRICS
    if path.exists():
        kept = [line + "\n" for line in read_records_text(path) if json.loads(line)["step"] <= step]
        write_atomically(path, "".join(kept).encode())


def read_records_text(path: Path) -> list[str]:
    """Return the whole lines of a records file."""
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


def read_records(folder: str | Path) -> list[Record]:
    """Return the records of a run, one a logged step."""
    return [json.loads(line) for line in read_records_text(Path(folder) / METRICS)]
