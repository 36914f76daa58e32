"""
Lesson 7: dead latents
======================

**What you do.** Kill the latents of a sparse autoencoder (SAE) in two ways, look at what happens to them, and bring
them back with each of the published remedies.

**What you learn.** Why a latent that never fires cannot learn; that there are two ways to die, being silenced and being
outcompeted; what resampling, ghost gradients and AuxK do for each; and that a latent that fires again has not yet found
anything.

**What you need.** Lesson 6. About 45 seconds on one CPU core. Run it with
``python lessons/07_dead_latents.py``: pictures open in windows, and the lesson goes on when you close one. With
``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Sources: Bricken et al. 2023, "Towards Monosemanticity" (resampling); ARENA, "SAEs in toy models" (its two resamplers);
Jermyn and Templeton 2024, Anthropic's January 2024 update (ghost gradients); Gao et al. 2024, "Scaling and evaluating
sparse autoencoders" (TopK, AuxK, b_dec at the geometric median).
"""

# %%
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import losses, metrics, synthetic
from minisae.ops import geometric_median
from minisae.recipe import Recipe
from minisae.sae import VARIANTS, relu, topk
from minisae.train import fit, start

SEED = 0
COLOURS = ("#000000", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#D55E00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"07_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **The world** is as in lesson 6, with 80 features in 40 dimensions, about 2.4 of them per row. The SAEs have 80
# latents: one for each feature, none to spare, so every dead latent is a feature lost. A latent is *dead* here if it
# is silent on 50 000 new rows, in which its feature would have come 1500 times.

N_FEAT, D_IN, D_SAE = 80, 40, 80
world = synthetic.make(n_feat=N_FEAT, d_in=D_IN, p=0.03, seed=SEED)
rows = synthetic.SyntheticSource(world)
test = synthetic.sample(world, 50_000, np.random.default_rng(1)).x  # (n, d_in)


def silent(variant, params, cfg, x=test):
    """Which latents are silent on all rows of x: bool (d_sae,)."""
    return metrics.firing_counts(VARIANTS[variant].encode(params, x, cfg)) == 0


def marks(variant, params, cfg, x=test):
    """Dead share, coverage of the truth, R²."""
    module = VARIANTS[variant]
    r2 = float(metrics.pooled_r2(x, module.decode(params, module.encode(params, x, cfg))))
    return float(silent(variant, params, cfg, x).mean()), metrics.coverage(world.dictionary, params["W_dec"]), r2


# %%
# **A bad morning.** We train a ReLU SAE for 300 steps at a learning rate of 0.1, far too high. Adam moves every entry
# of every parameter by about that much in a step. The penalty λ pulls ``b_enc`` down in the same direction each time,
# and the encoder's rows are thrown about; ``pre`` of a latent on all rows, its whole distribution, slides below zero.

cfg = relu.Config(d_in=D_IN, d_sae=D_SAE, l1=0.3)
MORNING = Recipe(steps=300, lr=0.1, lr_decay="constant", batch_size=512, seed=SEED)


def morning(upto):
    """The run after the first steps of the bad morning."""
    return fit(start(rows, "relu", cfg, MORNING._replace(steps=upto)), rows)


moments = (1, 20, 100, 300)
states = {step: morning(step).params for step in moments}
pre = {step: relu.forward(p, test, cfg)[0].pre for step, p in states.items()}
share = {step: float(silent("relu", p, cfg).mean()) for step, p in states.items()}
gone = np.flatnonzero(silent("relu", states[300], cfg))  # (n_dead,)
print("dead after each of the first steps:", {step: f"{s:.0%}" for step, s in share.items()})

fig, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained", sharex=True, sharey=True)
for ax, step in zip(axes, moments, strict=True):
    values = pre[step][:, gone[0]]  # (n,)
    ax.hist(values, bins=60, color=COLOURS[3])
    ax.axvline(0, color=COLOURS[5], linestyle="--")
    ax.set(title=f"step {step}: fires on {(values > 0).mean():.1%}", xlabel="pre", yscale="log")
axes[0].set_ylabel("rows")
fig.suptitle(f"latent {gone[0]} on 50 000 rows: only what lies right of the dashed line fires")
show(fig, "1_silenced")

assert share[1] == 0, "everybody begins alive"
assert share[300] > 0.25
assert pre[300][:, gone].max() < 0 < pre[1][:, gone].max()
assert pre[1][:, gone].mean() - pre[300][:, gone].mean() > 0.5, "their whole distribution went down"

# %%
# **Why they stay dead.** Lesson 6, step 3: ``d_pre = d_f * (pre > 0)``. Where pre is never above zero, d_pre is zero,
# so are the gradients of W_enc and b_enc, and with f = 0 also that of W_dec. Exactly zero, at any learning rate. The
# latent itself can do nothing any more; only a move of ``b_dec``, which shifts every pre, might wake it by chance.

params = states[300]
out, cache = relu.forward(params, test, cfg)
slopes = losses.gather(relu.objective(params, out, test, cfg))[1]
grads = relu.backward(params, cache, cfg, slopes)
size = np.abs(grads["W_enc"]).sum(axis=0) + np.abs(grads["W_dec"]).sum(axis=1) + np.abs(grads["b_enc"])  # (d_sae,)

assert (size[gone] == 0).all()
assert (np.delete(size, gone) > 0).all()

# %%
# **What makes it worse?** The size of the steps, and the penalty. Six SAEs, 1000 steps each.

rates, penalties = (0.003, 0.03, 0.1), (0.1, 0.5)
table = np.zeros((2, 3))  # (2, 3)
for i, l1 in enumerate(penalties):
    for j, lr in enumerate(rates):
        sae = minisae.train(rows, variant="relu", d_sae=D_SAE, l1=l1, lr=lr, steps=1000, batch_size=512, seed=SEED)
        table[i, j] = silent("relu", sae.params, sae.cfg).mean()
    print(f"λ {l1}: " + ", ".join(f"lr {lr} {s:.0%}" for lr, s in zip(rates, table[i], strict=True)) + " dead")

assert (table[:, 0] < 0.1).all()
assert (table[:, 2] > 0.2).all()
assert table[1, 1] > table[0, 1] + 0.1

# %%
# **The day after.** From the bad morning on we train for 2000 steps at a sane rate, 0.003, with each remedy. Three of
# them *resample*: every 250 steps the latents that were silent for 25 000 rows get a new start, b_enc at 0 and
#
# - ``arena_simple``: a random direction;
# - ``arena_advanced``: the direction of a row of the batch that is badly reconstructed (less b_dec);
# - ``bricken``: of a badly reconstructed row out of a large sample; Adam forgets what it knew of the latent.
#
# *Ghost gradients* leave the weights alone and add a loss: the dead latents, with exp(pre) in place of max(pre, 0), are
# to reconstruct what the living ones missed. exp has a slope everywhere, so there is a gradient.

EVERY = {"resample_every": 250, "resample_rows": 8192, "resample_until": 1000, "resample_after": 25_000}
REMEDIES = {
    "none": {},
    "arena_simple": {"resample": "arena_simple", **EVERY},
    "arena_advanced": {"resample": "arena_advanced", **EVERY},
    "bricken": {"resample": "bricken", **EVERY},
    "ghost": {"ghost": True},
}


def day_after(remedy, steps=2000):
    """Train on at a sane rate; return the final run and its records."""
    records = []
    recipe = Recipe(steps=300 + steps, lr=0.003, batch_size=512, seed=SEED, log_every=50, dead_after=25_000, **remedy)
    run = fit(morning(300)._replace(recipe=recipe), rows, hooks=[lambda run, record: records.append(record)])
    return run, records


def picture(curves, title, name):
    """Dead share against step for each remedy."""
    fig, ax = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for (label, records), colour, dash in zip(curves.items(), COLOURS, DASHES, strict=False):
        steps = [r["step"] for r in records]
        ax.plot(steps, [r["dead"] / D_SAE for r in records], color=colour, linestyle=dash, linewidth=1.8, label=label)
    ax.set(xlabel="step", ylabel="share silent for 25 000 rows", ylim=(0, None), title=title)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    show(fig, name)


curves, relu_marks = {}, {}
for name, remedy in REMEDIES.items():
    run, curves[name] = day_after(remedy)
    relu_marks[name] = marks("relu", run.params, cfg)
    again = curves[name][-1]["resampled"]
    print("{:15} dead {:4.0%}  coverage {:.2f}  R² {:.2f}  resampled {}".format(name, *relu_marks[name], again))
picture(curves, "ReLU SAE: what each remedy does\nafter 300 steps at a far too high learning rate", "2_remedies")

# %%
# What you should see. Left alone, as many are dead in the evening as after the morning: the sane rate comes too late.
# All remedies bring the number down. But look at the coverage, which counts features *found*. Resampled latents get a
# direction and a bias to begin with, and most of them find a feature. Latents that ghost gradients woke fire again,
# and hardly any found a feature in this time: **a low dead count is not a goal by itself.**

assert relu_marks["none"][0] > 0.85 * share[300]
for name in ("arena_simple", "arena_advanced", "bricken", "ghost"):
    assert relu_marks[name][0] < 0.7 * relu_marks["none"][0], name
for name in ("arena_simple", "arena_advanced", "bricken"):
    assert relu_marks[name][1] > relu_marks["none"][1] + 0.3, name
    assert relu_marks[name][2] > relu_marks["none"][2] + 0.1, name
    assert relu_marks[name][1] > relu_marks["ghost"][1] + 0.2, name
assert relu_marks["ghost"][1] < relu_marks["none"][1] + 0.2

# %%
# **The other way to die: outcompeted.** TopK lets the k largest of each row through. A latent can have ``pre > 0`` all
# day and still never be among them. Here is how that comes about in real models: activations have a large mean that
# is the same in every row. Add an offset of norm 4 to our rows, and use an SAE that does not subtract ``b_dec`` from
# its input. The few latents that happen to point along the offset win in every row.

shifted = synthetic.make(n_feat=N_FEAT, d_in=D_IN, p=0.03, seed=SEED, bias=4.0)  # the same dictionary
shifted_rows = synthetic.SyntheticSource(shifted)
shifted_test = test + shifted.bias  # (n, d_in)


def train_topk(subtract_b_dec, auxk, **options):
    """Train on the shifted rows; return the SAE and its records."""
    records = []
    trained = minisae.train(
        shifted_rows, variant="topk", d_sae=D_SAE, k=3, steps=2000, batch_size=512, lr=0.003, seed=SEED,
        options={"subtract_b_dec": subtract_b_dec, "auxk": auxk, "dead_after": 25_000, "log_every": 50, **options},
        hooks=[lambda run, record: records.append(record)],
    )  # fmt: skip
    return trained, records


TOPK = {
    "none": (False, 0.0, {}),
    "bricken": (False, 0.0, {"resample": "bricken", **EVERY}),
    "AuxK": (False, 1 / 32, {}),
    "b_dec": (True, 0.0, {}),
    "b_dec + AuxK": (True, 1 / 32, {}),
}
topk_curves, topk_marks, topk_saes = {}, {}, {}
for name, (subtract, auxk, options) in TOPK.items():
    topk_saes[name], topk_curves[name] = train_topk(subtract, auxk, **options)
    topk_marks[name] = marks("topk", topk_saes[name].params, topk_saes[name].cfg, shifted_test)
    print("{:15} dead {:4.0%}  coverage {:.2f}  R² {:.2f}".format(name, *topk_marks[name]))
picture(topk_curves, "TopK SAE on rows with an offset", "3_topk")

# %%
# Look at the largest pre of each dead latent over all rows. After the bad morning it is below zero for all of them:
# they are silenced. With the offset it is above zero for more than half: these are outcompeted. The others point away
# from the offset, which silences them. Where b_dec was subtracted, those that died are outcompeted, nearly all.


def highest_pre(trained):
    """Which latents are dead (d_sae,), and the largest pre of each of these (n_dead,)."""
    mask = silent("topk", trained.params, trained.cfg, shifted_test)  # (d_sae,)
    return mask, topk.forward(trained.params, shifted_test, trained.cfg)[0].pre[:, mask].max(axis=0)


died, highest = highest_pre(topk_saes["none"])
groups = {
    "ReLU, bad morning": pre[300][:, gone].max(axis=0),
    "TopK, offset": highest,
    "TopK, b_dec subtracted": highest_pre(topk_saes["b_dec"])[1],
}
fig, ax = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
ax.axvline(0, color=COLOURS[5], linestyle="--")
for y, values in enumerate(groups.values()):
    ax.plot(values, np.full(len(values), y), "o", color=COLOURS[3], alpha=0.5)
ax.set_yticks(range(3), labels=list(groups))
ax.set(xlabel="largest pre over 50 000 rows; one dot is one dead latent", title="two ways to be dead", ylim=(2.6, -0.6))
ax.annotate(
    "silenced", (0, 1.02), xycoords=("data", "axes fraction"), xytext=(-6, -14), textcoords="offset points", ha="right"
)
ax.annotate("outcompeted", (0, 1.02), xycoords=("data", "axes fraction"), xytext=(6, -14), textcoords="offset points")
show(fig, "4_two_ways")

assert groups["ReLU, bad morning"].max() < 0
assert 0.5 < (highest > 0).mean() < 0.95
assert (groups["TopK, b_dec subtracted"] > 0).mean() > 0.7

# %%
# **What each remedy can reach.** AuxK lets the dead latents alone, the k_aux largest of them in each row, reconstruct
# what the others missed. It is a TopK too, with a ReLU behind it: so it has a gradient for the outcompeted, and for the
# silenced none at all. Ghost gradients reach both. Count the dead latents whose b_enc gets a gradient.


def reached(params, x, mask, subtract, ghost):
    """Share of the latents in mask that get a gradient from ghost gradients, or from AuxK."""
    cfg = topk.Config(d_in=D_IN, d_sae=D_SAE, k=3, subtract_b_dec=subtract)
    out, cache = topk.forward(params, x, cfg, dead=mask)
    if ghost:
        term = losses.ghost(out.pre, out.x_hat, x, params["W_dec"], mask)
    else:
        term = losses.aux_k(out.aux, out.x_hat, x, mask.any(), coefficient=1 / 32)
    return float((topk.backward(params, cache, cfg, term.slopes)["b_enc"][mask] != 0).mean())


silenced = np.isin(np.arange(D_SAE), gone)  # (d_sae,)
outcompeted = died.copy()  # (d_sae,)
outcompeted[died] = highest > 0
loser = topk_saes["none"].params
reach = {
    (way, remedy): reached(p, x, mask, subtract, remedy == "ghost")
    for way, p, x, mask, subtract in (
        ("silenced", params, test, silenced, True),
        ("outcompeted", loser, shifted_test, outcompeted, False),
    )
    for remedy in ("AuxK", "ghost")
}
for (way, remedy), s in reach.items():
    print(f"{remedy:5} reaches {s:4.0%} of the {way}")

assert reach["silenced", "AuxK"] == 0
assert reach["outcompeted", "AuxK"] == 1
assert reach["silenced", "ghost"] > 0.9
assert reach["outcompeted", "ghost"] > 0.9

# %%
# Back to the TopK table. Resampling ran and did not help: the new directions are rows, rows are mostly offset, so all
# newcomers point the same way and are beaten again. AuxK brings back more than a third of the dead and raises the
# coverage by more than half. Best is not to need it: subtract ``b_dec``, started at the geometric median of the rows;
# what is left AuxK takes care of.

assert topk_marks["none"][0] > 0.3
assert topk_curves["bricken"][-1]["resampled"] > 50
assert topk_marks["bricken"][0] > 0.8 * topk_marks["none"][0]
assert topk_marks["AuxK"][0] < 0.67 * topk_marks["none"][0]
assert topk_marks["AuxK"][1] > 1.6 * topk_marks["none"][1]
assert topk_marks["b_dec"][0] < 0.15
assert topk_marks["b_dec"][1] > topk_marks["AuxK"][1] + 0.15
assert topk_marks["b_dec + AuxK"][0] < topk_marks["b_dec"][0]
assert topk_marks["b_dec + AuxK"][1] > topk_marks["b_dec"][1]

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
#
# **Exercise 1: who cannot learn any more?** Given the parameters of a ReLU SAE and rows x, name the latents that get no
# gradient from these rows, without computing a gradient.


def cannot_learn(params, x):
    """Return bool (d_sae,)."""
    # solution:
    pre = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]  # (n, d_sae)
    return ~(pre > 0).any(axis=0)
    # end


