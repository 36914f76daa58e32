"""What the conformance cases are computed on: plain inputs, and the awkward situations that are made of them.

Every input is a multiple of 1/64 (what is put at an edge, of 1/4096): products and short sums of these are exact in
float64, so which latents are selected does not depend on the order in which a BLAS adds, and a tie is a tie everywhere.
Letters: n rows, d_in, d_sae.
"""

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np

from minisae.ops import dense
from minisae.sae import variant
from minisae.streams import generator

GRID = 64
"""Inputs are multiples of ``1 / GRID``."""
N = 5
"""Rows."""


class Inputs(NamedTuple):
    """What is given."""

    rows: np.ndarray
    """Rows of data ``(n, d_in)``; wider where a row holds input and target."""
    odd_rows: np.ndarray
    """Rows of the second, fourth, … training step, of the same shape."""
    dead: np.ndarray
    """Which latents count as dead: bool ``(d_sae,)``."""
    params: dict[str, np.ndarray]
    """Parameters and state, by name."""
    slopes: dict[str, np.ndarray]
    """A slope for each output, of its shape, by the output's name."""


SITUATIONS = {
    "plain": "nothing special: b_dec, b_enc and thresholds are not 0, decoder rows have no unit norm, some are dead",
    "ties": "latents 0, 2 and 4 have the same pre-activations, and so have 1 and 5: the lowest index is selected first",
    "negative row": "all pre-activations of row 0 are negative, and those of latent 0 in every row",
    "at the edge": "the largest pre-activation of row 0 is exactly at its threshold; at 0 where there is none",
    "threshold below 0": "the thresholds of latents 0 and 3 are -1; row 0 excites them by about -1/4 and by exactly 0",
    "all latents": "k = d_sae",
    "dead latent": "latent 2 never fires, and is the one that counts as dead",
    "zero decoder row": "row 3 of W_dec is 0",
    "x = b_dec": "row 1 of the input is b_dec",
    "lambda = 0": "every coefficient of a penalty is 0",
}
"""What is awkward in each set of inputs, or in the numbers of the configuration."""
NO_B_DEC = "no b_dec"
"""Plain inputs with ``b_dec`` at 0, for a convention in which it stays there."""


def grid(a: Any) -> np.ndarray:
    """Round to multiples of 1/64."""
    return np.round(np.asarray(a, dtype=np.float64) * GRID) / GRID


