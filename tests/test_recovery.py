"""Does training find a dictionary that is known? 128 features in 64 dimensions, each firing with p = 0.03.

The dictionary is random and not made orthogonal (cosines up to about 0.45), magnitudes are U(0, 1], there is no noise
and no bias. One seed decides data, order and start.

At d_sae = 128 plain TopK (same steps, no AuxK that acts, no annealing) covers 0.84 to 0.89. What it misses are
pairs: one latent lies between two features whose own cosine is about 0.3, and for each such blend about one latent
is dead. AuxK, which trains the dead latents on what the blends leave over, reaches at least 0.984; k falling from
16, which leaves no latent dead early on, 1.000 (five seeds each, asserted below); the recipe has both. The recipe's
least coverage is 0.992 (one feature missed, ``relu`` at 128); ``LEAST`` leaves room for five more misses.
"""

import time

import numpy as np
import pytest

import minisae
from minisae.metrics import dead_fraction, firing_counts, pooled_r2, recovery_report
from minisae.metrics import l0 as mean_l0
from minisae.synthetic import SyntheticSource, make, sample

N_FEAT, D_IN, P = 128, 64, 0.03
SEEDS = (0, 1, 2, 3, 4)
LEAST = 0.95
SHOWN = {
    "coverage": "coverage", "mmcs_truth_to_learned": "mmcs", "mmcs_learned_to_truth": "mmcs back",
    "matched_cosine": "matched", "uniqueness": "unique", "f1": "F1", "f1_matched": "F1 matched", "l0": "L0",
    "dead": "dead", "r2": "R2", "seconds": "seconds",
}  # fmt: skip


def options(variant: str, steps: int) -> dict[str, float]:
    """Return the recipe: k falls over the first 70 % of the steps, or λ rises over all of them."""
    if variant == "topk":
        return {"k": 4, "k_start": 16, "k_anneal": 7 * steps // 10, "dead_after": 10_000}
    return {"l1": 0.2, "sparsity_warmup": steps}


def recover(
    variant: str, d_sae: int, seed: int, *, steps: int = 2000, without: tuple[str, ...] = ()
) -> dict[str, float]:
    """Train on a known dictionary; return what was recovered, on fresh rows, and the processor seconds it took.

    ``without`` names options of the recipe that are left at their defaults.
    """
    chosen = {name: value for name, value in options(variant, steps).items() if name not in without}
    model = make(n_feat=N_FEAT, d_in=D_IN, seed=seed, p=P)
    began = time.process_time()
    sae = minisae.train(
        SyntheticSource(model), variant=variant, d_sae=d_sae, steps=steps, batch_size=1024, lr=0.01, seed=seed,
        options=chosen,
    )  # fmt: skip
    seconds = time.process_time() - began
    x, f_true = sample(model, 20_000, np.random.default_rng([seed, 99]))
    f = sae.encode(x)
    return {
        **recovery_report(model.dictionary, sae.params["W_dec"], f_true, f),
        "l0": float(mean_l0(f)),
        "dead": float(dead_fraction(firing_counts(f))),
        "r2": float(pooled_r2(x, sae.decode(f))),
        "seconds": seconds,
    }


def table(name: str, results: list[dict[str, float]]) -> str:
    """Lay out the least, mean and largest of every number over the seeds."""
    lines = [f"\n{name}, {len(results)} seeds: coverage {sorted(round(r['coverage'], 3) for r in results)}"]
    for key, label in SHOWN.items():
        values = [r[key] for r in results]
        lines.append(f"  {label:<11}{min(values):8.3f} {np.mean(values):8.3f} {max(values):8.3f}")
    return "\n".join(lines)


@pytest.mark.slow
def test_what_plain_topk_misses_and_what_each_part_of_the_recipe_brings() -> None:
    annealing, auxk = ("k_start", "k_anneal"), ("dead_after",)
    worst = {}
    for name, without in (("plain", annealing + auxk), ("AuxK alone", annealing), ("annealing alone", auxk)):
        results = [recover("topk", 128, seed, without=without) for seed in SEEDS]
        print(table(f"topk 128, {name}", results))
        worst[name] = [r["coverage"] for r in results]
    assert max(worst["plain"]) < LEAST
    assert min(worst["AuxK alone"]) > max(worst["plain"])
    assert min(worst["annealing alone"]) > max(worst["plain"])


@pytest.mark.slow
@pytest.mark.parametrize("d_sae", [128, 256])
@pytest.mark.parametrize("variant", ["relu", "topk"])
def test_dictionary_is_recovered(variant: str, d_sae: int) -> None:
    results = [recover(variant, d_sae, seed) for seed in SEEDS]
    print(table(f"{variant} {d_sae}", results))
    assert min(r["coverage"] for r in results) >= LEAST
    # Processor time of all threads: at least the wall time of a run that has the machine to itself.
    assert max(r["seconds"] for r in results) <= 60


def test_dictionary_is_recovered_in_a_short_run() -> None:
    found = recover("topk", 128, 0, steps=700)
    assert found["coverage"] >= 0.9
    assert found["r2"] >= 0.85
    assert found["l0"] <= 4
