"""Points that stand for many rows: the centroids of k-means (Lloyd 1982)."""

import numpy as np

from minisae.backend import Array
from minisae.ops import best_match, column_sum, scatter, weight_slope

ITERATIONS = 10


def centroids(x: Array, n_points: int, rng: np.random.Generator) -> Array:
    """Return ``(n_points, d_in)`` centroids of rows ``x (n, d_in)``, float64, on the host.

    Lloyd's iteration, ``ITERATIONS`` times, from rows drawn without replacement (with it, where there are too few). A
    centroid that is nearest to no row stays where it is.
    """
    rows = x.astype(np.float64)  # (n, d_in)
    ones = np.ones((len(rows), 1))  # (n, 1)
    points = rows[rng.choice(len(rows), n_points, replace=len(rows) < n_points)]  # (n_points, d_in)
    wide = np.concatenate((rows, ones), axis=1)  # (n, d_in+1)
    for _ in range(ITERATIONS):
        # ‖x − p‖² is least where ⟨x, p⟩ − ‖p‖²/2 is largest.
        offset = -(points * points).sum(axis=1, keepdims=True) / 2  # (n_points, 1)
        nearest = best_match(wide, np.concatenate((points, offset), axis=1))  # (n,)
        members = scatter(ones, nearest[:, None], n_points)  # (n, n_points)
        counts = column_sum(members)[:, None]  # (n_points, 1)
        points = np.where(counts > 0, weight_slope(members, rows) / np.maximum(counts, 1), points)  # (n_points, d_in)
    return points
