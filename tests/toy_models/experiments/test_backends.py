"""Experiments trained on a device: the same bits as on the host, where the results are."""

import numpy as np
import pytest

from minisae.backend import to_device
from minisae.ops import reference_ops
from tests.costume import recorded
from toy_models.experiments import (
    absorption,
    computation,
    correlation,
    memorisation,
    privileged,
    sparse_but_wrong,
    sweep,
)
from toy_models.models import Config

SHORT = {"steps": 5, "batch_size": 13, "lr": 0.05}
RUNS = {
    "geometry sweep": lambda **on: sweep.geometry_sweep(
        n_feat=11, n_hid=3, inverse_densities=(1, 4), seeds=2, **SHORT, **on
    ),
    "best by density": lambda **on: sweep.best_by_density(
        Config(5, 2), (0.3, 0.1), seeds=3, importance=0.9 ** np.arange(5), rows=101, **SHORT, **on
    ),
    "sets": lambda **on: correlation.embed_sets("correlated", sets=2, size=3, n_hid=2, tries=3, **SHORT, **on),
    "collapse": lambda **on: correlation.collapse((0.1, 0.5), tries=3, **SHORT, **on),
    "privileged": lambda **on: privileged.privileged((0.5, 0.2), tries=3, rows=101, **SHORT, **on),
    "absolute": lambda **on: computation.absolute((1.0, 0.2), tries=3, rows=101, **SHORT, **on),
    "memorised": lambda **on: memorisation.memorise(7, n_feat=23, density=0.2, starts=3, steps=5, test_rows=29, **on),
}


def arrays(found):
    """Yield every array of a result, those in its dictionaries too."""
    for field in found:
        yield from field.values() if isinstance(field, dict) else [field]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits_on_the_host(name):
    with reference_ops():
        expected = RUNS[name]()
        with recorded() as seen:
            got = RUNS[name](backend="costume")
    assert any(event.what == "get()" for event in seen), "trained on the device"
    for a, b in zip(arrays(got), arrays(expected), strict=True):
        assert isinstance(a, np.ndarray | float)
        np.testing.assert_array_equal(a, b, strict=True)


def test_measures_of_arrays_on_a_device():
    rng = np.random.default_rng(0)
    D = absorption.orthonormal(5, 7, rng)
    x = rng.standard_normal((1, 11, 7)).astype(np.float32)
    params = sparse_but_wrong.truth_start(D)
    there = {name: to_device(p, "costume") for name, p in params.items()}
    far = to_device(D, "costume")
    for name, p in sparse_but_wrong.truth_start(far).items():
        np.testing.assert_array_equal(p, params[name], strict=True)
    for a, b in (
        (absorption.cosines(far, D[:3]), absorption.cosines(D, D[:3])),
        (sparse_but_wrong.decoder_overlap(there["W_dec"]), sparse_but_wrong.decoder_overlap(params["W_dec"])),
        (sparse_but_wrong.nth_projection(there, x, 2), sparse_but_wrong.nth_projection(params, x, 2)),
    ):
        np.testing.assert_array_equal(a, b, strict=True)
