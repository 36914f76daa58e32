"""Pictures of a training run and of what came out: each function draws into a new figure and returns it.

Colours are from Okabe and Ito's set, which colour-blind readers can tell apart; line and marker shapes say the same
once more, so that the pictures hold in greyscale.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator

from minisae.backend import to_host
from minisae.metrics import CosineStructure, density_histogram, unit_rows
from minisae.streams import generator
from minisae.train import Record

STYLES = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#000000", ":", "^"), ("#009E73", "-.", "D"))
"""Colour, line and marker of the first, second, ... series."""
GREY = "#666666"
LOW = -5.0
"""Lowest firing density drawn, log10; what lies below is counted there."""
CONTEXT: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
           "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False}  # fmt: skip


class Point(NamedTuple):
    """One trained dictionary on the plane of sparsity and error."""

    l0: float
    error: float
    """Share of variance not explained, 1 − R²."""
    label: str
    """What was varied: ``"k = 8"``."""


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    """Return a new figure and its axes, one row of ``columns``."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, list(drawn.subplots(1, columns, squeeze=False)[0])


@rc_context(CONTEXT)
def training_curves(records: Mapping[str, Sequence[Record]]) -> Figure:
    """Draw R² and L0 of the logged batches, and the number of dead latents, against rows seen."""
    drawn, axes = figure(9.0, 3.0, 3)
    panels = (("r2", "R² of the batch"), ("l0", "active latents per row (L0)"), ("dead", "dead latents"))
    for ax, (key, title) in zip(axes, panels, strict=True):
        for (name, lines), (colour, dash, _) in zip(records.items(), STYLES, strict=False):
            rows = np.array([line["rows"] for line in lines]) / 1e6  # (records,)
            ax.plot(rows, [line[key] for line in lines], dash, color=colour, label=name, linewidth=1.6)
        ax.set(xlabel="rows seen (millions)", ylabel=title)
        ax.margins(x=0.02)
    plain_log(axes[1], "y")
    most = max(10.0, *(line["dead"] for lines in records.values() for line in lines))
    axes[2].set_ylim(-0.03 * most, 1.05 * most)
    axes[0].legend(loc="lower right")
    return drawn


@rc_context(CONTEXT)
def firing_densities(densities: Mapping[str, np.ndarray]) -> Figure:
    """Draw how many latents fire in which share of rows; silent ones are counted in the legend."""
    drawn, (ax,) = figure(6.0, 3.6)
    for (name, density), (colour, dash, _) in zip(densities.items(), STYLES, strict=False):
        found = density_histogram(density, bins=50, low=LOW)
        label = f"{name} (median {np.median(density):.1%}, silent: {found.silent} of {len(density)})"
        ax.stairs(found.counts, 10.0**found.edges, color=colour, linestyle=dash, linewidth=1.6, label=label)
    ax.set(xscale="log", xlabel="share of held-out rows in which a latent fires", ylabel="latents", xlim=(10.0**LOW, 1))
    top = ax.get_ylim()[1]
    ax.set_ylim(0, 1.3 * top)
    ax.legend(loc="upper left")
    return drawn


@rc_context(CONTEXT)
def frontier(series: Mapping[str, Sequence[Point]], long: Mapping[str, Point]) -> Figure:
    """Draw error against L0, both on logarithmic axes: lower and further left is better.

    Points with a label show it. ``long`` are single points of series of the same name, from longer runs.
    """
    drawn, (ax,) = figure(7.6, 4.2)
    for place, ((name, points), (colour, dash, marker)) in enumerate(zip(series.items(), STYLES, strict=False)):
        x, y = [p.l0 for p in points], [p.error for p in points]
        ax.plot(x, y, dash, color=colour, marker=marker, label=name, linewidth=1.4, markersize=5)
        if name in long:
            ax.plot(
                [long[name].l0], [long[name].error], marker, color=colour, markerfacecolor="none", markersize=9,
                markeredgewidth=1.6, label=f"{name}, {long[name].label}",
            )  # fmt: skip
        side, corner = (-4, ("right", "top")) if place == 0 else (4, ("left", "bottom"))
        for point in points:
            ax.annotate(
                point.label, (point.l0, point.error), xytext=(side, side), textcoords="offset points", fontsize=7,
                color=colour, ha=corner[0], va=corner[1], path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
    ax.set(xlabel="active latents (or components) per row (L0)", ylabel="share of variance not explained: 1 − R²")
    plain_log(ax, "x")
    plain_log(ax, "y")
    ax.margins(x=0.12, y=0.12)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawn


def plain_log(ax: Any, which: str) -> None:
    """Make an axis logarithmic, with 1, 2 and 5 of each decade written as plain numbers."""
    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


@rc_context(CONTEXT)
def decoder_cosines(structures: Mapping[str, CosineStructure]) -> Figure:
    """Draw the cosines of all pairs of decoder rows, and each row's largest; the Welch bound is marked."""
    drawn, (left, right) = figure(9.0, 3.6, 2)
    for (name, found), (colour, dash, _) in zip(structures.items(), STYLES, strict=False):
        counts, edges = to_host(found.counts), to_host(found.edges)
        share = counts / counts.sum()  # (bins,)
        left.stairs(share, edges, color=colour, linestyle=dash, linewidth=1.4, label=name)
        largest, bins = np.histogram(to_host(found.max_abs), bins=40, range=(0, 1))
        right.stairs(largest / largest.sum(), bins, color=colour, linestyle=dash, linewidth=1.4)
    left.set(yscale="log", xlabel="cosine between two decoder rows", ylabel="share of pairs", xlim=(-1, 1))
    right.set(xlabel="largest |cosine| of a decoder row with another", ylabel="share of latents", xlim=(0, 1))
    bound = next(iter(structures.values())).welch_bound
    right.axvline(bound, color=GREY, linewidth=1.2)
    right.annotate(
        f"Welch bound {bound:.3f}", (bound, 0.97), xycoords=("data", "axes fraction"), xytext=(-3, 0),
        textcoords="offset points", rotation=90, ha="right", va="top", color=GREY, fontsize=8,
    )  # fmt: skip
    drawn.legend(loc="outside upper center", ncols=len(structures), frameon=False)
    return drawn


def random_directions(d_sae: int, d_in: int, seed: int) -> np.ndarray:
    """Return random unit rows ``(d_sae, d_in)``: what a dictionary's cosines are to be compared with."""
    drawn = generator(seed, "random_directions").standard_normal((d_sae, d_in))  # (d_sae, d_in)
    return np.asarray(unit_rows(drawn.astype(np.float32)))
