"""
Lesson 3: polytopes
===================

**What you do.** Train a model with 100 features and 10 hidden dimensions at 16 densities, measure how much of a
dimension each feature has, let the program say which shapes the features form, and find out why it is these shapes.

**What you learn.** What the dimensionality D of a feature is, and a theorem about it: the sum of all D is at most the
number of dimensions. That features fall apart into blocks which do not touch each other, each a polytope: pair,
pentagon, antiprism. How a program can name them, and when it must not. That a hexagon can be better than a pentagon
although training mostly ends in a pentagon.

**What you need.** Lesson 1; eigenvectors and the inequality of Cauchy and Schwarz. About 45 seconds of processor
time, on two cores. Run it with ``python lessons/03_polytopes.py``: pictures open in windows, and the lesson goes on
when you close one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER
instead.

Sources: Elhage et al. 2022, "Toy Models of Superposition" (dimensionality, the sweep, the shapes); Scherlis et al.
2022, "Polysemanticity and capacity in neural networks" (the sum); Chen et al. 2023, "Dynamical versus Bayesian phase
transitions in a toy model of superposition" (polygons); Welch 1974 (the bound on cosines).
"""

# %%
# Letters as in lesson 1: ``n_feat`` features, ``n_hid`` hidden dimensions, W is (n_hid, n_feat), column j of it, W_j,
# is the direction of feature j. ``p`` is the density, the probability that a feature is present; 1/p is its rarity.
# The model is ``x_hat = max(x @ W.T @ W + b, 0)``. A *frame* is a matrix of columns.

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

from minisae.metrics import welch_bound
from toy_models import data, exact, geometry, limits, models, plots, polygons, polytopes, thomson
from toy_models.experiments import sweep
from toy_models.matching import fits
from toy_models.plots.style import signed_image
from toy_models.recognise import UNKNOWN, recognise, summary
from toy_models.train import evaluate, train

SEED = 0
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"03_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **How much of a dimension does a feature have?** Feature j is read along its own direction Ŵ_j = W_j / |W_j|. Along
# that direction lie parts of other features, too. Its share of what lies there is its *dimensionality*
#
#     D_j = |W_j|² / sum over i of (Ŵ_j · W_i)²          i = j is one of the terms
#
# 1: the direction is its own. 1/2: an antipodal pair shares it. 0: it is not stored. By hand, for three features, of
# which two are an antipodal pair:

three = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])  # (n_hid, n_feat)
np.testing.assert_allclose(geometry.dimensionality(three), [1, 1 / 2, 1 / 2])

# %%
# **The sweep.** 100 features, all of importance 1, and 10 dimensions. One model at each of 16 densities, from p = 1 to
# p = 0.01. Each dot in the picture is one feature; the line is ``D* = n_hid / sum of |W_j|²``, the dimensions there are
# for each feature stored.

run = sweep.geometry_sweep(n_feat=100, n_hid=10, steps=4000, lr=4e-3, seed=SEED)
rarity = run.inverse_density  # (t,)

fig, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
plots.dimensionality_scatter(rarity, run.D, ax, D_star=run.d_star)
show(fig, "1_dimensionality")

for at, total, stored in zip(rarity, run.sum_D, run.n_learned, strict=True):
    print(f"1/p = {at:5}: {stored:3} features stored, sum of all D {total:.3f}")

# %%
# Dots do not lie just anywhere. From 1/p = 2 to 3.5 the features that are stored sit at 1/2: they live in pairs. At 4
# and 5 they come down, past 2/5 and 3/8. Further right there are ever more features with ever less room. At p = 1 all
# features get about a tenth of a dimension: the model keeps 10 directions of the data, and no feature is special.
# (Levels above 1/2 are reached at 1/p = 1.5 only, and roughly.)
#
# One number does not move: **the sum of all D is 10**, the number of dimensions, at every density.

in_pairs = (np.abs(run.D - 0.5) < 0.02).sum(axis=1)  # (t,)
plateau = (rarity >= 2) & (rarity <= 3.5)  # (t,)
assert (in_pairs[plateau] >= 16).all()
assert (np.abs(run.d_star[plateau] - 0.525) < 0.075).all()
assert np.abs(run.sum_D - 10).max() < 0.05
for at, before in ((4, 3.5), (5, 4)):
    middle, earlier = (np.median(D[D > 0.2]) for D in (run.D[rarity == at], run.D[rarity == before]))
    assert 0.3 < middle < earlier + 0.01
