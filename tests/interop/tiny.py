"""Tiny checkpoints from plain arrays, and what every test of a format asks."""

import json

import numpy as np
import safetensors.numpy

from minisae.interop.torch_write import pt_bytes

D, F, N = 5, 13, 7
"""d_in, d_sae, rows."""


def arrays(seed=0, *, d=D, latents=F):
    """Parameters away from every special value, in our names and orientation; every latent can be off."""
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (d, latents), "b_enc": (latents,), "W_dec": (latents, d), "b_dec": (d,)}
    made = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    more = {key: 0.3 * rng.standard_normal(latents).astype(np.float32) for key in ("r_mag", "b_mag")}
    return made | more | {"threshold": (0.5 + rng.random(latents)).astype(np.float32)}


def rows(seed=1, *, d=D, n=N):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def relu(pre):
    return np.maximum(pre, 0)


def top_k(pre, k):
    """The k largest of each row after ReLU, as torch.topk leaves them."""
    f = np.zeros_like(pre)
    for row, out in zip(relu(pre), f, strict=True):
        kept = np.argsort(-row, kind="stable")[:k]
        out[kept] = row[kept]
    return f


def above(pre, threshold):
    return relu(pre) * (pre > threshold)


def write_state(path, state):
    """A ``torch.save`` file, written without torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pt_bytes({k: np.ascontiguousarray(a) if hasattr(a, "shape") else a for k, a in state.items()}))
    return path


def write_tensors(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({key: np.ascontiguousarray(a) for key, a in tensors.items()}, path)
    return path


def write_json(path, fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def same(sae, x, f, x_hat, *, exact=1e-6):
    """What was read computes what the source computes, and neither is trivial."""
    np.testing.assert_allclose(sae.encode(x), f, atol=exact, rtol=1e-6)
    np.testing.assert_allclose(sae.reconstruct(x), x_hat, atol=exact, rtol=1e-6)
    assert 0 < np.count_nonzero(f) < f.size


def linears(a, dec="decoder.weight"):
    """Both weights as linear layers hold them: transposed."""
    return {"encoder.weight": a["W_enc"].T, dec: a["W_dec"].T}
