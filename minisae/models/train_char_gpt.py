"""Train, evaluate and ship the character GPT.

    OPENBLAS_NUM_THREADS=1 python -m minisae.models.train_char_gpt --text DIR --out FILE --threads 2
    python -m minisae.models.train_char_gpt --evaluate [FILE]

``DIR`` holds the unpacked text (at any depth); ``data/README.md`` beside this file says where it comes from. A batch is
cut into four parts whose gradients are added in a fixed order, so the number of threads does not change the result.
With more than one thread NumPy's own should be off (the first line above): small products gain nothing from them.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.errors import InputError
from minisae.models import char_gpt, text
from minisae.models.language_model import CharGPT, document_loss, load, save
from minisae.models.layers import cross_entropy
from minisae.optim import adam_init, adam_step, clip_by_global_norm

PARTS = 4


class Recipe(NamedTuple):
    """Steps, windows a step, peak learning rate, steps of warm-up, Adam's second decay, gradient norm limit, seed."""

    steps: int = 11_000
    batch: int = 16
    lr: float = 4e-3
    warmup: int = 200
    beta2: float = 0.98
    max_norm: float = 1.0
    seed: int = 0


def sample_windows(
    documents: Sequence[Array], t: int, b: int, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Yield tokens and next tokens ``(b, t)``, endlessly: every window inside one document equally likely.

    Raises
    ------
    InputError
        If no document is longer than ``t`` characters.
    """
    stream = np.concatenate(documents)  # (c,)
    ends = np.cumsum([len(d) for d in documents])  # (q,), one a document
    valid = np.concatenate([np.arange(e - len(d), e - t) for d, e in zip(documents, ends, strict=True)])  # (w,)
    if len(valid) == 0:
        raise InputError(f"text: expected a document longer than {t} characters, found none")
    while True:
        at = valid[rng.integers(len(valid), size=b)]  # (b,)
        rows = stream[at[:, None] + np.arange(t + 1)]  # (b, u), u = t + 1
        yield rows[:, :-1], rows[:, 1:]


def gradients(
    params: char_gpt.Params, tokens: Array, targets: Array, cfg: char_gpt.Config
) -> tuple[float, char_gpt.Params]:
    """Return the mean loss in nats a character and its slope on every parameter."""
    out, cache = char_gpt.forward(params, tokens, cfg)
    loss, d_logits = cross_entropy(out.logits, targets)
    return float(loss), char_gpt.backward(params, cache, cfg, d_logits)


def _mean(results: Sequence[tuple[float, char_gpt.Params]]) -> tuple[float, char_gpt.Params]:
    total = results[0][1]
    for _, grads in results[1:]:
        for name, g in grads.items():
            total[name] += g
    for g in total.values():
        g /= len(results)
    return sum(loss for loss, _ in results) / len(results), total


def rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate: linear from zero over the warm-up, then linear to zero at the last step."""
    rise = (step + 1) / max(recipe.warmup, 1)
    fall = (recipe.steps - step) / max(recipe.steps - recipe.warmup, 1)
    return recipe.lr * min(rise, fall, 1.0)


def train(
    documents: Sequence[Array],
    cfg: char_gpt.Config,
    recipe: Recipe,
    *,
    start: char_gpt.Params | None = None,
    threads: int = 1,
    hook: Callable[[int, float, char_gpt.Params], None] | None = None,
) -> char_gpt.Params:
    """Train on encoded ``documents`` and return the parameters; ``hook(step, loss, params)`` runs after every step.

    ``start`` gives parameters to go on from (copied) in place of random ones; the optimiser begins afresh.

    Raises
    ------
    InputError
        If a size or the recipe makes no sense, or no document is longer than the context.
    """
    if recipe.batch < 1 or recipe.batch % PARTS:
        raise InputError(f"batch: expected a multiple of {PARTS}, got {recipe.batch}")
    if cfg.n_head < 1 or cfg.d_model % cfg.n_head:
        raise InputError(f"n_head: expected a divisor of d_model {cfg.d_model}, got {cfg.n_head}")
    if min(recipe.steps, threads, *cfg) < 1:
        raise InputError(f"steps, threads, sizes: expected 1 or more, got {recipe.steps}, {threads}, {tuple(cfg)}")
    init_seed, data_seed = np.random.SeedSequence(recipe.seed).spawn(2)
    params = char_gpt.init(cfg, np.random.default_rng(init_seed))
    if start is not None:
        params = {name: p.copy() for name, p in start.items()}
    state = adam_init(params)
    batches = sample_windows(documents, cfg.n_ctx, recipe.batch, np.random.default_rng(data_seed))
    with ThreadPoolExecutor(threads) as pool:
        for step in range(recipe.steps):
            tokens, targets = next(batches)
            parts = zip(np.array_split(tokens, PARTS), np.array_split(targets, PARTS), strict=True)
            loss, grads = _mean(list(pool.map(lambda part: gradients(params, part[0], part[1], cfg), parts)))
            clip_by_global_norm(grads, recipe.max_norm)
            state = adam_step(params, grads, state, lr=rate(step, recipe), beta2=recipe.beta2)
            if hook:
                hook(step + 1, loss, params)
    return params


def evaluate(model: CharGPT, documents: Sequence[text.Document]) -> str:
    """Return a table of the mean loss of each document, in nats a character, and the two means over all of them."""
    losses = [document_loss(model, text.encode(d.text)) for d in documents]
    lines = [f"{loss.mean():.4f}  {d.title}" for d, loss in zip(documents, losses, strict=True)]
    lines.append(f"{np.mean([loss.mean() for loss in losses]):.4f}  nats/character, mean over {len(losses)} documents")
    every = np.concatenate(losses)  # (c,)
    lines.append(f"{every.mean():.4f}  nats/character, mean over {len(every)} characters")
    return "\n".join(lines) + "\n"


def _log(out: Path, cfg: char_gpt.Config, recipe: Recipe, every: int) -> Callable[[int, float, char_gpt.Params], None]:
    """Return a hook that prints the smoothed loss and writes a checkpoint every ``every`` steps."""
    began, cpu, smooth = time.perf_counter(), time.process_time(), [0.0, 0.0]

    def hook(step: int, loss: float, params: char_gpt.Params) -> None:
        smooth[0], smooth[1] = 0.99 * smooth[0] + 0.01 * loss, 0.99 * smooth[1] + 0.01
        if step % every and step != recipe.steps:
            return
        save(CharGPT(cfg, params), out)
        wall, used = time.perf_counter() - began, time.process_time() - cpu
        mean = smooth[0] / smooth[1]
        sys.stdout.write(f"step {step}/{recipe.steps}  loss {mean:.4f}  wall {wall:.0f} s  cpu {used:.0f} s\n")
        sys.stdout.flush()

    return hook


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minisae.models.train_char_gpt", description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, help="folder with the unpacked text packages")
    parser.add_argument("--out", type=Path, help="weights file to write (safetensors, float16)")
    parser.add_argument("--documents", type=Path, help="write the held-out documents of --text into this folder")
    parser.add_argument(
        "--evaluate", nargs="?", const="", metavar="FILE", help="held-out loss of FILE or of what ships"
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="go on from these weights (and their sizes)")
    parser.add_argument("--threads", type=int, default=1, help="gradient threads; set OPENBLAS_NUM_THREADS=1 with more")
    parser.add_argument("--log-every", type=int, default=250, help="steps between a log line and checkpoint")
    for name, default in Recipe._field_defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    for name in ("n_ctx", "n_layer", "d_model", "n_head", "d_mlp"):
        default = char_gpt.Config._field_defaults[name]
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.text:
        training, held_out = text.read_folder(options.text)
        if options.documents:
            text.write_documents(held_out, options.documents)
        if options.out:
            fields = {name: getattr(options, name) for name in char_gpt.Config._fields if name != "n_vocab"}
            model = load(options.start) if options.start else None
            cfg = model.cfg if model else char_gpt.Config(n_vocab=len(text.ALPHABET), **fields)
            recipe = Recipe(**{name: getattr(options, name) for name in Recipe._fields})
            log = _log(options.out, cfg, recipe, options.log_every)
            start = model.params if model else None
            texts = [text.encode(d.text) for d in training]
            train(texts, cfg, recipe, start=start, threads=options.threads, hook=log)
    if options.evaluate is not None:
        sys.stdout.write(evaluate(load(options.evaluate or None), text.documents()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(argv)
    if not options.text and options.evaluate is None:
        sys.stderr.write("--text: expected a folder (or --evaluate), got neither\n")
        return 2
    try:
        _run(options)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the last checkpoint is kept\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
