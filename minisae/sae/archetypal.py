"""Archetypal sparse autoencoder (Fel et al. 2025, "Archetypal SAE: Adaptive and Stable Dictionary Learning for Concept
Extraction in Large Vision Models", arXiv:2502.12892), relaxed (RA-SAE), on a TopK encoder.

    D     = e^s (A C + Λ)               A ≥ 0 with rows that sum to 1,  ‖Λ_j‖ ≤ δ: near the convex hull of C
    pre   = (x − b_dec) W_enc + b_enc
    f     = ReLU(TopK(pre))             k largest of each row
    x_hat = f D + b_dec
    L     = (1/n) Σ_rows ( ‖x − x_hat‖² + c ‖aux − (x − x_hat)‖² )               AuxK as in topk, off unless asked for

C holds points that stand for the data, centroids of k-means, and is not trained. After each step A and Λ are brought
back: negative entries of A become 0, its rows are divided by their sums, and rows of Λ longer than δ are shortened to
it; the slope is the one at what came of that. overcomplete 0.3 does the same before each forward pass. C, Λ and δ are
in the units in which training saw the activations. The paper has no b_dec: it is state here, which training leaves at
0, or where the recipe's ``b_dec_start`` puts it. ``W_dec`` is state too, D as it stands after a step; forward computes
D itself and gives it as an output, so that a loss can put a slope on it. Resampling gives a latent a new encoder row;
its row of D stays. Letters: n rows, d_in, d_sae, k, n_points.

Examples
--------
>>> cfg = Config(d_in=3, d_sae=7, k=2, candidates=5, delta=0.1)
>>> rng = np.random.default_rng(0)
>>> params = init(cfg, rng, sample=rng.standard_normal((50, 3)))
>>> bool(np.allclose(params["W_dec"], params["A"] @ params["points"]))
True
"""

from typing import Any, NamedTuple

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, fired, normalise_rows, row_norms, top_k
from minisae.sae import auxk, k_means, linear

SOURCE = "Fel et al. 2025, Archetypal SAE: Adaptive and Stable Dictionary Learning, arXiv:2502.12892"
SHAPES = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "A": ("d_sae", "n_points"),
    "relaxation": ("d_sae", "d_in"),
    "log_scale": ("n_scales",),
    "points": ("n_points", "d_in"),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
}
UNITS = linear.UNITS
STATE = ("points", "W_dec", "b_dec")
"""What stands beside the parameters and is not trained; :func:`after_step` refreshes ``W_dec``."""
MOST_POINTS = 1024
"""Points at most, unless ``candidates`` says otherwise."""
decode = linear.reconstruct
objective = auxk.objective
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    k: int = 32
    """Active latents a row."""
    candidates: int = 0
    """Points in C; 0 takes ``d_sae`` and at most ``MOST_POINTS``."""
    delta: float = 1.0
    """δ, the largest norm of a row of Λ, in the units of C."""
    scaled: bool = True
    """Train s, one number for the whole dictionary; else it is 0."""
    k_aux: int = 0
    """Latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 0.0
    """Coefficient of AuxK; 0 switches it off."""
    auxk_over: str = "dead"
    """Among whom AuxK selects; ``"unchosen"`` (overcomplete) counts in full whoever is dead."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""

    @property
    def n_points(self) -> int:
        """Points in C."""
        return self.candidates or min(self.d_sae, MOST_POINTS)

    @property
    def n_scales(self) -> int:
        """One s for all rows."""
        return 1

    @property
    def subtract_b_dec(self) -> bool:
        """Always, where there is one."""
        return True

    @property
    def decoder(self) -> str:
        """Free: the constraint on the rows is another one."""
        return "free"


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """Pre-activations ``(n, d_sae)``."""
    aux: Array | None
    """Reconstruction from dead latents ``(n, d_in)``; ``None`` without ``dead``, or with AuxK off."""
    W_dec: Array
    """The dictionary D ``(d_sae, d_in)``."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    main: auxk.Cache
    """That of an autoencoder with this dictionary."""
    W_dec: Array
    """The dictionary D ``(d_sae, d_in)``."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    auxk.check_config(cfg)
    check_number("k", cfg.k, least=1, whole=True)
    check_number("candidates", cfg.candidates, least=0, whole=True)
    check_number("delta", cfg.delta, least=0)
    if cfg.d_sae < cfg.k:
        raise InputError(f"k: expected at most d_sae = {cfg.d_sae}, got {cfg.k}")
    if cfg.scaled not in (True, False):
        raise InputError(f"scaled: expected one of True, False, got {cfg.scaled!r}")


