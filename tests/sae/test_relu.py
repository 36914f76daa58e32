"""ReLU with L1 on a case worked by hand, and what holds for any shape."""

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import relu
from tests.helpers import perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case({"l1": 0.7}, {"sparsity_warmup": 3}),
    "april update": Case({"l1": 0.4, "l1_weight": "decoder_norm", "decoder": "free"}),
    "others": Case({"l1": 0.1, "subtract_b_dec": False, "reduction": "mean"}),
    "saelens, p": Case({"l1": 0.4, "p": 1.7, "l1_weight": "decoder_norm", "decoder": "free"}),
    "openai": Case({"l1": 0.3, "relative": True}),
    "overcomplete": Case({"l1": 0.02, "penalty_reduction": "sum", "reduction": "mean", "subtract_b_dec": False}),
}


def saelens_code(fields, arrays, pre):
    return np.maximum(pre, 0)


def test_by_hand():
    """Two rows, d_in 2, d_sae 3. Centred rows are (1, 0) and (0, 2); the arithmetic is in the comments."""
    params = {
        "W_enc": np.array([[1.0, -1.0, 0.5], [0.0, 1.0, 0.5]]),
        "b_enc": np.array([0.0, 0.5, -0.25]),
        "W_dec": np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]),
        "b_dec": np.array([1.0, -1.0]),
    }
    x = np.array([[2.0, -1.0], [1.0, 1.0]])
    cfg = relu.Config(2, 3, l1=0.5)
    out, _ = relu.forward(params, x, cfg)
    # pre: (1, −1 + .5, .5 − .25) and (0, 2 + .5, 1 − .25)
    np.testing.assert_allclose(out.pre, [[1.0, -0.5, 0.25], [0.0, 2.5, 0.75]])
    np.testing.assert_allclose(dense(out.f), [[1.0, 0.0, 0.25], [0.0, 2.5, 0.75]])
    # x_hat: (1 + .15, .2) + b_dec and (.45, 2.5 + .6) + b_dec
    np.testing.assert_allclose(out.x_hat, [[2.15, -0.8], [1.45, 2.1]])
    terms = relu.objective(params, out, x, cfg)
    # errors (.15, .2) and (.45, 1.1): (.0225 + .04 + .2025 + 1.21) / 2;   .5 · (1.25 + 3.25) / 2
    np.testing.assert_allclose(terms["mse"].value, 0.7375)
    np.testing.assert_allclose(terms["l1"].value, 1.125)
    np.testing.assert_allclose(gather(terms)[0], 1.8625)


def test_mean_reduction_divides_by_the_width():
    rng = np.random.default_rng(0)
    cfg = relu.Config(5, 11)
    params, x = perturbed(relu, cfg, rng), rng.standard_normal((7, 5))
    out, _ = relu.forward(params, x, cfg)
    total = relu.objective(params, out, x, cfg)["mse"].value
    mean = relu.objective(params, out, x, cfg._replace(reduction="mean"))["mse"].value
    np.testing.assert_allclose(mean * 5, total)


def test_the_conventions_by_hand():
    """Two rows of norms 5 and 2, codes (3, 4, 0) and (0, 1, 0), decoder norms 1, 2 and 1."""
    params = {"W_enc": np.eye(2, 3), "b_enc": np.zeros(3), "W_dec": np.diag([1.0, 2, 1])[:, :2], "b_dec": np.zeros(2)}
    y, f = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4, 0], [0, 1, 0]])
    out = relu.Out(np.array([[3.0, 8.0], [0.0, 2.0]]), f, f)
    cfg = relu.Config(2, 3, l1=0.5)

    def of(**options):
        terms = relu.objective(params, out, y, cfg._replace(**options))
        return terms["mse"].value, terms["l1"].value, terms["l1"].slopes["f"] * np.ones_like(f)

    np.testing.assert_allclose(of()[:2], (16 / 2, 0.5 * (7 + 1) / 2))
    np.testing.assert_allclose(of(penalty_reduction="sum", reduction="mean")[:2], (16 / 4, 0.5 * (7 + 1)))
    np.testing.assert_allclose(of(relative=True)[:2], (16 / 25 / 2, 0.5 * (7 / 5 + 1 / 2) / 2))
    np.testing.assert_allclose(of(relative=True)[2], 0.25 * np.array([[1 / 5] * 3, [1 / 2] * 3]))
    np.testing.assert_allclose(of(p=2.0)[1], 0.5 * (5 + 1) / 2)
    np.testing.assert_allclose(of(p=2.0)[2], 0.25 * np.array([[3 / 5, 4 / 5, 0], [0, 1, 0]]))
    np.testing.assert_allclose(of(p=2.0, l1_weight="decoder_norm")[1], 0.5 * ((9 + 64) ** 0.5 + 2) / 2)
    zero = relu.objective(params, out, np.zeros_like(y), cfg._replace(relative=True))  # counts as it is
    np.testing.assert_allclose([zero["mse"].value, zero["l1"].value], [(9 + 64 + 4) / 2, 0.5 * 8 / 2])


def test_the_penalty_of_a_saelens_training_checkpoint():
    fields = {"architecture": "standard", "l1_coefficient": 0.3, "lp_norm": 0.5}
    assert relu.from_saelens(fields) == {"l1": 0.3, "p": 0.5, "l1_weight": "decoder_norm"}
    assert relu.from_saelens({"architecture": "standard"}) == {}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"p": 0}, "p: expected a number above 0, got 0"),
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"d_sae": 0}, "d_sae: expected a whole number of at least 1, got 0"),
        ({"reduction": "max"}, "reduction: expected one of sum, mean, got 'max'"),
        ({"l1_weight": "none"}, "l1_weight: expected one of plain, decoder_norm, got 'none'"),
        ({"l1": float("nan")}, "l1: expected a number of at least 0, got nan"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        relu.check_config(relu.Config(5, 11)._replace(**change))
    assert str(caught.value) == line
