"""
Lesson 10: TopK, BatchTopK and thresholds
=========================================

**What you do.** Choose the active latents of a sparse autoencoder (SAE) by rank instead of by a penalty: the k largest
of each row, then the k largest *per row in the mean*. Then ship it: replace the choice, which needs a batch, by a
threshold, in four ways, and measure what each does to the sparsity you asked for.

**What you learn.** Why no λ is needed; what TopK does to a row with one feature and to a row with six; why BatchTopK
makes a row's code depend on its neighbours, and how a threshold undoes that; why a running mean that starts at 0 is
wrong for hundreds of steps; and what happens to a threshold when the data change.

**What you need.** Lesson 6, and lesson 9 for what a penalty costs. About 45 seconds on one CPU core. Run it with
``python lessons/10_topk_batchtopk_and_thresholds.py``: pictures open in windows, and the lesson goes on when you close
one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Sources: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (TopK); Bussmann, Leask and Nanda 2024,
"BatchTopK Sparse Autoencoders"; the running thresholds of SAELens 6.54 and dictionary_learning 2025-08.
"""

# %%
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import metrics, synthetic
from minisae.ops import batch_top_k, dense, top_k
from minisae.sae import batch_topk

SEED = 0
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"10_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **By hand.** Three rows, five latents, k = 2. TopK keeps the two largest of each row. BatchTopK keeps the 2·3 = 6
# largest of the whole batch, wherever they are. Both drop what is not positive. Ties go to the lowest index.

PRE = np.array([[0.9, 0.8, 0.7, 0.6, -0.1], [0.5, 0.3, 0.2, -0.2, -0.4], [0.4, 0.4, 0.4, 0.1, -0.3]])
each, together = dense(top_k(PRE, 2)), dense(batch_top_k(PRE, 6))  # (3, 5)

np.testing.assert_array_equal(each > 0, [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
np.testing.assert_array_equal(together > 0, [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]])

fig, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
for ax, values, title in zip(axes, (PRE, each, together), ("pre", "TopK, k = 2", "BatchTopK, k = 2"), strict=True):
    ax.imshow(np.maximum(values, 0), cmap="Greys", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        ax.text(
            j, i, f"{value:g}" if value else "", ha="center", va="center", color="white" if value > 0.5 else "black"
        )
    ax.set(title=title, xticks=range(5), yticks=range(3), xlabel="latent")
axes[0].set_ylabel("row")
show(fig, "1_by_hand")

# %%
# The backward pass has nothing new. Where f is not 0 it equals pre, so the slope passes; elsewhere it is 0. Which
# entries are chosen changes in jumps, and a jump has no slope: as with ReLU, we do as if the choice were fixed. There
# is no penalty either. Sparsity is built in, so nothing shrinks: compare lesson 9.
#
# **The world** is that of lesson 7: 80 features in 40 dimensions, each present in 3 % of the rows. Mark how many are
# present: 2.4 in the mean, but from none to ten.

N_FEAT, D_IN = 80, 40
world = synthetic.make(n_feat=N_FEAT, d_in=D_IN, p=0.03, seed=SEED)
rows = synthetic.SyntheticSource(world)
test = synthetic.sample(world, 20_000, np.random.default_rng(1))
present = (test.f > 0).sum(axis=1)  # (n,)
print("rows with 0, 1, 2, … features:", np.bincount(present))


def trained(variant, k, **options):
    """An SAE with this k, which comes down from 12 in the first half of the training."""
    options = {"dead_after": 20_000, "k_start": 12, "k_anneal": 1000} | options
    return minisae.train(
        rows, variant=variant, d_sae=N_FEAT, k=k, steps=2000, batch_size=512, lr=3e-3, seed=SEED, options=options
    )


def marks(sae, x=test.x):
    """L0, R², coverage of the truth."""
    code = sae.encode(x)  # (n, d_sae)
    r2 = float(metrics.pooled_r2(x, sae.decode(code)))
    return metrics.l0(code), r2, metrics.coverage(world.dictionary, sae.params["W_dec"])


# %%
# **k is a promise about every row, or about the mean.** A row with one feature must still fill its k places under
# TopK, and a row with six must leave four out. BatchTopK lets the rows share.

KS = (1, 2, 3, 4)
saes = {(variant, k): trained(variant, k) for variant in ("topk", "batch_topk") for k in KS}
table = {key: marks(sae) for key, sae in saes.items()}
for (variant, k), (l0, r2, found) in table.items():
    print(f"{variant:10} k {k}: L0 {l0:.2f}  R² {r2:.3f}  coverage {found:.2f}")

active = {variant: (saes[variant, 2].encode(test.x) > 0).sum(axis=1) for variant in ("topk", "batch_topk")}
mean_active = {v: [float(a[present == m].mean()) for m in range(7)] for v, a in active.items()}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3), layout="constrained")
left.plot(range(7), range(7), color=GREY, linestyle=":", label="as many as present")
for variant, colour, mark in (("topk", BLUE, "o"), ("batch_topk", ORANGE, "s")):
    left.plot(range(7), mean_active[variant], marker=mark, color=colour, label=variant)
    right.plot(KS, [table[variant, k][1] for k in KS], marker=mark, color=colour, label=variant)
