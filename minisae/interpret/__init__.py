"""Looking at a trained autoencoder: contexts in which latents fire, and pictures."""

from minisae.interpret.contexts import Context, Firing, LatentPage, firing, latent_page, marked

__all__ = ["Context", "Firing", "LatentPage", "firing", "latent_page", "marked"]
