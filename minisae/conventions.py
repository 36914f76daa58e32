"""The switches in which sparse-autoencoder libraries differ, each a named option with the paper's way as default.

Every field of a variant's ``Config`` or of the training ``Recipe`` that bears one of these names takes one of these
values; :func:`check` refuses any other.
"""

import math
import numbers
from typing import Any, NamedTuple

from minisae.errors import InputError


class Switch(NamedTuple):
    """One switch."""

    values: tuple[object, ...]
    """What it can be; the first is the default."""
    says: str
    """What it changes."""


SWITCHES = {
    "subtract_b_dec": Switch((True, False), "whether b_dec is subtracted from the input before encoding"),
    "reduction": Switch(("sum", "mean"), "whether the squared error is summed or averaged over d_in"),
    "l1_weight": Switch(("plain", "decoder_norm"), "whether the decoder norm weights the L1 penalty"),
    "source_norms": Switch(
        ("sum", "joint"),
        "whether a crosscoder's penalty weights a latent with the sum of its decoder norms in each source, or with the "
        "norm over all sources",
    ),
    "relu": Switch(("after", "before"), "whether ReLU follows or precedes the selection of the k largest"),
    "selected_zero": Switch(
        ("blocked", "passes"), "whether a slope stops at a selected latent of value 0, as ReLU has it, or passes"
    ),
    "select_by": Switch(
        ("pre", "contribution"),
        "whether the largest pre-activations are selected, or the largest after multiplication by the decoder norm",
    ),
    "mse_normaliser": Switch(("none", "input_variance"), "whether the error is divided by Σ(y − ȳ)² of the batch"),
    "multi_reach": Switch(
        ("latents", "decoder"), "whether the wider loss trains encoder and decoder, or the decoder alone"
    ),
    "auxk_over": Switch(
        ("dead", "unchosen"), "whether AuxK selects among dead latents, or among all that the row did not choose"
    ),
    "auxk_bias": Switch(
        (False, True), "whether AuxK trains b_dec: it stands on both sides of its error, held fixed on the residual's"
    ),
    "auxk_normaliser": Switch(
        ("none", "residual_variance", "input_variance"), "what the auxiliary squared error is divided by"
    ),
    "auxk_reach": Switch(
        ("latents", "decoder", "everything"),
        "what AuxK trains: encoder and decoder of the dead latents, the decoder alone, or through the residual all",
    ),
    "auxk_relu": Switch((True, False), "whether the code of the dead latents passes a ReLU in AuxK"),
    "auxk_few": Switch(
        ("full", "proportional"), "whether AuxK counts in full while fewer latents are dead than it may take"
    ),
    "k_rounding": Switch(
        ("nearest", "down"), "whether k times the rows of a batch is rounded (halves to even) or cut to a whole number"
    ),
    "k_per": Switch(("row", "batch"), "whether k counts active latents a row in the mean, or in the whole batch"),
    "ties": Switch(
        ("lowest", "all"),
        "whether of equal entries at the edge the lowest indices are kept or all, and a value at the threshold too",
    ),
    "threshold_of": Switch(
        ("least_kept", "kth"),
        "what the threshold is the mean of: the smallest positive value kept, or the last one selected, 0 included",
    ),
    "threshold_rule": Switch(
        ("corrected", "from_zero", "from_first"),
        "how the running mean of the smallest kept value starts: bias-corrected, at 0, or at its first value",
    ),
    "levels": Switch(("sum", "mean"), "whether the errors of nested reconstructions are summed or averaged"),
    "auxk_levels": Switch(
        ("last", "each"),
        "whether dead latents explain the last residual, or those new in each nested level its own residual",
    ),
    "match": Switch(("signed", "positive"), "whether a best match below 0 enters a pursuit with its sign, or as 0"),
    "stop_on_repeat": Switch((False, True), "whether the pursuit of a row ends when it chooses a latent again"),
    "aux_decoder": Switch(("frozen", "trained"), "whether the gate's own reconstruction trains the decoder"),
    "penalty": Switch(
        ("l0", "tanh", "target_l0", "l1"),
        "what the penalty counts: active latents, a tanh of the code, the distance of L0 from a target, or the code",
    ),
    "target_of": Switch(("rows", "batch"), "whether the L0 of each row or the mean L0 of the batch has the target"),
    "pre_act_reach": Switch(("all", "dead"), "whether the pre-activation loss counts all latents or the dead ones"),
    "p_root": Switch(
        (False, True), "whether a penalty of p-th powers takes the p-th root of each row's sum: the p-norm"
    ),
    "relative": Switch(
        (False, True), "whether a row's error counts relative to its squared norm, and its penalty relative to its norm"
    ),
    "penalty_reduction": Switch(
        ("mean", "sum"), "whether the penalty is averaged over the rows of a batch or summed: then it grows with them"
    ),
    "norm_slope": Switch(
        (True, False), "whether the slope passes through the normalisation of the dictionary or ends at the unit rows"
    ),
    "step_sees": Switch(
        ("pre", "code", "positive_part"),
        "what the pseudo-derivative looks at: pre-activations; for the penalty the code; or pre-activations above 0",
    ),
    "at_threshold": Switch(("off", "on"), "whether a pre-activation that equals its threshold is active"),
    "below_zero": Switch(
        ("zero", "clamp", "keep"),
        "what a trained threshold below 0 does: counts as 0, is set to 0 before the step, or lets negative codes pass",
    ),
    "kernel_scale": Switch(
        ("unit", "overcomplete"), "whether kernels integrate to 1, or have the factors they have in overcomplete 0.3"
    ),
    "ste_reach": Switch(
        ("threshold", "everything"),
        "whether the step's pseudo-derivative trains the threshold alone or the encoder too",
    ),
    "threshold_as": Switch(("itself", "log"), "whether a trained threshold is stored as itself or as its logarithm"),
    "decoder": Switch(("unit", "free"), "whether decoder rows are kept at unit norm"),
    "order": Switch(
        (
            *("project-clip-step-normalise", "clip-project-step-normalise", "normalise-project-clip-step"),
            *("normalise-forward-project-clip-step", "normalise-forward-normalise-clip-step"),
        ),
        "in what order projection, clipping, optimiser step and renormalisation happen, all after the gradients or "
        "some before the forward pass",
    ),
    "projection": Switch(
        ("exact", "assumes_unit"),
        "whether the projection of the decoder's gradient divides by its rows' own norms or takes them to be 1",
    ),
    "lr_warmup_begins": Switch(
        ("first_step", "zero"), "whether the rate is (t + 1)/w or t/w of its top at step t of w: then 0 on the first"
    ),
    "sparsity_warmup_begins": Switch(
        ("first_step", "zero"), "whether λ is (t + 1)/w or t/w of its top at step t of w: then 0 on the first"
    ),
    "dead_judged": Switch(
        ("before", "with_batch"),
        "whether a latent is dead by what it did before the batch, or with the batch, in which it may fire",
    ),
    "resample_when": Switch(
        ("multiple", "one_later"),
        "whether resampling follows each multiple of resample_every steps, or the step after it, and the first step",
    ),
    "lr_warmup_again": Switch((False, True), "whether the rate rises anew after each resample_every steps"),
    "b_dec_start": Switch(
        ("variant", "median", "mean", "zero"),
        "where b_dec starts: where the variant says, at the geometric median or the mean of a sample, or at 0",
    ),
    "train_b_dec": Switch((True, False), "whether b_dec is trained"),
    "optimiser": Switch(("adam", "signum"), "Adam, or schedule-free sign descent (sparsify)"),
}


def check(name: str, value: object) -> None:
    """Refuse a value that the switch ``name`` does not have.

    Raises
    ------
    InputError
        Naming the switch, its values, and what came.
    """
    values = SWITCHES[name].values
    if not any(value is v or (value == v and type(value) is type(v)) for v in values):
        raise InputError(f"{name}: expected one of {', '.join(map(str, values))}, got {value!r}")


def option(cfg: Any, name: str) -> Any:
    """Return a configuration's value of a switch: the default where the variant does not have it."""
    return getattr(cfg, name, SWITCHES[name].values[0])


def check_number(
    name: str, value: Any, *, least: float, most: float = math.inf, below: float = math.inf, whole: bool = False
) -> None:
    """Refuse what is no number, a number outside ``[least, most]`` or not ``below``, and NaN and infinity.

    Raises
    ------
    InputError
        Naming the option, its range, and what came.
    """
    number = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if number and least <= value <= most and value < below:
        return
    what = "a whole number" if whole else "a number"
    top = f" and at most {most:g}" if most < math.inf else f" and below {below:g}" if below < math.inf else ""
    raise InputError(f"{name}: expected {what} of at least {least:g}{top}, got {value!r}")
