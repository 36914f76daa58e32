"""
Lesson 2: the phase diagram
===========================

**What you do.** Take the smallest model that can choose: two features, one number. Work out on paper what each choice
costs, compute the true optimum, train, and lay the three answers over each other.

**What you learn.** When a feature is ignored, when it shares a dimension, and when it gets one of its own; how far a
simple theory carries, and what it leaves out; why the change is sudden, with two states that both hold near it; and
why a trained model must be the best of several.

**What you need.** Lesson 1, and integrals of polynomials. About 35 seconds of processor time. Run it with
``python lessons/02_the_phase_diagram.py``: pictures open in windows, and the lesson goes on when you close one. With
``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Source: Elhage et al. 2022, "Toy Models of Superposition", section "Superposition as a phase change" (the question, the
diagram and its simple theory). The optimum with all parameters free is worked out here.
"""

# %%
# Letters: ``p`` density, the probability that a feature is present; its strength is then drawn uniformly from [0, 1].
# ``n_feat`` features, ``n_hid`` = n_feat − 1 dimensions. Every feature has importance 1 but the last one, the *extra*,
# which has importance ``r``. The model is that of lesson 1, ``x_hat = max(h @ W + b, 0)`` with ``h = x @ W.T``. With
# two features, x is the strength of the first, y that of the extra, and W = [w1, w2].

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

from toy_models import data, exact, geometry, models, plots, theory
from toy_models.data import Batch
from toy_models.experiments import phase
from toy_models.train import evaluate, train

SEED = 0
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
PAIR = models.Config(n_feat=2, n_hid=1)


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"02_{name}.png", dpi=110)
    else:
        plt.show()


def loss_of(w, b, p, r):
    """The exact loss of W = [w1, w2] and b, by weighted rows (lesson 1)."""
    params = {"W": np.array([[w]], float), "b": np.array([b], float)}
    return float(evaluate(PAIR, params, exact.batch(p, n_feat=2, nodes=64), importance=[1, r])[0])


# %%
# **What can become of the extra feature?** With one number for two features there are three choices:
#
# - *ignored*: W = [1, 0]. The first comes back whole, the extra is guessed by its mean, p/2;
# - *dedicated*: W = [0, 1]. It has the dimension for itself, and the first is guessed;
# - *superposed*: W = [1, −1]. Both are there, as an antipodal pair.
#
# **What each costs, on paper.** A guess by the mean leaves the variance. With ``E[y²] = p/3`` and ``E[y] = p/2`` it is
#
#     ℓ_ign = p/3 − p²/4
#
# times the importance. In the pair one feature alone comes back whole. With both present, probability p², the answers
# are max(x − y, 0) and max(y − x, 0): each misses min(x, y). The smaller of two numbers uniform on [0, 1] is m with
# density 2(1 − m), so its mean square is ``∫ m² · 2(1 − m) dm = 2/3 − 1/2 = 1/6``, and each feature of the pair costs
#
#     ℓ_anti = p²/6

for p in (0.05, 0.3, 0.9):
    for r in (0.3, 4.0):
        ignored, superposed, dedicated = theory.phase_losses(p, r)
        np.testing.assert_allclose(loss_of([1, 0], [0, p / 2], p, r), ignored, rtol=1e-3)  # r · ℓ_ign
        np.testing.assert_allclose(loss_of([1, -1], [0, 0], p, r), superposed, rtol=1e-3)  # (1 + r) · ℓ_anti
        np.testing.assert_allclose(loss_of([0, 1], [p / 2, 0], p, r), dedicated, rtol=1e-3)  # ℓ_ign
        assert abs(ignored / r - (p / 3 - p**2 / 4)) < 1e-12
        assert abs(superposed / (1 + r) - p**2 / 6) < 1e-12

