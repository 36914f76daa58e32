"""
Lesson 6: a first sparse autoencoder, by hand
=============================================

**What you do.** Make data from a dictionary that you know, derive the gradient of a sparse autoencoder (SAE) line by
line, check it against finite differences, train the SAE, and look whether it finds your dictionary.

**What you learn.** What an SAE is and what its loss asks for; where each gradient comes from; why decoder rows have
unit norm; that a small error does not mean that the features were found; and what the sparsity penalty costs.

**What you need.** NumPy and the chain rule. About 20 seconds on one CPU core. Run it with
``python lessons/06_a_first_sae_by_hand.py``: pictures open in windows, and the lesson goes on when you close one. With
``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Sources: Bricken et al. 2023, "Towards Monosemanticity" (the SAE, its loss, unit norm and projection); Sharkey, Braun
and Millidge 2022, "Taking features out of superposition" (data from a known dictionary, and what to measure on it).
"""

# %%
# Letters, here and in the library: ``n`` rows, ``d_in`` the width of a row, ``d_sae`` latents. Arrays are row-major:
# one row is one activation vector, and it is multiplied from the right, ``x @ W_enc``.

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import losses, metrics, synthetic
from minisae.ops import normalise_rows, project_rows
from minisae.sae import relu
from minisae.verify import check_gradients

SEED = 0
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"06_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **The world.** There are 40 features, each a direction in only 20 dimensions, so they cannot all be at right angles.
# In each row every feature is present with probability 0.05, on its own, with a strength between 0 and 1:
#
#     x = f_true @ dictionary          f_true (n, 40), nearly all zeros;  dictionary (40, 20), rows of norm 1
#
# A model that we want to understand gives us ``x`` alone. Here we also keep the truth, to mark the work.

N_FEAT, D_IN = 40, 20
world = synthetic.make(n_feat=N_FEAT, d_in=D_IN, p=0.05, seed=SEED)
test = synthetic.sample(world, 20_000, np.random.default_rng(1))
overlap = world.dictionary @ world.dictionary.T  # (n_feat, n_feat)
active = (test.f > 0).sum(axis=1)  # (n,)

assert abs(active.mean() - N_FEAT * 0.05) < 0.1, "about two features are present per row"
assert np.abs(overlap - np.eye(N_FEAT)).max() > 0.5, "some pairs of features are far from right angles"

row = int(np.flatnonzero(active == 3)[0])
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 4.2), layout="constrained")
top.bar(np.arange(N_FEAT), test.f[row], color=BLUE)
top.set(title="one row: three of 40 features are present ...", xlabel="feature", ylabel="strength f_true")
bottom.bar(np.arange(D_IN), test.x[row], color=GREY)
bottom.set_xticks(range(0, D_IN, 5))
bottom.set(title="... and all that can be seen of it: 20 numbers, none of them zero", xlabel="dimension", ylabel="x")
show(fig, "1_one_row")
assert (np.abs(test.x[row]) > 1e-4).all()

# %%
# **The autoencoder.** It guesses which features are present, and puts the row together again from its guess:
#
#     seen  = x - b_dec                           (n, d_in)
#     pre   = seen @ W_enc + b_enc                (n, d_sae)
#     f     = max(pre, 0)                         (n, d_sae)    the code: which latents are on, and how strongly
#     x_hat = f @ W_dec + b_dec                   (n, d_in)     the reconstruction
#
# Each row of ``W_dec`` is a direction that the SAE believes in: its dictionary. The loss has two parts,
#
#     L = (1/n) * sum over rows of ( sum((x_hat - x)**2) + l1 * sum(f) )
#
# The first asks for a true copy, the second (λ, ``l1`` in the code) charges for every unit of activation. Without the
# second any code that loses nothing would do, and its directions need not mean anything.
#
# The library has all of this in ``minisae/sae/relu.py``: read it beside this lesson.

cfg = relu.Config(d_in=5, d_sae=11, l1=0.3)
rng = np.random.default_rng(SEED)
params = relu.init(cfg, rng, dtype=np.float64)
params["b_enc"] += 0.2 * rng.standard_normal(11)
params["b_dec"] += 0.2 * rng.standard_normal(5)
x = rng.standard_normal((7, 5))  # (n, d_in)
n = len(x)

