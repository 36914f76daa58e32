"""
Lesson 11: straight-through by hand
===================================

**What you do.** Train a threshold, which has no derivative. You find out what "the slope of a step" can mean, derive
the pseudo-derivative of JumpReLU from it, measure how wrong it is for each bandwidth, and then break it in the ways in
which libraries have broken it.

**What you learn.** Why the loss of a batch is a staircase and the loss of the world is not; why a straight-through
estimator is a *measurement* of a density, with a bias and a variance that the bandwidth trades; why a finite-difference
check cannot approve it, and what can; and what goes wrong: empty windows, wide windows, half windows, log thresholds.

**What you need.** Lesson 9 for JumpReLU, and densities from a first course in probability. About 10 seconds on one CPU
core. Run it with ``python lessons/11_straight_through_by_hand.py``: pictures open in windows, and the lesson goes on
when you close one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER
instead.

Sources: Bengio, Léonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons" (the
idea); Rajamanoharan et al. 2024, "Jumping Ahead", sections 3 and 4 (the slope of the expected loss, and the estimator);
Silverman 1986, "Density estimation" (bias, variance and bandwidth). What libraries do: SAELens 6.54,
dictionary_learning 2025-08, overcomplete 0.3.
"""

# %%
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import losses, metrics, synthetic
from minisae.ops.kernels import KERNELS
from minisae.sae import jumprelu
from minisae.verify import check_gradients

SEED = 0
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"11_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **One latent, one number to learn.** A feature is present in 40 % of the rows with a strength a between 0 and 1. The
# latent does not see a, but ``z = a + noise``: its neighbours disturb it. It says ``f = z`` if z is above θ, else 0,
# and pays ``(f - a)**2``, and λ for speaking. Which θ is best? Low, and it speaks for noise. High, and it misses
# much.

LAM, NOISE = 0.05, 0.15


def draw(n, rng):
    """Strengths a (n,) and what the latent sees, z (n,)."""
    a = rng.uniform(0, 1, n) * (rng.random(n) < 0.4)  # (n,)
    return a, a + NOISE * rng.standard_normal(n)


def loss_at(theta, a, z):
    """The mean loss of these rows."""
    on = z > theta  # (n,)
    return float((np.where(on, z - a, -a) ** 2 + LAM * on).mean())


thetas = np.linspace(-0.1, 0.8, 451)
few, many = draw(20, np.random.default_rng(1)), draw(2_000_000, np.random.default_rng(2))


def curve(a, z):
    """The loss at every θ of the grid (451,): rows in order of z, so that one sum serves all."""
    order = np.argsort(z)  # (n,)
    a, z = a[order], z[order]  # (n,) each
    gain = np.append(0, np.cumsum(a**2 - (z - a) ** 2 - LAM))  # (n+1,), what silence costs the rows below
    return ((z - a) ** 2 + LAM).mean() + gain[np.searchsorted(z, thetas, side="right")] / len(z)


staircase, world = curve(*few), curve(*many)
best = float(thetas[world.argmin()])
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.plot(thetas, staircase - staircase.mean(), color=ORANGE, label="20 rows")
ax.plot(thetas, world - world.mean(), color=BLUE, label="2 million rows")
ax.axvline(best, color=GREY, linestyle=":", label=f"best θ = {best:.2f}")
ax.set(xlabel="θ", ylabel="loss, less its mean", title="the loss of a batch is a staircase")
ax.legend()
show(fig, "1_staircase")

assert abs(curve(*few)[200] - loss_at(thetas[200], *few)) < 1e-12
assert len(np.unique(np.round(staircase, 12))) <= 21, "20 rows, 20 steps"
assert 0.2 < best < 0.5

# %%
# **The derivative of the staircase is 0**, except where it jumps, where there is none. It is right, and useless. A
# check by finite differences agrees: with θ between two rows, nothing changes.

params = {"theta": np.array([0.3])}
[check] = check_gradients(lambda p: loss_at(p["theta"][0], *few), params, {"theta": np.zeros(1)})
assert check.error == 0
assert check.kinks == 0

