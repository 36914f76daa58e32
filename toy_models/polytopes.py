"""The polytopes that features of equal importance settle on, as frames, with the numbers that tell them apart.

A frame is ``(d, k)``: k unit columns in d dimensions. Features in superposition spread like charges on a sphere
(Elhage et al. 2022, "The Geometry of Superposition"), and break up into blocks that are orthogonal to each other,
each block a polytope: a *tegum product*. So the library holds what is left when products are taken apart: the
octahedron is three digons, the square two, a bipyramid a polygon and a digon.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from minisae.backend import Array, namespace, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.metrics.geometry import welch_bound
from toy_models import geometry

TIGHT_Z = 3**-0.5
"""Height of the square antiprism that is a tight frame: D = 3/8 exactly."""
COULOMB_Z = 0.560451
"""Height of the square antiprism that solves Thomson's problem for eight charges: D = .37438."""
LARGEST = 12
"""Most vertices of a library shape."""
LEVELS = (
    (3 / 8, "3/8 square antiprism"),
    (2 / 5, "2/5 pentagon"),
    (1 / 2, "1/2 digon"),
    (2 / 3, "2/3 triangle"),
    (3 / 4, "3/4 tetrahedron"),
    (1.0, "1   own dimension"),
)
"""Dimensions per feature of the shapes that training finds (Elhage et al. 2022, "The Geometry of Superposition")."""


class Shape(NamedTuple):
    """One reference: several variants may carry one name."""

    name: str
    variant: str
    """What tells it from others of its name, or empty."""
    frame: Array
    """Unit columns ``(d, k)``."""
    symmetries: int
    """Permutations of its vertices that leave every cosine as it is."""


class Facts(NamedTuple):
    """What a frame ``(d, k)`` of unit columns is told by."""

    k: int
    d: int
    D: Array
    """Dimensionality of each vertex ``(k,)``; d/k for a tight frame."""
    eigenvalues: Array
    """Nonzero eigenvalues of the Gram matrix, falling ``(d,)``; all k/d for a tight frame."""
    cosines: Array
    """From the first vertex to the others, falling ``(k-1,)``."""
    energy: float
    """Σ_{j≠i} ReLU(cos)², the interference of one active feature, mean over the vertices."""
    coherence: float
    welch: float
    """The least coherence that k vectors in d dimensions can have."""


def simplex(d: int) -> Array:
    """Return d+1 unit columns ``(d, d+1)`` with every cosine −1/d: point (d = 0, in 1-D), digon, triangle."""
    check_number("d", d, least=0, whole=True)
    if d == 0:
        return np.ones((1, 1))
    corners = np.eye(d + 1) - 1 / (d + 1)  # (d+1, d+1)
    frame = np.linalg.svd(corners)[2][:d] @ corners  # (d, d+1)
    return frame / np.linalg.norm(frame, axis=0)


def polygon(k: int) -> Array:
    """Return the regular k-gon ``(2, k)``, first vertex up, clockwise; k ≥ 3."""
    check_number("k", k, least=3, whole=True)
    angle = 2 * np.pi * np.arange(k) / k  # (k,)
    return np.stack([np.sin(angle), np.cos(angle)])


def square_antiprism(z: float = TIGHT_Z) -> Array:
    """Return the square antiprism ``(3, 8)`` with its squares at heights ±z, one turned by 45°; 0 < z < 1.

    Its vertices have D = 1/(4(1−z²)² + 8z⁴), at most 3/8, at z² = 1/3. The published "3/8" is that tight frame's value;
    eight charges on a sphere rest at z = .56045 (``COULOMB_Z``), where D = .37438.
    """
    if not 0 < z < 1:
        raise InputError(f"z: expected a height between 0 and 1, got {z!r}")
    angle = np.pi / 4 * np.arange(8)  # (8,)
    r = (1 - z * z) ** 0.5
    return np.stack([r * np.cos(angle), r * np.sin(angle), z * (-1.0) ** np.arange(8)])


def cube() -> Array:
    """Return the cube ``(3, 8)``: as many vertices, dimensions and the same spectrum as the square antiprism."""
    return np.array(list(product((1.0, -1.0), repeat=3))).T / 3**0.5


def icosahedron() -> Array:
    """Return the icosahedron ``(3, 12)``, cosines ±1/√5 and −1."""
    golden = (1 + 5**0.5) / 2
    signs = np.array(list(product((1.0, -1.0), repeat=2))) * [1, golden]  # (4, 2)
    flat = np.column_stack([np.zeros(4), signs])  # (4, 3)
    return np.concatenate([np.roll(flat, turn, axis=1) for turn in range(3)]).T / (1 + golden**2) ** 0.5


