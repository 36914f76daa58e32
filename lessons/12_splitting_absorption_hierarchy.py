"""
Lesson 12: splitting, absorption, hierarchy
===========================================

**What you do.** Make data in which features need each other (no dog without an animal), train sparse autoencoders
(SAEs) of several widths on them, and measure what becomes of the general features. Then train a Matryoshka SAE on the
same rows.

**What you learn.** Why one feature turns up as several latents when an SAE gets wider; what absorption is, why the loss
*rewards* it, and how to measure it when you know the truth; how nested dictionaries make it expensive; and what they
cannot do.

**What you need.** Lessons 6 and 10. About 50 seconds on one CPU core. Run it with
``python lessons/12_splitting_absorption_hierarchy.py``: pictures open in windows, and the lesson goes on when you close
one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Sources: Bricken et al. 2023, "Towards Monosemanticity" (splitting); Chanin et al. 2024, "A is for absorption"; Chanin,
Dulka and Garriga-Alonso 2025, "Feature hedging"; Bussmann, Nabeshima, Karvonen and Nanda 2025, "Learning multi-level
features with Matryoshka sparse autoencoders".
"""

# %%
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import metrics, synthetic
from minisae.cache import ArraySource
from minisae.sae import matryoshka

SEED = 0
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"12_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **The world.** Twelve parents, each with three children: 48 features in 40 dimensions. A parent is present in 10 %
# of the rows. If it is, it has one of its children in 60 % of the cases, never two: an animal is a dog, a cat, a
# horse, or just some animal. A child never comes without its parent. Parent and child have *directions of their own*:
# a row with a dog is animal + dog.

PARENTS, CHILDREN, D_IN = 12, 3, 40
N_FEAT = PARENTS * (1 + CHILDREN)
tree = synthetic.tree(N_FEAT, roots=PARENTS, branching=CHILDREN, depth=1, exclusive=True)
parent_of = tree.parent  # (n_feat,), −1 for a parent
p = np.where(parent_of < 0, 0.1, 0.1 * 0.2)  # (n_feat,)
world = synthetic.make(
    n_feat=N_FEAT, d_in=D_IN, seed=SEED, p=p, hierarchy=tree, orthogonal_steps=300,
    magnitude="folded_normal", magnitude_scale=1.0, magnitude_std=0.1,
)  # fmt: skip
rows = ArraySource(synthetic.sample(world, 200_000, np.random.default_rng(2)).x)
test = synthetic.sample(world, 20_000, np.random.default_rng(1))
on = test.f > 0  # (n, n_feat)
with_child = np.stack([on[:, parent_of == q].any(axis=1) for q in range(PARENTS)], axis=1)  # (n, n_parents)
present = float(on.sum(axis=1).mean())
print(f"{present:.2f} features per row")

assert (on[:, parent_of[PARENTS:]] | ~on[:, PARENTS:]).all(), "no child without its parent"
assert max(on[:, parent_of == q].sum(axis=1).max() for q in range(PARENTS)) == 1, "never two of the same parent"
assert abs(with_child[on[:, :PARENTS]].mean() - 0.6) < 0.02


def trained(variant, width, k, **options):
    """An SAE of this width with k active latents a row in the mean; k comes down from more in the first half."""
    options = {"dead_after": 20_000, "k_start": 6, "k_anneal": 1500} | options
    return minisae.train(
        rows, variant=variant, d_sae=width, k=k, steps=3000, batch_size=512, lr=3e-3, seed=SEED, options=options
    )


# %%
# **Splitting.** Train BatchTopK SAEs of four widths. How many parents and how many children have a latent with a
# cosine above 0.9? And how many latents lean towards each parent (cosine above 0.4)?

WIDTHS = (12, 24, 48, 96)
by_width = {width: trained("batch_topk", width, 1.9) for width in WIDTHS}
found, leaning, fit = {}, {}, {}
for width, sae in by_width.items():
    cosines = metrics.unit_rows(sae.params["W_dec"]) @ world.dictionary.T  # (d_sae, n_feat)
    best = cosines.max(axis=0)  # (n_feat,)
    found[width] = (best[:PARENTS] > 0.9).mean(), (best[PARENTS:] > 0.9).mean()
    leaning[width] = float((cosines[:, :PARENTS] > 0.4).sum(axis=0).mean())
    fit[width] = float(metrics.pooled_r2(test.x, sae.decode(sae.encode(test.x))))
    print(
        f"{width:2} latents: parents found {found[width][0]:4.0%}, children {found[width][1]:4.0%}, "
        f"latents leaning to a parent {leaning[width]:.1f}, R² {fit[width]:.3f}"
    )

fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
axes[0].plot(WIDTHS, [found[w][0] for w in WIDTHS], "o-", color=BLUE, label="parents found")
axes[0].plot(WIDTHS, [found[w][1] for w in WIDTHS], "s--", color=ORANGE, label="children found")
axes[0].plot(WIDTHS, [fit[w] for w in WIDTHS], "^:", color=GREY, label="R²")
axes[1].plot(WIDTHS, [leaning[w] for w in WIDTHS], "o-", color=BLUE)
axes[0].set(ylabel="share", ylim=(0, 1.05), title="wider finds more, and not all")
axes[1].set(ylabel="latents per parent", ylim=(0, None), title="and one parent is in several latents")
for ax in axes:
    ax.set_xscale("log")
    ax.set_xticks(WIDTHS, labels=[str(w) for w in WIDTHS])
    ax.minorticks_off()
    ax.set_xlabel("latents")
axes[0].legend()
show(fig, "1_splitting")

assert leaning[48] > 2, "one direction of the world, several latents"
assert leaning[48] > 1.5 * leaning[12]
assert fit[48] > 0.97, "48 latents are enough for 48 features, the copy is nearly perfect,"
assert found[48][1] < 0.5, "and yet most children are not found"

# %%
# What are those latents? Take the SAE with 48, match latents with features one to one, and look at the family of the
# first parent: its latent and its children's, against the family's directions. Many of the children's latents point
# at child *plus parent*, and some at child *less parent*: these take back what another latent says too much of.


def family(sae):
    """The latents matched with parents and children (n_feat,), decoder rows of unit norm (d_sae, d_in)."""
    unit = metrics.unit_rows(sae.params["W_dec"])  # (d_sae, d_in)
    pairs = metrics.matched_pairs(world.dictionary, unit)
    latents = np.full(N_FEAT, -1)  # (n_feat,)
    latents[pairs.features] = pairs.latents
    return latents, unit


plain = by_width[48]
latents, unit = family(plain)
members = np.append(0, np.flatnonzero(parent_of == 0))  # (4,)
parents = world.dictionary[parent_of[PARENTS:]]  # (n_children, d_in)
mixed, truly = (
    float(np.abs((a * parents).sum(axis=1)).mean()) for a in (unit[latents[PARENTS:]], world.dictionary[PARENTS:])
)
print(f"cosine of a child's latent with the child's *parent*, its size: {mixed:.2f} in the mean; truly {truly:.2f}")
assert mixed > 3 * truly

# %%
# **Absorption, on paper.** Take a dictionary that tells the truth, and one in which each child's latent points at
# parent + child and does the work of both. Both reconstruct every row. What do they cost?
#
#     row                 truth: active latents     absorbing: active latents
#     parent alone                 1                            1
#     parent and child             2                            1
#
# The absorbing one is sparser, with the same error. **Every sparsity penalty, and every k, prefers it.** The price is
# paid by whoever reads the code: the parent's latent is silent on the very rows that show the parent best.

families = on[:, :PARENTS].sum(axis=1)  # (n,), one active latent each is enough
print(f"truth needs {present:.2f} active latents per row, the absorbing code {families.mean():.2f}, for the same rows")
assert families.mean() < 0.7 * present

# %%
# **In numbers.** How often is the parent's latent silent though the parent is present: without a child, and with one?


def silence(sae):
    """Share of rows in which a present parent's latent is silent: (without, with) a child, each (n_parents,)."""
    latents, _ = family(sae)
    quiet = sae.encode(test.x)[:, latents[:PARENTS]] == 0  # (n, n_parents)
    there = on[:, :PARENTS]  # (n, n_parents)
    alone, both = there & ~with_child, there & with_child  # (n, n_parents) each
    return (quiet & alone).sum(axis=0) / alone.sum(axis=0), (quiet & both).sum(axis=0) / both.sum(axis=0)


def marks(sae):
    """L0, R², coverage, F1 of latents as detectors."""
    code = sae.encode(test.x)  # (n, d_sae)
    report = metrics.recovery_report(world.dictionary, sae.params["W_dec"], test.f, code)
    r2 = float(metrics.pooled_r2(test.x, sae.decode(code)))
    return metrics.l0(code), r2, report["coverage"], report["f1"]


def tell(name, sae):
    """Print the marks and return them with the mean silences."""
    l0, r2, coverage, f1 = marks(sae)
    without, with_ = map(float, map(np.mean, silence(sae)))
    print(
        f"{name:26} L0 {l0:.2f}  R² {r2:.3f}  coverage {coverage:.2f}  F1 {f1:.2f}  "
        f"parent's latent silent: alone {without:.1%}, with a child {with_:.1%}"
    )
    return r2, coverage, f1, without, with_


flat = tell("BatchTopK", plain)
assert flat[3] < 0.02, "alone, the parent is seen"
assert flat[4] > 0.3, "with a child, in a third of the rows or more it is not"