left.set(xlabel="features present in the row", ylabel="active latents, mean", title="k = 2: who gets the places")
right.set(xlabel="k", ylabel="R²", title="and what that is worth", xticks=KS)
left.legend()
right.legend()
show(fig, "2_sharing")

assert max(mean_active["topk"]) <= 2
assert mean_active["batch_topk"][6] > 3.5
assert mean_active["batch_topk"][1] < 1.3
for k in (1, 2):
    assert table["batch_topk", k][1] > table["topk", k][1] + 0.04, "where places are scarce, sharing pays"
assert abs(table["batch_topk", 4][1] - table["topk", 4][1]) < 0.03, "where they are not, hardly"

# %%
# **Why k came down from 12.** At first no latent points along a feature, and those that win by chance get all the
# gradient. With many places, many latents learn; then the places are taken away. Begin with k = 2 at once, and
# compare. TopK does not mind, here: every row must fill two places, so rows with little in them bring latents on.
# BatchTopK gives the places to rows that have much in them already, and needs the slow start.

at_once = {variant: marks(trained(variant, 2, k_start=0, k_anneal=0)) for variant in ("topk", "batch_topk")}
for variant, (_, r2, found) in at_once.items():
    print(f"{variant:10} k 2 at once: R² {r2:.3f}  coverage {found:.2f}")
assert at_once["batch_topk"][2] < table["batch_topk", 2][2] - 0.05
assert at_once["batch_topk"][1] < table["batch_topk", 2][1] - 0.01

# %%
# **A row's code depends on its neighbours.** Under BatchTopK the same row has another code in another batch. In
# training that is noise. In use it is a defect: what a latent says of a text must not depend on which other texts
# were looked at. Take one row, and 200 batches of 64 around it.

sae = saes["batch_topk", 2]
pre = batch_topk.forward(sae.params, test.x, sae.cfg)[0].pre  # (n, d_sae)
row, rng = int(np.flatnonzero(present == 4)[0]), np.random.default_rng(2)
counts = np.zeros(200, int)  # (200,)
for i in range(200):
    batch = np.append(row, rng.choice(len(pre), 63, replace=False))  # (64,)
    counts[i] = (dense(batch_top_k(pre[batch], 2 * 64))[0] > 0).sum()
print(f"one row in 200 batches: {counts.min()} to {counts.max()} active latents")
assert counts.max() > counts.min()

# %%
# **So what is shipped is a threshold.** Choose θ and keep ``pre > θ``: each row by itself, JumpReLU in use. In
# training one looks at the smallest value that each batch kept, and averages:
#
#     θ ← β θ + (1 - β) * smallest kept value,   β = 0.99
#
# The question is how it starts. SAELens begins at 0: after t steps only ``1 - β**t`` of the way is gone, 63 % at t =
# 100. dictionary_learning copies the first value. The default here divides by ``1 - β**t``, as Adam does. Watch all
# three on one training.

