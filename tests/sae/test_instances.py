"""A leading instance axis is a batch of autoencoders: outputs, losses, gradients and dead masks equal separate runs."""

import numpy as np
import pytest

from minisae.losses import gather
from minisae.ops import dense, l0
from minisae.sae import VARIANTS, reconstruct, split
from tests.helpers import perturbed
from tests.sae.cases import config, every_case, every_combination


def objective(variant, params, rows, cfg, dead):
    """Outputs, all that comes of a step: terms, slopes, gradients (direct ones added), and who fired."""
    x, y = split(variant, rows, cfg)
    out, cache = variant.forward(params, x, cfg, dead=dead)
    terms = variant.objective(params, out, y, cfg, dead=dead)
    total, slopes, direct = gather(terms)
    for name, a in out._asdict().items():
        if a is not None:
            slopes[name] = slopes.get(name, 0) + 0.1 * np.cos(dense(a))
    grads = variant.backward(params, cache, cfg, slopes, want_x=True)
    for name, slope in direct.items():
        grads[name] = grads[name] + slope
    found = {"total": total, "fired": variant.fired_latents(out, cfg), "l0": l0(out.f)}
    found |= {f"term {name}": term.value for name, term in terms.items()}
    found |= {f"out {name}": dense(a) for name, a in out._asdict().items() if a is not None}
    return found | {f"grad {name}": g for name, g in grads.items()} | {f"slope {name}": s for name, s in slopes.items()}


@pytest.mark.parametrize(("name", "options"), every_combination())
def test_instances_equal_separate_runs(name, options):
    rng, variant, cfg = np.random.default_rng(1), VARIANTS[name], config(name, options, 5, 11)
    several = [perturbed(variant, cfg, rng) for _ in range(3)]
    stacked = {key: np.stack([p[key] for p in several]) for key in several[0]}
    x = rng.standard_normal((3, 7, 5))
    dead = rng.random((3, 11)) < 0.4
    dead[1] = False  # AuxK counts nothing there, and only there
    assert dead[0].any()
    assert dead[2].any()
    together, seen = objective(variant, stacked, x, cfg, dead), split(variant, x, cfg)[0]
    for i, params in enumerate(several):
        alone = objective(variant, params, x[i], cfg, dead[i])
        assert alone.keys() == together.keys()
        for key, a in alone.items():
            assert together[key][i].shape == np.shape(a), key
            np.testing.assert_allclose(together[key][i], a, rtol=1e-12, atol=1e-12, err_msg=key)
        np.testing.assert_array_equal(
            dense(variant.encode(stacked, seen, cfg))[i], dense(variant.encode(params, seen[i], cfg))
        )
        x_hat = reconstruct(variant, stacked, together["out f"], seen)[i]
        np.testing.assert_allclose(x_hat, alone["out x_hat"], rtol=1e-12)
    if "term auxk" in together and getattr(cfg, "auxk_over", "dead") == "dead":
        assert together["term auxk"][1] == 0
        assert (together["term auxk"][[0, 2]] > 0).all()


@pytest.mark.parametrize(("name", "case"), every_case())
def test_each_instance_has_its_state(name, case):
    variant, rng = VARIANTS[name], np.random.default_rng(2)
    cfg, state = config(name, case.options, 5, 11), getattr(variant, "STATE", ())
    assert bool(state) == hasattr(variant, "after_step")
    several = [variant.init(cfg, rng, dtype=np.float64) for _ in range(3)]
    stacked = {key: np.stack([p[key] for p in several]) for key in several[0]}
    assert set(state) <= stacked.keys() == variant.SHAPES.keys()
    for step in range(4 if state else 0):
        x = rng.standard_normal((3, 7, 5))
        variant.after_step(stacked, variant.forward(stacked, x, cfg)[0], cfg, step=step)
        for i, params in enumerate(several):
            variant.after_step(params, variant.forward(params, x[i], cfg)[0], cfg, step=step)
            for key in state:
                np.testing.assert_allclose(stacked[key][i], params[key], rtol=1e-13, err_msg=key)
