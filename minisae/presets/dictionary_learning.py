"""dictionary_learning 2025-08: unit decoder rows, projected gradients, warm-ups that begin with a step of zero."""

import numpy as np

from minisae.presets.base import ITSELF, Options, Preset, Sizes, scaled_rate
from minisae.sae import matryoshka, nesting

FIRST = "the rate is 0 on the first step and reaches its top a step late; so does the weight of a penalty"
START = "the start is drawn otherwise; its scale is the same"
DEAD = "AuxK is divided by the variance of the residual beside an error that is not divided: it weighs little"
MEDIAN = (
    "b_dec starts at the median of a sample as large as a batch, there of the first batch; its iteration stops sooner"
)
RESAMPLED = (
    "resampling is off, as there; on: resample=dictionary_learning lr_warmup_again=true and resample_after= the rows "
    "of just over half of resample_every steps; its rows are other ones than those of the step"
)
LATE = "with k_anneal (from k = d_in on) each k comes a step later there, cut to a whole number"
CASTS = "thresholds and parts of losses are computed in float32 there whatever the dtype"


def _schedule(s: Sizes) -> Options:
    """Return 1000 steps of warm-up, or fewer where the run is shorter: the source refuses such a run."""
    return {
        "lr_warmup": min(1000, s.steps - 1), "lr_warmup_begins": "zero", "lr_decay": "constant",
        "b_dec_start": "zero",
    }  # fmt: skip


def _penalised(s: Sizes) -> Options:
    return {**_schedule(s), "sparsity_warmup": min(2000, s.steps - 1), "sparsity_warmup_begins": "zero"}


def _clipped(s: Sizes) -> Options:
    """Return what the trainers with projection outside of the optimiser do: ε in both norms, and clipping."""
    eps = float(np.finfo(s.dtype).eps)
    return {"clip": 1.0, "project_eps": 1e-6, "normalise_eps": eps}


def _relu(s: Sizes) -> Options:
    return {**_penalised(s), "lr": 1e-3, "l1": 0.1, "start_norm": 0.1, "resample_when": "one_later"}


def _april(s: Sizes) -> Options:
    return {**_relu(s), "resample_when": "multiple", "clip": 1.0, "decoder": "free", "l1_weight": "decoder_norm"}


def _gated(s: Sizes) -> Options:
    return {**_penalised(s), "lr": 5e-5, "l1": 0.1, "beta1": 0.0}


def _p_anneal(s: Sizes) -> Options:
    """Return p from 1 in ten steps from step 15 000 on, or from the middle of a shorter run."""
    own = {"p_root": True, "p_start": 1.0, "p_end": 0.2, "p_count": 10, "queue": 10}
    return {**_penalised(s), "lr": 1e-3, "l1": 0.1, "start_norm": 0.1, "anneal_start": min(15_000, s.steps // 2), **own}


def _jumprelu(s: Sizes) -> Options:
    own = {"penalty": "target_l0", "target": 20.0, "target_of": "batch", "bandwidth": 1e-3, "first_threshold": 1e-3}
    own |= {"step_sees": "code", "below_zero": "keep", "subtract_b_dec": False}
    return {**_penalised(s), **_clipped(s), "lr": 7e-5, "l1": 1.0, "beta1": 0.0, **own}


def _auxk(s: Sizes) -> Options:
    """Return what the TopK family shares: a latent is dead after ten million rows, this batch counted."""
    return {
        **_schedule(s), **_clipped(s), "lr": scaled_rate(2e-4, s.d_sae), "b_dec_start": "median",
        "init_rows": s.batch_size, "dead_after": 10_000_000, "dead_judged": "with_batch", "auxk": 1 / 32,
        "auxk_normaliser": "residual_variance",
    }  # fmt: skip


def _topk(s: Sizes) -> Options:
    return {**_auxk(s), "relu": "before"}


def _batch_topk(s: Sizes) -> Options:
    own = {"threshold_rule": "from_first", "threshold_decay": 0.999, "threshold_start": 1001}
    return {**_auxk(s), **own}


def _matryoshka(s: Sizes) -> Options:
    """Return BatchTopK's, with the mean over levels of errors that are already weighted by one over their number."""
    return {**_batch_topk(s), "levels": "mean", "level_weights": _shares(matryoshka.Config(s.d_in, s.d_sae))}


def _shares(cfg: matryoshka.Config) -> tuple[float, ...]:
    n_levels = len(matryoshka.widths(cfg))
    return (1 / n_levels,) * n_levels


def _level_weights(s: Sizes, asked: Options) -> Options:
    """Return the weights of the levels for prefixes that are asked for."""
    if "prefixes" not in asked:
        return {}
    given = asked["prefixes"]
    cfg = matryoshka.Config(s.d_in, s.d_sae, prefixes=tuple(given) if isinstance(given, list) else given)
    nesting.check_config(cfg)
    return {"level_weights": _shares(cfg)}


PRESETS = (
    Preset(
        "dictionary_learning-2025-08/relu", "StandardTrainer", "relu", _relu, 2048,
        (FIRST, "decoder rows start at a norm of 0.1 and are 1 from the first step on"), (START, RESAMPLED),
    ),
    Preset(
        "dictionary_learning-2025-08/relu-april", "StandardTrainerAprilUpdate", "relu", _april, 2048, (FIRST,),
        (START,),
    ),
    Preset("dictionary_learning-2025-08/gated", "GatedSAETrainer", "gated", _gated, 2048, (FIRST,), (START,)),
    Preset(
        "dictionary_learning-2025-08/p_anneal", "PAnnealTrainer", "p_anneal", _p_anneal, 2048,
        (FIRST, "the penalty is the p-norm of a row, not the sum of its p-th powers"),
        (START, CASTS, "p ends at 0.2: at 0, the source's default, its p-th root divides by zero"),
    ),
    Preset(
        "dictionary_learning-2025-08/jumprelu", "JumpReluTrainer", "jumprelu", _jumprelu, 2048,
        (
            FIRST, ITSELF,
            "the penalty's pseudo-derivative looks at the code: only entries above the threshold, and all that are 0 "
            "while it is below half a bandwidth",
            "a threshold below 0 lets negative codes pass",
        ),
        (START, CASTS),
    ),
    Preset(
        "dictionary_learning-2025-08/topk", "TopKTrainer", "topk", _topk, 2048,
        (FIRST, DEAD, "a selected zero counts as having fired"),
        (START, CASTS, MEDIAN, LATE, "no threshold is tracked; the source tracks one, and encodes with the k largest"),
    ),
    Preset(
        "dictionary_learning-2025-08/batch_topk", "BatchTopKTrainer", "batch_topk", _batch_topk, 2048,
        (FIRST, DEAD, "the running threshold is left alone for 1001 steps and starts as one batch's smallest value"),
        (START, CASTS, MEDIAN, LATE),
    ),
    Preset(
        "dictionary_learning-2025-08/matryoshka", "MatryoshkaBatchTopKTrainer", "matryoshka", _matryoshka, 2048,
        (FIRST, DEAD, "errors are weighted by one over the number of levels and then averaged over them: twice"),
        (
            START, CASTS, MEDIAN, LATE,
            "the shares of the levels have no default there; here they are the paper's, or those of prefixes=",
        ),
        _level_weights,
    ),
)  # fmt: skip
"""What the git version of August 2025 trains."""
