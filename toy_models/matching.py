"""How far a block of features is from a polytope: the least difference of cosines over all ways to pair them.

    ρ = min over permutations of the root mean square of C_ij − C_ref,ij, i ≠ j

Signs are not free, for cosines carry sign. The spectrum of C alone could not tell: all tight frames of k vectors in d
dimensions share it (cube and square antiprism). But it bounds ρ from below (Hoffman & Wielandt 1953: the difference of
sorted eigenvalues is at most the Frobenius norm of the difference), which spares most searches.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from minisae.backend import Array
from toy_models.polytopes import LIBRARY, Shape

EXACT = 8
"""Up to this many vectors the search over permutations is exact; beyond, a beam and swaps: an upper bound of ρ."""
BEAM = 256


class Fit(NamedTuple):
    """A library shape laid over a block of k features."""

    shape: Shape
    residual: float
    """ρ."""
    order: Array
    """Which feature of the block is the shape's vertex 0, 1, … ``(k,)``."""


class _Reference(NamedTuple):
    shape: Shape
    gram: Array
    eigenvalues: Array


@cache
def references(k: int) -> tuple[_Reference, ...]:
    """Return the library's shapes of ``k`` vertices, with Gram matrices and eigenvalues."""
    found = []
    for shape in LIBRARY:
        if shape.frame.shape[1] == k:
            gram = shape.frame.T @ shape.frame  # (k, k)
            found.append(_Reference(shape, gram, np.linalg.eigvalsh(gram)))
    return tuple(found)


def least_residual(C: Array, C_ref: Array, *, limit: float = np.inf) -> tuple[float, Array] | None:
    """Return ρ and the order of the features of ``C (k, k)`` that reaches it, for a reference with all vertices alike.

    Branch and bound over assignments, all branches of a level at once; exact for k ≤ ``EXACT``. Because the vertices
    are alike, feature 0 can be vertex 0. ``None`` if ρ is above ``limit`` (or, for larger k, none was found below).
    """
    k = len(C)
    pairs = max(k * (k - 1), 1)
    order: Array | None = np.arange(k)  # (k,)
    off = C_ref[~np.eye(k, dtype=bool)]  # (k*(k-1),)
    if k > 2 and np.ptp(off) > 1e-9:
        order = _search(C, C_ref, limit**2 * pairs, BEAM)  # (k,)
        if order is not None:
            order = _swapped(C, C_ref, order)  # (k,)
        if k <= EXACT:
            bound = limit**2 * pairs if order is None else _misfit(C, C_ref, order[None])[0]
            order = _search(C, C_ref, bound + 1e-9, None)  # (k,)
    if order is None:
        return None
    residual = float((_misfit(C, C_ref, order[None])[0] / pairs) ** 0.5)
    return (residual, order) if residual <= limit else None


def _bound(C: Array, reference: _Reference) -> float:
    """Return a number that ρ is not below: by the spectrum, and by the cosines of each feature, sorted."""
    k = len(C)
    spectrum = np.linalg.eigvalsh(C) - reference.eigenvalues  # (k,)
    profiles = np.sort(C, axis=1) - np.sort(reference.gram, axis=1)  # (k, k)
    return float((max((spectrum**2).sum(), (profiles**2).sum()) / max(k * (k - 1), 1)) ** 0.5)


def _misfit(C: Array, C_ref: Array, orders: Array) -> Array:
    """Return Σ_ij (C − C_ref)² for each of ``orders (v, k)``, ``(v,)``."""
    return ((C[orders[:, :, None], orders[:, None, :]] - C_ref) ** 2).sum(axis=(1, 2))


def _search(C: Array, C_ref: Array, bound: float, width: int | None) -> Array | None:
    """Return the best order ``(k,)`` of misfit ≤ ``bound``, giving vertices 1, 2, … their features; ``None`` if none.

    At most ``width`` branches are kept at a level.
    """
    k = len(C)
    orders = np.zeros((1, 1), dtype=np.int64)  # (1, 1), later (v_new, vertex+1): features of the first vertices
    spent = np.zeros(1)  # (1,), later (v_new,): the misfit of their pairs
    for vertex in range(1, k):
        added = 2 * ((C[orders] - C_ref[vertex, :vertex, None]) ** 2).sum(axis=1)  # (v_now, k)
        total = spent[:, None] + added  # (v_now, k)
        total[np.arange(len(orders))[:, None], orders] = np.inf
        flat = total.ravel()  # (v_now*k,)
        open_ = np.flatnonzero(flat <= min(bound, np.finfo(float).max))  # (v_next,)
        if not len(open_):
            return None
        if width is not None and len(open_) > width:
            open_ = open_[np.argpartition(flat[open_], width - 1)[:width]]  # (width,)
        orders = np.column_stack([orders[open_ // k], open_ % k])  # (v_new, vertex+1)
        spent = flat[open_]  # (v_new,)
    return orders[spent.argmin()]


def _swapped(C: Array, C_ref: Array, order: Array) -> Array:
    """Return ``order (k,)`` after swapping pairs as long as that helps."""
    k = len(order)
    first, second = np.triu_indices(k, 1)
    best = _misfit(C, C_ref, order[None])[0]
    while True:
        tried = np.repeat(order[None], len(first), axis=0)  # (s, k)
        each = np.arange(len(first))  # (s,)
        tried[each, first], tried[each, second] = order[second], order[first]
        misfits = _misfit(C, C_ref, tried)  # (s,)
        if misfits.min() >= best - 1e-12:
            return order
        best = misfits.min()
        order = tried[misfits.argmin()]  # (k,)


def fits(C: Array, *, limit: float = np.inf) -> list[Fit]:
    """Return the library's names for cosines ``C (k, k)``, best first, one for each name, none of ρ above ``limit``."""
    best: dict[str, Fit] = {}
    for reference in references(len(C)):
        found = least_residual(C, reference.gram, limit=limit) if _bound(C, reference) <= limit else None
        name = reference.shape.name
        if found is not None and (name not in best or found[0] < best[name].residual):
            best[name] = Fit(reference.shape, *found)
    return sorted(best.values(), key=lambda fit: fit.residual)
