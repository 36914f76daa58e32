"""
Lesson 8: a real model's activations
====================================

**What you do.** Write the activations of a small language model to a cache, train a TopK sparse autoencoder (SAE) on
them, measure it on documents that it has not seen, splice it into the model, and read what its latents fire on.

**What you learn.** How the parts of a real study fit together; what to put beside every number (ablations, principal
components, a model with random weights); and which of the usual numbers say nothing about the model.

**What you need.** Lessons 6 and 7. About 45 seconds on one CPU core. The model, a character GPT, comes with the
library. Run it with ``python lessons/08_a_real_models_activations.py``: pictures open in windows, and the lesson goes
on when you close one. With ``MPLBACKEND=Agg MINISAE_LESSON_OUT=FOLDER`` set before the command they are saved in
FOLDER instead.

Sources: Bricken et al. 2023, "Towards Monosemanticity"; Gao et al. 2024, "Scaling and evaluating sparse autoencoders"
(TopK, AuxK); Heap et al. 2025, "Sparse autoencoders can interpret randomly initialized transformers" (the control).
"""

# %%
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: small matrices need no second thread

import matplotlib.pyplot as plt
import numpy as np

import minisae
from minisae import baselines, cache, metrics, models
from minisae.evaluate import evaluate
from minisae.interpret import firing, latent_page, marked
from minisae.interpret.contexts import token_mass
from minisae.interventions import averaged, effects, spliced, zeroed
from minisae.models.text import ALPHABET

SEED = 0
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
folder = tempfile.TemporaryDirectory()


def show(fig, name):
    """Show a picture, or save it to the folder that MINISAE_LESSON_OUT names."""
    out = os.environ.get("MINISAE_LESSON_OUT")
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"08_{name}.png", dpi=110)
    else:
        plt.show()


# %%
# **The model** reads one character after the other and guesses the next. It has 4 blocks and a *residual stream* of 128
# numbers a character, to which each block adds what it has found out. Twenty-five documents that it was not trained on
# ship with it; we take the first 12 000 characters of each.

model = models.load()
texts = [model.encode_text(document.text)[:12_000] for document in models.documents()]
prompt = "The people of the United States "
print(model.cfg)
print(prompt + "|" + models.generate(model, prompt, 80, temperature=0.5, seed=SEED))

# %%
# **Export.** Run the model over the texts and write what stands in the residual stream after the second block: one
# row per character, with its document, its position and the character itself. A cache is a folder; other frameworks can
# write one too, and training reads it in shuffled batches without holding it in memory.

HOOK = "blocks.1.hook_resid_post"


def export(model, name):
    """Write a cache of the activations at HOOK; split it by document."""

    def batches():
        for rows in models.activations(model, texts, hooks=[HOOK]):
            yield {
                "acts": rows.activations[HOOK],
                "doc_id": rows.doc_id,
                "position": rows.position,
                "token": rows.token,
            }

    written = cache.write_cache(Path(folder.name) / name, batches(), meta={"model": model.name, "hook": HOOK})
    return cache.split(written, held_out=0.2, seed=SEED)


parts = export(model, "activations")
print("held out:", parts.how)


def documents_in(view):
    """The numbers of the documents that a view has rows of."""
    return set(np.concatenate([chunk.doc_id for chunk in view.chunks(8192)]).tolist())


held_out = documents_in(parts.held_out)
assert not held_out & documents_in(parts.train), "no document is on both sides"

# %%
# **Train**: 1024 latents for 128 dimensions, 16 of them on in each row. The rows are scaled to a mean norm of √d_in
# while training, so that the learning rate means the same for every model; the SAE that comes back takes rows as they
# are.

K, D_SAE = 16, 1024
records = []


def train_on(parts, hooks=()):
    return minisae.train(
        parts.train, variant="topk", d_sae=D_SAE, k=K, steps=600, batch_size=1024, lr=4e-3, seed=SEED,
        options={"input_scale": "mean_norm", "lr_warmup": 30, "dead_after": 50_000, "log_every": 25}, hooks=hooks,
    )  # fmt: skip


