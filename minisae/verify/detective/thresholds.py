"""Deviations in a threshold: what is stored, where it cuts, and what its pseudo-derivative is.

Letters: n rows, d_sae.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.ops import decode as product
from minisae.ops import dense
from minisae.verify.cases import Case
from minisae.verify.detective.data import with_param
from minisae.verify.detective.way import Arrays, At, Deviation, Pass


def deviations(case: Case) -> Iterator[Deviation]:
    """Yield those that make sense for a case."""
    if "threshold" not in case.inputs.params:
        return
    if hasattr(case.cfg, "kernel"):
        yield from _surrogates(case)
    yield from _stored(case)
    if hasattr(case.cfg, "kernel"):
        yield from _cuts(case)


def _stored(case: Case) -> Iterator[Deviation]:
    """Yield what may be wrong with what is stored."""
    yield Deviation(
        "no threshold", "your threshold is not used: every latent above 0 is active", "threshold used",
        given=lambda at: with_param(at, "threshold", np.full_like(at.params["threshold"], _zero(at.cfg))),
        grads=lambda before, seen, put, grads: (
            grads | ({"threshold": 0 * grads["threshold"]} if "threshold" in grads else {})
        ),
    )  # fmt: skip
    if not hasattr(case.cfg, "threshold_as"):
        yield Deviation(
            "threshold exp", "your threshold is taken for its logarithm", "threshold used",
            given=lambda at: with_param(at, "threshold", np.exp(at.params["threshold"])),
        )  # fmt: skip
    yield Deviation(
        "threshold handed over as log", "you hand the threshold over as its logarithm", "threshold report",
        report=lambda name, a: np.log(a) if name == "threshold" or _is_step_of(name, "threshold") else a,
    )  # fmt: skip
    yield Deviation(
        "threshold handed over as exp", "you hand the exponential of the threshold over", "threshold report",
        report=lambda name, a: np.exp(a) if name == "threshold" or _is_step_of(name, "threshold") else a,
    )  # fmt: skip


def _is_step_of(name: str, key: str) -> bool:
    return name.startswith("steps/") and name.rpartition("/")[2] == key


def _zero(cfg: Any) -> float:
    return -1e3 if getattr(cfg, "threshold_as", "itself") == "log" else 0.0


def _cuts(case: Case) -> Iterator[Deviation]:
    """Yield what may be wrong with where a latent begins to be active."""

    def cut(name: str, says: str, slot: str, how: Callable[[At, Array], Array], gate: bool = True) -> Deviation:
        def out(at: At, out: Any, cache: Any) -> tuple[Any, Any]:
            theta = how(at, out.theta)  # (d_sae,)
            moved = (out.pre > theta) != (out.pre > out.theta)  # (n, d_sae)
            f = np.where(moved, np.where(out.pre > theta, out.pre, 0), dense(out.f))  # (n, d_sae)
            other = np.where(moved, out.pre > theta, out.gate) if gate else out.gate  # (n, d_sae)
            x_hat = out.x_hat + product(f - dense(out.f), at.params["W_dec"])  # (n, d_out)
            out = out._replace(x_hat=x_hat, f=f, gate=other, theta=theta)
            return out, cache._replace(out=cache.out._replace(x_hat=x_hat, f=f, gate=other, theta=theta))

        return Deviation(name, says, slot, out=out)

    yield cut("active at threshold", "your latent is active at its threshold", "at_threshold", _just_below)
    if not hasattr(case.cfg, "at_threshold"):
        yield cut("code at threshold", "your code is active at its threshold, your gate is not", "at_threshold",
                  _just_below, gate=False)  # fmt: skip
    if getattr(case.cfg, "threshold_as", "itself") == "itself":
        yield cut("below zero kept", "your thresholds below 0 are not counted as 0", "below_zero",
                  lambda at, theta: at.params["threshold"])  # fmt: skip


def _just_below(at: At, theta: Array) -> Array:
    """Return the thresholds next below: what is above these is above the others or at them."""
    return np.nextafter(theta, -np.inf)


def _surrogates(case: Case) -> Iterator[Deviation]:
    """Yield what may be wrong with a pseudo-derivative of a threshold."""

    def factor(name: str, says: str, how: Callable[[Pass], Any]) -> Deviation:
        return Deviation(
            name, says, "threshold gradient",
            grads=lambda before, seen, put, grads: grads | {"threshold": grads["threshold"] * how(seen)},
        )  # fmt: skip

    eps = "the bandwidth ε"
    yield factor("threshold / ε", f"your gradient of the threshold is divided by {eps} once too often",
                 lambda seen: 1 / seen.at.cfg.bandwidth)  # fmt: skip
    yield factor("threshold × ε", f"your gradient of the threshold is not divided by {eps}",
                 lambda seen: seen.at.cfg.bandwidth)  # fmt: skip
    yield factor("threshold × -1", "your gradient of the threshold has the other sign", lambda seen: -1.0)
    yield factor("threshold in log", "your gradient of the threshold is that of its logarithm",
                 lambda seen: seen.out.theta)  # fmt: skip
    yield factor("threshold not in log", "your gradient of the threshold's logarithm is that of the threshold",
                 lambda seen: 1 / np.where(seen.out.theta > 0, seen.out.theta, 1))  # fmt: skip
    yield Deviation(
        "code's threshold / ε", f"your gradient of the threshold through the code is divided by {eps} once too often",
        "threshold gradient",
        grads=lambda before, seen, put, grads: _parts(seen, put, grads, 1 / seen.at.cfg.bandwidth, 1),
    )  # fmt: skip
    yield Deviation(
        "code's threshold gradient missing", "your gradient of the threshold leaves out its way through the code",
        "threshold gradient", grads=lambda before, seen, put, grads: _parts(seen, put, grads, 0, 1),
    )  # fmt: skip
    yield Deviation(
        "step's threshold gradient missing", "your gradient of the threshold leaves out its way through the step",
        "threshold gradient", grads=lambda before, seen, put, grads: _parts(seen, put, grads, 1, 0),
    )  # fmt: skip
    for share, says in ((2.0, "half of its width"), (0.5, "twice its width")):
        yield Deviation(
            f"bandwidth × {share:g}", f"your kernel takes the bandwidth for {says}", "bandwidth",
            cfg=_with_bandwidth(share),
        )  # fmt: skip


def _with_bandwidth(share: float) -> Callable[[Any], Any]:
    return lambda cfg: cfg._replace(bandwidth=cfg.bandwidth * share)


def _parts(seen: Pass, put: Arrays, grads: Arrays, code: float, step: float) -> Arrays:
    """Weigh the two ways to the threshold: through the code, and through the step itself."""
    at = seen.at
    without = {name: slope for name, slope in put.items() if name not in ("gate", "theta")}
    through = at.module.backward(at.params, seen.cache, at.cfg, without)["threshold"]  # (d_sae,)
    return grads | {"threshold": code * through + step * (grads["threshold"] - through)}