assert (run.D[rarity >= 2] < 0.6).all()
assert run.D[rarity == 1.5].max() > 0.6
assert np.median(run.D[0]) < 0.2, "p = 1"
assert run.n_learned[-1] > 90, "p = 0.01: nearly all features are stored ..."
assert np.median(run.D[-1]) < 0.12, "... with little room each"

# %%
# (D* falls below the mean D on the right. It counts stored features by |W_j|², and the lengths there are above 1.)

assert run.d_star[-1] < 0.8 * run.sum_D[-1] / run.n_learned[-1]
assert geometry.norms(run.params["W"][-1]).mean() > 1.1

# %%
# **Why is the sum 10? A theorem.** Let ``F = W @ W.T``, (n_hid, n_hid). Multiply D_j above and below by |W_j|². Below
# there is then ``sum over i of (W_j · W_i)²``, and that is ``W_j · F W_j``:
#
#     D_j = |W_j|⁴ / (W_j · F W_j)
#
# Beside it put the *leverage*  ``h_j = W_j · F⁻¹ W_j``  (with the pseudo-inverse if W has not full rank). Then
#
# 1. D_j ≤ h_j. Write ``|W_j|² = (F^½ W_j) · (F^-½ W_j)``. Cauchy and Schwarz: the square of a dot product is at most
#    the product of the squared lengths, so ``|W_j|⁴ ≤ (W_j · F W_j) (W_j · F⁻¹ W_j)``. Divide by the first bracket.
# 2. The sum of all h_j is the rank of W:  ``trace(W.T @ F⁻¹ @ W) = trace(F⁻¹ @ W @ W.T) = trace(F⁻¹ @ F)``.
# 3. So **the sum of all D is at most n_hid**. They are equal only if step 1 is an equality for every j: F^½ W_j and
#    F^-½ W_j are parallel, which is ``F W_j = λ W_j``. Every feature is an eigenvector of F.

rng = np.random.default_rng(SEED)
W = rng.standard_normal((5, 11))  # (n_hid, n_feat)
F = W @ W.T  # (n_hid, n_hid)
D = (W**2).sum(axis=0) ** 2 / (W * (F @ W)).sum(axis=0)  # (n_feat,)
h = (W * np.linalg.solve(F, W)).sum(axis=0)  # (n_feat,)
packed = geometry.packing(W)
np.testing.assert_allclose(packed.D, D)
np.testing.assert_allclose(packed.leverage, h)

many = geometry.packing(rng.standard_normal((2000, 5, 11)))
assert (many.D - many.leverage).max() < 1e-12, "step 1, in 2000 random frames"
np.testing.assert_allclose(many.leverage.sum(axis=1), 5)

# %%
# **The leverage has a meaning of its own.** Take the best linear *probe*: numbers v so that ``h @ v`` guesses x_j from
# the hidden activations ``h = x @ W.T``. For independent features of variance σ², hidden numbers have covariance σ² F,
# and with x_j they have covariance σ² W_j. So v = F⁻¹ W_j, and the share of x_j's variance that it explains, R², is
# ``W_j · F⁻¹ W_j``: the leverage. Now the theorem says: *reading a feature along its own direction* (which explains
# D_j) *is never better than the best probe, and all probes together explain n_hid features' worth.*

x = data.sample(data.independent(0.3, n_feat=11), 100_000, rng, dtype=np.float64)[0]  # (n, n_feat)
x -= x.mean(axis=0)
hidden = x @ W.T  # (n, n_hid)
probes = np.linalg.lstsq(hidden, x, rcond=None)[0]  # (n_hid, n_feat)
r2 = 1 - ((hidden @ probes - x) ** 2).sum(axis=0) / (x**2).sum(axis=0)  # (n_feat,)
own = (hidden @ W) / np.linalg.norm(W, axis=0) ** 2 * D  # (n, n_feat), along W_j, with the best factor
r2_own = 1 - ((own - x) ** 2).sum(axis=0) / (x**2).sum(axis=0)  # (n_feat,)
assert np.abs(r2 - h).max() < 0.01
assert np.abs(r2_own - D).max() < 0.01

# %%
# Draw D against h. Twenty random directions lie below the diagonal: they waste dimensions. The features of a trained
# model lie *on* it (those that are not stored at 0). Training knows nothing of the theorem, and yet wastes nothing.