sae = train_on(parts, hooks=[lambda run, record: records.append(record)])

# %%
# **Evaluate on held-out documents.** R² is the share of the variance explained. Beside it principal components: the
# best that 16 numbers per row can do if they are always the same 16 directions, and what they can do if each row may
# choose its 16 out of all 128. The SAE chooses 16 out of 1024.

measured = evaluate(sae, parts.held_out)
pca = baselines.fit((chunk.x for chunk in parts.train.chunks(8192)), 128)


def first(k):
    return pca._replace(components=pca.components[:k], variances=pca.variances[:k])


ks = [4, 8, 16, 32, 48, 64, 96]
fixed = [evaluate(first(k), parts.held_out).numbers["pooled_r2"] for k in ks]
chosen = [evaluate(baselines.PCATopK(pca, k), parts.held_out).numbers["pooled_r2"] for k in ks]
r2, dead = measured.numbers["pooled_r2"], measured.numbers["dead_fraction"]
print(f"R² of the SAE {r2:.3f}, of 16 components {fixed[2]:.3f}, of 16 chosen components {chosen[2]:.3f}")
print(f"L0 {measured.numbers['l0']:.1f}, dead {dead:.1%}")

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(ks, fixed, "s:", color=GREY, label="PCA, the first k")
left.plot(ks, chosen, "^--", color=ORANGE, label="PCA, k chosen row by row")
left.plot([K], [r2], "*", color=BLUE, markersize=15, label="SAE, k of 1024 latents")
left.set(
    xlabel="numbers per row (k)", ylabel="R² on held-out documents", ylim=(0, 1.02), title="what k numbers can say"
)
left.legend(loc="lower right")
density = np.asarray(measured.totals.density)  # (d_sae,)
right.hist(np.log10(density[density > 0]), bins=40, color=BLUE)
right.axvline(np.log10(K / D_SAE), color=ORANGE, linestyle="--", label="k / d_sae")
right.set(xlabel="log10 of the share of rows in which it fires", ylabel="latents", title="how often latents fire")
right.legend()
show(fig, "1_reconstruction")

assert abs(measured.numbers["l0"] - K) < 0.1
assert r2 > 0.88
assert dead < 0.02
assert fixed[2] < 0.6
assert fixed[2] < chosen[2] < r2 - 0.1
assert fixed[ks.index(48)] < r2, "three times as many fixed components do not reach it"

# %%
# **Does the model agree?** A direction of small variance can matter much to the model. So put the reconstruction back
# in the model's place at the hook, let the rest of the model run on it, and look at the cross-entropy of its guesses.
# The scale has two ends: the model as it is, and the model with the activation destroyed. Destroyed can mean put to
# zero, or put to its mean, which is the milder damage and so the harder comparison. *Always say which.*

readings = [texts[i][:3000] for i in sorted(held_out)]
found = effects(
    model, readings, HOOK,
    {
        "SAE": spliced(sae),
        "16 chosen components": spliced(baselines.PCATopK(pca, K)),
        "16 components": spliced(first(K)),
        "mean": averaged(pca.mean),
        "zero": zeroed,
    },
)  # fmt: skip
ce = {name: effect.cross_entropy for name, effect in found.items()}
recovered = {
    (name, end): metrics.ce_recovered(ce["clean"], ce[name], ce[end])
    for name in ("SAE", "16 chosen components", "16 components")
    for end in ("zero", "mean")
}
for name, value in ce.items():
    print(f"{name:21} {value:.3f} nats a character")
for (name, end), share in recovered.items():
    print(f"{name} recovers {share:.3f} against {end} ablation")

fig, ax = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
bars = ax.barh(list(ce), list(ce.values()), color=[GREY, BLUE, ORANGE, ORANGE, GREY, GREY])
ax.bar_label(bars, fmt="%.2f", padding=3)
ax.axvline(ce["clean"], color=GREY, linestyle=":")
ax.set(xlabel="cross-entropy on held-out text, nats a character", title="what the model loses", xlim=(0, 5))
ax.invert_yaxis()
show(fig, "2_spliced")

