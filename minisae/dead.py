"""Dead latents: those that have not fired for many rows, and the published ways to bring them back by resampling.

Counters count *rows* since a latent last fired, so a threshold means the same at every batch size. (AuxK and ghost
gradients are loss terms: see :mod:`minisae.losses`.) Resampling works on the host, between steps, in place:

    bricken          Bricken et al. 2023, "Neuron Resampling": inputs drawn with probability ∝ loss² on a large sample,
                     one for each dead latent (two may draw the same); ``b_dec`` is not subtracted
    arena_simple     ARENA, "SAEs in toy models", ``resample_simple``: random directions
    arena_advanced   ARENA, ``resample_advanced``: inputs of one batch drawn with probability ∝ (squared error)²
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, namespace, to_device, to_host
from minisae.ops import normalise_rows, row_norms
from minisae.optim import AdamState

Params = dict[str, Array]


class Resampler(NamedTuple):
    """One way of resampling."""

    needs_rows: bool
    """Whether new directions are rows of data, drawn with probability ∝ loss²; else they are random."""
    penalty: bool
    """Whether the loss of a row has the penalty on the code in it."""
    centred: bool
    """Whether ``b_dec`` is subtracted from the row."""
    mean_alive: bool
    """Whether the encoder row is scaled to the mean norm of the alive encoder rows (else to 1) before ``scale``."""
    resets_adam: bool
    """Whether the Adam moments of what changed are set to 0."""
    scale: float
    """The scale of its source."""


RESAMPLERS = {
    "bricken": Resampler(True, penalty=True, centred=False, mean_alive=True, resets_adam=True, scale=0.2),
    "arena_simple": Resampler(False, penalty=False, centred=False, mean_alive=False, resets_adam=False, scale=0.5),
    "arena_advanced": Resampler(True, penalty=False, centred=True, mean_alive=True, resets_adam=False, scale=0.5),
}


START_AT_0 = ("b_enc", "b_mag", "r_mag")
"""Parameters of a latent that resampling sets to 0, of those that the variant has."""


def count_idle(idle: Array, fired: Array, rows: int) -> Array:
    """Return the rows since each latent fired ``(d_sae,)``, after ``rows`` more of which ``fired`` tells."""
    return namespace(idle).where(fired, 0, idle + rows)


def row_losses(variant: Any, params: Params, x: Array, cfg: Any, *, penalty: bool) -> Array:
    """Return the loss of each row ``(n,)`` on the host: squared error as the configuration reduces it, plus a penalty.

    That is added if ``penalty`` is asked and the variant has one (its ``row_penalty``). ``x`` is ``(n, d_in)``, on
    either side.
    """
    x = to_device(x, backend_of(params["W_dec"]))  # (n, d_in)
    f = variant.encode(params, x, cfg)  # (n, d_sae)
    error = x - variant.decode(params, f)  # (n, d_in)
    loss = (error * error).sum(axis=1)  # (n,)
    if cfg.reduction == "mean":
        loss = loss / cfg.d_in  # (n,)
    if penalty and hasattr(variant, "row_penalty"):
        loss = loss + variant.row_penalty(params, f, cfg)  # (n,)
    return to_host(loss)


def resample(
    how: str,
    variant: Any,
    params: Params,
    adam: AdamState,
    cfg: Any,
    dead: Array,
    chunks: Callable[[], Iterable[Array]],
    rng: np.random.Generator,
    *,
    scale: float | None = None,
) -> int:
    """Give dead latents a new start, in place, and return how many there were.

    For each: the decoder row is a new unit direction ``u``; the encoder row is ``u · scale``, times the mean norm of
    the alive encoder rows where the source says so (tied weights have no encoder row); what is in ``START_AT_0`` is
    0; the Adam moments of what changed are reset, or kept, as the source does.

    Parameters
    ----------
    how : a name of :data:`RESAMPLERS`
    variant, params, cfg : the autoencoder
    adam : its moments
    dead : bool ``(d_sae,)``, on the host
    chunks : called twice, gives both times the same rows ``(rows, d_in)`` to draw from, a chunk at a time: a sample of
        any size costs the memory of one chunk
    rng : host generator
    scale : instead of the source's
    """
    which = np.flatnonzero(dead)  # (n_dead,)
    if not len(which):
        return 0
    r, like = RESAMPLERS[how], params["W_dec"]
    directions = _drawn(r, variant, params, cfg, chunks, len(which), rng)  # (n_dead, d_in)
    size = r.scale if scale is None else scale
    if r.mean_alive and not dead.all() and "W_enc" in params:
        size = size * float(to_host(row_norms(params["W_enc"].T))[~dead].mean())
    fresh = to_device(directions.astype(like.dtype), backend_of(like))  # (n_dead, d_in)
    where = to_device(which, backend_of(like))  # (n_dead,)
    params["W_dec"][where] = fresh
    if "W_enc" in params:
        params["W_enc"].T[where] = fresh * size
    for name in set(START_AT_0) & params.keys():
        params[name][where] = 0
    for moments in (adam.m, adam.v) if r.resets_adam else ():
        for name in {"W_dec", "W_enc", *START_AT_0} & moments.keys():
            (moments[name].T if name == "W_enc" else moments[name])[where] = 0
    return len(which)


def _drawn(
    r: Resampler,
    variant: Any,
    params: Params,
    cfg: Any,
    chunks: Callable[[], Iterable[Array]],
    n_dead: int,
    rng: np.random.Generator,
) -> Array:
    """Return new unit directions ``(n_dead, d_in)``: a row for each dead latent, drawn on its own, or random ones."""
    if r.needs_rows:
        none = np.zeros(cfg.d_in, params["W_dec"].dtype)  # (d_in,)
        shift = to_host(params["b_dec"]) if r.centred and "b_dec" in params else none  # (d_in,)
        weights = []
        for x in chunks():
            loss = row_losses(variant, params, x, cfg, penalty=r.penalty)  # (rows,)
            usable = (to_host(x) != shift).any(axis=1)  # (rows,), a row of norm 0 has no direction
            weights.append(np.where(usable, np.square(loss, dtype=np.float64), 0))
        weight = np.concatenate(weights)  # (n,)
        if weight.sum() > 0:
            chosen = rng.choice(len(weight), n_dead, p=weight / weight.sum())  # (n_dead,)
            rows = pick_rows(chunks(), chosen) - shift  # (n_dead, d_in)
            return rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    directions = rng.standard_normal((n_dead, cfg.d_in))  # (n_dead, d_in)
    normalise_rows(directions)
    return directions


def pick_rows(chunks: Iterable[Array], chosen: Array) -> Array:
    """Return the rows numbered ``chosen (n_rows,)`` of all chunks together, on the host ``(n_rows, d_in)``."""
    found: dict[int, Array] = {}
    first = 0
    for x in chunks:
        for number in chosen[(chosen >= first) & (chosen < first + len(x))].tolist():
            found[number] = to_host(x[number - first])
        first += len(x)
    return np.stack([found[number] for number in chosen.tolist()])
