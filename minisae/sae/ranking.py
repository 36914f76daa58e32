"""What a selection ranks latents by: pre-activations, or what a latent would contribute to the reconstruction.

    rank = pre                                  "pre": Gao et al. 2024, arXiv:2406.04093, section 2.3
    rank = pre · ‖W_dec‖                        "contribution": SAELens, rescale_acts_by_decoder_norm
    f    = pre where rank is selected, 0 elsewhere

The code is the pre-activation in both, so ``x_hat = f W_dec + b_dec`` always. SAELens calls ``f · ‖W_dec‖`` the code
and divides by the norm to decode: the same reconstruction, loss and gradients (what it sends through the norm cancels),
but for a decoder row of norm 0, where SAELens has NaN. :func:`folded` gives the autoencoder whose code is SAELens'.
"""

from typing import Any

from minisae.backend import Array, namespace
from minisae.conventions import option
from minisae.ops import Code, row_norms, with_values

Params = dict[str, Array]


def rank(params: Params, pre: Array, cfg: Any) -> Array:
    """Return what latents are ranked by ``(n, d_sae)``: ``pre`` itself, or times the decoder norms."""
    if option(cfg, "select_by") == "pre":
        return pre
    return pre * row_norms(params["W_dec"])[..., None, :]


def code_of(selected: Code, ranked: Array, pre: Array) -> Code:
    """Return the code ``(n, d_sae)`` from what was selected of ``ranked (n, d_sae)``."""
    return selected if ranked is pre else with_values(selected, pre)


def rank_slope(params: Params, pre: Array, d_rank: Array) -> tuple[Array, Array]:
    """Return the slopes of ``rank = pre · ‖W_dec‖``: at ``pre (n, d_sae)`` and at ``W_dec (d_sae, d_in)``."""
    norms = row_norms(params["W_dec"])  # (d_sae,)
    unit = params["W_dec"] / namespace(norms).where(norms > 0, norms, 1)[..., None]  # (d_sae, d_in)
    d_norms = (d_rank * pre).sum(axis=-2)  # (d_sae,)
    return d_rank * norms[..., None, :], d_norms[..., None] * unit


def folded(params: Params, cfg: Any) -> tuple[Params, Any]:
    """Return parameters and configuration of the same autoencoder that selects by ``pre``, as SAELens saves it.

    The decoder norms go into the encoder. Reconstructions are the same; the code is multiplied by the norms, and a
    decoder row of norm 0 is left as it is, its latent silent.
    """
    if option(cfg, "select_by") == "pre":
        return params, cfg
    norms = row_norms(params["W_dec"])  # (d_sae,)
    W_dec = params["W_dec"] / namespace(norms).where(norms > 0, norms, 1)[..., None]  # (d_sae, d_in)
    encoder = {"W_enc": params["W_enc"] * norms[..., None, :], "b_enc": params["b_enc"] * norms}
    return params | encoder | {"W_dec": W_dec}, cfg._replace(select_by="pre")
