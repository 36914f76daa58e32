"""Computation in superposition: the absolute value by a trained layer, and all ANDs of pairs by a constructed one.

Elhage et al. 2022, "Computation in Superposition":

    h = ReLU(W_1 x)      y = ReLU(W_2 h + b)      target |x|,  x_j = 0 or uniform on [−1, 1]

Without superposition two neurons compute a feature: |x_j| = ReLU(x_j) + ReLU(−x_j). A neuron's scale is free (W_1 times
a positive number, W_2 divided by it), so weights are compared after :func:`canonical`.

Vaintrob, Mendel, Hänni 2024, "Toward A Mathematical Framework for Computation in Superposition": :func:`u_and`, a layer
that computes the ANDs of all pairs of its inputs with fewer neurons than pairs, and without training.

Letters: n_feat, n_out, neurons n_hid; for the ANDs n_in inputs and pairs = n_in (n_in − 1) / 2.
"""

from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from toy_models import data, geometry, models, train
from toy_models.models import Config


class Computed(NamedTuple):
    """Networks that compute |x|: at each density several starts, the lowest loss first, in canonical scale."""

    density: np.ndarray
    """``(t,)``"""
    W_1: np.ndarray
    """``(t, tries, n_hid, n_feat)``"""
    W_2: np.ndarray
    """``(t, tries, n_feat, n_hid)``"""
    b: np.ndarray
    """``(t, tries, n_feat)``"""
    loss: np.ndarray
    """On common rows ``(t, tries)``."""


class Asymmetric(NamedTuple):
    """Neurons that hold two features unequally, the motif of the paper; c of them."""

    neuron: np.ndarray
    """``(c,)``"""
    read: np.ndarray
    """The feature that it reads strongly and writes weakly ``(c,)``."""
    written: np.ndarray
    """The feature that it reads weakly and writes strongly ``(c,)``."""
    inhibited: np.ndarray
    """Whether other neurons more than cancel what the first alone would put on the second's output, bool ``(c,)``."""


class UniversalAnd(NamedTuple):
    """A layer ``h = ReLU(x readsᵀ − 1)`` and its read-out of every pair."""

    reads: np.ndarray
    """0 or 1 ``(n_hid, n_in)``: column i is the set S_i of neurons that read input i."""
    readout: np.ndarray
    """``(pairs, n_hid)``: 1/|S_i ∩ S_j| on the neurons that read both; zeros if there are none."""


class AndScore(NamedTuple):
    """How well the ANDs come out."""

    tpr: float
    """Share of true ANDs read as true, above 1/2."""
    fpr: float
    """Share of false ANDs read as true."""
    error: float
    """Mean |read-out − AND|."""


def absolute(
    density: Any = 1.0,
    *,
    n_feat: int = 3,
    n_hid: int = 6,
    importance: Any = None,
    tries: int = 20,
    steps: int = 5000,
    batch_size: int = 512,
    lr: float = 5e-3,
    rows: int = 8192,
    seed: int = 0,
    threads: int | None = None,
    backend: str = "numpy",
) -> Computed:
    """Train networks to compute |x|; the default is the paper's smallest, two neurons for each of three features.

    Parameters
    ----------
    density : ``(t,)`` or a number
    n_feat, n_hid : features and neurons
    importance : I ``(n_feat,)``; by default all 1 (the paper's n_feat = 100, n_hid = 40: 0.8^j)
    tries : starts at each density
    steps, batch_size, lr, seed, threads, backend : as in :func:`toy_models.train.train`
    rows : on which starts are compared

    Raises
    ------
    InputError
        If a number is out of range.
    """
    p = np.atleast_1d(np.asarray(density, np.float64))  # (t,)
    if p.ndim != 1 or tries < 1:
        raise InputError(f"density, tries: expected (t,) and at least 1, got shape {p.shape} and {tries}")
    cfg = Config(n_feat, n_hid, kind="mlp", hidden="relu", output="relu")
    drawn = data.independent(np.repeat(p, tries)[:, None], n_feat=n_feat, signed=True)
    trained = train.train(
        cfg, drawn, steps=steps, batch_size=batch_size, lr=lr, importance=importance, target="absolute", seed=seed,
        threads=threads, backend=backend,
    )  # fmt: skip
    params = {name: to_host(a) for name, a in trained.params.items()}
    loss = train.evaluate(
        cfg, params, drawn, importance=importance, target="absolute", rows=rows, seed=seed
    )  # (t*tries,)
    loss = loss.reshape(len(p), tries)  # (t, tries)
    order = np.argsort(loss, axis=1, kind="stable") + tries * np.arange(len(p))[:, None]  # (t, tries)
    best = train.take(params, order)
    W_1, W_2 = canonical(best["W_1"], best["W_2"])
    return Computed(p, W_1, W_2, best["b"], np.sort(loss, axis=1))


