"""What each command does: arguments in, text and numbers out. Nothing here prints; :mod:`minisae.cli` does."""

import argparse
import contextlib
import difflib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from minisae import checkpoint, runs
from minisae.backend import resolve
from minisae.cache import Filters, Source, as_source, split
from minisae.cache import commands as cache_commands
from minisae.cache.stream import ArraySource, View
from minisae.console import Result, Stopped
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.evaluate import evaluate, held_out_rows, in_order, load_sae, model_numbers, table, text_behind
from minisae.info import FLAGS
from minisae.interop.files import read_json
from minisae.models import CharGPT
from minisae.models import load as load_model
from minisae.ops import reference_ops
from minisae.presets import variant_of
from minisae.progress import progress, say
from minisae.recipe import Recipe
from minisae.sae import VARIANTS, row_width, variant
from minisae.settings import pairs, settings
from minisae.train import Diverged, Record, Run

Options = argparse.Namespace
OWN = ("k", "l1")
"""Options of some variants only."""


def demo_(options: Options) -> Result:
    """Take a real language model's activations apart: train, evaluate, draw, explain."""
    from minisae import demo  # it draws: matplotlib is imported where it is needed

    return Result(*demo.run(options.out))


def train_(options: Options) -> Result:
    """Train a sparse autoencoder on an activation cache."""
    chosen = settings(options.set)
    options.variant = variant_of(options.preset, options.variant)
    refuse_other_options(options, chosen)
    backend = resolve(options.backend)
    done = _finished_step(options)
    source, selection = _training_rows(options)
    reference = reference_ops() if options.reference else contextlib.nullcontext()
    with _interruptible() as asked, progress("train", options.steps, unit="steps") as move, reference:

        def hook(run: Run, record: Record) -> None:
            move(run.step, f"loss {record['loss']:.4g}, R² {record['r2']:.4f}, L0 {record['l0']:.1f}")

        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is found by the training
                sae = runs.train(
                    source,
                    variant=options.variant,
                    d_sae=options.d_sae,
                    steps=options.steps,
                    batch_size=options.batch_size,
                    lr=options.lr,
                    seed=options.seed,
                    k=options.k,
                    l1=options.l1,
                    options={**({"dtype": options.dtype} if options.dtype else {}), **chosen},
                    preset=options.preset,
                    backend=backend,
                    out=options.out,
                    resume=options.resume,
                    metadata={"selection": selection},
                    hooks=[hook],
                    stop=lambda: bool(asked),
                )
        except Diverged as error:
            kept = f"the checkpoint of step {_saved_step(options.out)} in {options.out} is kept"
            error.args = (f"training diverged at step {error.step}; {kept}",)
            raise
    step = _saved_step(options.out)
    if asked and step < options.steps:
        raise Stopped(f"stopped at step {step}; the checkpoint is in {options.out}, go on with --resume")
    last = runs.read_records(options.out)[-1]
    r2 = "undefined" if last["r2"] is None else f"{last['r2']:.4f}"  # null in the records
    text = (
        f"{options.out}: {sae.variant}, {sae.cfg.d_in} → {sae.cfg.d_sae} latents, {step} steps; last batch: "
        f"R² {r2}, L0 {last['l0']:.1f}, {last['dead']:.0f} dead latents"
    )
    text += "\nnothing to do: this run was already finished" if done else ""
    return Result(text, {"run": str(options.out), "variant": sae.variant, "cfg": sae.cfg._asdict(), **last})


