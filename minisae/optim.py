"""Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), gradient clipping and averaged weights, by hand.

    m ← β₁ m + (1 − β₁) g              v ← β₂ v + (1 − β₂) g²
    m̂ = m / (1 − β₁ᵗ)                  v̂ = v / (1 − β₂ᵗ)
    after_correction    p ← p − lr · m̂ / (√v̂ + ε)                         the algorithm as printed; PyTorch
    before_correction   p ← p − lr · √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε)   the paper's section 2, "ε hat"; TensorFlow

The two differ by the size of ε only: ε hat equals ε · √(1 − β₂ᵗ).
"""

import math
from typing import NamedTuple

import numpy as np

from minisae.backend import Array, namespace
from minisae.errors import InputError
from minisae.ops.dispatch import twin

EPS_CONVENTIONS = ("after_correction", "before_correction")
BLOCK = 65_536


class AdamState(NamedTuple):
    """What Adam remembers: moments by parameter name, laid out like the parameters, and the number of steps taken."""

    m: dict[str, Array]
    v: dict[str, Array]
    t: int


def adam_init(params: dict[str, Array]) -> AdamState:
    """Return zero moments of the parameters' shapes, dtypes and memory order."""

    def zeros() -> dict[str, Array]:
        return {name: namespace(p).zeros_like(p) for name, p in params.items()}

    return AdamState(zeros(), zeros(), 0)


def adam_step(
    params: dict[str, Array],
    grads: dict[str, Array],
    state: AdamState,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_convention: str = "after_correction",
) -> AdamState:
    """Take one step: ``params`` and the moments change in place; the state returned counts one step more.

    Parameters without an entry in ``grads`` stay as they are.

    Raises
    ------
    InputError
        If ``eps_convention`` is unknown, or ``eps`` is zero in the parameters' dtype.
    """
    if eps_convention not in EPS_CONVENTIONS:
        raise InputError(f"eps_convention: expected one of {', '.join(EPS_CONVENTIONS)}, got {eps_convention!r}")
    t = state.t + 1
    root = math.sqrt(1 - beta2**t)
    # Both conventions are p -= rate · m / (√v + floor).
    rate = lr * root / (1 - beta1**t)
    floor = eps * root if eps_convention == "after_correction" else eps
    for name, grad in grads.items():
        p = params[name]
        if eps > 0 and p.dtype.type(eps) == 0:
            raise InputError(f"eps: {eps} is zero in {p.dtype}")
        _adam_update(_flat(p), _flat(grad), _flat(state.m[name]), _flat(state.v[name]), rate, beta1, beta2, floor)
    return AdamState(state.m, state.v, t)


def _flat(a: Array) -> Array:
    """Return a parameter as the matrix that is contiguous in memory, which is the transpose of a feature-major view."""
    if a.ndim >= 2 and not a.flags.c_contiguous:
        a = a.swapaxes(-1, -2)
    return a.reshape(1, -1) if a.flags.c_contiguous else a


def _adam_update_cpu(
    p: Array, grad: Array, m: Array, v: Array, rate: float, beta1: float, beta2: float, floor: float
) -> None:
    """Work in blocks that stay in the second-level cache: one pass over the five arrays, no temporaries of their size."""
    if not (p.shape == grad.shape == m.shape == v.shape) or p.shape[0] != 1:
        _adam_update_formula(p, grad, m, v, rate, beta1, beta2, floor)
        return
    size = min(BLOCK, p.size)
    one, two = np.empty(size, p.dtype), np.empty(size, p.dtype)
    for start in range(0, p.size, BLOCK):
        part = slice(start, start + BLOCK)
        g, m_, v_ = grad[0, part], m[0, part], v[0, part]
        a, b = one[: g.size], two[: g.size]
        m_ *= beta1
        np.multiply(g, 1 - beta1, out=a)
        m_ += a
        v_ *= beta2
        np.multiply(g, g, out=a)
        a *= 1 - beta2
        v_ += a
        np.sqrt(v_, out=a)
        a += floor
        np.multiply(m_, rate, out=b)
        b /= a
        p[0, part] -= b


def _adam_update_formula(
    p: Array, grad: Array, m: Array, v: Array, rate: float, beta1: float, beta2: float, floor: float
) -> None:
    xp = namespace(p)
    m *= beta1
    m += (1 - beta1) * grad
    v *= beta2
    v += (1 - beta2) * (grad * grad)
    p -= rate * m / (xp.sqrt(v) + floor)


_adam_update = twin(cpu=_adam_update_cpu)(_adam_update_formula)


def global_norm(grads: dict[str, Array]) -> Array:
    """Return the Euclidean norm ``()`` of all gradients together."""
    arrays = list(grads.values())
    xp = namespace(*arrays)
    return xp.sqrt(sum(xp.square(g).sum() for g in arrays))


def clip_by_global_norm(grads: dict[str, Array], max_norm: float) -> Array:
    """Scale all gradients in place so that their joint norm is at most ``max_norm``; return the norm before, ``()``."""
    xp = namespace(*grads.values())
    norm = global_norm(grads)  # ()
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)  # ()
    for g in grads.values():
        g *= factor.astype(g.dtype)
    return norm


def ema_update(average: dict[str, Array], params: dict[str, Array], *, decay: float) -> None:
    """Move the averaged weights in place: ``average ← decay · average + (1 − decay) · params``."""
    for name, a in average.items():
        a *= decay
        a += (1 - decay) * params[name]
