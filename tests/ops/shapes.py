"""Data on which a twin is compared with its formula: pre-activations of every shape class, and codes made from them."""

import numpy as np
from hypothesis import strategies as st

from minisae.ops import reference_ops

DTYPES = (np.float32, np.float64)
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
"""Relative to the largest entry: sums are taken in another order."""
KINDS = ("normal", "sparse", "ties", "negative", "zeros", "nan", "infinite")


def pre_activations(kind, n, d_sae, dtype, seed):
    """Pre-activations ``(n, d_sae)`` of one kind."""
    rng = np.random.default_rng(seed)
    pre = rng.standard_normal((n, d_sae))
    if kind == "sparse":
        pre -= 2.3
    if kind == "ties":
        pre = np.round(pre)
    if kind == "negative":
        pre[rng.random(n) < 0.5] = -1 - np.abs(pre[0])
    if kind == "zeros":
        pre *= rng.random(n)[:, None] < 0.5
    if kind in ("nan", "infinite"):
        bad = (np.nan,) if kind == "nan" else (np.inf, -np.inf)
        pre[rng.random(pre.shape) < 0.03] = rng.choice(bad)
        pre[rng.random(n) < 0.2] = bad[0]
    return pre.astype(dtype)


cases = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from((1, 2, 7, 131)),
    st.sampled_from((1, 5, 37, 128, 211, 1031)),
    st.sampled_from(DTYPES),
    st.integers(0, 999),
)
"""Kind, n, d_sae, dtype, seed."""


def both(op, *args, **options):
    """What the twin and the formula of an operation give."""
    fast = op(*args, **options)
    with reference_ops():
        return fast, op(*args, **options)


def close(a, b, dtype, scale=None):
    """Compare within the tolerance, relative to the largest entry."""
    scale = scale if scale is not None else max(1.0, float(np.abs(b).max(initial=0)))
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * scale)