# %%
# **The loss of the world does have a slope.** Move θ up by a little dθ: the rows with z between θ and θ + dθ fall
# silent. There are ``p(θ) dθ`` of them, p the density of z. Each of them now pays a² instead of (θ - a)² + λ. So
#
#     dE[L]/dθ = p(θ) · mean over rows with z = θ of ( a² - (θ - a)² - λ )
#
# It asks for a density at a point, and a mean over rows exactly there. A batch has no row exactly there. What one
# does is what one always does to measure a density: take the rows *near* θ, in a window of width ε, and divide by ε.
# That is the whole trick. In the paper's letters, with the kernel K(u) = 1 for abs(u) < ½,
#
#     ð gate / ð θ = -(1/ε) K((z - θ)/ε)             gate = 1[z > θ]
#     ð f / ð θ    = -(θ/ε) K((z - θ)/ε)             f = z · gate
#
# "ð" says: defined, not derived. Put the chain rule on top and each row in the window votes.

A, Z = draw(400_000, np.random.default_rng(3))


def pseudo_slope(theta, a, z, bandwidth, kernel="rectangle", lam=LAM):
    """Each row's vote on dL/dθ (n,)."""
    k = KERNELS[kernel]((z - theta) / bandwidth) / bandwidth  # (n,)
    d_f = 2 * (np.where(z > theta, z, 0) - a)  # (n,), the error's slope at f
    return -k * (theta * d_f + lam)


AT = 0.6
middle = np.searchsorted(thetas, AT)
true_slope = float((world[middle + 10] - world[middle - 10]) / (thetas[middle + 10] - thetas[middle - 10]))
measured = float(pseudo_slope(thetas[middle], A, Z, 0.1).mean())
print(f"slope at θ = {AT}: {true_slope:.4f} from the curve, {measured:.4f} from the rows in a window of 0.1")
assert abs(measured - true_slope) < 0.02

# %%
# One thing deserves a second look. Half of the rows in the window are silent, and their slope at f is -2a; the other
# half speak, and theirs is 2(z - a). Neither half is right. Their mean is: ½(-2a) + ½ · 2(θ - a) = θ - 2a, and θ
# times that is (θ - a)² - a². The estimator needs *both* sides of the window. Remember that for later.

near = np.abs(Z - AT) < 0.05  # (n,)
votes = pseudo_slope(AT, A, Z, 0.1)  # (n,)
share_above = float((Z[near] > AT).mean())
above, below = (2 * float((votes * side).mean()) for side in (Z > AT, Z <= AT))  # were one half enough
print(f"twice the speaking half {above:+.3f}, twice the silent half {below:+.3f}, truth {true_slope:+.3f}")
assert 0.4 < share_above < 0.6
assert abs(above - true_slope) > 0.1
assert abs(below - true_slope) > 0.1
assert abs((above + below) / 2 - true_slope) < 0.02

# %%
# **The library computes the same.** A JumpReLU SAE with one latent, all weights 1, target a:

cfg = jumprelu.Config(1, 1, l1=LAM, bandwidth=0.1, subtract_b_dec=False)
one = {"W_enc": np.eye(1), "b_enc": np.zeros(1), "W_dec": np.eye(1), "b_dec": np.zeros(1), "threshold": np.full(1, AT)}
out, cache = jumprelu.forward(one, Z[:, None], cfg)
slopes = losses.gather(jumprelu.objective(one, out, A[:, None], cfg))[1]
np.testing.assert_allclose(jumprelu.backward(one, cache, cfg, slopes)["threshold"][0], votes.mean(), rtol=1e-12)

# %%
# **Too narrow, too wide.** With batches of 512 rows, how far is the estimate from the truth? Narrow windows hold few
# rows: it scatters (variance). Wide ones ask rows that have nothing to do with θ: it is wrong in the mean (bias). How
# wrong? Most errors to the left and to the right of θ cancel, and what is left is of the order of ε². One does not: a
# speaking row says z, not θ, and speaking rows are on one side only. That leaves
#
#     bias ≈ -(ε/4) θ (p(θ) + θ p'(θ))
#
# *linear* in ε. (Left of ε = 0.03 the bias drawn below is no bias: two million rows scatter, too.)

BANDWIDTHS = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8])
batches = [slice(i, i + 512) for i in range(0, 400 * 512, 512)]


