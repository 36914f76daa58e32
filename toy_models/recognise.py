"""Naming the polytopes of a trained W: which features form which, how well it fits, and what else it could be.

1. Columns too short to count as learned are left out (:func:`toy_models.geometry.learned`).
2. The rest is taken apart into blocks that are orthogonal to each other (:mod:`toy_models.blocks`).
3. Each block is compared with the library's polytopes of as many vertices (:mod:`toy_models.matching`): ρ is the least
   root mean square difference of their cosines.
4. A name is given if ρ is below ``threshold``, the runner-up's is ``RATIO`` times as large, and the names together are
   ``EVIDENCE`` nats better than chance. Everything else is ``unknown``, with its k and d.

An octahedron comes out as three digons, a square as two, a bipyramid as polygon and digon: orthogonal factors do not
interfere, so there is no more to them than that.
"""

from collections import Counter
from typing import Literal, NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.errors import InputError
from toy_models import geometry
from toy_models.blocks import Block, dimensions, room, span, split, supported
from toy_models.matching import Fit, fits
from toy_models.polytopes import LARGEST

THRESHOLD = 0.3
"""Residuals below it are given a name; cosines of two random directions in r dimensions differ from 0 by r^−½."""
RATIO = 1.25
"""The runner-up's residual must be so many times the best one's."""
EVIDENCE = 6.0
"""Nats by which the names together must be better than chance, and each, if some features stay without one."""
CONNECTED = 0.12
"""|cosine| above which two features without a name belong together."""
UNKNOWN = "unknown"


class Component(NamedTuple):
    """A block of features."""

    name: str
    """A library name, or ``"unknown"``."""
    variant: str
    """Of the reference that fits best: ``"tight"`` or ``"Coulomb"`` antiprism; else empty."""
    k: int
    """Features."""
    d: int
    """Dimensions they span: the polytope's; for an unknown, Gram eigenvalues above a tenth of the largest, at most as
    many as the names leave."""
    residual: float | None
    """ρ of the best candidate, named or not; ``None`` if the library has none of k vertices."""
    best: str | None
    """Name of the best candidate."""
    runner_up: float | None
    """ρ of the next name in the library with k vertices: how sure the name is; ``None`` if there is no other."""
    features: Array
    """Columns of W ``(k,)``; of a named block in the order of the reference's vertices."""
    D_sum: float
    """ΣD_i over them, d for a tight frame that is orthogonal to the rest."""
    norm_spread: float
    """Longest column over shortest."""


class Recognition(NamedTuple):
    """What a W is made of."""

    components: tuple[Component, ...]
    """Named ones first, large before small."""
    unlearned: Array
    """Columns that are too short ``(n_unlearned,)``."""
    rank: int
    """Dimensions that the learned features span: Gram eigenvalues above a tenth of the largest, or Σd if it is more."""
    noise: float
    """The noise of a cosine that explains W best; 0 if nothing has a name."""
    evidence: float
    """Nats by which the names are better than chance; 0 if nothing has one."""


class Stability(NamedTuple):
    """Whether the names depend on where a threshold on |cosine| is put."""

    eps: tuple[float, ...]
    summaries: tuple[str, ...]
    """What W is made of, at each ``eps``."""
    stable: tuple[bool, ...]
    """For each component of ``recognise(W)``: is it there, features and name, at each ``eps``?"""


def recognise(
    W: Array,
    *,
    eps: float | None = None,
    threshold: float = THRESHOLD,
    features: Literal["columns", "rows"] = "columns",
    floor: float = 0.3,
) -> Recognition:
    """Name the polytopes of ``W (n_hid, n_feat)``; with ``features="rows"``, of ``(n_feat, n_hid)``.

    Parameters
    ----------
    W
        One frame, of any real dtype.
    eps
        ``None``: blocks by likelihood, which stands noise. A number: connected components of |cosine| > eps.
    threshold
        Residuals ρ below it are given a name.
    features
        Where the features are: the paper's W has them as columns.
    floor
        Columns shorter than this never count as learned; lower it for a W of another scale.

    Raises
    ------
    InputError
        For a W that is not a finite matrix, and options out of range.

    Notes
    -----
    Measured with ``tests/toy_models/test_recognise.py``. Names by chance: none in 10,000 random frames, 250 for each k
    and d with d+1 < k ≤ 12, d ≤ 5 (``false_names(np.random.default_rng(2024), 250)``); 2 in the 20,000 others on which
    ``EVIDENCE`` was chosen, both of k = d+2. Where k ≤ d+1 a name
    says only that the cosines are near the polytope's. Products of three library shapes of up to 4 dimensions with
    noise of deviation σ on each entry: all 60 right at σ = .05 and at least 55 at .1, in each of five seeds
    (``pytest -m slow -k sixty``). Most of those missed at .1 are 5-cells, taken for a tetrahedron and a point.
    """
    if features not in ("columns", "rows"):
        raise InputError(f"features: expected 'columns' or 'rows', got {features!r}")
    if not 0 < threshold <= 2:
        raise InputError(f"threshold: expected a residual in (0, 2], got {threshold!r}")
    given = to_host(geometry.frame(W, batched=False)).astype(np.float64)  # (rows, columns)
    W = given if features == "columns" else given.T  # (n_hid, n_feat)
    kept = geometry.learned(W, floor=floor)  # (n_feat,)
    columns, unlearned = np.flatnonzero(kept), np.flatnonzero(~kept)
    if not len(columns):
        return Recognition((), unlearned, 0, 0.0, 0.0)
    frame = W[:, columns]  # (n_hid, n_kept)
    C = geometry.cosines(frame)  # (n_kept, n_kept)
    blocks = _connected(frame, eps, threshold) if eps is not None else split(C, limit=threshold).blocks
    sure = [block if _sure(C, block, threshold) else Block(block.members, None) for block in blocks]
    named, evidence, noise = supported(C, sure, least=EVIDENCE)
    left = sorted(set(range(len(columns))).difference(*(block.members for block in named)))
    free = room(C) - dimensions(named)
    found = named + _rest(frame, C, left, free, CONNECTED if eps is None else eps)
    D, sizes = geometry.dimensionality(frame), geometry.norms(frame)
    components = [_component(C, block, columns, D, sizes, free) for block in found]
    components.sort(key=lambda c: (c.name == UNKNOWN, -c.k, c.name, c.features.min()))
    rank = max(span(C), sum(c.d for c in components))
    return Recognition(tuple(components), unlearned, rank, noise, evidence)