def refuse_other_options(options: Options, chosen: Mapping[str, Any]) -> None:
    """Refuse options of another variant, and ``--set`` names (the keys of ``chosen``) that nobody knows."""
    fields = VARIANTS[options.variant].Config._fields
    own = " and ".join(f"--{name}" for name in OWN if name in fields) or "neither"
    for name in OWN:
        if getattr(options, name) is not None and name not in fields:
            raise InputError(f"--{name} belongs to {' and '.join(owners(name))}; {options.variant} takes {own}")
    settable = [name for name in (*fields, *Recipe._fields) if name not in ("d_in", *FLAGS)]
    for name in chosen:
        if name in FLAGS:
            raise InputError(f"--set: {name} has its own option, --{name.replace('_', '-')}")
        if name not in settable:
            close = difflib.get_close_matches(name, settable, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise InputError(f"--set: no option {name} for {options.variant}; {hint}minisae info options lists them")


def owners(option: str) -> list[str]:
    """Return the variants that have this option."""
    return [name for name, module in VARIANTS.items() if option in module.Config._fields]


def _finished_step(options: Options) -> int | None:
    """Return the last step of a finished run that is to be resumed; refuse to lengthen it."""
    path = options.out / checkpoint.RUN
    if not options.resume or not path.exists():
        return None
    known = read_json(path)
    steps = known.get("recipe", {}).get("steps")
    if known.get("step") != steps:
        return None
    if options.steps > steps:
        raise InputError(
            f"--steps: the run in {options.out} was finished at step {steps}, resume asked for {options.steps}; "
            "a finished run cannot be lengthened, start a new one"
        )
    return int(steps)


def _training_rows(options: Options) -> tuple[Source, dict[str, Any]]:
    """Return the rows to train on, and what must be known to find the others again."""
    filters = Filters(options.skip_positions, options.max_norm, drop_nonfinite=options.drop_nonfinite)
    data = cache_commands.opened(options.cache, verify=True)
    hook = _hook(options)
    source = as_source(data, hook=hook, filters=filters, budget=options.budget * 2**20)
    selection: dict[str, Any] = {"filters": filters._asdict(), "hook": hook, "held_out": options.held_out}
    seed = Recipe._field_defaults["seed"] if options.seed is None else options.seed
    if options.held_out and isinstance(source, View | ArraySource):
        source = split(source, held_out=options.held_out, seed=seed).train
    return source, selection | {"seed": seed}


def _hook(options: Options) -> str | list[str] | None:
    """Return what ``--hook`` says: a name, several side by side, or nothing."""
    return options.hook[0] if len(options.hook) == 1 else options.hook or None


def _saved_step(folder: Path) -> int:
    return int(read_json(folder / checkpoint.RUN)["step"])


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Give a list that is no longer empty after the first Ctrl-C; the second one interrupts."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def eval_(options: Options) -> Result:
    """Measure an autoencoder on rows that it was not trained on, or else on all rows; says which."""
    loaded = load_sae(options.path, format=options.format, options=settings(options.set))
    sae = loaded.to(resolve(options.backend))
    model = _model(options.model) if options.model else None
    data = cache_commands.opened(options.cache, verify=False)
    rows = held_out_rows(sae, data, hook=_hook(options), drop_nonfinite=options.drop_nonfinite)
    width = row_width(variant(sae.variant), sae.cfg)
    if rows.source.d_in != width:
        raise InputError(f"{options.cache}: expected rows of width {width}, got {rows.source.d_in}")
    if model is not None:  # before the long pass over the rows
        if not isinstance(rows.source, View):
            raise InputError(f"--model: expected an activation cache with tokens beside it, got {options.cache}")
        text_behind(rows.source, model)
    with progress("eval", rows.source.rows) as move:
        found = evaluate(sae, rows.source, progress=move)
    numbers = found.numbers
    if model is not None and isinstance(rows.source, View):
        with progress("model", rows.source.rows, unit="tokens") as move:
            numbers |= model_numbers(sae, model, rows.source, found.mean, progress=move)
    numbers = in_order(numbers)
    about = {"run": str(options.path), "variant": sae.variant, "cfg": sae.cfg._asdict(), "how": rows.how}
    head = f"{options.path}: {sae.variant}, {sae.cfg.d_in} → {sae.cfg.d_sae} latents\n{rows.how}\n"
    return Result(f"{head}\n{table(numbers)}", {**about, "metrics": numbers})


def _model(name: str) -> CharGPT:
    path = Path(name)
    if name != "char_gpt" and not path.exists():
        raise InputError(f"--model: expected char_gpt or a file of its weights, got {name!r}")
    return load_model(None if name == "char_gpt" else path)


def cache_import_(options: Options) -> Result:
    """Bring activations of any known format into a cache."""
    filters = Filters(
        options.skip_positions,
        options.max_norm,
        tuple(options.drop_tokens),
        tuple(options.keep_tokens),
        options.drop_nonfinite,
    )
    with progress("import", None) as move:
        cache = cache_commands.import_(
            options.sources,
            options.out,
            keys=options.key,
            source_dtype=options.source_dtype,
            dtype=options.dtype,
            shard_rows=options.shard_rows,
            filters=filters,
            meta=pairs(options.meta, "--meta"),
            progress=lambda done, total: move(done, ""),
        )
    return cache_info_(argparse.Namespace(path=cache.path))


def cache_info_(options: Options) -> Result:
    """Describe an activation cache."""
    cache_commands.expect_cache(options.path)
    about = cache_commands.info(options.path)
    return Result(cache_commands.info_text(about), about)


def cache_check_(options: Options) -> Result:
    """Verify every byte of a cache against its checksums."""
    cache_commands.expect_cache(options.path)
    problems = cache_commands.check(options.path)
    text = "\n".join(problems) or f"{options.path}: sound"
    return Result(text, {"path": str(options.path), "problems": problems}, int(bool(problems)))


def bench_(options: Options) -> Result:
    """Time a training step on this machine, beside its floor and beside others; or see what each variant finds."""
    from minisae import bench, quality  # they start processes of their own; nothing else needs them

    if options.quality:
        return _quality(quality, options)
    if options.seeds is not None:
        raise InputError("--seeds: expected it with --quality only")
    report = bench.bench(against=options.against, progress=say)
    return Result(bench.table(report), report, int(not report["agrees"]))


def _quality(quality: Any, options: Options) -> Result:
    """Run the quality benchmark, with a line for each autoencoder as it is done."""
    if options.against:
        raise InputError("--against: expected it without --quality")
    seeds = 5 if options.seeds is None else options.seeds
    check_number("--seeds", seeds, least=1, whole=True)
    scores = quality.benchmark(seeds=seeds, tell=lambda score: say(quality.line(score)))
    held = quality.claims(scores)
    verdicts = "\n".join(f"{'yes' if yes else 'NO':4}{claim}" for claim, yes in held.items())
    report = {"scores": [score._asdict() for score in scores], "claims": held}
    return Result(f"{quality.table(scores)}\n\n{verdicts}", report, int(not all(held.values())))
