"""What a sparse autoencoder must beat."""

from minisae.baselines.pca import PCA, PCATopK, fit

__all__ = ["PCA", "PCATopK", "fit"]
