"""Two ways in which an autoencoder's latents part from the features: absorption and hedging.

A parent feature fires with probability p, its child with q only where the parent does (nested), or with pq on its own
(independent). Features are orthonormal, magnitudes 1.

    absorption   a latent for each: the child's latent points at parent + child, and the parent's is silent where the
                 child's fires. The L1 penalty pays for it (Chanin et al. 2024, "A is for absorption", arXiv:2409.14507)
    hedging      too few latents: one latent for both mixes the child in. The squared error pays for it (Chanin, Dulka
                 and Garriga-Alonso 2025, "Feature hedging", arXiv:2505.11756)

Letters: instances i, rows n, d_in, d_sae, n_feat, cases c.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minisae import metrics
from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import dense
from minisae.sae import relu
from minisae.streams import generator
from toy_models import data
from toy_models.data import Data
from toy_models.experiments import saes

DENSITY, GIVEN, OTHERS = 0.25, 0.2, (0.05, 0.05)
"""p, q, and the densities of two features that have nothing to do with either (Chanin et al. 2024)."""
CASES: dict[str, tuple[int, ...]] = {
    "parent": (1, 0, 0, 0),
    "child": (0, 1, 0, 0),
    "parent + child": (1, 1, 0, 0),
    "third": (0, 0, 1, 0),
    "fourth": (0, 0, 0, 1),
}
"""Which features are on, for the activation table; "child" alone never happens in nested data."""


def features(*, nested: bool, density: float = DENSITY, given: float = GIVEN, others: Sequence[float] = OTHERS) -> Data:
    """Return parent, child and other features of magnitude 1; ``nested``: the child only where its parent is.

    The child's own density is ``density · given`` either way.
    """
    _probabilities(density, given)
    child = given if nested else density * given
    return data.hierarchical([density, child, *others], [-1, 0 if nested else -1, *[-1] * len(others)], magnitude="one")


def _probabilities(density: float, given: float) -> None:
    if not (0 < density <= 1 and 0 < given <= 1):
        raise InputError(f"density, given: expected probabilities above 0, got {density} and {given}")


def orthonormal(n_feat: int, d_in: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n_feat`` random orthonormal rows, float32 ``(n_feat, d_in)``."""
    check_number("d_in", d_in, least=1, whole=True)
    check_number("n_feat", n_feat, least=1, most=d_in, whole=True)
    return np.asarray(np.linalg.qr(rng.standard_normal((d_in, n_feat)))[0].T, np.float32)


class Cost(NamedTuple):
    """What a code costs, mean over rows, of parent and child together."""

    l1: float
    """Σ f before shrinkage."""
    l0: float
    """Active latents."""


def correct_cost(density: float = DENSITY, given: float = GIVEN) -> Cost:
    """Return the cost of a latent for each feature: ``p + pq`` in L1 and in L0 (0.30 by default)."""
    _probabilities(density, given)
    return Cost(density * (1 + given), density * (1 + given))


def absorbed_cost(density: float = DENSITY, given: float = GIVEN) -> Cost:
    """Return the cost with absorption: ``p(1 − q) + pq√2`` in L1 (0.2707 by default), ``p`` in L0."""
    _probabilities(density, given)
    return Cost(density * (1 - given) + density * given * 2**0.5, density)


def code_loss(cost: Cost, l1: float) -> float:
    """Return the least ``E[‖x − x̂‖² + λ Σ f]`` of a code: ``λ · L1 − (λ²/4) · L0``.

    With unit decoder rows that are orthogonal where they fire together, ``(a − f)² + λf`` is least at ``f = a − λ/2``,
    where it is ``λa − λ²/4`` (for λ ≤ 2a).
    """
    return l1 * cost.l1 - l1 * l1 / 4 * cost.l0


def shrinkage(l1: float) -> float:
    """Return ``λ/2``: how far every activation falls short of its feature, with unit decoder rows."""
    return l1 / 2


class Examined(NamedTuple):
    """What each autoencoder made of the features; latents in the order of the features they match."""

    encoder: np.ndarray
    """Cosines of encoder columns with features ``(i, n_feat, n_feat)``."""
    decoder: np.ndarray
    """Cosines of decoder rows with features ``(i, n_feat, n_feat)``."""
    table: np.ndarray
    """Activation of each latent in each of :data:`CASES`, ``(i, n_feat, c)``."""
    absorbed: np.ndarray
    """Bool ``(i,)``: the child's latent has at least half of the parent's direction, the parent's is silent with it."""


def train(
    *,
    nested: bool,
    l1: float = 0.01,
    d_in: int = 20,
    instances: int = 8,
    steps: int = 12_000,
    batch_size: int = 512,
    lr: float = 1e-3,
    seed: int = 0,
) -> tuple[saes.TrainedSAEs, np.ndarray]:
    """Train autoencoders with a latent for each of the four features; return them and the dictionary.

    Chanin et al. 2024 use d_in 50, 1e8 rows at rate 3e-4.
    """
    dictionary = orthonormal(2 + len(OTHERS), d_in, generator(seed, "toy_frames"))  # (n_feat, d_in)
    rows = saes.dictionary_rows(dictionary, features(nested=nested), batch_size, instances=instances)
    cfg = relu.Config(d_in, len(dictionary), l1=l1)
    trained = saes.train(
        "relu", cfg, rows, steps=steps, instances=instances, lr=lr, decay="quarter_cosine", seed=seed
    )  # fmt: skip
    return trained, dictionary