random_frame = rng.standard_normal((10, 20))  # (n_hid, n_feat)
shown = {"20 random directions": random_frame} | {
    f"trained, 1/p = {at:g}": run.params["W"][rarity == at][0] for at in (3, 5, 20)
}
fig, axes = plt.subplots(1, 4, figsize=(11, 3.7), layout="constrained", sharex=True, sharey=True)
for ax, (name, frame) in zip(axes, shown.items(), strict=True):
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    ax.plot(geometry.leverage(frame), geometry.dimensionality(frame), "o", color=BLUE, markersize=4, alpha=0.6)
    total = geometry.dimensionality(frame).sum()
    ax.set(title=f"{name}\nsum of all D = {total:.2f}", xlabel="leverage h", aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("dimensionality D")
show(fig, "2_leverage")

assert geometry.packing(random_frame).unused > 1.5
for at in (3, 5, 20):
    packed = geometry.packing(run.params["W"][rarity == at][0].astype(np.float64))
    assert packed.unused < 0.05
    assert np.abs(packed.leverage - packed.D).max() < 0.05

# %%
# **From the theorem to shapes.** Eigenvectors of F with different eigenvalues are at right angles. So if the sum is
# n_hid, features fall apart into blocks, one for each λ, that share no direction. Inside a block of d dimensions F is
# just λ times the identity: a *tight frame*. If the block's k features have length 1, the trace gives λ = k/d, and
#
#     D_j = |W_j|² / λ = d/k          pair 1/2, triangle 2/3, tetrahedron 3/4, pentagon 2/5, 8 features in 3-D 3/8
#
# (A pair is called *digon*, a polygon of two corners.) Levels are fractions because features and dimensions are whole
# numbers. Frames in dimensions of their own, put together, are a *tegum product*. A triangle and a pair make a
# bipyramid: five features in three dimensions, but not five times 3/5. The octahedron is a product, too: three pairs.

for shape, fractions in (
    (polytopes.simplex(1), [1 / 2]), (polytopes.simplex(2), [2 / 3]), (polytopes.simplex(3), [3 / 4]),
    (polytopes.polygon(5), [2 / 5]), (polytopes.square_antiprism(), [3 / 8]), (polytopes.cube(), [3 / 8]),
    (polytopes.bipyramid(3), [2 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 2]), (polytopes.cross_polytope(3), [1 / 2]),
):  # fmt: skip
    np.testing.assert_allclose(geometry.dimensionality(shape), np.broadcast_to(fractions, shape.shape[1]))
    assert abs(geometry.packing(shape).unused) < 1e-9, "nothing is wasted"

fig = plt.figure(figsize=(11, 3.6), layout="constrained")
flat = fig.add_subplot(1, 4, 1)
plots.feature_arrows(polytopes.polygon(5), flat, limit=1.2, title="pentagon: D = 2/5")
for place, (name, shape) in enumerate(
    {
        "triangular bipyramid:\nD = 2/3 three times, 1/2 twice": polytopes.bipyramid(3),
        "cube:\nD = 3/8": polytopes.cube(),
        "square antiprism:\nD = 3/8": polytopes.square_antiprism(),
    }.items(),
    start=2,
):
    solid = fig.add_subplot(1, 4, place, projection="3d")
    plots.frame_3d(shape, solid, title=name, limit=0.9)
    for which in ("x", "y", "z"):
        solid.set(**{f"{which}label": "", f"{which}ticks": []})
show(fig, "3_shapes")

# %%
# **How to name a shape.** Which shape is a block of W? Turning the hidden space changes W and leaves the loss as it is,
# so look at what does not turn: the cosines of all pairs, ``C = Ŵ.T @ Ŵ``. Features have no order either. So compare C
# with the cosines C_ref of a known polytope, over all ways to number its corners:
#
#     ρ = least, over all numberings, of the root mean square of C − C_ref off the diagonal
#
# ρ = 0 is the same shape. Signs count: an angle of 60° is not one of 120°. Would the eigenvalues of C not do, without
# all the numberings? No. Every tight frame of k vectors in d dimensions has the same ones, d times k/d. Cube and
# antiprism are two different shapes with one spectrum:

cube, antiprism = polytopes.cube(), polytopes.square_antiprism()  # (3, 8) each
np.testing.assert_allclose(np.linalg.svd(cube)[1] ** 2, 8 / 3)
np.testing.assert_allclose(np.linalg.svd(antiprism)[1] ** 2, 8 / 3)
candidates = {fit.shape.name: fit.residual for fit in fits(geometry.cosines(cube))}
print("a cube is called", {name: round(residual, 3) for name, residual in candidates.items()})
assert candidates["cube"] < 1e-6
assert candidates["square antiprism"] > 0.2

# %%
# **The recogniser** (``toy_models/recognise.py``) does four things: it leaves out features that are too short to count
# as stored; it takes the rest apart into blocks at right angles; it computes ρ for every polytope with as many corners;
# and it gives a name only if ρ is small, if the next best name is clearly worse, and if all names together are better
# than chance. Otherwise it says *unknown*. Here is a product of three shapes, in any order, turned at random, with
# unequal lengths and noise:

secret = polytopes.tegum(polytopes.polygon(5), polytopes.square_antiprism(), polytopes.simplex(1))  # (6, 15)
turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]  # (6, 6)
scrambled = (turn @ secret)[:, rng.permutation(15)] * rng.uniform(0.9, 1.2, 15)  # (6, 15)
scrambled += 0.05 * rng.standard_normal((6, 15))
answer = recognise(scrambled)
print(summary(answer) + ", residuals " + ", ".join(f"{c.residual:.3f}" for c in answer.components))
assert summary(answer) == "1 square antiprism + 1 pentagon + 1 digon"
assert max(c.residual for c in answer.components) < 0.1

