"""The quality benchmark: every variant on the same synthetic data with a known truth, at the same L0.

512 features in 128 dimensions: 24 trees of three levels with exclusive siblings (a child fires only where its parent
does), eight loners, firing correlated by a Gaussian copula, folded-normal strengths; 8.7 features a row. The
autoencoders have 256 latents, fewer than there are features, and 6 active ones a row. Where a penalty decides how many
are active, its λ is found by bisection on the first seed; every seed is measured with that λ, so L0 is a column of the
table. That is SynthSAEBench (arXiv:2602.14687; 16k features, 4096 latents) at a size that CPU-minutes can pay.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae import metrics, synthetic
from minisae.backend import Array
from minisae.cache import ArraySource
from minisae.checkpoint import SAE
from minisae.demo_jobs import Job, workers
from minisae.runs import train

N_FEAT, D_IN, D_SAE = 512, 128, 256
L0 = 6.0
"""Active latents a row."""
TOLERANCE = 0.03
"""Relative distance from ``L0`` at which the bisection of λ ends, on the rows it is measured on."""
TRIES = 7
STEPS, BATCH_SIZE = 4000, 1024
TRAIN_ROWS, TEST_ROWS = 262_144, 20_000


class Entry(NamedTuple):
    """How a variant takes part."""

    options: Mapping[str, Any]
    """Of ``minisae.train``."""
    bracket: tuple[float, float] | None = None
    """λ between these gives the wanted L0; ``None`` where k does."""


class Score(NamedTuple):
    """One autoencoder, measured."""

    variant: str
    seed: int
    l1: float | None
    numbers: dict[str, float]


COMMON = {"dead_after": 100_000}
LR = 1e-3
K: dict[str, Any] = {"k": 6}
"""What the selecting variants share."""
ANNEALED = {"k_start": 40, "k_anneal": 2000}
WARM = {"sparsity_warmup": 2000}
"""What annealing k is to these: sparse from the first step on, latents settle on blends of features."""
ENTRIES = {
    "relu": Entry(WARM, (0.05, 3.0)),
    "tied": Entry(WARM, (0.05, 3.0)),
    "p_anneal": Entry(WARM, (0.01, 3.0)),
    "gated": Entry(WARM, (0.05, 3.0)),
    "jumprelu": Entry(WARM | {"bandwidth": 0.2, "first_threshold": 0.1}, (0.002, 1.0)),
    "topk": Entry(K | ANNEALED),
    "multi_topk": Entry(K | ANNEALED),
    "group_max": Entry({"k": 6}),
    "abs_topk": Entry(K | ANNEALED),
    "batch_topk": Entry(K | ANNEALED),
    "matryoshka": Entry(K | ANNEALED),
    "matching_pursuit": Entry(K),
    "archetypal": Entry(K),
}
"""Every variant that reconstructs its input; transcoders and crosscoders have no part in it."""
COLUMNS = {
    "l0": "L0", "mmcs_truth_to_learned": "MMCS", "matched_cosine": "matched cosine", "coverage": "coverage", "f1": "F1",
    "r2": "R²", "bias": "length", "dead": "dead",
}  # fmt: skip
"""What the table shows, with its heading; *length* is the relative reconstruction bias, below 1 where codes shrink."""


def world(seed: int) -> synthetic.SyntheticModel:
    """Return the model of the data."""
    hierarchy = synthetic.tree(N_FEAT, roots=24, branching=4, depth=2, exclusive=True, scale_by_parent=True)
    p = np.full(N_FEAT, 0.02)  # (n_feat,)
    p[:24] = np.geomspace(0.25, 0.06, 24)
    for feature in np.flatnonzero(hierarchy.parent >= 0):
        p[feature] = 0.22 * p[hierarchy.parent[feature]]
    return synthetic.make(
        n_feat=N_FEAT, d_in=D_IN, seed=seed, p=p, hierarchy=hierarchy, correlation_rank=25, correlation_scale=0.1,
        magnitude="folded_normal", magnitude_scale=1.0, magnitude_std=0.3, orthogonal_steps=100,
    )  # fmt: skip


class Data(NamedTuple):
    """What one seed's autoencoders are trained and measured on."""

    model: synthetic.SyntheticModel
    rows: Array
    """Float32 ``(TRAIN_ROWS, d_in)``."""
    test: synthetic.Sample


