"""What each command of ``python -m toy_models`` does: arguments in; text, numbers and pictures out."""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from minisae.backend import resolve, to_host
from minisae.console import Result, plain
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.progress import progress, say
from toy_models import bench, data, geometry, pictures, theory, train
from toy_models.experiments import phase, sweep
from toy_models.models import Config, Params
from toy_models.recognise import Recognition, recognise, summary

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
    check_number("--instances", options.instances, least=1, whole=True)
    if not 0 < options.importance_decay <= 1:
        raise InputError(f"--importance-decay: expected a number in (0, 1], got {options.importance_decay:g}")
    importance = options.importance_decay ** np.arange(options.n_feat)  # (n_feat,)
    target = "absolute" if options.model == "absolute" else "identity"
    rows = _data(options, np.repeat(density, options.instances)[:, None])
    backend = resolve(options.backend)
    _open_folder(options.out)
    trained = train.train(
        cfg, rows, steps=options.steps, batch_size=options.batch_size, lr=options.lr, seed=options.seed,
        instances=len(density) * options.instances, importance=importance, target=target, backend=backend,
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
    pictures.model(options.out / "features.png", params, density, importance)
    head = f"best of {options.instances} starts at each density, on the same test rows"
    lines = ["density      loss  learned    ΣD  what the features form"]
    lines += [
        f"{d['density']:7.4g}  {d['loss']:8.5f}  {d['learned']:7d} {d['sum_D']:5.2f}  {d['summary']}" for d in named
    ]
    files = f"in {options.out}: W.npy, model.safetensors, numbers.json, features.png"
    return Result("\n".join((head, *lines, files)), {"best": named})


def _data(options: Options, density: np.ndarray) -> data.Data:
    """Return independent features, or sets, at each instance's density ``(i, 1)``."""
    sets = options.anticorrelated if options.correlated is None else options.correlated
    if sets is None:
        return data.independent(density, n_feat=options.n_feat, signed=options.model == "absolute")
    if options.model == "absolute":
        raise InputError("--model absolute: expected independent features, which have signs, got sets, which have none")
    if sets < 1 or options.n_feat % sets:
        raise InputError(f"sets: expected a divisor of {options.n_feat} features, got {sets}")
    make = data.anticorrelated if options.correlated is None else data.correlated
    return make(density, sets=sets, size=options.n_feat // sets)


def _open_folder(out: Path) -> None:
    """Make the folder of results, and refuse one that cannot be written before hours are spent on what goes there."""
    out.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out).close()


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
    save_file({name: np.ascontiguousarray(p) for name, p in params.items()}, out / "model.safetensors")
    np.save(out / "W.npy", W[0] if len(W) == 1 else W)
    _write_numbers(out, {"best": named})


def _write_numbers(out: Path, numbers: dict[str, Any]) -> None:
    (out / "numbers.json").write_text(json.dumps(plain(numbers), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def phase_(options: Options) -> Result:
    """Draw the phase diagram of one feature too many: by theory, by exact loss, and trained if asked."""
    density, importance = phase.grid(options.size)
    check_number("--seeds", options.seeds, least=0, whole=True)
    check_number("--seed", options.seed, least=0, whole=True)
    _open_folder(options.out)
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
    pictures.phases(options.out / "phase.png", labels, density, importance[:, 0], options.n_feat)
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


def geometry_(options: Options) -> Result:
    """Train one model at 16 sparsities and name the polytopes at each."""
    backend = resolve(options.backend)
    _open_folder(options.out)
    with progress("geometry", 100, unit="%") as move:
        done = sweep.geometry_sweep(
            n_feat=options.n_feat, n_hid=options.n_hid, steps=options.steps, seeds=options.seeds, seed=options.seed,
            backend=backend, progress=lambda share: move(int(100 * share)),
        )  # fmt: skip
    W = to_host(done.params["W"])  # (i, n_hid, n_feat)
    found = sweep.recognised(done)
    named = [
        _described(one, seen) | {"inverse_density": at, "d_star": d_star}
        for one, seen, at, d_star in zip(W, found, done.inverse_density.tolist(), done.d_star.tolist(), strict=True)
    ]
    np.save(options.out / "W.npy", W)
    _write_numbers(options.out, {"sweep": named})
    pictures.dimensions(options.out / "geometry.png", done, options.seeds)
    pictures.graphs(options.out / "graphs.png", W, found, done.inverse_density)
    lines = ["1/(1−S)    D*     ΣD  learned  what the features form"]
    lines += [
        f"{d['inverse_density']:7.4g} {d['d_star']:5.3f} {d['sum_D']:6.2f}  {d['learned']:7d}  {d['summary']}"
        for d in named
    ]
    files = f"in {options.out}: W.npy, numbers.json, geometry.png, graphs.png"
    return Result("\n".join((*lines, files)), {"sweep": named})


def recognise_(options: Options) -> Result:
    """Name the polytopes in anybody's W."""
    W = geometry.frame(_loaded(options.path), name=str(options.path))  # (..., n_hid, n_feat)
    frames = W.reshape(-1, *W.shape[-2:])  # (i, n_hid, n_feat)
    turned = frames if options.features == "columns" else frames.swapaxes(-1, -2)  # (i, n_hid, n_feat)
    found = [recognise(one, floor=options.floor) for one in turned]
    numbers = [_described(one, seen) for one, seen in zip(turned, found, strict=True)]
    return Result("\n\n".join(_component_table(one, options.floor) for one in numbers), {"frames": numbers})


def _loaded(path: Path) -> np.ndarray:
    """Return the array of an .npy file."""
    with path.open("rb") as file:
        try:
            loaded = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile):
            raise InputError(f"{path}: expected an .npy file of numbers, got a file that is none") from None
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{path}: expected one .npy array, got an archive of several")
    return loaded


def _component_table(described: dict[str, Any], floor: float) -> str:
    """Return what a frame is made of, a line a component."""
    lines = [f"{described['summary']}    rank {described['rank']}, ΣD {described['sum_D']:.3f}"]
    if not described["learned"]:
        lines.append(f"all columns are shorter than {floor:g}: try --floor")
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
