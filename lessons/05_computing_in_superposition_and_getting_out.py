"""
Lesson 5: computing in superposition, and getting out again
===========================================================

**What you do.** Give the hidden layer a ReLU and look at what single neurons mean. Train networks that compute |x|,
and build one that computes 1770 ANDs with 600 neurons. Then take features out of superposition with sparse autoencoders
(SAEs), from toys whose features you know, and measure what was found.

**What you learn.** When a neuron means one thing, and when several; that a network can compute with features that it
has no room for; that an SAE can find directions which it was never told; why latents die, and two remedies; what no
code can beat with the true features; and how a good score can hide wrong ones.

**What you need.** Lesson 1; lesson 6 explains SAEs in more detail. About 55 seconds of processor time. Run it with
``python lessons/05_computing_in_superposition_and_getting_out.py``: pictures open in windows, and the lesson goes on
when you close one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER
instead.

Sources: Elhage et al. 2022, "Toy Models of Superposition" (privileged basis, absolute value); Vaintrob, Mendel and
Hänni 2024, "Toward A Mathematical Framework for Computation in Superposition" (ANDs); ARENA, "SAEs in toy models" (the
pentagon); Sharkey, Braun and Millidge 2022, "Taking features out of superposition"; Chanin et al. 2024, "A is for
absorption"; Chanin, Dulka and Garriga-Alonso 2025, "Feature hedging"; Chanin and Garriga-Alonso 2025, "Sparse but
wrong".
"""

# %%
# Letters, here and in the library: ``n`` rows, ``n_feat`` features, ``n_hid`` hidden numbers (*neurons* where a ReLU
# follows). In the SAEs ``d_in`` is the width of a row and ``d_sae`` the number of latents. ``p`` is the density of a
# feature, the probability that it is present.

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

from minisae.metrics import mmcs as mean_max_cosine
from minisae.sae import topk
from minisae.synthetic import random_dictionary
from minisae.verify import check_gradients
from toy_models import data, exact, geometry, limits, models, plots
from toy_models.experiments import absorption, computation, pentagon, privileged, saes, sharkey, sparse_but_wrong
from toy_models.train import train

SEED = 0
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"05_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **Does a single hidden number mean something?** In lesson 1 it does not. There ``h = x @ W.T`` and
# ``x_hat = max(h @ W + b, 0)``. Turn the hidden space by any rotation R, that is, put ``R @ W`` in place of W: h turns
# along, ``h @ W`` stays the same, and so does the answer. No direction in hidden space is special.
#
# Now let the hidden layer have a ReLU: ``h = max(x @ W.T, 0)``. ReLU acts on each hidden number alone, and rotation
# changes the answer. The axes of hidden space, the neurons, have become special: a *privileged basis*.

rng = np.random.default_rng(SEED)
turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]  # (n_hid, n_hid), a rotation
params = {"W": rng.standard_normal((1, 3, 7)), "b": np.zeros((1, 7))}
x = data.sample(data.independent(0.5, n_feat=7), 101, rng, dtype=np.float64)  # (1, n, n_feat)
for hidden in ("identity", "relu"):
    straight, turned = (
        models.forward(params | {"W": W}, x, models.Config(7, 3, hidden=hidden))[0].x_hat
        for W in (params["W"], turn @ params["W"])
    )
    changed = np.abs(straight - turned).max()
    print(f"hidden layer {hidden}: a rotation changes the answer by {changed:.1e}")
    assert (changed < 1e-12) == (hidden == "identity")

# %%
# **What does each neuron serve?** 10 features, 5 neurons, importance 0.75**j. There are many bad ends here, so we train
# 16 models at each of three densities and keep the one of lowest loss. For comparison: one model *without* the ReLU.
#
# A row of W belongs to a neuron: how strongly it stands for each feature. We say that a neuron *serves* a feature if
# the weight is above a quarter of its own largest. A negative weight serves nothing: it keeps the neuron silent.

TEN, FIVE = 10, 5
importance = 0.75 ** np.arange(TEN)  # (n_feat,)
served = privileged.privileged(
    (0.75, 0.3, 0.03), n_feat=TEN, n_hid=FIVE, tries=16, steps=4000, batch_size=128, lr=2e-2, rows=8192, seed=SEED
)
unprivileged = train(
    models.Config(TEN, FIVE), data.independent(0.75, n_feat=TEN), steps=4000, batch_size=128, lr=2e-2,
    importance=importance, seed=SEED,
).params["W"][0]  # fmt: skip

fig, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
plots.neuron_stacks(unprivileged, axes[0], title="no ReLU on h, p = 0.75", legend=False)
for ax, W, p in zip(axes[1:], served.W, served.density, strict=True):
    plots.neuron_stacks(W, ax, title=f"ReLU on h, p = {p:g}", legend=p == 0.03, order=privileged.order(W))
for ax in axes[1:]:
    ax.set_ylabel("")
show(fig, "1_privileged")

neurons = privileged.neurons(served.W)
for p, features, each in zip(served.density, neurons.features, neurons.neurons, strict=True):
    print(f"p = {p:4}: features per neuron {features}, neurons per feature {each}")

# %%
# A bar is a neuron, a block is the weight of one feature.
#
# - Without the ReLU every neuron is a mixture, of both signs. This says nothing: any rotation of it does as well.
# - p = 0.75: each neuron serves one feature: it is *monosemantic*. Five features are kept, five are dropped.
# - p = 0.3: six features in five neurons. Two neurons are *polysemantic*: together they hold three features. One of
#   these uses the first neuron, one the second, and one both.
# - p = 0.03: every neuron is polysemantic. Most features are now a *pair* of neurons.

assert (computation.effective_features(unprivileged) > 1.3).sum() >= 4, "mixtures"
assert neurons.mono.tolist() == [5, 3, 0]
assert sorted(neurons.features[1]) == [1, 1, 1, 2, 2]
shared = privileged.serves(served.W[1])[neurons.features[1] == 2].sum(axis=0)  # (n_feat,): of the two, how many serve j
assert sorted(shared[shared > 0]) == [1, 1, 2], "three features in two neurons, one of them in both"
assert neurons.poly[2] == 5
assert (neurons.neurons[2] == 2).sum() >= 5
assert (neurons.neurons[2] >= 2).sum() >= 7

