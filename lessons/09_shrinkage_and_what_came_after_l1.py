"""
Lesson 9: shrinkage, and what came after L1
===========================================

**What you do.** Work out on paper what an L1 penalty does to a latent's strength, measure it in a trained sparse
autoencoder (SAE) whose true features you know, and train the two successors that were made against it: the gated SAE
and JumpReLU.

**What you learn.** Why L1 makes every code too small, and how much of the reconstruction error is nothing but that;
why a penalty on the *number* of active latents does not; how the gated SAE separates "is it there" from "how strongly";
and what a threshold with a jump can do that a bias cannot.

**What you need.** Lesson 6. About 50 seconds on one CPU core. Run it with
``python lessons/09_shrinkage_and_what_came_after_l1.py``: pictures open in windows, and the lesson goes on when you
close one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Sources: Bricken et al. 2023, "Towards Monosemanticity" (L1); Rajamanoharan et al. 2024, "Improving Dictionary Learning
with Gated Sparse Autoencoders" (shrinkage, the relative reconstruction bias, the gated SAE); Rajamanoharan et al. 2024,
"Jumping Ahead" (JumpReLU).
"""

# %%
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import metrics, synthetic
from minisae.sae import gated, jumprelu
from minisae.verify import check_gradients

SEED = 0
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
STYLE = {"relu": (BLUE, "o", "-"), "gated": (ORANGE, "s", "--"), "jumprelu": (GREEN, "^", "-.")}


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"09_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **One latent, on paper.** A row holds one feature of strength a, and one latent points along it. It may choose its
# code f ≥ 0. It pays for the error, and a penalty:
#
#     L1       (f - a)**2 + l * f              least at  f = max(a - l/2, 0)        everything is moved down by l/2
#     L0       (f - a)**2 + l * (f > 0)        least at  f = a  if a**2 > l, else 0     nothing is moved
#     in between, f**p with p below 1
#
# With L0 the latent asks one question, "is it worth l to be on?", and if it is, tells the whole truth.

STRENGTHS = np.linspace(0, 1, 201)
CHOICES = np.linspace(0, 1, 2001)
PRICE = 0.2
PENALTIES = {"L1": lambda f: PRICE * f, "f^0.5": lambda f: PRICE * f**0.5, "L0": lambda f: PRICE * (f > 0)}


def best_codes(penalty):
    """The cheapest code for each strength (201,), by trying 2001 of them."""
    cost = (CHOICES - STRENGTHS[:, None]) ** 2 + penalty(CHOICES)  # (201, 2001)
    return CHOICES[cost.argmin(axis=1)]


answers = {name: best_codes(penalty) for name, penalty in PENALTIES.items()}
fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
ax.plot(STRENGTHS, STRENGTHS, color=GREY, linestyle=":", label="the truth")
for (name, answer), (colour, _, dash) in zip(answers.items(), STYLE.values(), strict=True):
    ax.plot(STRENGTHS, answer, color=colour, linestyle=dash, label=name)
ax.set(xlabel="strength a of the feature", ylabel="cheapest code f", title=f"what each penalty asks for, price {PRICE}")
ax.legend()
show(fig, "1_on_paper")

np.testing.assert_allclose(answers["L1"], np.maximum(STRENGTHS - PRICE / 2, 0), atol=1e-3)
above = STRENGTHS > PRICE**0.5 + 0.01  # (201,)
np.testing.assert_allclose(answers["L0"][above], STRENGTHS[above], atol=1e-3)
assert (answers["L0"][STRENGTHS < PRICE**0.5 - 0.01] == 0).all()
assert 0 < (STRENGTHS - answers["f^0.5"])[-1] < PRICE / 2, "in between: less is lost where the feature is strong"

# %%
# **The world** is that of lesson 7: 80 features in 40 dimensions, about 2.4 of them per row, strengths between 0 and 1.
# The SAEs have 80 latents.

N_FEAT, D_IN = 80, 40
world = synthetic.make(n_feat=N_FEAT, d_in=D_IN, p=0.03, seed=SEED)
rows = synthetic.SyntheticSource(world)
test = synthetic.sample(world, 20_000, np.random.default_rng(1))
present = float((test.f > 0).sum(axis=1).mean())


