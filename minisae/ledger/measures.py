"""Metrics: five other numbers that have been called explained variance, and two that say less than they seem to."""

import numpy as np

from minisae import metrics
from minisae.ledger.base import Deviation, Shown
from minisae.metrics import reconstruction


def units_matter() -> Shown:
    """Explained variance in two units of the activations."""
    x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])  # (3, 2)
    right, theirs = (
        tuple(float(of(scale * x, scale * 0.8 * x)) for scale in (0.5, 2.0))
        for of in (metrics.pooled_r2, reconstruction.saebench_0_6_explained_variance)
    )
    return Shown(
        "explained variance", "rows ½(1, 0), ½(0, 1), ½(2, 2), x̂ 0.8 x, and four times as large", right, theirs
    )


def divided_twice() -> Shown:
    """The mean squared error of eight rows."""
    x = np.ones((8, 2))  # (8, 2)
    right = float(metrics.squared_error_per_row(x, 0 * x))
    return Shown("mse", "8 rows (1, 1), x̂ = 0", right, right / len(x))


def mean_of_ratios() -> Shown:
    """Each row off by 1, the rows at 2, 1 and 3 from their mean."""
    x = np.array([[0.0], [1.0], [5.0]])  # (3, 1)
    right, theirs = (float(of(x, x + 1)) for of in (metrics.pooled_r2, reconstruction.mean_of_ratios_legacy))
    return Shown("explained variance", "rows 0, 1, 5, x̂ = x + 1", right, theirs)


def bias_is_free() -> Shown:
    """A reconstruction that is off by the same vector everywhere."""
    x = np.array([[0.0], [1.0], [5.0]])  # (3, 1)
    right, theirs = (float(of(x, x + 1)) for of in (metrics.pooled_r2, reconstruction.frac_variance_explained))
    return Shown("explained variance", "rows 0, 1, 5, x̂ = x + 1", right, theirs)


def _mean_row(of: str) -> Shown:
    """Return what predicting the mean row scores."""
    x = np.array([[10.0, 1.0], [10.0, -1.0]])  # (2, 2)
    x_hat = np.broadcast_to(x.mean(axis=0), x.shape)  # (2, 2)
    right, theirs = (float(getattr(reconstruction, name)(x, x_hat)) for name in ("pooled_r2", of))
    return Shown("explained variance", "rows (10, 1), (10, −1), x̂ = (10, 0)", right, theirs)


def scalar_mean() -> Shown:
    """The mean row, judged about the mean of all entries."""
    return _mean_row("overcomplete_r2")


def about_zero() -> Shown:
    """The mean row, judged about zero."""
    return _mean_row("openai_about_zero")


def unmatched() -> Shown:
    """Four features, one of which was found."""
    truth = np.eye(4)  # (4, 4)
    right = metrics.coverage(truth, truth[:1])
    return Shown(
        "recovered", "4 features, one latent that is one of them", right,
        metrics.max_abs_correlation_coefficient(truth, truth[:1]),
    )  # fmt: skip


ENTRIES = (
    Deviation(
        "SAEBench", "0.6.0", "explained variance depends on units",
        "The denominator subtracts the square of a mean squared length from a mean squared length.",
        "evals/core", "the same reconstruction scores {theirs} in two units, for {right}", units_matter, "read",
    ),
    Deviation(
        "SAEBench", "0.6.0", "mse divided twice", "A mean over tokens is divided by their number again.",
        "SAELens issue 711; evals/core", "it falls with the number of tokens: {theirs} for {right}", divided_twice,
        "read",
    ),
    Deviation(
        "SAELens", "up to 6.39", "mean of ratios",
        "Explained variance was the mean of each row's ratio, so rows near the mean row weighed most.",
        "issues 443, 659, 665, 710; evals.py", "the same reconstruction scores {theirs} for {right}", mean_of_ratios,
        "read", "6.40, which keeps it as explained_variance_legacy",
    ),
    Deviation(
        "dictionary_learning", "0.1.0, 2025-08", "a bias is free",
        "frac_variance_explained takes the variance of the residual, about the residual's own mean.",
        "training.py, evaluation.py", "a constant error goes unseen: {theirs} for {right}", bias_is_free,
    ),
    Deviation(
        "overcomplete", "0.3.0", "variance about a number",
        "r2_score takes the variance about the mean of all entries, one number.", "metrics.py",
        "predicting the mean row scores {theirs} for {right}", scalar_mean,
    ),
    Deviation(
        "OpenAI", "2024-06", "variance about zero", "The normalised error divides by ‖x‖², not by the variance.",
        "sparse_autoencoder/loss.py", "predicting the mean row scores {theirs} for {right}", about_zero, "read",
    ),
    Deviation(
        "SAELens", "6.54.12", "MCC of the matched",
        "The mean over matched pairs of features and latents says nothing of those without a partner.",
        "synthetic/evals.py", "it is {theirs} where {right} of the features were found", unmatched,
    ),
)  # fmt: skip
"""Of metrics."""