in_order = np.concatenate([c.features for c in answer.components])  # (15,)
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, frame, title in (
    (axes[0], scrambled, "cosines, as they come"),
    (axes[1], scrambled[:, in_order], "... and in the order of the blocks"),
):
    image = signed_image(geometry.cosines(frame), ax, limit=1.0)
    ax.set(title=title, xlabel="feature", ylabel="feature", xticks=[], yticks=[])
start = 0
for c in answer.components:
    axes[1].add_patch(plt.Rectangle((start - 0.5, start - 0.5), c.k, c.k, fill=False, linewidth=1.8))
    axes[1].text(start + c.k - 0.2, start - 0.3, c.name, va="top", fontsize=9)
    start += c.k
fig.colorbar(image, ax=axes, label="cosine (a dash: negative)")
show(fig, "4_recogniser")

# %%
# A program that names everything is worth nothing. Twenty random frames must stay without a name:

unnamed = [summary(recognise(rng.standard_normal((5, 12)))) for _ in range(20)]
assert all(UNKNOWN in words and "+" not in words for words in unnamed)

# %%
# **What training made.** Name all 16 models. Where shapes change, look closer: four more models at each of three
# densities.

zoom = sweep.geometry_sweep(n_feat=100, n_hid=10, inverse_densities=(4, 4.5, 5), seeds=4, steps=4000, lr=4e-3, seed=1)
trained = [
    (float(at), W, found)
    for one in (run, zoom)
    for at, W, found in zip(one.inverse_density, one.params["W"].astype(np.float64), sweep.recognised(one), strict=True)
]
for at, _, found in trained:
    print(f"1/p = {at:5}: {summary(found)}")


def surely(found, name):
    """Return the components of that name with a residual below 0.05."""
    return [c for c in found.components if c.name == name and c.residual < 0.05]


def most_named(at):
    """Return the model at that density with most features in shapes that are sure."""
    return max(
        (one for one in trained if one[0] == at),
        key=lambda one: sum(c.k for c in one[2].components if c.name != UNKNOWN and c.residual < 0.05),
    )


def label(found, c):
    """Return what to write over the blocks that are like c."""
    if c.name == UNKNOWN:
        return f"unknown: {c.k} in {c.d}-D"
    return f"{c.name},  ρ ≤ {max(other.residual for other in found.components if other.name == c.name):.3f}"


fig, axes = plt.subplots(1, 4, figsize=(14, 4.4), layout="constrained")
pictured = [most_named(at) for at in (3.0, 4.0, 5.0, 6.0)]
for ax, (at, W, found) in zip(axes, pictured, strict=True):
    plots.feature_graph(
        geometry.cosines(W), [c.features for c in found.components], [label(found, c) for c in found.components], ax,
        title=f"1/p = {at:g}: {geometry.learned(W).sum()} features", legend=at == 3,
    )  # fmt: skip
show(fig, "5_recognised")

# %%
# Each dot is a feature, each line a cosine that is not small. At 1/p = 3 there are only pairs. At 4 pentagons stand
# among the pairs. At 5 there are square antiprisms, and blocks without a name. From 1/p = 10 on all features hang
# together in one block.

for at, _, found in trained:
    if 2 <= at <= 3.5:
        assert len(surely(found, "digon")) >= 8
    if at >= 10:
        assert [c.name for c in found.components] == [UNKNOWN], "one block, without a name"
assert any(c.name == UNKNOWN for at, _, found in trained if at == 5 for c in found.components)
near = [(W, found) for at, W, found in trained if 3.5 < at <= 5]
sure = {
    name: [(c.residual, geometry.dimensionality(W)[c.features]) for W, found in near for c in surely(found, name)]
    for name in ("digon", "pentagon", "square antiprism")
}
print(f"1/p = 4 to 5, {len(near)} models:", {name: len(found) for name, found in sure.items()})
for (name, found), level in zip(sure.items(), (1 / 2, 2 / 5, 3 / 8), strict=True):
    assert len(found) >= 1, name
    _, D = min(found, key=lambda pair: pair[0])
    assert abs(D.mean() - level) < 0.01, "what fits its name best is on its level"

