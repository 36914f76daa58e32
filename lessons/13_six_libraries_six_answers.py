"""
Lesson 13: six libraries, six answers
=====================================

**What you do.** Take one sparse autoencoder (SAE), with its weights fixed, and ask six libraries about it: what is its
loss, how large is its gradient, how much of the variance does it explain? Then load it as if it came from another
library, in six wrong ways. At the end you check a library that you have never seen, in five minutes, and get told what
is wrong with it.

**What you learn.** That a loss, a λ, a clipping norm and an "explained variance" mean nothing without their convention;
which of the differences cancel and which do not; what a wrongly loaded SAE looks like in numbers, so that you recognise
it; and how to find out what a piece of code computes without reading it.

**What you need.** Lessons 6 and 10. About 15 seconds on one CPU core. Run it with
``python lessons/13_six_libraries_six_answers.py``: pictures open in windows, and the lesson goes on when you close one.
With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in FOLDER instead.

Sources: SAELens 6.54, dictionary_learning 2025-08, sparsify 1.3.3, openai/sparse_autoencoder 2024-06, overcomplete 0.3
and SAEBench 0.6, whose formulas are reproduced here and compared with the libraries themselves in this project's tests;
the papers that they implement: Bricken et al. 2023, Gao et al. 2024, Bussmann et al. 2024.
"""

# %%
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import ledger, losses, metrics, synthetic
from minisae.metrics import reconstruction
from minisae.ops import dense
from minisae.sae import batch_topk, relu
from minisae.verify import harness

SEED, D_IN, D_SAE = 0, 40, 80
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"13_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **One SAE.** The world of lesson 7, moved away from the origin: a constant vector of norm 3 is added to every row, as
# the activations of a language model have one. ReLU and L1, trained in this library's own convention.

model = synthetic.make(n_feat=80, d_in=D_IN, p=0.05, bias=3.0, seed=SEED)
test = synthetic.sample(model, 20_000, np.random.default_rng(1))
x = test.x.astype(np.float64)  # (n, d_in)
sae = minisae.train(
    synthetic.SyntheticSource(model), variant="relu", d_sae=D_SAE, l1=0.1, steps=2000, batch_size=512, lr=3e-3,
    seed=SEED,
)  # fmt: skip
params = {name: p.astype(np.float64) for name, p in sae.params.items()}
x_hat = relu.decode(params, relu.encode(params, x, sae.cfg))  # (n, d_in)
print(f"R² {float(metrics.pooled_r2(x, x_hat)):.3f}, L0 {metrics.l0(relu.encode(params, x, sae.cfg)):.1f}")
assert metrics.pooled_r2(x, x_hat) > 0.9

# %%
# **Its loss.** λ is 0.1 for all. What differs, each a switch of this library:
#
#     dictionary_learning    mean over rows of  ‖x - x_hat‖² + λ Σ f
#     SAELens                mean over rows of  ‖x - x_hat‖² + λ Σ f ‖W_dec‖
#     OpenAI                 mean over rows of  ‖x - x_hat‖² / ‖x‖² + λ Σ f / ‖x‖
#     overcomplete           mean over rows and dimensions of (x - x_hat)², plus λ Σ f summed over the batch
#     sparsify               Σ ‖x - x_hat‖² / Σ ‖x - mean‖², no penalty: it has TopK only
#     SAEBench               trains nothing; it reports the error, divided by the number of rows once too often

LAM = 0.1
CONVENTIONS = {
    "dictionary_learning": {},
    "SAELens": {"l1_weight": "decoder_norm", "decoder": "free"},
    "OpenAI": {"relative": True},
    "overcomplete": {"reduction": "mean", "penalty_reduction": "sum"},
}


def learn(p, rows, lam, options):
    """Value, penalty and gradients of a loss on some rows."""
    cfg = relu.Config(D_IN, D_SAE, l1=lam)._replace(**options)
    out, cache = relu.forward(p, rows, cfg)
    terms = relu.objective(p, out, rows, cfg)
    value, slopes, direct = losses.gather(terms)
    grads = relu.backward(p, cache, cfg, slopes)
    grads = {name: g + direct.get(name, 0) for name, g in grads.items()}
    return float(value), float(terms["l1"].value), grads


