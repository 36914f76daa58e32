"""Pictures 17 to 20: features that a sparse autoencoder finds, loses, absorbs and mixes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from toy_models.plots.style import (
    FAINT,
    GREY,
    SEQUENTIAL,
    STYLES,
    colour_bar,
    count_ticks,
    end_labels,
    legend_above,
    line_end,
    log_axis,
    need,
    panels,
    series,
    signed_image,
    tidy,
)

CELLS = 8
"""Rows or columns of a table up to which numbers are written into it."""


def recovered_directions(
    W_dec: Any, truth: Any, ax: Axes, *, dead: Any = None, limit: float = 1.5, title: str | None = None,
    legend: bool = True,
) -> Axes:  # fmt: skip
    """Draw decoder rows ``W_dec (d_sae, 2)`` over the true features ``truth (2, n_feat)``; dead are grey. Figure 17.

    ``dead (d_sae,)`` is true for latents that no longer fire.
    """
    W_dec = need("W_dec", W_dec, "d_sae", 2)  # (d_sae, 2)
    truth = need("truth", truth, 2, "n_feat")  # (2, n_feat)
    gone = np.zeros(len(W_dec), dtype=bool) if dead is None else need("dead", dead, len(W_dec)) > 0  # (d_sae,)
    ax.add_patch(Circle((0, 0), 1.0, fill=False, edgecolor=FAINT, linewidth=0.8, linestyle=":"))
    for column in truth.T:
        ax.plot([0, column[0]], [0, column[1]], color=STYLES[4].colour, linewidth=7, alpha=0.6, solid_capstyle="round")
    looks = ((~gone, "#000000", "-", "o", "latent", "white"), (gone, "#777777", "--", "X", "dead latent", "#777777"))
    for mask, colour, dash, mark, name, rim in looks:
        for row in W_dec[mask]:
            ax.plot([0, row[0]], [0, row[1]], color=colour, linestyle=dash, linewidth=1.4)
        ax.plot(*W_dec[mask].T, mark, color=colour, markersize=7, markeredgecolor=rim)
        ax.plot([], [], mark, color=colour, linestyle=dash, markersize=7, markeredgecolor=rim, label=name)
    ax.plot([], [], color=STYLES[4].colour, linewidth=7, alpha=0.6, label="true feature")
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    tidy(ax, "hidden 1", "hidden 2", title)
    if legend:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, borderaxespad=0.0)
    return ax


def active_fraction(steps: Any, fractions: Mapping[str, Any], ax: Axes, *, resampled: Sequence[float] = ()) -> Axes:
    """Draw the share of latents that fire over training, one line a run; resampling steps are ticks below. Figure 17.

    ``steps (t,)``; the lines are arrays ``(t,)`` by name.
    """
    steps = need("steps", steps, "t")  # (t,)
    styles, ends = list(series(len(fractions))), []
    for (name, values), style in zip(fractions.items(), styles, strict=True):
        line = need(f"fractions[{name!r}]", values, len(steps))  # (t,)
        ax.plot(steps, line, linestyle=style.dash, color=style.colour, linewidth=1.6)
        ends.append(line_end(steps, line)[1])
    ax.set(ylim=(0, 1.05), xlim=(float(steps[0]), float(steps[-1])))
    for at, step in enumerate(resampled):
        ax.plot([step, step], [0, 0.06], color="black", linewidth=1.2, label="resampled" if at == 0 else None)
    tidy(ax, "training step", "share of latents active")
    end_labels(ax, ends, list(fractions), colours=[s.colour for s in styles])
    if len(resampled):
        legend_above(ax)
    return ax


def sparsity_sweep(
    l1: Any, mmcs: Any, l0_ratio: Any, fvu: Any, axes: Sequence[Axes], *, random_mmcs: float | None = None
) -> list[Axes]:
    """Draw MMCS, and below it L0 over the true L0 with FVU, against λ on one log axis. Figure 18.

    All are arrays ``(t,)``. MMCS has its own panel since what counts is .8 against 1, and the other two span decades.
    ``random_mmcs`` is what a random dictionary scores.
    """
    top, bottom = panels(axes, 2)
    l1 = need("l1", l1, "t")  # (t,)
    mmcs = need("mmcs", mmcs, len(l1))  # (t,)
    others = [need("l0_ratio", l0_ratio, len(l1)), need("fvu", fvu, len(l1))]
    first, *rest = series(3)
    top.plot(l1, mmcs, linestyle=first.dash, marker=first.marker, color=first.colour, linewidth=1.8)
    best = int(np.argmax(mmcs))
    for ax in (top, bottom):
        ax.axvline(l1[best], color=FAINT, linewidth=4, alpha=0.6, zorder=0)
    for line, style in zip(others, rest, strict=True):
        bottom.plot(l1, line, linestyle=style.dash, marker=style.marker, color=style.colour, linewidth=1.8)
    bottom.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    log_axis(top, "x", subs=(1.0, 3.0))
    log_axis(bottom, "x", subs=(1.0, 3.0))
    log_axis(bottom, "y", subs=(1.0,))
    tidy(top, "", "MMCS")
    tidy(bottom, "L1 coefficient λ", "ratio")
    top.tick_params(labelbottom=False)
    top.set_ylim(0, 1.05)
    levels, words, colours = [mmcs[-1]], ["MMCS"], [first.colour]
    if random_mmcs is not None:
        top.axhline(random_mmcs, color=GREY, linewidth=1.0, linestyle=":")
        levels, words, colours = [*levels, random_mmcs], [*words, "random dictionary"], [*colours, GREY]
    end_labels(top, levels, words, colours=colours, starts=[l1[-1]] * len(levels))
    ends = [float(line[-1]) for line in others]
    names = ["L0 / true L0", "FVU"]
    end_labels(bottom, ends, names, colours=[s.colour for s in rest], starts=[l1[-1]] * 2)
    return [top, bottom]


def cosine_maps(
    encoder: Any, decoder: Any, axes: Sequence[Axes], *, title: str | None = None, bar: bool = True
) -> list[Axes]:
    """Draw the cosines of each latent's encoder and decoder with the true features. Figure 19.

    Both are ``(latents, n_feat)``; the numbers stand in the cells where there is room.
    """
    drawn = panels(axes, 2)
    encoder = need("encoder", encoder, "latents", "n_feat")  # (latents, n_feat)
    decoder = need("decoder", decoder, *encoder.shape)  # (latents, n_feat)
    for ax, values, name in zip(drawn, (encoder, decoder), ("encoder", "decoder"), strict=True):
        image = signed_image(values, ax, limit=1.0, dashes=max(values.shape) > CELLS)
        ax.set_aspect("auto")
        tidy(ax, "true feature", "latent", name if title is None else f"{title}\n{name}")
        ax.spines[["top", "right"]].set_visible(True)
        write_cells(values, ax, dark=np.abs(values) > 0.6)
        count_ticks(ax, "x", encoder.shape[1])
        count_ticks(ax, "y", encoder.shape[0])
    if bar:
        colour_bar(image, drawn, "cosine")
    return drawn


def write_cells(values: np.ndarray, ax: Axes, *, dark: np.ndarray) -> None:
    """Write each value into its cell, in white where ``dark``; nothing where there are more than ``CELLS`` a side."""
    if max(values.shape) <= CELLS:
        for (i, j), value in np.ndenumerate(values):
            ink = "white" if dark[i, j] else "black"
            words = f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")
            ax.text(j, i, words, ha="center", va="center", fontsize=8, color=ink)


def activation_table(activations: Any, cases: Sequence[str], ax: Axes, *, bar: bool = True) -> Axes:
    """Draw what each latent answers when known features are on, in numbers too; silent is white. Figure 19.

    ``activations (latents, k)``, one column for each of the ``k`` named cases, such as "parent and child".
    """
    activations = need("activations", activations, "latents", len(cases))  # (latents, k)
    top = float(activations.max()) or 1.0
    shown = np.ma.masked_less(activations, 0.005 * top)  # (latents, k)
    image = ax.imshow(shown, cmap=f"{SEQUENTIAL}_r", vmin=0, vmax=top, aspect="auto")
    write_cells(activations, ax, dark=activations > 0.5 * top)
    tidy(ax, "features that are on", "latent")
    ax.set_xticks(range(len(cases)), list(cases))
    count_ticks(ax, "y", len(activations))
    if bar:
        colour_bar(image, [ax], "activation")
    return ax


def wrong_l0(
    k: Any, cosines: Mapping[str, Any], learned: Any, truth: Any, overlap: Mapping[str, Any], axes: Sequence[Axes], *,
    true_l0: float,
) -> list[Axes]:  # fmt: skip
    """Draw what too small a k does: latents that mix, an error below the truth's, decoders that overlap. Figure 20.

    ``k (t,)``; ``cosines`` holds, by name of the correlation, arrays ``(t,)`` of the other latents' mean cosine with
    feature 0; ``learned`` and ``truth (t,)`` are the MSE of the learned and of the true dictionary at the same k;
    ``overlap`` holds the decoder's mean pairwise |cosine|, ``(t,)`` by name.
    """
    left, middle, right = panels(axes, 3)
    k = need("k", k, "t")  # (t,)
    errors = {"learned": need("learned", learned, len(k)), "true": need("truth", truth, len(k))}
    plans = (
        (left, cosines, "cosine with feature 0"),
        (middle, errors, "MSE at the same k"),
        (right, overlap, "mean |cosine| of decoder rows, c_dec"),
    )
    for ax, lines, name in plans:
        for (label, values), style in zip(lines.items(), series(len(lines)), strict=True):
            line = need(label, values, len(k))  # (t,)
            look = {"linestyle": style.dash, "marker": style.marker, "color": style.colour}
            ax.plot(k, line, **look, markersize=5, linewidth=1.6, label=label)
        ax.axvline(true_l0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.annotate(
            "true L0", (true_l0, 1), xycoords=("data", "axes fraction"), xytext=(3, -2), textcoords="offset points",
            fontsize=8, va="top", color=GREY,
        )  # fmt: skip
        ax.margins(y=0.12)
        tidy(ax, "active latents per row, k", name)
        legend_above(ax, columns=2)
    return [left, middle, right]