# %%
# **Why these shapes?** When features are rare, mostly one at a time is present. Say feature i is, with strength s.
# Output j then says ``max(W_j · W_i s, 0)`` where it should say 0 (take b = 0 and length 1). Its squared error,
# averaged over s, is a third of ``max(cos, 0)²``: **only positive cosines cost.** So a shape of k features costs
#
#     E = sum over pairs i ≠ j of max(cos_ij, 0)²
#
# Blocks at right angles do not disturb each other. If shapes are put together, features, dimensions and costs add up.
# So draw every shape as a point: features per dimension, k/d, and cost per dimension, E/d. Mixtures lie on the lines
# between points. Of all mixtures that store a given number of features the cheapest is on the *lower hull*, the line
# that a rubber band would take below all points. (The points here are shapes in at most three dimensions. Whether there
# are cheaper ones in more, the argument does not say; we shall look.)

shapes = polygons.packing_shapes()
corners = polygons.packing_hull(shapes)
per_dim = np.array([s.k / s.d for s in shapes])  # (n_shapes,)
cost = np.array([s.energy / s.d for s in shapes])  # (n_shapes,)
hull_at = [shapes.index(s) for s in corners]
for s in shapes:
    print(f"{s.name:17} {s.k / s.d:.3f} features and {s.energy / s.d:.3f} cost per dimension")


def hull(ratio):
    """Return the least cost per dimension of a mixture that holds ``ratio`` features per dimension."""
    return np.interp(ratio, per_dim[hull_at], cost[hull_at])


fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
plots.packing_hull(per_dim, cost, [s.name for s in shapes], left, hull=hull_at)
left.set_title("shapes in at most three dimensions")

on_hull = [s.name for s in corners]
first = on_hull.index("digon")
assert on_hull[first : first + 3] == ["digon", "pentagon", "square antiprism"]
for s in shapes:
    assert (s.energy == 0) == (s.k <= 2 * s.d), "up to two features per dimension cost nothing"
    assert s.energy / s.d > hull(s.k / s.d) - 1e-12, "nothing lies below the hull"
assert cost[[s.name for s in shapes].index("cube")] > hull(8 / 3) + 0.2

# %%
# So that is the order of the plateaus, as far as shapes in at most three dimensions go: as features become rare, more
# are stored, and the model moves to the right along the hull, from pairs to pentagons to antiprisms. A cube holds as
# many features as an antiprism, and costs more.
#
# Are these the best shapes there are? Let E find its own: move k points on a sphere downhill. Charges that repel each
# other (Thomson 1904) do nearly the same. In two and three dimensions the recogniser knows what comes out:

for k, d, expected in ((5, 2, "1 pentagon"), (7, 3, "1 pentagon + 1 digon"), (8, 3, "1 square antiprism")):
    free = thomson.minimise(k, d, np.random.default_rng(SEED), energy="relu2")
    print(f"{k} in {d}-D: E = {free.energy:.4f}, {summary(recognise(free.X))}")
    assert summary(recognise(free.X)) == expected
charges = thomson.minimise(8, 3, np.random.default_rng(SEED))
assert abs(charges.energy - 19.675288) < 1e-5, "Thomson's problem for eight charges, as published"
assert summary(recognise(charges.X)) == "1 square antiprism"
D = geometry.dimensionality(charges.X)  # (k,)
assert np.abs(D - 0.37438).max() < 1e-4, "a little less than 3/8: this antiprism is not quite a tight frame"

# %%
# In four and five dimensions there are better ones, below the hull. The first argument looked at shapes in at most
# three dimensions only. Draw them, and with them the nameless blocks of the models above, by their own cosines: those
# that have their dimensions to themselves, so that their D sum to d.

best = {
    (k, d): thomson.minimise(k, d, np.random.default_rng(SEED), energy="relu2", starts=20).energy / d
    for d in (4, 5)
    for k in range(2 * d, 3 * d + 1)
}
blocks = [
    (c.k / c.d, polytopes.relu_energy(geometry.unit_columns(W[:, c.features])).sum() / c.d)
    for W, found in near
    for c in found.components
    if c.name == UNKNOWN and c.d <= 6 and abs(c.D_sum - c.d) < 0.3
]
ratios = np.linspace(1.9, 3.1, 100)  # (r,)
right.plot(ratios, hull(ratios), color=BLUE, linewidth=1.6, label="hull of the left picture")
for d, mark in ((4, "^"), (5, "v")):
    here = [(k / d, cost) for (k, e), cost in best.items() if e == d]
    right.plot(*np.transpose(here), mark, color="black", markersize=6, label=f"best found in {d} dimensions")