def split_rows(name: str, rows: np.ndarray, cfg: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return input and target of rows of data; they are the same but where a row holds both."""
    module = variant(name)
    return module.split(rows, cfg) if hasattr(module, "split") else (rows, rows)


@functools.cache
def draw(name: str, cfg: Any) -> Inputs:
    """Return inputs with nothing special about them."""
    module, rng = variant(name), generator(0, "conformance", zlib.crc32(name.encode()))
    width = module.row_width(cfg) if hasattr(module, "row_width") else cfg.d_in
    rows, odd_rows = grid(rng.standard_normal((2, N, width)))  # (n, d_row) each
    params = module.init(cfg, rng, sample=rows, dtype=np.float64)
    params = {key: grid(p + 0.3 * rng.standard_normal(p.shape)) for key, p in params.items()}
    dead = np.arange(cfg.d_sae) % 3 == 1  # (d_sae,)
    x = split_rows(name, rows, cfg)[0]  # (n, d_in)
    out = module.forward(params, x, cfg, dead=dead)[0]
    for step in range(3 if hasattr(module, "after_step") else 0):
        module.after_step(params, out, cfg, step=step)
    params = {key: grid(p) for key, p in params.items()}
    shapes = {key: dense(value).shape for key, value in out._asdict().items() if value is not None}
    return Inputs(rows, odd_rows, dead, params, {key: grid(rng.standard_normal(s)) for key, s in shapes.items()})


def changed(situation: str, name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs in which something is awkward, or ``None`` where the variant knows no such thing."""
    shapes = variant(name).SHAPES
    params = {key: p.copy() for key, p in plain.params.items()}
    rows, dead = plain.rows.copy(), plain.dead  # (n, d_row), (d_sae,)
    if situation == "ties":
        for key in shapes:
            if "d_sae" in shapes[key] and (key != "W_dec" or "W_enc" not in shapes):
                latents = np.moveaxis(params[key], shapes[key].index("d_sae"), 0)  # (d_sae, ...), a view
                latents[[2, 4]], latents[5] = latents[0], latents[1]
    elif situation == "negative row":
        return _with_negative_row(name, cfg, plain)
    elif situation == "at the edge":
        return _at_the_edge(name, cfg, plain)
    elif situation == "threshold below 0":
        return _below_zero(name, cfg, plain)
    elif situation == "dead latent":
        dead = np.arange(cfg.d_sae) == 2  # (d_sae,)
        if "b_enc" in params:
            params["b_enc"][..., 2] = -16
    elif situation == "zero decoder row":
        if "W_dec" not in shapes:
            return None
        np.moveaxis(params["W_dec"], shapes["W_dec"].index("d_sae"), 0)[3] = 0
    elif situation == "x = b_dec":
        if shapes.get("b_dec") != ("d_in",):
            return None
        rows[1, : cfg.d_in] = params["b_dec"]
    return plain._replace(rows=rows, dead=dead, params=params)


def _at_the_edge(name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs in which one pre-activation is exactly where its latent begins to fire."""
    out = variant(name).forward(plain.params, split_rows(name, plain.rows, cfg)[0], cfg, dead=plain.dead)[0]
    j = int(out.pre[0].argmax())
    key = next((k for k in ("threshold", "b_enc") if k in plain.params and plain.params[k].shape == (cfg.d_sae,)), None)
    if key is None:
        return None
    edge = plain.params[key].copy()  # (d_sae,)
    edge[j] = out.pre[0, j] if key == "threshold" else edge[j] - out.pre[0, j]
    if (edge * GRID**2 % 1).any():  # this variant's pre-activations are not exact
        return None
    return plain._replace(params=plain.params | {key: edge})


def _below_zero(name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs with two trained thresholds below 0, and pre-activations between them and 0, whatever was drawn."""
    if not hasattr(cfg, "kernel") or getattr(cfg, "threshold_as", "itself") != "itself":
        return None
    pre = variant(name).forward(plain.params, split_rows(name, plain.rows, cfg)[0], cfg)[0].pre[0]  # (d_sae,)
    threshold, b_enc = plain.params["threshold"].copy(), plain.params["b_enc"].copy()  # (d_sae,) each
    threshold[[0, 3]] = -1
    b_enc[[0, 3]] -= grid(pre[0]) + 0.25, pre[3]
    return plain._replace(params=plain.params | {"threshold": threshold, "b_enc": b_enc})


def _with_negative_row(name: str, cfg: Any, plain: Inputs) -> Inputs | None:
    """Return inputs whose row 0 is small, or near ``b_dec``, with ``b_enc`` below 0: all it can excite is negative."""
    if "b_enc" not in plain.params or plain.params["b_enc"].shape != (cfg.d_sae,):
        return None
    b_enc = -np.abs(plain.params["b_enc"]) - 0.5  # (d_sae,)
    b_enc[0] = -16
    params = plain.params | {"b_enc": b_enc}
    for centre in (plain.params.get("b_dec", 0), 0):
        if np.shape(centre) not in ((), plain.rows[0].shape):
            continue
        rows = plain.rows.copy()  # (n, d_row)
        rows[0] = grid(rows[0] / 16) + centre
        inputs = plain._replace(rows=rows, params=params)
        out = variant(name).forward(params, split_rows(name, rows, cfg)[0], cfg, dead=plain.dead)[0]
        if (out.pre[0] < 0).all():
            return inputs
    return None