def errors(bandwidth, kernel="rectangle"):
    """Bias and scatter of the estimate at θ = AT."""
    estimates = [pseudo_slope(AT, A[b], Z[b], bandwidth, kernel).mean() for b in batches]
    mean = float(pseudo_slope(AT, *many, bandwidth, kernel).mean())
    return abs(mean - true_slope), float(np.std(estimates))


bias, scatter = np.transpose([errors(bandwidth) for bandwidth in BANDWIDTHS])  # (n_bandwidths,) each
total = np.hypot(bias, scatter)  # (n_bandwidths,)
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.loglog(BANDWIDTHS, bias, color=ORANGE, marker="s", linestyle="--", label="bias")
ax.loglog(BANDWIDTHS, scatter, color=BLUE, marker="o", linestyle="-.", label="scatter from batch to batch")
ax.loglog(BANDWIDTHS, total, color="black", label="error, both together")
ax.axhline(abs(true_slope), color=GREY, linestyle=":", label="the slope itself")
ax.set(xlabel="bandwidth ε", ylabel="error of the slope", title=f"batches of 512 rows, θ = {AT}")
ax.legend()
show(fig, "2_bias_and_variance")

assert scatter[0] > 5 * scatter[4]
assert bias[-1] > 5 * bias[3]
assert 1.8 < bias[-1] / bias[-2] < 2.6, "twice as wide, twice as wrong"
assert 1.8 < bias[-2] / bias[-3] < 2.6
assert 0 < total.argmin() < len(BANDWIDTHS) - 1, "the best is in between"

# %%
# **Train it.** Plain gradient descent on θ, batches of 512 rows, four bandwidths. The narrow one jitters, and
# arrives; the widest goes to the wrong place, and stays there.

START, RATE, STEPS = 0.7, 0.05, 1500


def train(bandwidth, slope=pseudo_slope):
    """θ after each step (steps,)."""
    rng, theta, path = np.random.default_rng(SEED), START, np.zeros(STEPS)
    for step in range(STEPS):
        theta -= RATE * slope(theta, *draw(512, rng), bandwidth).mean()
        path[step] = theta
    return path


paths = {bandwidth: train(bandwidth) for bandwidth in (0.003, 0.1, 0.4, 1.0)}
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for (bandwidth, path), colour in zip(paths.items(), (GREY, GREEN, BLUE, ORANGE), strict=True):
    ax.plot(path, color=colour, linewidth=1, label=f"ε = {bandwidth}")
ax.axhline(best, color="black", linestyle=":", label="best θ")
ax.set(xlabel="step", ylabel="θ", title="four bandwidths")
ax.legend(loc="upper right")
show(fig, "3_training")

ends = {bandwidth: float(path[-500:].mean()) for bandwidth, path in paths.items()}
print("θ at the end:", {bandwidth: round(end, 3) for bandwidth, end in ends.items()}, f"best {best:.3f}")
assert abs(ends[0.1] - best) < 0.03
assert abs(ends[1.0] - best) > 0.08
assert paths[0.003][-500:].std() > 3 * paths[0.1][-500:].std()

# %%
# **What goes wrong, 1: units.** ε is in the units of the activations. The paper's 0.001 is for rows of mean square
# norm 1. Multiply all activations by 30 and keep ε: the window holds a thirtieth of the rows, and a latent whose
# window is empty gets no gradient at all for θ.

inside = {scale: float((np.abs(scale * Z[:512] - scale * 0.4) < 0.05).mean()) for scale in (1, 30)}
print(f"share of a batch in the window: {inside[1]:.1%}, with activations 30 times as large {inside[30]:.2%}")
assert inside[30] < 0.1 * inside[1]

# %%
# **What goes wrong, 2: half a window.** dictionary_learning's trainer (August 2025) takes the step of ``f`` where the
# paper has the step of ``pre``. Where f is 0, ``(f - θ)/ε`` is out of the window, unless θ < ε/2: then *every* silent
# row is in it. So only the upper half of the window votes on the penalty, which is as if λ were halved; and near
# θ = 0 all silent rows vote at once. Both in numbers:


def on_f(theta, a, z, bandwidth, lam=LAM):
    """The votes with the penalty's window laid over f (n,)."""
    f = np.where(z > theta, z, 0)  # (n,)
    step = (np.abs((f - theta) / bandwidth) < 0.5) / bandwidth  # (n,)
    near = (np.abs((z - theta) / bandwidth) < 0.5) / bandwidth  # (n,)
    return -(near * theta * 2 * (f - a) + step * lam)