right.plot(*np.transpose(blocks), "x", color=ORANGE, markersize=7, label="blocks without a name, 1/p = 4 to 5")
right.set(xlabel="features per dimension, k/d", ylabel="ReLU² interference per dimension, E/d", title="and in more")
right.spines[["top", "right"]].set_visible(False)
right.legend(frameon=False)
show(fig, "6_hull")

assert all(cost <= hull(k / d) + 1e-6 for (k, d), cost in best.items()), "none above the hull ..."
assert best[10, 4] < hull(2.5) - 0.05, "... ten features in four dimensions beat two pentagons ..."
assert best[11, 4] < hull(2.75) - 0.1, "... and 11 beat every mixture"
print("nameless blocks:", [f"{x:.2f}: {y:.2f} (hull {hull(x):.2f})" for x, y in blocks])

# %%
# Most nameless blocks lie on or below the hull, too: they are not failures of training, they are good shapes outside
# the library. *Unknown* was the right answer.

assert np.mean([y < hull(x) + 0.05 for x, y in blocks]) > 0.6

# %%
# **In the plane: pentagon or hexagon?** It is often said that features in a plane never go past a pentagon. Give nine
# features two dimensions, and train from 24 starts.

PLANE, STARTS = models.Config(9, 2), 24
rarities = (20, 100)
plane_rows = {at: exact.batch(1 / at, n_feat=9, nodes=(128, 16, 6), max_active=3) for at in rarities}
plane = {
    at: train(
        PLANE, data.independent(1 / at, n_feat=9), steps=2500, batch_size=512, lr=8e-3, instances=STARTS, seed=SEED
    ).params
    for at in rarities
}
plane_loss = {at: evaluate(PLANE, plane[at], plane_rows[at]) for at in rarities}
corners_kept = {at: (geometry.norms(plane[at]["W"]) > 0.5).sum(axis=1) for at in rarities}
for at in rarities:
    print(f"1/p = {at}: corners and starts that end so", *np.unique(corners_kept[at], return_counts=True))
    assert np.bincount(corners_kept[at]).argmax() == 5, "more starts end in a pentagon than in anything else"
assert (corners_kept[20] == 5).mean() > 0.5, "most of them, at p = 0.05"

# %%
# True, then? It is true of training, and false of the loss. Take the regular polygon with k corners (the other features
# are left out, and guessed by their mean, p/2) and let the exact loss find the best length and b. The five-cornered
# models that were trained are better than the regular pentagon, for they keep a little of the other four features. Yet
# **the hexagon is better than the best of them**, and when features are rarer still, the heptagon is.


def polygon_in_plane(k, at):
    """Return the best regular k-gon of nine features, and its exact loss."""
    W, b = polygons.polygon_params(k, 9)
    start = {"W": W[None], "b": np.where(W.any(axis=0), b, 1 / at / 2)[None]}
    found, loss = exact.minimise(PLANE, start, plane_rows[at])
    return found, loss[0]


sizes = np.arange(4, 9)  # (k,)
regular = {at: [polygon_in_plane(k, at) for k in sizes] for at in rarities}
curves = {f"1/p = {at}": np.array([loss for _, loss in regular[at]]) for at in rarities}
curves["1/p → ∞"] = np.array([polygons.polygon_loss(k, 9) for k in sizes])
pentagons = {at: plane_loss[at][corners_kept[at] == 5] for at in rarities}
hexagon, hexagon_loss = regular[20][2]
print(f"1/p = 20: best pentagon trained {pentagons[20].min():.5f}, hexagon {hexagon_loss:.5f}")

fig, axes = plt.subplots(1, 4, figsize=(14.5, 3.7), layout="constrained", width_ratios=[1.3, 1, 1, 1.3])
axes[0].plot(plane_loss[20], corners_kept[20], "o", color=BLUE, alpha=0.6)
axes[0].axvline(hexagon_loss, color=ORANGE, linestyle="--", label="regular hexagon, exact")
axes[0].set(xlabel="exact loss", ylabel="corners", title="24 starts, 1/p = 20", yticks=range(4, 8), ylim=(3.6, 7.4))
axes[0].legend(frameon=False, fontsize=8, loc="upper center")
typical = plane[20]["W"][np.flatnonzero(corners_kept[20] == 5)[pentagons[20].argmin()]]  # (2, n_feat)
plots.feature_arrows(geometry.canonical(typical), axes[1], limit=1.4, title="best pentagon trained")
plots.feature_arrows(geometry.canonical(hexagon["W"][0]), axes[2], limit=1.4, title="hexagon: lower loss")
for (name, curve), colour, dash in zip(curves.items(), (BLUE, ORANGE, "black"), ("o-", "s--", "^:"), strict=True):
    axes[3].plot(sizes, curve / curve[1], dash, color=colour, label=name)
