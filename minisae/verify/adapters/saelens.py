"""SAELens 6.54 through its training classes. Where these rescale the code by decoder norms, that is taken back."""

from typing import Any

import numpy as np
import torch
from sae_lens.saes import gated_sae, jumprelu_sae, standard_sae, topk_sae
from sae_lens.saes.sae import TrainStepInput

from minisae.verify.adapters._autograd import Arrays, Places, fill, gradients, numbers, probed, tensor

CONVENTIONS = {name: {"preset": f"saelens-6.54/{name}"} for name in ("relu", "gated", "topk", "jumprelu")}
KNOWN = {"topk": {"zero decoder row": "NaN, for the code is divided by the norm of its decoder row"}}
TERMS = {
    "relu": {"mse_loss": "mse", "l1_loss": "l1"},
    "gated": {"mse_loss": "mse", "l1_loss": "l1", "auxiliary_reconstruction_loss": "aux"},
    "topk": {"mse_loss": "mse", "auxiliary_reconstruction_loss": "auxk"},
    "jumprelu": {"mse_loss": "mse", "l0_loss": "l0", "pre_act_loss": "pre_act"},
}
"""Their names of the loss terms, and ours."""
NAMES = {
    "relu": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "W_dec", "b_dec", "r_mag", "b_mag"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
}
"""Their names of the parameters."""
OURS = {"b_gate": "b_enc"}


def model(params: Arrays, config: dict[str, Any]) -> tuple[Any, Places]:
    """Return their autoencoder with our parameters in it."""
    shared = {"d_in": config["d_in"], "d_sae": config["d_sae"], "dtype": config["dtype"]}
    shared["apply_b_dec_to_input"] = config["subtract_b_dec"]
    if config["variant"] == "relu":
        sae = standard_sae.StandardTrainingSAE(standard_sae.StandardTrainingSAEConfig(**shared))
    elif config["variant"] == "gated":
        sae = gated_sae.GatedTrainingSAE(gated_sae.GatedTrainingSAEConfig(**shared))
    elif config["variant"] == "topk":
        rescaled = {"rescale_acts_by_decoder_norm": config["select_by"] == "contribution"}
        auxk = {"k": config["k"], "aux_loss_coefficient": config["auxk"]}
        sae = topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(**shared, **auxk, **rescaled))
    else:
        steps = {"jumprelu_bandwidth": config["bandwidth"], "pre_act_loss_coefficient": config["pre_act"] or None}
        sae = jumprelu_sae.JumpReLUTrainingSAE(jumprelu_sae.JumpReLUTrainingSAEConfig(**shared, **steps))
    places = {OURS.get(name, name): (getattr(sae, name), False) for name in NAMES[config["variant"]]}
    fill(places, params)
    return sae, places


def scale(sae: Any) -> Any:
    """Return what their code is multiplied by, beside ours."""
    return sae.W_dec.norm(dim=-1) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 1.0


def passed(sae: Any, x: Any, config: dict[str, Any]) -> Any:
    """Return their training forward pass."""
    coefficients = {"l1": config.get("l1", 0.0), "l0": config.get("l1", 0.0)}
    return sae.training_forward_pass(TrainStepInput(x, coefficients, torch.tensor(config["dead"]), 0, False))


def outputs(sae: Any, x: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return what their forward pass has of our outputs; a gated one's pre-activations are the magnitudes'."""
    found = passed(sae, x, config)
    pre = {"mag" if config["variant"] == "gated" else "pre": found.hidden_pre}
    return {"x_hat": found.sae_out, "f": found.feature_acts / scale(sae), **pre}


def encode(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the code ``(n, d_sae)``."""
    return numbers(outputs(model(params, config)[0], tensor(x), config))["f"]


def decode(params: Arrays, f: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the reconstruction ``(n, d_in)``."""
    sae, _ = model(params, config)
    return numbers({"x_hat": sae.decode(tensor(f) * scale(sae))})["x_hat"]


def forward(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the outputs in training."""
    return numbers(outputs(model(params, config)[0], tensor(x), config))


def loss(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the terms of the objective."""
    found = passed(model(params, config)[0], tensor(x), config).losses
    return numbers({TERMS[config["variant"]][name]: value for name, value in found.items()})


def grads(params: Arrays, x: np.ndarray, config: dict[str, Any], slopes: Arrays | None) -> Arrays:
    """Return the gradient of ``Σ output · slope``, or of the objective."""
    sae, places = model(params, config)
    if slopes is None:
        return gradients(places, passed(sae, tensor(x), config).loss)
    rows = tensor(x).requires_grad_()
    return gradients(places, probed(outputs(sae, rows, config), slopes), rows)