# %%
# **Matryoshka: let the first latents stand alone.** The latents are nested: the first 12 must reconstruct the rows by
# themselves as well as they can, and all 48 must, too. The loss is the sum of both errors:
#
#     L = |x - b_dec - f[:12] @ W_dec[:12]|² + |x - b_dec - f @ W_dec|²
#
# In the first sum there is no child's latent that could speak for the parent. If the parent's is silent, the whole
# parent is missing, and that is expensive. So it speaks, with or without a child; and then the children's latents
# have nothing left to say but the child.

nested = trained("matryoshka", 48, 1.9, prefixes=(PARENTS, N_FEAT))
inner, inner_cfg = matryoshka.prefix(nested.params, nested.cfg, PARENTS)
deep = tell("Matryoshka (12, 48)", nested)

fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained", sharey=True)
for ax, sae, title in zip(axes, (plain, nested), ("BatchTopK", "Matryoshka"), strict=True):
    without, with_ = silence(sae)
    ax.bar(np.arange(PARENTS) - 0.2, without, width=0.38, color=GREY, label="without a child")
    ax.bar(np.arange(PARENTS) + 0.2, with_, width=0.38, color=ORANGE, label="with a child")
    ax.set(xlabel="parent", title=f"{title}: {with_.mean():.0%} with a child", xticks=range(PARENTS))
axes[0].set_ylabel("share of rows in which\nits latent is silent")
axes[0].legend()
show(fig, "2_absorption")

assert deep[4] < 0.05 < flat[4] / 5
assert deep[1] > flat[1] + 0.3, "the coverage"
assert deep[2] > flat[2] + 0.05, "F1"

# %%
# The same family under both, in cosines. Left: the children's latents carry the parent, or its opposite. Right: each
# its own.

