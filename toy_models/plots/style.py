"""What all pictures share: colours, signed and sequential images, guide lines, labels at the ends of lines.

Colours are from Okabe and Ito's set, which colour-blind readers can tell apart; dashes, markers and hatches say the
same once more, and a dash in the cell marks what is negative in a signed image, so that pictures hold in greyscale.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator
from scipy.optimize import isotonic_regression

from minisae.backend import to_host
from minisae.errors import InputError
from toy_models.polytopes import LEVELS


class Style(NamedTuple):
    """How one of several series is drawn."""

    colour: str
    dash: Any
    marker: str
    hatch: str


STYLES = (
    Style("#0072B2", "-", "o", ""),
    Style("#D55E00", "--", "s", "///"),
    Style("#000000", ":", "^", "..."),
    Style("#009E73", "-.", "D", "xxx"),
    Style("#56B4E9", (0, (6, 1, 1, 1, 1, 1)), "v", "\\\\\\"),
    Style("#CC79A7", (0, (3, 1)), "P", "++"),
    Style("#E69F00", (0, (8, 2)), "X", "oo"),
)
"""The first, second, ... series; the eighth begins again."""
POSITIVE, NEGATIVE = STYLES[1], STYLES[0]
"""Warm is positive and cold is negative, as in the diverging colour map."""
GREY, FAINT = "#666666", "#BBBBBB"
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"


def figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1, widths: Sequence[float] | None = None,
    heights: Sequence[float] | None = None, three_d: bool = False,
) -> tuple[Figure, list[Any]]:  # fmt: skip
    """Return a new figure (inches) that needs no pyplot, and its ``rows · columns`` axes, row by row."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    grid = drawn.subplots(
        rows, columns, squeeze=False, width_ratios=widths, height_ratios=heights,
        subplot_kw={"projection": "3d"} if three_d else {},
    )  # (rows, columns)  # fmt: skip
    return drawn, list(grid.flat)


