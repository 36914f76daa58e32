"""Every comment like ``# (n, d_sae)`` is true, and in the numerical modules every array assignment has one."""

import itertools
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import minisae
from minisae import baselines, end_to_end, metrics, models, synthetic
from minisae.cache import Filters, array_source, split
from minisae.dead import RESAMPLERS
from minisae.interop import saelens
from minisae.losses import gather
from minisae.models import char_gpt, layers, train_char_gpt
from minisae.ops import batch_top_k, reference_ops, top_k
from minisae.recipe import Recipe
from minisae.runs import finished, load_run, save_run
from minisae.sae import VARIANTS
from minisae.train import fit, start, step
from minisae.verify import check_gradients
from tests.cache.helpers import small_cache
from tests.sae.cases import cases_of, config, first_options, parts
from tests.shapecheck import Trace

ROOT = Path(minisae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NUMERIC = (
    "ops",
    "sae",
    "losses",
    "optim",
    "dead",
    "synthetic",
    "metrics",
    "models",
    "train",
    "baselines",
    "end_to_end",
)
"""Modules in which every assignment of an array to a name carries its shape."""

UNCOMMENTED = {
    ("ops/dispatch.py", "first"): "any argument of any operation",
    ("ops/products.py", "d_f"): "whatever broadcasts to the code's shape",
    ("optim.py", "p"): "a parameter of any shape",
    ("optim.py", "a"): "a parameter of any shape",
}
"""Assignments without a comment, with the reason."""

D_IN, D_SAE, N, STEPS = 7, 23, 13, 5
RECIPE = {"clip": 0.1, "ema": 0.7, "ghost": True, "input_scale": "mean_norm"}


def rows(n=101, d_in=D_IN, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d_in)).astype(np.float32) + 0.5


def training():
    """Whole runs of every case of every variant, with and without twins, with every resampler."""
    hows = itertools.cycle(("none", *RESAMPLERS))
    for name in VARIANTS:
        for case in cases_of(name).values():
            for reference in (True, False):
                recipe = Recipe(
                    steps=STEPS, batch_size=N, dead_after=N, init_rows=29, log_every=1, resample=next(hows),
                    resample_every=2, resample_after=1, resample_rows=31, **RECIPE | case.recipe,
                )  # fmt: skip
                with reference_ops() if reference else nullcontext():
                    run = start(array_source(rows()), name, config(name, case.options, D_IN, D_SAE), recipe)
                    run.params.get("b_enc", np.zeros(3))[:3] = -9
                    fit(run, array_source(rows()))


def sparse_training():
    """Wide enough for codes to be sparse, in the twins; also where nearly every pre-activation is negative."""
    for name in VARIANTS:
        for b_enc in (0, np.where(np.arange(211) % 3, -9, -2)):
            recipe = Recipe(steps=STEPS, batch_size=N, dead_after=N, init_rows=29)
            run = start(array_source(rows()), name, config(name, first_options(name), D_IN, 211), recipe)
            if "b_enc" in run.params:
                run.params["b_enc"][...] = b_enc
            fit(run, array_source(rows()))
    top_k(np.rint(rows(N, 211)), 5)  # with ties
    batch_top_k(np.rint(rows(N, 211)), 67)


def gradients():
    for name, module in VARIANTS.items():
        cfg = config(name, first_options(name), 2, 11)
        params = module.init(cfg, np.random.default_rng(1), sample=rows(5, 2), dtype=np.float64)
        x, y = parts(name, rows(5, 2).astype(np.float64), cfg)

        def loss(p, module=module, cfg=cfg, x=x, y=y):
            return float(gather(module.objective(p, module.forward(p, x, cfg)[0], y, cfg))[0])

        out, cache = module.forward(params, x, cfg)
        slopes = gather(module.objective(params, out, y, cfg))[1]
        check_gradients(loss, params, module.backward(params, cache, cfg, slopes))
        module.backward(params, cache, cfg, {"pre": np.ones_like(out.pre)}, want_x=True)


def saving(folder):
    for name, module in VARIANTS.items():
        cfg = config(name, first_options(name), D_IN, D_SAE)
        run = fit(start(array_source(rows()), name, cfg, Recipe(steps=2, batch_size=N)), array_source(rows()))
        save_run(run, folder / "run", source={})
        load_run(folder / "run")
        sae = finished(run, metadata={})
        sae.save(folder / name)
        saelens.read(folder / name)
        x = parts(name, rows(N), cfg)[0]
        sae.decode(sae.encode(x), x)
        with reference_ops():
            module.encode(sae.params, x, cfg)
            if hasattr(module, "calibrated"):
                module.calibrated(sae.params, x, cfg)