def penalty_only(slope, theta):
    """The penalty's share of the slope."""
    return float(slope(theta, A, Z, 0.1).mean() - slope(theta, A, Z, 0.1, lam=0.0).mean())


halved = penalty_only(on_f, 0.4) / penalty_only(pseudo_slope, 0.4)
flooded = penalty_only(on_f, 0.04) / penalty_only(pseudo_slope, 0.04)
half_path = train(0.1, on_f)
print(f"penalty's slope: {halved:.2f} of the right one at θ = 0.4, {flooded:.2f} at θ = 0.04")
print(f"θ at the end: {half_path[-500:].mean():.3f}, with the whole window {ends[0.1]:.3f}")
assert 0.4 < halved < 0.6
assert flooded > 1.3
assert half_path[-500:].mean() < ends[0.1] - 0.02

# %%
# **What goes wrong, 3: kernels that are not 1 in the whole.** Any bump will do for K, if its integral is 1: otherwise
# θ learns at another rate than everything else. overcomplete 0.3 has eight; its Gaussian integrates to ½, its
# Silverman to 2, and its slopes have another 1/ε. Ours are all 1:

u = np.linspace(-60, 60, 1_200_001)
areas = {name: float(kernel(u).sum() * (u[1] - u[0])) for name, kernel in KERNELS.items()}
fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for i, (name, kernel) in enumerate(KERNELS.items()):
    ax.plot(u[585_000:615_001:20], kernel(u[585_000:615_001:20]), color=plt.cm.viridis(i / 7), label=name)
ax.set(xlabel="u = (pre - θ) / ε", ylabel="K(u)", title="eight kernels, each with area 1")
ax.legend(ncols=2, fontsize=8)
show(fig, "4_kernels")

for name, area in areas.items():
    assert abs(area - 1) < (0.01 if name == "cauchy" else 1e-4), "Cauchy's tails reach beyond ±60"

# %%
# **What goes wrong, 4: the logarithm.** The paper trains log θ, so that θ stays positive. Adam moves every parameter
# by about the learning rate a step, whatever the gradient's size. With θ itself that is lr; with the logarithm it is
# lr · θ: a threshold that starts at 0.001 has moved by e in 1/lr steps, and is 0.0027.

steps, lr = 1000, 1e-3
itself, logarithm = 0.001 + steps * lr, 0.001 * np.exp(steps * lr)
print(f"after {steps} steps of Adam at lr {lr}, all uphill: θ = {itself:.3f}, or {logarithm:.4f} in logarithms")
assert itself / logarithm > 300


# %%
# **In an SAE.** The world of lesson 7, JumpReLU, one λ, four bandwidths. The thresholds' first value is 0.1. In narrow
# windows a vote is rare, and then it counts 1/ε: the gradient is 0 in most steps and huge in some, and Adam, which
# divides by a gradient's usual size, makes little of it. After the same 1,500 steps the thresholds have climbed less
# far, and too many latents are active. In the widest window they climb to where they silence features that are there.

model = synthetic.make(n_feat=80, d_in=40, p=0.03, seed=SEED)
test = synthetic.sample(model, 20_000, np.random.default_rng(1))
found = {}
for bandwidth in (0.001, 0.05, 0.2, 1.0):
    sae = minisae.train(
        synthetic.SyntheticSource(model),
        variant="jumprelu", d_sae=80, l1=0.01, steps=1500, batch_size=512, lr=3e-3, seed=SEED,
        options={"bandwidth": bandwidth, "first_threshold": 0.1, "sparsity_warmup": 750},
    )  # fmt: skip
    code = sae.encode(test.x)  # (n, d_sae)
    r2, moved = float(metrics.pooled_r2(test.x, sae.decode(code))), float(np.abs(sae.params["threshold"] - 0.1).mean())
    found[bandwidth] = metrics.l0(code), r2, moved
    print(f"ε {bandwidth:5}: L0 {metrics.l0(code):5.2f}  R² {r2:.3f}  thresholds moved by {moved:.3f}")
