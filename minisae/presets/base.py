"""What a preset is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Options = Mapping[str, Any]
ITSELF = "the threshold is trained as itself; the paper trains its logarithm"
"""A known deviation of JumpReLU in two libraries."""


class Sizes(NamedTuple):
    """What the options of a preset may depend on."""

    d_in: int
    """Width of a row of data."""
    d_sae: int
    """Number of latents."""
    steps: int
    """Optimiser steps."""
    batch_size: int
    """Rows a step."""
    dtype: str = "float32"
    """Of the parameters."""


class Preset(NamedTuple):
    """A library's way of training a variant: its loss, optimiser, schedules, dead rule and threshold."""

    name: str
    """``library-version/variant``, what ``--preset`` takes."""
    source: str
    """The library's class or file that it follows."""
    variant: str
    """A name of :data:`minisae.sae.VARIANTS`."""
    options: Callable[[Sizes], Options]
    """Fields of the variant's ``Config`` and of the ``Recipe`` that are not at their defaults."""
    batch_size: int = 2048
    """The library's rows a step; a library that leaves that to its user has ours."""
    known: tuple[str, ...] = ()
    """What in the library departs from the paper of the variant and is reproduced here, a line each."""
    apart: tuple[str, ...] = ()
    """What a run here does not have in common with one of the library, a line each."""
    following: Callable[[Sizes, Options], Options] = lambda sizes, asked: {}
    """Fields as in ``options`` that follow from what is asked beside the preset, and win over it."""


def first_k(name: str, sizes: Sizes) -> int | None:
    """Return the k with which annealing starts in the library of this preset, if it has annealing."""
    if name.startswith("dictionary_learning"):
        return sizes.d_in
    if name.startswith("sparsify"):
        return min(sizes.d_sae, 10 * sizes.d_in)
    return None


def scaled_rate(top: float, d_sae: int) -> float:
    """Return ``top / √(d_sae / 2¹⁴)``, the rate that dictionary_learning and sparsify take from the dictionary."""
    return float(top / (d_sae / 2**14) ** 0.5)


def decay_after_warmup(warmup: int, steps: int) -> float:
    """Return the share of the steps at which a fall begins that follows the warm-up at once."""
    return min(1.0, warmup / steps)
