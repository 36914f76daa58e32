"""Speed of a training step on this machine, beside its floor and beside eager PyTorch: ``minisae bench``.

A step is :func:`minisae.train.step` with the default recipe: forward, loss, backward, projection, Adam,
renormalisation, dead counters. The other contender does what a user would write in PyTorch: autograd, fused Adam, the
same loss, projection and renormalisation (and no dead counters). Both start from the same parameters and see the same
rows; first one float64 step of both is compared. Every contender lives in a process of its own, and they are timed in
turn, A B A B. The learning rate is so small that a workload stays what its name says.

    topk          k largest of each row
    relu_fresh    as after any start: about half of the codes positive
    relu_trained  b_enc lowered until 0.7 % of the codes are positive, as in a trained SAE
    default       the allocator as it is: glibc returns every large array to the system
    tuned         glibc told to keep memory, by three environment variables, for every contender

The floor is the arithmetic that cannot be avoided at the rate of the encoder's matrix product on this machine: five
products for a dense code, else one and 8 · d_in operations for each active latent.
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
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.cache import array_source
from minisae.errors import InputError
from minisae.ops import l0
from minisae.ops.blocks import core_count
from minisae.recipe import Recipe
from minisae.sae import variant as variant_module
from minisae.train import Run, start, step

WORKLOADS = {"topk": "topk", "relu_fresh": "relu", "relu_trained": "relu"}
"""Variant of each workload."""
ALLOCATORS = {
    "default": {},
    "tuned": {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_TOP_PAD_": "268435456",
    },
}
"""Environment of each allocator setting."""
TRAINED_SHARE = 0.007
"""Positive codes at a trained L0."""
TOLERANCE = 1e-4
"""Largest relative difference between the contenders' first steps."""
FOOTER = (
    "floor: the step's matrix products alone, at the speed measured in this run; active: share of the code that is not",
    "zero; tuned: glibc's MALLOC_* set for all",
)
BATCHES, ACTIVE = 4, 24
"""Batches in rotation, and dictionary entries summed in each row of the data."""


class Size(NamedTuple):
    """What is trained."""

    d_in: int = 512
    """Activation width."""
    d_sae: int = 4096
    """Latents."""
    batch: int = 2048
    """Rows a step."""
    k: int = 32
    """Active latents a row of ``topk``."""


Report = dict[str, Any]


def bench(
    *,
    against: str | None = None,
    size: Size | None = None,
    rounds: int = 5,
    seconds: float = 1.0,
    progress: Callable[[str], None] = lambda note: None,
) -> Report:
    """Time every workload under both allocator settings.

    Parameters
    ----------
    against : ``"torch"``, or ``None`` for minisae alone
    size : what is trained; ``None`` takes the defaults of :class:`Size`
    rounds, seconds : turns of each contender, and the length of each turn (at least two steps)
    progress : called with a few words before each part

    Returns
    -------
    Numbers for JSON: ``size``, ``cores``, ``versions``, ``check`` (largest relative difference of the first step, by
    workload) and ``results``: one entry a workload, allocator and contender, in milliseconds, with ``ratio`` (the other
    contender's median over minisae's) where there are two. :func:`table` shows them.

    Raises
    ------
    InputError
        For another name in ``against``, and where torch is not installed.
    """
    if against not in (None, "torch"):
        raise InputError(f"against: expected torch, got {against!r}")
    if against and importlib.util.find_spec(against) is None:
        raise InputError("against: expected an installed torch, got none: pip install 'minisae[peers]'")
    size = Size() if size is None else size
    names = ["minisae", *([against] if against else [])]
    check = {}
    for workload in WORKLOADS if against else ():
        progress(f"comparing one step of {workload}")
        check[workload] = _one_answer(size, workload)
    results = []
    for allocator in ALLOCATORS:
        for workload in WORKLOADS:
            progress(f"{workload}, {allocator} allocator")
            results += _compare(names, size, workload, allocator, rounds, seconds)
    versions = {"numpy": np.__version__} | ({against: importlib.metadata.version(against)} if against else {})
    return {
        "size": size._asdict(), "cores": core_count(), "versions": versions, "check": check,
        "agrees": all(error <= TOLERANCE for error in check.values()), "results": results,
    }  # fmt: skip