best_bandwidth = max(found, key=lambda bandwidth: found[bandwidth][1] - 0.02 * found[bandwidth][0])
assert best_bandwidth == 0.2
assert found[0.001][0] > 1.5 * found[0.2][0], "nearly empty windows: the penalty hardly gets through"
assert found[1.0][1] < found[0.2][1] - 0.1, "too wide: features are lost"

# %%
# **What can approve a pseudo-derivative?** Not finite differences of the loss. Two things: that it equals its stated
# formula, entry by entry, which the library's tests do; and that its *mean over many rows* is the slope of the
# expected loss, up to a bias that goes to 0 with ε. That was the test above. Do it whenever you write one.

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: the threshold's gradient.** For a whole layer: pre (n, d_sae), θ (d_sae,), the slopes at f and at the
# gate (n, d_sae) each, a rectangular kernel. Return d_theta (d_sae,).


def theta_slope(pre, theta, d_f, d_gate, bandwidth):
    """Return d_theta (d_sae,)."""
    # solution:
    near = (np.abs(pre - theta) < bandwidth / 2) / bandwidth  # (n, d_sae)
    return -(near * (theta * d_f + d_gate)).sum(axis=0)
    # end


def check_theta_slope(answer):
    rng = np.random.default_rng(3)
    cfg = jumprelu.Config(5, 11, bandwidth=0.7)
    p = jumprelu.init(cfg, rng, dtype=np.float64) | {"threshold": rng.uniform(0.1, 1, 11)}
    out, cache = jumprelu.forward(p, rng.standard_normal((7, 5)), cfg)
    d_f, d_gate = rng.standard_normal((2, 7, 11))  # (n, d_sae) each
    got = jumprelu.backward(p, cache, cfg, {"f": d_f, "gate": d_gate})["threshold"]  # (d_sae,)
    np.testing.assert_allclose(answer(out.pre, p["threshold"], d_f, d_gate, 0.7), got, rtol=1e-10)


check_theta_slope(theta_slope)

# %%
# **Exercise 2: a kernel of your own.** Write a K(u) that is 0 outside abs(u) < ½, continuous everywhere, symmetric,
# and right: its area must be 1.


def kernel(u):
    """Return K(u), of u's shape."""
    # solution:
    return np.where(np.abs(u) < 0.5, 2 * np.cos(np.pi * u) ** 2, 0)
    # end


def check_kernel(answer):
    grid = np.linspace(-1, 1, 200_001)
    values = np.asarray(answer(grid), float)  # (200_001,)
    assert abs(values.sum() * (grid[1] - grid[0]) - 1) < 1e-3, "its area is not 1"
    assert np.allclose(values, values[::-1]), "it is not symmetric"
    assert not values[np.abs(grid) > 0.5001].any(), "it reaches too far"
    assert np.abs(np.diff(values)).max() < 1e-3, "it jumps"


check_kernel(kernel)

# %%
# **Exercise 3: choose the bandwidth.** You see one batch, z (n,) of 512 rows, and θ. Return a bandwidth at which the
# slope's error is at most 1.5 times the smallest possible. (Start from the spread of z. The scatter falls like
# 1/sqrt(n ε), the bias grows like ε: which power of n makes the sum of their squares least? Silverman's rule for
# densities, whose bias grows like ε², has n^(-1/5).)


def bandwidth_for(z, theta):
    """Return ε."""
    # solution:
    return 5 * np.std(z) * len(z) ** (-1 / 3)
    # end


def check_bandwidth_for(answer):
    rng = np.random.default_rng(11)
    for theta in (0.3, 0.4, 0.5):
        at = np.searchsorted(thetas, theta)
        truth = (world[at + 10] - world[at - 10]) / (thetas[at + 10] - thetas[at - 10])

        def error(bandwidth, theta=theta, truth=truth):
            estimates = [pseudo_slope(theta, A[b], Z[b], bandwidth).mean() for b in batches[:200]]
            return float(np.sqrt(np.mean((np.array(estimates) - truth) ** 2)))

        least = min(error(bandwidth) for bandwidth in np.geomspace(0.01, 1, 25))
        mine = error(float(answer(draw(512, rng)[1], theta)))
        assert mine <= 1.5 * least, f"θ = {theta}: error {mine:.3f}; {least:.3f} is possible"


check_bandwidth_for(bandwidth_for)