axes[3].set(xlabel="corners k", ylabel="loss / loss of the pentagon", title="regular polygons, exact", xticks=sizes)
axes[3].legend(frameon=False, fontsize=8)
for ax in (axes[0], axes[3]):
    ax.spines[["top", "right"]].set_visible(False)
show(fig, "7_plane")

for at, k in ((20, 6), (100, 7)):
    assert curves[f"1/p = {at}"].argmin() == k - 4
    assert curves[f"1/p = {at}"].min() < 0.993 * pentagons[at].min(), "better than the best pentagon that was trained"
assert curves["1/p → ∞"].argmin() == 7 - 4
faint = np.sort(geometry.norms(typical))[:4]  # (4,)
assert 0.1 < faint.min() < faint.max() < 0.5, "a little of the other four"

# %%
# (*Exact* as in lesson 1: weighted rows in place of random ones, here all patterns of up to three features. All losses
# of one density are on the same rows, so they can be compared.)

# %%
# **How small can cosines be?** The largest |cosine| of a frame is its *coherence* μ. All squared cosines sum to
# ``trace(F @ F)``. The n_hid eigenvalues of F sum to n_feat, so by Cauchy and Schwarz their squares sum to
# n_feat²/n_hid or more. Take away the n_feat ones of the diagonal; the largest square is at least the mean of the rest:
#
#     μ² ≥ (n_feat − n_hid) / (n_hid (n_feat − 1))          Welch's bound
#
# Simplices reach it. Trained models stay far above it. As long as they hold pairs they have μ = 1, the worst there is;
# random directions are better. The classic guarantee of compressed sensing (k features at a time can be told apart if
# k < (1 + 1/μ)/2) then does not even promise one feature at a time.

for d in (1, 2, 3, 7):
    assert abs(geometry.coherence(polytopes.simplex(d)) - welch_bound(d + 1, d)) < 1e-9
wanted = np.isin(rarity, (3, 5, 8, 15, 30, 100))  # (t,)
stored = [W[:, geometry.learned(W)] for W in run.params["W"][wanted]]
numbers = np.array([W.shape[1] for W in stored])  # (t,)
welch = np.array([welch_bound(k, 10) for k in numbers])  # (t,)
at_random = np.array([geometry.coherence(rng.standard_normal((10, k))) for k in numbers])  # (t,)
of_models = np.array([geometry.coherence(W) for W in stored])  # (t,)
positive = np.array([(geometry.cosines(W) - 2 * np.eye(W.shape[1])).max() for W in stored])  # (t,)
fig, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
plots.coherence_bounds(numbers, welch, ax, random=at_random, trained=of_models, n_hid=10)
ax.plot(numbers, positive, "x:", color=GREY, label="trained, largest positive cosine")
ax.legend(frameon=False, loc="lower right")
show(fig, "8_coherence")

assert (welch < at_random).all()
assert (welch + 0.2 < of_models).all()
assert of_models[0] > 0.99 > at_random[0], "pairs"
assert limits.sparsity_guarantee(1.0) == 0, "not one feature at a time"

# %%
# Yet ten pairs return every feature perfectly when it is alone. The bound knows nothing of signs: strengths here are
# never negative, and the ReLU removes what is. **Only positive cosines cost**, and ten pairs have none.

pairs = {"W": polytopes.cross_polytope(10)[None], "b": np.zeros((1, 20))}
alone = 0.7 * np.eye(20)[None]  # (1, n_feat, n_feat)
np.testing.assert_allclose(models.forward(pairs, alone, models.Config(20, 10))[0].x_hat, alone)
assert positive[0] < 0.05

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: no cost and no waste.** For any k from d to 2d write down k directions of length 1 in d dimensions of
# which no two have a positive cosine, and that waste nothing: the sum of all D must be d.


def quiet(k, d):
    """Return a frame (d, k)."""
    # solution:
    pair, alone = polytopes.simplex(1), polytopes.simplex(0)
    return polytopes.tegum(*[pair] * (k - d), *[alone] * (2 * d - k))
    # end


