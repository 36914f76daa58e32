"""AuxK, in every variant that has it: what it counts and whom it trains."""

import numpy as np
import pytest

from minisae.sae import VARIANTS
from tests.helpers import perturbed
from tests.sae.cases import config, parts

WITH_AUXK = [name for name, module in VARIANTS.items() if "auxk_reach" in module.Config._fields]


@pytest.mark.parametrize("name", WITH_AUXK)
def test_reach_decoder_leaves_the_encoder_alone(name):
    rng = np.random.default_rng(17)
    variant, rows = VARIANTS[name], rng.standard_normal((7, 5))
    cfg = config(name, {"k": 3, "k_aux": 2, "auxk": 0.1, "auxk_reach": "decoder"}, 5, 11)
    params, x = perturbed(variant, cfg, rng), parts(name, rows, cfg)[0]
    out, cache = variant.forward(params, x, cfg, dead=np.arange(11) % 2 == 0)
    grads = variant.backward(params, cache, cfg, {"aux": rng.standard_normal(out.aux.shape)})
    assert not grads["W_enc"].any()
    assert not grads["b_enc"].any()
    assert any(grads[key].any() for key in grads.keys() - {"W_enc", "b_enc", "b_dec"})
