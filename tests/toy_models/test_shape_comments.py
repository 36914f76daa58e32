"""Every comment like ``# (i, n, n_feat)`` in toy_models is true, and every array that gets a name has one."""

from pathlib import Path

import numpy as np
import pytest

import toy_models
from tests.shapecheck import Trace
from tests.toy_models.test_plots import GALLERY
from toy_models import data, exact, geometry, limits, models, polygons, polytopes, recognise, theory, thomson, train
from toy_models.experiments import (
    absorption,
    adversarial,
    branches,
    computation,
    correlation,
    dynamics,
    memorisation,
    pentagon,
    phase,
    privileged,
    sharkey,
    sparse_but_wrong,
    sweep,
)

ROOT = Path(toy_models.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name not in ("bench.py", "cli.py", "commands.py"))
"""The last three talk to people; their arrays come from the others."""
N_FEAT, N_HID, N = 7, 3, 11
UNCOMMENTED = {("models.py", "p"): "a parameter of any shape"}
"""Assignments without a comment, with the reason."""


def rng(seed=0):
    return np.random.default_rng(seed)


def core():
    p = np.array([[0.3] * N_FEAT, [0.04] * N_FEAT])
    sources = [
        data.independent(p), data.independent(0.05, n_feat=N_FEAT, signed=True), data.single_active(N_FEAT),
        data.correlated(0.2, sets=1, size=N_FEAT), data.anticorrelated(0.2, sets=N_FEAT, size=1),
        data.hierarchical([0.3] * N_FEAT, [-1, 0, 0, 1, 1, 2, 2]),
        data.fixed(rng().random((N, N_FEAT)), np.ones(N) / N),
    ]  # fmt: skip
    for source in sources:
        cfg = models.Config(N_FEAT, N_HID, hidden="relu")
        run = train.train(
            cfg, source, steps=2, batch_size=N, instances=2, importance=0.9 ** np.arange(N_FEAT), hidden_l1=0.1,
            weight_decay=0.1, snapshots=[0, 2],
        )  # fmt: skip
        train.evaluate(cfg, run.params, source, rows=13)
    for target in models.TARGETS:
        width = N_FEAT * (N_FEAT - 1) // 2 if target == "pairs" else N_FEAT
        cfg = models.Config(N_FEAT, N_HID, kind="mlp", n_out=width, output="identity")
        run = train.train(cfg, data.independent(p, signed=True), steps=1, batch_size=N, target=target)
    out, cache = models.forward(run.params, rng().random((2, N, N_FEAT)).astype("f4"), run.cfg)
    models.backward(run.params, cache, run.cfg, {"h": out.h})
    small = models.Config(2, 1)
    rows = exact.batch([0.3, 0.2], nodes=(5, 3))
    exact.minimise(small, {"W": rng().random((2, 1, 2)), "b": np.zeros((2, 2))}, rows, importance=[1.0, 2.0], steps=3)


def shapes():
    W = rng().standard_normal((N_HID, N_FEAT))
    for convention in ("text", "legend", "code"):
        geometry.superposition(W, convention=convention)
    geometry.packing(W), geometry.learned(W), geometry.canonical(W), geometry.coherence(W)
    geometry.components(W, eps=0.3), geometry.dimensions_per_feature(W)
    products = polytopes.tegum(polytopes.polygon(5), polytopes.simplex(3), polytopes.square_antiprism())
    for frame in (products, polytopes.icosahedron(), polytopes.cube(), rng().standard_normal((4, 17))):
        found = recognise.recognise(frame + 0.03 * rng(1).standard_normal(frame.shape))
        recognise.summary(found)
    recognise.stability(products)
    polytopes.facts(polytopes.bipyramid(3)), polytopes.cross_polytope(2), polytopes.named("cube")
    thomson.minimise(5, 3, rng(), starts=2, steps=20)
    thomson.minimise(5, 2, rng(), energy="relu2", starts=2, steps=20)


def closed_forms():
    density, importance = phase.grid(3)
    theory.phase_losses(density, importance), theory.phase_losses(density, importance, n_feat=3, free_norm=True)
    theory.boundaries(density), theory.free_antipodal(density), theory.small_density_norm(np.array([0.3, 0.5]))
    theory.small_density_loss(np.array([0.1, 0.2]), np.array([0.3, 0.5]))
    theory.linear_loss(rng().random((N_HID, N_FEAT)), 0.1, importance=np.ones(N_FEAT))
    theory.linear_optimum(np.ones(N_FEAT), 0.1, n_hid=N_HID)
    phase.exact_phase(density, importance, nodes=4), phase.exact_phase(density[:1], importance[:1], n_feat=3, nodes=3)
    phase.trained_phase(density, importance, seeds=2, steps=2, nodes=3)
    near = phase.near_boundary(density[:1], importance[:1])
    phase.agreement(np.zeros(1), np.zeros(1), near[0])
    for k in (5, 6):
        polygons.polygon_optimum(k), polygons.polygon_energy(k), polygons.polygon_loss(k, 7)
        polygons.one_hot_loss(*polygons.polygon_params(k, 7))
    polygons.packing_hull(polygons.packing_shapes())
    limits.spark(rng().standard_normal((3, 5))), limits.oracle_fvu(6, np.arange(7))
    limits.shrinkage_floor(np.array([0.1]))
    limits.allocate_capacity(np.outer([1, 2], [1, 0.4, 0.1]), 1.0), limits.readout_loss(np.array([0.5]))
    branches.branch("pentagon", [1.0, 0.9], nodes=3, max_active=2)


