"""Pictures 8, 9, 10, 12 and 14: plateaus of dimensionality, feature graphs, the hull of shapes, sets, attacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from minisae.errors import InputError
from toy_models.plots.style import (
    FAINT,
    GREY,
    NEGATIVE,
    POSITIVE,
    SEQUENTIAL,
    STYLES,
    colour_bar,
    count_ticks,
    end_labels,
    guide_lines,
    halo,
    log_axis,
    need,
    panels,
    series,
    tidy,
)
from toy_models.polytopes import LEVELS

SPARSITY = "sparsity, 1/(1 − S)"
UNLEARNED = 0.01
"""Dimensionality below which a feature is drawn as not learned."""


def half_gaps(places: np.ndarray) -> np.ndarray:
    """Return nearly half of each place's distance to its nearest neighbour, at most 0.1."""
    gaps = np.abs(places[:, None] - places)  # (t, t)
    np.fill_diagonal(gaps, np.inf)
    return np.asarray(np.minimum(0.42 * gaps.min(axis=1), 0.1))


def dimensionality_scatter(inverse_density: Any, D: Any, ax: Axes, *, D_star: Any = None) -> Axes:
    """Draw every feature's dimensionality D_i against sparsity, with the levels of the known shapes. Figure 8.

    ``inverse_density (t,)`` is 1/(1 − S), ``D (t, n_feat)`` has NaN for what is not to be drawn, ``D_star (t,)`` is the
    line m/‖W‖²_F. The features of one sparsity stand side by side, sorted, so that a plateau is a short bar;
    those below ``UNLEARNED`` are pale.
    """
    inverse = need("inverse_density", inverse_density, "t")  # (t,)
    D = need("D", D, len(inverse), "n_feat")  # (t, n_feat)
    halves = half_gaps(np.log(inverse))  # (t,)
    for at, half, values in zip(inverse, halves, D, strict=True):
        for some, colour in ((values[values >= UNLEARNED], STYLES[0].colour), (values[values < UNLEARNED], FAINT)):
            x = at * np.exp(np.linspace(-half, half, len(some)))  # (some,)
            ax.scatter(x, -np.sort(-some), s=8, color=colour, alpha=0.8, linewidths=0, zorder=2)
    levels, names, colours = [v for v, _ in LEVELS], [t for _, t in LEVELS], [GREY] * len(LEVELS)
    if D_star is not None:
        star = need("D_star", D_star, len(inverse))  # (t,)
        order = np.argsort(inverse)  # (t,)
        ax.plot(inverse[order], star[order], "-s", color="black", linewidth=1.2, markersize=4, markerfacecolor="white")
        levels, names, colours = [*levels, star[order][-1]], [*names, "D* = m/‖W‖²"], [*colours, "black"]
    log_axis(ax, "x")
    ax.set(ylim=(-0.03, 1.08), xlim=(inverse.min() * 0.88, inverse.max() * 1.14))
    tidy(ax, SPARSITY, "dimensions per feature, D")
    guide_lines(ax, names=False)
    end_labels(ax, levels, names, colours=colours)
    return ax


def ring_order(cosines: np.ndarray) -> np.ndarray:
    """Return the features of a component in the order in which they go round in its two main directions."""
    _, vectors = np.linalg.eigh(cosines)
    return np.argsort(np.arctan2(vectors[:, -1], vectors[:, -2 if len(cosines) > 1 else -1]))


def shelves(sizes: Sequence[Sequence[int]], *, width: float = 7.5) -> tuple[list[list[Any]], list[float], float]:
    """Place rings of the given sizes, group by group, on shelves: centres with radius, caption heights, and depth."""
    centres: list[list[Any]] = []
    captions: list[float] = []
    y = 0.0
    for group in sizes:
        radius = 0.22 + 0.1 * max(group)
        captions.append(y)
        y -= 0.75 + radius
        x, placed = 0.0, []
        for size in group:
            if x + 2 * radius > width:
                x, y = 0.0, y - 2 * radius - 0.4
            placed.append((x + radius, y, 0.0 if size == 1 else radius))
            x += 2 * radius + 0.55
        centres.append(placed)
        y -= radius + 0.75
    return centres, captions, y


