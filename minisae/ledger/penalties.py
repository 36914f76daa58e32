"""Penalties and reconstruction terms of dense codes: relu, gated, p-annealing, end to end."""

import numpy as np

from minisae import losses
from minisae.backend import Array
from minisae.ledger.base import Deviation, Shown, learn, params_of
from minisae.metrics.model import kl_divergence
from minisae.models.layers import log_softmax
from minisae.ops import project_rows
from minisae.sae import gated, p_anneal, relu

OVERCOMPLETE, DL, SAELENS = ("overcomplete", "0.3.0"), ("dictionary_learning", "0.1.0, 2025-08"), ("SAELens", "6.54.12")


def grows_with_the_batch() -> Shown:
    """The L1 of four latents at 1 in each row."""
    params = params_of([[1, 1, 1, 1]], np.zeros((4, 1)))

    def of(reduction: str) -> tuple[float, ...]:
        cfg = relu.Config(1, 4, l1=0.1, penalty_reduction=reduction, reduction="mean")
        return tuple(learn("relu", cfg, params, np.ones((n, 1)))[0]["l1"] for n in (3, 6, 30))

    return Shown("penalty", "λ 0.1; 3, 6, 30 rows, four latents at 1", of("mean"), of("sum"))


def norm_for_a_sum() -> Shown:
    """The penalty for p = ½ of a row with codes 4 and 9."""
    f = np.array([[4.0, 9.0]])  # (1, 2)
    right, theirs = (float(losses.lp(f, coefficient=1.0, p=0.5, root=root).value) for root in (False, True))
    return Shown("penalty", "f = (4, 9), p ½, λ 1", right, theirs)


def norm_twice() -> Shown:
    """The L1 weighted by the decoder norm, of a code that is weighted already."""
    W_dec, f = np.array([[2.0]]), np.array([[3.0]])
    right, theirs = (
        float(losses.l1(code, coefficient=1.0, W_dec=W_dec).value) for code in (f, f * np.linalg.norm(W_dec))
    )
    return Shown("penalty", "f 3, decoder norm 2, λ 1", right, theirs)


def gate_trains_the_decoder() -> Shown:
    """The slope at W_dec where the reconstruction is perfect and the gate's own is not."""
    params = params_of([[1]], [[1]], b_enc=[-1]) | {"r_mag": np.zeros(1), "b_mag": np.zeros(1)}
    right, theirs = (
        float(learn("gated", gated.Config(1, 1, l1=0, aux_decoder=how), params, np.array([[3.0]]))[1]["W_dec"][0, 0])
        for how in ("frozen", "trained")
    )
    return Shown("∂L/∂W_dec", "x 3, weights 1, b_gate −1, λ 0: x̂ = 3, the gate's own 2", right + 0.0, theirs)


def untangential() -> Shown:
    """The slope at a unit row of the dictionary."""
    params, x_hat, target = params_of([[1], [0]], [[1, 0]]), np.array([[2.0, 0]]), np.array([[3.0, 1]])
    _, cache = relu.forward(params, np.array([[2.0, 1]]), relu.Config(2, 1))
    slope = relu.backward(params, cache, relu.Config(2, 1), {"x_hat": 2 * (x_hat - target)})["W_dec"]  # (1, 2)
    along = slope.copy()  # (1, 2)
    project_rows(slope, params["W_dec"])
    return Shown("slope at the row", "row (1, 0), f 2, x̂ − y = (−1, −1)", tuple(slope[0] + 0.0), tuple(along[0]))


def _steps_trained(p_root: bool) -> float:
    """Return how many of 100 steps with annealing from step 10 to p = 0 are taken before a division by zero."""
    cfg = p_anneal.Config(1, 3, p_end=0.0, p_root=p_root, anneal_start=10, anneal_end=100)
    params = p_anneal.init(cfg, np.random.default_rng(0))
    out, _ = p_anneal.forward(params, np.ones((1, 1), np.float32), cfg)
    for step in range(100):
        try:
            p_anneal.after_step(params, out, cfg, step=step)
        except ZeroDivisionError:
            return float(step)
    return 100.0


def zero_division() -> Shown:
    """The defaults, a p-th root and p_end = 0."""
    right, theirs = _steps_trained(False), _steps_trained(True)
    return Shown("steps trained", "100 steps, anneal_start 10, otherwise the defaults", right, theirs)