assert ce["clean"] < 1.6
assert ce["clean"] < ce["SAE"] < ce["16 chosen components"] < ce["16 components"] < ce["mean"] < ce["zero"]
assert recovered["SAE", "zero"] > 0.95
assert recovered["SAE", "mean"] > 0.93
assert recovered["SAE", "zero"] > recovered["SAE", "mean"], "zero ablation is the kinder end"

# %%
# **Read the contexts.** For four latents drawn by the seed: how often it fires, on which characters most, and the
# places on held-out text where it fires most strongly, with the firing characters in ⟦brackets⟧. Before you believe
# your guess at its meaning, look at weaker firings too, and at rows where your guess says it should fire and it does
# not.


def read(latents):
    """Print the strongest contexts of some latents."""
    found = firing(sae, parts.held_out, latents)
    for column in range(len(latents)):
        page = latent_page(found, column, contexts=4, before=34, after=10)
        most = ", ".join(f"{ALPHABET[token]!r} {share:.0%}" for token, share in page.tokens)
        print(f"\nlatent {page.latent}: fires on {page.density:.2%} of rows, on {most}")
        for context in page.contexts:
            print("    " + marked(context, ALPHABET, threshold=0.3 * page.largest))


rng = np.random.default_rng(SEED)
read(rng.choice(np.flatnonzero(density > 0), 4, replace=False).tolist())

# %%
# **From reading to measuring.** A guess at a meaning is a claim about rows, and can be scored. Write down what a row
# should be, here "a t that begins a word", and find the latent that agrees best, by F1 (the harmonic mean of
# precision and recall). Choose on the training documents, score on the held-out ones: with 1024 latents to choose
# from, the best fit on the same rows flatters itself. Beside it stands the best single dimension of the residual
# stream, thresholded so that it is on as often as the concept.


def rows_of(view, n):
    """The first n rows: activations, characters, and the two characters before."""
    chunk = view.read(0, n)
    c = np.array(list(ALPHABET))[chunk.token]  # (n,)
    # The first two rows of each document get characters of another document: wrong, and too few to matter.
    return chunk.x, c, np.roll(c, 1), np.roll(c, 2)


def f1(fires, is_it):
    """F1 of each column of fires (n, m) for is_it (n,)."""
    return 2 * (fires & is_it[:, None]).sum(axis=0) / np.maximum(fires.sum(axis=0) + is_it.sum(), 1)


CONCEPTS = {
    "t that begins a word": lambda c, p, q: (c == "t") & (p == " "),
    "e of 'the...'": lambda c, p, q: (c == "e") & (p == "h") & (q == "t"),
    "space after '...he'": lambda c, p, q: (c == " ") & (p == "e") & (q == "h"),
    "any space": lambda c, p, q: c == " ",
    "space after a comma": lambda c, p, q: (c == " ") & (p == ","),
    "capital letter": lambda c, p, q: np.char.isupper(c),
}
x_train, *before = rows_of(parts.train, 40_000)
x_held, *after = rows_of(parts.held_out, parts.held_out.rows)
on_train, on_held = sae.encode(x_train) > 0, sae.encode(x_held) > 0
table = {}
for name, concept in CONCEPTS.items():
    wanted, there = concept(*before), concept(*after)
    best = int(f1(on_train, wanted).argmax())
    signed, signed_held = np.hstack([x_train, -x_train]), np.hstack([x_held, -x_held])  # (n, 2*d_in)
    limit = np.quantile(signed, 1 - wanted.mean(), axis=0)  # (2*d_in,)
    dimension = int(f1(signed > limit, wanted).argmax())
    one = slice(dimension, dimension + 1)
    table[name] = (best, f1(on_held[:, [best]], there)[0], f1(signed_held[:, one] > limit[one], there)[0])
    print("{:22} latent {:4}: F1 {:.2f}, best dimension {:.2f}".format(name, *table[name]))
read([table["t that begins a word"][0]])

