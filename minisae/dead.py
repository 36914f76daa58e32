"""Dead latents: those that have not fired for many rows, and the published ways to bring them back by resampling.

Counters count *rows* since a latent last fired, so a threshold means the same at every batch size. (AuxK and ghost
gradients are loss terms: see :mod:`minisae.losses`.) Resampling works on the host, between steps, in place:

    bricken          Bricken et al. 2023, "Neuron Resampling": inputs drawn with probability ∝ loss² on a large sample
    arena_simple     ARENA, "SAEs in toy models", ``resample_simple``: random directions
    arena_advanced   ARENA, ``resample_advanced``: inputs of one batch drawn with probability ∝ (squared error)²
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, namespace, to_device, to_host
from minisae.ops import dense, normalise_rows, row_norms
from minisae.optim import AdamState

Params = dict[str, Array]
CHUNK = 8192


class Resampler(NamedTuple):
    """One way of resampling."""

    directions: Callable[..., Array]
    """``(losses (n,), x (n, d_in), b_dec (d_in,), n_dead, rng)`` to new unit rows ``(n_dead, d_in)``."""
    needs_rows: bool
    """Whether it looks at data."""
    mean_alive: bool
    """Whether the encoder row is scaled to the mean norm of the alive encoder rows (else to 1) before ``scale``."""
    resets_adam: bool
    """Whether the Adam moments of what changed are set to 0."""
    scale: float
    """The scale of its source."""


def count_idle(idle: Array, fired: Array, rows: int) -> Array:
    """Return the rows since each latent fired ``(d_sae,)``, after ``rows`` more of which ``fired`` tells."""
    return namespace(idle).where(fired, 0, idle + rows)


def _drawn_rows(losses: Array, rows: Array, n_dead: int, rng: np.random.Generator) -> Array:
    """Draw rows with probability ∝ loss², repeated only where there are too few; unit norm ``(n_dead, d_in)``."""
    norms = np.sqrt(np.square(rows).sum(axis=1))  # (n,)
    weight = np.where(norms > 0, np.square(losses, dtype=np.float64), 0)  # (n,)
    if not weight.sum() > 0:
        return _random_rows(losses, rows, rows[0], n_dead, rng)
    chosen = rng.choice(
        len(rows), n_dead, replace=int((weight > 0).sum()) < n_dead, p=weight / weight.sum()
    )  # (n_dead,)
    return rows[chosen] / norms[chosen, None]


def _bricken(losses: Array, x: Array, b_dec: Array, n_dead: int, rng: np.random.Generator) -> Array:
    """The input itself, as the text has it: ``b_dec`` is not subtracted."""
    return _drawn_rows(losses, x, n_dead, rng)


def _arena_advanced(losses: Array, x: Array, b_dec: Array, n_dead: int, rng: np.random.Generator) -> Array:
    return _drawn_rows(losses, x - b_dec, n_dead, rng)


def _random_rows(losses: Array, x: Array, b_dec: Array, n_dead: int, rng: np.random.Generator) -> Array:
    directions = rng.standard_normal((n_dead, len(b_dec)))  # (n_dead, d_in)
    normalise_rows(directions)
    return directions


RESAMPLERS = {
    "bricken": Resampler(_bricken, needs_rows=True, mean_alive=True, resets_adam=True, scale=0.2),
    "arena_simple": Resampler(_random_rows, needs_rows=False, mean_alive=False, resets_adam=False, scale=0.5),
    "arena_advanced": Resampler(_arena_advanced, needs_rows=True, mean_alive=True, resets_adam=False, scale=0.5),
}


def row_losses(variant: Any, params: Params, x: Array, cfg: Any, *, penalty: bool) -> Array:
    """Return the loss of each row ``(n,)``: squared error, plus the L1 term if ``penalty`` is asked and there is one.

    Runs in chunks of 8192 rows, so that a large sample costs no more memory than a batch.
    """
    parts = []
    for start in range(0, len(x), CHUNK):
        part = to_device(x[start : start + CHUNK], namespace(params["W_dec"]).__name__)  # (rows, d_in)
        f = variant.encode(params, part, cfg)  # (rows, d_sae)
        error = part - variant.decode(params, f)  # (rows, d_in)
        loss = (error * error).sum(axis=1)  # (rows,)
        if penalty and hasattr(cfg, "l1"):
            weight = row_norms(params["W_dec"]) if cfg.l1_weight == "decoder_norm" else 1.0
            loss = loss + cfg.l1 * (dense(f) * weight).sum(axis=1)  # (rows,)
        parts.append(to_host(loss))
    return np.concatenate(parts)


def resample(
    how: str,
    variant: Any,
    params: Params,
    adam: AdamState,
    cfg: Any,
    dead: Array,
    x: Array,
    rng: np.random.Generator,
    *,
    scale: float | None = None,
) -> int:
    """Give dead latents a new start, in place, and return how many there were.

    For each: the decoder row is a new unit direction ``u``; the encoder row is ``u · scale``, times the mean norm of
    the alive encoder rows where the source says so; ``b_enc`` is 0; the Adam moments of what changed are reset, or
    kept, as the source does.

    Parameters
    ----------
    how : a name of :data:`RESAMPLERS`
    variant, params, cfg : the autoencoder
    adam : its moments
    dead : bool ``(d_sae,)``, on the host
    x : rows ``(n, d_in)`` to draw from
    rng : host generator
    scale : instead of the source's
    """
    which = np.flatnonzero(dead)  # (n_dead,)
    if not len(which):
        return 0
    r = RESAMPLERS[how]
    x = to_host(x)  # (n, d_in)
    loss = row_losses(variant, params, x, cfg, penalty=how == "bricken") if r.needs_rows else np.zeros(len(x))  # (n,)
    directions = r.directions(loss, x, to_host(params["b_dec"]), len(which), rng)  # (n_dead, d_in)
    size = r.scale if scale is None else scale
    if r.mean_alive and not dead.all():
        size = size * float(to_host(row_norms(params["W_enc"].T))[~dead].mean())
    like = params["W_dec"]  # (d_sae, d_in)
    fresh = to_device(directions.astype(like.dtype), namespace(like).__name__)  # (n_dead, d_in)
    where = to_device(which, namespace(like).__name__)  # (n_dead,)
    params["W_dec"][where] = fresh
    params["W_enc"].T[where] = fresh * size
    params["b_enc"][where] = 0
    if r.resets_adam:
        for moments in (adam.m, adam.v):
            moments["W_dec"][where] = 0
            moments["W_enc"].T[where] = 0
            moments["b_enc"][where] = 0
    return len(which)
