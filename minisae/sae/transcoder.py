"""Transcoder: a sparse replacement of an MLP (Dunefsky et al. 2024, arXiv:2406.11944).

    pre   = x W_enc + b_enc                                      section 3.1; x: the MLP's input
    f     = ReLU(pre), or ReLU(TopK(pre)) with k > 0             TopK: Paulo et al. 2025, arXiv:2501.18823
    y_hat = f W_dec + b_dec                                      y: the MLP's output
    L     = (1/n) Σ_rows ( ‖y − y_hat‖² + λ ‖f‖₁ ),  ‖W_dec,j‖ = 1      with TopK no penalty

The error is summed over d_out. With TopK there may be AuxK (:mod:`minisae.sae.auxk`), and sparsify leaves the decoder
free. A row of data holds input and target side by side. Letters: n rows, d_in, d_out, d_sae.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, d_out=2, k=2)
>>> params = init(cfg, np.random.default_rng(0))
>>> x, y = split(np.ones((5, 3 + 2), np.float32), cfg)
>>> forward(params, x, cfg)[0].x_hat.shape == y.shape
True
"""

from collections.abc import Mapping
from typing import Any

from minisae.sae import linear, transcoding

SOURCE = "Dunefsky et al. 2024, Transcoders Find Interpretable LLM Feature Circuits, arXiv:2406.11944"
SHAPES = transcoding.SHAPES
UNITS = transcoding.UNITS
SAELENS = "transcoder"
"""The architecture that SAELens 6 has for it, with ReLU."""
Config = transcoding.Config
Params = transcoding.Params
Out = transcoding.Out
Cache = transcoding.Cache
check_config = transcoding.check_config
check_asked = transcoding.check_asked
sizes = transcoding.sizes
row_width = transcoding.row_width
split = transcoding.split
init = transcoding.init
encode = transcoding.encode
decode = linear.reconstruct
forward = transcoding.forward
backward = transcoding.backward
objective = transcoding.objective
row_penalty = transcoding.row_penalty
fired_latents = transcoding.fired_latents


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; SAELens has none for TopK."""
    return {"d_out": cfg.d_out} | ({} if cfg.k else {"architecture": SAELENS})


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return transcoding.from_saelens(fields, SAELENS)
