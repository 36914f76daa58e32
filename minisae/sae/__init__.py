"""Sparse autoencoders: one module a variant, listed in :data:`VARIANTS`."""

from types import ModuleType

from minisae.errors import InputError
from minisae.sae import batch_topk, relu, topk

VARIANTS: dict[str, ModuleType] = {"relu": relu, "topk": topk, "batch_topk": batch_topk}


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