# %%
# **Where one gives way to the next.** The extra is better superposed than ignored if ``(1 + r) p²/6 < r (p/3 − p²/4)``.
# Solve for r:
#
#     r > 2p / (4 − 5p)
#
# Swap the two features, and r becomes 1/r: above (4 − 5p)/(2p) the extra is important enough for a dimension of its
# own. The two curves meet at r = 1, where 2p = 4 − 5p: **p = 4/7**. To the right of it this theory has no
# superposition.

for p in (0.01, 0.1, 0.5):
    low, high = theory.boundaries(p)
    assert abs(low - 2 * p / (4 - 5 * p)) < 1e-12
    assert abs(low * high - 1) < 1e-12
    ignored, superposed, dedicated = theory.phase_losses(p, low)
    assert abs(ignored - superposed) < 1e-12 < dedicated - ignored
    ignored, superposed, dedicated = theory.phase_losses(p, high)
    assert abs(dedicated - superposed) < 1e-12 < ignored - dedicated
assert abs(theory.MEETING_DENSITY - 4 / 7) < 1e-12

# %%
# **A better pair.** Why should the norm be 1? Keep W = [1, −1] times √a and b = 0, and choose a. One feature alone
# comes back as ax and costs (1 − a)²/3. With both present the mean of ``(x − a·max(x − y, 0))²`` is 1/3 − a/4 + a²/12.
# So a feature costs
#
#     ℓ(a) = p(1 − p) (1 − a)²/3  +  p² (1/3 − a/4 + a²/12)
#
# a parabola in a. Its lowest point is ``a* = (8 − 5p)/(8 − 6p)``, above 1: with both present the answers are too small,
# and it pays to shout a little. There ``ℓ* = p²(32 − 25p)/(48(4 − 3p))``; at r = 1 the pair now holds until p = 0.582.

for p in (0.1, 0.5, 0.9):
    a, cost = theory.free_antipodal(p)
    assert a > 1
    np.testing.assert_allclose(loss_of([a**0.5, -(a**0.5)], [0, 0], p, 1) / 2, cost, rtol=1e-3)
    assert cost < theory.antipodal_loss(p)
    near = [p * (1 - p) * (1 - c) ** 2 / 3 + p**2 * (1 / 3 - c / 4 + c**2 / 12) for c in (a - 0.01, a, a + 0.01)]
    assert abs(near[1] - cost) < 1e-12 < min(near[0], near[2]) - near[1]
crossing = theory.FREE_MEETING_DENSITY
assert abs(2 * theory.free_antipodal(crossing)[1] - theory.ignored_loss(crossing)) < 1e-12
assert abs(crossing - 0.582) < 1e-3

# %%
# **The true optimum.** So far we guessed solutions and compared them. ``phase.exact_phase`` guesses nothing: it
# minimises the exact loss over w1, w2, b1 and b2, starting near each of the three choices and from a random point, and
# takes the lowest. (*Exact* as in lesson 1: weighted rows, no random ones. With the 32 points a feature of this cell
# the loss is right to 0.2 %, with the 16 of the diagram below to 0.5 %.) Look at the slice r = 1, two features of equal
# importance.

p_slice = np.linspace(0.05, 0.99, 48)  # (k,)
along = phase.exact_phase(p_slice, np.ones(48), nodes=32)
costs = {
    "one ignored": theory.ignored_loss(p_slice),
    "pair, norm 1": 2 * theory.antipodal_loss(p_slice),
    "pair, best norm": 2 * theory.free_antipodal(p_slice)[1],
}
crossings = {f"p = {p:.3f}": (p, float(theory.ignored_loss(p))) for p in (theory.MEETING_DENSITY, crossing)}
fig, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
plots.phase_slice(p_slice, costs, ax, exact=along.loss, crossings=crossings)
show(fig, "1_slice")