# %%
# **Networks that compute.** So far the output was to be x again. Now it is to be |x|, for features that are drawn from
# −1 to 1 where they are present. Two matrices, each used once:
#
#     a = x @ W_1.T        (n, n_hid)
#     h = max(a, 0)        (n, n_hid)
#     z = h @ W_2.T + b    (n, n_feat)
#     y = max(z, 0)        (n, n_feat)      to be |x|
#
#     L = (1/n) * sum over rows of sum over j of  I_j * (y_j - |x_j|)**2          I_j: importance of feature j
#
# **The gradient, from the loss backwards.** ``d_q`` is the derivative of L with respect to ``q``, an array of q's
# shape. At each line ask: if its inputs moved a little, what would L do?
#
# 1. L holds ``I * (y - |x|)**2 / n``, so           d_y   = 2 * I * (y - |x|) / n
# 2. ``max`` lets a slope through where z > 0:       d_z   = d_y * (z > 0)
# 3. ``z = h @ W_2.T + b`` has three inputs. A product passes a slope on through the other factor:
#                                                    d_W_2 = d_z.T @ h            (n_feat, n) @ (n, n_hid)
#                                                    d_b   = sum of d_z over rows
#                                                    d_h   = d_z @ W_2
# 4. ``max`` again:                                  d_a   = d_h * (a > 0)
# 5. ``a = x @ W_1.T``:                              d_W_1 = d_a.T @ x            (n_hid, n) @ (n, n_feat)

params = {name: rng.standard_normal(shape) for name, shape in {"W_1": (5, 7), "W_2": (7, 5), "b": (7,)}.items()}
weight = 0.8 ** np.arange(7)  # (n_feat,)
x = data.sample(data.independent(0.5, n_feat=7, signed=True), 11, rng, dtype=np.float64)[0]  # (n, n_feat)
n = len(x)


def loss_of(p):
    """The four lines of the forward pass, and the loss."""
    y = np.maximum(np.maximum(x @ p["W_1"].T, 0) @ p["W_2"].T + p["b"], 0)  # (n, n_feat)
    return float((weight * (y - np.abs(x)) ** 2).sum()) / n


a = x @ params["W_1"].T  # (n, n_hid)
h = np.maximum(a, 0)  # (n, n_hid)
z = h @ params["W_2"].T + params["b"]  # (n, n_feat)
y = np.maximum(z, 0)  # (n, n_feat)

d_y = 2 * weight * (y - np.abs(x)) / n  # (n, n_feat)
d_z = d_y * (z > 0)  # (n, n_feat)
d_h = d_z @ params["W_2"]  # (n, n_hid)
d_a = d_h * (a > 0)  # (n, n_hid)
by_hand = {"W_1": d_a.T @ x, "W_2": d_z.T @ h, "b": d_z.sum(axis=0)}

for check in check_gradients(loss_of, params, by_hand):
    print(f"{check.name}: {check.entries} entries, {check.kinks} kinks, largest relative error {check.error:.1e}")
    assert check.kinks == 0
    assert check.error < 1e-6

# %%
# Can the check fail? Forget line 4, as if silent neurons learned too. And: the library's gradient is the same.

worst = {check.name: check.error for check in check_gradients(loss_of, params, by_hand | {"W_1": d_h.T @ x})}
assert worst["W_1"] > 0.1
assert max(worst["W_2"], worst["b"]) < 1e-6

cfg = models.Config(7, 5, kind="mlp", hidden="relu", output="relu")
rows = data.Batch(x[None])
loss, grads = exact.loss_and_grads(
    cfg, {name: q[None] for name, q in params.items()}, rows, importance=weight, target="absolute"
)
assert abs(loss[0] - loss_of(params)) < 1e-12
for name, grad in by_hand.items():
    np.testing.assert_allclose(grads[name][0], grad, rtol=1e-10, atol=1e-12)

# %%
# **Two neurons make one absolute value**, for ``|x| = max(x, 0) + max(-x, 0)``. With two neurons for each feature no
# superposition is needed: 3 features, 6 neurons. We train 12 starts; most of them solve it.
#
# One freedom has to be taken away before we look: multiply what a neuron reads, a row of W_1, by 2 and divide what it
# writes, a column of W_2, by 2, and nothing changes. So we scale both to the same length.

small = computation.absolute(n_feat=3, n_hid=6, tries=12, steps=2500, batch_size=256, lr=1e-2, rows=4096, seed=SEED)
W_1, W_2 = small.W_1[0, 0], small.W_2[0, 0]  # (n_hid, n_feat), (n_feat, n_hid): the best start
solved = small.loss[0] < 1e-3  # (tries,)

fig, axes = plt.subplot_mosaic(
    [["wiring", "reads"], ["wiring", "writes"]], figsize=(10, 4.6), layout="constrained", width_ratios=[1.4, 1]
)
plots.wiring(W_1, W_2, axes["wiring"])
by_feature = np.lexsort((W_1.sum(axis=1), np.abs(W_1).argmax(axis=1)))  # (n_hid,)
plots.in_and_out(W_1, W_2, [axes["reads"], axes["writes"]], order=by_feature)
show(fig, "2_absolute")

slopes = computation.slopes(W_1, W_2)  # (2, n_feat): of output j in x_j, below zero and above
print(f"{solved.sum()} of 12 starts solve it; slopes below zero {slopes[0].round(3)}, above {slopes[1].round(3)}")
assert solved.sum() >= 7
assert np.abs(slopes - [[-1], [1]]).max() < 0.02, "-x below zero, x above"
assert computation.monosemantic(W_1) == 1, "every neuron reads one feature"
assert ((W_1 > 0.5).sum(axis=0) == 1).all()
assert ((W_1 < -0.5).sum(axis=0) == 1).all(), "one neuron reads x_j, one reads -x_j"
assert (np.where(np.abs(W_2) > 0.5, W_2, 0) >= 0).all(), "both are added"

