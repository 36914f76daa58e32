"""Deviations in the loss and its gradients: factors, what a term measures, where a slope does not go.

Letters: n rows, d_in, d_sae; what a transcoder reconstructs is d_out wide.
"""

import functools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from minisae import losses
from minisae.ops import dense, project_rows, row_norms
from minisae.optim import clip_by_global_norm
from minisae.verify.cases import Case
from minisae.verify.detective.way import Arrays, At, Deviation, Pass, Terms, forward, place, terms, trained

WORDS = {
    "mse": "squared error", "aux": "gate's own squared error", "auxk": "AuxK", "l1": "L1", "lp": "Lp penalty",
    "l0": "L0 penalty",
    "tanh": "tanh penalty", "target_l0": "L0 penalty", "pre_act": "pre-activation loss",
}  # fmt: skip
"""What terms are called."""
ERRORS, SPARSITY = ("mse", "aux"), ("l1", "lp", "l0", "tanh", "target_l0")


def deviations(case: Case) -> Iterator[Deviation]:
    """Yield those that make sense for a case."""
    names = list(terms(forward(place(case), ()), ()))
    yield from _factors(case, names)
    for name in names:
        if name in SPARSITY and case.cfg.l1 != 1:
            yield Deviation(
                "no coefficient", f"your {WORDS[name]} is without its coefficient λ", "coefficient",
                cfg=lambda cfg: cfg._replace(l1=1.0),
            )  # fmt: skip
    yield from _terms(case, names)
    yield from _gradients(case)


def scaled(term: losses.Term, factor: Any) -> losses.Term:
    """Return a term times a number."""
    return losses.Term(
        term.value * factor,
        {name: slope * factor for name, slope in term.slopes.items()},
        {name: slope * factor for name, slope in term.params.items()},
    )


def times(name: str, says: str, slot: str, of: tuple[str, ...], factor: float) -> Deviation:
    """Return the deviation that terms count ``factor`` times."""

    def change(at: At, out: Any, found: Terms, sparsity: float) -> Terms:
        return {key: scaled(term, factor) if key in of else term for key, term in found.items()}

    return Deviation(name, says, slot, terms=change)


def weighted(weights: dict[str, float]) -> Deviation:
    """Return the deviation that each term counts with a weight of its own."""
    other = {name: weight for name, weight in weights.items() if abs(weight - 1) > 1e-9}
    says = ", and ".join(f"your {WORDS.get(name, name)} counts {weight:.9g} times" for name, weight in other.items())

    def change(at: At, out: Any, found: Terms, sparsity: float) -> Terms:
        return {name: scaled(term, other.get(name, 1.0)) for name, term in found.items()}

    return Deviation(f"weights {weights}", f"{says}, all else being the reference's", "weights", terms=change)


def _says(factor: float) -> str:
    """Return a factor as text: ``1/49 of``, ``3 times``."""
    exact = Fraction(factor).limit_denominator(100_000)
    if abs(float(exact) - factor) > 1e-12 * factor:
        return f"{factor:.6g} times"
    if exact.numerator == 1:
        return f"1/{exact.denominator} of"
    return f"{exact} times"


def widths_of(cfg: Any) -> dict[str, int]:
    """Return over what an error may be averaged: first the width of what is reconstructed, ``d_in`` or ``d_out``."""
    return {key: getattr(cfg, key) for key in ("d_out", "d_in") if hasattr(cfg, key)}