def norm(grads):
    """The norm of all gradients together, which is what clipping looks at."""
    return float(np.sqrt(sum((g**2).sum() for g in grads.values())))


batch = x[:512]  # (512, d_in)
answers, shares, sizes = {}, {}, {}
for name, options in CONVENTIONS.items():
    answers[name], penalty, grads = learn(params, batch, LAM, options)
    shares[name], sizes[name] = penalty / answers[name], norm(grads)
fvu = losses.mse(x_hat[:512], batch, normaliser="input_variance")
answers["sparsify"] = float(fvu.value)
answers["SAEBench"] = float(metrics.squared_error_per_row(batch, x_hat[:512])) / len(batch)
for name, value in answers.items():
    more = f"penalty's share {shares[name]:6.1%}   gradient's norm {sizes[name]:8.4f}" if name in sizes else ""
    print(f"{name:20} loss {value:9.5f}   {more}")

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", width_ratios=(3, 2))
left.plot(list(answers.values()), list(answers), "o", color=BLUE)
left.set(xscale="log", xlabel="loss", title="one SAE, one batch, λ = 0.1")
left.grid(axis="x")
left.invert_yaxis()
right.barh(list(shares), list(shares.values()), color=ORANGE)
right.set(xlabel="share", title="the penalty's share of the loss", xlim=(0, 1.05))
right.invert_yaxis()
show(fig, "1_losses")

assert max(answers.values()) > 1000 * min(answers.values())
assert abs(answers["SAELens"] / answers["dictionary_learning"] - 1) < 1e-5, "decoder rows have norm 1 here"
assert shares["overcomplete"] > 0.99
assert sizes["overcomplete"] > 100 * sizes["dictionary_learning"]
assert shares["dictionary_learning"] < 0.9

# %%
# **What the same λ trains.** overcomplete's penalty grows with the batch while its error does not, so λ means another
# thing for each batch size. The others are means, and do not care.

BATCHES = (16, 64, 256, 1024, 4096)
ratio = {
    name: [learn(params, x[:n], LAM, options)[1] / learn(params, x[:16], LAM, options)[1] for n in BATCHES]
    for name, options in CONVENTIONS.items()
}
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
styles = zip(("o-", "s--", "^-.", "D-"), (BLUE, GREEN, GREY, ORANGE), strict=True)
for (name, values), (style, colour) in zip(ratio.items(), styles, strict=True):
    ax.loglog(BATCHES, values, style, color=colour, label=name)
ax.set(xlabel="rows in the batch", ylabel="penalty, over that of 16 rows", title="λ and the batch size")
ax.legend()
show(fig, "2_batch_size")

assert ratio["overcomplete"][-1] > 200
assert all(0.8 < ratio[name][-1] < 1.2 for name in ("dictionary_learning", "SAELens", "OpenAI"))

# %%
# **Does it matter under Adam?** A factor on the whole loss does not: Adam divides it out again. A factor on *one term*
# does, that is a λ. And clipping does not divide anything out. SAELens and dictionary_learning clip all gradients to a
# joint norm of 1. Whether that ever happens depends on the convention of the loss alone:

fresh = relu.init(sae.cfg, np.random.default_rng(4), sample=batch, dtype=np.float64)  # the start of a training run
clipped = {how: norm(learn(fresh, batch, 0.0, {"reduction": how})[2]) for how in ("sum", "mean")}
print(f"gradient norm at the start: summed {clipped['sum']:.2f}, is clipped; averaged {clipped['mean']:.3f}, is not")
assert abs(clipped["sum"] / clipped["mean"] - D_IN) < 1e-9
assert clipped["sum"] > 1 > clipped["mean"]

# %%
# **The norm of the decoder.** Divide the code by g and multiply the decoder by g: the same function. A plain L1 falls
# by g, so a decoder that may grow will grow, and the penalty becomes nothing. That is why dictionary_learning holds its
# rows at norm 1, and why SAELens, which does not, weights the penalty with the norm. Take one half of each and you
# have a bug: free rows with a plain L1.


def stretched(p, g):
    """The same function with a code divided by g."""
    return p | {"W_enc": p["W_enc"] / g, "b_enc": p["b_enc"] / g, "W_dec": p["W_dec"] * g}