# %%
# **More to compute than neurons.** Now 20 features and 10 neurons, importance 0.8**j. Without superposition there is
# room for five absolute values. A neuron can serve one *half* of a feature, its positive or its negative side, so
# count halves: output j rises by more than half of what it should on this side. There is room for 10 halves.

p_abs = np.array([1.0, 0.3, 0.1, 0.03, 0.01])  # (t,)
WIDE, FEW = 20, 10
wide = 0.8 ** np.arange(WIDE)  # (n_feat,)
found = computation.absolute(
    p_abs, n_feat=WIDE, n_hid=FEW, importance=wide, tries=3, steps=5000, batch_size=256, lr=1e-2, rows=8192, seed=SEED
)
best_W_1, best_W_2 = found.W_1[:, 0], found.W_2[:, 0]  # (t, n_hid, n_feat), (t, n_feat, n_hid)
mono = computation.monosemantic(best_W_1)  # (t,): share of neurons with 90 % of their squared weights on one feature
below, above = np.moveaxis(computation.slopes(best_W_1, best_W_2), 1, 0)  # (t, n_feat) each
halves = (below < -0.5).sum(axis=1) + (above > 0.5).sum(axis=1)  # (t,)
silent_loss = p_abs / 3 * wide.sum()  # (t,): what a network that always answers 0 loses
for p, share, count, lost in zip(p_abs, mono, halves, found.loss[:, 0] / silent_loss, strict=True):
    print(f"p = {p:4}: {share:4.0%} of neurons monosemantic, {count} halves, {lost:.2f} of the loss of answering 0")

fig, axes = plt.subplot_mosaic(
    [["dense", "mono"], ["sparse", "halves"]], figsize=(11, 5.6), layout="constrained", width_ratios=[1.5, 1]
)
for name, at in (("dense", 0), ("sparse", 3)):
    shares = computation.energy_shares(best_W_1[at]).max(axis=1)  # (n_hid,)
    plots.neuron_stacks(
        best_W_1[at], axes[name], title=f"W₁ at p = {p_abs[at]:g}", order=np.argsort(-shares), legend=at == 0
    )
axes["dense"].set_xlabel("")
plots.monosemantic_fraction(p_abs, {"10 neurons": mono}, axes["mono"])
axes["mono"].set_ylabel("share of neurons\nwith one feature")
axes["halves"].plot(p_abs, halves, "s--", color=ORANGE)
axes["halves"].axhline(FEW, color=GREY, linestyle=":")
axes["halves"].text(0.01, FEW - 1.8, "one for each neuron", color=GREY, fontsize=8)
axes["halves"].set(xscale="log", xlabel="density of a feature, p = 1 − S", ylabel="halves computed", ylim=(0, 22))
axes["halves"].set_xticks(p_abs, labels=[f"{p:g}" for p in p_abs])
axes["halves"].minorticks_off()
axes["halves"].spines[["top", "right"]].set_visible(False)
show(fig, "3_in_superposition")

# %%
# At p = 1 each neuron reads one feature, and 10 halves are computed. As features become rare the neurons become
# polysemantic, and more halves are computed than there are neurons: **the network computes in superposition.** It pays
# with errors: where features are rare, more of the loss is left. (Rare features are also seen less often in training.)

assert mono[0] == 1
assert halves[0] == FEW
assert mono[-1] <= 0.4
assert mono[-1] < mono[1]
assert (halves[2:4] >= 1.4 * FEW).all()
assert (found.loss[:, 0] < 0.75 * silent_loss).all()
assert found.loss[0, 0] / silent_loss[0] < 0.15 < 0.3 < found.loss[3, 0] / silent_loss[3]

# %%
# **1770 ANDs with 600 neurons, without training.** 60 inputs, each 0 or 1, a few of them 1. We want the AND of every
# pair, and there are 60 · 59 / 2 = 1770. Let every neuron read every input with probability q = 0.12, with bias −1:
#
#     h = max(x @ reads.T - 1, 0)                       reads (n_hid, 60), of 0 and 1
#     AND(i, j) = mean of h over the neurons that read both i and j
#
# Let i and j be on and nothing else. Each neuron that reads both gets 2 − 1 = 1: the mean is exactly 1. With i alone it
# gets 1 − 1 = 0: silent. But a third input that is on adds 1 to those of these neurons that read it, a share of about
# q. Interference again: it grows with the number of inputs that are on.

Q = 0.12
layer = computation.u_and(60, 600, Q, np.random.default_rng(SEED))
both = (layer.readout > 0).sum(axis=1)  # (pairs,): neurons that read both
actives = np.arange(2, 7)  # (k,)
scores = [computation.and_score(layer, active=k, rows=300, rng=np.random.default_rng(1)) for k in actives]

first, second = np.triu_indices(60, 1)  # (pairs,) each: which two inputs a pair has
for on, wanted in (((3,), 0), ((3, 8), 1)):
    x = np.zeros((1, 60))  # (1, n_in)
    x[0, on] = 1
    answer = computation.and_hidden(layer, x) @ layer.readout.T  # (1, pairs)
    assert abs(answer[0, (first == 3) & (second == 8)] - wanted).max() < 1e-12

draws = np.random.default_rng(2).random((400, 60))  # (n, n_in)
x = (draws.argsort(axis=1) < 3).astype(float)  # (n, n_in), three on
read = computation.and_hidden(layer, x) @ layer.readout.T  # (n, pairs)
truth = models.TARGETS["pairs"](x) == 1  # (n, pairs)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
bins = np.arange(-0.025, 2.1, 0.05)  # (bins + 1,)
for values, name, colour, fill in ((read[truth], "true", ORANGE, "///"), (read[~truth], "false", BLUE, None)):
    left.hist(
        values, bins, weights=np.full(len(values), 1 / len(values)), color=colour, label=f"AND is {name}",
        histtype="step", hatch=fill, linewidth=1.6,
    )  # fmt: skip
