"""Every metric and PCA on device arrays: the same numbers, and no wait for the device while totals are gathered."""

from types import SimpleNamespace

import numpy as np
import pytest

from minisae import metrics as m
from minisae.backend import to_device, to_host
from minisae.baselines import PCATopK, fit
from tests import costume  # noqa: F401  (registers the pretended device)
from tests.costume import no_sync

PAIR = [
    m.squared_error_per_row,
    m.squared_error_per_element,
    m.pooled_r2,
    m.mean_of_ratios_legacy,
    m.frac_variance_explained,
    m.saebench_0_6_explained_variance,
    m.overcomplete_r2,
    m.openai_about_zero,
    m.l2_ratio,
    m.relative_reconstruction_bias,
    m.cosine_similarity,
]


@pytest.fixture
def data():
    """The same arrays twice: on the host, and on the device."""
    rng = np.random.default_rng(0)
    host = {
        "x": rng.standard_normal((41, 5)).astype(np.float32),
        "x_hat": rng.standard_normal((41, 5)).astype(np.float32),
        "f": np.where(rng.random((41, 13)) < 0.2, rng.random((41, 13)), 0).astype(np.float32),
        "f_true": np.where(rng.random((41, 7)) < 0.2, rng.random((41, 7)), 0).astype(np.float32),
        "learned": rng.standard_normal((13, 5)),
        "truth": rng.standard_normal((7, 5)),
        "logits": rng.standard_normal((41, 11)),
        "targets": rng.integers(0, 11, 41),
    }
    device = {name: to_device(a, "costume") for name, a in host.items()}
    return SimpleNamespace(**host), SimpleNamespace(**device)


@pytest.mark.parametrize("metric", PAIR, ids=[f.__name__ for f in PAIR])
def test_reconstruction(metric, data):
    host, device = data
    with no_sync():
        result = metric(device.x, device.x_hat)
    assert float(result) == pytest.approx(float(metric(host.x, host.x_hat)), rel=1e-12)


def test_totals(data):
    host, device = data
    center = host.x.mean(axis=0)
    there = to_device(center, "costume")
    with no_sync():
        totals = m.measure(device.x, device.x_hat, device.f, center=there)
        totals = m.add(totals, device.x, device.x_hat, device.f, center=there)
    expected = m.measure(host.x, host.x_hat, host.f, center=center)
    assert m.report(totals) == pytest.approx(m.report(m.merge(expected, expected)), rel=1e-12)


def test_sparsity(data):
    host, device = data
    for metric in (m.l0, m.l1):
        assert metric(device.f) == pytest.approx(metric(host.f))
    density = m.firing_density(device.f)
    assert m.dead_fraction(density) == m.dead_fraction(m.firing_density(host.f))
    assert m.share_above(density, 0.1) == m.share_above(m.firing_density(host.f), 0.1)
    ours, theirs = m.density_histogram(density), m.density_histogram(m.firing_density(host.f))
    np.testing.assert_array_equal(to_host(ours.counts), theirs.counts)
    assert ours.silent == theirs.silent


def test_model(data):
    results = []
    for d in data:
        log_p = m.log_softmax(d.logits)
        log_q = m.log_softmax(d.logits * 0.5)
        ce, kl = m.cross_entropy(log_p, d.targets), m.kl_divergence(log_p, log_q)
        results.append((m.ce_recovered(ce, ce * 1.1, ce * 2), m.kl_recovered(kl, kl * 3)))
    assert results[0] == pytest.approx(results[1])


def test_geometry_and_recovery(data):
    host, device = data
    ours, theirs = m.cosine_structure(device.learned, chunk=5), m.cosine_structure(host.learned)
    np.testing.assert_allclose(to_host(ours.max_abs), theirs.max_abs)
    np.testing.assert_array_equal(to_host(ours.counts), theirs.counts)
    assert ours.coherence == pytest.approx(theirs.coherence)
    reports = [m.recovery_report(d.truth, d.learned, d.f_true, d.f) for d in data]
    assert reports[1] == pytest.approx(reports[0])


def test_pca(data):
    host, device = data
    ours, theirs = fit([device.x[:20], device.x[20:]], 3), fit([host.x], 3)
    np.testing.assert_allclose(
        to_host(ours.decode(ours.encode(device.x))), theirs.decode(theirs.encode(host.x)), atol=1e-5
    )
    code = PCATopK(ours, k=2).encode(device.x)
    np.testing.assert_allclose(to_host(code), PCATopK(theirs, k=2).encode(host.x), atol=1e-5)
