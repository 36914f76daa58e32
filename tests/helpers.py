"""Small things that several test modules share."""

import numpy as np

from minisae.cache.stream import ArraySource

__all__ = ["ArraySource", "perturbed"]


def perturbed(variant, cfg, rng):
    """Float64 parameters away from every special value: b_dec ≠ 0, b_enc ≠ 0, W_enc ≠ W_decᵀ, rows not of unit norm."""
    params = variant.init(cfg, rng, dtype=np.float64)
    for p in params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    return params | variant.derived(params, cfg) if hasattr(variant, "derived") else params