growth = np.array([0.25, 0.5, 1, 2, 4, 8])
plain, weighted = (
    np.array([learn(stretched(params, g), batch, LAM, CONVENTIONS[name])[1] for g in growth])
    for name in ("dictionary_learning", "SAELens")
)
np.testing.assert_allclose(weighted, weighted[0], rtol=1e-9)
np.testing.assert_allclose(plain * growth, plain[0] * growth[0], rtol=1e-9)
same_function = relu.decode(stretched(params, 8.0), relu.encode(stretched(params, 8.0), batch, sae.cfg))
np.testing.assert_allclose(same_function, x_hat[:512], rtol=1e-9)

# %%
# **Explained variance, six times.** The formulas are in the docstring of ``minisae.metrics.reconstruction``. Three
# reconstructions: the SAE's; the mean row, always, which explains nothing; and the SAE's with a constant error of 0.3
# in every entry.

FORMULAS = {
    "pooled R² (SAELens, sparsify)": reconstruction.pooled_r2,
    "mean of ratios (SAELens ≤ 6.39)": reconstruction.mean_of_ratios_legacy,
    "dictionary_learning": reconstruction.frac_variance_explained,
    "SAEBench 0.6": reconstruction.saebench_0_6_explained_variance,
    "overcomplete": reconstruction.overcomplete_r2,
    "OpenAI, 1 - normalised error": reconstruction.openai_about_zero,
}
cases = {"the SAE": x_hat, "the mean row": np.broadcast_to(x.mean(axis=0), x.shape), "SAE + 0.3": x_hat + 0.3}
scores = {name: [float(of(x, guess)) for guess in cases.values()] for name, of in FORMULAS.items()}
fig, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
for i, (ax, title) in enumerate(zip(axes, cases, strict=True)):
    values = [row[i] for row in scores.values()]
    ax.barh(list(scores), np.maximum(values, -0.3), color=[BLUE] + [ORANGE] * 5)
    ax.axvline(0, color=GREY, linewidth=0.8)
    for k, value in enumerate(values):
        ax.text(max(0, value) + 0.02, k, f"{value:.2f}".replace("-0.00", "0.00"), va="center", fontsize=8)
    ax.set(title=title, xlim=(-0.35, 1.25))
axes[0].invert_yaxis()
show(fig, "3_explained_variance")

of_sae, of_mean, of_biased = np.transpose(list(scores.values()))  # (6,) each
assert of_sae.max() - of_sae.min() > 0.05, "one reconstruction"
assert np.abs(of_mean[:3]).max() < 1e-6
assert (of_mean[3:] > 0.8).all(), "half of the formulas are pleased with the mean row"
assert of_biased[2] > 0.9 > 0 > of_biased[0], "a constant error is free in one, and fatal in the other"

# %%
# **And the units.** Five of the six do not change if all activations are multiplied by a number, nor should they. The
# sixth subtracts the square of a squared length from a squared length: near a factor of 12 its denominator is 0, it
# goes through infinity, and from there on it is above 1.

units = np.geomspace(0.1, 100, 61)
in_units = {
    name: [float(FORMULAS[name](u * x[:2000], u * x_hat[:2000])) for u in units]
    for name in ("pooled R² (SAELens, sparsify)", "SAEBench 0.6")
}
fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
for (name, values), style, colour in zip(in_units.items(), ("-", "o--"), (BLUE, ORANGE), strict=True):
    ax.semilogx(units, values, style, color=colour, markersize=3, label=name)
ax.axhline(1, color=GREY, linewidth=0.8)
ax.set(xlabel="what the activations are multiplied by", ylabel="explained variance", ylim=(0.8, 1.1))
ax.set_title("the same reconstruction in other units")
ax.legend()
show(fig, "4_units")

assert np.ptp(in_units["pooled R² (SAELens, sparsify)"]) < 1e-9
assert max(in_units["SAEBench 0.6"]) > 1

# %%
# **Loading it wrongly.** A BatchTopK SAE, trained on rows brought to a norm of √d in the mean, whose decoder rows are
# not of norm 1. A file holds arrays; what they mean is in the reader's head. ``use`` is the right reading; each of the
# others forgets one thing, and raises no error.