def trained(variant, l1):
    """An SAE with this penalty; JumpReLU's bandwidth and first threshold suit the strengths (see lesson 11)."""
    options = {"bandwidth": 0.2, "first_threshold": 0.1, "sparsity_warmup": 1000} if variant == "jumprelu" else {}
    return minisae.train(
        rows, variant=variant, d_sae=N_FEAT, l1=l1, steps=3000, batch_size=512, lr=3e-3, seed=SEED, options=options
    )


def marks(sae):
    """L0, R², relative reconstruction bias, coverage of the truth."""
    code = sae.encode(test.x)  # (n, d_sae)
    x_hat = sae.decode(code)  # (n, d_in)
    return (
        metrics.l0(code),
        float(metrics.pooled_r2(test.x, x_hat)),
        float(metrics.relative_reconstruction_bias(test.x, x_hat)),
        metrics.coverage(world.dictionary, sae.params["W_dec"]),
    )


# %%
# The *relative reconstruction bias* of the gated paper (its section 3.1) is one number for shrinkage: the factor by
# which reconstructions are too short. Precisely, the γ for which x_hat / γ comes closest to x. At 1 nothing shrinks.

LAMBDAS = {"relu": (0.2, 0.3, 0.4), "gated": (0.2, 0.3, 0.4), "jumprelu": (0.007, 0.01, 0.02)}
saes = {(variant, l1): trained(variant, l1) for variant, l1s in LAMBDAS.items() for l1 in l1s}
table = {key: marks(sae) for key, sae in saes.items()}
for (variant, l1), (l0, r2, bias, found) in table.items():
    print(f"{variant:9} λ {l1:5}: L0 {l0:.2f}  R² {r2:.3f}  bias {bias:.3f}  coverage {found:.2f}")

fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
for variant, (colour, mark, dash) in STYLE.items():
    l0, r2, bias, _ = np.transpose([table[variant, l1] for l1 in LAMBDAS[variant]])  # (3,)
    for ax, values in zip(axes, (bias, r2), strict=True):
        ax.plot(l0, values, marker=mark, color=colour, linestyle=dash, label=variant)
for ax in axes:
    ax.axvline(present, color=GREY, linestyle=":", label="features present")
    ax.set(xlabel="active latents per row (L0)")
axes[0].set(ylabel="relative reconstruction bias", title="how long reconstructions are")
axes[1].set(ylabel="R²", title="how good they are")
axes[1].legend(loc="lower right")
show(fig, "2_three_penalties")

relu_bias = [table["relu", l1][2] for l1 in LAMBDAS["relu"]]
assert relu_bias == sorted(relu_bias, reverse=True), "the sparser, the shorter"
assert relu_bias[-1] < 0.8
for (variant, _), (_, _, bias, _) in table.items():
    assert variant == "relu" or 0.99 < bias < 1.01, "the other two do not shrink"

# %%
# What you should see: the ReLU SAE pays for sparsity with length. At the largest λ, with about as many active latents
# as features, its reconstructions are a quarter too short; those of the other two have the right length, and their R²
# is higher by 0.11. But look at the coverage: **L1 finds nearly as many features. What it gets wrong is how strongly
# they are there.**

shrunk, gate, jump = saes["relu", 0.4], saes["gated", 0.4], saes["jumprelu", 0.01]
l0s, r2s, biases, found = np.transpose([table["relu", 0.4], table["gated", 0.4], table["jumprelu", 0.01]])  # (3,)
assert np.ptp(l0s) < 0.3, "three SAEs about equally sparse"
assert r2s[1:].min() - r2s[0] > 0.08
assert found.min() > 0.9

# %%
# **Latent by latent.** Match latents with features, and look at strong ones: the ReLU SAE's cloud lies below the
# diagonal, by more than λ/2. (More, because a bias that holds a latent back against its neighbours moves it down too.
# Lesson 6 has the details.) The other clouds lie close to the diagonal.


def strengths(sae):
    """True strength and code of the features that were found, where both are on: (n_pairs,) each."""
    pairs = metrics.matched_pairs(world.dictionary, sae.params["W_dec"])
    good = pairs.cosines > 0.9  # (n_feat,)
    true, got = test.f[:, pairs.features[good]], sae.encode(test.x)[:, pairs.latents[good]]  # (n, n_good) each
    on = (true > 0.3) & (got > 0)  # (n, n_good)
    return true[on], got[on]


