"""The page of latents: for each its strongest contexts, every character on the colour of its activation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minisae.interpret.contexts import Context, LatentPage, visible

COLUMNS = 2
SLOTS = 60
"""Characters a column of the page is wide."""
LINES = 5
"""Context lines for each latent."""
STEP = LINES + 2.4
"""Height of a latent's block, in lines."""


def name_of(page: LatentPage, characters: Sequence[str]) -> str:
    """Return the latent's headline: number, density, and the characters that carry its activation."""
    if not page.contexts:
        return f"latent {page.latent}: dead (silent on all held-out rows)"
    most = ", ".join(f"{shown(characters[token])} {share:.0%}" for token, share in page.tokens)
    return f"latent {page.latent}: fires on {page.density:.2%} of rows; on {most}"


def shown(character: str) -> str:
    """Return a character in quotes, the invisible ones by a sign."""
    return f"'{'␣' if character == ' ' else visible(character)}'"


def latents_page(pages: Sequence[LatentPage], characters: Sequence[str], *, before: int) -> Figure:
    """Draw the pages of some latents in two columns, ``before`` characters left of each peak.

    A character's background is its activation over the latent's largest; the peak of each context is underlined.
    """
    rows = -(-len(pages) // COLUMNS)
    drawn = Figure(figsize=(11.0, 0.4 + 0.145 * STEP * rows))
    ax = drawn.add_axes((0.01, 0.0, 0.98, 1.0))
    ax.set(xlim=(0, COLUMNS * SLOTS), ylim=(STEP * rows, -1.6))
    ax.axis("off")
    ax.text(0, -0.7, "background: activation at that character, over the latent's largest", fontsize=7.5, va="center")
    for step in range(5):
        ax.add_patch(Rectangle((46 + 6 * step, -1.2), 6, 1.0, color=shade((step + 0.5) / 5), linewidth=0))
        ax.text(49 + 6 * step, -0.7, f"{(step + 0.5) / 5:.0%}", fontsize=6.5, ha="center", va="center")
    for place, page in enumerate(pages):
        column, row = divmod(place, rows)
        x, y = column * SLOTS, STEP * row
        ax.text(x, y + 0.6, name_of(page, characters), fontsize=8, fontweight="bold", va="center")
        for line, context in enumerate(page.contexts[:LINES]):
            _draw(ax, context, page.largest, characters, x + before - context.peak, y + 1.2 + line)
    return drawn


def _draw(ax: Any, context: Context, largest: float, characters: Sequence[str], x: float, y: float) -> None:
    """Draw one context with its first character at ``x`` and its line from ``y`` to ``y + 1``."""
    for at, (token, value) in enumerate(zip(context.tokens.tolist(), context.values.tolist(), strict=True)):
        if value > 0:
            ax.add_patch(Rectangle((x + at, y), 1, 1, color=shade(value / largest), linewidth=0))
        ax.text(
            x + at + 0.5, y + 0.52, visible(characters[token]), fontsize=8.4, family="monospace", ha="center",
            va="center",
        )  # fmt: skip
    ax.plot([x + context.peak, x + context.peak + 1], [y + 0.98] * 2, color="black", linewidth=1.0)


def shade(share: float) -> Any:
    """Return the background of an activation from 0 to 1: pale to deep orange, under which black text stays legible."""
    return colormaps["Oranges"](0.08 + 0.57 * float(np.clip(share, 0, 1)))
