"""TopK and its relatives: what is selected, what AuxK trains, how nested errors are added."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minisae.backend import Array
from minisae.ledger.base import Deviation, Shown, learn, params_of
from minisae.ops import dense
from minisae.sae import batch_topk, batchwise, matryoshka, multi_topk, topk

SPARSIFY, DL = ("sparsify", "1.3.3"), ("dictionary_learning", "0.1.0, 2025-08")
OVERCOMPLETE, SAELENS = ("overcomplete", "0.3.0"), ("SAELens", "6.54.12")
CASE = "x (2, 1), W_enc = W_dec = 1, b_enc −½, k 1: f (1.5, 0); latent 1 is dead"


def _two(scale: float = 1.0) -> dict[str, Array]:
    """Return two latents, each for one of two dimensions, that lose half a unit."""
    return params_of(np.eye(2), np.eye(2), b_enc=[-0.5 * scale, -0.5 * scale])


def _aux(options: Mapping[str, Any], *, dead: bool = True) -> tuple[float, Array]:
    """Return the value of AuxK on the case, and its gradient of b_enc ``(2,)``."""
    cfg = topk.Config(2, 2, k=1, k_aux=1, auxk=1.0)._replace(**options)
    x, mask = np.array([[2.0, 1.0]]), np.array([False, dead])
    values, grads = learn("topk", cfg, _two(), x, dead=mask, only="auxk")
    return values["auxk"], grads["b_enc"] + 0.0


def hollow_aux() -> Shown:
    """AuxK's slope at the encoder of the dead latent."""
    right, theirs = (float(_aux({"auxk_reach": reach})[1][1]) for reach in ("latents", "decoder"))
    return Shown("∂AuxK/∂b_enc of the dead latent", CASE, right, theirs)


def hollow_multi() -> Shown:
    """The wider loss's slope at the encoder of a latent that only the wider code has."""
    cfg = multi_topk.Config(2, 2, k=1, multi=2, auxk=0.0)
    right, theirs = (
        float(
            learn("multi_topk", cfg._replace(multi_reach=reach), _two(), np.array([[2.0, 1.0]]), only="multi")[1][
                "b_enc"
            ][1]
        )
        for reach in ("latents", "decoder")
    )
    return Shown(
        "∂L/∂b_enc of latent 1",
        "x (2, 1), W_enc = W_dec = 1, b_enc −½, k 1, a wider code of 2 with weight ⅛",
        right,
        theirs + 0.0,
    )


def leaking_zero() -> Shown:
    """A selected latent whose value is 0."""
    params, x = params_of([[1, -1]], [[1], [1]]), np.array([[2.0]])
    found = []
    for how in ("blocked", "passes"):
        cfg = topk.Config(1, 2, k=2, relu="before", selected_zero=how)
        cache = topk.forward(params, x, cfg)[1]
        found.append(float(topk.backward(params, cache, cfg, {"x_hat": np.ones((1, 1))})["b_enc"][1]))
    return Shown("∂x̂/∂b_enc of latent 1", "pre (2, −2), k 2, decoder rows 1", found[0] + 0.0, found[1])


def fired_at_zero() -> Shown:
    """Who counts as having fired, with more latents to select than are positive."""
    params, x = params_of([[1, -1]], [[1], [1]]), np.array([[2.0]])
    right, theirs = (
        float(topk.fired_latents(topk.forward(params, x, cfg)[0], cfg).sum())
        for cfg in (topk.Config(1, 2, k=2, relu=relu) for relu in ("after", "before"))
    )
    return Shown("latents that fired", "pre (2, −2), k 2", right, theirs)


def aux_without_relu() -> Shown:
    """The dead latent's code in AuxK, where its pre-activation is negative."""
    found = []
    for rectify in (True, False):
        cfg = topk.Config(2, 2, k=1, k_aux=1, auxk=1.0, auxk_relu=rectify)
        out = topk.forward(_two(), np.array([[2.0, 0.0]]), cfg, dead=np.array([False, True]))[0]
        found.append(0.0 if out.aux is None else float(out.aux[0, 1]))
    return Shown("the dead latent's code in AuxK", "its pre-activation is −½", found[0], found[1])


