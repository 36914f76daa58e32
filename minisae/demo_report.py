"""What the demo writes: pictures, ``report.md``, ``metrics.json``, and its last words."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.evaluate import MEANING
from minisae.interpret import LatentPage, marked
from minisae.interpret.page import latents_page, name_of
from minisae.interpret.pictures import (
    Point,
    decoder_cosines,
    firing_densities,
    frontier,
    random_directions,
    training_curves,
)
from minisae.metrics import CosineStructure, cosine_structure, density_histogram
from minisae.models.text import ALPHABET
from minisae.train import Record

PICTURES = ("training.png", "densities.png", "frontier.png", "cosines.png", "latents.png")
TABLE = ("pooled_r2", "l0", "squared_error_per_row", "l2_ratio", "cosine_similarity", "dead_fraction")
BEFORE = 44
"""Characters shown left of a context's peak."""


class Settings(NamedTuple):
    """Sizes and recipes of the demo."""

    seed: int = 0
    held_out: float = 0.2
    """Share of the rows that is held out, in whole documents."""
    expansion: int = 8
    """Latents for each dimension of the activation."""
    k: int = 16
    l1: float = 2.0
    """λ of the relu run, for activations scaled to a mean norm of √d_in; so are ``l1s``."""
    steps: int = 1000
    batch_size: int = 1024
    lr: float = 3e-3
    dead_after: int = 50_000
    """Rows without firing after which AuxK takes a latent up."""
    ks: tuple[int, ...] = (4, 8, 16, 32, 64)
    l1s: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    sweep_steps: int = 300
    sweep_batch: int = 512
    sweep_lr: float = 4e-3
    sample: int = 131_072
    """Training rows of the sweeps and of the principal components."""
    sweep_rows: int = 16_384
    """Held-out rows that measure the sweeps."""
    splice_characters: int = 5000
    """Characters from each held-out document on which the model's losses are measured."""
    latents: int = 12
    """Latents to show."""


class Findings(NamedTuple):
    """All that the report tells."""

    settings: Settings
    how: str
    """What was held out."""
    hook: str
    cfg: dict[str, int]
    """The model's sizes."""
    rows: tuple[int, int]
    """Rows to train on, and held out."""
    metrics: dict[str, dict[str, float]]
    """Of ``topk``, ``relu``, ``pca`` and ``control`` on held-out rows."""
    losses: dict[str, dict[str, float]]
    """What splicing ``topk``, ``relu`` and ``pca`` costs the model."""
    purity: dict[str, float]
    """Median share of a latent's activation on its main character, of ``topk`` and ``control``."""
    densities: dict[str, Array]
    records: dict[str, list[Record]]
    points: dict[str, list[Point]]
    structures: dict[str, CosineStructure]
    pages: list[LatentPage]


def draw(found: Findings, out: Path) -> None:
    """Write the pictures."""
    d_sae, d_in = found.settings.expansion * found.cfg["d_model"], found.cfg["d_model"]
    chance = cosine_structure(random_directions(d_sae, d_in, found.settings.seed))
    figures = (
        training_curves(found.records),
        firing_densities(found.densities),
        frontier(found.points, long_runs(found)),
        decoder_cosines({**found.structures, f"{d_sae} random unit vectors": chance}),
        latents_page(found.pages, ALPHABET, before=BEFORE),
    )
    for name, drawn in zip(PICTURES, figures, strict=True):
        drawn.savefig(out / name, dpi=140)


def long_runs(found: Findings) -> dict[str, Point]:
    """Return the main runs as points of the picture of L0 against error."""
    label = f"{found.settings.steps} steps"
    metrics = {name: found.metrics[name] for name in ("topk", "relu")}
    return {name: Point(m["l0"], 1 - m["pooled_r2"], label) for name, m in metrics.items()}


def numbers(found: Findings) -> dict[str, Any]:
    """Return everything that was measured, as plain values."""
    return {
        "made_by": "minisae demo",
        "finished": True,
        "settings": found.settings._asdict(),
        "model": {"name": "char_gpt", "hook": found.hook, **found.cfg},
        "rows": {"train": found.rows[0], "held_out": found.rows[1], "how": found.how},
        "headline": headline(found),
        "metrics": found.metrics,
        "losses": found.losses,
        "character_share_of_a_latent": found.purity,
        "sweeps": {name: [point._asdict() for point in points] for name, points in found.points.items()},
        "density_log10": {name: _histogram(density) for name, density in found.densities.items()},
        "decoder_cosines": {name: _structure(s) for name, s in found.structures.items()},
        "latents": [_page(page) for page in found.pages],
    }


def headline(found: Findings) -> dict[str, float]:
    """Return the three numbers that matter, of the topk run on held-out documents."""
    return {
        "pooled_r2": found.metrics["topk"]["pooled_r2"],
        "ce_recovered_vs_zero_ablation": found.losses["topk"]["ce_recovered_vs_zero_ablation"],
        "dead_fraction": found.metrics["topk"]["dead_fraction"],
    }