def init(cfg: Config, rng: np.random.Generator, *, sample: Array | None = None, dtype: Any = np.float32) -> Params:
    """Return the parameters at the start: latents that are points, or between two where there are more of them.

    The points are centroids of rows ``sample (n, d_in)``, without one random directions. The encoder answers with 1 to
    the point of its latent; Λ, s and the biases are 0.
    """
    if sample is None:
        points = rng.standard_normal((cfg.n_points, cfg.d_in))  # (n_points, d_in)
        normalise_rows(points)
    else:
        points = k_means.centroids(sample, cfg.n_points, rng)  # (n_points, d_in)
    A = np.eye(cfg.d_sae, cfg.n_points)  # (d_sae, n_points)
    for row in A[cfg.n_points :]:  # a random share each: no two latents are the same
        row[rng.choice(cfg.n_points, min(2, cfg.n_points), replace=False)] = rng.random(2)[: cfg.n_points]
    A /= A.sum(axis=1, keepdims=True)
    D = A @ points  # (d_sae, d_in)
    norms = row_norms(D)[:, None]  # (d_sae, 1)
    start = {"A": A, "relaxation": np.zeros_like(D), "log_scale": np.zeros(1), "points": points, "W_dec": D}
    start |= {"b_enc": np.zeros(cfg.d_sae), "b_dec": np.zeros(cfg.d_in)}
    into = D / np.where(norms > 0, norms, 1) ** 2  # (d_sae, d_in)
    return {"W_enc": into.astype(dtype).T} | {name: p.astype(dtype) for name, p in start.items()}


def derived(params: Params, cfg: Config) -> Params:
    """Return what follows from the other parameters: ``W_dec``, the dictionary D ``(d_sae, d_in)``."""
    D = params["A"] @ params["points"] + params["relaxation"]  # (d_sae, d_in)
    return {"W_dec": D * _scale(params, cfg)}


def _scale(params: Params, cfg: Config) -> Any:
    """Return e^s ``(1, 1)``, or 1 where it is not trained."""
    return namespace(params["log_scale"]).exp(params["log_scale"])[..., None] if cfg.scaled else 1


def encode(params: Params, x: Array, cfg: Config) -> Code:
    """Return the code ``(n, d_sae)`` of rows ``x (n, d_in)``."""
    return top_k(linear.encode(params, x, subtract_b_dec=True)[1], cfg.k)


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    with_D = params | derived(params, cfg)
    seen, pre = linear.encode(with_D, x, subtract_b_dec=True)
    out, main = auxk.outputs(with_D, seen, pre, top_k(pre, cfg.k), cfg, dead)
    return Out(*out, with_D["W_dec"]), Cache(main, with_D["W_dec"])


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The selection is held fixed: exact wherever no tie or zero is crossed.
    """
    D = cache.W_dec  # (d_sae, d_in)
    grads = auxk.backward(params | {"W_dec": D}, cache.main, cfg, slopes, want_x=want_x)
    d_D = grads.pop("W_dec") + slopes.get("W_dec", 0)  # (d_sae, d_in)
    del grads["b_dec"]
    d_plain = d_D * _scale(params, cfg)  # (d_sae, d_in), at A C + Λ
    grads["A"] = d_plain @ params["points"].swapaxes(-1, -2)
    grads["relaxation"] = d_plain
    grads["log_scale"] = (d_D * D).sum(axis=(-2, -1))[..., None] * cfg.scaled
    return grads


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)


def after_step(params: Params, out: Out, cfg: Config, *, step: int) -> None:
    """Bring A and Λ back to where they may be, and ``W_dec`` up to date, in place."""
    A, relaxation = params["A"], params["relaxation"]  # (d_sae, n_points), (d_sae, d_in)
    xp = namespace(A)
    A[...] = xp.maximum(A, 0)
    total = A.sum(axis=-1, keepdims=True)  # (d_sae, 1)
    A /= xp.where(total > 0, total, 1)
    norms = row_norms(relaxation)[..., None]  # (d_sae, 1)
    relaxation *= xp.where(norms > cfg.delta, cfg.delta / xp.where(norms > 0, norms, 1), 1)
    params["W_dec"][...] = derived(params, cfg)["W_dec"]