def aux_share() -> Shown:
    """AuxK over the error, in two units of the activations."""

    def of(normaliser: str, scale: float) -> float:
        cfg = topk.Config(2, 2, k=1, k_aux=1, auxk=1.0, auxk_normaliser=normaliser)
        x = scale * np.array([[2.0, 1.0], [1.0, 0.0]])  # (2, 2)
        values, _ = learn("topk", cfg, _two(scale), x, dead=np.array([False, True]))
        return values["auxk"] / values["mse"]

    right, theirs = (tuple(of(how, scale) for scale in (1.0, 10.0)) for how in ("none", "residual_variance"))
    return Shown("AuxK / error, before its coefficient", "rows (2, 1), (1, 0), and ten times as large", right, theirs)


def aux_of_the_living() -> Shown:
    """AuxK while no latent is dead."""
    own = {"reduction": "mean", "auxk": 0.1}
    right, theirs = (_aux(own | {"auxk_over": over}, dead=False)[0] for over in ("dead", "unchosen"))
    return Shown("AuxK", CASE.replace("latent 1", "none") + "; coefficient 0.1", right, theirs)


def residual_not_held() -> Shown:
    """AuxK's slope at the latent that made the residual."""
    own = {"reduction": "mean", "auxk": 0.1}
    right, theirs = (float(_aux(own | {"auxk_reach": reach})[1][0]) for reach in ("latents", "everything"))
    return Shown("∂AuxK/∂b_enc of the living latent", f"{CASE}; coefficient 0.1, mean over d", right, theirs)


def k_of_the_batch() -> Shown:
    """How many entries are kept of four rows."""
    right, theirs = (float(batchwise.k_total(batch_topk.Config(1, 8, k=2, k_per=per), 4)) for per in ("row", "batch"))
    return Shown("entries kept", "k 2, 4 rows", right, theirs)


def ties_kept() -> Shown:
    """How many of two equal entries are kept where one is asked for."""
    params = params_of([[1, 1]], np.zeros((2, 1))) | {"threshold": np.zeros(2)}
    right, theirs = (
        float(
            (dense(batch_topk.forward(params, np.ones((1, 1)), batch_topk.Config(1, 2, k=1, ties=how))[0].f) > 0).sum()
        )
        for how in ("lowest", "all")
    )
    return Shown("entries kept", "one row, two latents at 1, top_k 1", right, theirs)


def bias_on_both_sides() -> Shown:
    """AuxK's slope at b_dec where the encoder does not see it."""
    cfg, dead = topk.Config(2, 2, k=1, k_aux=1, auxk=1.0, subtract_b_dec=False), np.array([False, True])
    right, theirs = (
        learn("topk", cfg._replace(auxk_bias=how), _two(), np.array([[2.0, 1.0]]), dead=dead, only="auxk")[1]["b_dec"]
        for how in (False, True)
    )
    return Shown("∂AuxK/∂b_dec, without the encoder's part", CASE, float(right[1]) + 0.0, float(theirs[1]))


def first_axis_only() -> Shown:
    """How many entries are kept of two documents of three tokens."""
    cfg = batch_topk.Config(1, 8, k=2)
    right, theirs = (float(batchwise.k_total(cfg, rows)) for rows in (2 * 3, 2))
    return Shown("entries kept", "k 2, activations (2, 3, d)", right, theirs)


def squared_share() -> Shown:
    """The error of three nested reconstructions."""
    params = params_of([[1, 1, 1]], np.zeros((3, 1))) | {"threshold": np.zeros(3)}
    cfg = matryoshka.Config(1, 3, k=1, prefixes=(1, 2, 3), auxk=0.0)
    right, theirs = (
        sum(learn("matryoshka", one, params, np.array([[3.0]]))[0].values())
        for one in (cfg, cfg._replace(levels="mean", level_weights=(1 / 3,) * 3))
    )
    return Shown("error", "3 levels, each with an error of 9", right, theirs)


