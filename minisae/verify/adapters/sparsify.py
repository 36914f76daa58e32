"""sparsify 1.3.3 through its ``SparseCoder``: TopK, whose encoder is differentiated by its own rule."""

from typing import Any

import numpy as np
import torch
from sparsify.config import SparseCoderConfig
from sparsify.sparse_coder import SparseCoder

from minisae.verify.adapters._autograd import Arrays, Places, fill, gradients, numbers, probed, tensor

CONVENTIONS = {"topk": {"preset": "sparsify-1.3.3/topk", "auxk": 0.375}}
"""Its default has AuxK off; with a weight it is compared too."""
TIED = ("ties", "negative row", "at the edge", "dead latent", "x = b_dec")
KNOWN = {"topk": dict.fromkeys(TIED, "ReLU comes first, and torch takes any of equal entries, zeros among them")}


def model(params: Arrays, config: dict[str, Any]) -> tuple[Any, Places]:
    """Return their autoencoder with our parameters in it."""
    coder = SparseCoder(config["d_in"], SparseCoderConfig(num_latents=config["d_sae"], k=config["k"]))
    places = {
        "W_enc": (coder.encoder.weight, True), "b_enc": (coder.encoder.bias, False), "W_dec": (coder.W_dec, False),
        "b_dec": (coder.b_dec, False),
    }  # fmt: skip
    fill(places, params)
    return coder, places


def spread(values: Any, columns: Any, width: int) -> Any:
    """Return selected values ``(n, k)`` as a code ``(n, width)``."""
    return torch.zeros(len(values), width, dtype=values.dtype).scatter(-1, columns, values)


def outputs(coder: Any, x: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return what their forward pass has of our outputs; pre-activations have passed ReLU there."""
    found = coder(x)
    return {"x_hat": found.sae_out, "f": spread(found.latent_acts, found.latent_indices, config["d_sae"])}


def encode(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the code ``(n, d_sae)``."""
    found = model(params, config)[0].encode(tensor(x))
    return numbers({"f": spread(found.top_acts, found.top_indices, config["d_sae"])})["f"]


def decode(params: Arrays, f: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the reconstruction ``(n, d_in)``: all latents are handed over as selected."""
    columns = torch.arange(f.shape[1]).repeat(len(f), 1)
    return numbers({"x_hat": model(params, config)[0].decode(tensor(f), columns)})["x_hat"]


def forward(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the outputs in training."""
    return numbers(outputs(model(params, config)[0], tensor(x), config))


def terms(coder: Any, x: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return the terms of the objective, AuxK weighted as their trainer does."""
    found = coder(x, dead_mask=torch.tensor(config["dead"]))
    weighted = {"auxk": config["auxk"] * found.auxk_loss} if config["auxk"] else {}
    return {"mse": found.fvu, **weighted}


def loss(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the terms of the objective."""
    return numbers(terms(model(params, config)[0], tensor(x), config))


def grads(params: Arrays, x: np.ndarray, config: dict[str, Any], slopes: Arrays | None) -> Arrays:
    """Return the gradient of ``Σ output · slope``, or of the objective."""
    coder, places = model(params, config)
    if slopes is None:
        return gradients(places, sum(terms(coder, tensor(x), config).values()))
    rows = tensor(x).requires_grad_()
    return gradients(places, probed(outputs(coder, rows, config), slopes), rows)
