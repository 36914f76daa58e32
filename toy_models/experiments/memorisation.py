"""Memorisation and double descent: few rows become the polygon, many rows leave it to the features.

Henighan et al. 2023, "Superposition, memorization, and double descent",
transformer-circuits.pub/2023/toy-double-descent. The ReLU output model is trained on T fixed rows, each of norm 1, all
of them in every step, with weight decay; of several starts the one with the lowest *training* loss is kept. With few
rows the hidden vectors of the rows lie on a regular T-gon, ``D = n_hid/T``; with many the features do; between, the
test loss is worse than that of predicting nothing. (Three rows in the plane have room: any directions 90° apart do.)

Letters: rows T, n_feat, n_hid, starts s.
"""

from typing import NamedTuple

import numpy as np

from minisae.backend import to_host
from minisae.conventions import check_number
from minisae.streams import generator
from toy_models import data, geometry, models, train
from toy_models.data import check_density


def unit_rows(n_rows: int, *, n_feat: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """Return sparse rows of norm 1, float32 ``(n_rows, n_feat)``: uniform features, none of the rows empty."""
    check_number("n_rows", n_rows, least=1, whole=True)
    draw = data.independent(density, n_feat=n_feat)
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n_rows:
        x = data.sample(draw, n_rows, rng)[0]  # (n_drawn, n_feat)
        kept.append(x[x.any(axis=1)])
    x = np.concatenate(kept)[:n_rows]  # (n_rows, n_feat)
    return np.asarray(x / np.sqrt(np.square(x).sum(axis=1, keepdims=True)))


class Memorised(NamedTuple):
    """The best start on one training set."""

    x: np.ndarray
    """Training rows ``(T, n_feat)``."""
    W: np.ndarray
    """``(n_hid, n_feat)``."""
    b: np.ndarray
    """``(n_feat,)``."""
    h: np.ndarray
    """Hidden vectors of the training rows, as columns ``(n_hid, T)``."""
    train_loss: float
    """‖x − x̂‖², mean over the training rows; about 1 for predicting nothing."""
    test_loss: float
    """The same on fresh rows."""
    D_rows: np.ndarray
    """Dimensionality of each training row's hidden vector ``(T,)``."""
    D_features: np.ndarray
    """Dimensionality of each feature ``(n_feat,)``."""
    losses: np.ndarray
    """Training loss of every start ``(s,)``."""

    def learned(self, floor: float = 0.5) -> int:
        """Return the number of features longer than ``floor``."""
        return int((geometry.norms(self.W) > floor).sum())


def memorise(
    n_rows: int,
    *,
    n_feat: int = 400,
    n_hid: int = 2,
    density: float = 0.01,
    starts: int = 5,
    steps: int = 8000,
    lr: float = 5e-3,
    warmup: int = 400,
    weight_decay: float = 1e-2,
    test_rows: int = 10_000,
    seed: int = 0,
    backend: str = "numpy",
) -> Memorised:
    """Train on ``n_rows`` fixed rows from several starts and return the one with the lowest training loss.

    The paper has up to 10,000 features at density 0.001, 50,000 steps at rate 1e-3 with 2,500 of warm-up, and weight
    decay 1e-2; the rate falls along a quarter of a cosine.

    Parameters
    ----------
    n_rows : T
    n_feat, n_hid, density : the model, and the density of its features
    starts : how many
    steps, lr, warmup, weight_decay : of AdamW
    test_rows : fresh rows for the test loss
    seed : decides rows and starts; all T take the test rows from it
    backend : where to train, ``"numpy"`` or ``"cupy"``
    """
    check_density("density", density, n_feat)
    for name, value in (("n_rows", n_rows), ("starts", starts), ("test_rows", test_rows)):
        check_number(name, value, least=1, whole=True)
    cfg = models.Config(n_feat, n_hid)
    x = unit_rows(n_rows, n_feat=n_feat, density=density, rng=generator(seed, "toy_batch", n_rows))  # (T, n_feat)
    test = unit_rows(test_rows, n_feat=n_feat, density=density, rng=generator(seed, "toy_test"))  # (n_test, n_feat)
    trained = train.train(
        cfg, data.fixed(x), steps=steps, batch_size=n_rows, lr=lr, warmup=warmup, weight_decay=weight_decay,
        instances=starts, seed=seed, backend=backend,
    )  # fmt: skip
    params = {name: to_host(p) for name, p in trained.params.items()}
    losses = train.evaluate(cfg, params, data.Batch(x[None]))  # (s,)
    best = train.take(params, train.best(losses, per=starts))
    test_loss = float(train.evaluate(cfg, best, data.Batch(test[None]))[0])
    W = best["W"][0]  # (n_hid, n_feat)
    h = W @ x.T  # (n_hid, T)
    return Memorised(
        x, W, best["b"][0], h, float(losses.min()), test_loss, geometry.dimensionality(h), geometry.dimensionality(W),
        losses,
    )  # fmt: skip


def polygon_dimensionality(n_rows: int, n_hid: int = 2) -> float:
    """Return ``n_hid/T``, at most 1: the dimensionality of T vectors that share n_hid dimensions evenly."""
    check_number("n_rows", n_rows, least=1, whole=True)
    check_number("n_hid", n_hid, least=1, whole=True)
    return min(1.0, n_hid / n_rows)
