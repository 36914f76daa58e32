"""Pictures 21 and 22: memorisation and double descent, and the bounds that no dictionary can pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from toy_models.plots.style import (
    FAINT,
    STYLES,
    end_labels,
    legend_above,
    log_axis,
    need,
    panels,
    tidy,
)


def rings(hidden: Any, W: Any, axes: Sequence[Axes], *, title: str | None = None) -> list[Axes]:
    """Draw the training points' hidden vectors, and the features, as spokes in the plane. Figure 21.

    ``hidden (rows, 2)`` is h = Wx of the training points and ``W (2, n_feat)`` holds the features; each panel is scaled
    to its longest vector. One of the two is a ring: the data when they are few, the features when they are many.
    """
    drawn = panels(axes, 2)
    hidden = need("hidden", hidden, "rows", 2)  # (rows, 2)
    W = need("W", W, 2, "n_feat")  # (2, n_feat)
    looks = ((hidden, STYLES[1], "training points"), (W.T, STYLES[0], "features"))
    for ax, (points, style, name) in zip(drawn, looks, strict=True):
        for x, y in points:
            ax.plot([0, x], [0, y], color=style.colour, linewidth=0.6, alpha=0.6)
        ax.plot(*points.T, style.marker, color=style.colour, markersize=4, markeredgewidth=0)
        bound = 1.15 * (float(np.linalg.norm(points, axis=1).max()) or 1.0)
        ax.set(xlim=(-bound, bound), ylim=(-bound, bound), aspect="equal")
        tidy(ax, "hidden 1", "hidden 2", name if title is None else f"{title}: {name}")
    return drawn


def data_dimensionality(sizes: Any, D: Sequence[Any], ax: Axes, *, n_hid: int = 2) -> Axes:
    """Draw the dimensionality of every training point against their number T, with the curve m/T. Figure 21.

    ``sizes (t,)``; ``D`` holds one array of dimensionalities for each. The bar is the median.
    """
    sizes = need("sizes", sizes, "t")  # (t,)
    points = [need("D", values, "rows") for values in D]
    for size, values in zip(sizes, points, strict=True):
        spread = np.exp(np.linspace(-0.06, 0.06, len(values)))  # (rows,)
        ax.plot(size * spread, np.sort(values), ".", color=STYLES[0].colour, markersize=4, alpha=0.5)
        middle = np.median(values)
        ax.plot([size * 0.86, size * 1.16], [middle, middle], color="black", linewidth=2.0, solid_capstyle="butt")
    curve = np.geomspace(max(n_hid, sizes.min() * 0.8), sizes.max() * 1.2, 200)  # (curve,)
    ax.plot(curve, n_hid / curve, color=STYLES[1].colour, linestyle="--", linewidth=1.4)
    log_axis(ax, "x", subs=(1.0, 3.0))
    ax.set(ylim=(-0.03, 1.03), xlim=(sizes.min() * 0.75, sizes.max() * 1.33))
    tidy(ax, "training points, T", "dimensions per training point")
    ends = [float(np.median(points[int(np.argmax(sizes))])), n_hid / float(curve[-1])]
    end_labels(ax, ends, ["median", f"{n_hid}/T"], colours=["black", STYLES[1].colour])
    return ax


def double_descent(sizes: Any, train: Any, test: Any, ax: Axes) -> Axes:
    """Draw training and test loss against the number of training points, both log. Figure 21.

    All are arrays ``(t,)``. A loss near zero has no place on a log axis and stands low as a hollow mark with "≈ 0".
    """
    sizes = need("sizes", sizes, "t")  # (t,)
    lines = [need("train", train, len(sizes)), need("test", test, len(sizes))]
    seen = np.concatenate(lines)  # (2*t,)
    floor = max(float(seen[seen > 0].min()) / 2, float(seen.max()) * 1e-4)
    names = ("training loss", "test loss")
    for line, style, name in zip(lines, STYLES, names, strict=False):
        low = line < floor  # (t,)
        shown = np.where(low, floor, line)  # (t,)
        ax.plot(sizes, shown, linestyle=style.dash, color=style.colour, linewidth=1.6)
        ax.plot(sizes[~low], shown[~low], style.marker, color=style.colour, markersize=5, label=name)
        ax.plot(sizes[low], shown[low], style.marker, color=style.colour, markersize=6, markerfacecolor="white")
        for x, y in zip(sizes[low][:1], shown[low][:1], strict=True):
            ax.annotate("≈ 0", (x, y), xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
    log_axis(ax, "x", subs=(1.0, 3.0))
    log_axis(ax, "y", subs=(1.0, 3.0))
    tidy(ax, "training points, T", "loss")
    ax.set_xlim(sizes.min() * 0.8, sizes.max() * 1.25)
    last = int(np.argmax(sizes))
    end_labels(
        ax,
        [float(line[last]) for line in lines],
        names,
        colours=[s.colour for s in STYLES[:2]],
        starts=[sizes[last]] * 2,
    )
    return ax


def oracle_bound(k: Any, bound: Any, ax: Axes, *, measured: Any = None) -> Axes:
    """Draw the least FVU that k kept features allow, and what dictionaries reached. Figure 22.

    ``k (t,)``, ``bound (t,)``; ``measured (2, points)`` holds L0 and FVU. What lies below the line has mixed features.
    """
    k = need("k", k, "t")  # (t,)
    bound = need("bound", bound, len(k))  # (t,)
    ax.plot(k, bound, "-o", color=STYLES[0].colour, linewidth=1.6, markersize=5, label="oracle: the k largest kept")
    ax.fill_between(k, 0, bound, color=FAINT, alpha=0.3, linewidth=0)
    if measured is not None:
        found = need("measured", measured, 2, "points")  # (2, points)
        ax.plot(*found, "s", color=STYLES[1].colour, markersize=5, label="trained", linestyle="none")
    ax.set(xlim=(float(k.min()), float(k.max())), ylim=(0, 1.05 * float(bound.max())))
    tidy(ax, "active latents per row, k", "FVU")
    legend_above(ax, columns=2)
    return ax


def shrinkage_floor(l1: Any, floor: Any, ax: Axes, *, measured: Any = None) -> Axes:
    """Draw the FVU that an L1 penalty costs even with the true dictionary, against λ. Figure 22.

    ``l1 (t,)`` and ``floor (t,)``; ``measured (2, points)`` holds λ and FVU of trained dictionaries.
    """
    l1 = need("l1", l1, "t")  # (t,)
    floor = need("floor", floor, len(l1))  # (t,)
    ax.plot(l1, floor, color=STYLES[0].colour, linewidth=1.6, label="shrinkage alone")
    if measured is not None:
        found = need("measured", measured, 2, "points")  # (2, points)
        ax.plot(*found, "s", color=STYLES[1].colour, markersize=5, label="trained", linestyle="none")
    log_axis(ax, "x", subs=(1.0, 3.0))
    log_axis(ax, "y", subs=(1.0,))
    ax.set_xlim(float(l1.min()), float(l1.max()))
    tidy(ax, "L1 coefficient λ", "FVU")
    legend_above(ax, columns=2)
    return ax


def coherence_bounds(n_feat: Any, welch: Any, ax: Axes, *, random: Any, trained: Any = None, n_hid: int) -> Axes:
    """Draw the largest |cosine| of frames against the number of vectors, over the Welch bound. Figure 22.

    ``n_feat (t,)``; ``welch``, ``random`` and ``trained`` are ``(t,)``. The words at the right give, for the last size,
    how many active features the coherence guarantees to be unique: k < (1 + 1/μ)/2.
    """
    sizes = need("n_feat", n_feat, "t")  # (t,)
    lines = {"Welch bound": need("welch", welch, len(sizes)), "random": need("random", random, len(sizes))}
    if trained is not None:
        lines["trained"] = need("trained", trained, len(sizes))
    for (_, line), style in zip(lines.items(), STYLES, strict=False):
        mark = style.marker if line is not lines["Welch bound"] else "None"
        ax.plot(sizes, line, linestyle=style.dash, marker=mark, color=style.colour, linewidth=1.6, markersize=5)
    log_axis(ax, "x")
    ax.set(ylim=(0, 1.03), xlim=(0.9 * min(n_hid, sizes.min()), 1.1 * sizes.max()))
    tidy(ax, f"vectors in {n_hid} dimensions", "coherence μ, largest |cosine|")
    words = [f"{name}: k < {(1 + 1 / max(line[-1], 1e-12)) / 2:.1f}" for name, line in lines.items()]
    end_labels(
        ax,
        [float(v[-1]) for v in lines.values()],
        words,
        colours=[s.colour for s in STYLES[: len(lines)]],
        starts=[sizes[-1]] * len(lines),
    )
    return ax
