"""Counts of firings, dense and sparse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import metrics as m
from minisae.errors import InputError
from minisae.ops import SparseCode

F = np.array([[0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0], [0.0, -1.0, 0.0, 0.5]])
# the same code; the second row holds a latent that was selected and is 0
SPARSE = SparseCode(
    np.array([2.0, 1.0, 0.0, 3.0, -1.0, 0.5]),
    np.array([1, 3, 0, 3, 1, 3], np.int32),
    np.array([0, 2, 4, 6], np.int32),
    (3, 4),
)


@pytest.mark.parametrize("f", [F, SPARSE], ids=["dense", "sparse"])
def test_by_hand(f):
    assert m.l0(f) == pytest.approx(5 / 3)
    assert m.l1(f) == pytest.approx(7.5 / 3)
    assert m.firing_counts(f).tolist() == [0, 2, 0, 3]
    np.testing.assert_allclose(m.firing_density(f), [0, 2 / 3, 0, 1])
    assert m.dead_fraction(m.firing_counts(f)) == 0.5
    assert m.share_above(m.firing_density(f), 0.7) == 0.25


def test_histogram_by_hand():
    density = np.array([0.0, 1.0, 0.05, 0.02, 1e-9, 0.001])
    counts, edges, silent = m.density_histogram(density, bins=4, low=-4.0)
    np.testing.assert_allclose(edges, [-4, -3, -2, -1, 0])
    # 1e-9 lies below the lowest edge and counts there, 0.001 on an edge goes up, 1 into the last bin
    assert counts.tolist() == [1, 1, 2, 1]
    assert silent == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 41), st.integers(1, 30))
def test_every_latent_is_somewhere_in_the_histogram(seed, d_sae, bins):
    rng = np.random.default_rng(seed)
    density = np.where(rng.random(d_sae) < 0.3, 0, 10 ** rng.uniform(-9, 0, d_sae))
    histogram = m.density_histogram(density, bins=bins)
    assert histogram.counts.sum() + histogram.silent == d_sae
    assert histogram.silent == (density == 0).sum()


@pytest.mark.parametrize("options", [{"bins": 0}, {"low": 0.0}])
def test_bad_bins_are_refused(options):
    with pytest.raises(InputError, match="bins, low"):
        m.density_histogram(np.ones(3), **options)