def _histogram(density: Array) -> dict[str, Any]:
    found = density_histogram(density, bins=48)
    return {"counts": found.counts.tolist(), "edges": found.edges.tolist(), "silent": found.silent}


def _structure(found: CosineStructure) -> dict[str, Any]:
    keep = {"coherence": found.coherence, "rms": found.rms, "welch_bound": found.welch_bound}
    return {**keep, "counts": found.counts.tolist(), "edges": found.edges.tolist()}


def _page(page: LatentPage) -> dict[str, Any]:
    return {
        "latent": page.latent,
        "dead": not page.contexts,
        "density": page.density,
        "largest": page.largest,
        "characters": {ALPHABET[token]: share for token, share in page.tokens},
        "contexts": [marked(context, ALPHABET) for context in page.contexts],
    }


def last_words(found: Findings, out: Path) -> str:
    """Return what the demo prints at its end: where it is, and the three numbers that matter."""
    head = headline(found)
    return (
        f"{out / 'report.md'}\n"
        f"R² {head['pooled_r2']:.3f}: share of the variance of held-out activations that {found.settings.k} latents "
        "per character explain\n"
        f"cross-entropy recovered {head['ce_recovered_vs_zero_ablation']:.3f}: spliced into the model, "
        f"the reconstruction keeps this share of what zeroing the activation would lose\n"
        f"dead share {head['dead_fraction']:.2%}: latents that are silent on all {found.rows[1]:,} held-out rows"
    )


def text(found: Findings, seconds: float) -> str:
    """Return ``report.md``."""
    sections = (_what(found), _numbers(found), _losses(found), _pictures(found), _latents(found), _caveats(found))
    return "\n\n".join((*sections, f"*Written by `minisae demo` in {seconds:.0f} s.*")) + "\n"


def _what(found: Findings) -> str:
    how = re.sub(r"[0-9]{4,}", lambda digits: f"{int(digits[0]):,}", found.how)
    s, cfg, width = found.settings, found.cfg, found.cfg["d_model"]
    head = headline(found)
    return f"""# A sparse autoencoder on a language model's activations

Pooled R² **{head["pooled_r2"]:.3f}**, cross-entropy recovered **{head["ce_recovered_vs_zero_ablation"]:.3f}**, \
dead latents **{head["dead_fraction"]:.2%}**: all on documents that training did not see.

## What was done

A character model ({cfg["n_layer"]} blocks, width {width}) read the documents that ship with minisae, and at the \
middle of the model, `{found.hook}`, every character left one row of {width} numbers. These \
{sum(found.rows):,} rows are the cache in `cache/`. Held out: {how}.

A sparse autoencoder rewrites each row as a sum of a few directions out of {s.expansion * width:,} (its *latents*), \
{s.expansion} times as many as the row has dimensions. Two were trained, {s.steps:,} steps of {s.batch_size:,} rows \
each: `topk` keeps the {s.k} strongest latents of every row, `relu` pays λ = {s.l1:g} for each unit of \
activation (rows scaled to a mean norm of √{width}). \
Beside them stand

- **PCA**: the first {s.k} principal components, so as many numbers per row, but the same {s.k} for all rows;
- **control**: the same `topk` training on the activations of the same model with *random* weights. What it reaches \
takes no learning in the model, so it is the level against which "features of the model" have to be judged."""


def _numbers(found: Findings) -> str:
    names = list(found.metrics)
    lines = [f"| | {' | '.join(names)} | what it means |", f"|---|{'---|' * len(names)}---|"]
    for key in TABLE:
        form = ".2%" if key.endswith("fraction") else ",.4g"
        cells = [f"{found.metrics[name][key]:{form}}" for name in names]
        lines.append(f"| {key} | {' | '.join(cells)} | {MEANING[key]} |")
    control = found.metrics["control"]["pooled_r2"]
    purity = found.purity
    return "\n".join(lines).join(["## How well the rows are rebuilt\n\n", ""]) + (
        "\n\nPCA's components are no latents: L0 counts them all, and none can be dead. "
        f"The control's R² of {control:.3f} is a warning: activations of a random model are simple (mostly the "
        "character just read), so they are easy to rebuild, and a high R² alone does not show that latents mean "
        "anything. Both a higher R² and a purer response are to be expected of random weights. "
        f"What differs is what the latents respond to. The median control latent has {purity['control']:.0%} "
        f"of its activation on a single character; the median latent of the trained model {purity['topk']:.0%}: more "
        "of what it answers to stands around the character. (Errors per row are in squared units of each model's own "
        "activations, so the control's does not compare.)"
    )


