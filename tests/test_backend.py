"""One formula on two kinds of array: training gives the same bits on the costume as on NumPy, and never waits."""

import importlib
import importlib.util
from contextlib import nullcontext

import numpy as np
import pytest

from minisae import backend, dead
from minisae.backend import backend_of, namespace, resolve, to_device, to_host
from minisae.cache import array_source
from minisae.checkpoint import SAE
from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.losses import gather
from minisae.models import char_gpt
from minisae.models.layers import cross_entropy
from minisae.ops import dense, fallbacks, reference_ops
from minisae.recipe import DTYPES, INPUT_SCALES, Recipe
from minisae.runs import finished, load_run, save_run
from minisae.sae import VARIANTS
from minisae.train import fit, start, step
from tests.costume import no_sync, recorded
from tests.sae.cases import cases_of, config, every_case, first_options, parts, switches

D_IN, D_SAE, BATCH, STEPS = 7, 23, 13, 5
RECIPES = {
    "plain": {},
    "clip": {"clip": 0.1},
    "ema": {"ema": 0.7},
    "ghost": {"ghost": True},
    "eps before": {"eps_convention": "before_correction"},
    "schedules": {"lr_warmup": 2, "lr_decay": "cosine", "lr_decay_start": 0.5},
    **{f"order {order}": {"order": order, "clip": 0.1} for order in SWITCHES["order"].values},
    **{f"scale {how}": {"input_scale": how} for how in INPUT_SCALES[1:]},
    **{f"dtype {dtype}": {"dtype": dtype} for dtype in DTYPES},
    "all": {"clip": 0.1, "ema": 0.7, "ghost": True, "input_scale": "mean_norm"},
}


def cases():
    """Every case of every variant, every value of every switch, and every part of the recipe."""
    for name in VARIANTS:
        options = first_options(name)
        for field, values in switches(name).items():
            for value in values:
                yield pytest.param(name, options | {field: value}, {}, id=f"{name}-{field}-{value}")
        for label, recipe in RECIPES.items():
            yield pytest.param(name, options, recipe, id=f"{name}-{label}")
        for label, case in cases_of(name).items():
            yield pytest.param(name, case.options, RECIPES["all"] | case.recipe, id=f"{name}-case {label}")


def source():
    return array_source(np.random.default_rng(3).standard_normal((101, D_IN)).astype("f") + 0.5)


def started(variant, options, recipe, on):
    cfg = config(variant, options, D_IN, D_SAE)
    settings = {"steps": STEPS, "batch_size": BATCH, "dead_after": BATCH, "init_rows": 29, "log_every": 2, "lr": 0.05}
    with reference_ops():  # parameters are drawn on the host, where a twin would run
        run = start(source(), variant, cfg, Recipe(**{**settings, **recipe}), backend=on)
    if "b_enc" in run.params:
        run.params["b_enc"][:4] = -9.0  # dead from the start
    return run


def held(run, measures):
    groups = {"p": run.params, "m": run.adam.m, "v": run.adam.v, "ema": run.average, "measure": measures}
    arrays = {f"{group}.{key}": a for group, group_ in groups.items() for key, a in group_.items()}
    return {key: to_host(a) for key, a in {**arrays, "idle": run.idle, "bad_step": run.bad_step}.items()}


def trained(variant, options, recipe, on, *, reference):
    run = started(variant, options, recipe, on)
    with reference_ops() if reference else nullcontext():
        for _, host in zip(range(STEPS), source().batches(BATCH, seed=1), strict=False):
            x = to_device(host.astype(run.recipe.dtype), on)
            with no_sync():
                run, measures = step(run, x)
    return run, held(run, measures)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for key, a in expected.items():
        np.testing.assert_array_equal(got[key], a, err_msg=key, strict=True)


@pytest.mark.parametrize(("variant", "options", "recipe"), list(cases()))
def test_steps_are_bit_identical_and_never_wait(variant, options, recipe):
    run, expected = trained(variant, options, recipe, "numpy", reference=True)
    assert expected["idle"].max() >= BATCH, "no latent was dead: AuxK and ghost gradients would not be seen"
    assert all(np.isfinite(a).all() for a in expected.values())
    for reference in (True, False):
        on_device, got = trained(variant, options, recipe, "costume", reference=reference)
        assert_same({k: np.asarray(a) for k, a in got.items()}, {k: np.asarray(a) for k, a in expected.items()})
        assert all(backend_of(p) == "costume" for p in on_device.params.values())
        assert on_device.params.get("W_enc", on_device.params["W_dec"].T).T.flags.c_contiguous, (
            "W_enc is no longer feature-major"
        )
    assert run.step == STEPS


