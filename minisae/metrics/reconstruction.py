"""How well ``x_hat`` stands for ``x``: errors, and six numbers that have all been called explained variance.

With r_i = Σ_d (x_i − x̂_i)², v_i = Σ_d (x_i − x̄)², x̄ the mean row, sums over all n rows:

    pooled_r2                         1 − Σ r / Σ v
    mean_of_ratios_legacy             mean_i (1 − r_i / v_i)
    frac_variance_explained           1 − Σ_d var(x − x̂) / Σ_d var(x)
    saebench_0_6_explained_variance   1 − mean r / (E‖x‖² − (E‖x‖² / d)²)
    overcomplete_r2                   1 − Σ r / Σ (x − scalar mean)²
    openai_about_zero                 1 − mean_i (r_i / ‖x_i‖²)

Only the first is recommended. The others are here so that published numbers can be reproduced and told apart. All take
``x, x_hat (n, d_in)``, compute in float64 and return a 0-d array, nan where a denominator is 0. A mean of ratios leaves
out the rows at which its denominator is 0.
"""

from types import ModuleType

from minisae.backend import Array, namespace
from minisae.errors import InputError


def squared_error_per_row(x: Array, x_hat: Array) -> Array:
    """Return ``mean_i Σ_d (x − x̂)²``, squared activation units; the loss of SAELens and dictionary_learning."""
    x, x_hat = float_pair(x, x_hat)
    return row_errors(x, x_hat).mean()


def squared_error_per_element(x: Array, x_hat: Array) -> Array:
    """Return ``mean_{i,d} (x − x̂)²``, squared activation units; the error of openai/sparse_autoencoder."""
    return squared_error_per_row(x, x_hat) / x.shape[1]


def pooled_r2(x: Array, x_hat: Array) -> Array:
    """Return ``1 − Σ_i r_i / Σ_i v_i``: the share of all variance about the mean row that is explained.

    SAELens' evaluation from 6.40 on, sparsify's 1 − FVU, and 1 minus the scaled error of OpenAI's trainer. 0 for
    predicting the mean row; a constant bias counts as error.
    """
    x, x_hat = float_pair(x, x_hat)
    return 1 - ratio(namespace(x), row_errors(x, x_hat).sum(), row_errors(x, x.mean(axis=0)).sum())


def mean_of_ratios_legacy(x: Array, x_hat: Array) -> Array:
    """Return ``mean_i (1 − r_i / v_i)``: rows close to the mean row weigh most.

    SAELens' evaluation until 6.39, and ``explained_variance_legacy`` of SAEBench (the paper's number).
    """
    x, x_hat = float_pair(x, x_hat)
    return 1 - mean_ratio(namespace(x), row_errors(x, x_hat), row_errors(x, x.mean(axis=0)))


def frac_variance_explained(x: Array, x_hat: Array) -> Array:
    """Return ``1 − Σ_d var(x − x̂) / Σ_d var(x)``, variances over rows.

    dictionary_learning, which takes it batch by batch and averages. It centres the residual, so a constant bias in
    ``x_hat`` is free.
    """
    x, x_hat = float_pair(x, x_hat)
    return 1 - ratio(namespace(x), (x - x_hat).var(axis=0).sum(), x.var(axis=0).sum())  # n or n - 1: it cancels


def saebench_0_6_explained_variance(x: Array, x_hat: Array) -> Array:
    """Return ``1 − mean_i r_i / (E‖x‖² − (E‖x‖² / d)²)``, with ``d = d_in``.

    ``explained_variance`` of SAEBench 0.6.0's core evaluation. The denominator subtracts the square of a squared length
    from a squared length, so the number depends on the units of x, and exceeds 1 once E‖x‖² > d².
    """
    x, x_hat = float_pair(x, x_hat)
    power = (x * x).sum(axis=1).mean()  # ()
    return 1 - ratio(namespace(x), row_errors(x, x_hat).mean(), power - (power / x.shape[1]) ** 2)