def _layers(W_1: Array, W_2: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return both matrices on the host after checking that they fit."""
    into = np.asarray(to_host(geometry.frame(W_1, name="W_1")))  # (..., n_hid, n_feat)
    out = np.asarray(to_host(geometry.frame(W_2, name="W_2")))  # (..., n_out, width)
    if out.shape[-1] != into.shape[-2] or out.shape[:-2] != into.shape[:-2]:
        raise InputError(f"W_2: expected (..., n_out, {into.shape[-2]}) to fit W_1 {into.shape}, got {out.shape}")
    return into, out


def canonical(W_1: Array, W_2: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the same network with ‖row k of W_1‖ = ‖column k of W_2‖ for every neuron k.

    With ReLU in between, W_1 → D W_1 and W_2 → W_2 D⁻¹ computes the same for any positive diagonal D. A neuron that
    reads nothing or writes nothing is left as it is.

    Parameters
    ----------
    W_1, W_2 : ``(..., n_hid, n_feat)`` and ``(..., n_out, n_hid)``

    Raises
    ------
    InputError
        If the shapes do not fit.
    """
    into, out = _layers(W_1, W_2)
    reads, writes = np.linalg.norm(into, axis=-1), np.linalg.norm(out, axis=-2)  # (..., n_hid) each
    both = (reads > 0) & (writes > 0)  # (..., n_hid)
    scale = np.sqrt(np.where(both, writes, 1) / np.where(both, reads, 1))  # (..., n_hid)
    return into * scale[..., None], out / scale[..., None, :]


def slopes(W_1: Array, W_2: Array) -> np.ndarray:
    """Return the slope of output j in input j alone, below and above zero, before b: ``(..., 2, n_feat)``.

    Σ_k W_2[j, k] W_1[k, j] over the neurons that read j with a negative, or a positive weight: −1 and 1 where the
    network computes |x_j|.
    """
    into, out = _layers(W_1, W_2)
    if out.shape[-2] != into.shape[-1]:
        raise InputError(f"W_2: expected as many outputs as features, {into.shape[-1]}, got {out.shape[-2]}")
    product = into * out.swapaxes(-1, -2)  # (..., n_hid, n_feat)
    return np.stack([(product * (into < 0)).sum(axis=-2), (product * (into > 0)).sum(axis=-2)], axis=-2)


def energy_shares(W: Array) -> np.ndarray:
    """Return each feature's share of a neuron's squared weights, ``(..., n_hid, n_feat)``; zeros for a dead neuron."""
    w = np.asarray(to_host(geometry.frame(W)), np.float64)  # (..., n_hid, n_feat)
    total = (w * w).sum(axis=-1, keepdims=True)  # (..., n_hid, 1)
    shares: np.ndarray = w * w / np.where(total > 0, total, 1)  # (..., n_hid, n_feat)
    return shares


def monosemantic(W: Array, *, share: float = 0.9) -> np.ndarray:
    """Return the fraction of neurons with more than ``share`` of their squared weights on one feature, ``(...)``."""
    fraction: np.ndarray = (energy_shares(W).max(axis=-1) > share).mean(axis=-1)  # (...)
    return fraction


def effective_features(W: Array) -> np.ndarray:
    """Return 1 / Σ_j s_j² of each neuron's shares s, ``(..., n_hid)``: k for k equal weights, 0 for a dead neuron."""
    power = (energy_shares(W) ** 2).sum(axis=-1)  # (..., n_hid)
    count: np.ndarray = np.where(power > 0, 1 / np.where(power > 0, power, 1), 0)  # (..., n_hid)
    return count


def asymmetric(W_1: Array, W_2: Array, *, ratio: float = 2.0, tolerance: float = 0.35) -> Asymmetric:
    """Return where one network uses the paper's motif of asymmetric superposition with inhibition.

    A neuron reads feature u strongly and v weakly, W_1 = [2, −½], and writes the other way round, W_2 = [½, 2]: both
    products are ±1, what v puts on u's output is small, and what u puts on v's is large. Another neuron that reads u
    takes that away from v's output, so that ReLU removes it: interference is made negative.

    Parameters
    ----------
    W_1, W_2 : one network, ``(n_hid, n_feat)`` and ``(n_feat, n_hid)``, in any scale
    ratio : how many times u is read more strongly than v, and v written more strongly than u, in canonical scale
    tolerance : how far the two products may be from ±1
    """
    into, out = canonical(
        geometry.frame(W_1, name="W_1", batched=False), geometry.frame(W_2, name="W_2", batched=False)
    )
    own = into * out.T  # (n_hid, n_feat)
    sound = abs(abs(own) - 1) <= tolerance  # (n_hid, n_feat)
    found = []
    for k, row in enumerate(sound):
        for u, v in ((u, v) for u in np.flatnonzero(row) for v in np.flatnonzero(row) if u != v):
            if abs(into[k, u]) >= ratio * abs(into[k, v]) and abs(out[v, k]) >= ratio * abs(out[u, k]):
                drive = out[v] * np.maximum(np.sign(into[k, u]) * into[:, u], 0)  # (n_hid,)
                found.append((k, u, v, bool(drive[k] > 0 and drive.sum() <= 0)))
    neuron, read, written, inhibited = zip(*found, strict=True) if found else ((), (), (), ())
    return Asymmetric(np.array(neuron, int), np.array(read, int), np.array(written, int), np.array(inhibited, bool))


def u_and(n_in: int, n_neurons: int, q: float, rng: np.random.Generator) -> UniversalAnd:
    """Construct a layer that computes the AND of every pair of its inputs (Vaintrob et al. 2024, "U-AND").

    Every neuron reads every input with probability q and has bias −1, so it fires when two of its inputs are present.
    AND(i, j) is read as the mean over the neurons that read both; each other active input adds about q to it.

    Parameters
    ----------
    n_in, n_neurons : sizes, at least 2 and 1
    q : about log² n_in / √n_neurons in the paper
    rng : draws the reads

    Raises
    ------
    InputError
        If a size is too small, or q outside (0, 1].
    """
    check_number("n_in", n_in, least=2, whole=True)
    check_number("n_neurons", n_neurons, least=1, whole=True)
    if not 0 < q <= 1:
        raise InputError(f"q: expected a number in (0, 1], got {q}")
    reads = (rng.random((n_neurons, n_in)) < q).astype(np.float64)  # (n_hid, n_in)
    both = models.TARGETS["pairs"](reads).T  # (pairs, n_hid), neurons in S_i ∩ S_j
    return UniversalAnd(reads, both / np.maximum(both.sum(axis=1, keepdims=True), 1))


def and_hidden(layer: UniversalAnd, x: Any) -> np.ndarray:
    """Return ``h = ReLU(x readsᵀ − 1)``, ``(n, n_hid)``, for rows ``x (n, n_in)``."""
    rows = np.asarray(x, np.float64)  # (n, n_in)
    if rows.ndim != 2 or rows.shape[1] != layer.reads.shape[1]:
        raise InputError(f"x: expected (n, {layer.reads.shape[1]}), got shape {rows.shape}")
    h: np.ndarray = np.maximum(rows @ layer.reads.T - 1, 0)  # (n, n_hid)
    return h


def and_score(layer: UniversalAnd, *, active: int, rows: int, rng: np.random.Generator) -> AndScore:
    """Return how well all ANDs are read on random rows with ``active`` of the inputs 1 and the others 0.

    Raises
    ------
    InputError
        If ``active`` is not from 2 to n_in, or there are no rows.
    """
    n_in = layer.reads.shape[1]
    if not 2 <= active <= n_in or rows < 1:
        raise InputError(f"active, rows: expected 2 to {n_in}, and at least 1, got {active} and {rows}")
    x = (rng.random((rows, n_in)).argsort(axis=1) < active).astype(np.float64)  # (n, n_in)
    truth = models.TARGETS["pairs"](x)  # (n, pairs)
    read = and_hidden(layer, x) @ layer.readout.T  # (n, pairs)
    said = read > 0.5  # (n, pairs)
    false = said[truth == 0].mean() if (truth == 0).any() else 0.0
    return AndScore(float(said[truth == 1].mean()), float(false), float(abs(read - truth).mean()))
