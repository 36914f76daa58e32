"""Principal components: the best linear reconstruction from k numbers a row, and k of d chosen row by row.

    z = (x − mean) Uᵀ          x̂ = z U + mean          U (k, d_in): eigenvectors of the covariance, largest first

:class:`PCA` spends its k numbers on the same k directions in every row, where a sparse autoencoder chooses its k anew.
:class:`PCATopK` may choose too: it keeps the k largest of all d_in coefficients of each row. Both have ``encode`` and
``decode`` like an autoencoder, so everything that measures one measures them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, namespace, to_device, to_host
from minisae.errors import InputError


class PCA(NamedTuple):
    """The first k principal components."""

    mean: Array
    """``(d_in,)``."""
    components: Array
    """Orthonormal rows, largest variance first ``(k, d_in)``."""
    variances: Array
    """Variance of the data along each component, with n − 1 ``(k,)``."""
    total_variance: float
    """Sum of the variances along all ``d_in`` directions."""

    def encode(self, x: Array) -> Array:
        """Return the coefficients ``(n, k)`` of ``x (n, d_in)``."""
        return (x - self.mean) @ self.components.T

    def decode(self, f: Array) -> Array:
        """Return the reconstruction ``(n, d_in)`` from coefficients ``(n, k)``."""
        return f @ self.components + self.mean


class PCATopK(NamedTuple):
    """Principal components of which each row uses the ``k`` with the largest coefficients."""

    pca: PCA
    """With as many components as each row may choose from."""
    k: int

    def encode(self, x: Array) -> Array:
        """Return the coefficients ``(n, d_sae)`` of ``x (n, d_in)``, all but the ``k`` largest by magnitude set to 0.

        Ties go to the component of larger variance.
        """
        z = self.pca.encode(x)  # (n, d_sae)
        xp = namespace(z)
        rank = xp.argsort(xp.argsort(-abs(z), axis=1, kind="stable"), axis=1, kind="stable")  # (n, d_sae)
        return xp.where(rank < self.k, z, 0)

    def decode(self, f: Array) -> Array:
        """Return the reconstruction ``(n, d_in)`` from coefficients ``(n, d_sae)``."""
        return self.pca.decode(f)


def fit(chunks: Iterable[Array], k: int) -> PCA:
    """Fit ``k`` principal components to rows that come in chunks ``(rows, d_in)``, in one pass.

    Moments are gathered in float64 and merged without cancellation (Chan, Golub and LeVeque 1983); they hold
    ``d_in²`` numbers. Results are float64 if the chunks are, else float32. The entry of largest magnitude of each
    component is positive.

    Raises
    ------
    InputError
        If there are fewer than two rows, their widths differ, or ``k`` is not from 1 to ``d_in``.
    """
    total, dtype = None, "float64"
    for chunk in chunks:
        if chunk.ndim != 2 or (total is not None and chunk.shape[1] != len(total.mean)):
            raise InputError(f"chunks: expected matrices of one width, got shape {chunk.shape}")
        if len(chunk):
            own = _moments(chunk.astype("float64"))
            total = own if total is None else _merge(total, own)
            dtype = "float64" if chunk.dtype == "float64" else "float32"
    if total is None or total.rows < 2:
        raise InputError(f"chunks: expected at least 2 rows, got {0 if total is None else total.rows}")
    if not 1 <= k <= len(total.mean):
        raise InputError(f"k: expected a number from 1 to d_in = {len(total.mean)}, got {k}")
    covariance = total.scatter / (total.rows - 1)  # (d_in, d_in)
    variances, components = _principal(covariance, k)
    return PCA(total.mean.astype(dtype), components.astype(dtype), variances.astype(dtype), float(covariance.trace()))


class _Moments(NamedTuple):
    rows: int
    mean: Array
    """``(d_in,)``."""
    scatter: Array
    """Sum of outer products about the mean ``(d_in, d_in)``."""


def _moments(x: Array) -> _Moments:
    mean = x.mean(axis=0)  # (d_in,)
    centred = x - mean  # (n, d_in)
    return _Moments(len(x), mean, centred.T @ centred)


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """Return the moments of both sets of rows together."""
    step = b.mean - a.mean  # (d_in,)
    rows = a.rows + b.rows
    between = step[:, None] * step * (a.rows * b.rows / rows)  # (d_in, d_in)
    return _Moments(rows, a.mean + step * (b.rows / rows), a.scatter + b.scatter + between)


def _principal(covariance: Array, k: int) -> tuple[Array, Array]:
    """Return the ``k`` largest eigenvalues ``(k,)`` and their eigenvectors as rows ``(k, d_in)``.

    Solved on the host, so that near-equal eigenvalues give the same basis on every backend.
    """
    backend = backend_of(covariance)
    values, vectors = np.linalg.eigh(to_host(covariance))
    components = vectors.T[::-1][:k]  # (k, d_in)
    largest = np.take_along_axis(components, abs(components).argmax(axis=1)[:, None], axis=1)  # (k, 1)
    components = components * np.sign(largest)  # (k, d_in)
    return to_device(np.maximum(values[::-1][:k], 0), backend), to_device(components, backend)
