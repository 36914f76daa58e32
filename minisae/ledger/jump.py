"""JumpReLU: what libraries make of the derivative of a step."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.ledger.base import Deviation, Shown, params_of
from minisae.ops import dense
from minisae.ops.kernels import KERNELS, overcomplete_factor
from minisae.sae import jumprelu

OVERCOMPLETE, DL = ("overcomplete", "0.3.0"), ("dictionary_learning", "0.1.0, 2025-08")


def _at(pre: float, theta: float, bandwidth: float, on: str, options: Mapping[str, Any]) -> tuple[float, float]:
    """Return the code of one latent, and the slope at θ for a slope of 1 on the output ``on``."""
    cfg = jumprelu.Config(1, 1, bandwidth=bandwidth, subtract_b_dec=False)._replace(**options)
    params = params_of([[1]], [[1]]) | {"threshold": np.array([theta])}
    out, cache = jumprelu.forward(params, np.array([[pre]]), cfg)
    slope = jumprelu.backward(params, cache, cfg, {on: np.ones((1, 1))})["threshold"]  # (1,)
    return float(dense(out.f)[0, 0]), float(slope[0])


def threshold_slope() -> Shown:
    """The slope of an entry inside the window."""
    right, theirs = (_at(1.1, 1, 0.5, "f", {"kernel_scale": scale})[1] for scale in ("unit", "overcomplete"))
    return Shown("∂f/∂θ", "pre 1.1, θ 1, ε ½, rectangle", right, theirs)


def _area(kernel: str) -> float:
    """Return ∫ K(u) du by the midpoint rule in s, u = tan s: tails that fall like 1/u² count in full."""
    n = 200_000
    s = (np.arange(n) + 0.5) / n * np.pi - np.pi / 2  # (200_000,)
    return float((KERNELS[kernel](np.tan(s)) / np.cos(s) ** 2).sum() * np.pi / n)


def kernel_areas() -> Shown:
    """What the pseudo-slope of the step integrates to."""
    right = tuple(round(_area(kernel), 3) for kernel in KERNELS)
    theirs = tuple(area * overcomplete_factor(kernel, 0.5) for kernel, area in zip(KERNELS, right, strict=True))
    return Shown("integral of the step's slope over pre", f"{', '.join(KERNELS)}; ε ½", right, theirs)


def at_the_threshold() -> Shown:
    """An entry that equals its threshold."""
    right, theirs = (_at(0.5, 0.5, 0.5, "f", {"at_threshold": how})[0] for how in ("off", "on"))
    return Shown("f", "pre = θ = ½", right, theirs)


def far_below() -> Shown:
    """An entry far below its threshold."""
    right = _at(-5, 0.1, 0.5, "f", {})[1]
    theirs = _at(-5, 0.1, 0.5, "f", {"kernel_scale": "overcomplete", "step_sees": "positive_part"})[1]
    return Shown("∂f/∂θ", "pre −5, θ 0.1, ε ½", right + 0.0, theirs)


def half_window() -> Shown:
    """An entry in the lower half of the window."""
    right, theirs = (_at(0.9, 1, 0.5, "gate", {"step_sees": seen})[1] for seen in ("pre", "code"))
    return Shown("∂gate/∂θ", "pre 0.9, θ 1, ε ½", right, theirs + 0.0)


def flooded() -> Shown:
    """A silent entry while θ is below half a bandwidth."""
    right, theirs = (_at(-5, 0.001, 0.01, "gate", {"step_sees": seen})[1] for seen in ("pre", "code"))
    return Shown("∂gate/∂θ", "pre −5, θ 0.001, ε 0.01", right + 0.0, theirs)


def negative_code() -> Shown:
    """A threshold that training moved below 0."""
    right, theirs = (_at(-0.05, -0.1, 0.01, "f", {"below_zero": how})[0] for how in ("zero", "keep"))
    return Shown("f in training", "pre −0.05, θ −0.1", right, theirs)


def _penalty(active: Array, target_of: str) -> float:
    """Return (2/T)(L0 − T)² with T = 1, for rows with so many ``active (n,)`` of two latents."""
    cfg = jumprelu.Config(2, 2, l1=2.0, penalty="target_l0", target=1.0, target_of=target_of, subtract_b_dec=False)
    params = params_of(np.eye(2), np.eye(2)) | {"threshold": np.zeros(2)}
    x = (np.arange(2) < active[:, None]).astype(np.float64)  # (n, d_in)
    terms = jumprelu.objective(params, jumprelu.forward(params, x, cfg)[0], x, cfg)
    return float(sum(term.value for name, term in terms.items() if name != "mse"))


def target_of_each_row() -> Shown:
    """Two rows with none and two active latents, where one is asked for."""
    right, theirs = (_penalty(np.array([0, 2]), of) for of in ("batch", "rows"))
    return Shown("penalty", "target L0 1, one row with 0 active latents and one with 2", right, theirs)


ENTRIES = (
    Deviation(
        *OVERCOMPLETE, "threshold slope",
        "The pseudo-derivative with respect to θ is divided by the bandwidth ε once more than the paper's.",
        "sae/kernels.py, sae/jump_sae.py",
        "thresholds learn {ratio} times as fast as the formula says; at ε = 0.001 a thousand times", threshold_slope,
    ),
    Deviation(
        *OVERCOMPLETE, "kernel areas",
        "Kernels do not integrate to the same: the Gaussian to ½, Silverman's to 2, the others to 1, all but the "
        "cosine divided by ε once more.",
        "sae/kernels.py", "a change of kernel changes the rate of θ, by up to 4 times: {theirs}", kernel_areas,
    ),
    Deviation(
        *OVERCOMPLETE, "at the threshold", "An entry that equals its threshold is active; in the paper it is not.",
        "sae/jump_sae.py", "the code is {theirs} where it is {right}", at_the_threshold,
    ),
    Deviation(
        *OVERCOMPLETE, "far below the threshold",
        "The kernel looks at ReLU(pre), so all negative entries lie at 0, inside the window while θ < ε/2.",
        "sae/jump_sae.py", "every silent entry moves its θ, by {theirs} of slope where there is none", far_below,
    ),
    Deviation(
        *DL, "half a window",
        "The penalty's pseudo-derivative looks at the code f, not at pre: the lower half of its window is empty.",
        "trainers/jumprelu.py", "half of the entries near θ have no say on L0: slope {theirs} for {right}", half_window,
    ),
    Deviation(
        *DL, "all silent entries in the window",
        "The penalty's pseudo-derivative looks at the code f, which is 0 for every silent entry, in the window while "
        "θ < ε/2.",
        "trainers/jumprelu.py", "each silent entry, however far below, moves θ: slope {theirs} for {right}", flooded,
    ),
    Deviation(
        *DL, "negative codes", "A θ below 0 lets negative codes pass in training; inference has a ReLU.",
        "trainers/jumprelu.py", "what is trained is not what is shipped: f = {theirs}, then {right}", negative_code,
    ),
    Deviation(
        "SAELens", "6.54.12", "target L0 of each row",
        "The quadratic penalty wants each row to have the target L0; dictionary_learning's wants it of the mean.",
        "saes/jumprelu_sae.py", "a batch that has the target in the mean pays {theirs} for {right}",
        target_of_each_row,
    ),
)  # fmt: skip
"""Of JumpReLU."""
