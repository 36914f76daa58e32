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
    "relu": Switch(("after", "before"), "whether ReLU follows or precedes the selection of the k largest"),
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
    "threshold_rule": Switch(
        ("corrected", "from_zero", "from_first"),
        "how the running mean of the smallest kept value starts: bias-corrected, at 0, or at its first value",
    ),
    "aux_decoder": Switch(("frozen", "trained"), "whether the gate's own reconstruction trains the decoder"),
    "penalty": Switch(
        ("l0", "tanh", "target_l0"),
        "what the penalty counts: active latents, a tanh of the code, or the distance of L0 from a target",
    ),
    "target_of": Switch(("rows", "batch"), "whether the L0 of each row or the mean L0 of the batch has the target"),
    "pre_act_reach": Switch(("all", "dead"), "whether the pre-activation loss counts all latents or the dead ones"),
    "ste_reach": Switch(
        ("threshold", "everything"),
        "whether the step's pseudo-derivative trains the threshold alone or the encoder too",
    ),
    "threshold_as": Switch(("itself", "log"), "whether a trained threshold is stored as itself or as its logarithm"),
    "decoder": Switch(("unit", "free"), "whether decoder rows are kept at unit norm"),
    "order": Switch(
        ("project-clip-step-normalise", "clip-project-step-normalise", "normalise-project-clip-step"),
        "in what order projection, clipping, optimiser step and renormalisation happen",
    ),
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
