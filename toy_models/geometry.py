"""How features share dimensions: dimensionality, leverage, superposition, and the graph of their cosines.

A frame is ``W (n_hid, n_feat)``: a feature is a column; where a docstring says ``(..., n_hid, n_feat)`` leading
axes (instances) are allowed. Elhage et al. 2022, "The Geometry of Superposition":

    D_i = ‖W_i‖² / Σ_j (Ŵ_i·W_j)²            the share of a dimension that feature i has
    D*  = n_hid / ‖W‖_F²                     dimensions for each feature that is learned

With F = W Wᵀ the first is ‖W_i‖⁴ / (W_iᵀ F W_i), and Cauchy and Schwarz give the theorem of :func:`packing`.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.sparse.csgraph import connected_components

from minisae.backend import Array, namespace, to_host
from minisae.conventions import check_number
from minisae.errors import InputError

Convention = Literal["text", "legend", "code"]


class Packing(NamedTuple):
    """Dimensionality beside leverage; the theorem says ``D ≤ leverage`` for every column."""

    D: Array
    """``(..., n_feat)``."""
    leverage: Array
    """``(..., n_feat)``; the sum is the rank."""
    rank: Array
    """``(...)``."""
    unused: Array
    """``(...)``: rank − ΣD ≥ 0, the dimensions lost to packing; 0 for a product of tight frames."""


def frame(W: Array, *, name: str = "W", batched: bool = True) -> Array:
    """Return ``W`` after checking that it can be a frame: ``(n_hid, n_feat)``, finite, no axis empty.

    Whole numbers become float64, and half precision float32.

    Raises
    ------
    InputError
        If it is not; with ``batched`` leading axes are allowed.
    """
    shape = getattr(W, "shape", None)
    wanted = "(..., n_hid, n_feat)" if batched else "(n_hid, n_feat)"
    if shape is None or not (len(shape) >= 2 if batched else len(shape) == 2) or 0 in shape:
        raise InputError(f"{name}: expected an array {wanted}, not empty, got {shape or type(W).__name__}")
    if W.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected real numbers, got dtype {W.dtype}")
    bad = int((~namespace(W).isfinite(W)).sum())
    if bad:
        raise InputError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite")
    if W.dtype.kind == "f":
        return W if W.dtype.itemsize > 2 else W.astype("float32")
    return W.astype("float64")


def _largest(W: Array, axis: int | tuple[int, int]) -> Array:
    """Return the largest |entry| along axes, which stay with length 1; 1 where all are zero.

    Divided by it, entries of any size have squares that neither overflow nor vanish.
    """
    top = abs(W).max(axis=axis, keepdims=True)  # (..., 1, n_feat_or_1)
    return namespace(W).where(top > 0, top, 1)


def norms(W: Array) -> Array:
    """Return ‖W_i‖ of each column ``(..., n_feat)``."""
    top = _largest(W, -2)  # (..., 1, n_feat)
    scaled = W / top  # (..., n_hid, n_feat)
    return namespace(W).sqrt((scaled * scaled).sum(axis=-2)) * top[..., 0, :]


def unit_columns(W: Array) -> Array:
    """Return the columns scaled to norm 1, shape of ``W``; a column of zeros stays zero."""
    scaled = W / _largest(W, -2)  # (..., n_hid, n_feat)
    size = norms(scaled)[..., None, :]  # (..., 1, n_feat)
    return scaled / namespace(W).where(size > 0, size, 1)


def cosines(W: Array) -> Array:
    """Return Ŵ_i·Ŵ_j ``(..., n_feat, n_feat)``, signs kept; zero for a column of zeros."""
    unit = unit_columns(frame(W))  # (..., n_hid, n_feat)
    return namespace(unit).clip(unit.swapaxes(-1, -2) @ unit, -1, 1)


def coherence(W: Array) -> float:
    """Return the largest |cosine| between two columns of one frame ``(n_hid, n_feat)``; 0 for a single column."""
    cos = abs(cosines(frame(W, batched=False)))  # (n_feat, n_feat)
    own = namespace(W).arange(len(cos))  # (n_feat,)
    cos[own, own] = 0
    return float(cos.max())


def dimensionality(W: Array) -> Array:
    """Return D_i = ‖W_i‖² / Σ_j (Ŵ_i·W_j)² of each column ``(..., n_feat)``, in [0, 1]; 0 for a column of zeros.

    The sum runs over all j, i included. Elhage et al. 2022, "The Geometry of Superposition". It is computed as
    1 / (1 + Σ_{j≠i} (Ŵ_i·W_j / ‖W_i‖)²), which stays in [0, 1] for entries of any size.
    """
    W, xp = frame(W), namespace(W)
    W = W / _largest(W, (-2, -1))  # (..., n_hid, n_feat)
    size = norms(W)[..., None]  # (..., n_feat, 1)
    off = 1 - xp.eye(W.shape[-1], dtype=W.dtype)  # (n_feat, n_feat)
    with np.errstate(over="ignore"):  # beside far longer columns it overlaps with, a column has no share
        ratio = (unit_columns(W).swapaxes(-1, -2) @ W) / xp.where(size > 0, size, 1)  # (..., n_feat, n_feat)
        others = (ratio**2 * off).sum(axis=-1)  # (..., n_feat)
    return (size[..., 0] > 0) / (1 + others)


def capacity(W: Array) -> Array:
    """Return C_i = (W_i·W_i)² / Σ_j (W_i·W_j)², ``(..., n_feat)``: the same number as :func:`dimensionality`.

    Scherlis et al. 2022 (arXiv:2210.01892): 1 for a feature alone in its dimension, 0 for one that is ignored, and
    ΣC ≤ n_hid.
    """
    return dimensionality(W)


def dimensions_per_feature(W: Array) -> Array:
    """Return D* = n_hid / ‖W‖_F² ``(...)``; infinite where nothing is learned.

    ‖W‖_F² counts learned features while norms are near 1. At high sparsity norms grow past 1 and D* is too small;
    ΣD over the number of :func:`learned` features has no such error.
    """
    W, xp = frame(W), namespace(W)
    size = norms(norms(W)[..., None])[..., 0]  # (...,), Frobenius norm
    safe = xp.where(size > 0, size, 1)  # (...,)
    with np.errstate(over="ignore"):  # of entries near 0 it is infinite too
        return xp.where(size > 0, W.shape[-2] / safe / safe, xp.inf)


def leverage(W: Array, *, rtol: float = 1e-6) -> Array:
    """Return h_i = W_iᵀ F⁺ W_i with F = W Wᵀ, ``(..., n_feat)``: how much of column i is a direction of its own.

    h_i is also the R² of the best linear probe for feature i on h = W x, for independent features of equal variance.
    Singular values up to ``rtol`` times the largest count as zero.
    """
    return _leverage_and_rank(W, rtol)[0]


def _leverage_and_rank(W: Array, rtol: float) -> tuple[Array, Array]:
    W, xp = frame(W), namespace(W)
    _, size, right = xp.linalg.svd(W / _largest(W, (-2, -1)), full_matrices=False)
    kept = (size > rtol * size[..., :1]) & (size > 0)  # (..., r)
    return (right**2 * kept[..., None]).sum(axis=-2), kept.sum(axis=-1)


def packing(W: Array, *, rtol: float = 1e-6) -> Packing:
    """Return D and leverage of each column, for the theorem **D_i ≤ h_i, Σ_i h_i = rank W ≤ n_hid**.

    Proof: with g = F^½ W_i and f = F^{−½} W_i, ‖W_i‖⁴ = (g·f)² ≤ ‖g‖²‖f‖² = (W_iᵀFW_i) h_i. Equal for all i exactly if
    every W_i is an eigenvector of F, which is a tegum product of tight frames. So ΣD = n_hid says "packed without
    waste", and ``unused`` says how much is wasted. (The paper observed the sum; capacities: Scherlis et al. 2022.)
    """
    D = dimensionality(W)  # (..., n_feat)
    h, rank = _leverage_and_rank(W, rtol)
    return Packing(D, h, rank, rank - D.sum(axis=-1))


def superposition(W: Array, *, convention: Convention = "text") -> Array:
    """Return how much the other features overlap with each, ``(..., n_feat)``; 0 for a column of zeros.

    The paper has three measures under one name, in its basic-results figure and the text beside it:

    - ``"text"``: Σ_{j≠i} (Ŵ_i·W_j)², as defined there;
    - ``"legend"``: Σ_j (x̂_i·x_j)², as the legend prints it: the sum has j = i, so it is the text's + ‖W_i‖²;
    - ``"code"``: the square root of the text's with W_i / (‖W_i‖ + 1e-5), the colour that the notebook draws.

    Raises
    ------
    InputError
        For another convention.
    """
    if convention not in get_args(Convention):
        raise InputError(f"convention: expected one of {', '.join(get_args(Convention))}, got {convention!r}")
    W, xp = frame(W), namespace(W)
    size = norms(W)  # (..., n_feat)
    safe = size + 1e-5 if convention == "code" else xp.where(size > 0, size, 1)  # (..., n_feat)
    unit = W / safe[..., None, :]  # (..., n_hid, n_feat)
    overlap = (unit.swapaxes(-1, -2) @ W) ** 2  # (..., n_feat, n_feat)
    if convention != "legend":
        overlap = overlap * (1 - xp.eye(W.shape[-1], dtype=W.dtype))  # (..., n_feat, n_feat)
    total = overlap.sum(axis=-1)  # (..., n_feat)
    return xp.sqrt(total) if convention == "code" else total


def learned(W: Array, *, share: float = 0.35, floor: float = 0.3) -> Array:
    """Return which columns of one frame are features that the model represents, bool ``(n_feat,)``.

    Those longer than ``share`` times the median length of the columns longer than ``floor``; none if none is.

    Raises
    ------
    InputError
        If ``share`` or ``floor`` is negative or no finite number.
    """
    check_number("share", share, least=0)
    check_number("floor", floor, least=0)
    size = norms(frame(W, batched=False))  # (n_feat,)
    long = size[size > floor]  # (n_long,)
    return size > share * namespace(W).median(long) if len(long) else size > floor


def components(W: Array, *, eps: float = 0.12) -> Array:
    """Return the component of each column in the graph of |cosine| > eps, whole numbers from 0 ``(n_feat,)``, on host.

    Components are numbered by their first column.
    """
    if not 0 <= eps < 1:
        raise InputError(f"eps: expected a number in [0, 1), got {eps!r}")
    cos = abs(to_host(cosines(frame(W, batched=False))))  # (n_feat, n_feat)
    labels = connected_components(cos > eps, directed=False)[1]  # (n_feat,)
    first = np.unique(labels, return_index=True)[1]  # (n_comp,)
    return np.argsort(np.argsort(first))[labels]


def canonical(W: Array, *, sort: bool = False) -> Array:
    """Return ``W (2 or 3, n_feat)`` turned and mirrored to one standard position, float64 on host: for pictures.

    In 2-D the longest column points up and the next, not parallel to it, lies to its right (clockwise). In 3-D the
    longest points up (third axis), the next has no second coordinate and points to the right, and the third lies
    clockwise of it seen from above. Of equal lengths the first column counts as longer. Columns keep their order; with
    ``sort`` they go clockwise, from up in 2-D, from the right seen from above in 3-D.

    Raises
    ------
    InputError
        For another number of dimensions.
    """
    W = np.asarray(to_host(frame(W, batched=False)), dtype=np.float64)  # (n_hid, n_feat)
    n_hid = len(W)
    if n_hid not in (2, 3):
        raise InputError(f"W: expected 2 or 3 hidden dimensions, got {n_hid}")
    basis = np.zeros((0, n_hid))  # (rank, n_hid)
    longest = W[:, np.argsort(-np.round(norms(W), 9), kind="stable")]  # (n_hid, n_feat)
    for column in np.concatenate([longest.T, np.eye(n_hid)]):  # the axes fill up what W does not span
        rest = column - basis.T @ (basis @ column)  # (n_hid,)
        if len(basis) < n_hid and np.linalg.norm(rest) > 1e-6 * float(np.linalg.norm(column)):
            basis = np.concatenate([basis, rest[None] / np.linalg.norm(rest)])  # (rank_now, n_hid)
    axes = basis[[1, 0]] if n_hid == 2 else basis[[1, 2, 0]] * np.array([[1], [-1], [1]])  # (n_hid, n_hid)
    turned = axes @ W  # (n_hid, n_feat)
    if not sort:
        return turned
    right, start = np.round(turned[:2] if n_hid == 2 else [-turned[1], turned[0]], 9) + 0.0  # no -0.0, which is at π
    angle = np.round(np.arctan2(right, start), 9)  # (n_feat,)
    return turned[:, np.argsort(angle % round(2 * np.pi, 9), kind="stable")]