def need(name: str, value: Any, *dims: str | int) -> np.ndarray:
    """Return ``value`` as float64 on the host; its shape must be ``dims``, where letters stand for any length.

    Raises
    ------
    InputError
        If the shape is another one, or there is nothing in it; the line names the argument.
    """
    try:
        given = np.asarray(to_host(value), dtype=np.float64)  # (...,)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected numbers in an array, got {type(value).__name__}") from None
    if given.size == 0:
        raise InputError(f"{name}: expected at least one number, got shape {given.shape}")
    fits = given.ndim == len(dims) and all(
        isinstance(d, str) or d == s for d, s in zip(dims, given.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join(map(str, dims)) + ("," if len(dims) == 1 else "")
        raise InputError(f"{name}: expected shape ({wanted}), got {given.shape}")
    return given


def panels(axes: Sequence[Any], count: int) -> list[Any]:
    """Return the axes as a list, if there are ``count`` of them.

    Raises
    ------
    InputError
        If there are more or fewer.
    """
    found = list(axes) if isinstance(axes, Sequence | np.ndarray) else [axes]
    if len(found) != count:
        raise InputError(f"axes: expected {count} Axes, got {len(found)}")
    return found


def series(count: int) -> Iterator[Style]:
    """Yield the styles of ``count`` series."""
    for _, style in zip(range(count), cycle(STYLES), strict=False):
        yield style


def tidy(ax: Axes, x: str, y: str, title: str | None = None) -> None:
    """Name both axes and leave out the box's upper and right side."""
    ax.set(xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize="medium")


def log_axis(ax: Axes, which: str, *, subs: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Make ``"x"`` or ``"y"`` logarithmic, with the given digits of each decade written as plain numbers."""
    ax.set_xscale("log") if which == "x" else ax.set_yscale("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(plain)
    axis.set_minor_formatter("")


def plain(value: float, _: object = None) -> str:
    """Write a tick's value as a plain number, and as a power of ten where that would be long."""
    if 1e-4 <= value < 1e5:
        return f"{value:g}"
    digits, exponent = f"{value:.0e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if digits == "1" else rf"${digits} \cdot {power}$"


def sequential(darkest: float = 0.0, lightest: float = 0.9) -> Colormap:
    """Return cividis from dark to light without its palest end, which is lost on white paper."""
    colours = mpl.colormaps[SEQUENTIAL](np.linspace(darkest, lightest, 256))  # (256, 4)
    return LinearSegmentedColormap.from_list("cividis, cut", colours)


def colour_bar(drawn: Any, axes: Sequence[Any], label: str, *, extend: str = "neither") -> None:
    """Put the colour scale of an image or collection beside the axes."""
    bar = axes[0].figure.colorbar(drawn, ax=list(axes), label=label, extend=extend, fraction=0.05)
    if isinstance(drawn.norm, LogNorm):
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(plain)
        bar.ax.yaxis.set_minor_formatter("")


def signed_image(matrix: np.ndarray, ax: Axes, *, limit: float | None = None, dashes: bool = True) -> AxesImage:
    """Draw a matrix in colours centred at zero; cells below −limit/4 carry a dash, for readers without the colours."""
    rows, columns = matrix.shape
    bound = limit if limit is not None else float(np.nanmax(np.abs(matrix))) or 1.0
    image = ax.imshow(matrix, cmap=DIVERGING, vmin=-bound, vmax=bound, interpolation="nearest")
    if dashes:
        y, x = np.nonzero(matrix < -bound / 4)
        lines = [[(j - 0.25, i), (j + 0.25, i)] for i, j in zip(y, x, strict=True)]
        colours = ["white" if value < -0.6 * bound else "black" for value in matrix[y, x]]
        ax.add_collection(LineCollection(lines, colors=colours, linewidths=1.2 if max(rows, columns) <= 30 else 0.5))
    return image


def count_ticks(ax: Axes, which: str, count: int) -> None:
    """Number ``count`` cells from zero: all of them where there is room, every fifth or so where not."""
    step = 1 if count <= 10 else 5 if count <= 40 else 20
    ticks = list(range(0, count, step))
    ax.set_xticks(ticks) if which == "x" else ax.set_yticks(ticks)


def end_labels(
    ax: Axes, heights: Sequence[float], texts: Sequence[str], *, colours: Sequence[str] | None = None,
    starts: Sequence[float] | None = None,
) -> None:  # fmt: skip
    """Write ``texts`` right of the axes at the given data heights, moved apart where they would overlap.

    Thin lines lead to them, from ``starts`` (where lines end, in data) or from the edge. Call it when the axis' limits
    and scale are final.
    """
    scale = ax.transScale + ax.transLimits
    lefts = [ax.get_xlim()[1]] * len(heights) if starts is None else starts
    points = scale.transform(np.stack([lefts, heights], axis=1))  # (labels, 2)
    wanted = np.clip(points[:, 1], -0.02, 1.02)  # (labels,)
    order = np.argsort(wanted, kind="stable")  # (labels,)
    size = 8.0
    gap = 1.45 * size / 72 * ax.figure.dpi / max(ax.get_window_extent().height, 1.0)
    ladder = gap * np.arange(len(order))  # (labels,)
    placed = isotonic_regression(wanted[order] - ladder).x + ladder  # (labels,)
    for at, height in zip(order, placed, strict=True):
        ax.annotate(
            texts[at], (points[at, 0], wanted[at]), xycoords="axes fraction", xytext=(1.035, height),
            textcoords="axes fraction", va="center", ha="left", fontsize=size, annotation_clip=False,
            color=colours[at] if colours else GREY,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def line_end(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the last point of a line that is not NaN."""
    last = int(np.flatnonzero(np.isfinite(y))[-1])
    return float(x[last]), float(y[last])


def guide_lines(ax: Axes, *, names: bool = True) -> None:
    """Draw the dimensions per feature of the known shapes as dashed lines, named at the right."""
    for height, _ in LEVELS:
        ax.axhline(height, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    if names:
        end_labels(ax, [height for height, _ in LEVELS], [text for _, text in LEVELS])


def legend_right(ax: Axes, *, title: str | None = None) -> None:
    """Put the legend outside, right of the axes."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False, fontsize=8, title=title)


def legend_above(ax: Axes, *, columns: int = 3) -> None:
    """Put the legend outside, above the axes."""
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.01), borderaxespad=0.0, frameon=False, fontsize=8, ncols=columns)


def halo(width: float = 2.5) -> list[Any]:
    """Return the path effect of a white rim, for words and lines that cross a picture."""
    return [withStroke(linewidth=width, foreground="white")]
