"""dictionary_learning through its trainers, which also take the training steps. Made for 0.1.0 and the git of 2025-08.

Its TopK trainer sets ``b_dec`` on its step 0; here training begins with its step 1, at the ``b_dec`` that is given. Its
AuxK is computed in float32: compare with a tolerance of 1e-6.
"""

from typing import Any

import numpy as np
import torch

from minisae.verify.adapters._autograd import (
    Arrays,
    Places,
    fill,
    gradients,
    numbers,
    probed,
    taken,
    tensor,
    without_init,
)

without_init("dictionary_learning", unless="nnsight")  # for buffers of activations
from dictionary_learning.trainers.gdm import GatedSAETrainer  # noqa: E402
from dictionary_learning.trainers.standard import StandardTrainer  # noqa: E402
from dictionary_learning.trainers.top_k import TopKTrainer  # noqa: E402

CONVENTIONS = {name: {"preset": f"dictionary_learning-2025-08/{name}"} for name in ("relu", "gated", "topk")}
ZERO_ROW = {"zero decoder row": "NaN in training, for decoder rows are divided by their norms without an ε"}
KNOWN = {"relu": ZERO_ROW, "gated": ZERO_ROW, "topk": {"ties": "torch takes any of equal entries"}}
PLACES = {
    "relu": {"b_enc": "encoder.bias", "b_dec": "bias"},
    "gated": {"b_enc": "gate_bias", "b_dec": "decoder_bias", "r_mag": "r_mag", "b_mag": "mag_bias"},
    "topk": {"b_enc": "encoder.bias", "b_dec": "b_dec"},
}
"""Their names of the parameters that are no matrices."""


def model(params: Arrays, config: dict[str, Any], recipe: dict[str, Any] | None = None) -> tuple[Any, Places]:
    """Return their trainer with our parameters in its autoencoder."""
    r = recipe or {"steps": 10, "lr": 1e-3, "lr_warmup": 1, "sparsity_warmup": 1}
    shared = {"steps": r["steps"], "activation_dim": config["d_in"], "dict_size": config["d_sae"], "layer": 0}
    shared |= {"lm_name": "none", "device": "cpu", "lr": r["lr"], "warmup_steps": r["lr_warmup"]}
    if config["variant"] == "topk":
        trainer = TopKTrainer(k=config["k"], auxk_alpha=config["auxk"], **shared)
        trainer.num_tokens_since_fired[torch.tensor(config["dead"])] = trainer.dead_feature_threshold
    else:
        kind = StandardTrainer if config["variant"] == "relu" else GatedSAETrainer
        trainer = kind(l1_penalty=config["l1"], sparsity_warmup_steps=r["sparsity_warmup"], **shared)
    own = {name: (trainer.ae.get_parameter(theirs), False) for name, theirs in PLACES[config["variant"]].items()}
    matrices = {"W_enc": (trainer.ae.encoder.weight, True), "W_dec": (trainer.ae.decoder.weight, True)}
    places = {**matrices, **own}
    fill(places, params)
    return trainer, places


def outputs(trainer: Any, x: Any) -> dict[str, Any]:
    """Return what their forward pass has of our outputs."""
    x_hat, f = trainer.ae(x, output_features=True)
    return {"x_hat": x_hat, "f": f}


def encode(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the code ``(n, d_sae)``."""
    return forward(params, x, config)["f"]


def decode(params: Arrays, f: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the reconstruction ``(n, d_in)``."""
    return numbers({"x_hat": model(params, config)[0].ae.decode(tensor(f))})["x_hat"]


def forward(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the outputs in training."""
    return numbers(outputs(model(params, config)[0], tensor(x)))


def terms(trainer: Any, x: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return the terms of the objective; a loss after all warm-ups is not told apart into terms.

    Their TopK loss takes latents that fire in the batch off the dead ones first. The convention says so of training
    (``dead_judged``); here ``dead`` is given, so AuxK is called by itself.
    """
    if config["variant"] != "topk":
        return {"total": trainer.loss(x, step=10**6)}
    f, _, _, post = trainer.ae.encode(x, return_topk=True)
    error = x - trainer.ae.decode(f)
    auxk = trainer.auxk_alpha * trainer.get_auxiliary_loss(error.detach(), post) if trainer.auxk_alpha else None
    return {"mse": error.pow(2).sum(dim=-1).mean(), **({} if auxk is None else {"auxk": auxk})}


def loss(params: Arrays, x: np.ndarray, config: dict[str, Any]) -> Arrays:
    """Return the terms of the objective, or their sum."""
    return numbers(terms(model(params, config)[0], tensor(x), config))


def grads(params: Arrays, x: np.ndarray, config: dict[str, Any], slopes: Arrays | None) -> Arrays:
    """Return the gradient of ``Σ output · slope``, or of the objective."""
    trainer, places = model(params, config)
    if slopes is None:
        return gradients(places, sum(terms(trainer, tensor(x), config).values()))
    rows = tensor(x).requires_grad_()
    return gradients(places, probed(outputs(trainer, rows), slopes), rows)


def step(params: Arrays, batches: list[np.ndarray], config: dict[str, Any], recipe: dict[str, Any]) -> Arrays:
    """Return the parameters after their ``update`` on each batch."""
    trainer, places = model(params, config, recipe)
    for number, rows in enumerate(batches):
        trainer.update(number + (config["variant"] == "topk"), tensor(rows))
    return taken(places)
