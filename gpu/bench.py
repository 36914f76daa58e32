"""How fast is a training step, and how fast could it be? ``python -m minisae.gpu.bench``.

The floor is counted from what a step cannot avoid, at the speeds of a matrix product and of a copy measured in the
same run. With n rows, widths d = d_in and F = d_sae:

    without k   five products, 10 n d F operations (forward two, backward three), and Adam's traffic
    with k      the encoder's product, 2 n d F; four passes over k rows of length d for each of the n; and the same

Adam reads parameter, gradient and two moments and writes three of them back: seven numbers for each of 2 d F weights.
On a device times come from CUDA events; the figure is the median over the steps after a warm-up, inputs rotated.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import FLAGS, Array, namespace, resolve, to_device
from minisae.cache import array_source
from minisae.errors import InputError
from minisae.ops import fallbacks
from minisae.recipe import Recipe
from minisae.sae import VARIANTS, sizes
from minisae.train import start, step

WARMUP = 3
INPUTS = 4
COPY_BYTES = {"numpy": 1 << 26, "cupy": 1 << 30}


class Size(NamedTuple):
    """The size of the step that is timed."""

    n: int
    d_in: int
    d_sae: int
    k: int
    dtype: str


def timed(work: Callable[[], object], backend: str, repeats: int) -> list[float]:
    """Return the seconds each call took, after the warm-up; on a device by events, which see the device alone."""
    for _ in range(WARMUP):
        work()
    if backend == "numpy":
        return [_clock(work) for _ in range(repeats)]
    cuda = importlib.import_module("cupy").cuda
    pairs = [(cuda.Event(), cuda.Event()) for _ in range(repeats)]
    for begin, end in pairs:
        begin.record()
        work()
        end.record()
    pairs[-1][1].synchronize()
    return [cuda.get_elapsed_time(begin, end) / 1e3 for begin, end in pairs]


def _clock(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def ceilings(size: Size, backend: str, repeats: int) -> tuple[float, float]:
    """Return the speed of the encoder's product (operations a second) and of a copy (bytes a second)."""
    rng = np.random.default_rng(0)
    x = to_device(rng.standard_normal((size.n, size.d_in)).astype(size.dtype), backend)  # (n, d_in)
    W = to_device(rng.standard_normal((size.d_sae, size.d_in)).astype(size.dtype), backend).T  # (d_in, d_sae)
    xp = namespace(x)
    out = xp.empty((size.n, size.d_sae), dtype=size.dtype)  # (n, d_sae)
    product = statistics.median(timed(lambda: xp.matmul(x, W, out=out), backend, repeats))
    old = xp.ones(COPY_BYTES[backend] // 4, dtype="float32")  # (numbers,)
    new = xp.empty_like(old)  # (numbers,)
    copy = statistics.median(timed(lambda: xp.copyto(new, old), backend, repeats))
    return 2 * size.n * size.d_in * size.d_sae / product, 2 * old.nbytes / copy


def has_k(name: str) -> bool:
    """Return whether a row of this variant has a number of active latents that is set beforehand."""
    return "k" in VARIANTS[name].Config._fields


def floor(name: str, size: Size, speed: tuple[float, float]) -> float:
    """Return the seconds below which no step of this variant can be, at the measured speeds."""
    product = 2 * size.n * size.d_in * size.d_sae
    item = np.dtype(size.dtype).itemsize
    optimiser = 7 * 2 * size.d_in * size.d_sae * item
    if has_k(name):
        return product / speed[0] + (optimiser + 4 * size.n * size.k * size.d_in * item) / speed[1]
    return 5 * product / speed[0] + optimiser / speed[1]


def step_times(name: str, size: Size, backend: str, repeats: int) -> tuple[list[float], dict[str, float]]:
    """Return the seconds of each step, and how often a step fell back to a formula for want of a kernel."""
    options = {"k": size.k} if has_k(name) else {}
    halves = (size.d_in - size.d_in // 2, size.d_in // 2)  # a row of two activations, for variants that ask
    cfg = VARIANTS[name].Config(**{"d_sae": size.d_sae, **options, **sizes(VARIANTS[name], halves, options)})
    recipe = Recipe(steps=1_000_000, batch_size=size.n, dtype=size.dtype, init_rows=size.n, log_every=1_000_000)
    rows = np.random.default_rng(1).standard_normal((INPUTS * size.n, size.d_in), dtype=np.float32)  # (rows, d_in)
    run = start(array_source(rows), name, cfg, recipe, backend=backend)
    inputs = [to_device(part.astype(size.dtype), backend) for part in np.split(rows, INPUTS)]

    def work() -> Array:
        nonlocal run
        run, measures = step(run, inputs[run.step % INPUTS])
        return measures

    fallbacks.clear()
    seconds = timed(work, backend, repeats)
    return seconds, {op: count / run.step for op, count in sorted(fallbacks.items())}


def measure(size: Size, backends: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Return one record for each backend and variant."""
    records = []
    for backend in backends:
        speed = ceilings(size, backend, repeats)
        for name in VARIANTS:
            seconds, fell_back = step_times(name, size, backend, repeats)
            bound = floor(name, size, speed)
            records.append({
                "backend": backend, "variant": name, **size._asdict(), "step_ms": 1e3 * statistics.median(seconds),
                "fastest_ms": 1e3 * min(seconds), "slowest_ms": 1e3 * max(seconds), "floor_ms": 1e3 * bound,
                "times_floor": statistics.median(seconds) / bound, "product_gflops": speed[0] / 1e9,
                "copy_gbytes": speed[1] / 1e9, "fallbacks_a_step": fell_back, "device": device(backend),
            })  # fmt: skip
    return records


def device(backend: str) -> str:
    """Return the device's name and the versions that matter."""
    if backend == "numpy":
        return f"CPU, numpy {np.__version__}"
    cupy = importlib.import_module("cupy")
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return f"{name}, cupy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}"


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print the records as a table."""
    print(f"{'backend':8} {'variant':8} {'step ms':>9} {'range':>17} {'floor ms':>9} {'x floor':>8} {'x numpy':>8}")
    host = {r["variant"]: r["step_ms"] for r in records if r["backend"] == "numpy"}
    for r in records:
        span = f"{r['fastest_ms']:.2f}–{r['slowest_ms']:.2f}"
        gain = f"{host[r['variant']] / r['step_ms']:8.2f}" if r["variant"] in host else f"{'':8}"
        line = f"{r['backend']:8} {r['variant']:8} {r['step_ms']:9.2f} {span:>17} {r['floor_ms']:9.2f}"
        print(f"{line} {r['times_floor']:8.2f} {gain}")
    for r in {r["backend"]: r for r in records}.values():
        speed = f"product {r['product_gflops']:.0f} GFLOP/s, copy {r['copy_gbytes']:.1f} GB/s"
        print(
            f"{r['backend']}: {r['device']}; {speed}; n {r['n']}, {r['d_in']} → {r['d_sae']}, k {r['k']}, {r['dtype']}"
        )
    for r in records:
        if r["fallbacks_a_step"]:
            listed = ", ".join(f"{op} {count:g}" for op, count in r["fallbacks_a_step"].items())
            print(f"{r['backend']} {r['variant']} ran formulas for want of kernels, calls a step: {listed}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status: 0 success, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m minisae.gpu.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=FLAGS, default="cupy", help="with cupy, NumPy is measured beside it")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=24_576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--json", action="store_true", help="print the records as JSON instead of a table")
    asked = parser.parse_args(argv)
    try:
        for name in ("batch_size", "d_in", "d_sae", "k", "steps"):
            if getattr(asked, name) < 1:
                raise InputError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(asked, name)}")
        backend = resolve(asked.backend)
        size = Size(asked.batch_size, asked.d_in, asked.d_sae, asked.k, asked.dtype)
        records = measure(size, ("numpy",) if backend == "numpy" else ("numpy", backend), asked.steps)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(records, indent=1))
    else:
        show(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