def data(seed: int) -> Data:
    """Return the data of a seed."""
    model, rng = world(seed), np.random.default_rng(seed)
    rows = np.concatenate([synthetic.sample(model, 16_384, rng).x for _ in range(TRAIN_ROWS // 16_384)])
    return Data(model, rows, synthetic.sample(model, TEST_ROWS, rng))


def fit(variant: str, seed: int, rows: Array, *, l1: float | None) -> SAE:
    """Train a variant on rows ``(n, d_in)`` with its entry's options."""
    own = dict(ENTRIES[variant].options)
    options = COMMON | {key: value for key, value in own.items() if key != "k"}
    return train(
        ArraySource(rows), variant=variant, d_sae=D_SAE, lr=LR, seed=seed, k=own.get("k"), l1=l1,
        options=options, steps=STEPS, batch_size=BATCH_SIZE,
    )  # fmt: skip


def measure(sae: SAE, truth: Data) -> dict[str, float]:
    """Return the columns of the table."""
    code = sae.encode(truth.test.x)  # (n, d_sae)
    x_hat = sae.decode(code)  # (n, d_in)
    W_dec = sae.params["W_dec"]  # (d_sae, d_in)
    found = metrics.recovery_report(truth.model.dictionary, W_dec, truth.test.f, code) | {
        "l0": metrics.l0(code),
        "r2": float(metrics.pooled_r2(truth.test.x, x_hat)),
        "bias": float(metrics.relative_reconstruction_bias(truth.test.x, x_hat)),
        "dead": metrics.dead_fraction(metrics.firing_counts(code)),
    }
    return {name: float(found[name]) for name in COLUMNS}


def match_l0(variant: str, seed: int) -> Score:
    """Bisect log λ until the L0 is within ``TOLERANCE`` of the wanted one; return the closest that was tried."""
    truth = data(seed)
    low, high = map(math.log, ENTRIES[variant].bracket or (1, 1))
    tried = []
    for _ in range(TRIES):
        l1 = math.exp((low + high) / 2)
        numbers = measure(fit(variant, seed, truth.rows, l1=l1), truth)
        tried.append(Score(variant, seed, l1, numbers))
        if abs(numbers["l0"] / L0 - 1) <= TOLERANCE:
            break
        low, high = (math.log(l1), high) if numbers["l0"] > L0 else (low, math.log(l1))
    return min(tried, key=lambda score: abs(math.log(score.numbers["l0"] / L0)))


def score(variant: str, seed: int, l1: float | None) -> Score:
    """Train and measure one autoencoder."""
    truth = data(seed)
    return Score(variant, seed, l1, measure(fit(variant, seed, truth.rows, l1=l1), truth))


def benchmark(
    variants: Sequence[str] = tuple(ENTRIES), *, seeds: int = 5, tell: Callable[[Score], None] = lambda score: None
) -> list[Score]:
    """Measure variants on ``seeds`` seeds, two at a time; ``tell`` is called with each score as it comes in."""
    scores: list[Score] = []

    def take(results: Iterable[tuple[str, Score]]) -> None:
        for _, result in results:
            scores.append(result)
            tell(result)

    with workers() as run:
        take(run([Job(v, match_l0, (v, 0)) for v in variants if ENTRIES[v].bracket]))
        l1s = {result.variant: result.l1 for result in scores}
        done = {(result.variant, result.seed) for result in scores}
        rest = [(v, seed) for seed in range(seeds) for v in variants if (v, seed) not in done]
        take(run([Job(v, score, (v, seed, l1s.get(v))) for v, seed in rest]))
    return scores


def line(result: Score) -> str:
    """Return one autoencoder's numbers in one line."""
    l1 = "" if result.l1 is None else f" λ {result.l1:.3g}"
    return f"{result.variant}, seed {result.seed}{l1}: " + "  ".join(
        f"{heading} {result.numbers[name]:.3f}" for name, heading in COLUMNS.items()
    )


def table(scores: Sequence[Score]) -> str:
    """Return the table for people: the mean of each number over seeds, and half the band from least to most."""
    lines = ["variant          " + "".join(f"{heading:>16}" for heading in COLUMNS.values())]
    for variant in dict.fromkeys(result.variant for result in scores):
        cells = []
        for name in COLUMNS:
            values = [result.numbers[name] for result in scores if result.variant == variant]
            cells.append(f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}")
        lines.append(f"{variant:17}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def claims(scores: Sequence[Score]) -> dict[str, bool]:
    """Return whether the orderings of the literature appear, in the means over seeds.

    Matryoshka ahead in F1 and matching pursuit ahead in R² and behind in F1 are SynthSAEBench's (arXiv:2602.14687);
    that L1 shortens reconstructions, and gated and JumpReLU do not, is Rajamanoharan et al.'s (2024a, 2024b).
    """

    def of(name: str) -> dict[str, float]:
        variants = dict.fromkeys(result.variant for result in scores)
        return {v: statistics.fmean(s.numbers[name] for s in scores if s.variant == v) for v in variants}

    f1, r2, length = of("f1"), of("r2"), of("bias")
    return {
        "matryoshka is ahead in F1": max(f1, key=lambda v: f1[v]) == "matryoshka",
        "matching pursuit is ahead in R²": max(r2, key=lambda v: r2[v]) == "matching_pursuit",
        "matching pursuit is behind batch_topk in F1": f1["matching_pursuit"] < f1["batch_topk"],
        "L1 shortens": max(length["relu"], length["tied"]) < 0.97,
        "gated and jumprelu do not": min(length["gated"], length["jumprelu"]) > 0.98,
    }
