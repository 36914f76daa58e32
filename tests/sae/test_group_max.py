"""GroupMax by hand: one winner a group, groups that do not divide, winners of value 0."""

import doctest

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.ops import dense
from minisae.sae import group_max
from tests.sae.auxk import held_fixed
from tests.sae.cases import Case

__all__ = ["held_fixed"]

CASES = {
    "ours": Case({"k": 3, "k_aux": 2, "auxk": 0.3}, {"k_start": 11, "k_anneal": 4}),
    "sparsify": Case(
        {"k": 5, "auxk": 0.3, "relu": "before", "selected_zero": "passes", "mse_normaliser": "input_variance",
         "auxk_normaliser": "input_variance", "auxk_reach": "decoder", "auxk_few": "proportional"}
    ),
    "one group": Case(
        {"k": 1, "reduction": "mean", "subtract_b_dec": False, "decoder": "free",
         "auxk_normaliser": "residual_variance", "auxk_reach": "everything"}
    ),
}  # fmt: skip


def identity_params():
    return {
        "W_enc": np.eye(6, order="F"), "b_enc": np.zeros(6), "W_dec": np.eye(6), "b_dec": np.zeros(6),
    }  # fmt: skip


X = np.array([[3.0, 1.0, 2.0, 0.5, 0.5, -1.0], [-1.0, -2.0, 4.0, -3.0, -2.5, -5]])


@pytest.mark.parametrize(
    ("k", "code"),
    [
        (2, [[3, 0, 0, 0.5, 0, 0], [0, 0, 4, 0, 0, 0]]),
        (3, [[3, 0, 2, 0, 0.5, 0], [0, 0, 4, 0, 0, 0]]),
        (4, [[3, 0, 2, 0, 0.5, 0], [0, 0, 4, 0, 0, 0]]),  # widths 2, 2, 1, 1
        (1, [[3, 0, 0, 0, 0, 0], [0, 0, 4, 0, 0, 0]]),
        (6, np.maximum(X, 0)),
    ],
)
def test_by_hand(k, code):
    cfg = group_max.Config(6, 6, k=k)
    out, _ = group_max.forward(identity_params(), X, cfg)
    np.testing.assert_array_equal(dense(out.f), code)
    np.testing.assert_array_equal(dense(group_max.encode(identity_params(), X, cfg)), code)


def test_a_winner_of_value_0_fires_and_gets_gradient_where_asked():
    cfg = group_max.Config(6, 6, k=3, auxk=0.0)
    fired, slopes = {}, {}
    for relu in ("after", "before"):
        for zero in ("blocked", "passes"):
            own = cfg._replace(relu=relu, selected_zero=zero)
            out, cache = group_max.forward(identity_params(), X[1:], own)
            fired[relu, zero] = group_max.fired_latents(out, own).astype(int).tolist()
            grads = group_max.backward(identity_params(), cache, own, {"x_hat": np.ones((1, 6))})
            slopes[relu, zero] = grads["b_enc"].tolist()
    assert fired["after", "blocked"] == fired["after", "passes"] == [0, 0, 1, 0, 0, 0]
    assert fired["before", "blocked"] == fired["before", "passes"] == [1, 0, 1, 0, 1, 0]
    assert slopes["after", "blocked"] == slopes["before", "blocked"] == [0, 0, 1, 0, 0, 0]
    # Before ReLU the group (−2.5, −5) is won by −2.5, of a tie at 0 by the first: the same latent here.
    assert slopes["after", "passes"] == slopes["before", "passes"] == [1, 0, 1, 0, 1, 0]


def test_bad_configuration_is_one_line():
    with pytest.raises(InputError, match=r"^k: expected at most d_sae = 11, got 12$"):
        group_max.check_config(group_max.Config(5, 11, 12))
    with pytest.raises(InputError, match=r"^k: expected a whole number of at least 1, got 0$"):
        group_max.check_config(group_max.Config(5, 11, 0))


def test_the_example_runs():
    result = doctest.testmod(group_max)
    assert result.attempted > 0
    assert result.failed == 0