RULES = {"from_zero": (BLUE, "-"), "from_first": (ORANGE, "--"), "corrected": (GREEN, "-.")}
BETA, STEPS = 0.99, 400
thresholds = {rule: np.zeros(STEPS) for rule in RULES}
states = {rule: {"threshold": np.full(1, -1.0)} for rule in RULES}
smallest = np.zeros(STEPS)  # (steps,)
for step in range(STEPS):
    batch = rng.choice(len(pre), 512, replace=False)  # (512,), rows of the trained SAE: only θ is learnt here
    out = batch_topk.forward(sae.params, test.x[batch], sae.cfg)[0]
    kept = dense(out.f)  # (512, d_sae)
    smallest[step] = kept[kept > 0].min()
    for rule, state in states.items():
        batch_topk.after_step(state, out, sae.cfg._replace(threshold_rule=rule, threshold_decay=BETA), step=step)
        thresholds[rule][step] = state["threshold"][0]

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.plot(smallest, ".", color=GREY, markersize=2, label="smallest kept value of each batch")
for rule, (colour, dash) in RULES.items():
    ax.plot(thresholds[rule], color=colour, linestyle=dash, label=rule)
ax.set(xlabel="step", ylabel="threshold", ylim=(0, None), title="three ways to start a running mean")
ax.legend(loc="lower right")
show(fig, "3_running")

target = smallest.mean()
assert abs(thresholds["from_zero"][99] / target - (1 - BETA**100)) < 0.03, "63 % of the way after 100 steps"
for rule in ("corrected", "from_first"):
    assert abs(thresholds[rule][99] / target - 1) < 0.05

# %%
# **What the wrong threshold does.** Ship the SAE with each threshold after 100 steps. The one that started at 0 lets
# far too many through. There is a better way than a running mean: *calibrate*, on rows that the SAE was not trained
# on. ``batch_topk.calibrated`` takes the k·n-th largest pre-activation of all of them.


def shipped(theta):
    """The SAE with this threshold for every latent."""
    params = sae.params | {"threshold": np.full_like(sae.params["threshold"], theta)}
    return sae._replace(params=params)


held_out = synthetic.sample(world, 20_000, np.random.default_rng(3)).x  # (n, d_in)
calibrated = batch_topk.calibrated(sae.params, held_out, sae.cfg)["threshold"][0]
ways = {rule: thresholds[rule][99] for rule in RULES} | {"calibrated": calibrated}
l0s = {way: metrics.l0(shipped(theta).encode(test.x)) for way, theta in ways.items()}
for way, l0 in l0s.items():
    print(f"{way:11} θ {ways[way]:.3f}: L0 {l0:.3f} where k = 2 was asked for")
assert l0s["from_zero"] > 2.15
assert abs(l0s["calibrated"] - 2) < 0.03
for rule in ("corrected", "from_first"):
    assert abs(l0s[rule] - 2) < 0.12

# %%
# The mean of smallest kept values is right for batches of 512. Of small batches it is not: a batch of 4 rows keeps 8
# values, and the smallest of 8 scatters; its mean is no longer the value that k asks for. Calibration has no batch.

small = [np.sort(np.maximum(pre[rng.choice(len(pre), 4)], 0), axis=None)[-8] for _ in range(2000)]
small_l0 = metrics.l0(shipped(np.mean(small)).encode(test.x))
print(f"smallest kept value of batches of 4 rows: θ {np.mean(small):.3f}, L0 {small_l0:.3f}")
assert abs(small_l0 - 2) > 0.1

# %%
# **When the data change.** New rows, with twice as many features in each. TopK stays at k: it promised so, and drops
# the rest. The threshold lets more latents through, as there is more to see. Neither is wrong. But a figure such as
# "L0 is 2" belongs to a data set once a threshold is shipped.

denser = synthetic.make(n_feat=N_FEAT, d_in=D_IN, p=0.06, seed=SEED)  # the same dictionary
np.testing.assert_array_equal(denser.dictionary, world.dictionary)
other = synthetic.sample(denser, 20_000, np.random.default_rng(4)).x  # (n, d_in)
by_threshold, by_rank = shipped(calibrated), saes["topk", 2]
shift = {
    (who, where): marks(what, x)
    for who, what in (("TopK", by_rank), ("threshold", by_threshold))
    for where, x in (("as trained", test.x), ("twice as dense", other))
}
for (who, where), (l0, r2, _) in shift.items():
    print(f"{who:9} on rows {where:14}: L0 {l0:.2f}  R² {r2:.3f}")

fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for ax, i, label in zip(axes, (0, 1), ("active latents per row (L0)", "R²"), strict=True):
    for j, (who, colour) in enumerate((("TopK", BLUE), ("threshold", ORANGE))):
        values = [shift[who, where][i] for where in ("as trained", "twice as dense")]
        ax.bar(np.arange(2) + 0.38 * j, values, width=0.36, color=colour, label=who)
    ax.set(ylabel=label)
    ax.set_xticks(np.arange(2) + 0.19, labels=["rows as trained", "twice as dense"])
axes[0].legend()
show(fig, "4_other_data")

assert shift["TopK", "twice as dense"][0] <= 2
assert shift["threshold", "twice as dense"][0] > 1.5 * shift["threshold", "as trained"][0]
assert shift["threshold", "twice as dense"][1] > shift["TopK", "twice as dense"][1] + 0.1

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: BatchTopK itself.** Write the selection: the ``total`` largest entries of the whole matrix, those that
# are not positive dropped, ties to the lowest index (row by row, from the left). Without the library's function.


def select(pre, total):
    """Return the code (n, d_sae)."""
    # solution:
    order = np.argsort(-pre, axis=None, kind="stable")[:total]  # (total,)
    f = np.zeros(pre.size)  # (n*d_sae,)
    f[order] = np.maximum(pre.ravel()[order], 0)
    return f.reshape(pre.shape)
    # end


def check_select(answer):
    rng = np.random.default_rng(3)
    for n, d_sae, total in ((3, 5, 6), (7, 11, 20), (2, 3, 6), (5, 7, 1)):
        pre = np.round(rng.standard_normal((n, d_sae)), 1)  # (n, d_sae), rounded so that there are ties
        np.testing.assert_array_equal(answer(pre.copy(), total), dense(batch_top_k(pre, total)))


check_select(select)

# %%
# **Exercise 2: repair a checkpoint.** Somebody gives you a BatchTopK SAE of SAELens, saved after t steps, whose
# threshold started at 0 (β = 0.99). You have no data to calibrate on. Return the threshold it should have had.


def repaired(theta, t):
    """Return the threshold without the pull of the start."""
    # solution:
    return theta / (1 - 0.99**t)
    # end


def check_repaired(answer):
    for t in (3, 30, 100, 400):
        new = answer(thresholds["from_zero"][t - 1], t)
        assert abs(new / thresholds["corrected"][t - 1] - 1) < 1e-6, f"after {t} steps: {new:.4f}"


check_repaired(repaired)

# %%
# **Exercise 3: a threshold for each latent.** One θ serves all latents. Latents differ: choose a θ for each, so that
# each fires exactly as often on the rows x as it did in one big BatchTopK of these rows. (Then ask yourself what it
# changes: nothing on x. When would it matter?)


def for_each(pre, k):
    """Return thresholds (d_sae,) for pre-activations (n, d_sae) and k active latents a row in the mean."""
    # solution:
    kept = dense(batch_top_k(pre, k * len(pre)))  # (n, d_sae)
    firing = (kept > 0).sum(axis=0)  # (d_sae,)
    falling = np.sort(np.maximum(pre, 0), axis=0)[::-1]  # (n, d_sae)
    return falling[np.minimum(firing, len(pre) - 1), np.arange(pre.shape[1])]
    # end


def check_for_each(answer):
    theta = answer(pre[:5000], 2)
    assert np.shape(theta) == (N_FEAT,), "one threshold a latent"
    kept = dense(batch_top_k(pre[:5000], 10_000)) > 0  # (n, d_sae)
    mine = np.maximum(pre[:5000], 0) > theta  # (n, d_sae)
    np.testing.assert_array_equal(mine.sum(axis=0), kept.sum(axis=0))
    np.testing.assert_array_equal(mine, kept)


check_for_each(for_each)