def feature_graph(
    cosines: Any, components: Sequence[Sequence[int]], names: Sequence[str], ax: Axes, *,
    residuals: Sequence[float] | None = None, threshold: float = 0.12, title: str | None = None, legend: bool = True,
) -> Axes:  # fmt: skip
    """Draw features as nodes, one ring for each recognised component, |cosine| above ``threshold`` as edges. Figure 9.

    ``cosines (n_feat, n_feat)``; ``components`` are lists of features, ``names`` what the recogniser called them and
    ``residuals`` how far they are from it (ρ, RMS cosine error; NaN: not said). Rings of the same name stand together.
    """
    cosines = need("cosines", cosines, "n_feat", "n_feat")  # (n_feat, n_feat)
    if len(names) != len(components):
        raise InputError(f"names: expected {len(components)}, one for each component, got {len(names)}")
    groups = [[c for c, name in enumerate(names) if name == each] for each in dict.fromkeys(names)]
    centres, captions, depth = shelves([[len(components[c]) for c in group] for group in groups])
    lines, widths, colours, dashes = [], [], [], []
    for group, places, height in zip(groups, centres, captions, strict=True):
        worst = max((residuals[c] for c in group), default=np.nan) if residuals is not None else np.nan
        fit = f",  ρ ≤ {worst:.3f}" if np.isfinite(worst) else ""
        ax.text(0.0, height, f"{len(group)} × {names[group[0]]}{fit}", fontsize=8, va="top")
        for c, (x, y, radius) in zip(group, places, strict=True):
            members = np.asarray(components[c], dtype=int)  # (k,)
            members = members[ring_order(cosines[np.ix_(members, members)])]  # (k,)
            angle = np.pi / 2 - 2 * np.pi * np.arange(len(members)) / len(members)  # (k,)
            nodes = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)  # (k, 2)
            ax.plot(*nodes.T, "o", color="black", markersize=3.5, zorder=3)
            for i, j in zip(*np.triu_indices(len(members), 1), strict=True):
                cosine = cosines[members[i], members[j]]
                if abs(cosine) > threshold:
                    style = POSITIVE if cosine > 0 else NEGATIVE
                    lines.append(nodes[[i, j]])
                    widths.append(0.4 + 2.0 * abs(cosine))
                    colours.append(style.colour)
                    dashes.append((0, (2, 1.2)) if cosine > 0 else "-")
    ax.add_collection(LineCollection(lines, linewidths=widths, colors=colours, linestyles=dashes, zorder=2))
    ax.set(xlim=(-0.3, 7.8), ylim=(min(depth, -7.8), 0.3), aspect="equal", anchor="NW")
    ax.set_axis_off()
    ax.set_title(title or "", fontsize="medium", loc="left")
    if legend:
        handles = [
            Line2D([], [], color=NEGATIVE.colour, label="cosine < 0"),
            Line2D([], [], color=POSITIVE.colour, linestyle=(0, (2, 1.2)), label="cosine > 0, interferes"),
        ]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 0.0), frameon=False, fontsize=8, ncols=2)
    return ax


def packing_hull(per_dim: Any, energy: Any, names: Sequence[str], ax: Axes, *, hull: Sequence[int]) -> Axes:
    """Draw what shapes cost against how many features they hold, per dimension, with the lower hull. Figure 10.

    ``per_dim (k,)`` are features per dimension, ``energy (k,)`` the ReLU² interference per dimension, ``hull`` the
    shapes on the lower convex hull, from left to right.
    """
    per_dim = need("per_dim", per_dim, "k")  # (k,)
    energy = need("energy", energy, len(per_dim))  # (k,)
    corners = [int(c) for c in hull]
    others = [c for c in range(len(per_dim)) if c not in corners]
    ax.plot(per_dim[corners], energy[corners], "-o", color=STYLES[0].colour, linewidth=1.6, markersize=7, zorder=3)
    ax.plot(per_dim[others], energy[others], "s", color=GREY, markerfacecolor="white", markersize=5, zorder=2)
    for c, name in enumerate(names):
        on = c in corners
        ax.annotate(
            name, (per_dim[c], energy[c]), xytext=(7, -5) if on else (-1, 5), textcoords="offset points", fontsize=8,
            ha="left" if on else "right", va="top" if on else "bottom", rotation=0 if on else -70,
            rotation_mode="anchor",
            color=STYLES[0].colour if on else GREY, weight="bold" if on else "normal",
        )  # fmt: skip
    low, high, top = float(per_dim.min()), float(per_dim.max()), float(energy.max()) or 1.0
    ax.set(xlim=(low - 0.05 * (high - low), high + 0.25 * (high - low)), ylim=(-0.12 * top, 1.3 * top))
    tidy(ax, "features per dimension, k/d", "ReLU² interference per dimension, E/d")
    return ax