seen = {"relu": strengths(shrunk), "gated": strengths(gate), "jumprelu": strengths(jump)}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), layout="constrained", sharex=True, sharey=True)
for ax, (variant, (true, got)) in zip(axes, seen.items(), strict=True):
    ax.plot(true[:2000], got[:2000], ".", color=STYLE[variant][0], markersize=2, alpha=0.5)
    ax.plot([0.3, 1], [0.3, 1], color="black", linestyle=":")
    ax.set(xlabel="true strength", title=f"{variant}: {np.mean(got - true):+.2f} in the mean", ylim=(0, 1.4))
axes[0].set_ylabel("code of the matched latent")
show(fig, "3_latent_by_latent")

lost = {variant: float(np.mean(true - got)) for variant, (true, got) in seen.items()}
assert lost["relu"] > 0.4 / 2
assert lost["relu"] > 2 * max(lost["gated"], lost["jumprelu"])

# %%
# **How much of the error is shrinkage?** Keep the ReLU SAE's choice of latents in each row and its directions, and
# put the best strengths in, by least squares. What comes back was lost in the strengths alone. Do the same with the
# other two: something comes back there as well, for a latent reads its strength off the row with one fixed direction,
# and its neighbours disturb the reading. That part has nothing to do with the penalty.


def refitted(sae, x):
    """Reconstructions from the same active latents with the best strengths (n, d_in)."""
    W_dec, b_dec = sae.params["W_dec"], sae.params["b_dec"]
    x_hat = np.tile(b_dec, (len(x), 1))  # (n, d_in)
    for row, on in enumerate(sae.encode(x) > 0):
        if on.any():
            x_hat[row] += np.linalg.lstsq(W_dec[on].T, x[row] - b_dec, rcond=None)[0] @ W_dec[on]
    return x_hat


few = test.x[:4000]
bars = {}
for name, sae in (("relu", shrunk), ("gated", gate), ("jumprelu", jump)):
    bars[name] = float(metrics.pooled_r2(few, sae.decode(sae.encode(few))))
    bars[f"{name}, best strengths"] = float(metrics.pooled_r2(few, refitted(sae, few)))
    print(f"{name}: R² {bars[name]:.3f}, with the best strengths {bars[f'{name}, best strengths']:.3f}")

fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
ax.barh(list(bars), [1 - r2 for r2 in bars.values()], color=[BLUE, BLUE, ORANGE, ORANGE, GREEN, GREEN], alpha=0.8)
ax.invert_yaxis()
ax.set(xlabel="share of the variance that is missed, 1 - R²", title="L1's error is mostly the strengths'")
show(fig, "4_refitted")

missed = {name: 1 - r2 for name, r2 in bars.items()}
won = {name: missed[name] - missed[f"{name}, best strengths"] for name in ("relu", "gated", "jumprelu")}
assert won["relu"] > 0.5 * missed["relu"], "more than half of L1's error was the strengths'"
assert won["relu"] > 2.5 * max(won["gated"], won["jumprelu"]), "the others had much less to win back"
gap = missed["relu"] - missed["jumprelu"]
assert missed["relu, best strengths"] - missed["jumprelu, best strengths"] < 0.3 * gap, "and now all three are close"

# %%
# **Gated.** The encoder gets two ways out. One decides, one tells the strength; they share W_enc, up to a factor for
# each latent:
#
#     z    = (x - b_dec) @ W_enc
#     pre  = z + b_enc                           is it there?
#     mag  = exp(r_mag) * z + b_mag              how strongly?
#     f    = (pre > 0) * max(mag, 0)
#
# A step has no slope, so nothing could train the gate. Therefore the gate makes a code of its own, max(pre, 0), which
# pays the L1 penalty, and must reconstruct the row, with a *frozen copy* of the decoder: it may use the dictionary and
# not bend it. The gate's code is shrunken. Nobody minds, for only its sign is used. Where each term's slope arrives:

x = synthetic.sample(world, 512, np.random.default_rng(2)).x.astype(np.float64)
params = {name: p.astype(np.float64) for name, p in gate.params.items()}
out, cache = gated.forward(params, x, gate.cfg)
terms = gated.objective(params, out, x, gate.cfg)
names = ("W_enc", "b_enc", "r_mag", "b_mag", "W_dec", "b_dec")
reach = {}
for name, term in terms.items():
    grads = gated.backward(params, cache, gate.cfg, term.slopes)
    reach[name] = [float(np.abs(grads[key]).max()) > 0 for key in names]
    print(f"{name:4} trains " + ", ".join(key for key, yes in zip(names, reach[name], strict=True) if yes))