def _factors(case: Case, names: list[str]) -> Iterator[Deviation]:
    n, d_sae, widths = len(case.inputs.rows), case.cfg.d_sae, widths_of(case.cfg)
    errors = tuple(name for name in names if name in ERRORS)
    groups = [(errors, "squared error" if len(errors) == 1 else "squared errors")]
    groups += [((name,), WORDS.get(name, name)) for name in names if len(errors) != 1 or name not in errors]
    groups += [(tuple(names), "whole loss")] if len(names) > 1 else []
    for of, what in groups:
        verb = "are" if what.endswith("errors") else "is"
        value = "every value is" if len(of) == 1 else "every value of them is" if verb == "are" else "it is"
        listed: list[tuple[float, str]] = [
            (n, "summed over rows, not averaged"),
            *((1 / width, f"averaged over {letter}") for letter, width in widths.items()),
            (0.5, "halved"), (2.0, "doubled"),
        ]  # fmt: skip
        if any(name in SPARSITY for name in of) and len(of) == 1:
            listed += [(1 / d_sae, "averaged over d_sae"), (n / d_sae, "averaged over d_sae and summed over rows")]
            listed += [(n * d_sae, "multiplied by the size of the code")]
        if of == ("auxk",):
            listed += [(value_ / case.cfg.auxk, f"weighted by {text}") for value_, text in ((1, "1"), (1 / 32, "1/32"))]
            listed += [((n - 1) / n, "divided by a variance with ddof = 1")]
            listed += [(n / (n - 1), "divided by a variance with ddof = 0 where the reference has 1")] if n > 1 else []
        switched = set()
        if set(of) == set(errors) and hasattr(case.cfg, "reduction"):
            switched = {f"averaged over {next(iter(widths))}"}
        if of[0] in SPARSITY and hasattr(case.cfg, "penalty_reduction"):
            switched = {"summed over rows, not averaged"}
        for factor, how in listed:
            if factor != 1 and how not in switched:
                says = f"your {what} {verb} {how}: {value} {_says(factor)} the reference's"
                yield times(f"{what} {how}", says, f"size of {what}", of, factor)
        if len(of) == 1 and len(names) > 1:
            yield times(f"no {of[0]}", f"your loss leaves the {what} out", f"size of {what}", of, 0.0)


def _terms(case: Case, names: list[str]) -> Iterator[Deviation]:
    def changed(name: str, says: str, slot: str, key: str, how: Callable[..., losses.Term]) -> Deviation:
        def change(at: At, out: Any, found: Terms, sparsity: float) -> Terms:
            return found | {key: how(at, out, found[key], sparsity)} if key in found else found

        return Deviation(name, says, slot, terms=change)

    for key in names:
        what = WORDS.get(key, key)
        yield changed(
            f"{key} detached", f"your {what} has a value but passes no gradient", f"slope of {key}", key,
            lambda at, out, term, sparsity: scaled(term, 0)._replace(value=term.value),
        )  # fmt: skip
        yield changed(
            f"{key} not to parameters", f"the slope of your {what} does not reach the decoder norm", f"slope of {key}",
            key, lambda at, out, term, sparsity: term._replace(params={}),
        )  # fmt: skip
    if "mse" in names:
        yield changed("root error", "your error is the norm of each row, not its square", "kind of mse", "mse", _root)
        for name, how in (
            ("variance", "the variance of the target"), ("square", "the mean square of the target"),
            ("variance ddof=1", "the variance of the target with ddof = 1"),
            ("row", "the squared norm of its row, row by row"),
        ):  # fmt: skip
            if name == "variance" and hasattr(case.cfg, "mse_normaliser"):
                continue
            yield changed(
                f"error over {name}", f"your squared error is divided by {how}", "kind of mse", "mse",
                functools.partial(_relative, by=name),
            )  # fmt: skip
    if "l1" in names:
        for name, says in (
            ("norm twice", "your L1 counts each latent with the square of its decoder norm"),
            ("squares", "your L1 sums the squares of the code"),
            ("row norm", "your L1 is the Euclidean norm of each row's code"),
            ("over row", "your L1 is divided by the norm of its input, row by row"),
        ):
            yield changed(
                f"l1 {name}", says, "kind of l1", "l1",
                functools.partial(_penalty, how=name),
            )  # fmt: skip


def _root(at: At, out: Any, term: losses.Term, sparsity: float) -> losses.Term:
    error = out.x_hat - at.y  # (n, d_in)
    norms = np.sqrt(np.square(error).sum(axis=1, keepdims=True))  # (n, 1)
    return losses.Term(norms.mean(), {"x_hat": error / np.where(norms > 0, norms, 1) / len(error)}, {})


