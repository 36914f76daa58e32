"""Skip transcoder: a transcoder with an affine path past the code (Paulo et al. 2025, arXiv:2501.18823).

    pre   = x W_enc + b_enc                                      x: the MLP's input
    f     = ReLU(TopK(pre)) with k > 0, or ReLU(pre)
    y_hat = f W_dec + b_dec + x W_skipᵀ                          y: the MLP's output; W_skip starts at 0
    L     = (1/n) Σ_rows ‖y − y_hat‖², with ReLU + λ ‖f‖₁

The error is summed over d_out (sparsify divides by the target's variance: ``mse_normaliser``). ``decode`` gives
``f W_dec + b_dec``; what the input adds is ``skip``. A row of data holds input and target side by side. Letters: n
rows, d_in, d_out, d_sae.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, d_out=2, k=2, decoder="free")
>>> params = init(cfg, np.random.default_rng(0))
>>> {name: p.shape for name, p in params.items()}["W_skip"]
(2, 3)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.sae import linear, transcoding

SOURCE = "Paulo et al. 2025, Transcoders Beat Sparse Autoencoders for Interpretability, arXiv:2501.18823"
SHAPES = transcoding.SHAPES | {"W_skip": ("d_out", "d_in")}
UNITS = transcoding.UNITS
SAELENS = "skip_transcoder"
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
encode = transcoding.encode
decode = linear.reconstruct
skip = transcoding.skip
forward = transcoding.forward
backward = transcoding.backward
objective = transcoding.objective
row_penalty = transcoding.row_penalty
fired_latents = transcoding.fired_latents


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return a transcoder's parameters at the start, and ``W_skip`` at 0 (sparsify 1.3.3)."""
    W_skip = np.zeros((cfg.d_out, cfg.d_in), dtype)  # (d_out, d_in)
    return transcoding.init(cfg, rng, sample=sample, dtype=dtype) | {"W_skip": W_skip}


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; SAELens has none for TopK."""
    return {"d_out": cfg.d_out} | ({} if cfg.k else {"architecture": SAELENS})


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant."""
    return transcoding.from_saelens(fields, SAELENS)
