"""A recipe that makes no sense is one line."""

import numpy as np
import pytest

from minisae.errors import InputError
from minisae.recipe import Recipe, check_recipe
from minisae.sae import relu, topk

TOPK, RELU = topk.Config(5, 13, 3), relu.Config(5, 13)


def test_defaults_are_sound():
    check_recipe(Recipe(steps=1), TOPK)
    check_recipe(Recipe(steps=np.int64(9), lr=np.float32(1e-3), k_start=8, k_anneal=9), TOPK)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, got 2.5"),
        ({"lr": -1e-3}, "lr: expected a number of at least 0, got -0.001"),
        ({"beta1": 1.5}, "beta1: expected a number of at least 0 and below 1, got 1.5"),
        ({"beta2": 1}, "beta2: expected a number of at least 0 and below 1, got 1"),
        ({"lr": float("inf")}, "lr: expected a number of at least 0, got inf"),
        ({"k_start": 8}, "k_anneal: expected k_start and k_anneal together, got k_start 8, k_anneal 0"),
        ({"k_anneal": 8}, "k_anneal: expected k_start and k_anneal together, got k_start 0, k_anneal 8"),
        ({"k_start": 2, "k_anneal": 8}, "k_start: expected between k = 3 and d_sae = 13, got 2"),
        ({"k_start": 8, "k_anneal": 11}, "k_anneal: expected at most steps = 10, got 11"),
        ({"sparsity_warmup": 8}, "sparsity_warmup: expected a variant with a penalty λ, this one has none"),
        ({"dtype": "float16"}, "dtype: expected one of float32, float64, got 'float16'"),
        (
            {"resample": "all"},
            "resample: expected one of none, bricken, arena_simple, arena_advanced, dictionary_learning, got 'all'",
        ),
        ({"input_scale": "unit"}, "input_scale: expected one of none, mean_norm, mean_square, got 'unit'"),
        ({"ghost": "yes"}, "ghost: expected one of False, True, got 'yes'"),
    ],
)
def test_bad_values(change, line):
    with pytest.raises(InputError) as caught:
        check_recipe(Recipe(steps=10)._replace(**change), TOPK)
    assert str(caught.value) == line


def test_annealing_k_needs_a_k():
    with pytest.raises(InputError, match="k_anneal: expected a variant with k, this one has none"):
        check_recipe(Recipe(steps=10, k_start=8, k_anneal=5), RELU)
