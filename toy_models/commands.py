"""What each command of ``python -m toy_models`` does: arguments in; text, numbers and pictures out."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from minisae.backend import to_host
from minisae.console import Result, plain
from minisae.errors import InputError
from minisae.progress import progress, say
from toy_models import bench, data, geometry, plots, theory, train
from toy_models.experiments import phase, sweep
from toy_models.models import Config, Params
from toy_models.recognise import UNKNOWN, Recognition, recognise, summary

Options = argparse.Namespace
MODELS: dict[str, dict[str, Any]] = {
    "relu": {},
    "linear": {"output": "identity"},
    "privileged": {"hidden": "relu", "start": "positive"},
    "absolute": {"kind": "mlp", "hidden": "relu"},
}
"""Configuration of each model by the name that the command line gives it."""


def train_(options: Options) -> Result:
    """Train a toy model at one or more densities; name the polytopes that its features form."""
    cfg = Config(options.n_feat, options.n_hid, **MODELS[options.model])
    density = np.array(options.density)  # (p,)
    if options.instances < 1:
        raise InputError(f"--instances: expected at least 1, got {options.instances}")
    if not 0 < options.importance_decay <= 1:
        raise InputError(f"--importance-decay: expected a number in (0, 1], got {options.importance_decay:g}")
    importance = options.importance_decay ** np.arange(options.n_feat)  # (n_feat,)
    target = "absolute" if options.model == "absolute" else "identity"
    rows = _data(options, np.repeat(density, options.instances)[:, None])
    trained = train.train(
        cfg, rows, steps=options.steps, batch_size=options.batch_size, lr=options.lr, seed=options.seed,
        instances=len(density) * options.instances, importance=importance, target=target,
    )  # fmt: skip
    loss = train.evaluate(cfg, trained.params, rows, importance=importance, target=target)  # (i,)
    index = train.best(loss, per=options.instances)  # (p,)
    params = {name: to_host(p) for name, p in train.take(trained.params, index).items()}
    W = params["W_1" if cfg.kind == "mlp" else "W"]  # (p, n_hid, n_feat)
    found = [recognise(one) for one in W]
    named = [
        _described(one, seen) | {"density": p, "loss": value}
        for one, seen, p, value in zip(W, found, density.tolist(), loss[index].tolist(), strict=True)
    ]
    _write_model(options.out, params, W, named)
    _draw_model(options.out / "features.png", params, density, importance)
    head = f"best of {options.instances} starts at each density, on the same test rows"
    lines = ["density      loss  learned    ΣD  what the features form"]
    lines += [
        f"{d['density']:7.4g}  {d['loss']:8.5f}  {d['learned']:7d} {d['sum_D']:5.2f}  {d['summary']}" for d in named
    ]
    return Result(
        "\n".join((head, *lines, f"in {options.out}: W.npy, model.safetensors, features.png")), {"best": named}
    )


def _data(options: Options, density: np.ndarray) -> data.Data:
    """Return independent features, or sets, at each instance's density ``(i, 1)``."""
    sets = options.correlated or options.anticorrelated
    if sets is None:
        return data.independent(density, n_feat=options.n_feat, signed=options.model == "absolute")
    if sets < 1 or options.n_feat % sets:
        raise InputError(f"sets: expected a divisor of {options.n_feat} features, got {sets}")
    make = data.correlated if options.correlated else data.anticorrelated
    return make(density, sets=sets, size=options.n_feat // sets)


def _described(W: np.ndarray, found: Recognition) -> dict[str, Any]:
    """Return what is known of a frame, for JSON."""
    parts = [
        {
            "name": c.name, "k": c.k, "d": c.d, "residual": c.residual, "runner_up": c.runner_up,
            "features": c.features.tolist(), "sum_D": c.D_sum,
        }
        for c in found.components
    ]  # fmt: skip
    D = geometry.dimensionality(W)  # (n_feat,)
    learned = W.shape[1] - len(found.unlearned)
    return {
        "summary": summary(found), "learned": learned, "rank": found.rank, "sum_D": float(D.sum()), "components": parts
    }  # fmt: skip


def _write_model(out: Path, params: Params, W: np.ndarray, named: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(p) for name, p in params.items()}, out / "model.safetensors")
    np.save(out / "W.npy", W[0] if len(W) == 1 else W)
    _write_numbers(out, {"best": named})