def check_quiet(answer):
    for k, d in ((3, 2), (4, 2), (5, 3), (5, 5), (7, 4), (8, 4), (13, 7)):
        frame = np.asarray(answer(k, d), float)  # (d, k)
        assert frame.shape == (d, k), f"k {k}, d {d}: the shape is {frame.shape}"
        assert np.abs(geometry.norms(frame) - 1).max() < 1e-9, f"k {k}, d {d}: lengths are not 1"
        assert polytopes.relu_energy(frame).max() < 1e-12, f"k {k}, d {d}: some cosines are positive"
        used = geometry.dimensionality(frame).sum()
        assert abs(used - d) < 1e-9, f"k {k}: only {used:.2f} of {d} dimensions are used"
    least = thomson.minimise(9, 4, np.random.default_rng(SEED), energy="relu2", starts=20).energy
    print(f"nine directions in four dimensions cost at least {least:.3f}: 2d is as far as it goes")
    assert least > 0.45


check_quiet(quiet)

# %%
# **Exercise 2: the best reader.** Given W, return a matrix R (n_hid, n_feat) so that ``h @ R`` guesses all features
# from ``h = x @ W.T`` with the least squared error, for independent features of equal variance and mean 0. The check
# draws features, measures the share of each one's variance that your guess explains, and compares with the leverage.
# One of its W has dimensions that no feature uses.


def reader(W):
    """Return R (n_hid, n_feat)."""
    # solution:
    return np.linalg.pinv(W).T
    # end


def check_reader(answer):
    rng = np.random.default_rng(3)
    for n_hid, n_feat, rank in ((2, 5, 2), (3, 7, 3), (5, 11, 3)):
        W = rng.standard_normal((n_hid, rank)) @ rng.standard_normal((rank, n_feat))  # (n_hid, n_feat)
        x = rng.uniform(-1, 1, (200_000, n_feat))  # (n, n_feat)
        R = np.asarray(answer(W), float)
        assert R.shape == W.shape, f"R has shape {R.shape}"
        r2 = 1 - ((x @ W.T @ R - x) ** 2).sum(axis=0) / (x**2).sum(axis=0)  # (n_feat,)
        short = np.abs(r2 - geometry.leverage(W)).max()
        assert short < 0.01, f"n_feat {n_feat}: a feature is read {short:.2f} worse than it could be"
        assert abs(r2.sum() - rank) < 0.03, "all together: one feature's worth for each dimension in use"


check_reader(reader)

# %%
# **Exercise 3: predict what training makes.** k features are to be stored in d dimensions as pairs, pentagons and
# square antiprisms. Which numbers of each fill the dimensions at the least cost? The check tries all mixtures, and then
# asks the trained models, those above that consist of such shapes and nothing else: predict their mixture from their k.
# None may cost a tenth more than your prediction, and some must be exactly what you predict.

ENERGY = {s.name: s.energy for s in shapes}


def cheapest(k, d):
    """Return (pairs, pentagons, antiprisms)."""
    # solution:
    antiprisms = max(0, 2 * (k - 2 * d) - d)
    pentagons = k - 2 * d - 2 * antiprisms
    return d - 2 * pentagons - 3 * antiprisms, pentagons, antiprisms
    # end


def check_cheapest(answer):
    def price(mixture):
        return mixture[1] * ENERGY["pentagon"] + mixture[2] * ENERGY["square antiprism"]

    for k, d in ((4, 2), (5, 2), (8, 3), (13, 6), (15, 6), (16, 6), (25, 10), (26, 10)):
        a, p, q = answer(k, d)
        assert min(a, p, q) >= 0
        assert (2 * a + 5 * p + 8 * q, a + 2 * p + 3 * q) == (k, d), f"{k} in {d}-D: your mixture does not fit"
        every = [(d - 2 * p - 3 * q, p, q) for p in range(d) for q in range(d) if p + 2 * q == k - 2 * d]
        least = min(price(mixture) for mixture in every if min(mixture) >= 0)
        assert price((a, p, q)) < least + 1e-9, f"{k} in {d}-D: there is a cheaper mixture"
    extra = []
    for at, _, found in trained:
        made = tuple(len(surely(found, name)) for name in ("digon", "pentagon", "square antiprism"))
        k, d = int(np.dot(made, (2, 5, 8))), int(np.dot(made, (1, 2, 3)))
        if sum(made) == len(found.components) and 2 * d < k and d == 10:
            print(f"1/p = {at}: {k} features as {made}, predicted {answer(k, d)}")
            extra.append(price(made) / price(answer(k, d)) - 1)
    assert max(extra) < 0.1, f"training pays {max(extra):.0%} more than you"
    assert min(np.abs(extra)) < 1e-9, "training never makes what you predict"


check_cheapest(cheapest)
