"""Folding keeps the function, in float64 to rounding, over shapes and numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae.interop import folding
from minisae.interop.common import Stored
from minisae.ops import dense
from minisae.sae import VARIANTS
from tests.helpers import perturbed

sizes = st.tuples(st.sampled_from((2, 3, 5, 7)), st.sampled_from((11, 13, 17)), st.integers(0, 999))
NAMES = ("relu", "topk", "batch_topk", "jumprelu", "gated")


def make(name, size, **options):
    d_in, d_sae, seed = size
    module, rng = VARIANTS[name], np.random.default_rng(seed)
    cfg = module.Config(d_in, d_sae, **({"k": 3} if "topk" in name else {}), **options)
    params = perturbed(module, cfg, rng)
    if "threshold" in params:
        params["threshold"] = 0.5 * rng.random(d_sae)
    return Stored(name, cfg, params, {}), rng.standard_normal((23, d_in))


def outputs(sae, x):
    module = VARIANTS[sae.variant]
    f = dense(module.encode(sae.params, x, sae.cfg))
    return f, module.decode(sae.params, f)


def close(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("subtract", [True, False])
@given(size=sizes)
def test_whether_b_dec_is_subtracted(name, subtract, size):
    sae, x = make(name, size, subtract_b_dec=not subtract)
    new, notes = folding.subtracting(sae, subtract)
    assert new.cfg.subtract_b_dec is subtract
    assert len(notes) == 1
    assert not np.allclose(new.params["b_enc"], sae.params["b_enc"])
    close(outputs(new, x), outputs(sae, x))
    assert folding.subtracting(new, subtract) == (new, [])


@pytest.mark.parametrize("name", NAMES)
@given(size=sizes, scale=st.floats(0.1, 10))
def test_an_input_scale(name, size, scale):
    sae, x = make(name, size)
    f, x_hat = outputs(sae, scale * x)
    close(outputs(sae._replace(params=folding.input_scale(sae.params, scale)), x), (f, x_hat / scale))


@given(size=sizes)
def test_decoder_norms(size):
    sae, x = make("topk", size, select_by="contribution")
    sae.params["W_dec"][1] = 0
    norms = np.linalg.norm(sae.params["W_dec"], axis=1)
    new = sae._replace(params=folding.decoder_norm(sae.params), cfg=sae.cfg._replace(select_by="pre"))
    f, x_hat = outputs(sae, x)
    close(outputs(new, x), (f * norms, x_hat))
    np.testing.assert_allclose(np.delete(np.linalg.norm(new.params["W_dec"], axis=1), 1), 1)


@pytest.mark.parametrize("name", ["relu", "batch_topk", "jumprelu", "gated"])
@given(size=sizes)
def test_thresholds_that_compute_the_same(name, size):
    sae, x = make(name, size)
    params, _ = folding.thresholds(sae)
    cfg = VARIANTS["jumprelu"].Config(*size[:2])
    assert (params["threshold"] >= 0).all()
    close(outputs(Stored("jumprelu", cfg, params, {}), x), outputs(sae, x))


def test_what_no_thresholds_compute():
    assert folding.thresholds(make("topk", (5, 13, 0))[0]) is None


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
@given(size=sizes)
def test_normalised_rows_come_back(kind, size):
    x = np.random.default_rng(size[2]).standard_normal((23, size[0] + 1))
    rows, scale, shift = folding.normalise_rows(kind, x, np)
    if kind == "constant_norm_rescale":
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.sqrt(x.shape[1]))
        np.testing.assert_allclose(rows * scale + shift, x, rtol=1e-12)
    else:
        np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-12)
        np.testing.assert_allclose(rows * (scale + 1e-5) + shift, x, rtol=1e-10, atol=1e-12)
