"""A leading instance axis is a batch of autoencoders: outputs, losses, gradients and dead masks equal separate runs."""

import numpy as np
import pytest

from minisae.losses import gather
from minisae.ops import dense, l0
from minisae.sae import VARIANTS
from tests.helpers import perturbed
from tests.sae.test_gradients import (
    BATCH_TOPK_OPTIONS,
    RELU_OPTIONS,
    TOPK_OPTIONS,
    batch_topk_config,
    relu_config,
    topk_config,
)

CASES = [
    *(("relu", relu_config(5, 11, options)) for options in RELU_OPTIONS),
    *(("topk", topk_config(5, 11, options)) for options in TOPK_OPTIONS),
    *(("topk", topk_config(5, 11, TOPK_OPTIONS[0])._replace(auxk_relu=False, auxk_few="proportional", k_aux=7)),),
    *(("batch_topk", batch_topk_config(5, 11, options)) for options in BATCH_TOPK_OPTIONS),
]


def objective(variant, params, x, cfg, dead):
    """Outputs, all that comes of a step: terms, slopes, gradients (direct ones added), and who fired."""
    out, cache = variant.forward(params, x, cfg, dead=dead)
    terms = variant.objective(params, out, x, cfg, dead=dead)
    total, slopes, direct = gather(terms)
    slopes = {name: slope + np.zeros_like(dense(getattr(out, name))) for name, slope in slopes.items()}
    slopes["pre"] = 0.1 * np.cos(out.pre)
    grads = variant.backward(params, cache, cfg, slopes, want_x=True)
    for name, slope in direct.items():
        grads[name] = grads[name] + slope
    found = {"total": total, "fired": variant.fired_latents(out, cfg), "l0": l0(out.f)}
    found |= {f"term {name}": term.value for name, term in terms.items()}
    found |= {f"out {name}": dense(a) for name, a in out._asdict().items() if a is not None}
    return found | {f"grad {name}": g for name, g in grads.items()} | {f"slope {name}": s for name, s in slopes.items()}


@pytest.mark.parametrize(("name", "cfg"), CASES, ids=str)
def test_instances_equal_separate_runs(name, cfg):
    rng, variant = np.random.default_rng(1), VARIANTS[name]
    several = [perturbed(variant, cfg, rng) for _ in range(3)]
    stacked = {key: np.stack([p[key] for p in several]) for key in several[0]}
    x = rng.standard_normal((3, 7, 5))
    dead = rng.random((3, 11)) < 0.4
    dead[1] = False  # AuxK counts nothing there, and only there
    assert dead[0].any()
    assert dead[2].any()
    together = objective(variant, stacked, x, cfg, dead)
    for i, params in enumerate(several):
        alone = objective(variant, params, x[i], cfg, dead[i])
        assert alone.keys() == together.keys()
        for key, a in alone.items():
            assert together[key][i].shape == np.shape(a), key
            np.testing.assert_allclose(together[key][i], a, rtol=1e-12, atol=1e-12, err_msg=key)
        np.testing.assert_array_equal(
            dense(variant.encode(stacked, x, cfg))[i], dense(variant.encode(params, x[i], cfg))
        )
        np.testing.assert_allclose(variant.decode(stacked, together["out f"])[i], alone["out x_hat"], rtol=1e-12)
    if cfg.k_aux if hasattr(cfg, "k_aux") else 0:
        assert together["term auxk"][1] == 0
        assert (together["term auxk"][[0, 2]] > 0).all()


@pytest.mark.parametrize("how", ["corrected", "from_zero", "from_first"])
def test_each_instance_has_its_threshold(how):
    variant, rng = VARIANTS["batch_topk"], np.random.default_rng(2)
    cfg = variant.Config(5, 11, 1.8, threshold_rule=how)
    several = [variant.init(cfg, rng, dtype=np.float64) for _ in range(3)]
    stacked = {key: np.stack([p[key] for p in several]) for key in several[0]}
    for step in range(4):
        x = rng.standard_normal((3, 7, 5))
        variant.after_step(stacked, variant.forward(stacked, x, cfg)[0], cfg, step=step)
        for i, params in enumerate(several):
            variant.after_step(params, variant.forward(params, x[i], cfg)[0], cfg, step=step)
            np.testing.assert_allclose(stacked["threshold"][i], params["threshold"], rtol=1e-13)