# %%
# **The gradient, from the loss backwards.** Write ``d_q`` for the derivative of L with respect to ``q``: an array of
# q's shape. Take the lines of the forward pass from the last to the first, and for each one ask: if its inputs moved a
# little, what would L do?
#
# 1. L holds ``(x_hat - x)**2 / n``, so          d_x_hat = 2 * (x_hat - x) / n
# 2. ``x_hat = f @ W_dec + b_dec`` has three inputs. A product passes a slope on through the other factor, transposed:
#                                                d_f     = d_x_hat @ W_dec.T      and, as L holds ``l1 * f / n``,
#                                                          + l1 / n
#                                                d_W_dec = f.T @ d_x_hat
#                                                d_b_dec = sum of d_x_hat over rows     (one b_dec serves all rows)
# 3. ``f = max(pre, 0)`` lets a slope through where pre > 0, and nothing elsewhere:
#                                                d_pre   = d_f * (pre > 0)
# 4. ``pre = seen @ W_enc + b_enc``:             d_W_enc = seen.T @ d_pre
#                                                d_b_enc = sum of d_pre over rows
#                                                d_seen  = d_pre @ W_enc.T
# 5. ``seen = x - b_dec``: b_dec is used a *second* time, with a minus. Slopes of all uses add up:
#                                                d_b_dec = d_b_dec - sum of d_seen over rows
#
# In step 5 the sum over rows can be taken first, ``(sum of d_pre) @ W_enc.T``: a vector times a matrix in place of a
# matrix times a matrix. The library does so.


def loss_of(p):
    """The four lines of the forward pass, and the loss."""
    f = np.maximum((x - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)  # (n, d_sae)
    x_hat = f @ p["W_dec"] + p["b_dec"]  # (n, d_in)
    return float(((x_hat - x) ** 2).sum() + cfg.l1 * f.sum()) / n


seen = x - params["b_dec"]  # (n, d_in)
pre = seen @ params["W_enc"] + params["b_enc"]  # (n, d_sae)
f = np.maximum(pre, 0)  # (n, d_sae)
x_hat = f @ params["W_dec"] + params["b_dec"]  # (n, d_in)

d_x_hat = 2 * (x_hat - x) / n  # (n, d_in)
d_f = d_x_hat @ params["W_dec"].T + cfg.l1 / n  # (n, d_sae)
d_pre = d_f * (pre > 0)  # (n, d_sae)
by_hand = {
    "W_dec": f.T @ d_x_hat,
    "W_enc": seen.T @ d_pre,
    "b_enc": d_pre.sum(axis=0),
    "b_dec": d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ params["W_enc"].T,  # used twice
}

# %%
# **Never train on a gradient that you have not checked.** Move one entry of one parameter by a tiny h up and down:
# ``(L(p + h) - L(p - h)) / 2h`` must be the derivative. Do that for every entry. ``max`` has a kink at 0, where there
# is no derivative; the checker finds such entries and counts them apart.

for check in check_gradients(loss_of, params, by_hand):
    print(f"{check.name}: {check.entries} entries, {check.kinks} kinks, largest relative error {check.error:.1e}")
    assert check.kinks == 0
    assert check.error < 1e-6

# %%
# A check is worth something only if it can fail. Forget that b_dec is used twice, and it does:

forgetful = by_hand | {"b_dec": d_x_hat.sum(axis=0)}
worst = {check.name: check.error for check in check_gradients(loss_of, params, forgetful)}
assert worst["b_dec"] > 0.1
assert max(worst[name] for name in ("W_dec", "W_enc", "b_enc")) < 1e-6

# %%
# **The library's gradient is the same.** There the loss is a sum of terms; each gives its value and its slopes on the
# outputs, and ``backward`` takes the slopes to the parameters.

out, cache = relu.forward(params, x, cfg)
loss, slopes, _ = losses.gather(relu.objective(params, out, x, cfg))
grads = relu.backward(params, cache, cfg, slopes)

assert abs(float(loss) - loss_of(params)) < 1e-12
for name, grad in by_hand.items():
    np.testing.assert_allclose(grads[name], grad, rtol=1e-10, atol=1e-12)

# %%
# **Why unit norm?** Because the penalty can be cheated. Double the decoder and halve the encoder with its bias: the
# reconstruction stays the same, and the code, hence the penalty, is half as large. Nothing was learned.

doubled = params | {"W_dec": params["W_dec"] * 2, "W_enc": params["W_enc"] / 2, "b_enc": params["b_enc"] / 2}
cheat = relu.forward(doubled, x, cfg)[0]
np.testing.assert_allclose(cheat.x_hat, out.x_hat)
np.testing.assert_allclose(cheat.f, out.f / 2)

# %%
# So after each step every decoder row is put back to norm 1. And before each step we remove from its gradient the
# part along the row: that part only changes the norm, which is about to be undone, yet it would fill Adam's running
# averages.

d_W_dec = grads["W_dec"].copy()  # (d_sae, d_in)
project_rows(d_W_dec, params["W_dec"])
along = (grads["W_dec"] * params["W_dec"]).sum(axis=1)  # (d_sae,)
assert np.abs(along).max() > 0.1, "the raw gradient does pull at the norm"
assert np.abs((d_W_dec * params["W_dec"]).sum(axis=1)).max() < 1e-12, "the projected one does not"

moved = params["W_dec"] - 0.1 * d_W_dec  # (d_sae, d_in)
normalise_rows(moved)
np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1)