left.axvline(0.5, color=GREY, linestyle=":")
left.set(yscale="log", xlabel="read-out of a pair", ylabel="share", title="three of 60 inputs are on")
left.legend(frameon=False)
right.plot(actives, [s.fpr for s in scores], "o-", color=BLUE, label="false ANDs read as true")
right.plot(actives, [1 - s.tpr for s in scores], "s--", color=ORANGE, label="true ANDs missed")
right.plot(actives, [s.error for s in scores], "^:", color="black", label="mean error of the read-out")
right.set(xlabel="inputs that are on", ylabel="share, error", title="more inputs on, more interference")
right.set_xticks(actives)
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
show(fig, "4_ands")

for k, s in zip(actives, scores, strict=True):
    print(f"{k} on: {s.tpr:.3f} of true ANDs found, {s.fpr:.4f} of false ones read as true, mean error {s.error:.3f}")
assert len(both) == 1770
assert both.min() >= 1, "every pair has a neuron"
assert abs(both.mean() - 600 * Q**2) < 0.5
assert all(s.tpr == 1 for s in scores)
assert scores[0].fpr < 0.001
assert scores[1].fpr < 0.01
assert scores[1].error < 0.08
assert (np.diff([s.fpr for s in scores]) > 0).all()
assert (np.diff([s.error for s in scores]) > 0).all()
assert scores[-1].fpr > 0.1, "with six on it is no longer of use"
assert abs(read[truth].mean() - (1 + Q)) < 0.02, "a third input adds q"

# %%
# Is that a bargain? One neuron for each AND, ``max(x_i + x_j - 1, 0)``, would do it without any error. With 20 inputs
# there are 190 ANDs, and 600 neurons in superposition still do worse. With 80 inputs there are 3160, and the same 600
# do well: **superposition pays where there is much to compute, and little of it at a time.**

assert (np.maximum(x[:, first] + x[:, second] - 1, 0) == truth).all()
by_size = {}
for n_in in (20, 80):
    layers = [computation.u_and(n_in, 600, Q, np.random.default_rng(seed)) for seed in range(4)]
    results = [computation.and_score(one, active=3, rows=200, rng=np.random.default_rng(1)) for one in layers]
    by_size[n_in] = float(np.mean([result.fpr for result in results]))
    print(f"{n_in} inputs, three on: {by_size[n_in]:.4f} of false ANDs said to be true")
assert by_size[20] > 0.01
assert by_size[80] < 0.006

# %%
# **Getting out again: the pentagon.** Lesson 1 put five features into a plane. Someone hands us the hidden rows
# ``h (n, 2)`` of such a toy and nothing else. Can an SAE with five latents find the five directions? (How an SAE works,
# and its gradient: lesson 6. Here: ``f = max((h - b_dec) @ W_enc + b_enc, 0)``, ``h_hat = f @ W_dec + b_dec``, the loss
# is the squared error, averaged over the two dimensions, plus λ times the sum of f, and rows of W_dec have length 1.)
#
# First the toy, at p = 0.025: the best of eight, by exact loss. Its truth is its W: five columns. (All this is in
# ``toy_models/experiments/pentagon.py``.)

P = pentagon.DENSITY
five = data.independent(P, n_feat=5)
toy = pentagon.toy(steps=3000, batch_size=512, lr=5e-3, seed=SEED)
directions = toy["W"][0]  # (2, n_feat)
seen = saes.hidden_rows(pentagon.TOY, toy, five, 20_000)(np.random.default_rng(SEED))  # (1, n, d_in)

angles = np.sort(np.degrees(np.arctan2(*directions[::-1])))  # (n_feat,)
assert np.abs(np.diff(angles) - 72).max() < 2, "a pentagon"
assert abs((seen == 0).all(axis=2).mean() - (1 - P) ** 5) < 0.01, "most rows are empty"

# %%
# Now 16 SAEs, each from a start of its own, in three ways:
#
# - *plain*: W_enc and W_dec start at random, with nothing in common;
# - *resampling*: the same, and every 1000 steps each latent that was silent for 250 steps starts afresh in a random
#   direction, the same one for encoder and decoder, with b_enc at 0;
# - *tied start*: no resampling, but W_enc starts as the transpose of W_dec. (The two are free afterwards.)
#
# How to say how well an SAE did? We know the truth, so take the cosine of every feature with every row of W_dec. A
# feature is *found* if some row has a cosine above 0.95 with it. And the *fraction of variance unexplained*, FVU, says
# how well rows are copied: the squared error over the variance, 0 for a perfect copy, 1 for always answering the mean.
# It can be measured without knowing the truth.

COUNT, STEPS, EVERY = 16, 6000, 1000


def recover(start, how=None, steps=STEPS):
    """Train 16 SAEs on the toy's hidden rows."""
    return pentagon.recover(
        toy, how, instances=COUNT, steps=steps, batch_size=256, lr=3e-3, start=start, every=EVERY, window=250,
        snapshots=range(0, steps + 1, 250), seed=SEED,
    )  # fmt: skip


untied, tied = (start("relu", pentagon.SAE, COUNT, seed=SEED) for start in (saes.untied_start, saes.start))
runs = {"plain": recover(untied), "resampling": recover(untied, "arena_simple"), "tied start": recover(tied)}
marks = {name: saes.score(run, directions.T, seen, threshold=0.95) for name, run in runs.items()}
for name, m in marks.items():
    print(
        f"{name:10}: {(m.found == 5).sum():2} of 16 find all five, mean best cosine {m.mmcs.mean():.3f}, "
        f"FVU {m.fvu.mean():.2f}"
    )

# %%
# The picture follows one SAE that loses latents. Thick lines are the true features, black arrows are rows of W_dec.

