"""Pictures 5, 6, 7 and 11: the antipodal pair by hand, the phase diagram, a slice of it, and one odd feature."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from scipy.ndimage import distance_transform_edt

from minisae.errors import InputError
from toy_models.plots.style import (
    FAINT,
    GREY,
    colour_bar,
    end_labels,
    halo,
    legend_right,
    line_end,
    log_axis,
    need,
    sequential,
    series,
    tidy,
)

PHASES = (("ignored", "#F0E442", "black"), ("superposed", "#56B4E9", "black"), ("dedicated", "#004B7A", "white"))
"""Name, colour and colour of the words of the labels 0, 1 and 2: from light to dark, so that greyscale tells them."""
DENSITY = "density of a feature, p = 1 − S"


def response_curves(x: Any, x_hat: Any, others: Any, ax: Axes) -> Axes:
    """Draw the output x₁′ against the input x₁ for several values of the other feature of an antipodal pair. Figure 5.

    ``x (k,)`` are inputs, ``x_hat (lines, k)`` the outputs and ``others (lines,)`` the values of x₂. The broad
    diagonal is a perfect answer; what the last line misses is shaded.
    """
    x = need("x", x, "k")  # (k,)
    others = need("others", others, "lines")  # (lines,)
    x_hat = need("x_hat", x_hat, len(others), len(x))  # (lines, k)
    ax.plot(x, x, color=FAINT, linewidth=6, alpha=0.9, zorder=1)
    ax.fill_between(x, x_hat[-1], x, color=FAINT, alpha=0.45, linewidth=0, zorder=0)
    styles = list(series(len(others)))
    for style, line in zip(styles, x_hat, strict=True):
        ax.plot(x, line, linestyle=style.dash, color=style.colour, linewidth=1.8)
    ax.set(xlim=(x[0], x[-1]), ylim=(min(0.0, x_hat.min()) - 0.03, 1.03 * max(x.max(), x_hat.max())))
    tidy(ax, "input x₁", "output x₁′")
    names = [f"x₂ = {value:g}" for value in others]
    end_labels(ax, [*x_hat[:, -1], x[-1]], [*names, "x₁ itself"], colours=[*(s.colour for s in styles), GREY])
    return ax


def cell_edges(name: str, centres: np.ndarray) -> np.ndarray:
    """Return the edges ``(k + 1,)`` of cells around ``centres (k,)``, half-way on a log axis."""
    if len(centres) < 2 or centres[0] <= 0 or np.any(np.diff(centres) <= 0):
        raise InputError(f"{name}: expected two or more positive numbers that rise, got {centres[:3]}")
    logs = np.log(centres)  # (k,)
    middle = (logs[1:] + logs[:-1]) / 2  # (k - 1,)
    ends = [2 * logs[0] - middle[0]], [2 * logs[-1] - middle[-1]]
    return np.asarray(np.exp(np.concatenate([ends[0], middle, ends[1]])))


def phase_map(
    labels: Any, density: Any, importance: Any, ax: Axes, *, curves: Mapping[str, Any] | None = None,
    title: str | None = None, legend: bool = True,
) -> Axes:  # fmt: skip
    """Draw which phase the extra feature is in, over its density and its relative importance, both log. Figure 6.

    ``labels (r, p)`` are 0 (ignored), 1 (superposed) or 2 (dedicated) at ``importance (r,)`` and ``density (p,)``.
    ``curves`` gives lines to lay over it by name: arrays ``(2, k)`` of densities and importances, NaN for a gap. The
    words stand where a phase has most room.
    """
    density = need("density", density, "p")  # (p,)
    importance = need("importance", importance, "r")  # (r,)
    labels = need("labels", labels, len(importance), len(density))  # (r, p)
    if not np.all(np.isin(labels, (0, 1, 2))):
        raise InputError(f"labels: expected 0, 1 or 2, got {labels[~np.isin(labels, (0, 1, 2))][0]:g}")
    x, y = cell_edges("density", density), cell_edges("importance", importance)
    colours = ListedColormap([colour for _, colour, _ in PHASES])
    ax.pcolormesh(x, y, labels, cmap=colours, vmin=-0.5, vmax=2.5)
    log_axis(ax, "x", subs=(1.0, 3.0))
    log_axis(ax, "y", subs=(1.0, 3.0))
    for value, (name, _, ink) in enumerate(PHASES):
        room = distance_transform_edt(np.pad(labels == value, 1))[1:-1, 1:-1]  # (r, p)
        row, column = np.unravel_index(int(np.argmax(room)), room.shape)
        if room.max() > 0:
            ax.text(density[column], importance[row], name, ha="center", va="center", fontsize=9, color=ink)
    for (name, line), dash in zip((curves or {}).items(), ("-", "--", ":", "-."), strict=False):
        drawn = need(f"curves[{name!r}]", line, 2, "k")  # (2, k)
        ax.plot(*drawn, color="black", linestyle=dash, linewidth=1.5, label=name, path_effects=halo(3.0))
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    tidy(ax, DENSITY, "importance of the extra feature, r", title)
    if curves and legend:
        legend_right(ax)
    return ax


def phase_slice(
    density: Any, losses: Mapping[str, Any], ax: Axes, *, exact: Any = None, crossings: Mapping[str, Any] | None = None
) -> Axes:
    """Draw the losses of the solutions against density, and the lowest loss that exists as dots. Figure 7.

    ``density (p,)``; ``losses`` and ``exact`` hold arrays ``(p,)``. ``crossings`` names points ``(density, loss)``.
    """
    density = need("density", density, "p")  # (p,)
    lines = {name: need(f"losses[{name!r}]", line, len(density)) for name, line in losses.items()}
    styles = list(series(len(lines)))
    for (name, line), style in zip(lines.items(), styles, strict=True):
        ax.plot(density, line, linestyle=style.dash, color=style.colour, linewidth=1.8, label=name)
    tails = [line_end(density, line) for line in lines.values()]
    names, colours = list(lines), [s.colour for s in styles]
    if exact is not None:
        lowest = need("exact", exact, len(density))  # (p,)
        every = max(1, len(density) // 25)
        ax.plot(density, lowest, "o", markersize=3.5, color="#333333", markevery=every, label="exact optimum", zorder=4)
        tails = [*tails, line_end(density, lowest)]
        names, colours = [*names, "exact optimum"], [*colours, "#333333"]
    for (name, (x, y)), side in zip((crossings or {}).items(), (-1, 1) * 4, strict=False):
        ax.annotate(
            name, (x, y), xytext=(26 * side, -26 * side), textcoords="offset points", fontsize=8, ha="center",
            va="center", arrowprops={"arrowstyle": "-", "linewidth": 0.8, "color": "black"}, path_effects=halo(),
        )  # fmt: skip
        ax.plot([x], [y], "s", markersize=6, markerfacecolor="none", color="black", zorder=5)
    top = max(float(np.nanmax(line)) for line in lines.values())
    ax.set(xlim=(density[0], density[-1]), ylim=(0, 1.05 * top))
    tidy(ax, DENSITY, "expected loss")
    end_labels(ax, [y for _, y in tails], names, colours=colours, starts=[x for x, _ in tails])
    return ax


def odd_feature_frames(W: Any, ratio: Any, ax: Axes, *, odd: int = 0, limit: float = 1.5, bar: bool = True) -> Axes:
    """Draw embeddings ``W (t, 2, n_feat)``, aligned by the caller, as outlines coloured by ``ratio (t,)``. Figure 11.

    ``ratio`` is the odd feature's density relative to the others'; its corner is a square, the others' are dots.
    """
    W = need("W", W, "t", 2, "n_feat")  # (t, 2, n_feat)
    ratio = need("ratio", ratio, len(W))  # (t,)
    scale = ScalarMappable(LogNorm(float(ratio.min()), float(ratio.max())), sequential())
    for frame, colour in zip(W, scale.to_rgba(ratio), strict=True):
        learned = np.flatnonzero(np.linalg.norm(frame, axis=0) > 0.35)  # (learned,)
        angle = np.arctan2(frame[1, learned], frame[0, learned])  # (learned,)
        round_trip = learned[np.argsort(angle)]  # (learned,)
        ax.plot(*frame[:, [*round_trip, round_trip[0]]], color=colour, linewidth=1.0, alpha=0.8)
        others = np.delete(frame, odd, axis=1)  # (2, n_feat - 1)
        ax.scatter(others[0], others[1], s=14, color=colour, zorder=3)
        ax.scatter(
            frame[0, odd], frame[1, odd], s=34, marker="s", color=colour, edgecolor="black", linewidth=0.6, zorder=4
        )
    ax.plot([0], [0], "+", color=GREY)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    tidy(ax, "hidden 1", "hidden 2", "square: the odd feature")
    if bar:
        colour_bar(scale, [ax], "relative density of the odd feature")
    return ax


def branch_losses(
    ratio: Any, losses: Mapping[str, Any], ax: Axes, *, crossings: Mapping[str, float] | None = None
) -> Axes:
    """Draw the loss of each geometry, followed through ``ratio (t,)``, and where the order changes. Figure 11.

    ``losses`` holds arrays ``(t,)`` by name, NaN where a branch has ended; ``crossings`` gives relative densities to be
    marked, by what stands beside the mark.
    """
    ratio = need("ratio", ratio, "t")  # (t,)
    styles = list(series(len(losses)))
    ends, starts = [], []
    for (name, line), style in zip(losses.items(), styles, strict=True):
        loss = need(f"losses[{name!r}]", line, len(ratio))  # (t,)
        ax.plot(ratio, loss, linestyle=style.dash, color=style.colour, marker=style.marker, markersize=4)
        start, end = line_end(ratio, loss)
        ends.append(end)
        starts.append(start)
    log_axis(ax, "x")
    tidy(ax, "relative density of the odd feature", "expected loss")
    low, high = ax.get_ylim()
    ax.set(xlim=(ratio.min(), ratio.max()), ylim=(low, high + 0.12 * (high - low)))
    for row, ((words, at), dash) in enumerate(zip((crossings or {}).items(), ("-", "--", ":"), strict=False)):
        ax.axvline(at, color=GREY, linestyle=dash, linewidth=1.0)
        ax.annotate(
            words, (at, 1), xycoords=("data", "axes fraction"), xytext=(4, -2 - 12 * row), textcoords="offset points",
            fontsize=8, va="top", color=GREY, path_effects=halo(),
        )  # fmt: skip
    end_labels(ax, ends, list(losses), colours=[s.colour for s in styles], starts=starts)
    return ax