def _rest(frame: Array, C: Array, left: list[int], free: int, eps: float) -> list[Block]:
    """Return the features without a name in connected components; in one, where those have no room side by side."""
    parts = _parts(frame, left, eps) if left else []
    spans = [span(C[np.ix_(part.members, part.members)]) for part in parts]
    return parts if sum(spans) <= free else [Block(tuple(left), None)]


def _parts(frame: Array, members: list[int], eps: float) -> list[Block]:
    """Return the connected components of some columns, without names."""
    labels = geometry.components(frame[:, members], eps=eps)  # (n_members,)
    return [Block(tuple(int(members[at]) for at in np.flatnonzero(labels == c)), None) for c in range(labels.max() + 1)]


def _connected(frame: Array, eps: float, threshold: float) -> list[Block]:
    """Return the connected components of all columns, with the name of the best fit."""
    C = geometry.cosines(frame)  # (n_kept, n_kept)
    parts = _parts(frame, list(range(frame.shape[1])), eps)
    return [Block(part.members, next(iter(_candidates(C, part, threshold)), None)) for part in parts]


def _candidates(C: Array, block: Block, limit: float = np.inf) -> list[Fit]:
    if len(block.members) > LARGEST:
        return []
    return fits(C[np.ix_(block.members, block.members)], limit=limit)


def _sure(C: Array, block: Block, threshold: float) -> bool:
    """Return whether the best name is under the threshold, and far enough from the next."""
    if block.fit is None or block.fit.residual >= threshold:
        return False
    near = _candidates(C, block, RATIO * block.fit.residual + 1e-6)
    return all(fit.shape.name == block.fit.shape.name for fit in near)


def _component(C: Array, block: Block, columns: Array, D: Array, sizes: Array, free: int) -> Component:
    candidates = _candidates(C, block)
    members = np.array(block.members)  # (k,)
    best = candidates[0] if candidates else None
    fit = block.fit
    return Component(
        name=fit.shape.name if fit else UNKNOWN,
        variant=best.shape.variant if best else "",
        k=len(members),
        d=fit.shape.frame.shape[0] if fit else min(span(C[np.ix_(members, members)]), free),
        residual=best.residual if best else None,
        best=best.shape.name if best else None,
        runner_up=candidates[1].residual if len(candidates) > 1 else None,
        features=columns[members[fit.order] if fit else members],
        D_sum=float(D[members].sum()),
        norm_spread=float(sizes[members].max() / sizes[members].min()),
    )


def summary(found: Recognition) -> str:
    """Return one line such as ``8 digons + 1 pentagon + unknown(11 in 4-D)``; ``nothing learned`` for no component."""
    counts = Counter((c.name, c.k, c.d) for c in found.components)
    words = []
    for (name, k, d), count in counts.items():
        if name == UNKNOWN:
            words.append(f"{f'{count} × ' if count > 1 else ''}{UNKNOWN}({k} in {d}-D)")
        else:
            words.append(f"{count} {plural(name) if count > 1 else name}")
    return " + ".join(words) or "nothing learned"


def plural(name: str) -> str:
    """Return the plural of a library name: ``digons``, ``7-simplices``, ``icosahedra``."""
    for ending, many in (("simplex", "simplices"), ("hedron", "hedra")):
        if name.endswith(ending):
            return name.removesuffix(ending) + many
    return f"{name}s"


def stability(
    W: Array,
    *,
    eps: tuple[float, ...] = (0.1, 0.15, 0.2),
    threshold: float = THRESHOLD,
    features: Literal["columns", "rows"] = "columns",
    floor: float = 0.3,
) -> Stability:
    """Recognise ``W`` by connected components at each ``eps`` too, and say which components are always there."""
    auto = recognise(W, threshold=threshold, features=features, floor=floor)
    fixed = [recognise(W, eps=value, threshold=threshold, features=features, floor=floor) for value in eps]
    keys = [{(c.name, frozenset(c.features.tolist())) for c in found.components} for found in fixed]
    stable = tuple(all((c.name, frozenset(c.features.tolist())) in key for key in keys) for c in auto.components)
    return Stability(tuple(eps), tuple(summary(found) for found in fixed), stable)