# %%
# **Train.** ``minisae.train`` does what you have seen, for 4000 batches of fresh rows: forward, loss, backward,
# project, Adam, normalise. We give it 60 latents, more than the 40 features, for in real work nobody knows the
# number. A hook is called now and then with the numbers of the step.

L1 = 0.2
records = []
sae = minisae.train(
    synthetic.SyntheticSource(world),
    variant="relu",
    d_sae=60,
    l1=L1,
    steps=4000,
    batch_size=512,
    lr=3e-3,
    seed=SEED,
    hooks=[lambda run, record: records.append(record)],
)

steps = [r["step"] for r in records]
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(steps, [r["mse"] for r in records], color=BLUE, label="squared error")
left.plot(steps, [r["l1"] for r in records], color=ORANGE, linestyle="--", label="penalty λ·sum(f)")
left.set(xlabel="step", ylabel="mean over rows", ylim=(0, None), title="the two parts of the loss")
left.legend()
right.plot(steps, [r["l0"] for r in records], color=BLUE, label="SAE")
right.axhline(active.mean(), color=GREY, linestyle=":", label="features really present")
right.set(xlabel="step", ylabel="active latents per row (L0)", ylim=(0, None), title="the code becomes sparse")
right.legend()
show(fig, "2_training")

assert records[-1]["loss"] < 0.7 * records[0]["loss"]
assert records[-1]["l0"] < 0.5 * records[0]["l0"]

# %%
# **Were the features found?** Compare each true feature with each latent's decoder row: the cosine is 1 if they point
# the same way. To match them one to one, choose pairs so that the sum of cosines is as large as it can be (the
# Hungarian problem). *Coverage* is the share of features with a latent at cosine 0.9 or more.
#
# The faint diagonal on the left is the matching at work: it picks the best pairs even among random rows.


def sorted_cosines(W_dec):
    """All cosines, latents in the order of the features they are matched with, unmatched ones last."""
    pairs = metrics.matched_pairs(world.dictionary, W_dec)
    rest = np.setdiff1d(np.arange(len(W_dec)), pairs.latents)  # (d_sae-n_feat,)
    return world.dictionary @ metrics.unit_rows(W_dec[np.append(pairs.latents, rest)]).T