best_guess = np.minimum(costs["one ignored"], costs["pair, best norm"])  # (k,)
gain = 1 - along.loss / best_guess  # (k,)
print(f"the true optimum beats the best of the three by up to {gain.max():.1%}, at p = {p_slice[gain.argmax()]:.2f}")
assert (gain > -2e-3).all(), "never above them (the weighted rows are good to 0.2 %)"
assert gain[p_slice < 0.3].max() < 0.02, "rare features: the pair on paper is all there is"
assert 0.08 < gain.max() < 0.15
assert 0.5 < p_slice[gain.argmax()] < 0.65

# %%
# What you should see: where the lines on paper cross, nothing happens to the truth. The dots go on smoothly below both,
# and just there the gap is widest. What is this solution beyond 4/7? Look at its weights.

size = np.sort(np.abs(along.W[:, 0]), axis=1)  # (k, 2)
order = np.argsort(np.abs(along.W[:, 0]), axis=1)  # (k, 2)
bias = np.take_along_axis(along.b, order, axis=1)  # (k, 2)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharex=True)
for ax, values, title in ((left, size, "|w|"), (right, bias, "b")):
    ax.plot(p_slice, values[:, 1], "o-", color=BLUE, markersize=3.5, label="the stronger feature")
    ax.plot(p_slice, values[:, 0], "s--", color=ORANGE, markersize=3.5, label="the weaker one")
    ax.axvline(4 / 7, color=GREY, linestyle=":", label="p = 4/7")
    ax.set(xlabel="density of a feature, p = 1 − S", title=f"{title} of the optimum at r = 1")
    ax.spines[["top", "right"]].set_visible(False)
left.set_ylim(0, 1.1)
left.legend(loc="lower left", frameon=False)
show(fig, "2_beyond")

# %%
# The two stay equal far beyond 4/7, with smaller norms and with b > 0, which guesses a part of the mean. Between p =
# 0.68 and 0.75 the symmetry breaks: one feature becomes the stronger one, the other keeps less than half a norm. It is
# never quite given up; but near p = 1 that saves hardly anything.

equal = size[:, 1] - size[:, 0]  # (k,)
assert (equal[p_slice < 0.68] < 0.05).all()
assert (equal[p_slice > 0.75] > 0.3).all()
assert (size[p_slice > 0.75, 0] < 0.5).all()
assert size[:, 0].min() > 0.3
assert (np.diff(size[(p_slice > 0.3) & (p_slice < 0.68), 0]) < 0.003).all(), "smaller norms"
assert (bias[p_slice > 0.5] > 0.05).all()
assert (along.W[:, 0].prod(axis=1) < 0).all(), "always on opposite sides"
assert np.abs(gain[p_slice > 0.9]).max() < 0.01

# %%
# **The diagram.** Now vary r as well: 21 densities, 21 importances. On the left the choice of least cost on paper, in
# the middle the label of the true optimum (ignored: |w2| < 0.3; dedicated: |w1| < 0.3; else superposed).
#
# On the right the same by training: 11 × 11 points, ten runs each from different starts, as many as in the paper. A
# single run often ends in the wrong place: if w1 and w2 start with the same sign, one has to go through zero to get to
# the other side. So we keep the best of the ten, by exact loss. (The paper leaves out the worst and averages the rest.)
#
# Two curves lie over each map: the boundary of the simple theory, and the line r = 0.427 p with its mirror image, which
# is the true boundary as p → 0; the next cells derive it. It enters the map only where p is no longer small.

density, importance = phase.grid(21)
paper = phase.theory_phase(density, importance)  # (r, p)
truth = phase.exact_phase(density, importance)
half = slice(None, None, 2)
RUNS = 10
sgd = phase.trained_phase(density[half], importance[half], seeds=RUNS, steps=2000, batch_size=128, lr=1e-2, seed=SEED)

