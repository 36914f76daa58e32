"""The same function in other parameters: what a format has no name for is folded into weights where that is exact.

Arithmetic is in float64 and rounded once. Each function returns what it changed and one sentence on it for ``notes``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.conventions import option
from minisae.interop.common import Stored, widened
from minisae.sae import jumprelu, relu, tied, topk, variant

Params = dict[str, np.ndarray]


def input_scale(params: Mapping[str, np.ndarray], into: float, out: float | None = None) -> Params:
    """Return parameters for rows as they are, of an autoencoder for rows multiplied by ``into``.

    W_enc is multiplied by it, W_dec and b_dec are divided by it (by ``out``, where a target has a scale of its own):
    the code stays what it is on scaled rows. b_enc and thresholds stay.
    """
    by = {"W_enc": into, "W_dec": 1 / (out or into), "b_dec": 1 / (out or into)}
    return {key: _rounded(widened(p) * by[key], p) if key in by else p for key, p in params.items()}


def decoder_norm(params: Mapping[str, np.ndarray]) -> Params:
    """Return the parameters of an autoencoder whose pre-activations count with the norm of their decoder row.

    W_enc and b_enc are multiplied by it and W_dec is divided by it; a zero row of W_dec stays.
    """
    norms = np.linalg.norm(widened(params["W_dec"]), axis=1)  # (d_sae,)
    return dict(params) | {
        "W_enc": _rounded(widened(params["W_enc"]) * norms, params["W_enc"]),
        "b_enc": _rounded(widened(params["b_enc"]) * norms, params["b_enc"]),
        "W_dec": _rounded(widened(params["W_dec"]) / np.where(norms > 0, norms, 1)[:, None], params["W_dec"]),
    }


def _rounded(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return ``a`` in the dtype of a parameter; half precision becomes float32."""
    return a.astype(np.result_type(np.float32, like.dtype))


def subtracting(sae: Stored, subtract: bool) -> tuple[Stored, list[str]]:
    """Return the autoencoder with b_dec subtracted from its input, or not: b_enc (and b_mag) take the difference."""
    if sae.cfg.subtract_b_dec == subtract:
        return sae, []
    sign, params = (1 if subtract else -1), dict(sae.params)
    shift = sign * (widened(params["b_dec"]) @ widened(params["W_enc"]))  # (d_sae,)
    params["b_enc"] = _rounded(widened(params["b_enc"]) + shift, params["b_enc"])
    if "r_mag" in params:
        params["b_mag"] = _rounded(widened(params["b_mag"]) + np.exp(widened(params["r_mag"])) * shift, params["b_mag"])
    how = "b_dec is subtracted from the input now: b_enc" if subtract else "b_dec is not subtracted any more: b_enc"
    note = f"{how} was {'raised' if subtract else 'lowered'} by b_dec W_enc"
    return sae._replace(cfg=sae.cfg._replace(subtract_b_dec=subtract), params=params), [note]