dead = ~runs["plain"].alive[-1]  # (i, d_sae)
k = int(np.flatnonzero(dead.any(axis=1) & (marks["resampling"].found == 5))[0])
moments = {
    "start": ("plain", 0),
    f"step {EVERY}, before resampling": ("resampling", EVERY // 250),
    f"step {STEPS}, never resampled": ("plain", -1),
    f"step {STEPS}, resampled": ("resampling", -1),
}
fig, axes = plt.subplot_mosaic([["a", "b", "c", "d"], ["e"] * 4], figsize=(12.5, 6), layout="constrained")
for letter, (title, (name, at)) in zip("abcd", moments.items(), strict=True):
    run = runs[name]
    plots.recovered_directions(
        run.snapshots["W_dec"][at, k], directions, axes[letter], dead=~run.alive[at, k], title=title,
        legend=letter == "d",
    )  # fmt: skip
alive = {name: run.alive.mean(axis=(1, 2)) for name, run in runs.items()}  # (t,) each
plots.active_fraction(runs["plain"].steps, alive, axes["e"], resampled=range(EVERY, STEPS, EVERY))
show(fig, "5_pentagon")

# %%
# What you should see. Left plain, latents die: a quarter of them by the end, and few of the SAEs find all five
# features. Those that do not are those with a dead latent. A dead latent has no gradient (lesson 7). With resampling
# nearly all SAEs find all five, and with the tied start, from which hardly a latent dies, as well. **Nobody told the
# SAE the directions:** each of its rows comes to lie on a feature.

assert (marks["plain"].found == 5).sum() <= 7
assert (marks["resampling"].found == 5).sum() >= 13
assert (marks["tied start"].found == 5).sum() >= 10
assert 0.6 < alive["plain"][-1] < 0.82
assert alive["resampling"][-1] > 0.95
assert alive["tied start"].min() > 0.95
assert marks["resampling"].fvu.mean() < 0.7 * marks["plain"].fvu.mean()
lost = marks["plain"].found < 5  # (i,)
assert (dead.any(axis=1) == lost).mean() > 0.8, "who misses a feature has a dead latent"
learned = runs["resampling"].params["W_dec"][k]  # (d_sae, d_in)
assert ((learned @ directions / np.linalg.norm(directions, axis=0)).max(axis=1) > 0.95).all(), "rows lie on features"

# %%
# **A larger toy.** 64 features in 32 dimensions: random directions, about three present in a row, the later ones more
# rarely. Which λ finds them? The score is MMCS, the *mean max cosine similarity*: for each true feature take the
# largest cosine of any latent, and average over the features. 1 is perfect; a random dictionary gets about 0.4. (A
# stricter score pairs features and latents one to one, by the *matching* with the largest mean cosine: two cells on.)
# L0 is the number of active latents in a row, FVU is as above.

penalties = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.2)
dictionary = random_dictionary(64, 32, np.random.default_rng(SEED)).astype(np.float32)  # (n_feat, d_in)
swept = sharkey.recovery_map(
    dictionary, sharkey.features(64, 3.0), l1=penalties, widths=(64,), steps=4000, batch_size=256, lr=2e-3,
    test_rows=8192, seed=SEED,
)  # fmt: skip
mmcs, matched, l0, fvu = (part[0] for part in (swept.mmcs, swept.matched, swept.l0, swept.fvu))  # (l,) each
top = int(mmcs.argmax())
for line in zip(penalties, mmcs, l0 / swept.true_l0, fvu, strict=True):
    print("λ {:5}: MMCS {:.3f}, L0 / true L0 {:5.2f}, FVU {:.3f}".format(*line))

fig, axes = plt.subplots(2, 1, figsize=(7, 5), layout="constrained", sharex=True)
plots.sparsity_sweep(penalties, mmcs, l0 / swept.true_l0, fvu, axes, random_mmcs=swept.random[0])
show(fig, "6_larger_toy")

# %%
# Read the three curves together. On the left the copy is nearly perfect and the features are *not* found: the code is
# dense. At the best λ nearly all are found, although the error is not small, and more latents are active than features
# are present. On the right the code is sparser than the truth, and features are lost again.

assert mmcs[top] >= 0.98
assert 0.35 < swept.random[0] < 0.45
assert mmcs[0] < 0.8
assert fvu[0] < 0.01
assert l0[0] > 5 * swept.true_l0
assert (np.diff(l0) < 0).all()
assert (np.diff(fvu) > 0).all()
assert 0.03 < fvu[top] < 0.3
assert 1.1 < l0[top] / swept.true_l0 < 2.5
assert l0[-1] < swept.true_l0
assert mmcs[-1] < mmcs[top] - 0.05

# %%
# **A toy that was trained.** Those directions were drawn at random. Now let training choose them: a toy of lesson 1
# with 64 features and 24 dimensions, p = 0.05. It stores all 64, far more than 24 pairs would hold. Its hidden rows are
# ``h = x @ W.T``, and the truth is the columns of W. They are not random: training avoids positive cosines.

stored = sharkey.toy(steps=3000, seed=SEED)
W = stored["W"][0]  # (n_hid, n_feat)
of_toy = sharkey.toy_map(
    stored, l1=(0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8), steps=2000, batch_size=256, test_rows=8192, seed=SEED
)
fig, axes = plt.subplots(2, 1, figsize=(7, 5), layout="constrained", sharex=True)
plots.sparsity_sweep(
    of_toy.l1, of_toy.mmcs[0], of_toy.l0[0] / of_toy.true_l0, of_toy.fvu[0], axes, random_mmcs=of_toy.random[0]
)
show(fig, "7_trained_toy")

at = int(of_toy.mmcs[0].argmax())
print(f"trained toy: best λ {of_toy.l1[at]:g}, MMCS {of_toy.mmcs[0, at]:.3f}, one to one {of_toy.matched[0, at]:.3f}, "
      f"FVU {of_toy.fvu[0, at]:.2f}; random dictionary {of_toy.random[0]:.2f}")  # fmt: skip
