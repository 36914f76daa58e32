"""The angles between dictionary rows, beside the best that is possible."""

from typing import NamedTuple

from minisae.backend import Array, namespace
from minisae.errors import InputError


class CosineStructure(NamedTuple):
    """Cosines between different rows of a dictionary, each pair counted once from either side."""

    max_abs: Array
    """Largest absolute cosine of each row with another ``(d_sae,)``."""
    nearest: Array
    """Which row that is ``(d_sae,)``."""
    counts: Array
    """Ordered pairs in each bin of signed cosine ``(bins,)``; they sum to ``d_sae (d_sae − 1)``."""
    edges: Array
    """Ends of the bins, from −1 to 1 ``(bins+1,)``."""
    coherence: float
    """Largest absolute cosine of all."""
    rms: float
    """Root mean square cosine; at least ``welch_bound`` too."""
    welch_bound: float
    """The coherence that no dictionary of this size can go below."""


def unit_rows(W: Array) -> Array:
    """Return the rows of ``W (d_sae, d_in)`` scaled to norm 1; a row of zeros stays zero."""
    xp = namespace(W)
    norms = xp.sqrt((W * W).sum(axis=1, keepdims=True))  # (d_sae, 1)
    return W / xp.where(norms > 0, norms, 1)


def welch_bound(d_sae: int, d_in: int) -> float:
    """Return ``√((d_sae − d_in) / (d_in (d_sae − 1)))``, 0 if ``d_sae ≤ d_in``: the least coherence possible.

    Welch 1974, "Lower bounds on the maximum cross correlation of signals".
    """
    if d_sae < 1 or d_in < 1:
        raise InputError(f"d_sae, d_in: expected numbers from 1, got {d_sae}, {d_in}")
    return float(((d_sae - d_in) / (d_in * (d_sae - 1))) ** 0.5) if d_sae > d_in else 0.0


def cosine_structure(W_dec: Array, *, bins: int = 100, chunk: int = 1024) -> CosineStructure:
    """Return the cosines between the rows of ``W_dec (d_sae, d_in)``, ``chunk`` rows at a time.

    ``(chunk, d_sae)`` cosines are held at once: 64 MB at d_sae 16 384 in float32.
    """
    if W_dec.ndim != 2 or not W_dec.size:
        raise InputError(f"W_dec: expected a matrix (d_sae, d_in), not empty, got shape {W_dec.shape}")
    xp = namespace(W_dec)
    d_sae, d_in = W_dec.shape
    unit = unit_rows(W_dec)  # (d_sae, d_in)
    parts = [_structure_of_rows(unit, start, chunk, bins) for start in range(0, d_sae, chunk)]
    max_abs = xp.concatenate([p[0] for p in parts])  # (d_sae,)
    squares = sum(float(p[3]) for p in parts)
    return CosineStructure(
        max_abs=max_abs,
        nearest=xp.concatenate([p[1] for p in parts]),
        counts=sum(p[2] for p in parts),
        edges=xp.linspace(-1, 1, bins + 1),
        coherence=float(max_abs.max()),
        rms=(squares / max(d_sae * (d_sae - 1), 1)) ** 0.5,
        welch_bound=welch_bound(d_sae, d_in),
    )


def _structure_of_rows(unit: Array, start: int, chunk: int, bins: int) -> tuple[Array, Array, Array, Array]:
    """Return largest |cos| and its place, each ``(rows,)``, histogram ``(bins,)`` and Σ cos² of rows from ``start``."""
    xp = namespace(unit)
    cos = xp.clip(unit[start : start + chunk] @ unit.T, -1, 1)  # (rows, d_sae)
    own = xp.arange(len(cos))  # (rows,)
    cos[own, start + own] = 2
    counts = xp.histogram(cos, bins=bins, range=(-1.0, 1.0))[0]  # (bins,), without the diagonal: it is out of range
    cos[own, start + own] = 0
    size = abs(cos)  # (rows, d_sae)
    return size.max(axis=1), size.argmax(axis=1), counts, (cos * cos).sum(dtype="float64")


def max_cosines(A: Array, B: Array, *, absolute: bool = False, chunk: int = 1024) -> tuple[Array, Array]:
    """Return each row's best cosine with a row of ``B (n_b, d_in)``, and which, for ``A (n_a, d_in)``: both ``(n_a,)``.

    With ``absolute``, of absolute cosines. ``chunk`` rows of A are taken at a time. A row of zeros has cosine 0.
    """
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[1] or not A.size or not B.size:
        raise InputError(f"B: expected a matrix of the width of A {A.shape}, not empty, got {B.shape}")
    xp = namespace(A, B)
    unit, other = unit_rows(A), unit_rows(B)
    best, place = [], []
    for start in range(0, len(A), chunk):
        values, where = _best_of_rows(unit[start : start + chunk], other, absolute)
        best.append(values)
        place.append(where)
    return xp.concatenate(best), xp.concatenate(place)


def _best_of_rows(unit: Array, other: Array, absolute: bool) -> tuple[Array, Array]:
    cos = unit @ other.T  # (rows, n_b)
    if absolute:
        cos = abs(cos)  # (rows, n_b)
    return cos.max(axis=1), cos.argmax(axis=1)