ENTRIES = (
    Deviation(
        *SPARSIFY, "AuxK does not reach the encoder",
        "The fused encoder's backward drops the gradient of pre-activations that were not selected.",
        "fused_encoder.py, since March 2025",
        "AuxK trains the decoder of dead latents, never what would wake them: slope {theirs} for {right}", hollow_aux,
    ),
    Deviation(
        *SPARSIFY, "multi-TopK does not reach the encoder",
        "For the same reason the wider loss does not train the encoder.",
        "fused_encoder.py, since March 2025", "the slope is {theirs} for {right}", hollow_multi,
    ),
    Deviation(
        *SPARSIFY, "selected zeros get gradient",
        "ReLU comes before the selection, and the fused encoder's backward has no mask for it.",
        "fused_encoder.py", "a latent below 0 that is selected for want of others learns: slope {theirs} for {right}",
        leaking_zero,
    ),
    Deviation(
        *SPARSIFY, "selected zeros have fired", "A latent counts as alive when it was selected, whatever its value.",
        "trainer.py", "{theirs} latents fired, of which {right} is above 0", fired_at_zero, "read",
    ),
    Deviation(
        *DL, "selected zeros have fired", "A latent counts as alive when it was selected, whatever its value.",
        "trainers/top_k.py", "{theirs} latents fired, of which {right} is above 0", fired_at_zero,
    ),
    Deviation(
        *SAELENS, "AuxK without ReLU", "AuxK's code of dead latents passes no ReLU.", "saes/topk_sae.py",
        "dead latents may explain the residual with a negative code: {theirs} for {right}", aux_without_relu,
    ),
    Deviation(
        *DL, "AuxK beside an error in other units",
        "AuxK is divided by the variance of the residual, the error beside it by nothing.",
        "trainers/top_k.py",
        "activations ten times as large make AuxK a hundred times less: {theirs}, where both in one unit give {right}",
        aux_share,
    ),
    Deviation(
        *OVERCOMPLETE, "AuxK of the living",
        "AuxK takes half of the latents, of all that a row did not choose; none of them need be dead.",
        "sae/losses.py", "it is {theirs} while no latent is dead, for {right}", aux_of_the_living,
    ),
    Deviation(
        *OVERCOMPLETE, "the residual is not held fixed", "AuxK's gradient goes into the residual too.",
        "sae/losses.py",
        "living latents are trained to leave a residual that dead ones can explain: slope {theirs} for {right}",
        residual_not_held,
    ),
    Deviation(
        *OVERCOMPLETE, "k of the whole batch",
        "top_k of BatchTopK is what the whole batch keeps, not a row in the mean.",
        "sae/batchtopk_sae.py", "k = 2 keeps {theirs} entries where the paper's keeps {right}", k_of_the_batch,
    ),
    Deviation(
        *OVERCOMPLETE, "ties are kept", "BatchTopK keeps all that reaches the k-th value.", "sae/batchtopk_sae.py",
        "equal entries make the code denser than asked: {theirs} for {right}", ties_kept,
    ),
    Deviation(
        "OpenAI", "2024-06", "AuxK trains b_dec",
        "The bias stands in AuxK's reconstruction, and in its target with a stopped gradient.",
        "sparse_autoencoder/train.py", "b_dec learns to explain what dead latents should: slope {theirs} for {right}",
        bias_on_both_sides, "read",
    ),
    Deviation(
        "SAELens", "up to October 2025", "k of the first axis", "BatchTopK counted the first axis alone as rows.",
        "issue 570", "activations with documents and tokens kept {theirs} entries for {right}", first_axis_only, "read",
        "6.54.12 or before",
    ),
    Deviation(
        *DL, "nested errors divided twice",
        "Each level has the weight 1/n, and then the mean over the levels is taken; AuxK is not divided.",
        "trainers/matryoshka_batch_top_k.py",
        "the error is 1/n² of the paper's sum, {theirs} for {right}, and AuxK weighs n² times as much", squared_share,
    ),
)  # fmt: skip
"""Of selection."""