assert geometry.learned(W).sum() == 64
trained_cosines, random_cosines = (np.sort(geometry.cosines(D).ravel())[-65] for D in (W, dictionary.T))
assert trained_cosines < random_cosines, "the largest but for the 64 ones of the diagonal"
assert of_toy.mmcs[0, at] > 0.96
assert of_toy.matched[0, at] > 0.95
assert of_toy.random[0] < 0.5
assert of_toy.mmcs[0, 0] < 0.7, "at a small λ the code is dense, and features are not found"
assert of_toy.fvu[0, 0] < 0.01
assert of_toy.mmcs[0, -1] < of_toy.mmcs[0, at] - 0.03

# %%
# The same three curves: superposition that training made can be undone, too.

# %%
# **How to count.** MMCS asks each true feature for its best latent; two features may name the same one. The other way
# round it asks each latent for its best feature; copies of one feature then all count. A *matching* pairs features and
# latents one to one, so that nobody counts twice.
#
# Take the true dictionary and replace some rows by copies of row 0. Asked latent by latent, all is well.

copies = np.array([0, 8, 16, 32, 48])  # (c,)
ways = [sharkey.compare(dictionary, sharkey.duplicated(dictionary, copies=c)) for c in copies]
per_feature, per_latent, one_to_one = np.array(ways).T  # (c,) each

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained", sharey=True)
left.plot(copies, per_latent, "^:", color="black", label="mean over latents")
left.plot(copies, per_feature, "o-", color=BLUE, label="mean over features (MMCS)")
left.plot(copies, one_to_one, "s--", color=ORANGE, label="one to one")
left.set(xlabel="rows of 64 that are copies of row 0", ylabel="score", title="the truth spoilt by copies")
left.set_ylim(0, 1.05)
right.plot(penalties, mmcs, "o-", color=BLUE, label="mean over features (MMCS)")
right.plot(penalties, matched, "s--", color=ORANGE, label="one to one")
right.set(xscale="log", xlabel="L1 coefficient λ", title="the SAEs of the last picture")
right.set_xticks(penalties, labels=[f"{l1:g}" for l1 in penalties])
right.minorticks_off()
for ax in (left, right):
    ax.legend(frameon=False, loc="lower center")
    ax.spines[["top", "right"]].set_visible(False)
show(fig, "8_counting")

np.testing.assert_allclose(per_latent, 1, rtol=1e-5)
assert np.abs(one_to_one - (1 - copies / 64)).max() < 0.08, "each copy costs a feature"
assert (per_feature[1:] > one_to_one[1:] + 0.03).all(), "a lost feature still finds some latent that is a little alike"
assert (matched <= mmcs + 1e-6).all()
assert (mmcs - matched).max() > 0.015
between = sharkey.compare(np.eye(2), np.array([[1.0, 1], [-1, -1]]))  # one latent between two features
assert abs(between.found - 0.5**0.5) < 1e-12, "it serves both ..."
assert abs(between.matched) < 1e-12, "... where one to one it serves one, and the other latent points away"

# %%
# **What can go wrong, 1: absorption.** Now features that depend on each other. Feature 1, the *child*, is present only
# where feature 0, the *parent*, is. (Every red thing has a colour.) Directions are at right angles, strength is 1, and
# there is a latent for each feature: it could not be easier. Eight SAEs learn it, and eight others the same features
# without the dependence.

LAMBDA = 0.05
looks, chosen = {}, {}
for name, nested in (("independent", False), ("nested", True)):
    trained, frame = absorption.train(nested=nested, l1=LAMBDA, steps=3000, batch_size=256, lr=4e-3, seed=SEED)
    looks[name] = absorption.examine(trained, frame)
    whole = looks[name].table.max(axis=2).min(axis=1) > 0.5  # (i,): no latent is dead
    chosen[name] = int(np.flatnonzero(whole & (looks[name].absorbed == nested))[0])

fig, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained", width_ratios=[1, 1, 1.3])
for line, (name, look) in zip(axes, looks.items(), strict=True):
    at = chosen[name]
    plots.cosine_maps(look.encoder[at], look.decoder[at], line[:2], title=name, bar=False)
    plots.activation_table(look.table[at], [c.replace(" + ", "\n+ ") for c in absorption.CASES], line[2], bar=False)
    line[2].set_title(f"{name}\nanswers of the latents", fontsize="medium")
show(fig, "9_absorption")

both_on = list(absorption.CASES).index("parent + child")
decoder, table = looks["nested"].decoder[chosen["nested"]], looks["nested"].table[chosen["nested"]]
print(f"nested: {looks['nested'].absorbed.sum()} of 8 absorb; independent: {looks['independent'].absorbed.sum()} of 8")

# %%
# Look at the row of latent 1, the child's, below: its decoder points at parent *and* child. And latent 0, "parent", is
# silent where both are present: it has become "parent without child". This is no failure of training: it is what the
# loss pays for. Two latents on would cost λ · 2; one latent along the sum of both costs λ · √2. (The column "child"
# alone is a test: it does not occur in nested rows.)

assert looks["nested"].absorbed.sum() >= 5
assert not looks["independent"].absorbed.any()
np.testing.assert_allclose(decoder[1, :2], 0.5**0.5, atol=0.02)
assert table[0, both_on] < 0.01
assert table[0, 0] > 0.9, "parent alone: its latent is on"
np.testing.assert_allclose(looks["independent"].decoder[chosen["independent"]], np.eye(4), atol=0.05)
assert absorption.absorbed_cost().l1 < absorption.correct_cost().l1
assert abs(absorption.absorbed_cost().l1 - (0.2 + 0.05 * 2**0.5)) < 1e-12
np.testing.assert_allclose(1 - table[0, 0], LAMBDA / 2, atol=0.015)  # shrinkage, λ/2 (lesson 6)

# %%
# *Hedging* is the other way to mix the two. Give parent and child one latent in all. With almost no penalty it becomes
# the direction of most variance. Feature variances are ``p(1 − p)`` for the parent and ``pq(1 − pq)`` for the child (p:
# the parent is on; q: so is the child, if the parent is), their covariance is ``C = pq(1 − p)``. In the plane of both
# the direction of most variance is at the angle θ from the parent, with ``tan 2θ = 2C / (V_parent − V_child)``. With
# p = 1/4, q = 1/5 the child has a share of sin θ = 0.2434: the error is smaller with a part of the child in every
# "parent". Independent features have C = 0, and the latent is the parent.