start = metrics.unit_rows(np.random.default_rng(SEED).standard_normal((60, D_IN)))  # (d_sae, d_in)
learned = sae.params["W_dec"]  # (d_sae, d_in)
found = metrics.coverage(world.dictionary, learned)
print(f"coverage: {metrics.coverage(world.dictionary, start):.2f} at random, {found:.2f} after training")

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for ax, W_dec, title in zip(axes, (start, learned), ("random rows", "after training"), strict=True):
    image = ax.imshow(sorted_cosines(W_dec), cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.axvline(N_FEAT - 0.5, color=ORANGE, linestyle="--")
    ax.set(title=title, xlabel="latent, sorted; right of the dashed line: no partner")
axes[0].set_ylabel("true feature")
fig.colorbar(image, ax=axes, label="cosine (below 0: white)")
show(fig, "3_cosines")

assert found >= 0.95
assert metrics.coverage(world.dictionary, start) <= 0.05
assert metrics.matched_cosine(world.dictionary, learned) > 0.98

# %%
# What of the 20 latents without a partner? More than half of them repeat a feature that another latent has already:
# the dark cells on the right of the dashed line.

spare = np.setdiff1d(np.arange(60), metrics.matched_pairs(world.dictionary, learned).latents)  # (20,)
nearest = metrics.max_cosines(learned[spare], world.dictionary)[0]  # (20,)
print(f"cosine of spare latents with their nearest feature: median {np.median(nearest):.2f}")
assert np.median(nearest) > 0.9

# %%
# **A small error is not a found feature.** Train once with a tiny λ, once with a large one. The tiny one copies the
# rows almost perfectly (R² is the share of the variance explained) and knows nothing of the features: its code is
# dense. The large one finds the features and copies badly.

penalties = [0.02, 0.07, L1, 0.4, 0.8]
scores = []
for l1 in penalties:
    other = sae
    if l1 != L1:
        other = minisae.train(
            synthetic.SyntheticSource(world),
            variant="relu", d_sae=60, l1=l1, steps=2500, batch_size=512, lr=3e-3, seed=SEED,
        )  # fmt: skip
    code = other.encode(test.x)  # (n, d_sae)
    r2 = float(metrics.pooled_r2(test.x, other.decode(code)))
    scores.append((r2, metrics.coverage(world.dictionary, other.params["W_dec"]), metrics.l0(code)))
    print(f"λ {l1:5}: R² {r2:.3f}  coverage {scores[-1][1]:.2f}  L0 {scores[-1][2]:5.1f}")
r2s, coverages, l0s = map(list, zip(*scores, strict=True))

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(penalties, r2s, "o-", color=BLUE, label="R² on new rows")
left.plot(penalties, coverages, "s--", color=ORANGE, label="coverage of the truth")
left.set(xlabel="λ", ylabel="share", ylim=(0, 1.05), title="the copy and the finding")
left.legend(loc="lower right")
for ax in (left, right):
    ax.set_xscale("log")
    ax.set_xticks(penalties, labels=[f"{l1:g}" for l1 in penalties])
    ax.minorticks_off()
right.set_yscale("log")
right.plot(penalties, l0s, "o-", color=BLUE, label="SAE")
right.axhline(active.mean(), color=GREY, linestyle=":", label="features really present")
right.set(xlabel="λ", ylabel="active latents per row (L0)", title="sparsity")
right.set_yticks([2, 5, 10, 20], labels=["2", "5", "10", "20"])
right.minorticks_off()
right.legend()
show(fig, "4_penalty")

assert r2s[0] > 0.98
assert coverages[0] < 0.2, "the best copy of all finds next to nothing"
assert r2s == sorted(r2s, reverse=True)
assert l0s == sorted(l0s, reverse=True)
assert coverages[2] >= 0.95
assert coverages[-1] >= 0.9
assert r2s[-1] < 0.7

# %%
# **What the penalty costs: shrinkage.** Take a row with one feature alone, of strength a, and a latent that points
# along it. The loss is ``(f - a)**2 + l1 * f``, least at ``f = a - l1 / 2``: the code is too small by λ/2, always.

strength, guesses = 0.7, np.linspace(0, 1, 10_001)
best = guesses[np.argmin((guesses - strength) ** 2 + L1 * guesses)]
assert abs(best - (strength - L1 / 2)) < 1e-3

# %%
# In our world it is worse, for two more reasons. A latent must keep quiet when a *neighbour* of its feature is there,
# so its bias holds it back more. And where two latents repeat one feature, they share its strength.

pairs = metrics.matched_pairs(world.dictionary, learned)
code = sae.encode(test.x)  # (n, d_sae)
true, got = test.f[:, pairs.features], code[:, pairs.latents]  # (n, n_feat) each
strong = true > 0.3  # (n, n_feat)
loss_of_strength = float((true - got)[strong].mean())
held_back = sae.params["b_enc"] - sae.params["b_dec"] @ sae.params["W_enc"]  # (d_sae,), pre of a row of zeros
alone = sae.encode(world.dictionary)  # (n_feat, d_sae), each feature alone with strength 1
bias = float(metrics.relative_reconstruction_bias(test.x, sae.decode(code)))
print(f"strong features lose {loss_of_strength:.3f} on average; λ/2 is {L1 / 2}; reconstruction bias {bias:.3f}")

shown = np.random.default_rng(2).choice(np.flatnonzero(true > 0), 3000, replace=False)  # (3000,)
fig, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
ax.plot(
    true.ravel()[shown], got.ravel()[shown], ".", color=BLUE, markersize=2, alpha=0.5, label="latent and its feature"
)
ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
ax.plot([L1 / 2, 1], [0, 1 - L1 / 2], color=ORANGE, linestyle="--", label="less λ/2")
ax.set(xlabel="true strength", ylabel="code f of the matched latent", title="the code is too small")
ax.legend(markerscale=5)
show(fig, "5_shrinkage")

assert L1 / 2 < loss_of_strength < 2 * L1
assert np.median(held_back[pairs.latents]) < -L1 / 2
together = ((sae.decode(alone) - sae.params["b_dec"]) * world.dictionary).sum(axis=1)  # (n_feat,)
assert alone[pairs.features, pairs.latents].min() < 0.6, "a feature that two latents share:"
assert together.min() > 0.6, "the two together say more of it"
assert bias < 0.95, "below 1: the reconstruction is too short"

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: one matrix used twice.** Tie the two matrices of an SAE: ``f = max(x @ W.T + b, 0)``, ``x_hat = f @ W``,
# with W (d_sae, d_in), and the same loss. Derive the gradients of W and b.


def tied_gradient(W, b, x, l1):
    """Return d_W (d_sae, d_in) and d_b (d_sae,)."""
    # solution:
    pre = x @ W.T + b  # (n, d_sae)
    f = np.maximum(pre, 0)  # (n, d_sae)
    d_x_hat = 2 * (f @ W - x) / len(x)  # (n, d_in)
    d_pre = (d_x_hat @ W.T + l1 / len(x)) * (pre > 0)  # (n, d_sae)
    return f.T @ d_x_hat + d_pre.T @ x, d_pre.sum(axis=0)
    # end


def check_tied_gradient(answer):
    rng = np.random.default_rng(7)
    p = {"W": rng.standard_normal((11, 5)), "b": rng.standard_normal(11)}
    x = rng.standard_normal((7, 5))  # (n, d_in)

    def tied_loss(p):
        f = np.maximum(x @ p["W"].T + p["b"], 0)  # (n, d_sae)
        return float(((f @ p["W"] - x) ** 2).sum() + 0.3 * f.sum()) / len(x)

    d_W, d_b = answer(p["W"], p["b"], x, 0.3)
    for check in check_gradients(tied_loss, p, {"W": d_W, "b": d_b}):
        assert check.error < 1e-6, f"d_{check.name} is wrong, most of all at {check.worst}"


check_tied_gradient(tied_gradient)

# %%
# **Exercise 2: find λ without looking at the truth.** Suppose you know one thing of the world: about two features are
# present per row. Find a λ at which the SAE's L0 on new rows is within a fifth of that. ``l0_at(l1)`` trains for you
# (two seconds) and returns the L0. The check trains once more and looks at the coverage, which you did not.


def l0_at(l1):
    """Train an SAE with this λ and return the L0 on new rows."""
    return metrics.l0(quick_sae(l1).encode(test.x))


def quick_sae(l1):
    return minisae.train(
        synthetic.SyntheticSource(world),
        variant="relu", d_sae=60, l1=l1, steps=2500, batch_size=512, lr=3e-3, seed=SEED + 1,
    )  # fmt: skip


def choose_l1(l0_at):
    """Return a λ at which ``l0_at`` is within a fifth of 2."""
    # solution:
    low, high = 0.1, 1.0
    while True:
        middle = (low * high) ** 0.5
        l0 = l0_at(middle)
        if abs(l0 - 2) < 0.3:
            return middle
        low, high = (middle, high) if l0 > 2 else (low, middle)
    # end


def check_choose_l1(answer):
    chosen = quick_sae(answer(l0_at))
    l0 = metrics.l0(chosen.encode(test.x))
    assert 1.6 <= l0 <= 2.4, f"L0 is {l0:.2f}, not about 2"
    assert metrics.coverage(world.dictionary, chosen.params["W_dec"]) >= 0.9, "too few features found"


check_choose_l1(choose_l1)

# %%
# **Exercise 3: undo the shrinkage.** Trust the SAE with *which* latents are on, not with *how much*. Given rows ``x``,
# their code ``f`` and the decoder, return a better code: no latent on that was off, and 30 % less squared error or
# better.


def refit(x, f, W_dec, b_dec):
    """Return a code (n, d_sae) that is zero wherever f is."""
    # solution:
    better = np.zeros_like(f)  # (n, d_sae)
    for i, on in enumerate(f > 0):
        better[i, on] = np.linalg.lstsq(W_dec[on].T, x[i] - b_dec, rcond=None)[0]
    return better
    # end


def check_refit(answer):
    x = test.x[:500]  # (n, d_in)
    f = sae.encode(x)  # (n, d_sae)
    better = answer(x, f.copy(), sae.params["W_dec"], sae.params["b_dec"])  # (n, d_sae)
    assert not ((better != 0) & (f == 0)).any(), "a latent is on that was off"
    before = float(metrics.squared_error_per_row(x, sae.decode(f)))
    after = float(metrics.squared_error_per_row(x, sae.decode(better)))
    print(f"squared error per row: {before:.4f} as trained, {after:.4f} refitted")
    assert after < 0.7 * before, f"the error is {after:.4f}, it was {before:.4f}"


check_refit(refit)