on_curve = np.geomspace(density[0], 4 / 7, 60)  # (k,)
low, high = theory.boundaries(on_curve)
wedge = np.array([[*on_curve, *on_curve[::-1]], [*low, *high[::-1]]])  # (2, 2*k)
p_line = np.geomspace(0.09 / theory.CRITICAL_RATIO, 0.35, 9)  # (n_line,), from where it enters the axes
line = theory.CRITICAL_RATIO * p_line  # (n_line,)
lines = np.array([[*p_line, np.nan, *p_line], [*line, np.nan, *(1 / line)]])  # (2, 2*n_line + 1)
curves = {"2p/(4 − 5p), and its mirror image": wedge, "0.427 p, as p → 0, and its mirror image": lines}
fig, axes = plt.subplots(1, 3, figsize=(11.5, 4.3), layout="constrained", sharey=True)
diagrams = (
    ("theory: norms 1, b = 0", paper, 1),
    ("exact optimum", truth.labels, 1),
    (f"trained, best of {RUNS}", sgd.labels, 2),
)
for ax, (title, labels, every) in zip(axes, diagrams, strict=True):
    plots.phase_map(labels, density[::every], importance[::every, 0], ax, curves=curves, legend=False)
    ax.set_title(title)
    ax.set(xlim=(0.009, 1.12), ylim=(0.09, 11.2))
    ax.label_outer()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
show(fig, "3_diagram")


def beside_boundary(labels):
    """Which cells of a diagram have a neighbour of another label: bool, like labels."""
    near = np.zeros(labels.shape, bool)  # (r, p)
    down, across = np.diff(labels, axis=0) != 0, np.diff(labels, axis=1) != 0
    near[1:] |= down
    near[:-1] |= down
    near[:, 1:] |= across
    near[:, :-1] |= across
    return near


near = beside_boundary(truth.labels)[half, half]  # (r, p)
right_ones = sgd.labels == truth.labels[half, half]  # (r, p)
alone = float((sgd.every == truth.labels[half, half][..., None]).mean())
print(f"theory and exact differ at {(paper != truth.labels).sum()} of {paper.size} points")
print(
    f"trained, best of {RUNS}: {right_ones[~near].sum()} of {(~near).sum()} points right, "
    f"and {right_ones[near].sum()} of {near.sum()} beside a boundary; a single run: {alone:.0%}"
)
differ = paper != truth.labels  # (r, p)
assert 5 <= differ.sum() <= 20
assert (truth.labels[differ] == theory.SUPERPOSED).all(), "where they differ, the truth has more superposition"
assert right_ones[~near].all()
assert right_ones[near].mean() > 0.8
assert 0.6 < alone < 0.9, "one run alone is wrong far more often"
assert (line < theory.boundaries(p_line)[0]).all(), "the line lies below the curve of the theory"

# %%
# What you should see: three times the same picture. In the middle and on the right superposition reaches a little
# beyond the curves of the theory, above all near their tip. (The stripe at r = 1 is the weak second feature of the
# picture before.) If there is a single odd cell on the right, all ten runs failed there.

# %%
# **Why is there more superposition than on paper?** The pair on paper is symmetric, and the extra is not worth that
# much. Let it have a smaller weight: W = [1, −t], b = 0. Take p small, and r small with it: r = ρp. Three things can
# happen:
#
# - x alone: comes back whole;
# - y alone, probability p: comes back as t²y. This costs ``r · p · (1 − t²)²/3``, that is ρp² (1 − t²)²/3;
# - both, probability p²: x comes back as max(x − ty, 0) and misses min(x, ty). With s = ty the mean square over x is
#   ``∫₀ˢ x² dx + s²(1 − s) = s² − 2s³/3``, over y then ``t²/3 − t³/6``. (The extra's own error costs rp², far less.)
#
# All of it is of order p². Divided by p²:
#
#     g(t) = ρ (1 − t²)²/3  +  t²/3 − t³/6
#
# t = 0 is the ignored extra. Another t is better, g(t) < g(0), if ``ρ > (1 − t/2)/(2 − t²)``. The right-hand side is
# least where t² − 4t + 2 = 0, at **t = 2 − √2 = 0.586**, and its value there is **ρ = (2 + √2)/8 = 0.427**. The paper's
# curve has 2p/(4 − 5p) → p/2, so ρ = 0.5: the truth is 15 % lower.

