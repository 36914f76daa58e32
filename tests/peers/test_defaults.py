"""The numbers in the presets are the defaults of the installed libraries, read from their classes."""

import dataclasses
import importlib
import importlib.util
import inspect

import pytest

from minisae.presets import PRESETS, Sizes
from minisae.presets.words import settings
from tests.peers.drivers import without_pictures

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
SIZES = Sizes(768, 4096, 30_000, 4096)


def library(name):
    """An installed library, or a skip."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (extra peers)")
    without_pictures(name)
    return importlib.import_module(name)


def ours(name):
    """Options and recipe of a preset together."""
    cfg, recipe = settings(name, SIZES)
    return {**recipe._asdict(), **cfg._asdict()}


def agree(found, theirs, names):
    """Each of our options equals the library's of another name."""
    assert {a: found[a] for a in names} == {a: theirs[b] for a, b in names.items()}


SAELENS = {
    "relu": ("Standard", {"l1": "l1_coefficient", "p": "lp_norm", "sparsity_warmup": "l1_warm_up_steps"}),
    "gated": ("Gated", {"l1": "l1_coefficient", "sparsity_warmup": "l1_warm_up_steps"}),
    "topk": ("TopK", {"k": "k", "auxk": "aux_loss_coefficient"}),
    "batch_topk": ("BatchTopK", {"k": "k", "auxk": "aux_loss_coefficient"}),
    "abs_topk": ("AbsTopK", {"k": "k", "auxk": "aux_loss_coefficient"}),
    "matryoshka": ("MatryoshkaBatchTopK", {"k": "k", "auxk": "aux_loss_coefficient"}),
    "matching_pursuit": (
        "MatchingPursuit",
        {"residual_threshold": "residual_threshold", "stop_on_repeat": "stop_on_duplicate_support"},
    ),
    "jumprelu": (
        "JumpReLU",
        {"l1": "l0_coefficient", "first_threshold": "jumprelu_init_threshold", "bandwidth": "jumprelu_bandwidth"},
    ),
    "jumprelu-tanh": ("JumpReLU", {"l1": "l0_coefficient", "tanh_scale": "jumprelu_tanh_scale"}),
}


@pytest.mark.parametrize("name", SAELENS)
def test_saelens(name):
    sae_lens = library("sae_lens")
    kind, names = SAELENS[name]
    theirs = {f.name: f.default for f in dataclasses.fields(getattr(sae_lens, f"{kind}TrainingSAEConfig"))}
    trainer = {
        f.name: f.default for f in dataclasses.fields(importlib.import_module("sae_lens.config").SAETrainerConfig)
    }
    found = ours(f"saelens-6.54/{name}")
    agree(found, theirs, names)
    agree(found, trainer, {"lr": "lr", "lr_warmup": "lr_warm_up_steps", "beta1": "adam_beta1", "beta2": "adam_beta2"})
    assert found["dead_after"] == (trainer["dead_feature_window"] + 1) * SIZES.batch_size
    if name != "matching_pursuit":  # which puts 1 in its place itself
        assert found["start_norm"] == theirs["decoder_init_norm"]
    assert PRESETS[f"saelens-6.54/{name}"].batch_size == 4096


PENALTY = {"l1": "l1_penalty", "sparsity_warmup": "sparsity_warmup_steps"}
DICTIONARY_LEARNING = {
    "relu": ("standard", "StandardTrainer", {"lr": "lr", **PENALTY}),
    "relu-april": ("standard", "StandardTrainerAprilUpdate", {"lr": "lr", **PENALTY}),
    "gated": ("gdm", "GatedSAETrainer", {"lr": "lr", **PENALTY}),
    "p_anneal": (
        "p_anneal", "PAnnealTrainer",
        {
            "lr": "lr", "l1": "initial_sparsity_penalty", "sparsity_warmup": "sparsity_warmup_steps",
            "anneal_start": "anneal_start", "p_start": "p_start", "p_count": "n_sparsity_updates",
            "queue": "sparsity_queue_length",
        },
    ),
    "jumprelu": (
        "jumprelu", "JumpReluTrainer",
        {"lr": "lr", "l1": "sparsity_penalty", "bandwidth": "bandwidth", "target": "target_l0"},
    ),
    "topk": ("top_k", "TopKTrainer", {"auxk": "auxk_alpha"}),
    "batch_topk": ("batch_top_k", "BatchTopKTrainer", {"auxk": "auxk_alpha", "threshold_decay": "threshold_beta"}),
    "matryoshka": (
        "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer",
        {"auxk": "auxk_alpha", "threshold_decay": "threshold_beta"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DICTIONARY_LEARNING)
def test_dictionary_learning(name):
    library("dictionary_learning")
    module, kind, names = DICTIONARY_LEARNING[name]
    trainer = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), kind)
    theirs = {key: p.default for key, p in inspect.signature(trainer.__init__).parameters.items()}
    found = ours(f"dictionary_learning-2025-08/{name}")
    agree(found, theirs, {**names, "lr_warmup": "warmup_steps"})
    assert theirs["decay_start"] is None
    if "threshold_start_step" in theirs and "threshold_start" in found:
        assert found["threshold_start"] == theirs["threshold_start_step"] + 1


def test_sparsify():
    config = importlib.import_module(library("sparsify").__name__ + ".config")
    coder, train = (
        {f.name: f.default for f in dataclasses.fields(kind)} for kind in (config.SparseCoderConfig, config.TrainConfig)
    )
    found = ours("sparsify-1.3.3/topk")
    agree(found, coder, {"k": "k"})
    agree(found, train, {"auxk": "auxk_alpha", "lr_warmup": "lr_warmup_steps"})
    assert found["dead_after"] == train["dead_feature_threshold"] + 1
    assert train["optimizer"] == "signum"


def test_overcomplete():
    library("overcomplete")
    losses, batch = (importlib.import_module(f"overcomplete.sae.{name}") for name in ("losses", "batchtopk_sae"))
    theirs = inspect.signature(batch.BatchTopKSAE.__init__).parameters
    assert ours("overcomplete-0.3/batch_topk")["threshold_decay"] == theirs["threshold_momentum"].default
    assert (
        ours("overcomplete-0.3/topk")["auxk"]
        == inspect.signature(losses.top_k_auxiliary_loss).parameters["penalty"].default
    )
    assert ours("overcomplete-0.3/relu")["l1"] == inspect.signature(losses.mse_l1).parameters["penalty"].default
    jump = importlib.import_module("overcomplete.sae.jump_sae").JumpSAE
    theirs, found = inspect.signature(jump.__init__).parameters, ours("overcomplete-0.3/jumprelu")
    assert (found["kernel"], found["bandwidth"]) == (theirs["kernel"].default, theirs["bandwidth"].default)
    train = importlib.import_module("overcomplete.sae.train").train_sae
    assert ours("overcomplete-0.3/relu")["clip"] == inspect.signature(train).parameters["clip_grad"].default