def table(report: Report) -> str:
    """Return a report as text."""
    head = "workload      allocator  contender  median ms    min ms     rows/s  floor ms  GFLOP/s  active"
    head += "    ratio" if any("ratio" in r for r in report["results"]) else ""
    lines = [
        "one training step, float32: " + ", ".join(f"{name} {value}" for name, value in report["size"].items()),
        f"{report['cores']} cores, " + ", ".join(f"{name} {value}" for name, value in report["versions"].items()),
        *(f"first step of {name}: relative difference {error:.1e}" for name, error in report["check"].items()),
        head,
        "-" * len(head),
    ]
    for r in report["results"]:
        ratio = f"{r['ratio']:.2f}x" if "ratio" in r else ""
        floor = f"{r['floor_ms']:9.1f} {r['gflops']:8.0f} {r['active']:7.2%}" if "floor_ms" in r else ""
        lines.append(
            f"{r['workload']:13} {r['allocator']:10} {r['contender']:10} {r['median_ms']:9.1f} {r['min_ms']:9.1f} "
            f"{r['rows_per_s']:10.0f} {floor:26} {ratio:>8}".rstrip()
        )
    return "\n".join((*lines, "", *FOOTER))


def _one_answer(size: Size, workload: str) -> float:
    with _opened("check", size, workload, "default") as process:
        return float(_answer(process))


def _compare(names: list[str], size: Size, workload: str, allocator: str, rounds: int, seconds: float) -> list[Report]:
    """Time the contenders in turn and return an entry for each."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_opened(name, size, workload, allocator)) for name in names]
        about, *_ = [_answer(process) for process in processes]
        times: list[list[float]] = [[] for _ in names]
        for _ in range(rounds):
            for process, mine in zip(processes, times, strict=True):
                mine += _answer(process, seconds)
    found: list[Report] = []
    for name, mine in zip(names, times, strict=True):
        median = statistics.median(mine)
        found.append({
            "workload": workload, "allocator": allocator, "contender": name, "median_ms": median,
            "min_ms": min(mine), "steps": len(mine), "rows_per_s": 1000 * size.batch / median,
        })  # fmt: skip
    product = 2 * size.batch * size.d_in * size.d_sae
    sparse = product + 8 * about["active"] * size.batch * size.d_sae * size.d_in
    found[0] |= about | {"floor_ms": (5 * product if workload == "relu_fresh" else sparse) / about["gflops"] / 1e6}
    if len(found) > 1:
        found[1]["ratio"] = found[1]["median_ms"] / found[0]["median_ms"]
    return found


@contextmanager
def _opened(name: str, size: Size, workload: str, allocator: str) -> Iterator[subprocess.Popen[str]]:
    """Start a contender; it answers once when it is ready, and then each question, in lines of JSON."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minisae.bench", name, workload, *map(str, size)],
        env={**os.environ, **ALLOCATORS[allocator]}, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _answer(process: "subprocess.Popen[str]", seconds: float | None = None) -> Any:
    """Return a contender's next answer, after asking it to take steps for ``seconds``."""
    assert process.stdin is not None
    assert process.stdout is not None
    if seconds is not None:
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a benchmark process stopped with status {process.wait()}")
    return json.loads(line)


