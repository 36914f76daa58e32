"""Dead latents: those that have not fired for many rows, and the published ways to bring them back by resampling.

Counters count *rows* since a latent last fired, so a threshold means the same at every batch size. (AuxK and ghost
gradients are loss terms: see :mod:`minisae.losses`.) Resampling works on the host, between steps, in place:

    bricken          Bricken et al. 2023, "Neuron Resampling": inputs drawn with probability ∝ loss² on a large sample,
                     one for each dead latent (two may draw the same); ``b_dec`` is not subtracted
    arena_simple     ARENA, "SAEs in toy models", ``resample_simple``: random directions
    arena_advanced   ARENA, ``resample_advanced``: inputs of one batch drawn with probability ∝ (squared error)²
    dictionary_learning   its StandardTrainer, 2025-08: inputs of one batch, each at most once, ∝ ‖error‖; the encoder
                     row is the input itself, however long, times 0.2 and the mean norm of the alive ones
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, namespace, to_device, to_host
from minisae.ops import row_norms
from minisae.optim import AdamState
from minisae.sae import reconstruct, row_width, split

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
    power: float = 2.0
    """A row is drawn with probability ∝ its loss to this power."""
    unit: bool = True
    """Whether the encoder row is made of the direction of the row drawn, or of the row itself."""
    again: bool = True
    """Whether a row can be drawn again; if not, no more latents are resampled than there are rows."""


RESAMPLERS = {
    "bricken": Resampler(True, penalty=True, centred=False, mean_alive=True, resets_adam=True, scale=0.2),
    "arena_simple": Resampler(False, penalty=False, centred=False, mean_alive=False, resets_adam=False, scale=0.5),
    "arena_advanced": Resampler(True, penalty=False, centred=True, mean_alive=True, resets_adam=False, scale=0.5),
    "dictionary_learning": Resampler(
        True, penalty=False, centred=False, mean_alive=True, resets_adam=True, scale=0.2, power=0.5, unit=False,
        again=False,
    ),
}  # fmt: skip


START_AT_0 = ("b_enc", "b_mag", "r_mag")
"""Parameters of a latent that resampling sets to 0, of those that the variant has."""


def count_idle(idle: Array, fired: Array, rows: int) -> Array:
    """Return the rows since each latent fired ``(d_sae,)``, after ``rows`` more of which ``fired`` tells."""
    return namespace(idle).where(fired, 0, idle + rows)


def row_losses(variant: Any, params: Params, rows: Array, cfg: Any, *, penalty: bool) -> Array:
    """Return the loss of each row ``(n,)`` on the host: squared error as the configuration reduces it, plus a penalty.

    That is added if ``penalty`` is asked and the variant has one (its ``row_penalty``). ``rows`` of data are
    ``(n, d_in)``, on either side.
    """
    x, y = split(variant, to_device(rows, backend_of(params["W_dec"])), cfg)
    f = variant.encode(params, x, cfg)  # (n, d_sae)
    error = y - reconstruct(variant, params, f, x)  # (n, d_out)
    loss = (error * error).sum(axis=1)  # (n,)
    if cfg.reduction == "mean":
        loss = loss / y.shape[1]  # (n,)
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
    """Give dead latents a new start, in place, and return how many got one.

    For each: the decoder row is a new unit direction ``u``; the encoder row is ``u · scale``, or the row that ``u``
    comes from times ``scale``, and times the mean norm of the alive encoder rows, where the source says so (tied
    weights have no encoder row); what is in ``START_AT_0`` is 0, and a trained threshold what it was at first (the
    sources have none: where it had grown, the new latent would never fire); the Adam moments of what changed are
    reset, or kept, as the source does.

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
    backend = backend_of(like)
    into, out_of = _drawn(r, variant, params, cfg, chunks, len(which), rng)
    into, out_of = ((_unit(into) if r.unit else into).astype(like.dtype), _unit(out_of).astype(like.dtype))
    which = which[: len(out_of)]  # (n_new,)
    size = r.scale if scale is None else scale
    if r.mean_alive and not dead.all() and "W_enc" in params:
        size = size * float(to_host(row_norms(params["W_enc"].T))[~dead].mean())
    where = to_device(which, backend)  # (n_new,)
    params["W_dec"][where] = to_device(out_of, backend)
    if "W_enc" in params:
        params["W_enc"].T[where] = to_device(into * size, backend)
    start = dict.fromkeys(START_AT_0, 0.0) | (variant.restart(cfg) if hasattr(variant, "restart") else {})
    for name in start.keys() & params.keys():
        params[name][where] = start[name]
    for moments in (adam.m, adam.v) if r.resets_adam else ():
        for name in {"W_dec", "W_enc", *start} & moments.keys():
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
) -> tuple[Array, Array]:
    """Return directions for the encoder and the decoder, both ``(n_new, d_in)`` of any length.

    A row for each dead latent, drawn on its own (or, each at most once, for as many as there are), or random ones; the
    two differ where a row holds input and target.
    """
    if r.needs_rows:
        none = np.zeros(params["W_dec"].shape[1], params["W_dec"].dtype)  # (d_out,)
        shift = to_host(params["b_dec"]) if r.centred and "b_dec" in params else none  # (d_out,)
        weights = []
        for rows in chunks():
            loss = row_losses(variant, params, rows, cfg, penalty=r.penalty)  # (rows,)
            parts = _centred(variant, to_host(rows), cfg, shift)
            usable = parts[0].any(axis=1) & parts[1].any(axis=1)  # (rows,), a row of norm 0 has no direction
            weights.append(np.where(usable, loss.astype(np.float64) ** r.power, 0))
        weight = np.concatenate(weights)  # (n,)
        if weight.sum() > 0:
            n_new = n_dead if r.again else min(n_dead, int(np.count_nonzero(weight)))
            chosen = rng.choice(len(weight), n_new, replace=r.again, p=weight / weight.sum())  # (n_new,)
            return _centred(variant, pick_rows(chunks(), chosen), cfg, shift)
    return split(variant, rng.standard_normal((n_dead, row_width(variant, cfg))), cfg)


def _centred(variant: Any, rows: Array, cfg: Any, shift: Array) -> tuple[Array, Array]:
    """Return input and target of rows, ``shift (d_in,)`` subtracted from what it belongs to."""
    x, y = split(variant, rows, cfg)
    return (y - shift if x is y else x), y - shift


def _unit(a: Array) -> Array:
    """Return the rows of ``a``, none of them zero, at norm 1."""
    return a / np.sqrt(np.square(a).sum(axis=1, keepdims=True))


def pick_rows(chunks: Iterable[Array], chosen: Array) -> Array:
    """Return the rows numbered ``chosen (n_rows,)`` of all chunks together, on the host ``(n_rows, d_in)``."""
    found: dict[int, Array] = {}
    first = 0
    for x in chunks:
        for number in chosen[(chosen >= first) & (chosen < first + len(x))].tolist():
            found[number] = to_host(x[number - first])
        first += len(x)
    return np.stack([found[number] for number in chosen.tolist()])