def set_blocks(W: Any, ax: Axes, *, sets: Sequence[int], bar: bool = True) -> Axes:
    """Draw |WᵀW| of ``W (n_hid, n_feat)`` with lines between sets of the given sizes. Figure 12."""
    W = need("W", W, "n_hid", "n_feat")  # (n_hid, n_feat)
    if sum(sets) != W.shape[1]:
        raise InputError(f"sets: expected sizes that sum to {W.shape[1]}, got {list(sets)}")
    image = ax.imshow(np.abs(W.T @ W), cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
    for end in np.cumsum(sets)[:-1]:
        ax.axhline(end - 0.5, color="white", linewidth=1.5)
        ax.axvline(end - 0.5, color="white", linewidth=1.5)
    tidy(ax, "feature", "feature", f"|WᵀW|, {len(sets)} sets")
    for which in ("x", "y"):
        count_ticks(ax, which, W.shape[1])
    if bar:
        colour_bar(image, [ax], "|W_i · W_j|")
    return ax


def collapse_strip(density: Any, cosines: Any, ax: Axes, *, threshold: float = 0.98) -> Axes:
    """Draw the cosine of each correlated pair against density; above is the number of collapsed pairs. Figure 12.

    ``density (t,)``, ``cosines (t, pairs)``: a pair is collapsed when its cosine is above ``threshold``.
    """
    density = need("density", density, "t")  # (t,)
    cosines = need("cosines", cosines, len(density), "pairs")  # (t, pairs)
    ranked = -np.sort(-cosines, axis=1)  # (t, pairs)
    styles = list(series(cosines.shape[1]))
    shifts = np.exp(0.04 * (np.arange(len(styles)) - (len(styles) - 1) / 2))  # (pairs,)
    for column, style, shift in zip(ranked.T, styles, shifts, strict=True):
        ax.plot(
            density * shift, column, style.marker, color=style.colour, markersize=6, markeredgecolor="white", zorder=3
        )
    ax.axhline(threshold, color=GREY, linestyle=(0, (4, 3)), linewidth=0.9)
    for p, count in zip(density, np.sum(cosines > threshold, axis=1), strict=True):
        ax.text(p, 1.12, str(int(count)), ha="center", va="center", fontsize=9)
    log_axis(ax, "x", subs=(1.0, 3.0))
    ax.set(ylim=(min(-0.1, float(cosines.min()) - 0.1), 1.2), xlim=(0.75 * density.min(), 1.33 * density.max()))
    tidy(ax, "density of a pair, p", "cosine within the pair")
    ends = [1.12, threshold]
    end_labels(ax, ends, ["pairs collapsed", f"collapsed above {threshold:g}"], colours=["black", GREY])
    return ax


def vulnerability(inverse_density: Any, increase: Any, per_dim: Any, axes: Sequence[Axes]) -> list[Axes]:
    """Draw how much an attack hurts, features per dimension, and one against the other with Pearson's r. Figure 14.

    ``inverse_density (t,)``; ``increase (t,)`` is the rise of the loss over ε², relative to the dense model; ``per_dim
    (t,)`` is ‖W‖²_F/m.
    """
    left, middle, right = panels(axes, 3)
    inverse = need("inverse_density", inverse_density, "t")  # (t,)
    increase = need("increase", increase, len(inverse))  # (t,)
    per_dim = need("per_dim", per_dim, len(inverse))  # (t,)
    first, second = STYLES[1], STYLES[0]
    for ax, y, style in ((left, increase, first), (middle, per_dim, second)):
        ax.plot(inverse, y, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=4.5)
        ax.axhline(1, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        log_axis(ax, "x")
        log_axis(ax, "y")
    tidy(left, SPARSITY, "rise of the loss, relative to dense", "adversarial vulnerability")
    tidy(middle, SPARSITY, "‖W‖²/m", "features per dimension")
    right.plot(per_dim, increase, "o", color="black", markersize=5)
    if np.ptp(per_dim) > 0 and np.ptp(increase) > 0:
        r = float(np.corrcoef(per_dim, increase)[0, 1])
        right.text(0.05, 0.95, f"r = {r:.4f}", transform=right.transAxes, va="top", path_effects=halo())
    tidy(right, "features per dimension, ‖W‖²/m", "rise of the loss, relative to dense", "one against the other")
    return [left, middle, right]
