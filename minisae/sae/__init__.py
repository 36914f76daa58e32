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
    derived                          parameters that follow from others, such as a dictionary of mixed points
    before_step                      what a training step does to the parameters before its forward pass
    units                            UNITS, where the units of an option or of state depend on the configuration
    FRACTIONAL_K                     k need not be whole
    at_step                          the configuration as it stands at a step, where it changes in training
    MOVING                           options that ``at_step`` sets, and nobody else
    check_asked                      refuse options that make no sense only if somebody asks for them
    sizes                            options that follow from the widths of what a row of data holds side by side
    row_width, split                 a row of data holds input and target: its width, and the two parts of rows
    skip                             what a reconstruction has of the input past the code
    folded                           the same autoencoder as it is shipped, selecting by pre-activations alone
    row_penalty                      what a penalty on the code adds to the loss of each row, for resampling
    SAELENS, to_saelens, from_saelens     what SAELens calls it
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from minisae.backend import Array
from minisae.errors import InputError
from minisae.sae import (
    abs_topk,
    archetypal,
    batch_topk,
    crosscoder,
    gated,
    group_max,
    jumprelu,
    jumprelu_skip_transcoder,
    jumprelu_transcoder,
    matching_pursuit,
    matryoshka,
    multi_topk,
    p_anneal,
    relu,
    skip_transcoder,
    tied,
    topk,
    transcoder,
)

VARIANTS: dict[str, ModuleType] = {
    "relu": relu,
    "gated": gated,
    "tied": tied,
    "p_anneal": p_anneal,
    "topk": topk,
    "batch_topk": batch_topk,
    "multi_topk": multi_topk,
    "group_max": group_max,
    "abs_topk": abs_topk,
    "matryoshka": matryoshka,
    "jumprelu": jumprelu,
    "matching_pursuit": matching_pursuit,
    "archetypal": archetypal,
    "transcoder": transcoder,
    "skip_transcoder": skip_transcoder,
    "jumprelu_transcoder": jumprelu_transcoder,
    "jumprelu_skip_transcoder": jumprelu_skip_transcoder,
    "crosscoder": crosscoder,
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


def sizes(module: ModuleType, widths: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``d_in`` and the options that follow from the widths of what a row of data holds side by side."""
    return module.sizes(widths, options) if hasattr(module, "sizes") else {"d_in": sum(widths)}


def units(module: ModuleType, cfg: Any) -> Mapping[str, float]:
    """Return the power of the activations' unit in each parameter, state and option that has one."""
    found: Mapping[str, float] = module.units(cfg) if hasattr(module, "units") else module.UNITS
    return found


def row_width(module: ModuleType, cfg: Any) -> int:
    """Return the width of a row of data: ``d_in``, and that of the target where the variant has one of its own."""
    return int(module.row_width(cfg)) if hasattr(module, "row_width") else int(cfg.d_in)


def split(module: ModuleType, rows: Array, cfg: Any) -> tuple[Array, Array]:
    """Return input ``(n, d_in)`` and target of rows of data; the same array twice for an autoencoder."""
    return module.split(rows, cfg) if hasattr(module, "split") else (rows, rows)


def reconstruct(module: ModuleType, params: Mapping[str, Array], f: Any, x: Array) -> Array:
    """Return the reconstruction from a code ``f (n, d_sae)`` and, for a skip connection, its input ``x (n, d_in)``."""
    x_hat = module.decode(params, f)  # (n, d_out)
    return x_hat + module.skip(params, x) if hasattr(module, "skip") else x_hat
