"""Does a device train the same autoencoder? ``python -m minisae.gpu.parity`` runs whole steps on both and compares.

Each case trains a few steps from the same seed on the same rows: once with NumPy's formulas, once on the device. All
that a run holds at the end (parameters, moments, averages, counters, the last losses) is compared array by array, by
``max |a − b| / max |a|``. ``--self`` compares NumPy's fast twins with NumPy's formulas instead and needs no device.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import resolve, to_device, to_host
from minisae.cache import array_source
from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.ops import fallbacks, reference_ops
from minisae.recipe import Recipe
from minisae.sae import VARIANTS, sizes, variant
from minisae.train import start, step

D_IN, D_SAE, BATCH, STEPS = 31, 97, 41, 5
SIDE_BY_SIDE = (17, D_IN - 17)
"""What a row holds, for variants that ask: input and target, or two sources."""
SILENT = 7
"""Latents that never fire, for the terms that look at dead ones."""
TOLERANCE = {"float64": 1e-11, "float32": 2e-5}
"""Largest difference allowed. Sums run in another order on a device, and five steps of Adam pass that on."""


class Case(NamedTuple):
    """One configuration: a variant, what its ``Config`` and what the ``Recipe`` say beside the sizes."""

    variant: str
    options: dict[str, Any]
    recipe: dict[str, Any]


OWN: dict[str, dict[str, Any]] = {"p_anneal": {"p_end": 0.9}, "archetypal": {"candidates": 29}}
"""What a variant needs for rounding to stay small: no steep slope of f^p, no two latents that are one point."""
RECIPES: tuple[dict[str, Any], ...] = (
    {"clip": 1.0},
    {"ghost": True, "ema": 0.9, "input_scale": "mean_norm"},
    {"clip": 0.5, "input_scale": "mean_square"},
)
"""What goes with the first, second and third values of the switches, and again from the fourth on."""
WARMUP, ANNEALING = {"sparsity_warmup": 4}, {"k_start": 17, "k_anneal": 4}


def cases() -> dict[str, Case]:
    """Return cases for each variant: all switches at their first value, at their second, and so on.

    A switch with fewer values than the longest begins again. So every value of every switch is in some case.
    """
    found = {}
    for name, module in VARIANTS.items():
        fields = module.Config._fields
        own = (WARMUP if "l1" in fields else {}) | (ANNEALING if "k" in fields else {})
        k = {"k": 2.6 if getattr(module, "FRACTIONAL_K", False) else 3} if "k" in fields else {}
        shown = {switch: known.values for switch, known in SWITCHES.items() if switch in (*fields, "order")}
        for i in range(max(map(len, shown.values()))):
            values = {switch: known[i % len(known)] for switch, known in shown.items()}
            order = {"dead_after": BATCH, "order": values.pop("order")}
            options, recipe = k | values | OWN.get(name, {}), order | RECIPES[i % len(RECIPES)] | own
            found[f"{name}, values {i + 1}"] = Case(name, options, recipe)
    return found


CASES = cases()


def train(case: Case, *, backend: str, dtype: str, reference: bool, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Train a case and return, on the host, all that the run holds and the measures of its last step.

    Rounding must not be blown up for the comparison to mean anything. So ``eps`` is large: Adam divides a gradient by
    its own size, and would turn rounding in one that is nearly 0 into a step of full length. And sizes are small, so
    that no pre-activation comes within rounding of ReLU's kink or of a tie, on whose two sides the gradients differ.
    """
    options = {"batch_size": BATCH, "eps": 1e-3, "init_rows": BATCH, "log_every": 1, "lr": 1e-2, **case.recipe}
    recipe = Recipe(steps=steps, dtype=dtype, **options)
    module = variant(case.variant)
    cfg = module.Config(**{"d_sae": D_SAE, **case.options, **sizes(module, SIDE_BY_SIDE, case.options)})
    rows = np.random.default_rng(7).standard_normal((3 * BATCH, D_IN)).astype(np.float32) + 0.5  # (3*n, d_in)
    source = array_source(rows)
    measures: dict[str, Any] = {}
    with reference_ops() if reference else nullcontext():
        run = start(source, case.variant, cfg, recipe, backend=backend)
        if "b_enc" in run.params:
            run.params["b_enc"][:SILENT] = -9.0
        for _, x in zip(range(steps), source.batches(recipe.batch_size, seed=recipe.seed), strict=False):
            run, measures = step(run, to_device(x.astype(dtype), backend))
    groups = {"params": run.params, "m": run.adam.m, "v": run.adam.v, "average": run.average, "measures": measures}
    held = {f"{group}.{name}": a for group, arrays in groups.items() for name, a in arrays.items()}
    return {name: np.asarray(to_host(a)) for name, a in {**held, "idle": run.idle, "bad_step": run.bad_step}.items()}


def worst(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> tuple[str, float]:
    """Return the array that differs most, and by how much; not-a-numbers differ by infinity."""
    if expected.keys() != got.keys():
        return f"other arrays: {', '.join(sorted(expected.keys() ^ got.keys()))}", float("inf")
    found = ("none", 0.0)
    for name, a in expected.items():
        size = float(np.abs(a).max(initial=0)) or 1.0
        apart = float(np.abs(a - got[name]).max(initial=0)) / size
        if not apart <= found[1]:
            found = (name, apart if np.isfinite(apart) else float("inf"))
    return found


def compare(backend: str) -> bool:
    """Print a line for every case, dtype and body; return whether all are within their tolerance."""
    head = ("case", "dtype", "bodies", "differs most", "by", "allowed", "")
    print("{:32} {:8} {:9} {:16} {:>8} {:>8} {}".format(*head))
    good = True
    for name, case in CASES.items():
        for dtype, allowed in TOLERANCE.items():
            expected = train(case, backend="numpy", dtype=dtype, reference=True)
            for reference in (False,) if backend == "numpy" else (True, False):
                where, apart = worst(expected, train(case, backend=backend, dtype=dtype, reference=reference))
                good &= apart <= allowed
                verdict = "ok" if apart <= allowed else "DIFFERS"
                body = "formulas" if reference else "twins"
                print(f"{name:32} {dtype:8} {body:9} {where:16} {apart:8.1e} {allowed:8.0e} {verdict}")
    return good


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status: 0 equal, 1 not, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m minisae.gpu.parity", description=__doc__.partition("\n")[0])
    parser.add_argument("--self", action="store_true", help="NumPy's twins against NumPy's formulas; needs no device")
    try:
        backend = "numpy" if parser.parse_args(argv).self else resolve("cupy")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    fallbacks.clear()
    good = compare(backend)
    if fallbacks:
        print("ran their formula, having no kernel:", ", ".join(f"{k} ({v})" for k, v in sorted(fallbacks.items())))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
