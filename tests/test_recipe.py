"""A recipe that makes no sense is one line."""

import pytest

from minisae.errors import InputError
from minisae.recipe import Recipe, check_recipe


def test_defaults_are_sound():
    check_recipe(Recipe(steps=1))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, got 2.5"),
        ({"lr": -1e-3}, "lr: expected a number of at least 0, got -0.001"),
        ({"beta1": 1.5}, "beta1: expected a number of at least 0 and at most 1, got 1.5"),
        ({"dtype": "float16"}, "dtype: expected one of float32, float64, got 'float16'"),
        ({"resample": "all"}, "resample: expected one of none, bricken, arena_simple, arena_advanced, got 'all'"),
        ({"input_scale": "unit"}, "input_scale: expected one of none, mean_norm, mean_square, got 'unit'"),
        ({"ghost": "yes"}, "ghost: expected one of False, True, got 'yes'"),
    ],
)
def test_bad_values(change, line):
    with pytest.raises(InputError) as caught:
        check_recipe(Recipe(steps=10)._replace(**change))
    assert str(caught.value) == line
