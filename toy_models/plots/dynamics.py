"""Picture 13: dimensionality and loss over training, snapshots of an embedding, and the animation of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation, writers
from matplotlib.axes import Axes

from minisae.errors import InputError
from toy_models.plots.frames import feature_arrows, frame_3d
from toy_models.plots.style import FAINT, GREY, figure, guide_lines, log_axis, need, panels, series, tidy

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg", ".html": "ffmpeg"}
"""Matplotlib's writer for each kind of file. A page (``.html``) holds the video itself."""
INSTALL = {"pillow": "pip install pillow", "ffmpeg": "install the program ffmpeg, or write a .gif"}


def levels_over_time(
    steps: Any, D: Any, loss: Any, axes: Sequence[Axes], *, highlight: Sequence[int] = ()
) -> list[Axes]:
    """Draw each feature's D_i over training above the loss, on one axis of steps. Figure 13.

    ``steps (t,)``, ``D (t, n_feat)``, ``loss (t,)``. Those in ``highlight`` (which jump) are in
    colours, the others grey.
    """
    top, bottom = panels(axes, 2)
    steps = need("steps", steps, "t")  # (t,)
    D = need("D", D, len(steps), "n_feat")  # (t, n_feat)
    loss = need("loss", loss, len(steps))  # (t,)
    quiet = [j for j in range(D.shape[1]) if j not in highlight]
    top.plot(steps, D[:, quiet], color=GREY if not highlight else FAINT, linewidth=0.8, alpha=0.8)
    for j, style in zip(highlight, series(len(highlight)), strict=True):
        top.plot(steps, D[:, j], color=style.colour, linestyle=style.dash, linewidth=1.6)
    bottom.plot(steps, loss, color="black", linewidth=1.4)
    limits = (float(steps.min()), float(steps.max()))
    top.set(ylim=(-0.03, 1.05), xlim=limits)
    bottom.set(xlim=limits)
    tidy(top, "", "dimensions per feature, D")
    top.tick_params(labelbottom=False)
    log_axis(bottom, "y")
    tidy(bottom, "training step", "loss")
    guide_lines(top)
    return [top, bottom]


def snapshots(W: Any, steps: Any, axes: Sequence[Any], *, groups: Any = None) -> list[Any]:
    """Draw embeddings ``W (t, 2 or 3, n_feat)`` at ``steps (t,)``, each on its own axes. Figure 13."""
    drawn = panels(axes, len(axes))
    W = need("W", W, len(drawn), "n_hid", "n_feat")  # (t, n_hid, n_feat)
    steps = need("steps", steps, len(drawn))  # (t,)
    for ax, frame, step in zip(drawn, W, steps, strict=True):
        if planar("W", W):
            feature_arrows(frame, ax, groups=groups, title=f"step {step:g}", legend=ax is drawn[-1])
        else:
            frame_3d(frame, ax, groups=groups, title=f"step {step:g}")
    return drawn


def planar(name: str, W: np.ndarray) -> bool:
    """Return whether embeddings ``(t, n_hid, n_feat)`` lie in a plane; refuse what is not of 2 or 3 dimensions."""
    if W.shape[1] not in (2, 3):
        raise InputError(f"{name}: expected 2 or 3 hidden dimensions for a picture, got {W.shape[1]}")
    return bool(W.shape[1] == 2)


def animate_frames(
    frames: Any, steps: Any, path: str | Path, *, fps: int = 12, groups: Any = None, importance: Any = None
) -> Path:
    """Write the embeddings ``frames (t, n_hid, n_feat)`` at ``steps (t,)`` as a film; return its path.

    The suffix decides: ``.gif``, ``.mp4``, or ``.html``, a page with an HTML5 video inside; 2 or 3 hidden dimensions.

    Raises
    ------
    InputError
        If the suffix is none of these, the writer is not installed, or the frames cannot be drawn.
    """
    path = Path(path)
    writer = film_writer(path.suffix.lower())
    W = need("frames", frames, "t", "n_hid", "n_feat")  # (t, n_hid, n_feat)
    steps = need("steps", steps, len(W))  # (t,)
    if not np.isfinite(W).all():
        raise InputError(f"frames: expected finite numbers, got {np.count_nonzero(~np.isfinite(W))} that are not")
    if fps <= 0:
        raise InputError(f"fps: expected more than 0 pictures a second, got {fps}")
    flat = planar("frames", W)
    limit = 1.08 * max(1.0, float(np.linalg.norm(W, axis=1).max()))
    drawn, (ax,) = figure(4.6 if groups is None else 5.6, 4.6, three_d=not flat)

    def draw(at: int) -> tuple[Any, ...]:
        ax.clear()
        if flat:
            feature_arrows(W[at], ax, groups=groups, importance=importance, limit=limit, legend=groups is not None)
        else:
            frame_3d(W[at], ax, groups=groups, limit=limit)
        ax.set_title(f"step {steps[at]:g}", fontsize="medium", loc="left")
        return ()

    film = FuncAnimation(drawn, draw, frames=len(W), interval=1000 / fps, init_func=lambda: (), cache_frame_data=False)
    if path.suffix.lower() == ".html":
        video = film.to_html5_video(embed_limit=200)
        path.write_text(f'<!DOCTYPE html>\n<meta charset="utf-8">\n{video}\n', encoding="utf-8")
    else:
        film.save(path, writer=writer, fps=fps, dpi=100)
    return path


def film_writer(suffix: str) -> str:
    """Return the name of Matplotlib's writer for files with this suffix."""
    if suffix not in WRITERS:
        raise InputError(f"path: expected a name that ends in {', '.join(WRITERS)}, got {suffix or 'no suffix'!r}")
    writer = WRITERS[suffix]
    if not writers.is_available(writer):
        raise InputError(f"path: expected {writer} to be installed to write {suffix}, got none: {INSTALL[writer]}")
    return writer
