"""Training steps: schedules, order, counters, starts, resampling."""

import numpy as np

from minisae.backend import Array
from minisae.cache.stream import array_source
from minisae.dead import count_idle, resample
from minisae.ledger.base import Deviation, Shown, params_of
from minisae.ops import geometric_median, row_norms
from minisae.optim import adam_init
from minisae.recipe import Recipe
from minisae.sae import relu
from minisae.schedules import warmup
from minisae.train import input_scale, start, step

DL = ("dictionary_learning", "0.1.0, 2025-08")
ROW = np.array([[1.0, 1.0]], np.float32)


def _norm_after(recipe: Recipe) -> float:
    """Return the norm of the decoder row (1, 0), or ``start_norm`` times it, after one step on the row (1, 1)."""
    run = start(array_source(ROW), "relu", relu.Config(2, 1, l1=0.0), recipe)
    for name, value in params_of([[1], [0]], [[1, 0]]).items():
        run.params[name][...] = value * (recipe.start_norm if name == "W_dec" else 1)
    return float(row_norms(step(run, ROW.astype(np.float64))[0].params["W_dec"])[0])


def _recipe() -> Recipe:
    return Recipe(steps=1, batch_size=1, lr=0.1, lr_decay="constant", dtype="float64", init_rows=1, clip=0.0)


def off_norm() -> Shown:
    """The norm of a decoder row that is saved after one step."""
    right, theirs = (
        _norm_after(_recipe()._replace(order=order))
        for order in ("project-clip-step-normalise", "normalise-project-clip-step")
    )
    return Shown("norm of a saved row", "row (1, 0), one step of Adam at rate 0.1", right, theirs)


def rate_of_zero() -> Shown:
    """The rate of the first step, over its top."""
    right, theirs = (warmup(0, 1000, begins=begins) for begins in ("first_step", "zero"))
    return Shown("rate on step 0, over its top", "1000 steps of warm-up", right, theirs)


def lifted() -> Shown:
    """By what a first step of rate 0 multiplies what a latent writes."""
    recipe = _recipe()._replace(lr_warmup=10, lr_warmup_begins="zero", steps=20)
    right, theirs = (_norm_after(recipe._replace(start_norm=norm)) / norm for norm in (1.0, 0.1))
    return Shown(
        "decoder norm after step 0, over before", "rate 0 on step 0, rows that start at norm 0.1", right, theirs
    )


def logging_trains() -> Shown:
    """For how many rows a silent latent is idle after one step of 8 rows that is logged."""
    idle, fired = np.zeros(1, np.int64), np.zeros(1, bool)
    once = count_idle(idle, fired, 8)  # (1,)
    return Shown("rows idle", "one step of 8 rows, logged", float(once[0]), float(count_idle(once, fired, 8)[0]))


def evaluated_in_other_units() -> Shown:
    """The norm of a row as it reaches the autoencoder, in training and in evaluation."""
    x = np.full((3, 16), 0.5)  # (3, 16)
    right, theirs = (
        float(np.linalg.norm(x[0] * input_scale(x.astype(np.float32), how))) for how in ("mean_square", "mean_norm")
    )
    return Shown("norm of the rows", "d_in 16, rows of one norm: training; evaluation", right, theirs)


def median_at_a_row() -> Shown:
    """The geometric median of rows one of which is their mean."""
    x = np.array([[-1.0], [0.0], [1.0]])  # (3, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 1 / abs(x[:, 0] - x.mean())  # (3,)
        theirs = float((weight / weight.sum()) @ x[:, 0])
    return Shown("geometric median", "rows −1, 0, 1", float(geometric_median(x)[0]) + 0.0, theirs)