t = np.linspace(0, 1, 1001)  # (k,)
threshold = (1 - t / 2) / (2 - t**2)  # (k,)
assert abs(threshold.min() - (2 + 2**0.5) / 8) < 1e-6
assert abs(t[threshold.argmin()] - (2 - 2**0.5)) < 1e-3
assert abs(threshold.min() / 0.5 - 0.854) < 1e-3
for p in (0.01, 0.001):
    g = theory.small_density_loss(0.6, 0.45)
    assert abs(loss_of([1, -0.6], [0, 0], p, 0.45 * p) / p**2 / g - 1) < p, "g is the limit of small p"

# %%
# Look at the picture on the left. At ρ = 0.427 g has two equally low places with a hill between them. The optimum does
# not slide from one to the other: it *jumps*, from t = 0 to 0.586. Physicists call this a transition of first order.
# On the right the jump itself, on paper and from the exact loss at p = 0.005.

ratios = np.array([0.38, 0.39, 0.4, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.48, 0.5, 0.55, 0.6])  # (k,)
jump = phase.exact_phase(np.full(len(ratios), 0.005), ratios * 0.005, nodes=64)
entered = np.abs(jump.W[:, 0, 1])  # (k,)
fine = np.linspace(ratios[0], ratios[-1], 500)  # (500,)
limit = theory.small_density_norm(fine)  # (500,)
rho_c = theory.CRITICAL_RATIO
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
for rho, colour, dash in ((0.39, ORANGE, "--"), (rho_c, "black", "-"), (0.46, BLUE, "-.")):
    g = theory.small_density_loss(t, rho)  # (k,)
    left.plot(t, 1000 * (g - g[0]), color=colour, linestyle=dash, label=f"ρ = {rho:.3g}")
left.axhline(0, color=GREY, linewidth=0.8)
left.set(xlabel="t = |w₂|", ylabel="1000 · (g(t) − g(0))", ylim=(-8, 10), title="two valleys, and a hill between")
left.legend(frameon=False)
right.plot(fine[fine < rho_c], limit[fine < rho_c], color=GREY)
right.plot(fine[fine >= rho_c], limit[fine >= rho_c], color=GREY, label="p → 0, on paper")
right.plot([rho_c, rho_c], [0, theory.CRITICAL_NORM], color=GREY, linestyle=":")
right.plot(ratios, entered, "o", color=BLUE, label="exact, p = 0.005")
right.set(xlabel="ρ = r/p", ylabel="|w₂| of the optimum", ylim=(-0.03, 1), title="the extra enters with a jump")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
show(fig, "4_jump")

critical = theory.small_density_loss(t, rho_c)  # (k,)
assert abs(critical[586] - critical[0]) < 1e-6
assert critical[200:400].min() > critical[0] + 0.0005, "the hill"
assert (entered[ratios <= 0.42] < 0.01).all()
assert (entered[ratios >= 0.43] > 0.57).all()
assert np.abs(entered - theory.small_density_norm(ratios))[ratios >= 0.44].max() < 0.015

# %%
# **And at finite p?** Search for the switch: for each density compute the optimum at thirteen importances just below
# the paper's curve, and take the first at which the extra is there. Drawn is r/p, so that 15 % can be seen.