def _losses(found: Findings) -> str:
    any_of = found.losses["topk"]
    lines = ["| the activation is replaced by | cross-entropy | recovered vs zero | recovered vs mean |"]
    lines += ["|---|---|---|---|", f"| nothing: the model as it is | {any_of['ce_clean']:.4f} | 1 | 1 |"]
    for name, row in found.losses.items():
        cells = (row["ce_sae"], row["ce_recovered_vs_zero_ablation"], row["ce_recovered_vs_mean_ablation"])
        lines.append(f"| the reconstruction of {name} | {' | '.join(f'{cell:.4f}' for cell in cells)} |")
    lines.append(f"| its mean | {any_of['ce_mean_ablation']:.4f} | | 0 |")
    lines.append(f"| zero | {any_of['ce_zero_ablation']:.4f} | 0 | |")
    return "\n".join(
        (
            "## What the model loses",
            "",
            f"The first {found.settings.splice_characters:,} characters of each held-out document, in nats per "
            "character. The model goes on from the reconstruction instead of its own activation; if what matters to it "
            "was kept, it predicts as well as before. *Recovered* is (ablated − spliced) / (ablated − clean). "
            + _scale(found),
            "",
            *lines,
        )
    )


def _scale(found: Findings) -> str:
    """Return what the clean and the zero line of the table of losses are to be compared with."""
    row, count = found.losses["topk"], found.cfg["n_vocab"]
    said = (
        f"The model as it is has {row['ce_clean']:.2f} on these beginnings; the 1.33 that stands for the shipped model "
        "elsewhere is over the whole of all 25 documents."
    )
    if abs(row["ce_zero_ablation"] - np.log(count)) < 0.001:
        said += (
            " With zero in its place nothing of the text gets through, and every character is equally likely: "
            f"ln {count} = {np.log(count):.2f}."
        )
    return said


def _pictures(found: Findings) -> str:
    return f"""## The pictures

![training curves](training.png)

**Training.** R² and L0 of the logged batches, and latents that have not fired for {found.settings.dead_after:,} rows. \
`topk` has its L0 fixed; `relu` finds its own as the penalty comes in.

![firing densities](densities.png)

**Firing densities.** How many latents fire in which share of the held-out rows. Far left are latents for rare events \
(or nearly dead ones), far right those that are on all the time and so say little.

![L0 against error](frontier.png)

**L0 against error.** Lower left is better. Filled: short runs ({found.settings.sweep_steps} steps of \
{found.settings.sweep_batch}) for several k and λ; open: the long runs above. The `relu` runs lie higher because the \
penalty also shrinks what it lets through, and they need longest. *PCA, largest k per row* may choose its components \
anew for each row, as an autoencoder does, but from only {found.cfg["d_model"]}; with k near that \
number it is hard to beat.

![decoder cosines](cosines.png)

**Decoder cosines.** Left all pairs, right each latent's closest other. \
{found.settings.expansion * found.cfg["d_model"]:,} directions cannot all \
be orthogonal in {found.cfg["d_model"]} dimensions: the Welch bound is the smallest *largest* cosine that is possible. \
Latents far beyond it lie close to another: variants of one feature, or duplicates.

![latents](latents.png)"""


def _latents(found: Findings) -> str:
    parts = [
        f"## {len(found.pages)} latents, drawn by the seed",
        "",
    ]
    for page in found.pages:
        lines = [marked(context, ALPHABET) for context in page.contexts]
        parts.append(f"**{name_of(page, ALPHABET)}**" + ("\n\n```\n" + "\n".join(lines) + "\n```" if lines else ""))
    shown = "".join(parts)
    signs = [says for sign, says in (("␣", "␣ is a space"), ("↵", "↵ is a line end")) if sign in shown]
    marks = ", ".join(["Between ⟦ and ⟧ the latent fires", *signs])
    parts[1] = (
        f"Not picked: good, dull and dead ones as they come. {marks}. "
        "The shares after *on* are of the latent's total activation over all held-out rows; the lines are only its "
        "strongest places, so the two can differ."
    )
    return "\n\n".join(parts)


def _caveats(found: Findings) -> str:
    silent = int(np.sum(found.densities["topk"] == 0))
    return f"""## What to keep in mind

- The model knows letters, so its features are letters, pairs of letters, word ends and spaces, some words, line ends. \
Do not expect meanings.
- Top contexts show a latent at its strongest. What it does at a tenth of that is often something else.
- *Dead* means silent on these {found.rows[1]:,} rows ({silent} latents here); on more rows the number can only fall.
- Rows of one document are alike. That is why whole documents are held out.
- R² weighs large directions. The model may care about small ones: compare the losses, not R² alone.

To look further: `minisae eval topk --cache cache --model char_gpt` (in this folder), `minisae info topk`, or train \
your own: `minisae train cache --d-sae 2048 --k 32 --steps 5000 --held-out 0.2 --out mine`. \
`cache/` is by far the largest thing here; delete it when you are done."""
