"""What the models see: sparse features, drawn afresh each step or held fixed.

    x_j = 0 with probability 1 − p_j,  else uniform on [0, 1]          Elhage et al. 2022, "Demonstrating superposition"

A :class:`Data` makes samplers; a sampler owns its buffers, and the batch that it returns holds until its next draw.
Letters: instances i, rows n, n_feat; density p = 1 − S.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.conventions import check_number
from minisae.errors import InputError


class Batch(NamedTuple):
    """Rows, and how much each counts."""

    x: Array
    """Features ``(i, n, n_feat)``; i is 1 where all instances see the same rows."""
    weights: Array | None = None
    """Weight of each row ``(i, n)``, 1 in sum for each instance; ``None``: 1/n each."""


Draw = Callable[[np.random.Generator], Batch]
Sampler = Callable[[slice, int, Any], Draw]


class Data(NamedTuple):
    """A distribution of rows, or one for each instance."""

    n_feat: int
    """Number of features."""
    instances: int
    """How many instances it describes; 1 serves any number."""
    sampler: Sampler
    """``sampler(part, n, dtype)`` returns ``draw(rng) -> Batch`` of ``n`` rows for the instances of the slice."""
    counted: Sampler | None = None
    """The same distribution with the empty rows of a batch counted, not listed: training takes it where it is there."""


def sample(data: Data, n: int, rng: np.random.Generator, *, dtype: Any = np.float32) -> np.ndarray:
    """Return ``n`` rows for every instance that the data describes, a fresh ``(i, n, n_feat)``."""
    check_number("n", n, least=1, whole=True)
    x: np.ndarray = data.sampler(slice(0, data.instances), n, np.dtype(dtype))(rng).x.copy()  # (i, n, n_feat)
    return x


def real(name: str, value: Any) -> np.ndarray:
    """Return ``value`` as an array of real numbers, of its own dtype, or refuse it in one line."""
    try:
        array = np.asarray(value)  # (...,)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected an array of real numbers, got {type(value).__name__}") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return array


def check_density(name: str, density: Any, n_feat: int | None = None) -> np.ndarray:
    """Return densities as float64 ``(i, n_feat)``, checked.

    Parameters
    ----------
    name : what to call them in a message
    density : a number, ``(n_feat,)``, or ``(i, n_feat)``; ``(i, 1)`` with ``n_feat`` given
    n_feat : number of features, needed where the array does not tell

    Raises
    ------
    InputError
        If a density is outside (0, 1], or the shape fits no number of features.
    """
    p = np.atleast_2d(real(name, density).astype(np.float64))  # (i, k), k is 1 or n_feat
    if n_feat is None and np.ndim(density) == 0:
        raise InputError(f"n_feat: expected a number of features beside a single {name}, got none")
    width = n_feat if n_feat is not None else p.shape[1]
    check_number("n_feat", width, least=1, whole=True)
    if p.ndim != 2 or p.size == 0 or p.shape[1] not in (1, width):
        raise InputError(f"{name}: expected a number, (n_feat,) or (instances, n_feat), got shape {np.shape(density)}")
    if not ((p > 0) & (p <= 1)).all():
        wrong = p[~((p > 0) & (p <= 1))][0]
        raise InputError(f"{name}: expected numbers in (0, 1], got {wrong:g}")
    return np.ascontiguousarray(np.broadcast_to(p, (p.shape[0], width)))


def independent(density: Any, *, n_feat: int | None = None, signed: bool = False) -> Data:
    """Return independent features: present with their density, then uniform on [0, 1] (signed: on [−1, 1]).

    Parameters
    ----------
    density : p, a number, ``(n_feat,)``, or ``(i, n_feat)`` for one distribution an instance
    n_feat : number of features, where the density does not tell
    signed : for computed targets such as |x| (Elhage et al. 2022, "Computation in superposition")
    """
    p = check_density("density", density, n_feat)  # (i, n_feat)
    low = -1.0 if signed else 0.0

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        mine = _rows(p, part)  # (i, n_feat)
        x = np.empty((len(mine), n, p.shape[1]), dtype)  # (i, n, n_feat)
        mask = np.empty(x.shape, bool)  # (i, n, n_feat)
        stretch = (1 / mine).astype(dtype)[:, None, :]  # (i, 1, n_feat)

        def draw(rng: np.random.Generator) -> Batch:
            rng.random(out=x, dtype=dtype)
            # u < p decides; given that, u / p is uniform again: one draw does for both.
            np.multiply(x, stretch, out=x)
            np.less(x, 1, out=mask)
            _spread(x, low)
            np.multiply(x, mask, out=x)
            return Batch(x)

        return draw

    def counted(part: slice, n: int, dtype: Any) -> Draw:
        mine = _rows(p, part)  # (i, n_feat)
        filled = 1 - np.prod(1 - mine, axis=1)  # (i,), P(a row has any feature)
        return sampler(part, n, dtype) if filled.max() > 0.6 else _count_empty(mine, filled, n, dtype, low)

    return Data(p.shape[1], len(p), sampler, counted)


def _rows(p: np.ndarray, part: slice) -> np.ndarray:
    """Return the instances of a slice ``(i, n_feat)``; one row serves them all."""
    return p[part] if len(p) > 1 else np.broadcast_to(p, (part.stop - part.start, p.shape[1]))


def _spread(x: np.ndarray, low: float) -> None:
    """Move uniform numbers on [0, 1] to [low, 1], in place."""
    if low:
        x *= 1 - low
        x += low


def _count_empty(p: np.ndarray, filled: np.ndarray, n: int, dtype: Any, low: float) -> Draw:
    """Return a sampler of the same distribution that lists the rows with any feature, and counts the others.

    Row 0 stands for all empty rows of the batch. In a row that is not empty the first feature present is j with
    probability p_j Π_{l<j} (1 − p_l) / filled; the features after it are independent of that.
    """
    i, n_feat = p.shape
    reach = (1 - np.cumprod(1 - p, axis=1)).astype(dtype)[:, None, :]  # (i, 1, n_feat), P(first present ≤ j)
    stretch = (1 / p).astype(dtype)[:, None, :]  # (i, 1, n_feat)
    buffers: list[np.ndarray] = []

    def draw(rng: np.random.Generator) -> Batch:
        count = rng.binomial(n, filled)  # (i,), rows that are not empty
        if not buffers or buffers[0].shape[1] <= count.max():
            usual = n * filled + 4 * np.sqrt(n * filled * (1 - filled))  # (i,)
            size = 2 + int(max(count.max(), usual.max()))
            buffers[:] = [np.empty((i, size, n_feat), dtype), np.empty((i, size, 1), dtype), np.zeros((i, size), dtype)]
            buffers[3:] = [np.empty((i, size, n_feat), bool), np.empty((i, size, n_feat), bool)]
        x, u, weights, later, mask = buffers
        rng.random(out=x, dtype=dtype)
        rng.random(out=u, dtype=dtype)
        u *= filled.astype(dtype)[:, None, None]
        np.greater(reach, u, out=mask)  # present at or after the first
        later[..., 0] = False
        later[..., 1:] = mask[..., :-1]
        np.multiply(x, stretch, out=x, where=later)
        np.logical_and(mask, x < 1, out=mask)
        _spread(x, low)
        np.multiply(x, mask, out=x)
        x[:, 0] = 0
        weights[:] = np.arange(weights.shape[1]) <= count[:, None]
        weights[:, 0] = n - count
        weights /= n
        return Batch(x, weights)

    return draw


def correlated(density: Any, *, sets: int, size: int) -> Data:
    """Return sets of features that are present together: one gate a set, magnitudes of their own.

    Elhage et al. 2022, "Correlated and anticorrelated features". ``density`` is the gate's: a number or ``(i, sets)``.
    Features lie set by set.
    """
    return _gated(density, sets, size, one_of_set=False)


def anticorrelated(density: Any, *, sets: int, size: int) -> Data:
    """Return sets of features of which one at most is present: a gate, then one member drawn evenly.

    Elhage et al. 2022. ``density`` is the gate's, so that a feature's own is ``density / size``; ARENA's exercises gate
    pairs so that each member keeps ``density``.
    """
    return _gated(density, sets, size, one_of_set=True)


def _gated(density: Any, sets: int, size: int, *, one_of_set: bool) -> Data:
    for name, value in (("sets", sets), ("size", size)):
        check_number(name, value, least=1, whole=True)
    p = check_density("density", density, sets)  # (i, sets)

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        mine = _rows(p, part)  # (i, sets)
        x = np.empty((len(mine), n, sets * size), dtype)  # (i, n, n_feat)

        def draw(rng: np.random.Generator) -> Batch:
            rng.random(out=x, dtype=dtype)
            u = rng.random((len(mine), n, sets), dtype=dtype)  # (i, n, sets)
            present = (u < mine[:, None].astype(dtype))[..., None]  # (i, n, sets, 1)
            if one_of_set:
                chosen = rng.integers(size, size=(*u.shape, 1)) == np.arange(size)  # (i, n, sets, size)
                present = present & chosen  # (i, n, sets, size)
            in_sets = x.reshape(*u.shape, size)  # (i, n, sets, size)
            in_sets *= present
            return Batch(x)

        return draw

    return Data(sets * size, len(p), sampler)


def hierarchical(density: Any, parents: Any, *, magnitude: str = "uniform") -> Data:
    """Return features that are present only where their parent is.

    Parameters
    ----------
    density : probability given that the parent is present, ``(n_feat,)`` or ``(i, n_feat)``; a root's own density
    parents : index of each feature's parent ``(n_feat,)``, before it in order; −1 for a root
    magnitude : ``"uniform"`` on [0, 1], or ``"one"``, as in Chanin et al. 2024 (arXiv:2409.14507)
    """
    parent = real("parents", parents)  # (n_feat,)
    p = check_density("density", density, parent.size)  # (i, n_feat)
    if parent.ndim != 1 or parent.dtype.kind not in "iu" or not all(-1 <= q < j for j, q in enumerate(parent)):
        raise InputError(f"parents: expected for each feature −1 or an earlier feature's index, got {parent.tolist()}")
    if magnitude not in ("uniform", "one"):
        raise InputError(f"magnitude: expected 'uniform' or 'one', got {magnitude!r}")

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        mine = _rows(p, part)  # (i, n_feat)

        def draw(rng: np.random.Generator) -> Batch:
            shape = (len(mine), n, parent.size)
            present = rng.random(shape) < mine[:, None]  # (i, n, n_feat)
            for j in np.flatnonzero(parent >= 0):
                present[..., j] &= present[..., parent[j]]
            x = present.astype(dtype)  # (i, n, n_feat)
            if magnitude == "uniform":
                x *= rng.random(shape, dtype=dtype)
            return Batch(x)

        return draw

    return Data(parent.size, len(p), sampler)


def single_active(n_feat: int) -> Data:
    """Return rows with exactly one feature, drawn evenly, uniform on [0, 1] (Chen et al. 2023, arXiv:2310.06301)."""
    check_number("n_feat", n_feat, least=1, whole=True)

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        x = np.zeros((part.stop - part.start, n, n_feat), dtype)  # (i, n, n_feat)

        def draw(rng: np.random.Generator) -> Batch:
            x[...] = 0
            chosen = rng.integers(n_feat, size=(*x.shape[:2], 1))  # (i, n, 1)
            np.put_along_axis(x, chosen, rng.random(chosen.shape, dtype=dtype), axis=2)
            return Batch(x)

        return draw

    return Data(n_feat, 1, sampler)


def fixed(x: Any, weights: Any = None) -> Data:
    """Return a finite data set: every batch is all of it (memorisation, exact losses).

    Parameters
    ----------
    x : ``(n, n_feat)``, or ``(i, n, n_feat)`` for one set an instance
    weights : of rows, ``(n,)`` or ``(i, n)``, not negative, nor all 0; ``None``: equal

    Raises
    ------
    InputError
        If the shapes do not fit, a number is not finite, or all weights of an instance are 0.
    """
    rows = real("x", x)  # (..., n_feat)
    rows = rows[None] if rows.ndim == 2 else rows  # (i, n, n_feat)
    if rows.ndim != 3 or rows.size == 0:
        raise InputError(f"x: expected (rows, n_feat) or (instances, rows, n_feat), got shape {np.shape(x)}")
    share = None if weights is None else np.atleast_2d(real("weights", weights).astype(np.float64))  # (one_or_i, n)
    if share is not None and (
        share.ndim != 2 or share.shape[1] != rows.shape[1] or (rows.shape[0] > 1 and len(share) != rows.shape[0])
    ):
        raise InputError(f"weights: expected one a row of x {rows.shape}, got shape {np.shape(weights)}")
    if not np.isfinite(rows).all() or not (share is None or (np.isfinite(share).all() and (share >= 0).all())):
        raise InputError("x, weights: expected finite numbers, and weights that are not negative")
    if share is not None and not share.any(axis=1).all():
        raise InputError("weights: expected some above 0 for each instance, got an instance with none")
    instances = max(len(rows), 1 if share is None else len(share))

    def sampler(part: slice, n: int, dtype: Any) -> Draw:
        mine = (rows[part] if len(rows) > 1 else rows).astype(dtype)  # (one_or_i, n_rows, n_feat)
        w = None if share is None else (share[part] if len(share) > 1 else share).astype(dtype)  # (one_or_all, n_rows)
        batch = Batch(mine, w)
        return lambda rng: batch

    return Data(rows.shape[2], instances, sampler)