p_switch = np.geomspace(0.005, 0.5, 8)  # (k,)
parts = np.linspace(0.79, 0.91, 13)[:, None]  # (s, 1)
paper_curve = theory.boundaries(p_switch)[0]  # (k,)
scan = phase.exact_phase(p_switch, parts * paper_curve, nodes=32)
inside = scan.labels != theory.IGNORED  # (s, k)
switch = parts[inside.argmax(axis=0), 0]  # (k,)
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
dense = np.geomspace(0.005, 0.5, 200)  # (200,)
ax.plot(dense, theory.boundaries(dense)[0] / dense, color=ORANGE, linestyle="--", label="paper: 2/(4 − 5p)")
ax.plot(p_switch, switch * paper_curve / p_switch, "o", color=BLUE, label="exact: the extra enters")
ax.axhline(rho_c, color=GREY, linestyle=":", label="(2 + √2)/8, for p → 0")
ax.set(xscale="log", xlabel="density of a feature, p = 1 − S", ylabel="r/p at the switch", title="the boundary, twice")
ax.set_xticks([0.005, 0.01, 0.03, 0.1, 0.3, 0.5], labels=["0.005", "0.01", "0.03", "0.1", "0.3", "0.5"])
ax.minorticks_off()
ax.set_ylim(0, None)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="upper left")
show(fig, "5_boundary")

print("exact switch / paper's curve:", dict(zip(p_switch.round(3).tolist(), switch.round(2).tolist(), strict=True)))
assert (inside[-1] & ~inside[0]).all(), "each switch lies between the two ends"
assert (np.diff(inside.astype(int), axis=0) >= 0).all(), "once inside, inside for all larger r"
assert ((switch > 0.79) & (switch < 0.9)).all(), "10 to 20 % below the paper's curve"
assert abs(switch[0] * paper_curve[0] / p_switch[0] / rho_c - 1) < 0.02

# %%
# **Three features, two dimensions.** Here the extra can be superposed without harm to everybody: it shares with one of
# the others, and the third keeps a dimension to itself. On paper the boundary to *dedicated* becomes the line r = 1:
# above it, it is the two others that share, as soon as the extra is worth more than they are.

density_3, importance_3 = phase.grid(8)
paper_3 = phase.theory_phase(density_3, importance_3, n_feat=3)  # (r, p)
truth_3 = phase.exact_phase(density_3, importance_3, n_feat=3)
low_3, high_3 = theory.boundaries(on_curve, n_feat=3)
step_3 = np.array([[*on_curve, 1], [*low_3, 1]])  # (2, k + 1)
fig, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained", sharey=True)
for ax, labels, title in zip(axes, (paper_3, truth_3.labels), ("theory", "exact optimum"), strict=True):
    plots.phase_map(
        labels, density_3, importance_3[:, 0], ax, legend=False,
        curves={"2p/(4 − 5p), then r = 1": step_3, "r = 1": np.array([on_curve, high_3])},
    )  # fmt: skip
    ax.set_title(f"{title}, three features in a plane")
    ax.label_outer()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
show(fig, "6_three")

other = paper_3 != truth_3.labels  # (r, p)
assert 0 < other.mean() < 0.1
assert (truth_3.labels[other] == theory.SUPERPOSED).all(), "again a little more superposition than on paper"
assert (truth_3.labels[importance_3[:, 0] > 1] == theory.DEDICATED).all()
rare = density_3 < 0.3  # (p,)
for W in truth_3.W[:, rare].reshape(-1, 2, 3):
    cos = geometry.cosines(W[:, geometry.norms(W) > 0.3])  # (n_kept, n_kept)
    assert np.abs(cos - np.round(cos)).max() < 0.05, "at right angles or opposite: nothing between"

# %%
# There is one more way that the paper leaves out, and says so: all three in the plane, 120° apart. The exact search
# starts there, too. For rare features it never wins: every angle found is 90° or 180°.
#
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: features that are on or off.** Let the strength of a present feature always be 1. Derive the importance
# r at which ignoring the extra (guessed by its mean) and the pair W = [1, −1], b = 0 cost the same, as a function of p.


def on_off_boundary(p):
    """Return r."""
    # solution:
    # ignored: r·p(1 − p), the variance; pair: with both present both answers are 0, so (1 + r)·p²
    return p / (1 - 2 * p)
    # end