def zero_to_the_zero() -> Shown:
    """The number of active latents as Σ f⁰."""
    f = np.array([[4.0, 0.0, 0.0]])  # (1, 3)
    right = float(losses.lp(f, coefficient=1.0, p=0.0, root=False).value)
    return Shown("penalty", "f = (4, 0, 0), p 0, λ 1", right, float((f**0.0).sum()))


def zero_row() -> Shown:
    """The error relative to ‖x‖² with a row of zeros among the rows."""
    x, params = np.array([[3.0, 4.0], [0.0, 0.0]]), params_of(np.zeros((2, 1)), np.zeros((1, 2)))
    right = learn("relu", relu.Config(2, 1, l1=0, relative=True), params, x)[0]["mse"]
    squares = (x * x).sum(axis=1)  # (2,)
    with np.errstate(invalid="ignore"):
        theirs = (squares / squares).mean()  # (), x̂ = 0
    return Shown("normalised error", "rows (3, 4) and (0, 0), x̂ = 0", right, float(theirs))


def _logits() -> Array:
    return log_softmax(np.array([[0.0, 0.0], [0.0, np.log(3.0)]]))


def cross_entropy_for_kl() -> Shown:
    """What is logged when the spliced model predicts as the clean one does."""
    log_p = _logits()  # (2, 2)
    right, theirs = float(kl_divergence(log_p, log_p).mean()), float(-(np.exp(log_p) * log_p).sum(axis=1).mean())
    return Shown("logged kl", "spliced = clean: (½, ½) and (¼, ¾)", right, theirs)


ENTRIES = (
    Deviation(
        *OVERCOMPLETE, "penalty grows with the batch",
        "mse_l1 sums the penalty over the batch beside an error that is averaged over rows and dimensions.",
        "sae/losses.py", "the same λ means another thing at each batch size: {theirs} for {right}",
        grows_with_the_batch,
    ),
    Deviation(
        *OVERCOMPLETE, "no projection",
        "Dictionary rows are renormalised in every forward pass, but their gradient is not projected.",
        "sae/dictionary.py", "Adam's moments fill with the part that renormalisation undoes: {theirs} for {right}",
        untangential,
    ),
    Deviation(
        *SAELENS, "p-norm", "lp_norm is a norm, with its p-th root, where the papers sum p-th powers.",
        "saes/standard_sae.py",
        "the penalty of a row is {theirs} for {right}, and its slope depends on the other latents",
        norm_for_a_sum,
    ),
    Deviation(
        *DL, "p-norm", "sparsity_function Lp, the default, takes the p-th root of each row; Lp^p does not.",
        "trainers/p_anneal.py", "the penalty of a row is {theirs} for {right}", norm_for_a_sum,
    ),
    Deviation(
        *DL, "norm twice",
        "With AutoEncoderNew, whose forward pass multiplies the code by the decoder norm, the April trainer multiplies "
        "again.",
        "issue 39; trainers/standard.py, dictionary.py", "λ counts {ratio} times, the decoder norm", norm_twice,
    ),
    Deviation(
        *SAELENS, "gate trains the decoder",
        "The gate's own reconstruction trains W_dec and b_dec; the paper decodes it with a frozen copy.",
        "issues 539, 544, 545, 546; saes/gated_sae.py",
        "the decoder is pulled towards magnitudes that are not used: slope {theirs} for {right}",
        gate_trains_the_decoder,
    ),
    Deviation(
        *DL, "division by zero", "The defaults anneal to p = 0 and take a p-th root.", "trainers/p_anneal.py",
        "training ends with a ZeroDivisionError after {theirs} of {right} steps", zero_division,
    ),
    Deviation(
        *DL, "zero to the zero", "At p = 0 the penalty Lp^p counts what is 0 as 1: all latents, not the active ones.",
        "trainers/p_anneal.py", "the penalty is d_sae, a constant: {theirs} for {right}", zero_to_the_zero,
    ),
    Deviation(
        "OpenAI", "2024-06", "zero row",
        "The normalised error divides by the squared norm of each row, whatever it is.",
        "sparse_autoencoder/loss.py", "one row of zeros makes the loss {theirs}, not {right}", zero_row, "read",
    ),
    Deviation(
        "sparsify", "1.3.3", "kl is a cross-entropy",
        "The end-to-end loss kl leaves the entropy of the clean prediction in, and is logged so.",
        "trainer.py", "a perfect splice is logged as {theirs} nats for {right}; the gradient is right",
        cross_entropy_for_kl, "read",
    ),
)  # fmt: skip
"""Of penalties and errors."""
