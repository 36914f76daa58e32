"""Files: what becomes of an autoencoder between a library and the next."""

import numpy as np

from minisae.backend import Array
from minisae.interop import folding
from minisae.ledger.base import Deviation, Shown, params_of
from minisae.ops import dense
from minisae.sae import linear, relu

SAELENS = ("SAELens", "6.54.12")


def transposed() -> Shown:
    """What latent 0 writes."""
    W_dec = np.array([[0.6, 0.8], [-0.8, 0.6]])  # (2, 2)
    params, f = params_of(np.eye(2), W_dec), np.array([[1.0, 0.0]])
    right, theirs = (linear.reconstruct(params | {"W_dec": W}, f)[0] for W in (W_dec, W_dec.T))
    return Shown("x̂ of latent 0", "d_in = d_sae = 2, row 0 of W_dec (0.6, 0.8)", tuple(right), tuple(theirs))


def b_dec_kept() -> Shown:
    """The code of a row that is b_dec."""
    params = params_of([[1]], [[1]], b_dec=[2])
    right, theirs = (
        float(dense(relu.encode(params, np.array([[2.0]]), relu.Config(1, 1, subtract_b_dec=how)))[0, 0])
        for how in (True, False)
    )
    return Shown("f", "x = b_dec = 2, weights 1, normalize_decoder true", right, theirs)


def no_latents() -> Shown:
    """The width that a file with an expansion factor says."""
    fields = {"d_in": 2, "expansion_factor": 32, "num_latents": 0}
    right = fields["num_latents"] or fields["d_in"] * fields["expansion_factor"]
    return Shown("d_sae", "d_in 2, expansion_factor 32, num_latents 0", float(right), float(fields["num_latents"]))


def scaled_features() -> Shown:
    """A feature of the same function, folded in two ways."""
    trained, s = params_of([[1]], [[1]], b_enc=[-0.5]), 4.0
    raw = trained | {name: trained[name] / s for name in ("b_enc", "b_dec")}

    def code(params: dict[str, Array]) -> float:
        return float(dense(relu.encode(params, np.array([[0.5]]), relu.Config(1, 1)))[0, 0])

    return Shown("f", "x ½, input scale 4, b_enc −½", code(raw), code(folding.input_scale(trained, s)))


def norm_forgotten() -> Shown:
    """By how much a code grows when a row does."""
    x = np.array([[1.0, 0.0, 2.0]])  # (1, 3)
    params, cfg = params_of(np.eye(3), np.eye(3)), relu.Config(3, 3)

    def growth(kind: str) -> float:
        one, ten = (
            dense(relu.encode(params, folding.normalise_rows(kind, rows, np)[0] if kind else rows, cfg)).sum()
            for rows in (x, 10 * x)
        )
        return float(ten / one)

    return Shown("code of 10 x over code of x", "x (1, 0, 2), weights 1", growth("layer_norm"), growth(""))


def zero_row_rescaled() -> Shown:
    """A row of zeros brought to norm √d."""
    x = np.zeros((1, 2))  # (1, 2)
    right = folding.normalise_rows("constant_norm_rescale", x, np)[0]  # (1, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        theirs = x * (2**0.5 / np.linalg.norm(x, axis=1, keepdims=True))  # (1, 2)
    return Shown("the row", "x (0, 0)", float(right[0, 0]), float(theirs[0, 0]))


ENTRIES = (
    Deviation(
        *SAELENS, "sparsify's decoder transposed",
        "The loader of sparsify's folders transposes W_dec, which stands there as (d_sae, d_in) already.",
        "loading/pretrained_sae_loaders.py", "latent 0 writes {theirs} for {right}; with d_sae ≠ d_in, loading fails",
        transposed,
    ),
    Deviation(
        *SAELENS, "sparsify's b_dec not subtracted",
        "The loader reads normalize_decoder as whether b_dec is left alone; sparsify always subtracts it.",
        "loading/pretrained_sae_loaders.py", "every code is off by b_dec W_enc: {theirs} for {right}", b_dec_kept,
    ),
    Deviation(
        *SAELENS, "sparsify's width read as 0",
        "The loader takes num_latents as it stands; there 0, the default, means expansion_factor times d_in.",
        "loading/pretrained_sae_loaders.py", "d_sae is {theirs} for {right}", no_latents,
    ),
    Deviation(
        *SAELENS, "features in scaled units",
        "Folding the input scale leaves the code in scaled units; dictionary_learning's leaves it in the activations'.",
        "saes/sae.py, fold_activation_norm_scaling_factor; dictionary.py, scale_biases",
        "the same function has features {ratio} times as large: the scale", scaled_features,
    ),
    Deviation(
        "OpenAI", "2024-06", "layer norm left out of training",
        "The released TopK autoencoders need layer-normalised rows: the model file sees to it, the trainer does not.",
        "issue 19; sparse_autoencoder/model.py, train.py",
        "without it the code scales with the row: {theirs} times for {right}", norm_forgotten, "read",
    ),
    Deviation(
        *SAELENS, "zero row rescaled", "constant_norm_rescale divides by the norm of a row, whatever it is.",
        "saes/sae.py", "a row of zeros becomes {theirs} for {right}", zero_row_rescaled,
    ),
)  # fmt: skip
"""Of files and of what is done to rows at run time."""
