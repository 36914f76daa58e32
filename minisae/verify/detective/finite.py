"""Numbers that are not finite where a row of the decoder is zero: something divides by its norm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minisae.verify.cases import Case
from minisae.verify.reference import Arrays, results

SAID = "your numbers are not finite where a decoder row is zero"

Numbers = Mapping[str, Any]


def only_at_zero_rows(cases: Sequence[Case], offered: Sequence[Numbers]) -> bool:
    """Whether cases with a zero decoder row, and no others, have numbers that are not finite, and finite ones too."""
    broken = [(case, one) for case, one in zip(cases, offered, strict=True) if not all(map(_finite, one.values()))]
    return bool(broken) and all(_has_zero_row(case) and any(map(_finite, one.values())) for case, one in broken)


def filled(case: Case, candidate: Numbers) -> Arrays:
    """Return a candidate's numbers with the reference's in place of those that are not finite."""
    reference = results(case)
    total = np.asarray(sum(a for name, a in reference.items() if name.startswith("loss/")))  # ()
    reference |= {"loss/total": total, "loss": total}
    found: Arrays = {}
    for name, a in candidate.items():
        found[name] = np.array(a)
        known = reference.get(name, found[name])
        if known.shape == found[name].shape and not _finite(a):
            found[name] = np.where(np.isfinite(found[name]), found[name], known)
    return found


def finite(candidate: Numbers) -> Arrays:
    """Return the arrays of a candidate that are wholly finite."""
    return {name: np.asarray(a) for name, a in candidate.items() if _finite(a)}


def _has_zero_row(case: Case) -> bool:
    W_dec = case.inputs.params.get("W_dec")  # (d_sae, d_in)
    return W_dec is not None and not W_dec.any(axis=-1).all()


def _finite(a: Any) -> bool:
    """Whether all entries are finite numbers; what is no number is left for others to judge."""
    return np.asarray(a).dtype.kind not in "biuf" or bool(np.isfinite(a).all())