def plain(sae: Stored) -> tuple[Stored, list[str]]:
    """Return the autoencoder with what only minisae has a name for written out.

    A tied dictionary becomes encoder and decoder of a ``relu``, as does what has another penalty only; a threshold's
    logarithm becomes the threshold, and decoder norms that rank latents go into the encoder: the code is multiplied by
    them, the reconstruction stays.
    """
    cfg, params = sae.cfg, dict(sae.params)
    if sae.variant in ("tied", "p_anneal"):
        note = "a p_anneal became a relu: the same code, the penalty has no place in the file"
        if sae.variant == "tied":
            rows = tied.dictionary(params)[0]  # (d_sae, d_in)
            params |= {"W_enc": rows.T, "W_dec": rows, "b_dec": np.zeros(cfg.d_in, rows.dtype)}
            note = "a tied dictionary became W_enc and W_dec of a relu, with b_dec = 0"
        subtract = sae.variant == "p_anneal" and cfg.subtract_b_dec
        new = relu.Config(cfg.d_in, cfg.d_sae, cfg.l1, subtract_b_dec=subtract, reduction=cfg.reduction)
        new = new._replace(decoder=cfg.decoder)
        return sae._replace(variant="relu", params={key: params[key] for key in relu.SHAPES}, cfg=new), [note]
    if sae.variant == "multi_topk":
        same = {key: getattr(cfg, key) for key in set(cfg._fields) & set(topk.Config._fields)}
        return sae._replace(variant="topk", cfg=topk.Config(**same)), ["a multi_topk became a topk: the same code"]
    if sae.variant == "archetypal":
        cfg = topk.Config(cfg.d_in, cfg.d_sae, cfg.k, reduction=cfg.reduction, decoder="free")
        own = {key: params[key] for key in topk.SHAPES}
        return sae._replace(variant="topk", params=own, cfg=cfg), ["an archetypal dictionary became W_dec of a topk"]
    notes = []
    if sae.variant == "jumprelu" and cfg.threshold_as == "log":
        params, cfg = jumprelu.as_itself(params, cfg)
        notes.append("the thresholds' logarithms became the thresholds")
    if option(cfg, "select_by") != "pre" and hasattr(variant(sae.variant), "folded"):
        params, cfg = variant(sae.variant).folded(params, cfg)
        notes.append("decoder norms went into the encoder: the code is times them")
    equal = {"at_threshold": "off"} if option(cfg, "at_threshold") == "on" else {}
    equal |= {"ties": "lowest"} if option(cfg, "ties") == "all" else {}
    if equal:
        lower = np.maximum(strictly(params["threshold"]), 0)  # (d_sae,)
        params["threshold"] = np.where(params["threshold"] >= 0, lower, params["threshold"])
        cfg = cfg._replace(**equal)
        notes.append("what equals its threshold is active: thresholds were lowered by one unit in the last place")
    return sae._replace(params=params, cfg=cfg), notes


def thresholds(sae: Stored) -> tuple[Params, list[str]] | None:
    """Return the parameters of the JumpReLU autoencoder that computes the same, ``None`` if there is none.

    A ``relu`` has threshold 0 everywhere, a ``batch_topk`` the one it learnt. In a ``gated`` one both paths are one
    affine map z: with the gain e^r_mag put into the encoder, a latent is active above b_mag - e^r_mag b_enc.
    """
    params = dict(sae.params)
    if sae.variant == "jumprelu":
        return params | {"threshold": jumprelu.thresholds(params, sae.cfg)}, []
    if sae.variant == "relu":
        return params | {"threshold": np.zeros_like(params["b_enc"])}, ["a relu became a jumprelu with thresholds 0"]
    if sae.variant in ("batch_topk", "matryoshka"):
        params["threshold"] = np.maximum(params["threshold"], 0)
        return params, [f"a {sae.variant} became a jumprelu with its threshold; k and prefixes are not in the file"]
    if sae.variant == "gated":
        gain = np.exp(widened(params.pop("r_mag")))  # (d_sae,)
        b_gate, b_mag = widened(params["b_enc"]), params.pop("b_mag")
        params["W_enc"] = _rounded(widened(params["W_enc"]) * gain, params["W_enc"])
        params["threshold"] = _rounded(np.maximum(widened(b_mag) - gain * b_gate, 0), b_mag)
        params["b_enc"] = b_mag
        return params, ["a gated autoencoder became the jumprelu that computes the same"]
    return None


def strictly(threshold: np.ndarray) -> np.ndarray:
    """Return thresholds that keep what lies above them, for thresholds that keep what equals them too."""
    below: np.ndarray = np.nextafter(threshold, np.asarray(-np.inf, threshold.dtype))  # (d_sae,)
    return below


def normalise_rows(kind: str, x: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Return rows ``x (n, d_in)`` normalised, with the scale ``(n, 1)`` and shift ``(n, 1)`` that undo it.

    ``layer_norm``: the mean off, then divided by the deviation (of n - 1) plus 1e-5, which scale leaves out (SAELens,
    OpenAI); ``constant_norm_rescale``: to norm √d_in (SAELens; there a zero row becomes NaN, here it stays).
    """
    if kind == "layer_norm":
        shift = x.mean(axis=-1, keepdims=True)  # (n, 1)
        scale = x.std(axis=-1, keepdims=True, ddof=1)  # (n, 1)
        return (x - shift) / (scale + 1e-5), scale, shift
    norms = xp.sqrt((x * x).sum(axis=-1, keepdims=True))  # (n, 1)
    scale = xp.where(norms > 0, norms, 1) / x.shape[-1] ** 0.5  # (n, 1)
    return x / scale, scale, 0
