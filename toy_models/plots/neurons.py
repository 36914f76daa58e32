"""Pictures 15 and 16: stacks of weights over neurons, the wiring of a small network, who is monosemantic."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch

from toy_models.plots.style import (
    GREY,
    NEGATIVE,
    POSITIVE,
    STYLES,
    end_labels,
    legend_right,
    log_axis,
    need,
    panels,
    sequential,
    series,
    tidy,
)

PLATE = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}
"""What the numbers in blocks stand on, since hatches would make them hard to read."""


def feature_fills(n_feat: int) -> list[tuple[Any, str]]:
    """Return colour and hatch of each feature: all pairs of seven colours and five hatches, and shades beyond 35."""
    if n_feat > 5 * len(STYLES):
        shades = sequential()(np.linspace(0, 1, n_feat))  # (n_feat, 4)
        return [(shade, "") for shade in shades]
    hatches = ("", "////", "....", "xxxx", "----")
    return [(STYLES[j % len(STYLES)].colour, hatches[(j + j // len(STYLES)) % len(hatches)]) for j in range(n_feat)]


def neuron_stacks(weights: Any, ax: Axes, *, title: str | None = None, legend: bool = True, order: Any = None) -> Axes:
    """Stack the weights of each neuron: |weight| upwards where positive, downwards where negative. Figures 15 and 16.

    ``weights (n_hid, n_feat)``; ``order (n_hid,)`` says which neurons to draw, from left to right (default: all). The
    largest weights stand next to the axis, so that a neuron of one feature is one block; blocks
    carry the number of their feature.
    """
    weights = need("weights", weights, "n_hid", "n_feat")  # (n_hid, n_feat)
    chosen = np.arange(len(weights)) if order is None else need("order", order, "drawn").astype(int)  # (drawn,)
    fills = feature_fills(weights.shape[1])
    smallest = 0.01 * float(np.abs(weights).max())
    blocks: list[tuple[int, float, float, int]] = []
    for place, neuron in enumerate(chosen):
        heights = {1: 0.0, -1: 0.0}
        for j in np.argsort(-np.abs(weights[neuron]), kind="stable"):
            value = float(weights[neuron, j])
            if abs(value) <= smallest:
                continue
            side = 1 if value > 0 else -1
            colour, hatch = fills[j]
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            ax.bar(place, value, bottom=heights[side], width=0.8, **look)
            blocks.append((place, heights[side] + value / 2, abs(value), j))
            heights[side] += value
    ax.axhline(0, color="black", linewidth=0.8)
    tidy(ax, "neuron", "weights, stacked", title)
    ax.set_xticks(range(len(chosen)), [str(n) for n in chosen] if len(chosen) <= 12 else [""] * len(chosen))
    ax.set_xlim(-0.6, len(chosen) - 0.4)
    for place, middle, size, j in blocks if len(chosen) <= 12 else ():
        if size > 0.09 * float(np.ptp(ax.get_ylim())):
            ax.text(place, middle, f"{j}", ha="center", va="center", fontsize=8, bbox=PLATE)
    if legend and weights.shape[1] <= 5 * len(STYLES):
        handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=f"{j}") for j, (c, h) in enumerate(fills)]
        ax.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, title="feature",
            borderaxespad=0.0, ncols=1 + len(handles) // 11,
        )  # fmt: skip
    return ax


def wiring(W_1: Any, W_2: Any, ax: Axes, *, threshold: float = 0.05) -> Axes:
    """Draw a network as a graph: inputs, neurons, outputs; the width of a line is |weight|. Figure 16.

    ``W_1 (n_hid, n_feat)`` and ``W_2 (n_out, n_hid)``; weights below ``threshold`` of the largest are left out. Neurons
    are sorted by the input that they read most.
    """
    W_1 = need("W_1", W_1, "n_hid", "n_feat")  # (n_hid, n_feat)
    n_hid, n_feat = W_1.shape
    W_2 = need("W_2", W_2, "n_out", n_hid)  # (n_out, n_hid)
    order = np.lexsort((-W_1[np.arange(n_hid), np.abs(W_1).argmax(axis=1)], np.abs(W_1).argmax(axis=1)))  # (n_hid,)
    spots = [np.linspace(1, 0, count + 2)[1:-1] for count in (n_feat, n_hid, len(W_2))]
    for column, matrix in enumerate((W_1[order], W_2[:, order])):
        top = float(np.abs(matrix).max()) or 1.0
        for into, out_of in zip(*np.nonzero(np.abs(matrix) > threshold * top), strict=True):
            value = matrix[into, out_of]
            style = POSITIVE if value > 0 else NEGATIVE
            ends = [(column, spots[column][out_of]), (column + 1, spots[column + 1][into])]
            dash = "-" if value > 0 else (0, (2, 1.2))
            ax.add_collection(
                LineCollection([ends], colors=style.colour, linewidths=0.6 + 2.4 * abs(value) / top, linestyles=dash)
            )
    for column, (ys, mark) in enumerate(zip(spots, ("x", "h", "y"), strict=True)):
        words = [*order] if column == 1 else [*range(len(ys))]
        ax.plot(np.full(len(ys), column), ys, "o", color="white", markeredgecolor="black", markersize=17, zorder=3)
        for y, number in zip(ys, words, strict=True):
            ax.text(column, y, f"{mark}{number}", ha="center", va="center", fontsize=8, zorder=4)
    ax.plot([], [], color=POSITIVE.colour, label="positive weight")
    ax.plot([], [], color=NEGATIVE.colour, linestyle=(0, (2, 1.2)), label="negative weight")
    ax.set(xlim=(-0.2, 2.2), ylim=(0, 1), yticks=[], xticks=[0, 1, 2])
    ax.set_xticklabels(["inputs", "neurons", "outputs"])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    legend_right(ax)
    return ax


def in_and_out(W_1: Any, W_2: Any, axes: Sequence[Axes], *, order: Any = None) -> list[Axes]:
    """Stack what neurons read, ``W_1 (n_hid, n_feat)``, above what they write, ``W_2 (n_out, n_hid)``. Figure 16."""
    top, bottom = panels(axes, 2)
    W_1 = need("W_1", W_1, "n_hid", "n_feat")  # (n_hid, n_feat)
    W_2 = need("W_2", W_2, "n_out", len(W_1))  # (n_out, n_hid)
    neuron_stacks(W_1, top, title="W₁: what a neuron reads", order=order)
    neuron_stacks(W_2.T, bottom, title="W₂: what a neuron writes", order=order, legend=False)
    return [top, bottom]


def monosemantic_fraction(density: Any, fractions: Mapping[str, Any], ax: Axes) -> Axes:
    """Draw the share of neurons that serve one feature against density, one line each of ``fractions``. Figure 16.

    ``density (p,)``; the lines are arrays ``(p,)`` by name.
    """
    density = need("density", density, "p")  # (p,)
    styles, ends = list(series(len(fractions))), []
    for (name, values), style in zip(fractions.items(), styles, strict=True):
        line = need(f"fractions[{name!r}]", values, len(density))  # (p,)
        ax.plot(density, line, linestyle=style.dash, marker=style.marker, color=style.colour, linewidth=1.6)
        ends.append(float(line[np.argmax(density)]))
    log_axis(ax, "x", subs=(1.0, 3.0))
    ax.set(ylim=(-0.04, 1.06), xlim=(0.8 * density.min(), 1.25 * density.max()))
    ax.axhline(0, color=GREY, linewidth=0.6)
    tidy(ax, "density of a feature, p = 1 − S", "share of neurons with one feature")
    if len(fractions) > 1:
        end_labels(ax, ends, list(fractions), colours=[s.colour for s in styles])
    return ax