def truth():
    """Synthetic data of every kind."""
    nested = synthetic.tree(17, roots=2, branching=2, depth=2, exclusive=True, scale_by_parent=True)
    p = synthetic.given_parent(synthetic.firing_probabilities(17, shape="zipf", p_max=0.3, p_min=0.05), nested)
    for options in (
        {"p": 0.3, "orthogonal_steps": 2},
        {"p": p, "hierarchy": nested, "correlation_rank": 2, "noise": 0.1, "bias": 0.5},
        {"p": 0.2, "magnitude": "relu_normal", "magnitude_std": 0.3},
        {"p": 0.2, "magnitude": "folded_normal", "magnitude_std": 0.3},
        {"p": 0.2, "magnitude": "exponential"},
        {"p": 0.2, "magnitude": "constant"},
    ):
        model = synthetic.make(n_feat=17, d_in=5, seed=3, **options)
        synthetic.sample(model, 19, np.random.default_rng(0))
    next(synthetic.SyntheticSource(model).batches(19, seed=0))


def measures():
    x, x_hat, f = rows(17), rows(17, seed=1), np.maximum(rows(17, 19, seed=2), 0)
    learned, dictionary = rows(19, seed=3), rows(11, seed=4)
    for name in metrics.__all__:
        function = getattr(metrics, name)
        if getattr(function, "__code__", None) and function.__code__.co_varnames[:2] == ("x", "x_hat"):
            function(x, x_hat, f) if name == "measure" else function(x, x_hat)
    totals = metrics.measure(x, x_hat, f, center=x.mean(axis=0))
    metrics.report(metrics.add(totals, x, x_hat, f, center=x.mean(axis=0)))
    metrics.cosine_structure(learned)
    metrics.diff_models(learned[:, :3], learned[:, 3:6])
    metrics.norm_shares([learned[:, :3], learned[:, 3:]])
    metrics.max_cosines(learned, dictionary, absolute=True)
    metrics.max_abs_correlation_coefficient(dictionary, learned)
    metrics.recovery_report(dictionary, learned, np.maximum(rows(17, 11), 0), f)
    metrics.density_histogram(metrics.firing_density(f))
    metrics.dead_fraction(metrics.firing_counts(f))
    metrics.l0(f), metrics.l1(f)
    logits = rows(17, 29)
    log_p = metrics.log_softmax(logits)
    metrics.cross_entropy(log_p, np.arange(17))
    metrics.kl_divergence(log_p, metrics.log_softmax(rows(17, 29, seed=8)))
    pca = baselines.fit([x, x_hat], 5)
    for reduced in (pca, baselines.PCATopK(pca, 2)):
        reduced.decode(reduced.encode(x))


def language_model(folder):
    cfg = char_gpt.Config(n_ctx=11, n_layer=2, d_model=6, n_head=2, d_mlp=13)
    model = models.random_init(cfg, np.random.default_rng(0))
    documents = [np.arange(101) % 83, np.arange(47) % 79]
    hook = char_gpt.hook_names(cfg)[4]
    tokens = documents[0][:33].reshape(3, 11)
    out, cache = char_gpt.forward(model.params, tokens, cfg, read=[hook], replace={hook: lambda a: a * 2})
    _, d_logits = layers.cross_entropy(out.logits, tokens)
    char_gpt.backward(model.params, cache, cfg, d_logits, want=[hook], through={hook: lambda a: a * 2})
    models.document_loss(model, documents[1])
    list(models.activations(model, documents, hooks=[hook]))
    models.generate(model, "a", 2), models.generate(model, "a", 2, temperature=0)
    train_char_gpt.train(documents, cfg, train_char_gpt.Recipe(steps=2, batch=12), threads=1)
    for loss in end_to_end.LOSSES:
        splice = end_to_end.Splice("blocks.0.hook_resid_post", loss, 0.5)
        end_to_end.train(model, documents, splice, d_sae=13, steps=2, batch_size=33, options={"init_rows": 33})
    models.save(model, folder / "model.safetensors")
    models.load(folder / "model.safetensors")


