"""The switches in which sparse-autoencoder libraries differ, each a named option with the paper's way as default.

Every field of a variant's ``Config`` or of the training ``Recipe`` that bears one of these names takes one of these
values; :func:`check` refuses any other.
"""

from typing import NamedTuple

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


def check_number(name: str, value: float, *, least: float, most: float = float("inf"), whole: bool = False) -> None:
    """Refuse a number outside ``[least, most]``, a NaN, and a fraction where ``whole`` is asked.

    Raises
    ------
    InputError
        Naming the option, its range, and what came.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= most
        or (whole and not isinstance(value, int))
    ):
        kind = "a whole number" if whole else "a number"
        top = f" and at most {most:g}" if most < float("inf") else ""
        raise InputError(f"{name}: expected {kind} of at least {least:g}{top}, got {value!r}")
