"""JumpReLU transcoder: a transcoder whose latents have trained thresholds (as in Gemma Scope 2).

    pre   = x W_enc + b_enc                                      x: the MLP's input
    f     = pre · 1[pre > θ]                                     Rajamanoharan et al. 2024b, section 3
    y_hat = f W_dec + b_dec                                      y: the MLP's output
    L     = (1/n) Σ_rows ( ‖y − y_hat‖² + λ Σ_j 1[pre_j > θ_j] )

The error is summed over d_out. The step's pseudo-derivative and the other penalties are those of ``jumprelu``; what
libraries do otherwise in training it is no option here. A row of data holds input and target side by side. Letters: n
rows, d_in, d_out, d_sae.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, d_out=2)
>>> params = init(cfg, np.random.default_rng(0))
>>> x, y = split(np.ones((5, 3 + 2), np.float32), cfg)
>>> forward(params, x, cfg)[0].x_hat.shape == y.shape
True
"""

from collections.abc import Mapping
from typing import Any

from minisae.sae import jump_transcoding, linear, transcoding

SOURCE = (
    "Rajamanoharan et al. 2024, Jumping Ahead with JumpReLU Sparse Autoencoders, arXiv:2407.14435, applied to Dunefsky "
    "et al. 2024, Transcoders Find Interpretable LLM Feature Circuits, arXiv:2406.11944"
)
SHAPES = jump_transcoding.SHAPES
UNITS = jump_transcoding.UNITS
SAELENS = "jumprelu_transcoder"
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
init = jump_transcoding.init
encode = jump_transcoding.encode
decode = linear.reconstruct
forward = jump_transcoding.forward
backward = jump_transcoding.backward
objective = jump_transcoding.objective
fired_latents = jump_transcoding.fired_latents


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own."""
    return {"d_out": cfg.d_out, "architecture": SAELENS}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return transcoding.from_saelens(fields, SAELENS)