def check_on_off_boundary(answer):
    x = np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]])[None]  # (1, 4, 2)
    for p in (0.03, 0.2, 0.4):
        rows = Batch(x, np.array([[(1 - p) ** 2, p * (1 - p), p * (1 - p), p * p]]))
        r = answer(p)
        assert r > 0, f"p = {p}: an importance is above 0"
        ignored, pair = (
            evaluate(PAIR, {"W": np.array([[w]]), "b": np.array([b])}, rows, importance=[1, r])[0]
            for w, b in (([1.0, 0.0], [0.0, p]), ([1.0, -1.0], [0.0, 0.0]))
        )
        assert abs(ignored / pair - 1) < 1e-6, f"p = {p}: at r = {r:.3f} they cost {ignored:.5f} and {pair:.5f}"


check_on_off_boundary(on_off_boundary)

# %%
# **Exercise 2: find the true boundary.** ``enters(p, r)`` computes the optimum and says whether the extra is in it.
# Find the importance at which it enters, within 1 %, for any p up to 1/2, with at most 12 questions.


def enters(p, r):
    """Whether the extra is part of the true optimum."""
    return bool(phase.exact_phase(np.array(p), np.array(r), nodes=32).labels != theory.IGNORED)


def true_boundary(enters, p):
    """Return r."""
    # solution:
    low, high = 0.4 * p, 2 * p / (4 - 5 * p)
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if enters(p, middle) else (middle, high)
    return (low * high) ** 0.5
    # end


def check_true_boundary(answer):
    for p in (0.02, 0.2, 0.45):
        asked = []

        def ask(p, r, asked=asked):
            asked.append(r)
            return enters(p, r)

        r = answer(ask, p)
        assert len(asked) <= 12, f"{len(asked)} questions"
        assert not enters(p, 0.99 * r), f"p = {p}: at 0.99 of your {r:.4f} the extra is in already"
        assert enters(p, 1.01 * r), f"p = {p}: at 1.01 of your {r:.4f} the extra is not in yet"


check_true_boundary(true_boundary)

# %%
# **Exercise 3: two states that both hold.** A jump has a mark: near it both states are stable, and the model stays in
# the one that it is in, also in the worse. Use g(t) to find an importance r, for a small p, at which the pair is
# *better*, yet a model that ignores the extra does not find out. The check trains two models there at p = 0.01, from
# t = 0.03 and from t = 0.8, on the weighted rows: without noise nothing helps them over the hill.


def both_hold(p):
    """Return r."""
    # solution:
    # near t = 0, g(t) = ρ/3 + (1 − 2ρ) t²/3: a valley as long as ρ < 1/2; the pair is better from ρ = 0.427 on
    return 0.46 * p
    # end


def check_both_hold(answer):
    p = 0.01
    r = answer(p)
    rows = exact.batch(p, n_feat=2, nodes=32)
    starts = {"W": np.array([[[1, -0.03]], [[1, -0.8]]]), "b": np.array([[0, p / 2], [0, 0]])}
    weights = np.array([1, r]) / (r * theory.ignored_loss(p))  # (2,): the ignored extra costs 1
    ended = train(
        PAIR, data.fixed(rows.x, rows.weights), steps=1500, lr=5e-3, params=starts, importance=weights, dtype="float64"
    ).params
    norms = np.abs(ended["W"][:, 0, 1])  # (2,)
    loss = evaluate(PAIR, ended, rows, importance=weights)  # (2,)
    print(f"r/p = {r / p:.3f}: |w2| ends at {norms[0]:.2f} and {norms[1]:.2f}, losses {loss[0]:.3f} and {loss[1]:.3f}")
    assert norms[1] > 0.5, "the pair fell apart"
    assert norms[0] < 0.02, "the ignored extra found its way in"
    assert loss[1] < loss[0], "the pair is not better there"


check_both_hold(both_hold)
