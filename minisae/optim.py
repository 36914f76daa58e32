"""Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), gradient clipping and averaged weights, by hand.

Beside it schedule-free sign descent, see :func:`signum_step`.

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
from minisae.ops.blocks import each, row_blocks
from minisae.ops.dispatch import twin

EPS_CONVENTIONS = ("after_correction", "before_correction")
BLOCK = 65_536
"""Elements updated at a time on a CPU."""


class AdamState(NamedTuple):
    """What Adam remembers: moments by parameter name, laid out like the parameters, and the number of steps taken.

    Schedule-free sign descent keeps its points z in ``m``, and nothing in ``v``.
    """

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
        p, grad, m, v = _flat(p, grad, state.m[name], state.v[name])
        _adam_update(p, grad, m, v, rate, beta1, beta2, floor)
    return AdamState(state.m, state.v, t)


def _flat(*arrays: Array) -> list[Array]:
    """Return views of like-shaped arrays in which the first is contiguous, as single rows where all of them are."""
    # A feature-major parameter is a transposed view.
    turn = arrays[0].ndim >= 2 and not arrays[0].flags.c_contiguous
    views = [a.swapaxes(-1, -2) if turn else a for a in arrays]
    return [a.reshape(1, -1) for a in views] if all(a.flags.c_contiguous for a in views) else views


def _adam_update_cpu(
    p: Array, grad: Array, m: Array, v: Array, rate: float, beta1: float, beta2: float, floor: float
) -> None:
    """Work in blocks that stay in a core's cache: one pass over the four arrays, no temporaries of their size."""
    if p.shape[0] != 1:
        _adam_update_formula(p, grad, m, v, rate, beta1, beta2, floor)
        return

    def work(part: slice) -> None:
        _adam_block(p[0, part], grad[0, part], m[0, part], v[0, part], rate, beta1, beta2, floor)

    each(work, row_blocks(p.size, 1, BLOCK))


def _adam_block(
    p: Array, grad: Array, m: Array, v: Array, rate: float, beta1: float, beta2: float, floor: float
) -> None:
    a = grad * (1 - beta1)  # (size,), the only scratch
    m *= beta1
    m += a
    np.multiply(grad, grad, out=a)
    a *= 1 - beta2
    v *= beta2
    v += a
    np.sqrt(v, out=a)
    a += floor
    np.divide(m, a, out=a)
    a *= rate
    p -= a


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


def signum_init(params: dict[str, Array]) -> AdamState:
    """Return the state of :func:`signum_step` at the start."""
    return AdamState({name: p.copy(order="K") for name, p in params.items()}, {}, 0)


def signum_step(
    params: dict[str, Array], grads: dict[str, Array], state: AdamState, *, lr: float, beta: float = 0.95
) -> AdamState:
    """Take one step of schedule-free sign descent, in place: Defazio et al. 2024, arXiv:2405.15682, section 2.

        x ← y + (1 − 1/β)(z − y)        the average, where the last step left it
        z ← z − lr sign(g)              the gradient is that of y, where the parameters are in training
        x ← x + (z − x) / t             t-th step, of a rate that does not rise
        y ← x + (1 − β)(z − x)

    The sign as the step is Bernstein et al. 2018, arXiv:1802.04434. z starts where the first step finds the parameters.
    """
    t = state.t + 1
    for name, grad in grads.items():
        y, z = params[name], state.m[name]  # (d_sae, d_in) each, or any other shape
        if t == 1:
            z[...] = y
        x = y + (1 - 1 / beta) * (z - y)
        z -= lr * namespace(y).sign(grad)
        x += (z - x) / t
        y[...] = x + (1 - beta) * (z - x)
    return AdamState(state.m, state.v, t)


def signum_average(params: dict[str, Array], state: AdamState, *, beta: float = 0.95) -> dict[str, Array]:
    """Return the averages x of schedule-free sign descent, which are what is saved, by parameter name."""
    return {name: params[name] + (1 - 1 / beta) * (z - params[name]) for name, z in state.m.items()}


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