DECLARED = {"fit", "refuse_divergence", "refuse_broken_state", "maybe_resample"}
DECLARED |= {"resample", "row_losses", "_drawn", "pick_rows"}
"""Functions at whose lines training may wait: logging, checkpoint, resampling."""


@pytest.mark.parametrize(("variant", "case"), every_case())
@pytest.mark.parametrize("how", ["none", *dead.RESAMPLERS])
def test_fit_with_each_resampler(variant, case, how):
    recipe = {"steps": 11, "resample": how, "resample_every": 3, "resample_after": BATCH, "resample_rows": 53}
    ends = {}
    for on in ("numpy", "costume"):
        records = []
        with reference_ops(), recorded() as seen:
            run = fit(
                started(variant, case.options, recipe | case.recipe, on), source(),
                hooks=[lambda run, record, to=records: to.append(record)],
            )  # fmt: skip
        ends[on] = held(run, {}), records, run.resampled
    assert_same(ends["costume"][0], ends["numpy"][0])
    assert ends["costume"][1] == ends["numpy"][1]
    assert ends["costume"][2] == ends["numpy"][2]
    assert (ends["numpy"][2] > 0) == (how != "none")
    places = {event.where.partition(" ")[0] for event in seen} - {"start"}
    assert places <= DECLARED, [event for event in seen if event.where.partition(" ")[0] not in DECLARED]


def test_fit_waits_once_a_number_and_log():
    with recorded() as seen:
        fit(started("topk", {"k": 3}, {"steps": 4, "log_every": 2, "save_every": 100}, "costume"), source())
    copies = [event for event in seen if event.what.startswith("asarray")]
    reads = [event.what for event in seen if event not in copies and "(train.py" in event.where]
    # Twice: the step latched as bad; loss, mse, auxk, l0, r2 and dead. At the end: whether all is finite.
    log = ["int()", *["float()"] * 6]
    assert reads[:14] == log * 2
    assert reads[14:] == ["int()", *["bool()"] * 12]


def test_fallbacks_are_counted_on_a_device_only():
    fallbacks.clear()
    trained("relu", {}, {}, "numpy", reference=False)
    assert not fallbacks
    trained("relu", {}, {}, "costume", reference=False)
    expected = {"relu", "decode", "code_slope", "weight_slope", "project_rows", "normalise_rows"}
    assert expected <= fallbacks.keys()
    assert fallbacks["code_slope"] == STEPS
    assert fallbacks["weight_slope"] == 2 * STEPS


@pytest.mark.parametrize(("variant", "case"), every_case())
def test_a_trained_autoencoder_moves_between_backends(variant, case, tmp_path):
    x = np.random.default_rng(5).standard_normal((17, D_IN)).astype("f")
    results = {}
    for on in ("numpy", "costume"):
        with reference_ops():
            run = fit(started(variant, case.options, {"input_scale": "mean_norm"} | case.recipe, on), source())
            sae = finished(run, metadata={})
            sae.save(tmp_path / on)
            seen = parts(variant, x, sae.cfg)[0]
            f = sae.encode(seen)  # (n, d_sae)
            assert backend_of(f) == on
            results[on] = to_host(dense(f)), to_host(sae.decode(f, to_device(seen, on)))
            if hasattr(VARIANTS[variant], "calibrated"):
                params = VARIANTS[variant].calibrated(sae.params, x, sae.cfg)
                assert backend_of(params["threshold"]) == on
                results[on] += (to_host(params["threshold"]),)
    for got, expected in zip(results["costume"], results["numpy"], strict=True):
        np.testing.assert_array_equal(got, expected)
    for path in sorted((tmp_path / "numpy").iterdir()):
        assert path.read_bytes() == (tmp_path / "costume" / path.name).read_bytes()
    assert isinstance(sae.to("numpy"), SAE)
    host = SAE(variant, run.cfg, run.params, {}).to("numpy").params
    assert backend_of(host["W_dec"]) == "numpy"
    assert host.get("W_enc", host["W_dec"].T).T.flags.c_contiguous, "W_enc is no longer feature-major"


