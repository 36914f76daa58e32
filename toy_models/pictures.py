"""The pictures that the commands of ``python -m toy_models`` write."""

from pathlib import Path
from typing import Any

import numpy as np

from toy_models import geometry, plots, theory
from toy_models.experiments.sweep import Sweep
from toy_models.models import Params
from toy_models.recognise import UNKNOWN, Recognition


def model(path: Path, params: Params, density: np.ndarray, importance: np.ndarray) -> None:
    """Draw the best model of each density: arrows in the plane or in space, neurons of an mlp, else WᵀW and b."""
    titles = [f"density {at:.3g}" for at in density]
    if "W" in params and params["W"].shape[1] in (2, 3):
        fig = _frames(params["W"], titles, importance)
    elif "W" in params:
        fig, axes = plots.figure(6, 3.6 * len(titles), rows=len(titles), columns=2, widths=[1, 0.12])
        for k, title in enumerate(titles):
            plots.gram_and_bias(params["W"][k], params["b"][k], axes[2 * k : 2 * k + 2], title=title)
    else:
        fig, axes = plots.figure(8, 5.5 * len(titles), rows=2 * len(titles))
        for k, title in enumerate(titles):
            top, _ = plots.in_and_out(params["W_1"][k], params["W_2"][k], axes[2 * k : 2 * k + 2])
            top.set_title(f"{title}: {top.get_title()}")
    fig.savefig(path, dpi=130)


def _frames(W: np.ndarray, titles: list[str], importance: np.ndarray) -> Any:
    """Return a figure of frames in two or three dimensions, ``W (p, n_hid, n_feat)``."""
    p, n_hid = W.shape[:2]
    columns = min(p, 5)
    fig, axes = plots.figure(
        2.6 * columns + 1, 2.8 * -(-p // columns), rows=-(-p // columns), columns=columns, three_d=n_hid == 3
    )
    alike = bool((importance == importance[0]).all())
    for ax, frame, title in zip(axes, W, titles, strict=False):
        turned = geometry.canonical(frame)
        if n_hid == 3:
            plots.frame_3d(turned, ax, limit=1.5, title=title)
        else:
            plots.feature_arrows(turned, ax, importance=None if alike else importance, title=title)
    for ax in axes[p:]:
        ax.set_visible(False)
    if n_hid == 2 and not alike:
        plots.importance_bar(importance, axes[:p])
    return fig


def phases(path: Path, labels: dict[str, np.ndarray], density: np.ndarray, importance: np.ndarray, n_feat: int) -> None:
    """Draw phase diagrams side by side, with the boundaries that are known."""
    fig, axes = plots.figure(4.2 * len(labels) + 1, 4.4, columns=len(labels))
    line = np.geomspace(density[0], 0.5, 200)  # (k,)
    curves = {"2p/(4 − 5p)": np.stack([line, theory.boundaries(line, n_feat=n_feat)[0]])}
    if n_feat == 2:
        curves["0.427 p, as p → 0"] = np.stack([line, (2 + 2**0.5) / 8 * line])
    curves = {
        name: np.where((xy[1] >= importance[0]) & (xy[1] <= importance[-1]), xy, np.nan) for name, xy in curves.items()
    }
    for k, (ax, (name, one)) in enumerate(zip(axes, labels.items(), strict=True)):
        plots.phase_map(one, density, importance, ax, curves=curves, title=name, legend=k == len(labels) - 1)
    fig.savefig(path, dpi=130)


def dimensions(path: Path, done: Sweep, seeds: int) -> None:
    """Draw D_i of the first start at each density, and D*."""
    fig, (ax,) = plots.figure(9, 5)
    first = slice(None, None, seeds)
    plots.dimensionality_scatter(done.inverse_density[first], done.D[first], ax, D_star=done.d_star[first])
    fig.savefig(path, dpi=130)


def graphs(path: Path, W: np.ndarray, found: tuple[Recognition, ...], inverse: np.ndarray) -> None:
    """Draw the feature graphs of the four instances with the most different names."""
    named = [len({c.name for c in one.components if c.name != UNKNOWN}) for one in found]
    chosen = sorted(np.argsort(named, kind="stable")[::-1][:4])
    fig, axes = plots.figure(11, 10, rows=2, columns=2)
    for ax, k in zip(axes, chosen, strict=False):
        parts = found[k].components
        plots.feature_graph(
            geometry.cosines(W[k]), [c.features.tolist() for c in parts], [c.name for c in parts], ax,
            residuals=[np.nan if c.name == UNKNOWN else c.residual or 0.0 for c in parts],
            title=f"1/(1 − S) = {inverse[k]:.3g}",
        )  # fmt: skip
    for ax in axes[len(chosen) :]:
        ax.set_visible(False)
    fig.savefig(path, dpi=130)