gate_code = float(metrics.relative_reconstruction_bias(x, out.aux))
print(f"bias of the gate's own reconstruction {gate_code:.2f}, of the SAE's {biases[1]:.2f}")

magnitude = [names.index("r_mag"), names.index("b_mag")]
assert not any(reach["l1"][i] for i in magnitude), "the penalty never sees the strengths"
assert not reach["mse"][names.index("b_enc")], "and the error never sees the gate"
assert not reach["aux"][names.index("W_dec")], "the frozen copy"
assert gate_code < 0.9

# %%
# **JumpReLU** has no second way. Each latent has a threshold θ, and tells its strength whole or not at all:
# ``f = pre * (pre > θ)``. Its penalty counts active latents. A bias cannot do that: to keep quiet at strengths below
# θ, a ReLU latent must lower its bias by θ, and then every strength is lower by θ.

latent = int(metrics.matched_pairs(world.dictionary, jump.params["W_dec"]).latents[0])
pre = jumprelu.forward(jump.params, test.x, jump.cfg)[0].pre[:, latent]  # (n,)
theta = float(jump.params["threshold"][latent])
feature = int(metrics.matched_pairs(world.dictionary, jump.params["W_dec"]).features[0])
there = test.f[:, feature] > 0  # (n,)
edges = np.linspace(-0.6, 1.1, 69)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
axes[0].hist([pre[~there], pre[there]], bins=edges, stacked=True, color=[GREY, GREEN], label=["without it", "with it"])
axes[0].axvline(theta, color="black", linestyle="--", label=f"θ = {theta:.2f}")
axes[0].set(yscale="log", xlabel="pre", ylabel="rows", title=f"latent {latent}: rows with and without its feature")
axes[0].legend()
grid = np.linspace(-0.2, 1, 601)
axes[1].plot(grid, np.where(grid > theta, grid, 0), color=GREEN, linestyle="-.", label="JumpReLU")
axes[1].plot(grid, np.maximum(grid - theta, 0), color=BLUE, label="ReLU that is quiet below θ")
axes[1].plot([0, 1], [0, 1], color=GREY, linestyle=":", label="the truth")
axes[1].set(xlabel="pre without bias", ylabel="f", title="a jump keeps what is above it")
axes[1].legend()
show(fig, "5_the_jump")

noise = pre[~there]  # (n_without,)
assert (noise > 0).mean() > 0.05, "neighbours often lift pre above 0,"
assert (noise > theta).mean() < 0.5 * (noise > 0).mean(), "and seldom above the threshold"
assert (pre[there & (test.f[:, feature] > 0.3)] > theta).mean() > 0.9

# %%
# **No free lunch.** Nothing above says that gated or JumpReLU latents *mean* more: the coverage was much the same. And
# a penalty on the count is as blind as any other. Ask for fewer active latents than there are features, and latents are
# silent where their feature is there: nobody may shrink, so the weak ones are dropped whole. *Recall* is the share of
# a feature's rows in which its latent speaks.


def recall(sae):
    """Mean over features of the share of their rows in which the latent matched with them is active."""
    report = metrics.recovery_report(world.dictionary, sae.params["W_dec"], test.f, sae.encode(test.x))
    return report["recall_matched"]


scarce = trained("jumprelu", 0.08)
told = {0.01: recall(jump), 0.08: recall(scarce)}
print(f"jumprelu  λ  0.01: L0 {table['jumprelu', 0.01][0]:.2f}  recall {told[0.01]:.2f}")
print(f"jumprelu  λ  0.08: L0 {marks(scarce)[0]:.2f}  recall {told[0.08]:.2f}")
assert marks(scarce)[0] < 0.75 * present
assert told[0.08] < told[0.01] - 0.1

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: two latents for one feature.** Two latents point the same way, and a row has the feature at strength a.
# They may share it, f1 + f2. Under L1 any way of sharing costs the same. How is it under L0, with price l? Return the
# cheapest pair of codes.