hedged = {}
for name, nested in (("nested", True), ("independent", False)):
    one = absorption.hedge(nested=nested, instances=16, steps=2000, batch_size=256, seed=SEED)
    hedged[name] = one.cosines[one.alive & (one.cosines[:, 0] > 0), 1]  # others are dead, or fire without the parent
    print(f"one latent, {name}: {len(hedged[name])} of 16 point at the parent, their cosine with the child", end=" ")
    print(f"{hedged[name].mean():.3f}")
p, q = absorption.DENSITY, absorption.GIVEN
closed = np.sin(np.arctan2(2 * p * q * (1 - p), p * (1 - p) - p * q * (1 - p * q)) / 2)
assert abs(closed - 0.2434) < 5e-5
assert abs(absorption.hedged_cosine() - closed) < 1e-12
assert len(hedged["nested"]) >= 6
assert abs(hedged["nested"].mean() - closed) < 0.008
assert np.abs(hedged["nested"] - closed).max() < 0.03
assert np.abs(hedged["independent"].mean()) < 0.02

# %%
# **How good can it be?** Two bounds for features at right angles with strengths uniform on [0, 1], and the *true*
# dictionary. FVU is here over the mean square, not the variance.
#
# Left: K = 6 of 12 features are present, and the code keeps the k largest. Of K sorted strengths the j-th smallest has
# mean square ``j(j + 1)/((K + 1)(K + 2))``. Sum those that are dropped, divide by all:
#
#     FVU(k) = (K − k)(K − k + 1)(K − k + 2) / (K(K + 1)(K + 2))
#
# Right: an L1 penalty moves each activation down by s = λ/2 (lesson 6). The error is x² below s and s² above:
# ``s² − 2s³/3`` in the mean, and over the mean square, 1/3,
#
#     FVU(λ) = 3s²(1 − 2s/3)
#
# The squares are trained SAEs, TopK on the left, the plain one on the right.

K, AXES = 6, 12


def six_of_twelve(rng, n=256):
    """Return rows in which six of twelve features are present, (1, n, 12)."""
    x = rng.random((1, n, AXES), dtype=np.float32)  # (1, n, d_in)
    return np.where(rng.random((1, n, AXES)).argsort(axis=2).argsort(axis=2) < K, x, 0)


test = six_of_twelve(np.random.default_rng(SEED), 8000)[0]  # (n, d_in)
kept = np.arange(K + 1)  # (k,)
oracle = limits.oracle_fvu(K, kept)  # (k,)
by_size = -np.sort(-test, axis=1)  # (n, d_in)
largest = np.array([(by_size[:, top:] ** 2).sum() for top in kept]) / (test**2).sum()  # (k,)
reached, alike = [], []
for few in kept[1:-1]:
    cfg = topk.Config(AXES, AXES, k=int(few))
    trained = saes.train("topk", cfg, six_of_twelve, steps=1200, lr=3e-3, decay="quarter_cosine", seed=SEED)
    mine = {name: one[0] for name, one in trained.params.items()}
    copy = topk.decode(mine, topk.encode(mine, test, cfg))  # (n, d_in)
    reached.append(((copy - test) ** 2).sum() / (test**2).sum())
    alike.append(mean_max_cosine(np.eye(AXES), mine["W_dec"]))
p = 0.05
shrunk = sharkey.recovery_map(
    np.eye(16, dtype=np.float32), data.independent(p, n_feat=16), l1=(0.03, 0.1, 0.2, 0.4), widths=(16,), steps=2000,
    batch_size=256, lr=3e-3, seed=SEED,
)  # fmt: skip
shrunk_fvu = shrunk.fvu[0] * (1 - 3 / 4 * p)  # (l,): the variance is p/3 − p²/4, the mean square p/3
lambdas = np.geomspace(0.02, 1, 50)  # (50,)
floor = limits.shrinkage_floor(lambdas)  # (50,)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
plots.oracle_bound(kept, oracle, left, measured=np.array([kept[1:-1], reached]))
plots.shrinkage_floor(lambdas, floor, right, measured=np.array([shrunk.l1, shrunk_fvu]))
show(fig, "10_bounds")
for few, error, likeness in zip(kept[1:-1], reached, alike, strict=True):
    print(f"TopK, k = {few}: FVU {error:.3f}, of the truth {oracle[few]:.3f}, MMCS {likeness:.2f}")

# %%
# On the right nobody is below the line; where λ is large, training is worse than need be. On the left trained SAEs
# *are* below it where k is small! The line holds for the true dictionary; who beats it uses another. Latents that stand
# for several features at once copy more with one number. The fewer latents are allowed, the less they are features.
# (The bias b_dec helps a little, too: it adds the mean of what is dropped.)

np.testing.assert_allclose(largest, oracle, atol=0.006)
assert (shrunk_fvu > 0.98 * limits.shrinkage_floor(shrunk.l1)).all()
assert (shrunk_fvu[:3] < 1.05 * limits.shrinkage_floor(shrunk.l1[:3])).all()
assert (np.array(reached[:3]) < 0.9 * oracle[1:4]).all()
assert alike[0] < 0.8 < 0.97 < alike[-1]

# %%
# **What can go wrong, 2: the wrong L0.** BatchTopK SAEs need no λ: they keep k latents a row, on average. Five features
# at right angles, two present in a row on average, feature 0 correlated with each of the others. We *start at the
# truth*, and train with k too small, right, and too large.

