"""overcomplete 0.3 through its ``SAE`` and ``TopKSAE`` with a linear encoder.

There is no ``b_dec``: it is 0 in the convention. Its dictionary is normalised in place before every use; here that is a
part of the training step, so that the outputs are those of the rows as they are given.
"""

from typing import Any

import numpy as np
from torch import nn

from minisae.verify.adapters._autograd import Arrays, Places, fill, gradients, numbers, probed, tensor, without_init

without_init("overcomplete", unless="torchvision")  # it draws and loads vision models
from overcomplete.sae import SAE, TopKSAE  # noqa: E402
from overcomplete.sae.losses import mse_l1, top_k_auxiliary_loss  # noqa: E402
from overcomplete.sae.modules import MLPEncoder  # noqa: E402

CONVENTIONS = {name: {"preset": f"overcomplete-0.3/{name}"} for name in ("relu", "topk")}
KNOWN = {"topk": {"ties": "torch takes any of equal entries"}}


def model(params: Arrays, config: dict[str, Any]) -> tuple[Any, Places]:
    """Return their autoencoder with our parameters in it."""
    encoder = MLPEncoder(config["d_in"], config["d_sae"], norm_layer=nn.Identity)
    plain = {"normalization": "identity"}
    if config["variant"] == "topk":
        sae = TopKSAE(config["d_in"], config["d_sae"], config["k"], encoder, plain)
    else:
        sae = SAE(config["d_in"], config["d_sae"], encoder, plain)
    linear = encoder.final_block[0]
    places = {
        "W_enc": (linear.weight, True), "b_enc": (linear.bias, False), "W_dec": (sae.dictionary._weights, False)
    }  # fmt: skip
    fill(places, params)
    sae.dictionary.multiplier.data = sae.dictionary.multiplier.data.to(linear.weight.dtype)
    return sae, places


def outputs(sae: Any, x: Any) -> dict[str, Any]:
    """Return our outputs by name."""
    pre, f, x_hat = sae(x)
    return {"x_hat": x_hat, "f": f, "pre": pre}


def encode(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the code ``(n, d_sae)``."""
    return numbers({"f": model(params, config)[0].encode(tensor(x))[1]})["f"]


def decode(params: Arrays, f: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the reconstruction ``(n, d_in)``."""
    return numbers({"x_hat": model(params, config)[0].decode(tensor(f))})["x_hat"]


def forward(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the outputs in training."""
    return numbers(outputs(model(params, config)[0], tensor(x)))


def objective(sae: Any, x: Any, config: dict[str, Any]) -> Any:
    """Return their loss, of which the terms are not told apart."""
    pre, f, x_hat = sae(x)
    given = (x, x_hat, pre, f, sae.get_dictionary())
    topk = config["variant"] == "topk"
    return top_k_auxiliary_loss(*given, penalty=config["auxk"]) if topk else mse_l1(*given, penalty=config["l1"])


def loss(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the objective."""
    return numbers({"total": objective(model(params, config)[0], tensor(x), config)})


def grads(params: Arrays, x: np.ndarray, config: dict[str, Any], slopes: Arrays | None) -> Arrays:
    """Return the gradient of ``Σ output · slope``, or of the objective."""
    sae, places = model(params, config)
    if slopes is None:
        return gradients(places, objective(sae, tensor(x), config))
    rows = tensor(x).requires_grad_()
    return gradients(places, probed(outputs(sae, rows), slopes), rows)
