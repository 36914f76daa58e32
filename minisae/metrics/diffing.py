"""Model diffing with a crosscoder: which latents two models (or layers) share, and which only one of them has.

    relative_j = ½ (1 + (‖W_b,j‖ − ‖W_a,j‖) / max(‖W_a,j‖, ‖W_b,j‖))    0: in a only, ½: as strong in both, 1: in b only
    cosine_j   = W_a,j · W_b,j / (‖W_a,j‖ ‖W_b,j‖)                      whether a shared latent means the same in both

Relative decoder norms: Lindsey et al. 2024, "Sparse Crosscoders", section "Model Diffing"; in this form: Minder et al.
2025, arXiv:2504.02922, who also show that an L1 penalty can push the weaker norm of a shared latent to 0, so that it
looks exclusive. The thresholds are options. Letters: d_sae latents, d_a, d_b widths of the two sources.
"""

from collections.abc import Sequence
from typing import NamedTuple

from minisae.backend import Array, namespace
from minisae.errors import InputError
from minisae.metrics.geometry import unit_rows
from minisae.ops import row_norms

EXCLUSIVE = 0.1
"""A latent belongs to one source alone whose relative norm is within this of 0 or 1."""
SHARED = 0.1
"""A latent is shared whose relative norm is within this of ½."""


class Diffing(NamedTuple):
    """What became of each latent, arrays ``(d_sae,)``."""

    relative: Array
    """Relative decoder norm, 0 (in a only) to 1 (in b only); ½ too for a latent that neither has."""
    cosine: Array | None
    """Cosine of the two decoders, 0 where one is zero; ``None`` if the sources have different widths."""
    only_a: Array
    """bool: in a alone."""
    only_b: Array
    """bool: in b alone."""
    shared: Array
    """bool: about as strong in both. The rest is in between, or in neither."""


def norm_shares(parts: Sequence[Array]) -> Array:
    """Return the share of each source in the sum of a latent's decoder norms ``(n_sources, d_sae)``.

    ``parts`` are the sources' decoders ``(d_sae, d_s)``, as :func:`minisae.sae.crosscoder.sources` cuts them; a latent
    of norm 0 everywhere has shares of 0. For several layers this is a latent's profile over them (Lindsey et al. 2024).
    """
    xp = namespace(*parts)
    norms = xp.stack([row_norms(part) for part in parts])  # (n_sources, d_sae)
    total = norms.sum(axis=0)  # (d_sae,)
    return norms / xp.where(total > 0, total, 1)


def relative_norms(W_a: Array, W_b: Array) -> Array:
    """Return the relative decoder norm of each latent ``(d_sae,)``, for decoders ``(d_sae, d_a)`` and ``(d_sae, d_b)``.

    0: in a only, ½: as strong in both (or in neither), 1: in b only.
    """
    xp = namespace(W_a, W_b)
    a, b = row_norms(W_a), row_norms(W_b)  # (d_sae,) each
    top = xp.maximum(a, b)  # (d_sae,)
    return 0.5 * (1 + (b - a) / xp.where(top > 0, top, 1))


def diff_models(W_a: Array, W_b: Array, *, exclusive: float = EXCLUSIVE, shared: float = SHARED) -> Diffing:
    """Tell shared latents from exclusive ones by their decoder norms in two sources.

    Parameters
    ----------
    W_a, W_b : decoders ``(d_sae, d_a)`` and ``(d_sae, d_b)``, of one crosscoder; sources trained at one scale
    exclusive : largest distance of the relative norm from 0 or 1
    shared : largest distance of the relative norm from ½

    Raises
    ------
    InputError
        If the two do not have the same latents, or the ranges overlap.

    Examples
    --------
    >>> import numpy as np
    >>> W_a, W_b = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
    >>> found = diff_models(W_a, W_b)
    >>> found.relative, found.cosine
    (array([0.5, 0. , 1. ]), array([0., 0., 0.]))
    >>> found.shared, found.only_a, found.only_b
    (array([ True, False, False]), array([False,  True, False]), array([False, False,  True]))
    """
    if W_a.ndim != 2 or W_b.ndim != 2 or len(W_a) != len(W_b):
        raise InputError(f"W_b: expected the decoder of the same latents as W_a {W_a.shape}, got shape {W_b.shape}")
    if not (exclusive >= 0 and shared >= 0 and exclusive + shared < 0.5):
        raise InputError(f"exclusive, shared: expected distances that add up below 0.5, got {exclusive}, {shared}")
    relative = relative_norms(W_a, W_b)  # (d_sae,)
    same_width = W_a.shape[1] == W_b.shape[1]
    there = row_norms(W_a) + row_norms(W_b) > 0  # (d_sae,)
    return Diffing(
        relative,
        (unit_rows(W_a) * unit_rows(W_b)).sum(axis=1) if same_width else None,
        relative <= exclusive,
        relative >= 1 - exclusive,
        there & (abs(relative - 0.5) <= shared),
    )