ks = (1.8, 1.9, 2.0, 2.2)
wrong = {
    name: sparse_but_wrong.sweep(c, k=ks, steps=3000, batch_size=256, lr=2e-3, seed=SEED)
    for name, c in (("correlation +0.4", 0.4), ("correlation −0.4", -0.4))
}
plus, minus = wrong.values()
fig, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
plots.wrong_l0(
    ks, {name: w.cosine for name, w in wrong.items()}, plus.learned_mse, plus.truth_mse,
    {name: w.overlap for name, w in wrong.items()}, axes, true_l0=sparse_but_wrong.TRUE_L0,
)  # fmt: skip
axes[1].set_ylabel("MSE at the same k, correlation +0.4")
show(fig, "11_wrong_l0")
for name, w in wrong.items():
    print(f"{name}: cosines with feature 0 {w.cosine.round(2)}, error learned {w.learned_mse.round(3)}, "
          f"of the truth {w.truth_mse.round(3)}")  # fmt: skip

# %%
# With k below 2 the training leaves the truth: the other latents turn towards feature 0 where the correlation is
# positive, and away from it where it is negative. And the *error gets smaller* by it: at the same k the wrong
# dictionary copies better than the true one. So the error cannot warn you. What can, without knowing the truth, is on
# the right: rows of the decoder overlap more than at a larger k. With k = 2 or more the truth stays.

assert (plus.cosine[:2] > 0.15).all()
assert (minus.cosine[:2] < -0.1).all()
for w in wrong.values():
    assert w.learned_mse[0] < 0.85 * w.truth_mse[0]
    assert w.learned_mse[1] < w.truth_mse[1]
    assert (np.abs(w.cosine[2:]) < 0.05).all()
    assert w.overlap[:2].min() > 3 * w.overlap[2:].max()

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: fewer neurons for the ANDs.** 60 inputs, three of them on. Find a number of neurons, at most 500, and a
# q, so that more than 99 % of the true ANDs are found and less than 1 % of the false ones are said to be true.
# ``score(n_neurons, q)`` builds a layer and returns both shares. The check builds three other layers from your numbers,
# and looks at half and at twice your q, too: why is either worse?


def score(n_neurons, q, seed=SEED):
    """Return the share of true ANDs found, and of false ones said to be true."""
    layer = computation.u_and(60, n_neurons, q, np.random.default_rng(seed))
    result = computation.and_score(layer, active=3, rows=200, rng=np.random.default_rng(seed + 100))
    return result.tpr, result.fpr


def design(score):
    """Return a number of neurons and q."""
    # solution:
    for n_neurons in range(300, 501, 20):
        for q in (0.08, 0.1, 0.12, 0.14, 0.17):
            true, false = score(n_neurons, q)
            if true > 0.995 and false < 0.0085:
                return n_neurons, q
    # end


def check_design(answer):
    n_neurons, q = answer(score)
    assert n_neurons <= 500, f"{n_neurons} neurons are more than 500"
    for seed in (1, 2, 3):
        true, false = score(n_neurons, q, seed)
        assert true > 0.985, f"{true:.3f} of the true ANDs found"
        assert false < 0.0105, f"{false:.4f} of the false ANDs said to be true"
    rare, often = score(n_neurons, q / 2), score(n_neurons, 2 * q)
    print(f"{n_neurons} neurons, q = {q:.2f}; with half of q {rare[0]:.2f} of true ANDs found, with twice of it "
          f"{often[1]:.2f} of false ones said to be true")  # fmt: skip
    assert rare[0] < 0.95, "half of your q loses few ANDs: was yours too large?"
    assert often[1] > 0.015, "twice your q does little harm: was yours too small?"


check_design(design)

# %%
# **Exercise 2: a start from which latents do not die.** Given the plain start of the 16 SAEs, change the encoder, and
# nothing else, so that without any resampling at least 10 of them find all five features of the pentagon. You may not
# look at the features.


def better_start(W_enc, b_enc, W_dec):
    """Return W_enc (i, d_in, d_sae) and b_enc (i, d_sae) to start from; W_dec is (i, d_sae, d_in)."""
    # solution:
    return W_dec.swapaxes(1, 2), b_enc
    # end


def check_better_start(answer):
    W_enc, b_enc = answer(*(untied[name].copy() for name in ("W_enc", "b_enc", "W_dec")))
    run = recover(untied | {"W_enc": W_enc, "b_enc": b_enc}, steps=4000)
    complete = (saes.score(run, directions.T, seen).found == 5).sum()
    print(f"your start: {complete} of 16 find all five, {run.alive[-1].mean():.0%} of the latents alive")
    assert complete >= 10, f"only {complete} of 16 find all five features"


check_better_start(better_start)

# %%
# **Exercise 3: a score that copies cannot fool.** Write a score between a true dictionary and a learned one, at most 1.
# It is to be 1 if every feature has a latent of its own, in whatever order and with however many latents besides; each
# copy that stands in for a feature is to cost; and a latent between two features is not to count for both.


def fair_score(truth, learned):
    """Return a number for truth (n_feat, d_in) and learned (d_sae, d_in), d_sae at least n_feat."""
    # solution:
    lengths = np.linalg.norm(truth, axis=1)[:, None] * np.linalg.norm(learned, axis=1)  # (n_feat, d_sae)
    cosine = truth @ learned.T / lengths  # (n_feat, d_sae)
    return cosine[linear_sum_assignment(cosine, maximize=True)].mean()
    # end


def check_fair_score(answer):
    rng = np.random.default_rng(11)
    truth = random_dictionary(64, 32, rng)  # (n_feat, d_in)
    more = random_dictionary(64, 32, rng)  # (n_feat, d_in)
    shuffled = 2 * truth[rng.permutation(64)]  # (n_feat, d_in)
    assert abs(answer(truth, shuffled) - 1) < 1e-6, "order and length do not matter"
    wider = rng.permutation(np.concatenate([truth, more]))  # (2*n_feat, d_in)
    assert abs(answer(truth, wider) - 1) < 1e-6, "more latents than features do no harm"
    assert answer(truth, more) < 0.5, "a random dictionary is not much"
    for copies in (16, 32):
        got = answer(truth, sharkey.duplicated(truth, copies=copies))
        assert got < 1.05 - copies / 64, f"{got:.2f} with {copies} features of 64 lost to copies"
    assert answer(np.eye(2), np.array([[1.0, 1], [-1, -1]])) < 0.5, "one latent counted for two features"


check_fair_score(fair_score)