def _serve(name: str, workload: str, size: Size) -> None:
    """Be a contender: write what it is, then the milliseconds of each step for each line of seconds read."""
    if name == "check":
        sys.stdout.write(f"{_difference(size, workload)}\n")
        return
    run, batches = _beginning(size, workload, "float32", lr=1e-12)
    take = _minisae(run) if name == "minisae" else _torch(run)[0]
    for x in batches[:3]:
        take(x)
    sys.stdout.write(json.dumps(_about(run, batches[0]) if name == "minisae" else {}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        times: list[float] = []
        while len(times) < 2 or sum(times) < 1000 * float(line):
            before = time.perf_counter()
            take(batches[len(times) % BATCHES])
            times.append(1000 * (time.perf_counter() - before))
        sys.stdout.write(json.dumps(times) + "\n")
        sys.stdout.flush()


def _beginning(size: Size, workload: str, dtype: str, *, lr: float) -> tuple[Run, list[Array]]:
    """Return a run at step 0 and batches: sparse sums of a random dictionary with Zipf popularity, mean norm √d_in."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((size.d_sae, size.d_in)).astype(np.float32)  # (d_sae, d_in)
    p = 1 / np.arange(1, size.d_sae + 1)  # (d_sae,)
    x = 0.3 * rng.standard_normal((BATCHES * size.batch, size.d_in)).astype(np.float32)  # (n, d_in)
    for _ in range(ACTIVE):
        x += rng.random((len(x), 1), np.float32) * dictionary[rng.choice(size.d_sae, len(x), p=p / p.sum())]
    x *= np.sqrt(size.d_in) / np.sqrt(np.square(x).sum(axis=1)).mean()
    variant = variant_module(WORKLOADS[workload])
    options = {"k": size.k} if WORKLOADS[workload] == "topk" else {}
    recipe = Recipe(steps=10**9, batch_size=size.batch, lr=lr, dtype=dtype, init_rows=1024, log_every=10**9)
    run = start(array_source(x), WORKLOADS[workload], variant.Config(size.d_in, size.d_sae, **options), recipe)
    if workload == "relu_trained":
        pre = variant.forward(run.params, x[:256].astype(dtype), run.cfg)[0].pre  # (rows, d_sae)
        run.params["b_enc"] -= np.quantile(pre, 1 - TRAINED_SHARE).astype(dtype)
    return run, [x[i * size.batch : (i + 1) * size.batch].astype(dtype) for i in range(BATCHES)]


def _about(run: Run, x: Array) -> Report:
    """Return the rate of the encoder's product, and the share of latents active on a batch ``(n, d_in)``."""
    W_enc = run.params["W_enc"]  # (d_in, d_sae)
    rates = []
    for _ in range(10):
        before = time.perf_counter()
        x @ W_enc
        rates.append(2 * len(x) * W_enc.size / (time.perf_counter() - before) / 1e9)
    f = variant_module(run.variant).encode(run.params, x, run.cfg)
    return {"gflops": max(rates), "active": float(l0(f)) / W_enc.shape[1]}


def _minisae(run: Run) -> Callable[[Array], float]:
    def take(x: Array) -> float:
        nonlocal run
        run, measures = step(run, x)
        return float(measures["loss"])

    return take


def _torch(run: Run) -> tuple[Callable[[Array], float], Callable[[], dict[str, tuple[Array, Array]]]]:
    """Return the same step in eager PyTorch, and what gives its parameters and first moments."""
    torch = importlib.import_module("torch")
    params = {name: torch.from_numpy(p.copy(order="C")).requires_grad_() for name, p in run.params.items()}
    adam = torch.optim.Adam(params.values(), lr=run.recipe.lr, fused=True)

    def take(rows: Array) -> float:
        x = torch.from_numpy(rows)
        pre = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
        if run.variant == "topk":
            values, columns = torch.topk(pre, run.cfg.k, dim=-1, sorted=False)
            f = torch.zeros_like(pre).scatter(-1, columns, torch.relu(values))
        else:
            f = torch.relu(pre)
        loss = (f @ params["W_dec"] + params["b_dec"] - x).square().sum(-1).mean()
        if run.variant == "relu":
            loss = loss + run.cfg.l1 * f.sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            W, d_W = params["W_dec"], params["W_dec"].grad
            d_W -= (d_W * W).sum(-1, keepdim=True) * W
            adam.step()
            W /= W.norm(dim=-1, keepdim=True)
        return float(loss.detach())

    return take, lambda: {k: (p.detach().numpy(), adam.state[p]["exp_avg"].numpy()) for k, p in params.items()}


def _difference(size: Size, workload: str) -> float:
    """Return the largest relative difference of loss, parameters and first moments after a float64 step of both."""
    run, batches = _beginning(size, workload, "float64", lr=1e-3)
    other, state = _torch(run)
    loss, expected = _minisae(run)(batches[0]), other(batches[0])
    errors = [abs(loss - expected) / abs(expected)]
    for name, theirs in state().items():
        for a, b in zip((run.params[name], run.adam.m[name]), theirs, strict=True):
            errors.append(float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    return max(errors)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], Size(*map(int, sys.argv[3:])))