def _revived() -> tuple[Array, Array, Array]:
    """Return an encoder's rows ``(2, 2)`` before and after latent 1 was resampled from the row (3, 4), and that row."""
    params, x = params_of(np.eye(2), np.eye(2), b_enc=[-1, -1]), np.array([[3.0, 4.0]])
    before, dead = params["W_enc"].T.copy(), np.array([False, True])
    resample(
        "bricken", relu, params, adam_init(params), relu.Config(2, 2, l1=0.0), dead, lambda: [x],
        np.random.default_rng(0),
    )  # fmt: skip
    return before, params["W_enc"].T, x[0]


def row_not_normalised() -> Shown:
    """The norm of a resampled encoder row."""
    before, after, row = _revived()
    theirs = float(np.linalg.norm(row * 0.2 * np.linalg.norm(before[0])))
    return Shown(
        "norm of the new encoder row",
        "row (3, 4), the living encoder row of norm 1",
        float(np.linalg.norm(after[1])),
        theirs,
    )


def writes_to_a_copy() -> Shown:
    """How far resampling moves the encoder."""
    before, after, row = _revived()
    copied, dead = before.copy(), np.array([False, True])
    copied[dead][:1] = row * 0.2  # an index by a mask is a copy: this is the library's line
    return Shown(
        "largest change of the encoder",
        "row (3, 4), the living encoder row of norm 1",
        float(abs(after - before).max()),
        float(abs(copied - before).max()),
    )


ENTRIES = (
    Deviation(
        "sparsify", "1.3.3", "saved rows off unit norm",
        "Decoder rows are normalised before the forward pass, not after the step; signum's averages are not at all.",
        "trainer.py, sparse_coder.py", "what is saved is one step off: norm {theirs}", off_norm, "read",
    ),
    Deviation(
        "OpenAI", "2024-06", "saved rows off unit norm", "Decoder rows are normalised before the step, not after.",
        "sparse_autoencoder/train.py", "what is saved is one step off: norm {theirs}", off_norm, "read",
    ),
    Deviation(
        *DL, "first step of rate 0", "The rate is t/w of its top at step t, and the weight of a penalty too.",
        "trainers/trainer.py", "the first batch trains nothing, but counts in Adam's bias correction", rate_of_zero,
    ),
    Deviation(
        *DL, "decoder lifted to norm 1",
        "StandardTrainer starts both weights at norm 0.1, and its first step, of rate 0, normalises the decoder to 1.",
        "trainers/standard.py, trainers/trainer.py",
        "a latent writes {theirs} times as much from the second step on, its encoder stays", lifted,
    ),
    Deviation(
        *DL, "logging trains",
        "Each log calls the trainer's loss, which counts idle rows and moves thresholds and queues.",
        "training.py, log_stats", "a latent is dead sooner the more is logged: {theirs} rows idle for {right}",
        logging_trains,
    ),
    Deviation(
        *DL, "evaluated in other units",
        "normalize_batch of the evaluation brings rows to a mean norm of √d, training to a mean squared norm of 1.",
        "evaluation.py; training.py, get_norm_factor",
        "an autoencoder is evaluated on rows √d too large: {theirs} for {right}", evaluated_in_other_units, "read",
    ),
    Deviation(
        *DL, "geometric median at a row", "Weiszfeld's weights 1/‖x − m‖ have no ε.", "trainers/top_k.py",
        "where the iterate meets a row, b_dec starts as {theirs} for {right}", median_at_a_row,
    ),
    Deviation(
        *DL, "resampled rows keep their length",
        "StandardTrainer scales the encoder row by 0.2 of the living ones' mean norm without normalising it first.",
        "trainers/standard.py", "its norm is that times ‖x‖: {theirs} for {right}", row_not_normalised,
    ),
    Deviation(
        *DL, "resampling writes to a copy",
        "PAnnealTrainer assigns to W[dead][:n], and W[dead] is a copy; gated annealing would fail on a bias that it "
        "does not have.",
        "trainers/p_anneal.py, trainers/gated_anneal.py", "resampling changes weights by {theirs} for {right}",
        writes_to_a_copy,
    ),
)  # fmt: skip
"""Of training."""