def _write_numbers(out: Path, numbers: dict[str, Any]) -> None:
    (out / "numbers.json").write_text(json.dumps(plain(numbers), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _draw_model(path: Path, params: Params, density: np.ndarray, importance: np.ndarray) -> None:
    """Draw the best model of each density: arrows in the plane or in space, neurons of an mlp, else WᵀW and b."""
    titles = [f"density {at:.3g}" for at in density]
    if "W" in params and params["W"].shape[1] in (2, 3):
        fig = _drawn_frames(params["W"], titles, importance)
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


def _drawn_frames(W: np.ndarray, titles: list[str], importance: np.ndarray) -> Any:
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


def phase_(options: Options) -> Result:
    """Draw the phase diagram of one feature too many: by theory, by exact loss, and trained if asked."""
    density, importance = phase.grid(options.size)
    say(f"exact: {options.size}×{options.size} points")
    labels = {
        "theory": phase.theory_phase(density, importance, n_feat=options.n_feat),
        "exact": phase.exact_phase(density, importance, n_feat=options.n_feat, seed=options.seed).labels,
    }
    if options.seeds:
        say(f"training {options.seeds} starts at each point")
        labels["trained"] = phase.trained_phase(
            density, importance, n_feat=options.n_feat, seeds=options.seeds, seed=options.seed
        ).labels
    near = phase.near_boundary(density, importance, n_feat=options.n_feat)
    options.out.mkdir(parents=True, exist_ok=True)
    _draw_phases(options.out / "phase.png", labels, density, importance[:, 0], options.n_feat)
    agreed = {name: phase.agreement(one, labels["exact"], near) for name, one in labels.items() if name != "exact"}
    numbers = {
        "density": density.tolist(), "importance": importance[:, 0].tolist(), "names": list(theory.LABELS),
        "labels": {name: one.tolist() for name, one in labels.items()},
        "agreement": {name: one._asdict() for name, one in agreed.items()},
    }  # fmt: skip
    _write_numbers(options.out, numbers)
    lines = [
        f"{name:8} says the same as the exact loss at {one.away:.1%} of the points; at {one.near:.1%} of the "
        f"{one.n_near} within 10 % of a boundary"
        for name, one in agreed.items()
    ]
    return Result("\n".join((*lines, f"in {options.out}: phase.png, numbers.json")), numbers)


def _draw_phases(
    path: Path, labels: dict[str, np.ndarray], density: np.ndarray, importance: np.ndarray, n_feat: int
) -> None:
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


def geometry_(options: Options) -> Result:
    """Train one model at 16 sparsities and name the polytopes at each."""
    with progress("geometry", 100, unit="%") as move:
        done = sweep.geometry_sweep(
            n_feat=options.n_feat, n_hid=options.n_hid, steps=options.steps, seeds=options.seeds, seed=options.seed,
            progress=lambda share: move(int(100 * share)),
        )  # fmt: skip
    W = to_host(done.params["W"])  # (i, n_hid, n_feat)
    found = sweep.recognised(done)
    named = [
        _described(one, seen) | {"inverse_density": at, "d_star": d_star}
        for one, seen, at, d_star in zip(W, found, done.inverse_density.tolist(), done.d_star.tolist(), strict=True)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "W.npy", W)
    _write_numbers(options.out, {"sweep": named})
    _draw_sweep(options.out / "geometry.png", done, options.seeds)
    _draw_graphs(options.out / "graphs.png", W, found, done.inverse_density)
    lines = ["1/(1−S)    D*     ΣD  learned  what the features form"]
    lines += [
        f"{d['inverse_density']:7.4g} {d['d_star']:5.3f} {d['sum_D']:6.2f}  {d['learned']:7d}  {d['summary']}"
        for d in named
    ]
    return Result("\n".join((*lines, f"in {options.out}: geometry.png, graphs.png, W.npy")), {"sweep": named})


def _draw_sweep(path: Path, done: sweep.Sweep, seeds: int) -> None:
    """Draw D_i of the first start at each density, and D*."""
    fig, (ax,) = plots.figure(9, 5)
    first = slice(None, None, seeds)
    plots.dimensionality_scatter(done.inverse_density[first], done.D[first], ax, D_star=done.d_star[first])
    fig.savefig(path, dpi=130)


def _draw_graphs(path: Path, W: np.ndarray, found: tuple[Recognition, ...], inverse: np.ndarray) -> None:
    """Draw the feature graphs of the four instances in which most features have a name."""
    named = [sum(c.k for c in one.components if c.name != UNKNOWN) for one in found]
    chosen = sorted(np.argsort(named, kind="stable")[::-1][:4])
    fig, axes = plots.figure(11, 10, rows=2, columns=2)
    for ax, k in zip(axes, chosen, strict=False):
        parts = found[k].components
        plots.feature_graph(
            geometry.cosines(W[k]), [c.features.tolist() for c in parts], [c.name for c in parts], ax,
            residuals=[float("nan") if c.residual is None else c.residual for c in parts],
            title=f"1/(1 − S) = {inverse[k]:.3g}",
        )  # fmt: skip
    for ax in axes[len(chosen) :]:
        ax.set_visible(False)
    fig.savefig(path, dpi=130)


def recognise_(options: Options) -> Result:
    """Name the polytopes in anybody's W."""
    try:
        loaded = np.load(options.path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{options.path}: expected an .npy file of numbers, got: {error}") from None
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{options.path}: expected one .npy array, got an archive of several")
    W = geometry.frame(loaded, name=str(options.path))  # (..., n_hid, n_feat)
    frames = W.reshape(-1, *W.shape[-2:])  # (i, n_hid, n_feat)
    turned = frames if options.features == "columns" else frames.swapaxes(-1, -2)  # (i, n_hid, n_feat)
    found = [recognise(one, floor=options.floor) for one in turned]
    numbers = [_described(one, seen) for one, seen in zip(turned, found, strict=True)]
    return Result("\n\n".join(_component_table(one) for one in numbers), {"frames": numbers})


def _component_table(described: dict[str, Any]) -> str:
    """Return what a frame is made of, a line a component."""
    lines = [f"{described['summary']}    rank {described['rank']}, ΣD {described['sum_D']:.3f}"]
    if described["components"]:
        lines.append("name               k  d  residual  runner-up    ΣD  features")
    for c in described["components"]:
        residual, runner = (" " * 4 + "–" if c[key] is None else f"{c[key]:5.3f}" for key in ("residual", "runner_up"))
        features = " ".join(map(str, c["features"][:16])) + (" …" if len(c["features"]) > 16 else "")
        lines.append(
            f"{c['name']:16} {c['k']:3d} {c['d']:2d}     {residual}      {runner} {c['sum_D']:5.2f}  {features}"
        )
    return "\n".join(lines)


def bench_(options: Options) -> Result:
    """Time the pentagon run on this machine, and the same in eager PyTorch."""
    report = bench.bench(against=options.against, progress=say)
    agrees = report.get("difference", 0.0) <= bench.TOLERANCE
    return Result(bench.table(report), report, int(not agrees))
