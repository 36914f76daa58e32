"""Kernels for the pseudo-derivative of a step: how near its edge an entry must be to have a say in where the edge lies.

Each is a symmetric ``K(u)`` whose integral is 1; a bandwidth ε makes it ``K(z / ε) / ε``. The list is that of
overcomplete 0.3, with its half-width ``ε / 2`` (the cosine reaches ``ε``). There the Gaussian integrates to ½ and
Silverman's to 2, and what multiplies a slope has another ``1 / ε``, except for the cosine: :func:`overcomplete_factor`.
Silverman's is negative in places. Letters: n rows, d_sae.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from minisae.backend import Array, namespace

KernelName = Literal[
    "rectangle", "triangular", "epanechnikov", "quartic", "cosine", "gaussian", "cauchy", "silverman"
]  # fmt: skip
"""The first is the paper's (Rajamanoharan et al. 2024b, section 3)."""


def _rectangle(u: Array) -> Array:
    return (abs(u) < 0.5).astype(u.dtype)


def _triangular(u: Array) -> Array:
    return 2 * namespace(u).maximum(1 - 2 * abs(u), 0)


def _epanechnikov(u: Array) -> Array:
    return 1.5 * namespace(u).maximum(1 - 4 * u * u, 0)


def _quartic(u: Array) -> Array:
    return 1.875 * namespace(u).maximum(1 - 4 * u * u, 0) ** 2


def _cosine(u: Array) -> Array:
    xp = namespace(u)
    return (1 + xp.cos(np.pi * xp.clip(u, -1, 1))) / 2


def _gaussian(u: Array) -> Array:
    return namespace(u).exp(-2 * u * u) * (2 / np.pi) ** 0.5


def _cauchy(u: Array) -> Array:
    return 2 / np.pi / (1 + 4 * u * u)


def _silverman(u: Array) -> Array:
    xp, t = namespace(u), abs(u) * 2**0.5  # (n, d_sae)
    return xp.exp(-t) * xp.sin(t + np.pi / 4)


KERNELS: dict[str, Callable[[Array], Array]] = dict(
    zip(
        get_args(KernelName),
        (_rectangle, _triangular, _epanechnikov, _quartic, _cosine, _gaussian, _cauchy, _silverman),
        strict=True,
    )
)
"""By name."""


def overcomplete_factor(kernel: str, bandwidth: float) -> float:
    """Return how many times too large the pseudo-derivatives of overcomplete 0.3 are, by which they may be reproduced.

    Its rectangle has its two end points too, which is not.

    Examples
    --------
    >>> [overcomplete_factor(kernel, 0.5) for kernel in ("rectangle", "gaussian", "silverman", "cosine")]
    [2.0, 1.0, 4.0, 1.0]
    """
    return 1.0 if kernel == "cosine" else {"gaussian": 0.5, "silverman": 2.0}.get(kernel, 1.0) / bandwidth


def step_slope_ste(pre: Array, theta: Array, *, kernel: str, bandwidth: float, scale: float = 1.0) -> Array:
    """Return the pseudo-derivative of ``1[pre > θ]`` with respect to ``pre``, ``(n, d_sae)``; minus it: to ``θ``.

    ``K((pre − θ) / ε) / ε``. Defined, not derived: the step is flat wherever it has a derivative. It is the exact
    derivative of the step smoothed by the kernel (Rajamanoharan et al. 2024b, sections 3 and 4).

    Parameters
    ----------
    pre : pre-activations ``(n, d_sae)``
    theta : thresholds θ ``(d_sae,)``
    kernel : a name of :data:`KERNELS`
    bandwidth : ε, above 0, in the unit of ``pre``
    scale : what all is multiplied by
    """
    u = (pre - theta[..., None, :]) / bandwidth  # (n, d_sae)
    return KERNELS[kernel](u) * (scale / bandwidth)


def jump_slopes_ste(
    active: Array,
    theta: Array,
    d_f: Array,
    d_gate: Array,
    edges: tuple[Array, Array],
    *,
    into_pre: bool,
) -> tuple[Array, Array]:
    """Return the slopes at ``pre (n, d_sae)`` and ``θ (d_sae,)`` of a gate ``1[pre > θ]`` and a code ``pre · gate``.

    Defined, not derived (Rajamanoharan et al. 2024b, section 3): the code passes its slope to ``pre`` where it is
    active, which is exact; the step passes ``(θ d_f + d_gate) K((pre − θ) / ε) / ε`` to ``θ`` with a minus.

    Parameters
    ----------
    active : where the code is ``pre`` and not 0, ``(n, d_sae)``
    theta : thresholds θ ``(d_sae,)``
    d_f, d_gate : slopes at code and gate, ``(n, d_sae)``, or numbers
    edges : what :func:`step_slope_ste` gives for code and gate, each ``(n, d_sae)``: the same, but in some conventions
    into_pre : let the step pass its slope to ``pre`` too (Anthropic, January 2025 update)
    """
    through = theta[..., None, :] * d_f * edges[0] + d_gate * edges[1]  # (n, d_sae)
    d_pre = d_f * active  # (n, d_sae)
    return (d_pre + through if into_pre else d_pre), -through.sum(axis=-2)