@pytest.mark.parametrize(("variant", "case"), every_case())
def test_several_instances_at_once(variant, case):
    """A leading instance axis: every formula again, on both kinds of array."""
    module, rng = VARIANTS[variant], np.random.default_rng(2)
    cfg = config(variant, case.options, D_IN, D_SAE)
    each = [module.init(cfg, rng) for _ in range(2)]
    dead = rng.random((2, D_SAE)) < 0.3
    x = rng.standard_normal((2, BATCH, D_IN)).astype("f")
    ends = []
    for on in ("numpy", "costume"):
        params = {name: to_device(np.stack([p[name] for p in each]), on) for name in module.SHAPES}
        seen, target = parts(variant, to_device(x, on), cfg)
        silent = to_device(dead, on)
        with no_sync():
            out, cache = module.forward(params, seen, cfg, dead=silent)
            total, slopes, direct = gather(module.objective(params, out, target, cfg, dead=silent))
            grads = module.backward(params, cache, cfg, slopes, want_x=True)
        assert total.shape == (2,)
        ends.append({key: to_host(a) for key, a in {**grads, **direct, "total": total}.items()})
    assert_same(ends[1], ends[0])


def test_the_language_model():
    cfg = char_gpt.Config(n_ctx=11, n_layer=2, d_model=6, n_head=2, d_mlp=13)
    host, ends = char_gpt.init(cfg, np.random.default_rng(0)), []
    for on in ("numpy", "costume"):
        params = {name: to_device(p, on) for name, p in host.items()}
        tokens = to_device(np.arange(33).reshape(3, 11) % 31, on)
        with no_sync():
            out, cache = char_gpt.forward(params, tokens, cfg)
            loss, d_logits = cross_entropy(out.logits, tokens)
            grads = char_gpt.backward(params, cache, cfg, d_logits)
        ends.append({name: np.asarray(to_host(a)) for name, a in {**grads, "loss": loss}.items()})
    assert_same(ends[1], ends[0])


@pytest.mark.parametrize(("variant", "case"), every_case())
def test_a_checkpoint_resumes_on_a_device(variant, case, tmp_path):
    with reference_ops():
        whole = fit(started(variant, case.options, case.recipe | {"steps": 7, "ema": 0.7}, "costume"), source())
        halted = started(variant, case.options, case.recipe | {"steps": 7, "ema": 0.7}, "costume")
        seen = []
        halted = fit(halted, source(), stop=lambda: len(seen) > 3 or seen.append(1))
        save_run(halted, tmp_path, source={})
        loaded, _ = load_run(tmp_path, backend="costume")
        assert loaded.step == halted.step == 4
        resumed = fit(loaded, source())
    assert_same(held(resumed, {}), held(whole, {}))


class TestFunctions:
    def test_namespace_of_numbers_is_numpy(self):
        assert namespace(1.0, np.float32(2)) is np
        assert namespace() is np

    def test_to_host_and_to_device_leave_numpy_alone(self):
        a = np.ones(3)
        assert to_host(a) is a
        assert to_device(a, "numpy") is a
        assert backend_of(a) == "numpy"


class TestResolve:
    def test_the_default_is_numpy(self, monkeypatch):
        monkeypatch.delenv("MINISAE_BACKEND", raising=False)
        assert resolve() == resolve("numpy") == "numpy"

    def test_reads_the_environment(self, monkeypatch):
        monkeypatch.setenv("MINISAE_BACKEND", "numpy")
        assert resolve() == "numpy"
        monkeypatch.setenv("MINISAE_BACKEND", "torch")
        with pytest.raises(InputError, match=r"^MINISAE_BACKEND: expected one of numpy, cupy, auto, got 'torch'$"):
            resolve()
        assert resolve("numpy") == "numpy"

    def test_an_unknown_flag_is_one_line(self):
        with pytest.raises(InputError, match=r"^backend: expected one of numpy, cupy, auto, got 'jax'$"):
            resolve("jax")

    def test_without_cupy(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert resolve("auto") == "numpy"
        with pytest.raises(
            InputError, match=r"^backend: 'cupy' asked for, but CuPy is not installed: pip install [^\n]*$"
        ):
            resolve("cupy")

    @pytest.mark.parametrize("present", [True, False])
    def test_with_cupy(self, monkeypatch, present):
        class Cupy:
            class cuda:
                is_available = staticmethod(lambda: present)

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(backend.importlib, "import_module", lambda name: Cupy)
        if present:
            assert resolve("auto") == resolve("cupy") == "cupy"
            return
        assert resolve("auto") == "numpy"
        with pytest.raises(InputError, match=r"^backend: 'cupy' asked for, but CuPy sees no CUDA device[^\n]*$"):
            resolve("cupy")