SCALE = float(np.sqrt(D_IN) / np.linalg.norm(x, axis=1).mean())
trained = minisae.train(
    synthetic.sample(model, 40_000, np.random.default_rng(2)).x * np.float32(SCALE),
    variant="batch_topk", d_sae=D_SAE, k=4, steps=1500, batch_size=512, lr=3e-3, seed=SEED,
)  # fmt: skip
stretch = np.random.default_rng(3).uniform(0.5, 2, D_SAE)  # (d_sae,)
file = {name: p.astype(np.float64) for name, p in trained.params.items()}
file |= {"W_enc": file["W_enc"] / stretch, "b_enc": file["b_enc"] / stretch, "threshold": file["threshold"] / stretch}
file |= {"W_dec": file["W_dec"] * stretch[:, None]}
right_cfg = trained.cfg._replace(decoder="free")


def use(p, rows, *, cfg=right_cfg, scale=SCALE):
    """Code and reconstruction of raw rows: scaled on the way in, and back on the way out."""
    f = dense(batch_topk.encode(p, rows * scale, cfg))  # (n, d_sae)
    return f, batch_topk.decode(p, f) / scale


def unit_rows(p):
    """Decoder rows at norm 1, as somebody's reader makes them."""
    return p | {"W_dec": p["W_dec"] / np.linalg.norm(p["W_dec"], axis=1, keepdims=True)}