def _relative(at: At, out: Any, term: losses.Term, sparsity: float, *, by: str) -> losses.Term:
    error, y = out.x_hat - at.y, at.y  # (n, d_in) each
    if by == "row":
        size = np.square(y).sum(axis=1, keepdims=True) * len(y)  # (n, 1)
    else:
        spread = y if by == "square" else y - y.mean(axis=0)  # (n, d_in)
        size = np.square(spread).sum() * (len(y) / max(1, len(y) - 1) if by.endswith("1") else 1)
    error_over = error / np.where(size > 0, size, 1)  # (n, d_in)
    return losses.Term((error * error_over).sum(), {"x_hat": 2 * error_over}, {})


def _penalty(at: At, out: Any, term: losses.Term, sparsity: float, *, how: str) -> losses.Term:
    [name] = term.slopes
    f, W_dec, y = dense(getattr(out, name)), at.params["W_dec"], at.x  # (n, d_sae), (d_sae, d_in), (n, d_in)
    share = at.cfg.l1 * sparsity / len(f)
    if how == "norm twice":
        square = np.square(W_dec).sum(axis=1)  # (d_sae,)
        total = f.sum(axis=0)[:, None]  # (d_sae, 1)
        return losses.Term(
            share * (f * square).sum(), {name: share * square + 0 * f}, {"W_dec": 2 * share * total * W_dec}
        )
    if how == "squares":
        return losses.Term(share * (f * f).sum(), {name: 2 * share * f}, {})
    weight = row_norms(W_dec) if term.params else np.ones(f.shape[1])  # (d_sae,)
    if how == "row norm":
        norms = np.sqrt(np.square(f).sum(axis=1, keepdims=True))  # (n, 1)
        return losses.Term(share * norms.sum(), {name: share * f / np.where(norms > 0, norms, 1)}, {})
    size = np.sqrt(np.square(y).sum(axis=1, keepdims=True))  # (n, 1)
    inverse = share / np.where(size > 0, size, 1)  # (n, 1)
    unit = W_dec / np.where(weight > 0, weight, 1)[:, None]  # (d_sae, d_in)
    params = {"W_dec": (f * inverse).sum(axis=0)[:, None] * unit} if term.params else {}
    return losses.Term((f * weight * inverse).sum(), {name: weight * inverse}, params)


def _gradients(case: Case) -> Iterator[Deviation]:
    n = len(case.inputs.rows)
    for factor, says in (
        (-1.0, "have the other sign"),
        (n, "are summed over rows"),
        (0.5, "are halved"),
        (2.0, "are doubled"),
    ):
        yield Deviation(
            f"gradients × {factor:g}", f"your gradients {says}, the loss does not", "size of gradients",
            grads=_grads_times(factor),
        )  # fmt: skip
    yield Deviation(
        "gradients clipped", "your gradients are clipped to a joint norm of 1", "clipped", grads=_clipped
    )  # fmt: skip
    if "W_dec" in trained(case):
        yield Deviation(
            "gradients projected", "your gradient of W_dec has its part along the decoder rows taken out", "projected",
            grads=_projected,
        )  # fmt: skip


def _grads_times(factor: float) -> Callable[[At, Pass, Arrays, Arrays], Arrays]:
    return lambda before, seen, put, grads: {name: g * factor for name, g in grads.items()}


def _clipped(before: At, seen: Pass, put: Arrays, grads: Arrays) -> Arrays:
    own = {name: g.copy() for name, g in grads.items() if name != "x"}
    clip_by_global_norm(own, 1.0)
    return grads | own


def _projected(before: At, seen: Pass, put: Arrays, grads: Arrays) -> Arrays:
    d_W_dec = grads["W_dec"].copy()  # (d_sae, d_in)
    project_rows(d_W_dec, before.params["W_dec"])
    return grads | {"W_dec": d_W_dec}
