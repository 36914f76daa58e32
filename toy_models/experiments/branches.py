"""One odd feature: five features in two dimensions, one of them rarer or more common than the others.

Elhage et al. 2022, section "Non-uniform superposition": as one feature's density changes, the pentagon bends, until
two digons and a dead feature take over. Each of the two geometries is a branch of minima of the exact loss that can be
followed as density changes; their losses cross, which makes the change a first-order transition. Where they cross is
the exact answer; the paper's figure shows where training changes over, which is elsewhere. With eight nodes and at most
three active features it is at relative density 0.257 if the dead feature of the digons is left silent, and at 0.261 if
its bias is free, which makes their loss lower by p²/4 of that feature's p; fine rules say 0.269.

The odd feature is number 0. Letters: steps t along a branch, n_feat = 5.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from minisae.backend import Array, to_host
from minisae.errors import InputError
from minisae.streams import generator
from toy_models import exact, polygons
from toy_models.experiments import dynamics
from toy_models.models import Config, Params

CONFIG = Config(5, 2)
GEOMETRIES = ("pentagon", "digons")
NODES = (32, 24, 12, 6, 4)
"""Gauss–Legendre nodes of patterns with one, two, … active features: 30,705 rows. Eight nodes a feature are too few:
minima settle between them, the crossover is 0.261 (here 0.2686, with ten times the rows 0.2690), and the pentagon's
bias at equal densities −0.236 (here −0.248, which is this rule's: it converges to −0.2463, see ``exact``)."""

THERE = 0.3
"""Norm from which the odd feature is represented."""

NUDGE = 0.05
"""Disturbance of W that a geometry must survive."""


class Branch(NamedTuple):
    """A geometry, followed through relative densities of the odd feature."""

    ratio: Array
    """``(t,)``"""
    loss: Array
    """``(t,)``; NaN where the branch has ended, that is, led into the other geometry."""
    W: Array
    """``(t, 2, 5)``, each turned to lie on the one before, from the odd feature up; past a branch's end, what it led
    to."""
    b: Array
    """``(t, 5)``"""


def branch(
    geometry: str, ratios: Sequence[float] | Array, *, density: float = 0.05, nodes: int | Sequence[int] = NODES,
    max_active: int = 5, seed: int = 0,
) -> Branch:  # fmt: skip
    """Follow a geometry through ``ratios`` in the order given, each minimum being the start of the next search.

    Each search is made twice, once from W disturbed by 0.05: where that leads into the other geometry, the branch ends.

    Parameters
    ----------
    geometry : ``"pentagon"``, or ``"digons"``: four features in two pairs, the odd one dead
    ratios : densities of the odd feature, relative to ``density``, that of the others
    nodes, max_active : as in :func:`toy_models.exact.batch`
    seed : of the disturbance

    Raises
    ------
    InputError
        If the geometry is unknown, the ratios are no list, or a density falls outside (0, 1].
    """
    rng = generator(seed, "toy_init")
    ratio = np.asarray(to_host(ratios), dtype=np.float64)  # (t,)
    if ratio.ndim != 1 or not ratio.size:
        raise InputError(f"ratios: expected one row of numbers, got shape {ratio.shape}")
    params, losses, W, b = start(geometry), [], [], []
    for at in ratio:
        nudged = {"W": params["W"] + NUDGE * rng.standard_normal((1, 2, 5)), "b": params["b"]}
        tried = [_settle(near, at, density, nodes, max_active) for near in (params, nudged)]
        gone = [_there(found) != (geometry == "pentagon") for found, _ in tried]
        found, loss = tried[gone.index(True)] if any(gone) else min(tried, key=lambda one: one[1])
        params = {"W": dynamics.align(found["W"], to=params["W"][0]), "b": found["b"]}
        losses.append(np.nan if any(gone) else loss)
        W.append(params["W"][0])
        b.append(params["b"][0])
    return Branch(ratio, np.array(losses), np.array(W), np.array(b))


def _there(params: Params) -> bool:
    """Whether the odd feature is represented."""
    return bool(np.linalg.norm(params["W"][0, :, 0]) > THERE)


def _settle(
    params: Params, ratio: float, density: float, nodes: int | Sequence[int], max_active: int
) -> tuple[Params, float]:
    """Return the minimum next to ``params (1, …)``, and its loss.

    A dead odd feature starts from its mean, p/2: below bias 0 its unit is never on, and no slope would bring it back.
    """
    p = np.full(5, float(density))  # (n_feat,)
    p[0] *= ratio
    if not _there(params):
        params = {**params, "b": np.concatenate([[[p[0] / 2]], params["b"][:, 1:]], axis=1)}
    found, loss = exact.minimise(CONFIG, params, exact.batch(p, nodes=nodes, max_active=max_active))
    return found, float(loss[0])


def start(geometry: str) -> Params:
    """Return the geometry for equal features ``(1, …)``, by one active feature: the odd one up, or dead."""
    if geometry not in GEOMETRIES:
        raise InputError(f"geometry: expected one of {', '.join(GEOMETRIES)}, got {geometry!r}")
    if geometry == "digons":
        return {"W": np.array([[[0.0, 1, -1, 0, 0], [0, 0, 0, 1, -1]]]), "b": np.zeros((1, 5))}
    W, b = polygons.polygon_params(5, 5)
    return {"W": W[None], "b": b[None]}


def crossover(
    *, between: tuple[float, float] = (0.2, 0.4), density: float = 0.05, nodes: int | Sequence[int] = NODES,
    max_active: int = 5,
) -> tuple[float, float]:  # fmt: skip
    """Return the relative density at which pentagon and digons have the same exact loss, and that loss.

    Both are found anew at each trial of the root search (Brent's method, to 1e-4).

    Raises
    ------
    InputError
        If their order is the same at both ends of ``between``.
    """

    def losses(ratio: float) -> list[float]:
        return [_settle(start(geometry), ratio, density, nodes, max_active)[1] for geometry in GEOMETRIES]

    def difference(ratio: float) -> float:
        pentagon, digons = losses(ratio)
        return pentagon - digons

    if np.shape(between) != (2,) or not difference(between[0]) * difference(between[1]) <= 0:
        raise InputError(f"between: expected ends at which the order of the losses differs, got {between}")
    ratio = float(brentq(difference, *between, xtol=1e-4))
    return ratio, losses(ratio)[0]