def caching(folder):
    cache, _ = small_cache(folder / "cache", filters=Filters(skip_positions=1))
    both = split(cache, held_out=0.2, seed=1)
    for part in (both.train, both.held_out):
        batches = part.batches(37, seed=0, start=2)
        next(batches)
        batches.close()
        part.read(3, 29)
    next(array_source(rows()).batches(N, seed=0, start=3))


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    with Trace(FILES) as seen:
        for scenario in (training, sparse_training, gradients, truth, measures):
            scenario()
        for scenario in (saving, language_model, caching):
            scenario(folder)
    return seen


def place(file):
    return Path(file).relative_to(ROOT).as_posix()


def numeric(file):
    return place(file).partition("/")[0].removesuffix(".py") in NUMERIC


def test_every_comment_is_true(trace):
    wrong = sorted({str(w).removeprefix(f"{ROOT}/") for w in trace.wrong})
    assert not wrong, "\n".join(wrong)


def test_every_array_has_its_shape(trace):
    bare = {(place(file), name, line) for (file, line), name in trace.bare.items() if numeric(file)}
    missing = [f"{file}:{line} {name}" for file, name, line in sorted(bare) if (file, name) not in UNCOMMENTED]
    assert not missing, "\n".join(missing)


def test_nearly_every_comment_was_reached(trace):
    """A comment that no run reaches may say anything."""
    written = {
        (file, item.first)
        for file, lines in trace.files.items()
        if numeric(file)
        for item in lines.values()
        if item.dims is not None
    }
    unseen = sorted(f"{place(file)}:{line}" for file, line in written - trace.checked)
    assert len(unseen) <= 0.1 * len(written), f"{len(unseen)} of {len(written)}:\n" + "\n".join(unseen)


def test_letters_hold_across_the_calls_of_a_step():
    """Within a step n, d_in and d_sae mean one thing wherever they are written outside the operations."""
    outside = [path for path in FILES if place(path).partition("/")[0] in ("sae", "losses.py", "train.py")]
    for name in VARIANTS:
        for i, case in enumerate(cases_of(name).values()):
            cfg = config(name, case.options, D_IN, D_SAE)
            recipe = Recipe(steps=STEPS, batch_size=N, dead_after=1, log_every=1, **RECIPE | case.recipe)
            run = start(array_source(rows()), name, cfg, recipe)
            width = {} if hasattr(VARIANTS[name], "sizes") else {"d_in": D_IN}  # else a row has parts of other widths
            for reference in (True, False) if i == 0 else (True,):
                with (
                    reference_ops() if reference else nullcontext(),
                    Trace(outside, n=N, d_sae=D_SAE, **width) as seen,
                ):
                    run, _ = step(run, rows(N))
                assert seen.checked
                assert not seen.wrong, "\n".join(map(str, seen.wrong))


PLANTED = """
import numpy as np

def f(x, cfg=None):
    n, d = x.shape
    y = x.T  # (d, n)
    z = (
        x + 1
    )  # (n, d), over several lines
    rows = x.sum(axis=1)  # (n,)
    total = rows.sum()  # ()
    flat = x.reshape(-1)  # (n*d,)
    for part in (x, x[:1]):
        some = part[:, 0]  # (rows_of_part,)
    bare = x * 2
    if cfg:
        wrong = WRONG
    return flat[: n + 1]
"""
MISTAKES = {
    "x.T  # (n, d)": "(n, d)",
    "x  # (d, n)": "(d, n)",
    "x.sum()  # (1,)": "(1,)",
    "x[:, :1]  # (n, 2)": "(n, 2)",
    "flat[:-1]  # (n*d,)": "(n * d,)",
    "np.ones(4)  # (rows_of_all, )": None,
    "x  # (n, d, 1)": "(n, d, 1)",
    "np.ones((d, d + 2))  # (m, m)": "(m, m)",
}


@pytest.mark.parametrize(("line", "says"), MISTAKES.items())
def test_a_planted_mistake_is_found(tmp_path, line, says):
    path = tmp_path / "planted.py"
    path.write_text(PLANTED.replace("WRONG", line))
    module: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    with Trace([path]) as seen:
        module["f"](np.zeros((3, 5)))
    assert not seen.wrong
    assert list(seen.bare.values()) == ["bare"]
    assert len(seen.checked) == 6
    with Trace([path]) as seen:
        module["f"](np.zeros((3, 5)), cfg=1)
    if says is None:
        assert not seen.wrong
    else:
        [wrong] = seen.wrong
        assert str(wrong).startswith(f"{path}:17 wrong: the comment says {says}")
