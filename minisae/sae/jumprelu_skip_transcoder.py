"""JumpReLU transcoder with an affine path past the code (as in Gemma Scope 2, ``affine_skip_connection``).

    pre   = x W_enc + b_enc                                      x: the MLP's input
    f     = pre · 1[pre > θ]                                     Rajamanoharan et al. 2024b, section 3
    y_hat = f W_dec + b_dec + x W_skipᵀ                          y: the MLP's output; W_skip starts at 0
    L     = (1/n) Σ_rows ( ‖y − y_hat‖² + λ Σ_j 1[pre_j > θ_j] )

All else is as in ``jumprelu_transcoder``. ``decode`` gives ``f W_dec + b_dec``; what the input adds is ``skip``.
Letters: n rows, d_in, d_out, d_sae.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, d_out=2)
>>> init(cfg, np.random.default_rng(0))["W_skip"].shape
(2, 3)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.sae import jump_transcoding, linear, transcoding

SOURCE = (
    "Rajamanoharan et al. 2024, Jumping Ahead with JumpReLU Sparse Autoencoders, arXiv:2407.14435, applied to Paulo et "
    "al. 2025, Transcoders Beat Sparse Autoencoders for Interpretability, arXiv:2501.18823"
)
SHAPES = jump_transcoding.SHAPES | {"W_skip": ("d_out", "d_in")}
UNITS = jump_transcoding.UNITS
SAELENS = "jumprelu_skip_transcoder"
"""The architecture that SAELens 6 has for it."""
Config = jump_transcoding.Config
Params = jump_transcoding.Params
Out = jump_transcoding.Out
Cache = jump_transcoding.Cache
check_config = jump_transcoding.check_config
units = jump_transcoding.units
restart = jump_transcoding.restart
sizes = transcoding.sizes
row_width = transcoding.row_width
split = transcoding.split
encode = jump_transcoding.encode
decode = linear.reconstruct
skip = transcoding.skip
forward = jump_transcoding.forward
backward = jump_transcoding.backward
objective = jump_transcoding.objective
fired_latents = jump_transcoding.fired_latents


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return a JumpReLU transcoder's parameters at the start, and ``W_skip`` at 0."""
    W_skip = np.zeros((cfg.d_out, cfg.d_in), dtype)  # (d_out, d_in)
    return jump_transcoding.init(cfg, rng, sample=sample, dtype=dtype) | {"W_skip": W_skip}


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    return {"d_out": cfg.d_out, "architecture": SAELENS}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return transcoding.from_saelens(fields, SAELENS)