def check_cannot_learn(answer):
    for step in (100, 300):
        x = synthetic.sample(world, 300, np.random.default_rng(step)).x  # (n, d_in)
        p = states[step]
        out, cache = relu.forward(p, x, cfg)
        grads = relu.backward(p, cache, cfg, losses.gather(relu.objective(p, out, x, cfg))[1])
        still = (grads["b_enc"] == 0) & (grads["W_dec"] == 0).all(axis=1)  # (d_sae,)
        assert 0 < still.sum() < D_SAE
        wrong = np.flatnonzero(still != answer(p, x))  # (n_wrong,)
        assert not len(wrong), f"wrong about {len(wrong)} of {D_SAE} latents, first {wrong[:3]}"


check_cannot_learn(cannot_learn)

# %%
# **Exercise 2: your own resampling.** Give the dead latents a new start, in place. ``x`` is a sample of rows. The check
# wants that living latents are left as they are and that decoder rows have unit norm; then it trains for 1500 steps and
# wants at most half as many dead as before, and twice the coverage of doing nothing.


def revive(params, dead, x):
    """Change the latents in ``dead``, bool (d_sae,), in place."""
    # solution:
    error = ((x - relu.decode(params, relu.encode(params, x, cfg))) ** 2).sum(axis=1)  # (n,)
    worst = np.argsort(-error)[: dead.sum()]  # (n_dead,)
    directions = x[worst] - params["b_dec"]  # (n_dead, d_in)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    params["W_dec"][dead] = directions
    params["W_enc"][:, dead] = directions.T
    params["b_enc"][dead] = 0
    # end


