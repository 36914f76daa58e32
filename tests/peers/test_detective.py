"""Real libraries under the paper's convention: the detective names the one in which they differ, and pairs of these."""

from importlib.metadata import distributions

import pytest

from minisae.verify.adapter import load_adapter
from minisae.verify.harness import check

PACKAGES = {
    "saelens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "overcomplete": "overcomplete",
    "sparsify": "eai-sparsify",
}
INSTALLED = {(found.metadata["Name"] or "").replace("_", "-").lower() for found in distributions()}
SAELENS = [
    ("relu", {"l1_weight": "plain"}, ["your L1 weighs each latent with its decoder norm"]),
    ("gated", {"aux_decoder": "frozen"}, ["the gate's own reconstruction trains your decoder: it is not frozen"]),
    ("gated", {"aux_decoder": "frozen", "l1_weight": "plain"}, ["it is not frozen", "weighs each latent"]),
]
DICTIONARY_LEARNING = [
    ("relu", {"lr_warmup_begins": "first_step"}, ["your learning rate is 0 on the first step of its warm-up"]),
    ("relu", {"sparsity_warmup_begins": "first_step"}, ["your λ is 0 on the first step of its warm-up"]),
    (
        *("gated", {"lr_warmup_begins": "first_step", "sparsity_warmup_begins": "first_step"}),
        ["your learning rate is 0 on the first step", "your λ is 0 on the first step"],
    ),
    ("topk", {"auxk_normaliser": "none"}, ["your AuxK is divided by the variance of the residual"]),
]
OVERCOMPLETE = [
    ("relu", {"reduction": "sum"}, ["your squared error is averaged over d_in"]),
    ("relu", {"penalty_reduction": "mean"}, ["your penalty is summed over rows, not averaged"]),
    ("relu", {"reduction": "sum", "penalty_reduction": "mean"}, ["averaged over d_in", "summed over rows"]),
    ("relu", {"train_b_dec": True}, ["b_dec is left out"]),
    ("topk", {"auxk_over": "dead"}, ["your AuxK selects among all latents that the row did not choose"]),
    ("topk", {"auxk_reach": "latents"}, ["the residual of your AuxK is not detached"]),
]
SPARSIFY = [
    ("topk", {"mse_normaliser": "none"}, ["your squared error is divided by the variance of the target"]),
    ("topk", {"auxk_normaliser": "none"}, ["your AuxK is divided by the variance of the target"]),
    ("topk", {"auxk_reach": "latents"}, ["your AuxK trains the decoder alone"]),
    (
        "topk",
        {"auxk_reach": "latents", "mse_normaliser": "none"},
        ["trains the decoder alone", "divided by the variance"],
    ),
]
DIFFERENCES = [
    pytest.param(library, *row, id=f"{library}-{row[0]}-{'-'.join(row[1])}")
    for library, rows in {
        "saelens": SAELENS, "dictionary_learning": DICTIONARY_LEARNING, "overcomplete": OVERCOMPLETE,
        "sparsify": SPARSIFY,
    }.items()
    for row in rows
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize(("library", "variant", "paper", "says"), DIFFERENCES)
@pytest.mark.filterwarnings("ignore")
def test_what_a_library_does_otherwise_is_named(library, variant, paper, says):
    if PACKAGES[library] not in INSTALLED:
        pytest.skip(f"{PACKAGES[library]} is not installed")
    adapter = load_adapter(f"minisae.verify.adapters.{library}")
    report = check(adapter, variant, case="base", options=paper)
    assert not report.ok
    assert all(part in report.explanation for part in says), report.explanation