WAYS = {
    "as it is meant": lambda: use(file, x),
    "b_dec not subtracted": lambda: use(file, x, cfg=right_cfg._replace(subtract_b_dec=False)),
    "encoder reshaped, not transposed": lambda: use(file | {"W_enc": file["W_enc"].T.reshape(D_IN, D_SAE)}, x),
    "decoder rows normalised": lambda: use(unit_rows(file), x),
    "input scale forgotten": lambda: use(file, x, scale=1.0),
    "threshold forgotten": lambda: use(file | {"threshold": np.zeros(D_SAE)}, x),
    "threshold scaled twice": lambda: use(file | {"threshold": file["threshold"] * SCALE}, x),
}
loaded = {}
for name, way in WAYS.items():
    f, guess = way()
    loaded[name] = metrics.l0(f), float(metrics.pooled_r2(x, guess)), float(metrics.l2_ratio(x, guess))
    print(f"{name:33} L0 {loaded[name][0]:5.1f}  R² {loaded[name][1]:7.3f}  ‖x̂‖/‖x‖ {loaded[name][2]:.2f}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
for ax, i, title in zip(axes, (0, 1), ("active latents a row", "pooled R², cut at -1"), strict=True):
    values = np.maximum([row[i] for row in loaded.values()], -1)  # (7,)
    ax.barh(list(loaded), values, color=[GREEN] + [ORANGE] * 6)
    ax.axvline(values[0], color=GREY, linestyle=":")
    ax.set(title=title)
axes[0].invert_yaxis()
show(fig, "5_loading")

right, wrong = loaded["as it is meant"], [row for name, row in loaded.items() if name != "as it is meant"]
assert abs(right[0] - 4) < 0.5
assert all(row[1] < right[1] - 0.01 or abs(row[0] - right[0]) > 0.5 for row in wrong)
assert loaded["threshold forgotten"][0] > 3 * right[0]
assert loaded["threshold forgotten"][1] > right[1]

# %%
# A bad R² says *that* something is wrong; L0 and the norm ratio say *what*. And with a forgotten threshold R² is even
# better than it should be: five times as many latents speak. A test on reconstructions alone lets that pass. Look at
# L0, too, and compare it with what the file's makers report.
#
# **Five minutes with a library you do not know.** Write an adapter: a file with ``encode`` and ``decode``, and ``loss``
# if there is one. Here is somebody's NumPy SAE. It reads well. What is wrong with it?

FOREIGN = """
import numpy as np

def encode(params, x, config):
    return np.maximum((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"], 0)

def decode(params, f, config):
    return f @ params["W_dec"] + params["b_dec"]

def loss(params, x, config):
    f = encode(params, x, config)
    error = decode(params, f, config) - x
    return {"mse": (error**2).sum(axis=1).mean(), "l1": config["l1"] * np.abs(f).mean()}
"""


def checked(source):
    """The report on an adapter's source, as ``minisae verify run foreign.py --variant relu`` prints it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "foreign.py"
        path.write_text(source)
        return harness.check(harness.load_adapter(path), "relu")


report = checked(FOREIGN)
print("\n".join(str(report).splitlines()[-1:]))
assert not report.ok
assert "L1 is averaged over d_sae" in report.explanation

# %%
# It found an error of *meaning*: with ``mean`` in place of a sum, λ has to be d_sae times as large, and nobody who
# copies a λ from a paper will know. Repair it, and plant two others at once.

repaired = FOREIGN.replace("np.abs(f).mean()", "np.abs(f).sum(axis=1).mean()")
both = repaired.replace('x - params["b_dec"]', "x").replace(".sum(axis=1).mean(), ", ".mean(), ")
fine, double = checked(repaired), checked(both)
print("\n".join(str(double).splitlines()[-1:]))
assert fine.ok
assert fine.explanation == ""
assert "b_dec" in double.explanation
assert "averaged over d_in" in double.explanation

# %%
# **The ledger.** What is known of the libraries, each entry computed, both ways, when you ask:

told = [(entry, entry.show()) for entry in ledger.entries("overcomplete")]
for entry, shown in told[:4]:
    print(f"{entry.name}: {ledger.told(entry, shown)}")
assert len(ledger.LEDGER) > 50
assert all(not np.array_equal(shown.right, shown.theirs) for _, shown in told)

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
# The check below it asks whether the science came out, whatever way you took.
#
# **Exercise 1: translate a λ.** A paper reports λ, for a sum over d_in and a mean over rows. You train with
# overcomplete's loss, batches of n rows. Which penalty coefficient trains the same?


def translated(lam, n, d_in):
    """Return overcomplete's coefficient."""
    # solution:
    return lam / (n * d_in)
    # end


def check_translated(answer):
    for n in (16, 100):
        paper = learn(params, x[:n], 0.3, CONVENTIONS["dictionary_learning"])[2]
        theirs = learn(params, x[:n], answer(0.3, n, D_IN), CONVENTIONS["overcomplete"])[2]
        a, b = (np.concatenate([g.ravel() for g in grads.values()]) for grads in (paper, theirs))
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        assert cosine > 1 - 1e-9, f"{n} rows: the gradients point {np.degrees(np.arccos(cosine)):.1f}° apart"


check_translated(translated)

# %%
# **Exercise 2: fool a metric.** Return a reconstruction of the rows x (n, d_in) that one of the six formulas scores
# above 0.99, though its pooled R² is below 0.


def fool(x):
    """Return x_hat (n, d_in)."""
    # solution:
    return x + 10 * np.abs(x).max()
    # end


def check_fool(answer):
    guess = answer(x[:3000].copy())  # (3000, d_in)
    assert np.shape(guess) == (3000, D_IN)
    found = {name: float(of(x[:3000], guess)) for name, of in FORMULAS.items()}
    assert found.pop("pooled R² (SAELens, sparsify)") < 0, "pooled R² is not below 0"
    assert max(found.values()) > 0.99, f"the best score is {max(found.values()):.3f}"


check_fool(fool)

# %%
# **Exercise 3: fold the scale.** Give the file parameters for rows as they are, without any scale around it: the same
# reconstructions, the same latents active, and features in the units of the activations, so that a code is the old one
# divided by the scale (dictionary_learning does it so; SAELens leaves features in scaled units).


def folded(p, scale):
    """Return W_enc, b_enc, W_dec, b_dec and threshold for raw rows, given those for rows times ``scale``."""
    # solution:
    return p | {name: p[name] / scale for name in ("b_enc", "b_dec", "threshold")}
    # end


def check_folded(answer):
    f, guess = use(file, x[:2000])
    raw = answer(dict(file), SCALE)
    assert raw, "no parameters"
    mine, x_mine = use(raw, x[:2000], scale=1.0)
    np.testing.assert_array_equal(mine > 0, f > 0)
    np.testing.assert_allclose(x_mine, guess, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mine * SCALE, f, rtol=1e-9, atol=1e-12)


check_folded(folded)
