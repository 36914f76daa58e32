"""The pentagon run beside the same in eager PyTorch: ``python -m toy_models bench --against torch``.

The run is Elhage et al.'s (2022) n = 5, m = 2: many instances at once, fresh batches, Adam. PyTorch does what its users
write: a batched module, two uniform draws a batch, autograd, fused Adam, every row computed. Both count sampling. Both
start from the same parameters, and first one float64 step of both on the same rows is compared. Each contender lives in
a process of its own with all cores; they take turns, A B A B.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from minisae.errors import InputError
from minisae.optim import adam_init, adam_step
from minisae.streams import generator
from toy_models import data, models, train

N_FEAT, N_HID, INSTANCES, BATCH, DENSITY, LR = 5, 2, 100, 512, 0.05, 1e-3
STEPS = 6000
"""Steps of the whole run."""
TOLERANCE = 1e-9
"""Largest relative difference between the contenders' first steps."""
CONTENDERS = ("minisae", "minisae_every_row", "torch")
"""Ours, ours with the empty rows computed as well, and PyTorch."""
CFG = models.Config(N_FEAT, N_HID)

Report = dict[str, Any]


def bench(*, against: str | None, rounds: int = 5, steps: int = 500, progress: Callable[[str], None]) -> Report:
    """Time turns of ``steps`` steps, and return milliseconds a step of each contender.

    Parameters
    ----------
    against : ``"torch"``, or ``None`` for ours alone
    rounds, steps : turns of each contender, and steps in a turn
    progress : called with a few words before each part

    Raises
    ------
    InputError
        For another name in ``against``, and where torch is not installed.
    """
    if against not in (None, "torch"):
        raise InputError(f"against: expected torch, got {against!r}")
    if against and importlib.util.find_spec(against) is None:
        raise InputError("against: expected an installed torch, got none: pip install 'minisae[peers]'")
    names = CONTENDERS if against else CONTENDERS[:2]
    report: Report = {"instances": INSTANCES, "batch": BATCH, "steps": STEPS, "versions": {"numpy": np.__version__}}
    if against:
        report["versions"] |= {against: importlib.metadata.version(against)}
        report["difference"] = first_step_difference()
    times: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(_opened(name)) for name in names}
        for turn in range(rounds):
            progress(f"turn {turn + 1} of {rounds}")
            for name, process in processes.items():
                times[name].append(_turn(process, steps))
    report["ms_per_step"] = {name: 1000 * statistics.median(mine) / steps for name, mine in times.items()}
    if against:
        report["ratio"] = {n: report["ms_per_step"]["torch"] / ms for n, ms in report["ms_per_step"].items()}
    return report


def table(report: Report) -> str:
    """Return a report as text."""
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    size = f"n = {N_FEAT}, m = {N_HID}, {report['instances']} instances, batch {report['batch']}, float32"
    lines = [f"one training step, sampling included: {size}", versions]
    if "difference" in report:
        lines.append(f"first step of both, float64: relative difference {report['difference']:.1e}")
    for name, ms in report["ms_per_step"].items():
        ratio = f"   {report['ratio'][name]:.2f}x" if name != "torch" and "ratio" in report else ""
        lines.append(
            f"{name:18} {ms:7.2f} ms   {ms * report['steps'] / 1000:6.1f} s for {report['steps']:,} steps{ratio}"
        )
    return "\n".join(lines)


@contextmanager
def _opened(name: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a contender, which takes turns of so many steps and answers each with its seconds."""
    # Ours spreads blocks over the cores itself; PyTorch has threads of its own.
    env = dict(os.environ) if name == "torch" else os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "toy_models.bench", name], env=env, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        _turn(process, 50)  # warm
        yield process
    finally:
        process.kill()
        process.communicate()


def _turn(process: "subprocess.Popen[str]", steps: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a benchmark process stopped with status {process.wait()}")
    return float(json.loads(line))


def _serve(name: str) -> None:
    """Be a contender: for each line with a number of steps take them, and write the seconds."""
    take = _torch_run("float32")[0] if name == "torch" else _our_run(counted=name == "minisae")
    for line in sys.stdin:
        before = time.perf_counter()
        take(int(line))
        sys.stdout.write(f"{time.perf_counter() - before}\n")
        sys.stdout.flush()


def _our_run(*, counted: bool) -> Callable[[int], None]:
    rows = data.independent(DENSITY, n_feat=N_FEAT)
    rows = rows if counted else rows._replace(counted=None)

    def take(steps: int) -> None:
        train.train(CFG, rows, steps=steps, batch_size=BATCH, lr=LR, instances=INSTANCES)

    return take


def _start(dtype: str) -> models.Params:
    drawn = [models.init(CFG, generator(0, "toy_init", i), dtype=dtype) for i in range(INSTANCES)]
    return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}


def _torch_run(dtype: str) -> tuple[Callable[[int], None], Callable[[Any], dict[str, np.ndarray]]]:
    """Return the same run in eager PyTorch, and one step on given rows that returns the parameters."""
    torch = importlib.import_module("torch")
    params = {name: torch.from_numpy(p).requires_grad_() for name, p in _start(dtype).items()}
    adam = torch.optim.Adam(params.values(), lr=LR, fused=True)

    def one(x: Any) -> None:
        h = torch.einsum("inf,ihf->inh", x, params["W"])
        x_hat = torch.relu(torch.einsum("inh,ihf->inf", h, params["W"]) + params["b"][:, None])
        loss = (x - x_hat).square().sum(-1).mean(-1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()

    def take(steps: int) -> None:
        for _ in range(steps):
            shape = (INSTANCES, BATCH, N_FEAT)
            one(torch.where(torch.rand(shape) < DENSITY, torch.rand(shape), torch.zeros(())))

    def step_on(x: np.ndarray) -> dict[str, np.ndarray]:
        one(torch.from_numpy(x))
        return {name: p.detach().numpy() for name, p in params.items()}

    return take, step_on


def first_step_difference() -> float:
    """Return the largest relative difference of the parameters' moves in one float64 step of both contenders."""
    x = data.sample(data.independent(DENSITY, n_feat=N_FEAT), BATCH, generator(0, "toy_test"), dtype="float64")
    x = np.repeat(x, INSTANCES, axis=0)  # (i, n, n_feat)
    start, ours = _start("float64"), _start("float64")
    out, cache = models.forward(ours, x, CFG)
    grads = models.backward(ours, cache, CFG, models.squared_error(out.x_hat, x).slopes)
    adam_step(ours, grads, adam_init(ours), lr=LR)
    theirs = _torch_run("float64")[1](x)
    moves = [(ours[name] - start[name], theirs[name] - start[name]) for name in start]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in moves)


if __name__ == "__main__":
    _serve(sys.argv[1])
