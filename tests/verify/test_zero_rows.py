"""The detective on numbers that are not finite beside a zero row of the decoder, and on such that are so elsewhere."""

import numpy as np
import pytest

from minisae.verify.cases import cases
from minisae.verify.detective import explain
from minisae.verify.reference import results

CASES = cases("relu")
SAID = "your numbers are not finite where a decoder row is zero"
L1 = "your L1 is averaged over d_sae: every value is 1/7 of the reference's"


def numbers(name, **changed):
    found = {key: a for key, a in results(CASES[name]).items() if not key.startswith(("grads/", "steps/"))}
    return found | {key: change(found[key].copy()) for key, change in changed.items()}


def divided(a):
    a[..., 3] = np.nan  # W_dec is zero in row 3
    return a


def test_numbers_that_are_not_finite_at_a_zero_row():
    case = CASES["zero decoder row"]
    np.testing.assert_array_equal(np.flatnonzero(~case.inputs.params["W_dec"].any(axis=1)), [3])
    found = explain(case, numbers("zero decoder row", f=divided, x_hat=lambda a: np.full_like(a, np.nan)))
    assert (str(found), found.verdict) == (SAID, "explained")
    both = [CASES["base"], case]
    assert str(explain(both, [numbers("base"), numbers("zero decoder row", encode=divided)])) == SAID


def test_what_is_wrong_elsewhere_is_said_before():
    wrong = {"loss/l1": lambda a: a / 7}
    both = [numbers("base", **wrong), numbers("zero decoder row", encode=divided, **wrong)]
    found = explain([CASES["base"], CASES["zero decoder row"]], both)
    assert (str(found), found.verdict) == (f"{L1}; and {SAID}", "explained")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("base", divided),  # no row is zero
        ("zero decoder row", lambda a: divided(a) + np.arange(7.0)),  # wrong beside it
    ],
)
def test_nothing_is_explained_by_it_that_it_does_not_explain(name, change):
    assert explain(CASES[name], numbers(name, f=change)).verdict == "unknown"


def test_nothing_finite_at_all_is_not_explained():
    everything = {name: np.full(a.shape, np.nan) for name, a in numbers("zero decoder row").items()}
    assert explain(CASES["zero decoder row"], everything).verdict == "unknown"