def check_revive(answer):
    sample = synthetic.sample(world, 8192, np.random.default_rng(5)).x  # (n, d_in)
    run = day_after({}, steps=300)[0]  # 300 sane steps later
    mask = silent("relu", run.params, cfg)  # (d_sae,)

    def living(p):
        return np.hstack([p["W_dec"][~mask], p["W_enc"].T[~mask], p["b_enc"][~mask, None]])

    before = living(run.params)  # (n_alive, 2*d_in+1)
    answer(run.params, mask, sample)
    assert (living(run.params) == before).all(), "a living latent was changed"
    assert np.allclose(np.linalg.norm(run.params["W_dec"], axis=1), 1, atol=1e-4), "decoder rows need unit norm"
    recipe = run.recipe._replace(steps=run.step + 1500)
    after = marks("relu", fit(run._replace(recipe=recipe), rows).params, cfg)
    assert after[0] <= mask.mean() / 2, f"{after[0]:.0%} dead; there were {mask.mean():.0%}"
    assert after[1] >= 2 * relu_marks["none"][1], f"coverage is only {after[1]:.2f}"


check_revive(revive)

# %%
# **Exercise 3: find the centre.** Rows of a real model hold a few giants: the first position of a text can be a hundred
# times as long as the others. Here 3 % of the rows are such. Find the point to subtract, so that an SAE trained
# *without* b_dec subtraction and without AuxK keeps at least 85 % of its latents. The mean will not do.


def centre(x):
    """Return the point (d_in,) to subtract from rows x (n, d_in)."""
    # solution:
    return geometric_median(x)
    # end


def check_centre(answer):
    rng = np.random.default_rng(SEED)
    x = synthetic.sample(shifted, 8192, rng).x  # (n, d_in)
    giants = rng.choice(len(x), 246, replace=False)  # (n_giants,)
    x[giants] += 100 * metrics.unit_rows(rng.standard_normal((1, D_IN)))
    moved = synthetic.sample(shifted, 200_000, rng).x - answer(x)  # (n_train, d_in)
    trained = minisae.train(
        moved, variant="topk", d_sae=D_SAE, k=3, steps=1200, batch_size=512, lr=0.003, seed=SEED,
        options={"subtract_b_dec": False, "auxk": 0.0},
    )  # fmt: skip
    share = silent("topk", trained.params, trained.cfg, moved[:50_000]).mean()
    assert share <= 0.15, f"{share:.0%} of the latents are dead"


check_centre(centre)