fig, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
place = np.arange(len(table))  # (concepts,)
ax.barh(place - 0.2, [row[1] for row in table.values()], 0.38, color=BLUE, label="best latent")
ax.barh(place + 0.2, [row[2] for row in table.values()], 0.38, color=ORANGE, hatch="//", label="best dimension")
ax.set_yticks(place, labels=list(table))
ax.set(xlabel="F1 on held-out documents", xlim=(0, 1), title="six guesses, scored")
ax.invert_yaxis()
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
show(fig, "3_concepts")

# %%
# The best latent is far ahead for some ideas and only a little for others. In one of six, the space after "...he", the
# plain dimension wins: an SAE is no guarantee.

latent_scores, dimension_scores = np.array([row[1:] for row in table.values()]).T
assert table["t that begins a word"][1] > 0.7
assert table["t that begins a word"][1] > table["t that begins a word"][2] + 0.3
assert latent_scores.mean() > dimension_scores.mean() + 0.1
assert table["space after '...he'"][2] > table["space after '...he'"][1], "here the plain dimension wins"
assert latent_scores.min() < 0.75, "not every idea of ours is one of its latents"

# %%
# **The control: the same SAE on a model that knows nothing.** Give the model random weights, and do everything again.
# In such a model the residual stream is little more than a random vector for the current character. Yet the SAE on it
# has a *better* R², and its latents are *cleaner*: more of a latent's activation is on one single character. So
# neither a high R² nor a clean look shows that an SAE has found what a model has learned.
#
# What differs is how much of the code comes from the *context*. Average the code over all rows of the same character:
# what share of its variance does the character alone explain? Nearly all of it in the random model, a minor part in
# ours.


def purity(sae, view):
    """Median over latents of the share of activation on the latent's main character."""
    mass = token_mass(sae, view, len(ALPHABET))  # (d_sae, n_vocab)
    live = mass[mass.sum(axis=1) > 0]  # (live, n_vocab)
    return float(np.median(live.max(axis=1) / live.sum(axis=1)))


def explained_by_character(sae, view):
    """Share of the code's variance that lies between the means of the characters."""
    chunk = view.read(0, view.rows)
    f = sae.encode(chunk.x)  # (n, d_sae)
    kinds, which = np.unique(chunk.token, return_inverse=True)
    means = np.stack([f[which == i].mean(axis=0) for i in range(len(kinds))])  # (kinds, d_sae)
    return float(((means[which] - f.mean(axis=0)) ** 2).sum() / ((f - f.mean(axis=0)) ** 2).sum())


random_model = models.random_init(model.cfg, np.random.default_rng(SEED))
random_parts = export(random_model, "random")
random_sae = train_on(random_parts)
control = {
    "R²": (r2, evaluate(random_sae, random_parts.held_out).numbers["pooled_r2"]),
    "activation on\nthe main character": (purity(sae, parts.held_out), purity(random_sae, random_parts.held_out)),
    "code explained by\nthe character alone": (
        explained_by_character(sae, parts.held_out),
        explained_by_character(random_sae, random_parts.held_out),
    ),
}
for name, (ours, theirs) in control.items():
    print(f"{name.replace(chr(10), ' '):40} trained {ours:.2f}  random {theirs:.2f}")

fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
place = np.arange(3)  # (3,)
ours, theirs = zip(*control.values(), strict=True)
ax.bar_label(ax.bar(place - 0.2, ours, 0.38, color=BLUE, label="trained model"), fmt="%.2f")
ax.bar_label(ax.bar(place + 0.2, theirs, 0.38, color=ORANGE, hatch="//", label="random weights"), fmt="%.2f")
ax.set_xticks(place, labels=list(control))
ax.set(ylim=(0, 1.3), ylabel="share", title="the same SAE on both")
ax.legend(loc="upper left", ncols=2)
show(fig, "4_control")

(r2_ours, r2_random), (pure, pure_random), (char, char_random) = control.values()
assert r2_random > r2_ours
assert pure_random > pure
assert char_random > 0.85
assert char < 0.5

# %%
# Exercises
# ---------
# Each is a function with a body to write: delete what stands between ``# solution:`` and ``# end`` and write your own.
#
# **Exercise 1: find a latent.** Given the code of the training rows and a concept, return the latent to bet on. The
# check scores your bet on the held-out documents for two concepts.