def examine(trained: saes.TrainedSAEs, dictionary: Array) -> Examined:
    """Compare latents with the features ``dictionary (n_feat, d_in)``: cosines, and answers to each case.

    Raises
    ------
    InputError
        If there is not a latent for each of the four features.
    """
    params, cfg = trained.params, trained.cfg
    if len(dictionary) != cfg.d_sae or len(dictionary) != len(CASES["parent"]):
        raise InputError(f"dictionary: expected {len(CASES['parent'])} features and latents, got {len(dictionary)} "
                         f"and {cfg.d_sae}")  # fmt: skip
    cases = np.array(list(CASES.values()), np.float32) @ to_host(dictionary)  # (c, d_in)
    f = dense(relu.encode(params, cases[None], cfg))  # (i, c, d_sae)
    encoder, decoder, table = [], [], []
    for k in range(len(f)):
        order = metrics.matched_pairs(dictionary, params["W_dec"][k]).latents  # (n_feat,)
        encoder.append(cosines(params["W_enc"][k].T[order], dictionary))
        decoder.append(cosines(params["W_dec"][k][order], dictionary))
        table.append(f[k].T[order])
    to = np.stack(decoder)  # (i, n_feat, n_feat)
    answers = np.stack(table)  # (i, n_feat, c)
    both = list(CASES).index("parent + child")
    takes = (to[:, 1, 0] > 0.5) & (answers[:, 1, both] > 0.5)  # (i,)
    silent = (answers[:, 0, both] < 0.05) & (answers[:, 0, 0] > 0.5)  # (i,)
    return Examined(np.stack(encoder), to, answers, takes & silent)


def cosines(latents: Array, dictionary: Array) -> np.ndarray:
    """Return the cosine of each latent ``(latents, d_in)`` with each of ``(n_feat, d_in)``: ``(latents, n_feat)``."""
    return np.asarray(metrics.unit_rows(to_host(latents)) @ metrics.unit_rows(to_host(dictionary)).T)


def hedged_cosine(density: float = DENSITY, given: float = GIVEN, *, bias: bool = True) -> float:
    """Return the child's share ``sin θ`` in the direction of the one latent that parent and child have.

    Without a penalty the latent is the first principal direction of the data: ``tan 2θ = 2C/(V_parent − V_child)``.
    With a decoder bias the moments are central, ``V_parent = p(1 − p)``, ``V_child = pq(1 − pq)``, ``C = pq(1 − p)``:
    0.2434 by default. Without one they are ``p``, ``pq``, ``pq``: 0.2298. The mean row where the parent fires would
    give :func:`naive_cosine`.
    """
    _probabilities(density, given)
    both = density * given
    centre = (density, both) if bias else (0.0, 0.0)
    spread = density - centre[0] ** 2 - (both - centre[1] ** 2)
    return float(np.sin(np.arctan2(2 * (both - centre[0] * centre[1]), spread) / 2))


def naive_cosine(given: float = GIVEN) -> float:
    """Return ``q/√(1 + q²)``: the child's share in ``E[x | parent]``, which is not what one latent learns (0.196)."""
    _probabilities(1.0, given)
    return given / float(np.sqrt(1 + given * given))


class Hedged(NamedTuple):
    """What the one latent became."""

    cosines: np.ndarray
    """Of its decoder row with parent and child ``(i, 2)``."""
    alive: np.ndarray
    """Whether it fires, bool ``(i,)``: a random start in many dimensions may never do."""


def hedge(
    *,
    nested: bool,
    bias: bool = True,
    l1: float = 1e-3,
    d_in: int = 20,
    instances: int = 8,
    steps: int = 1500,
    batch_size: int = 1024,
    lr: float = 1e-2,
    seed: int = 0,
) -> Hedged:
    """Train one latent on parent and child, and compare its decoder row with both.

    Chanin et al. 2025 use d_in 50, 1e8 rows at rate 3e-4. Without ``bias`` the decoder's bias stays 0. With it a latent
    may also point away from the parent and fire where that is absent; some of these stay at :func:`naive_cosine`, for
    a latent that is silent wherever the parent fires cannot tell its child.
    """
    dictionary = orthonormal(2, d_in, generator(seed, "toy_frames"))  # (n_feat, d_in)
    rows = saes.dictionary_rows(dictionary, features(nested=nested, others=()), batch_size, instances=instances)
    trained = saes.train(
        "relu", relu.Config(d_in, 1, l1=l1), rows, steps=steps, instances=instances, lr=lr, decay="quarter_cosine",
        frozen=() if bias else ("b_dec",), snapshots=(steps,), seed=seed,
    )  # fmt: skip
    cos = cosines(trained.params["W_dec"][:, 0], dictionary)  # (i, 2)
    return Hedged(cos, trained.alive[0, :, 0])