def share(a, price):
    """Return (f1, f2), the cheapest codes at strength a under an L0 penalty."""
    # solution:
    return (a, 0.0) if a**2 > price else (0.0, 0.0)
    # end


def check_share(answer):
    codes = np.linspace(0, 1, 101)
    f1, f2 = np.meshgrid(codes, codes)  # (101, 101)
    for a, price in ((0.8, 0.2), (0.5, 0.2), (0.4, 0.2), (0.9, 0.9), (0.7, 0.1)):
        least = ((f1 + f2 - a) ** 2 + price * ((f1 > 0) * 1 + (f2 > 0))).min()
        one, two = answer(a, price)
        cost = (one + two - a) ** 2 + price * ((one > 0) + (two > 0))
        assert cost <= least + 1e-9, f"a = {a}, price {price}: {cost:.3f}; it can be done for {least:.3f}"


check_share(share)

# %%
# **Exercise 2: the gate's gradient.** For the gated SAE above, derive d_pre, the slope of the whole loss at the gate's
# ``pre (n, d_sae)``. Remember what is frozen. You get the rows, the gate's reconstruction ``aux (n, d_in)``, W_dec, λ.


def gate_slope(x, pre, aux, W_dec, l1):
    """Return d_pre (n, d_sae)."""
    # solution:
    d_aux = 2 * (aux - x) / len(x)  # (n, d_in)
    return (d_aux @ W_dec.T + l1 / len(x)) * (pre > 0)
    # end


def check_gate_slope(answer):
    rng = np.random.default_rng(5)
    x, pre = rng.standard_normal((7, 5)), rng.standard_normal((7, 11))  # (n, d_in), (n, d_sae)
    W_dec, b_dec, x_hat = rng.standard_normal((11, 5)), rng.standard_normal(5), rng.standard_normal((7, 5))
    mag = rng.standard_normal((7, 11))  # (n, d_sae)

    def loss(p):
        f_gate = np.maximum(p["pre"], 0)  # (n, d_sae)
        x_hat_ = x_hat + 0 * ((p["pre"] > 0) * mag).sum()  # the main code depends on pre by a step only
        aux = f_gate @ W_dec + b_dec  # (n, d_in)
        return float(((x_hat_ - x) ** 2).sum() + 0.3 * f_gate.sum() + ((aux - x) ** 2).sum()) / len(x)

    slope = answer(x, pre, np.maximum(pre, 0) @ W_dec + b_dec, W_dec, 0.3)
    assert slope is not None, "return an array"
    [check] = check_gradients(loss, {"pre": pre}, {"pre": slope})
    assert check.error < 1e-6, f"wrong, most of all at {check.worst}"


check_gate_slope(gate_slope)

# %%
# **Exercise 3: give the old SAE a jump.** Take the shrunken ReLU SAE and make a JumpReLU SAE of it without training:
# the same latents active in every row, and every active code larger by one number c. (If pre' = pre + c, what must θ
# be?) Find the c that helps most, from the rows x.


def with_a_jump(params, x):
    """Return the parameters of a JumpReLU SAE."""
    # solution:
    code = np.maximum((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"], 0)  # (n, d_sae)
    residual = x - code @ params["W_dec"] - params["b_dec"]  # (n, d_in)
    step = (code > 0) @ params["W_dec"]  # (n, d_in), what c = 1 would add
    c = (residual * step).sum() / (step * step).sum()
    return params | {"b_enc": params["b_enc"] + c, "threshold": np.full_like(params["b_enc"], c)}
    # end


def check_with_a_jump(answer):
    cfg = jumprelu.Config(D_IN, N_FEAT)
    new = minisae.SAE("jumprelu", cfg, answer(dict(shrunk.params), test.x[:5000]), {})
    x = test.x[10_000:]  # (n, d_in)
    old_code, code = shrunk.encode(x), new.encode(x)  # (n, d_sae) each
    changed = float(((old_code > 0) != (code > 0)).mean())
    assert changed < 1e-4, f"{changed:.2%} of the latents were switched on or off"
    r2 = float(metrics.pooled_r2(x, new.decode(code)))
    assert r2 > r2s[0] + 0.6 * (bars["relu, best strengths"] - r2s[0]), f"R² is {r2:.3f}"


check_with_a_jump(with_a_jump)