def find_latent(f, is_it):
    """Return the number of a latent, from f (n, d_sae) and is_it, bool (n,)."""
    # solution:
    fires = f > 0  # (n, d_sae)
    both = (fires & is_it[:, None]).sum(axis=0)  # (d_sae,)
    return int((2 * both / (fires.sum(axis=0) + is_it.sum())).argmax())
    # end


def check_find_latent(answer):
    code = sae.encode(x_train)  # (n, d_sae)
    for name, least in (("t that begins a word", 0.7), ("e of 'the...'", 0.5)):
        latent = answer(code, CONCEPTS[name](*before))
        assert isinstance(latent, int | np.integer), f"expected the number of a latent, got {latent!r}"
        score = f1(on_held[:, [latent]], CONCEPTS[name](*after))[0]
        assert score > least, f"latent {latent} scores {score:.2f} for {name}"


check_find_latent(find_latent)

# %%
# **Exercise 2: take one latent out.** Write the replacement of the activation that removes what one latent writes, and
# nothing else: what the SAE misses must stay in. The check removes the latent of "a t that begins a word": the model's
# guesses must change where it fires, and hardly anywhere else (a little, for attention carries it on).


def without(sae, latent):
    """Return a function of the activation (b, t, d) that returns what flows on in its place."""

    # solution:
    def replacement(x):
        b, t, d = x.shape
        f = sae.encode(x.reshape(b * t, d))[:, latent]  # (n,)
        return x - (f[:, None] * sae.params["W_dec"][latent]).reshape(b, t, d)

    return replacement
    # end


def check_without(answer):
    latent = table["t that begins a word"][0]
    tokens = np.concatenate(readings)[: 100 * 128].reshape(100, 128)  # (b, t)
    clean = model.forward(tokens, read=[HOOK])
    changed = model.forward(tokens, read=[HOOK], replace={HOOK: answer(sae, latent)})
    f = sae.encode(clean.activations[HOOK].reshape(-1, 128))  # (n, d_sae)
    away = (clean.activations[HOOK] - changed.activations[HOOK]).reshape(-1, 128)  # (n, d_in)
    on = f[:, latent] > 0  # (n,)
    assert np.abs(away[~on]).max() < 1e-5, "rows changed in which the latent does not fire"
    np.testing.assert_allclose(away[on], f[on, latent][:, None] * sae.params["W_dec"][latent], atol=1e-4)
    log_p, log_q = (metrics.log_softmax(out.logits.reshape(len(f), -1)) for out in (clean, changed))
    kl = metrics.kl_divergence(log_p, log_q)  # (n,)
    print(f"KL where it fires {kl[on].mean():.3f}, elsewhere {kl[~on].mean():.5f} nats")
    assert kl[on].mean() > 20 * kl[~on].mean()


check_without(without)

# %%
# **Exercise 3: how few will do?** Keep only the k largest latents of each row (``sae.cfg._replace(k=...)`` does that
# for an SAE trained with more). Find the smallest k whose reconstruction recovers 90 % of the cross-entropy against
# *mean* ablation. ``recovers(k)`` splices it in for you and returns the share.


def recovers(k):
    """Share of the cross-entropy recovered with the k largest latents of each row, against mean ablation."""
    fewer = sae._replace(cfg=sae.cfg._replace(k=k))
    got = effects(model, readings, HOOK, {"fewer": spliced(fewer)})["fewer"].cross_entropy
    return metrics.ce_recovered(ce["clean"], got, ce["mean"])


def fewest(recovers):
    """Return the smallest k from 1 to 16 that recovers at least 0.9."""
    # solution:
    low, high = 0, 16
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recovers(middle) >= 0.9 else (middle, high)
    return high
    # end


def check_fewest(answer):
    k = answer(recovers)
    enough, less = recovers(k), recovers(k - 1)
    print(f"{k} latents recover {enough:.3f}, {k - 1} recover {less:.3f}")
    assert enough >= 0.9, f"{k} latents recover only {enough:.3f}"
    assert less < 0.9, f"{k - 1} would do"


check_fewest(fewest)
folder.cleanup()