def cross_polytope(d: int) -> Array:
    """Return the cross-polytope ``(d, 2d)``, d digons: square for d = 2, octahedron for d = 3."""
    check_number("d", d, least=1, whole=True)
    return tegum(*[simplex(1)] * d)


def bipyramid(k: int) -> Array:
    """Return the k-gonal bipyramid ``(3, k+2)``: a k-gon and a digon; k = 3 is not 5 × 3/5 but 3 × 2/3 + 2 × 1/2."""
    return tegum(polygon(k), simplex(1))


def tegum(*frames: Array) -> Array:
    """Return the tegum product of frames ``(d, k)``: each in dimensions of its own, ``(Σd, Σk)``.

    Dimensionalities, eigenvalues and energies are those of the factors, for the factors do not interfere.
    """
    if not frames or any(np.ndim(frame) != 2 for frame in frames):
        raise InputError(f"frames: expected one or more matrices (d, k), got {[np.shape(f) for f in frames]}")
    return block_diag(*frames)


def relu_energy(frame: Array) -> Array:
    """Return Σ_{j≠i} ReLU(cos_ij)² of each column ``(k,)``: its interference, of which the negative is free.

    The second sum of the one-active-feature loss (Elhage et al. 2022, L₁) without bias, at equal norms.
    """
    xp = namespace(frame)
    cos = frame.T @ frame - xp.eye(frame.shape[1])  # (k, k)
    return (xp.maximum(cos, 0) ** 2).sum(axis=1)


def facts(frame: Array) -> Facts:
    """Return the numbers of a frame ``(d, k)`` of unit columns.

    Raises
    ------
    InputError
        If it is no matrix of finite numbers, or a column is not of norm 1.
    """
    frame = geometry.frame(to_host(frame), name="frame", batched=False)  # (d, k)
    d, k = frame.shape
    norms = geometry.norms(frame)  # (k,)
    if not np.allclose(norms, 1):
        raise InputError(f"frame: expected columns of norm 1, got norms from {norms.min():.3g} to {norms.max():.3g}")
    gram = frame.T @ frame  # (k, k)
    return Facts(
        k=k,
        d=d,
        D=geometry.dimensionality(frame),
        eigenvalues=np.linalg.eigvalsh(gram)[::-1][:d],
        cosines=np.sort(gram[0, 1:])[::-1],
        energy=float(relu_energy(frame).mean()),
        coherence=geometry.coherence(frame),
        welch=welch_bound(k, d),
    )


SIMPLICES = {0: "point", 1: "digon", 2: "triangle", 3: "tetrahedron", 4: "5-cell"}
POLYGONS = {5: "pentagon", 6: "hexagon", 7: "heptagon", 8: "octagon", 12: "dodecagon"}


def simplex_name(d: int) -> str:
    """Return ``triangle``, ``5-cell``, ``7-simplex`` and so on."""
    return SIMPLICES.get(d, f"{d}-simplex")


def polygon_name(k: int) -> str:
    """Return ``pentagon``, ``9-gon``, …; the triangle is a simplex and the square two digons."""
    return POLYGONS.get(k, f"{k}-gon")


def _library() -> tuple[Shape, ...]:
    factorials = np.cumprod([1, *range(1, LARGEST + 1)])  # (LARGEST+1,)
    simplices = (Shape(simplex_name(d), "", simplex(d), int(factorials[d + 1])) for d in range(LARGEST))
    polygons = (Shape(polygon_name(k), "", polygon(k), 2 * k) for k in range(5, LARGEST + 1))
    solids = (
        Shape("square antiprism", "tight", square_antiprism(), 16),
        Shape("square antiprism", "Coulomb", square_antiprism(COULOMB_Z), 16),
        Shape("cube", "", cube(), 48),
        Shape("icosahedron", "", icosahedron(), 120),
    )
    return *simplices, *polygons, *solids


LIBRARY = _library()
"""The references; every one has all its vertices alike."""


def named(name: str, *, variant: str = "") -> Shape:
    """Return a library shape; without ``variant`` the first of its name.

    Raises
    ------
    InputError
        For a name or variant that is not there, with the list.
    """
    found = [shape for shape in LIBRARY if shape.name == name and variant in ("", shape.variant)]
    if not found:
        names = ", ".join(dict.fromkeys(shape.name for shape in LIBRARY))
        raise InputError(f"name: expected one of {names}, got {name!r}" + (f" ({variant})" if variant else ""))
    return found[0]
