"""Running thresholds: how they start, what breaks them, what becomes of them in a file."""

import numpy as np

from minisae.backend import Array
from minisae.interop import folding
from minisae.ledger.base import Deviation, Shown, params_of
from minisae.ops import dense
from minisae.sae import batch_topk, matryoshka


def _after(steps: int, rule: str) -> float:
    """Return the threshold after so many batches whose smallest kept value is 1."""
    cfg = batch_topk.Config(1, 1, k=1, threshold_rule=rule, auxk=0.0)
    params = params_of([[1]], [[1]]) | {"threshold": np.full(1, -1.0)}
    out, _ = batch_topk.forward(params, np.ones((1, 1)), cfg)
    for step in range(steps):
        batch_topk.after_step(params, out, cfg, step=step)
    return float(params["threshold"][0])


def starts_at_zero() -> Shown:
    """The running mean of a constant, after 100 steps."""
    right, theirs = _after(100, "corrected"), _after(100, "from_zero")
    return Shown("threshold after 100 steps", "the smallest kept value is 1 in every batch", right, theirs)


def infinite() -> Shown:
    """The threshold after a batch in which one row keeps nothing positive."""
    f = np.array([[1.0, 2.0], [0.0, 0.0]])  # (2, 2)
    least = np.where(f > 0, f, np.inf).min(axis=1)  # (2,)
    right, theirs = (float(0.999 * 0.5 + 0.001 * mean) for mean in (least[np.isfinite(least)].mean(), least.mean()))
    return Shown("threshold", "it was ½; rows (1, 2) and (0, 0), decay 0.999", right, theirs)


def _codes(params: dict[str, Array]) -> float:
    """Return how many latents fire on x = ½ by pre-activation times decoder norm."""
    cfg = matryoshka.Config(1, 1, k=1, select_by="contribution")
    return float((dense(matryoshka.encode(params, np.array([[0.5]]), cfg)) > 0).sum())


def unfolded() -> Shown:
    """Whether a latent fires after the input scale was folded into the weights."""
    folded = folding.input_scale(params_of([[1]], [[1]]), 4.0)
    right, theirs = (_codes(folded | {"threshold": np.array([theta])}) for theta in (1 / 4, 1.0))
    return Shown("latents that fire", "x ½, input scale 4, weights 1, θ 1: 4·½ > 1", right, theirs)


def lost() -> Shown:
    """Rows that can be encoded after saving and loading."""
    params = params_of([[1]], [[1]]) | {"threshold": np.full(1, 0.5)}
    x, cfg = np.ones((3, 1)), batch_topk.Config(1, 1, k=1)

    def encoded(saved: dict[str, Array]) -> float:
        try:
            return float(len(dense(batch_topk.encode(saved, x, cfg))))
        except KeyError:
            return 0.0

    without = {name: p for name, p in params.items() if name != "threshold"}
    return Shown("rows encoded after loading", "3 rows, in evaluation", encoded(params), encoded(without))


ENTRIES = (
    Deviation(
        "SAELens", "6.54.12", "threshold from zero",
        "BatchTopK's running threshold starts at 0 and moves by 1 % a step, without bias correction.",
        "saes/batchtopk_sae.py", "after 100 steps it has gone {theirs} of the way; short runs ship too dense a code",
        starts_at_zero,
    ),
    Deviation(
        "dictionary_learning", "0.1.0, 2025-08", "infinite threshold",
        "TopKTrainer averages the smallest positive value of each row; a row that has none counts as infinity.",
        "trainers/top_k.py", "one such row makes the threshold {theirs} for good, for {right}", infinite,
    ),
    Deviation(
        "SAELens", "6.18", "threshold not folded",
        "BatchTopK's threshold is of pre-activation times decoder norm, which folding the input scale divides; the "
        "threshold was left as it was.",
        "issue 763", "the saved autoencoder has another L0: {theirs} latents fire for {right}", unfolded, "read",
        "6.54.12 or before",
    ),
    Deviation(
        "overcomplete", "0.3.0", "threshold not saved",
        "The running threshold of BatchTopKSAE is no buffer: a state_dict does not have it.",
        "sae/batchtopk_sae.py", "a loaded autoencoder refuses to encode: {theirs} of {right} rows", lost,
    ),
)  # fmt: skip
"""Of thresholds."""