shown = {}
for name, sae in (("BatchTopK", plain), ("Matryoshka", nested)):
    latents, unit = family(sae)
    shown[name] = unit[latents[members]] @ world.dictionary[members].T  # (4, 4)
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
labels = ["parent", *[f"child {i}" for i in (1, 2, 3)]]
for ax, (name, cosines) in zip(axes, shown.items(), strict=True):
    image = ax.imshow(cosines, cmap="PuOr", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(cosines):
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    ax.set(title=name, xlabel="true direction")
    ax.set_xticks(range(4), labels=labels, rotation=30)
    ax.set_yticks(range(4), labels=labels)
axes[0].set_ylabel("latent matched with")
fig.colorbar(image, ax=axes, label="cosine")
show(fig, "3_one_family")
assert np.diag(shown["Matryoshka"]).min() > 0.8
assert np.abs(shown["Matryoshka"] - np.diag(np.diag(shown["Matryoshka"]))).max() < 0.35

# %%
# **What it costs.** A little of the reconstruction: the gradient of the inner sum pulls the first latents to where
# they help alone. The parents' latents lean towards the mean of their children (that is called *hedging*: a latent
# that must speak for more than its feature takes some of the rest with it).

lean = metrics.unit_rows(inner["W_dec"]) @ world.dictionary.T  # (n_parents, n_feat)
own = lean[:, :PARENTS].argmax(axis=1)  # (n_parents,)
to_children = float(np.mean([lean[i, parent_of == q].mean() for i, q in enumerate(own)]))
print(f"R² {flat[0]:.3f} → {deep[0]:.3f}; cosine of a parent's latent with its children's directions {to_children:.2f}")
assert -0.03 < flat[0] - deep[0] < 0.03
assert to_children > 0.08

# %%
# **And what it cannot do.** Ask for fewer active latents than there are features: k = 1.2, just what the absorbing
# code needs. BatchTopK absorbs most: with a child, three of four parents go unmentioned. Matryoshka still does not,
# for its parents' latents are no more silent with a child than without; but honesty needs 1.9 places, so it leaves out
# a third of everything, and reconstructs much worse. Which of the two one wants is a question of what the code is for.
# Better to give enough places.

scarce = {
    "BatchTopK, k 1.2": trained("batch_topk", 48, 1.2),
    "Matryoshka, k 1.2": trained("matryoshka", 48, 1.2, prefixes=(PARENTS, N_FEAT)),
}
told = {name: tell(name, sae) for name, sae in scarce.items()}
bars = {"BatchTopK, k 1.9": flat, "Matryoshka, k 1.9": deep} | told
fig, ax = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
for shift, i, colour, label in ((-0.2, 3, GREY, "without a child"), (0.2, 4, ORANGE, "with a child")):
    ax.barh(np.arange(4) + shift, [marks_[i] for marks_ in bars.values()], height=0.38, color=colour, label=label)
ax.set_yticks(range(4), labels=[f"{name}\nR² {marks_[0]:.2f}" for name, marks_ in bars.items()])
ax.invert_yaxis()
ax.set(xlabel="share of rows in which a parent's latent is silent", title=f"{present:.1f} features are present per row")
ax.legend()
show(fig, "4_too_sparse")
crowded, honest = told["BatchTopK, k 1.2"], told["Matryoshka, k 1.2"]
assert crowded[4] > crowded[3] + 0.4
assert abs(honest[4] - honest[3]) < 0.1
assert honest[3] > 0.2
assert honest[0] < crowded[0] - 0.05

# %%
# Real models do not tell us the truth, so absorption is measured there with probes: SAEBench trains a probe for "the
# word begins with L", finds the latents that stand for it, and counts words on which they are silent while another
# latent carries the probe's direction. Same idea, more doubt.

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: absorb by hand.** Given a parent's direction (d_in,) and its children's (n_children, d_in), all
# strengths 1: return decoder rows (1 + n_children, d_in), of any norm, with which every row of this family (the
# parent alone, or with one child) is reconstructed exactly by *one* active latent.


def absorbing(parent, children):
    """Return decoder rows (1 + n_children, d_in), the parent's first."""
    # solution:
    return np.vstack([parent, parent + children])
    # end


def check_absorbing(answer):
    parent, children = world.dictionary[0], world.dictionary[parent_of == 0]
    W_dec = np.asarray(answer(parent, children), float)  # (4, d_in)
    assert W_dec.shape == (4, D_IN), "four rows"
    for i, row in enumerate([parent, *(parent + children)]):
        code = row @ W_dec[i] / (W_dec[i] @ W_dec[i])
        assert np.abs(code * W_dec[i] - row).max() < 1e-6, f"row {i} is not reconstructed by latent {i} alone"


check_absorbing(absorbing)

# %%
# **Exercise 2: measure it.** From the code of one latent (n,), the truth of the feature it stands for (n,) and the
# truth of *any other* features (n, m): return for each of these m by how much it silences the latent: how often the
# latent is silent on the feature's rows with it, less how often without it.


def silenced_by(code, feature, others):
    """Return (m,) differences of shares."""
    # solution:
    there, quiet = feature > 0, code == 0  # (n,) each
    return np.array([quiet[there & (o > 0)].mean() - quiet[there & ~(o > 0)].mean() for o in others.T])
    # end


def check_silenced_by(answer):
    rng = np.random.default_rng(4)
    feature = (rng.random(4000) < 0.5) * 1.0  # (n,)
    others = (rng.random((4000, 3)) < 0.3) * 1.0  # (n, 3)
    code = feature * (1 - others[:, 1])  # (n,), silenced by the second, always
    half = feature * ((1 - others[:, 2]) + others[:, 2] * (rng.random(4000) < 0.5))  # (n,), by the third, half the time
    np.testing.assert_allclose(answer(code, feature, others), [0, 1, 0], atol=0.06)
    np.testing.assert_allclose(answer(half, feature, others), [0, 0, 0.5], atol=0.06)


check_silenced_by(silenced_by)

# %%
# **Exercise 3: grandchildren.** Here is a world of three levels: 4 roots, 12 children, 36 grandchildren. Choose the
# prefixes of a Matryoshka SAE with 52 latents, so that both roots and children are found: at least 80 % of the 16.


def prefixes_for(levels):
    """Return the prefixes, given how many features each level has, here (4, 12, 36)."""
    # solution:
    return tuple(np.cumsum(levels).tolist())
    # end


def check_prefixes_for(answer):
    prefixes = answer((4, 12, 36))
    assert prefixes is not None, "return a tuple of widths"
    three = synthetic.tree(52, roots=4, branching=3, depth=2, exclusive=True)
    p = np.full(52, 0.2)  # (n_feat,)
    for feature in range(4, 52):
        p[feature] = 0.2 * p[three.parent[feature]]
    deep_world = synthetic.make(
        n_feat=52, d_in=D_IN, seed=SEED, p=p, hierarchy=three, orthogonal_steps=300,
        magnitude="folded_normal", magnitude_scale=1.0, magnitude_std=0.1,
    )  # fmt: skip
    x = synthetic.sample(deep_world, 100_000, np.random.default_rng(5)).x  # (n, d_in)
    sae = minisae.train(
        x, variant="matryoshka", d_sae=52, k=float(p.sum()), steps=2000, batch_size=512, lr=3e-3, seed=SEED,
        options={"prefixes": prefixes, "dead_after": 20_000, "k_start": 8, "k_anneal": 1000},
    )  # fmt: skip
    best = metrics.max_cosines(deep_world.dictionary[:16], sae.params["W_dec"])[0]  # (16,)
    assert (best > 0.9).mean() >= 0.8, f"only {(best > 0.9).mean():.0%} of roots and children are found"


check_prefixes_for(prefixes_for)