def overcomplete_r2(x: Array, x_hat: Array) -> Array:
    """Return ``1 − Σ r / Σ_{i,d} (x − m)²``, m the mean of all entries; ``r2_score`` of overcomplete.

    A mean row that is not constant counts as variance explained.
    """
    x, x_hat = float_pair(x, x_hat)
    return 1 - ratio(namespace(x), row_errors(x, x_hat).sum(), row_errors(x, x.mean()).sum())


def openai_about_zero(x: Array, x_hat: Array) -> Array:
    """Return ``1 − mean_i (r_i / ‖x_i‖²)``: 1 minus the normalised error of openai/sparse_autoencoder's ``loss.py``.

    About zero, so a large mean row makes it look good.
    """
    x, x_hat = float_pair(x, x_hat)
    return 1 - mean_ratio(namespace(x), row_errors(x, x_hat), (x * x).sum(axis=1))


def l2_ratio(x: Array, x_hat: Array) -> Array:
    """Return ``mean_i ‖x̂_i‖ / ‖x_i‖``; below 1 means shrinkage (dictionary_learning, SAEBench)."""
    x, x_hat = float_pair(x, x_hat)
    xp = namespace(x)
    return mean_ratio(xp, xp.sqrt((x_hat * x_hat).sum(axis=1)), xp.sqrt((x * x).sum(axis=1)))


def relative_reconstruction_bias(x: Array, x_hat: Array) -> Array:
    """Return ``mean ‖x̂‖² / mean ⟨x, x̂⟩``; below 1 means shrinkage (γ of Rajamanoharan et al. 2024, arXiv:2404.16014).

    Dividing ``x_hat`` by it minimises the squared error.
    """
    x, x_hat = float_pair(x, x_hat)
    return ratio(namespace(x), (x_hat * x_hat).sum(), (x * x_hat).sum())


def cosine_similarity(x: Array, x_hat: Array) -> Array:
    """Return ``mean_i cos(x_i, x̂_i)``; 0 for a row of zeros."""
    x, x_hat = float_pair(x, x_hat)
    return row_cosines(x, x_hat).mean()


def row_cosines(x: Array, x_hat: Array) -> Array:
    """Return the cosine of each pair of rows ``(n,)``; 0 where one is zero."""
    xp = namespace(x)
    norms = xp.sqrt((x * x).sum(axis=1) * (x_hat * x_hat).sum(axis=1))  # (n,)
    return (x * x_hat).sum(axis=1) / xp.where(norms > 0, norms, 1)


def ratio(xp: ModuleType, top: Array, bottom: Array) -> Array:
    """Return ``top / bottom`` of 0-d arrays, nan where ``bottom`` is 0."""
    return xp.where(bottom == 0, xp.nan, top / xp.where(bottom == 0, 1, bottom))


def mean_ratio(xp: ModuleType, top: Array, bottom: Array) -> Array:
    """Return the mean of ``top / bottom``, both ``(n,)``, over the rows at which ``bottom`` is not 0."""
    kept = bottom != 0  # (n,)
    return ratio(xp, xp.where(kept, top / xp.where(kept, bottom, 1), 0).sum(), kept.sum())


def row_errors(x: Array, y: Array) -> Array:
    """Return ``Σ_d (x − y)²`` of each row ``(n,)``; ``y`` broadcasts."""
    e = x - y  # (n, d_in)
    return (e * e).sum(axis=1)


def float_pair(x: Array, x_hat: Array) -> tuple[Array, Array]:
    """Check a pair ``(n, d_in)`` and return it in float64."""
    if x.ndim != 2 or x.shape != x_hat.shape or not x.size:
        raise InputError(f"x_hat: expected the shape (n, d_in) of x, not empty, got {x_hat.shape} for {x.shape}")
    return x.astype("float64"), x_hat.astype("float64")