def experiments():
    correlation.embed_sets("correlated", sets=2, size=2, n_hid=2, tries=2, steps=2)
    correlation.set_cosines(rng().standard_normal((2, 3, 6)), sets=2), correlation.collapse([0.3], tries=2, steps=2)
    course = dynamics.energy_levels(n_feat=N_FEAT, n_hid=N_HID, instances=2, steps=8, every=1)
    dynamics.jumps(course.steps, course.D[:, 0], floor=0.0, tolerance=0.5)
    dynamics.align(course.W[:, 0]), dynamics.antipodal(course.W[-1]), dynamics.transformation(steps=2, every=1)
    source = data.independent([[0.5], [0.2]], n_feat=N_FEAT)
    trained = train.train(models.Config(N_FEAT, N_HID), source, steps=2, batch_size=N)
    adversarial.vulnerability(trained.cfg, trained.params, source, rows=13)
    found = privileged.privileged([0.5], tries=2, steps=2)
    privileged.neurons(found.W[0]), privileged.order(found.W[0])
    done = computation.absolute([1.0], tries=2, steps=2)
    pair = done.W_1[0, 0], done.W_2[0, 0]
    computation.slopes(*pair), computation.effective_features(pair[0]), computation.monosemantic(pair[0])
    computation.asymmetric(*pair)
    layer = computation.u_and(13, 37, 0.3, rng())
    computation.and_score(layer, active=2, rows=17, rng=rng())
    sweep.recognised(sweep.geometry_sweep(n_feat=N_FEAT, n_hid=N_HID, inverse_densities=(1.0, 3.0), steps=3))
    sweep.best_by_density(models.Config(N_FEAT, N_HID), [0.3, 0.1], seeds=2, steps=2, rows=17)
    memorisation.memorise(5, n_feat=31, starts=2, steps=3)


def autoencoders():
    toy = {"W": rng().standard_normal((1, 2, 5)).astype("f4"), "b": np.zeros((1, 5), "f4")}
    for how in (None, "arena_simple", "arena_advanced"):
        pentagon.recover(toy, how, instances=2, steps=3, batch_size=N, snapshots=[0, 3])
    dictionary = rng().standard_normal((13, 5)).astype("f4")
    for correlated in (None, sharkey.random_correlation(13, rng())):
        rows = sharkey.features(13, 2.0, correlation=correlated)
        found = sharkey.recovery_map(dictionary, rows, l1=[0.1, 0.2], widths=[7, 11], steps=3, batch_size=N)
    sharkey.random_mmcs(dictionary, 11, rng(), draws=2)
    sharkey.compare(dictionary, sharkey.duplicated(dictionary))
    absorption.examine(*absorption.train(nested=True, instances=2, steps=3))
    absorption.hedge(nested=True, instances=2, steps=3)
    sparse_but_wrong.sweep(0.4, steps=3)
    return found


SCENARIOS = (core, shapes, closed_forms, experiments, autoencoders)


@pytest.fixture(scope="module")
def trace():
    with Trace(FILES) as seen:
        for scenario in SCENARIOS:
            scenario()
        for draw in GALLERY.values():
            draw()
    return seen


def place(file):
    return Path(file).relative_to(ROOT).as_posix()


def test_every_comment_is_true(trace):
    assert not sorted({str(wrong).removeprefix(f"{ROOT}/") for wrong in trace.wrong})


def test_every_array_has_its_shape(trace):
    bare = {(place(file), name, line) for (file, line), name in trace.bare.items()}
    missing = [f"{file}:{line} {name}" for file, name, line in sorted(bare) if (file, name) not in UNCOMMENTED]
    assert not missing, "\n".join(missing)


def test_nearly_every_comment_was_reached(trace):
    written = {
        (file, item.first) for file, lines in trace.files.items() for item in lines.values() if item.dims is not None
    }
    unseen = sorted(f"{place(file)}:{line}" for file, line in written - trace.checked)
    assert len(unseen) <= 0.1 * len(written), f"{len(unseen)} of {len(written)}:\n" + "\n".join(unseen)
