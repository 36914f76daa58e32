"""Pictures 1 to 4, and embeddings in three dimensions: batches, Gram matrices, bars of norms, arrows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Circle
from scipy.spatial import ConvexHull, QhullError

from minisae.errors import InputError
from toy_models.plots.style import (
    FAINT,
    GREY,
    SEQUENTIAL,
    STYLES,
    colour_bar,
    count_ticks,
    legend_right,
    need,
    panels,
    sequential,
    signed_image,
    tidy,
)

LIGHTEST = 0.82
"""Where arrows' colours end on the scale: thin lines must stand out from paper."""


def batch_heatmap(x: Any, ax: Axes, *, density: float | None = None, bar: bool = True) -> Axes:
    """Draw a batch ``x (n, n_feat)``: features that are off are white, and so is a row in which nothing is on.

    Values must lie in [0, 1], or in [−1, 1] for signed features. Figure 1.
    """
    x = need("x", x, "n", "n_feat")  # (n, n_feat)
    if np.any(x < 0):
        image = signed_image(x, ax, limit=1.0)
        ax.set_aspect("auto")
    else:
        shown = np.ma.masked_equal(x, 0)  # (n, n_feat)
        image = ax.imshow(shown, cmap=f"{SEQUENTIAL}_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    blank = float(np.mean(np.all(x == 0, axis=1)))
    given = "" if density is None else f"p = {density:g}\n"
    tidy(ax, "feature", "row", f"{given}{blank:.0%} of rows blank")
    ax.spines[["top", "right"]].set_visible(True)
    count_ticks(ax, "x", x.shape[1])
    if bar:
        colour_bar(image, [ax], "value of the feature")
    return ax


def gram_and_bias(
    W: Any, b: Any, axes: Sequence[Axes], *, limit: float | None = None, title: str | None = None, bar: bool = True
) -> list[Axes]:
    """Draw WᵀW of ``W (n_hid, n_feat)`` and ``b (n_feat,)`` as two signed images on one scale. Figure 2."""
    left, right = panels(axes, 2)
    W = need("W", W, "n_hid", "n_feat")  # (n_hid, n_feat)
    n_feat = W.shape[1]
    b = need("b", b, n_feat)  # (n_feat,)
    gram = W.T @ W  # (n_feat, n_feat)
    bound = limit if limit is not None else float(max(np.abs(gram).max(), np.abs(b).max())) or 1.0
    image = signed_image(gram, left, limit=bound)
    signed_image(b[:, None], right, limit=bound)
    tidy(left, "input feature", "output feature", "WᵀW" if title is None else f"{title}: WᵀW")
    tidy(right, "bias", "", "b")
    right.set(xticks=[], yticks=[])
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(True)
    for which in ("x", "y"):
        count_ticks(left, which, n_feat)
    if bar:
        colour_bar(image, [left, right], "weight")
    return [left, right]


def feature_bars(
    norms: Any, superposition: Any, ax: Axes, *, n_hid: int, density: float | None = None, bar: bool = True
) -> Axes:
    """Draw each feature's norm as a bar, coloured by how much it shares its direction with others. Figure 3.

    ``norms (n_feat,)`` are |W_i| and ``superposition (n_feat,)`` is Σ_{j≠i} (Ŵ_i·W_j)², both by falling importance;
    colours end at 1. The upright line stands where the hidden dimensions are used up.
    """
    norms = need("norms", norms, "n_feat")  # (n_feat,)
    n_feat = len(norms)
    shared = need("superposition", superposition, n_feat)  # (n_feat,)
    scale = ScalarMappable(Normalize(0, 1, clip=True), sequential())
    ax.bar(range(n_feat), norms, color=scale.to_rgba(shared), width=0.85, edgecolor="black", linewidth=0.4)
    ax.axvline(n_hid - 0.5, color="black", linewidth=1.0, linestyle="--")
    ax.annotate(
        f"m = {n_hid}", (n_hid - 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -1),
        textcoords="offset points", fontsize=8, va="top",
    )  # fmt: skip
    tidy(ax, "feature, most important first", "norm |W_i|")
    if density is not None:
        ax.text(1.0, 1.0, f"p = {density:g}", transform=ax.transAxes, ha="right", va="top", fontsize=9)
    count_ticks(ax, "x", n_feat)
    ax.set_xlim(-0.7, n_feat - 0.3)
    ax.set_ylim(0, 1.25 * max(1.0, float(norms.max())))
    if bar:
        colour_bar(scale, [ax], "superposition", extend="max")
    return ax


def feature_arrows(
    W: Any, ax: Axes, *, importance: Any = None, groups: Any = None, limit: float = 1.5, title: str | None = None,
    legend: bool = True,
) -> Axes:  # fmt: skip
    """Draw the columns of ``W (2, n_feat)`` as arrows in the plane, in a square of ±``limit``. Figures 4 and 12.

    The colour tells ``importance (n_feat,)``, from dark for the most to light for the least important, or with ``groups
    (n_feat,)`` the set that a feature belongs to (with a marker at the tip as well).
    """
    W = need("W", W, 2, "n_feat")  # (2, n_feat)
    colours, markers, names = arrow_styles(W.shape[1], importance, groups)
    ax.add_patch(Circle((0, 0), 1.0, fill=False, edgecolor=FAINT, linewidth=0.8, linestyle=":"))
    tail = np.zeros(W.shape[1])  # (n_feat,)
    ax.quiver(
        tail, tail, W[0], W[1], color=colours, angles="xy", scale_units="xy", scale=1, units="inches",
        width=0.024, headwidth=4, headlength=5, headaxislength=4.5, minlength=0, zorder=3,
    )  # fmt: skip
    for marker in dict.fromkeys(markers) if groups is not None else ():
        mine = [j for j, other in enumerate(markers) if other == marker]
        ax.scatter(
            W[0, mine], W[1, mine], s=34, marker=marker, c=[colours[j] for j in mine], edgecolor="white",
            linewidth=0.6, label=names[mine[0]], zorder=4,
        )  # fmt: skip
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    tidy(ax, "hidden 1", "hidden 2", title)
    if groups is not None and legend:
        legend_right(ax)
    return ax


def importance_bar(importance: Any, axes: Sequence[Axes]) -> None:
    """Put the scale of the arrows' colours beside all panels that share it. Figure 4."""
    weights = need("importance", importance, "n_feat")  # (n_feat,)
    scale = Normalize(float(weights.min()), float(weights.max()))
    colour_bar(ScalarMappable(scale, sequential(lightest=LIGHTEST).reversed()), axes, "importance")


def arrow_styles(n_feat: int, importance: Any, groups: Any) -> tuple[list[Any], list[str], list[str]]:
    """Return each feature's colour, marker and name of its set."""
    if importance is not None and groups is not None:
        raise InputError("groups: expected none beside importance, since both choose the colour, got both")
    if groups is not None:
        sets = need("groups", groups, n_feat).astype(int)  # (n_feat,)
        styles = [STYLES[s % len(STYLES)] for s in sets]
        return [s.colour for s in styles], [s.marker for s in styles], [f"set {s + 1}" for s in sets]
    weights = need("importance", np.ones(n_feat) if importance is None else importance, n_feat)  # (n_feat,)
    span = float(np.ptp(weights))
    shades = sequential(lightest=LIGHTEST)((weights.max() - weights) / (span or 1.0))  # (n_feat, 4)
    return list(shades), ["o"] * n_feat, [""] * n_feat


def frame_3d(
    W: Any, ax: Any, *, groups: Any = None, limit: float = 1.1, title: str | None = None, hull: bool = True
) -> Any:
    """Draw the columns of ``W (3, n_feat)`` as spokes with the edges of their convex hull, on 3-D axes. Figure 13."""
    W = need("W", W, 3, "n_feat")  # (3, n_feat)
    colours, markers, _ = arrow_styles(W.shape[1], None, groups)
    for first, second in hull_edges(W.T) if hull else ():
        ax.plot(*W[:, [first, second]], color=GREY, linewidth=0.9)
    for j in range(W.shape[1]):
        x, y, z = W[:, j]
        ax.plot([0, x], [0, y], [0, z], color=colours[j], linewidth=1.8)
        ax.plot([x], [y], [z], color=colours[j], marker=markers[j], markersize=6, markeredgecolor="white")
    for which in "xyz":
        ax.set(**{f"{which}lim": (-limit, limit), f"{which}ticks": [-1, 0, 1]})
        ax.tick_params(axis=which, labelsize=8, pad=-2)
    ax.set_box_aspect((1, 1, 1), zoom=0.85)
    ax.set_xlabel("hidden 1", labelpad=-5)
    ax.set_ylabel("hidden 2", labelpad=-5)
    ax.set_zlabel("hidden 3", labelpad=-5)
    if title:
        ax.set_title(title, fontsize="medium")
    return ax


def hull_edges(points: np.ndarray, *, flat: float = 0.995) -> list[tuple[int, int]]:
    """Return the pairs of rows of ``points (n_feat, 3)`` that an edge of their convex hull joins.

    Neighbouring triangles whose normals' cosine is above ``flat`` count as one face, so that a square face has no
    diagonal. Points in a plane have no hull in space and no edges.
    """
    try:
        found = ConvexHull(points)
    except (QhullError, ValueError):
        return []
    normals = found.equations[:, :3]  # (faces, 3)
    edges = set()
    for face, corners in enumerate(found.simplices):
        for opposite, neighbour in enumerate(found.neighbors[face]):
            if normals[face] @ normals[neighbour] < flat:
                first, second = sorted(int(c) for at, c in enumerate(corners) if at != opposite)
                edges.add((first, second))
    return sorted(edges)
