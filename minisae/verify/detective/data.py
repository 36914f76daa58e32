"""Deviations in what goes in and what comes out: inputs, parameters, the code, the reconstruction.

Letters: n rows, d_in, d_sae.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.ops import batch_top_k, dense, row_norms, top_k
from minisae.sae import linear
from minisae.train import input_scale
from minisae.verify.cases import Case
from minisae.verify.detective.way import Arrays, At, Deviation, Pass, trained


def deviations(case: Case) -> Iterator[Deviation]:
    """Yield those that make sense for a case."""
    names = case.inputs.params.keys()
    yield from _inputs(case)
    if {"W_enc", "b_enc", "W_dec", "b_dec"} <= trained(case):
        yield from _weights(case)
        yield from _reconstruction(case)
    if "W_skip" in names:
        yield _left_out("W_skip", "your reconstruction leaves the skip connection out")
    if case.variant in ("relu", "gated", "topk", "batch_topk") and getattr(case.cfg, "select_by", "pre") == "pre":
        yield from _code(case)


# --- inputs


def _inputs(case: Case) -> Iterator[Deviation]:
    rows = case.inputs.rows[:, : case.cfg.d_in]  # (n, d_in)
    for how, says in (
        ("mean_norm", "your inputs are scaled to a mean norm of √d_in"),
        ("mean_square", "your inputs are scaled to a mean squared norm of 1"),
    ):
        scale = input_scale(rows, how)
        yield from _scaled(f"input {how}", says, _factor(scale))
    yield from _scaled("row norm", "each of your input rows is scaled to a norm of √d_in", _row_norm)
    for ddof in (1, 0):
        for eps in (1e-5, 0.0):
            yield from _scaled(
                f"layer norm ddof={ddof} eps={eps:g}",
                f"your input rows are layer-normalised, by a standard deviation with ddof = {ddof}"
                + (f" plus {eps:g}" if eps else ""),
                functools.partial(_layer_norm, ddof=ddof, eps=eps),
            )
    yield from _scaled(
        "centred rows",
        "the mean of each row is subtracted from your inputs",
        functools.partial(_layer_norm, ddof=None, eps=0.0),
    )
    yield Deviation(
        "centred batch", "the mean row of the batch is subtracted from your inputs", "input",
        given=lambda at: at._replace(x=at.x - at.x.mean(axis=0), y=at.y - at.x.mean(axis=0) if _same(at) else at.y),
    )  # fmt: skip


def _factor(scale: float) -> Callable[[Array], tuple[Array, Array]]:
    return lambda x: (np.zeros((len(x), 1)), np.full((len(x), 1), scale))


def _same(at: At) -> bool:
    return at.x.shape == at.y.shape and bool(np.array_equal(at.x, at.y))


def _row_norm(x: Array) -> tuple[Array, Array]:
    norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))  # (n, 1)
    return 0 * norms, np.sqrt(x.shape[1]) / np.where(norms > 0, norms, 1)


def _layer_norm(x: Array, ddof: int | None, eps: float) -> tuple[Array, Array]:
    mean = x.mean(axis=1, keepdims=True)  # (n, 1)
    if ddof is None or x.shape[1] <= ddof:
        return mean, np.ones_like(mean)
    deviation = x.std(axis=1, ddof=ddof, keepdims=True) + eps  # (n, 1)
    return mean, 1 / np.where(deviation > 0, deviation, 1)


def _scaled(name: str, says: str, how: Callable[[Array], tuple[Array, Array]]) -> Iterator[Deviation]:
    """Yield a shift and scale of each row, ``(x − shift) · scale``: in those units throughout, or undone at the end.

    The gradient of ``x`` takes both as constants.
    """

    def given(at: At, undo: bool) -> At:
        shift, scale = how(at.x)
        y = at.y if undo or at.y.shape != at.x.shape else (at.y - shift) * scale  # (n, d_in)
        return at._replace(x=(at.x - shift) * scale, y=y)

    def grads(before: At, seen: Pass, put: Arrays, grads: Arrays) -> Arrays:
        return grads | ({"x": grads["x"] * how(before.x)[1]} if "x" in grads else {})

    def back(at: At, a: Array) -> Array:
        shift, scale = how(at.raw)
        return a / scale + shift

    yield Deviation(name, f"{says}, and so is the target", "input", given=lambda at: given(at, False), grads=grads)
    yield Deviation(
        f"{name}, undone", f"{says}, and your reconstruction is scaled back", "input",
        given=lambda at: given(at, True), grads=grads, decode=back,
        out=lambda at, out, cache: (out._replace(x_hat=back(at, out.x_hat)), cache),
        slopes=lambda at, out, put: put | ({"x_hat": put["x_hat"] / how(at.raw)[1]} if "x_hat" in put else {}),
    )  # fmt: skip


# --- parameters


def _weights(case: Case) -> Iterator[Deviation]:
    for key in ("W_enc", "W_dec"):
        yield from _orientation(key)
    for key, what in (("b_enc", "the encoder's bias"), ("b_dec", "the decoder's bias")):
        yield _left_out(key, f"{what} {key} is left out of what you compute")
    if case.inputs.params["W_enc"].shape == case.inputs.params["W_dec"].T.shape:
        yield Deviation(
            "tied", "your encoder is the transposed decoder: W_enc itself is not used", "W_enc used",
            given=lambda at: with_param(at, "W_enc", at.params["W_dec"].T),
            grads=lambda before, seen, put, grads: (
                grads | {"W_dec": grads["W_dec"] + grads["W_enc"].T, "W_enc": 0 * grads["W_enc"]}
            ),
        )  # fmt: skip
    yield Deviation(
        "unit decoder", "your decoder rows are divided by their norms before they are used", "decoder norm",
        given=lambda at: with_param(at, "W_dec", _unit(at.params["W_dec"])),
        grads=lambda before, seen, put, grads: grads | {"W_dec": _through_unit(before.params["W_dec"], grads["W_dec"])},
    )  # fmt: skip
    yield Deviation(
        "unit decoder, norm fixed", "your decoder rows are divided by their norms, without a slope through the norm",
        "decoder norm", given=lambda at: with_param(at, "W_dec", _unit(at.params["W_dec"])),
    )  # fmt: skip
    yield Deviation(
        "norm folded", "your decoder norm is folded into the encoder before anything is computed", "decoder norm",
        given=_folded, grads=_unfolded,
    )  # fmt: skip
    norms = row_norms(case.inputs.params["W_dec"])  # (d_sae,)
    yield Deviation(
        "code times norm", "your code is multiplied by the decoder norm: its latents are those of a unit decoder",
        "code report", report=lambda name, a: a * norms if name in ("f", "encode") else a,
    )  # fmt: skip


def _orientation(key: str) -> Iterator[Deviation]:
    yield Deviation(
        f"{key} other way round", f"your {key} is read in the other orientation, without a transposition",
        f"{key} orientation", given=lambda at: with_param(at, key, _turned(at.params[key])),
        grads=lambda before, seen, put, grads: grads | {key: _turned(grads[key].T).T},
    )  # fmt: skip
    yield Deviation(
        f"{key} handed over transposed", f"you hand {key} and its gradient over transposed", f"{key} report",
        report=lambda name, a: a.T if name.rpartition("/")[2] == key else a,
    )  # fmt: skip


def _left_out(key: str, says: str) -> Deviation:
    """Return the deviation that a parameter is not used."""
    return Deviation(
        f"no {key}", says, f"{key} used", given=lambda at: with_param(at, key, np.zeros_like(at.params[key])),
        grads=lambda before, seen, put, grads: grads | {key: np.zeros_like(grads[key])},
    )  # fmt: skip


def with_param(at: At, key: str, value: Array) -> At:
    """Return the same with another value of a parameter."""
    return at._replace(params=at.params | {key: value})


def _turned(W: Array) -> Array:
    """Return the matrix that comes from reading memory of the transposed shape: the transpose where it is square."""
    return np.ascontiguousarray(W.T).reshape(W.shape)


def _unit(W: Array) -> Array:
    norms = row_norms(W)[:, None]  # (d_sae, 1)
    return W / np.where(norms > 0, norms, 1)


def _through_unit(W: Array, d_unit: Array) -> Array:
    unit, norms = _unit(W), row_norms(W)[:, None]  # (d_sae, d_in), (d_sae, 1)
    return (d_unit - (d_unit * unit).sum(axis=1, keepdims=True) * unit) / np.where(norms > 0, norms, 1)


FOLDED = ("W_enc", "b_enc", "threshold", "b_mag")


def _folded(at: At) -> At:
    norms = row_norms(at.params["W_dec"])  # (d_sae,)
    params = at.params | {key: at.params[key] * norms for key in FOLDED if key in at.params}
    return at._replace(params=params | {"W_dec": _unit(at.params["W_dec"])})


def _unfolded(before: At, seen: Pass, put: Arrays, grads: Arrays) -> Arrays:
    """Carry the gradients of folded parameters back, through the norm as well."""
    W_dec = before.params["W_dec"]  # (d_sae, d_in)
    norms = row_norms(W_dec)  # (d_sae,)
    keys = [key for key in FOLDED if key in grads]
    along = sum((grads[key] * before.params[key]).reshape(-1, len(norms)).sum(axis=0) for key in keys)  # (d_sae,)
    d_W_dec = _through_unit(W_dec, grads["W_dec"]) + along[:, None] * _unit(W_dec)  # (d_sae, d_in)
    return grads | {key: grads[key] * norms for key in keys} | {"W_dec": d_W_dec}


# --- the reconstruction


def _reconstruction(case: Case) -> Iterator[Deviation]:
    both = [name for name in ("x_hat", "aux") if case.variant == "gated" or name == "x_hat"]

    def out(at: At, out: Any, cache: Any) -> tuple[Any, Any]:
        return out._replace(**{name: getattr(out, name) - at.params["b_dec"] for name in both}), cache

    def grads(before: At, seen: Pass, put: Arrays, grads: Arrays) -> Arrays:
        frozen = getattr(before.cfg, "aux_decoder", "") == "frozen"
        used = [put[name] for name in both if name in put and not (name == "aux" and frozen)]
        return grads | {"b_dec": grads["b_dec"] - sum(slope.sum(axis=0) for slope in used)}

    yield Deviation(
        "b_dec not added", "your decoder does not add b_dec", "b_dec added", out=out, grads=grads,
        decode=lambda at, a: a - at.params["b_dec"],
    )  # fmt: skip
    if getattr(case.cfg, "subtract_b_dec", False):
        yield Deviation(
            "b_dec not through encoder", "your gradient of b_dec leaves out its way through the encoder",
            "b_dec gradient", grads=_no_way_through_encoder,
        )  # fmt: skip
        yield Deviation(
            "W_enc gradient of x", "your gradient of W_enc takes x where the encoder saw x − b_dec", "W_enc gradient",
            grads=lambda before, seen, put, grads: (
                grads | {"W_enc": grads["W_enc"] + np.outer(seen.at.params["b_dec"], _at_encoder(seen, grads))}
            ),
        )  # fmt: skip


def _at_encoder(seen: Pass, grads: Arrays) -> Array:
    """Return the slope at ``(x − b_dec) W_enc``, summed over rows: ``(d_sae,)``."""
    mag = grads["b_mag"] * np.exp(seen.at.params["r_mag"]) if "b_mag" in grads else 0.0  # (d_sae,), if any
    return grads["b_enc"] + mag


def _no_way_through_encoder(before: At, seen: Pass, put: Arrays, grads: Arrays) -> Arrays:
    if not seen.at.cfg.subtract_b_dec:
        return grads
    return grads | {"b_dec": grads["b_dec"] + seen.at.params["W_enc"] @ _at_encoder(seen, grads)}


# --- the code


def _code(case: Case) -> Iterator[Deviation]:
    def selected(says: str, name: str, choose: Callable[[At, Array], Array]) -> Deviation:
        def out(at: At, out: Any, cache: Any) -> tuple[Any, Any]:
            f = choose(at, out.mag if case.variant == "gated" else out.pre)  # (n, d_sae)
            if case.variant == "gated":
                f = np.where(out.pre > 0, f, 0)  # (n, d_sae)
            return out._replace(f=f, x_hat=linear.reconstruct(at.params, f)), cache._replace(f=f)

        return Deviation(name, says, "selection", out=out)

    if case.variant in ("relu", "gated"):
        yield selected("your code passes no ReLU", "no relu", lambda at, pre: pre.copy())
    if case.variant in ("topk", "batch_topk"):
        whole = case.variant == "batch_topk"

        def by(size: Array, at: At) -> Array:
            if whole:
                return dense(batch_top_k(size, at.module.k_total(at.cfg, len(size)))) != 0
            return dense(top_k(size, at.cfg.k)) != 0

        yield selected(
            "the selected latents pass no ReLU: negative ones stay", "no relu",
            lambda at, pre: np.where(by(pre - pre.min() + 1, at), pre, 0),
        )  # fmt: skip
        yield selected(
            "your latents are selected by their absolute values", "absolute values",
            lambda at, pre: np.where(by(abs(pre) + 1e-300, at), pre, 0),
        )  # fmt: skip
        yield selected(
            *(
                ("your k counts in each row, not in the batch", "k in each row")
                if whole
                else ("your k·n latents are selected in the whole batch, not k in each row", "k in the batch")
            ),
            lambda at, pre: dense(
                top_k(pre, max(1, round(at.cfg.k))) if whole else batch_top_k(pre, at.cfg.k * len(pre))
            ),
        )  # fmt: skip
