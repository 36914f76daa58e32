"""Making a model: what the options mean, and what is refused."""

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.synthetic import Hierarchy, make


def test_the_seed_decides_everything():
    options = {"n_feat": 23, "d_in": 11, "p": 0.1, "correlation_rank": 3, "bias": 2.0}
    a, b, c = make(**options, seed=5), make(**options, seed=5), make(**options, seed=6)
    for name in ("dictionary", "bias", "factor"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert not np.array_equal(getattr(a, name), getattr(c, name))


def test_parts_do_not_move_each_other():
    plain = make(n_feat=23, d_in=11, p=0.1, seed=5)
    rich = make(n_feat=23, d_in=11, p=0.2, seed=5, correlation_rank=3, bias=2.0, noise=0.1)
    np.testing.assert_array_equal(plain.dictionary, rich.dictionary)
    assert np.linalg.norm(rich.bias) == pytest.approx(2.0, rel=1e-6)
    assert not plain.bias.any()


def test_sizes_and_dtypes():
    model = make(n_feat=23, d_in=11, p=0.1, seed=0, correlation_rank=3)
    assert (model.n_feat, model.d_in) == (23, 11)
    assert model.dictionary.shape == (23, 11)
    assert model.factor.shape == (23, 3)
    assert model.dictionary.dtype == model.bias.dtype == model.factor.dtype == model.scale.dtype == np.float32


def test_orthogonal_steps_lower_the_coherence():
    W = [make(n_feat=23, d_in=19, p=0.1, seed=0, orthogonal_steps=steps).dictionary for steps in (0, 100)]
    off = [np.abs(w @ w.T - np.eye(23)).max() for w in W]
    assert off[1] < 0.6 * off[0]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"n_feat": 0}, "n_feat"),
        ({"d_in": 0}, "d_in"),
        ({"seed": -1}, "seed"),
        ({"p": 1.5}, "p: "),
        ({"p": -0.1}, "p: "),
        ({"p": float("nan")}, "p: "),
        ({"p": np.full(5, 0.1)}, "p: "),
        ({"noise": -1.0}, "noise"),
        ({"bias": float("nan")}, "bias"),
        ({"orthogonal_steps": -1}, "orthogonal_steps"),
        ({"correlation_rank": -1}, "correlation_rank"),
        ({"magnitude": "cauchy"}, "magnitude: "),
        ({"magnitude_std": 1.0}, "magnitude_std"),
        ({"magnitude": "relu_normal"}, "magnitude_std"),
        ({"magnitude_scale": 0.0}, "magnitude_scale"),
        ({"magnitude_scale": np.ones(3)}, "magnitude_scale"),
        ({"hierarchy": Hierarchy(np.full(3, -1), np.zeros(3, bool))}, "hierarchy"),
        ({"p": 0.9, "magnitude": "relu_normal", "magnitude_scale": 0.0, "magnitude_std": 1.0}, "p: "),
    ],
)
def test_bad_options_are_refused_in_one_line(change, names):
    with pytest.raises(InputError, match=names) as caught:
        make(**{"n_feat": 7, "d_in": 5, "p": 0.1, "seed": 0} | change)
    assert "\n" not in str(caught.value)
