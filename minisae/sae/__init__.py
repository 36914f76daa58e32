"""Sparse autoencoders: one module a variant, listed in :data:`VARIANTS`.

What the rest of the library asks of a variant's module:

    SOURCE, SHAPES, UNITS            the publication; sizes of the parameters; which of them have the activations' unit
    Config, Out, Cache               options (``d_in, d_sae, …``); what a loss may touch; what backward needs
    check_config, init               refuse options that make no sense; parameters at the start
    encode, decode                   what is shipped
    forward, backward, objective     what is trained
    fired_latents                    who fired in a batch

and, where there is such a thing:

    STATE, after_step                state beside the parameters, and how a training step moves it
    FRACTIONAL_K                     k need not be whole
    row_penalty                      what a penalty on the code adds to the loss of each row, for resampling
    SAELENS, to_saelens, from_saelens     what SAELens calls it
"""

from types import ModuleType

from minisae.errors import InputError
from minisae.sae import batch_topk, gated, jumprelu, relu, tied, topk

VARIANTS: dict[str, ModuleType] = {
    "relu": relu,
    "gated": gated,
    "tied": tied,
    "topk": topk,
    "batch_topk": batch_topk,
    "jumprelu": jumprelu,
}


def variant(name: str) -> ModuleType:
    """Return the module of a variant.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in VARIANTS:
        raise InputError(f"variant: expected one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]
