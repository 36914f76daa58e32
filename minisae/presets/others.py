"""sparsify 1.3.3, OpenAI's release of June 2024, overcomplete 0.3 and what is published of Gemma Scope."""

import math

import numpy as np

from minisae.presets.base import Options, Preset, Sizes, decay_after_warmup, scaled_rate

HOLLOW = "AuxK, off by default, trains the decoder alone: the encoder drops the slopes of what it did not select"
LEAK = "a selected zero gets gradient: the encoder's backward has no ReLU in it"
LAST = "the last step is not renormalised: saved rows are one step off unit norm"
START = "the start is drawn otherwise (there: uniform weights); b_dec is the mean of a sample, there of the first batch"


def _sparsify(s: Sizes) -> Options:
    """Return a TopK autoencoder as sparsify's ``SparseCoder`` has it, without an optimiser."""
    return {
        "k": min(32, s.d_sae), "relu": "before", "selected_zero": "passes", "mse_normaliser": "input_variance",
        "auxk": 0.0, "auxk_normaliser": "input_variance", "auxk_reach": "decoder", "auxk_few": "proportional",
        "dead_after": 10_000_001, "b_dec_start": "mean", "init_rows": s.batch_size,
        "order": "normalise-forward-project-clip-step", "projection": "assumes_unit",
        "normalise_eps": float(np.finfo(s.dtype).eps),
    }  # fmt: skip


def _sparsify_adam(s: Sizes) -> Options:
    rise = min(1000, s.steps - 1)
    return {
        **_sparsify(s), "lr": scaled_rate(2e-4, s.d_sae), "lr_warmup": rise, "lr_warmup_begins": "zero",
        "lr_decay": "linear", "lr_decay_start": decay_after_warmup(rise, s.steps),
    }  # fmt: skip


def _sparsify_multi(s: Sizes) -> Options:
    k = max(1, min(32, s.d_sae // 4))
    return {**_sparsify_adam(s), "k": k, "multi": 4, "multi_weight": 1 / 8, "multi_reach": "decoder"}


def _sparsify_transcoder(s: Sizes) -> Options:
    """Return a transcoder: the decoder is free and starts at 0, so that the mean target is predicted at first."""
    shared = {key: value for key, value in _sparsify_adam(s).items() if key in TRANSCODER}
    return {**shared, "decoder": "free"}


def _sparsify_signum(s: Sizes) -> Options:
    rate = {"optimiser": "signum", "beta1": 0.95, "lr": scaled_rate(5e-3, s.d_sae), "lr_decay": "constant"}
    return {**_sparsify(s), **rate}


def _openai(s: Sizes) -> Options:
    """Return the defaults of the released trainer; a step's threshold for "dead" is whole there, so it is here."""
    return {
        "k": min(32, s.d_sae), "k_aux": min(256, s.d_sae), "auxk": 1 / 32, "auxk_normaliser": "residual_variance",
        "auxk_bias": True, "reduction": "mean", "lr": 1e-4, "eps": 6.25e-10, "lr_decay": "constant",
        "dead_after": max(1, 10_000_000 // s.batch_size) * s.batch_size, "dead_judged": "with_batch",
        "fired_above": 1e-3, "init_rows": 32_768, "order": "normalise-project-clip-step", "projection": "assumes_unit",
    }  # fmt: skip


def _overcomplete(s: Sizes) -> Options:
    """Return what its autoencoders share: no b_dec, a mean over everything, an optimiser that is the user's."""
    return {
        "reduction": "mean", "subtract_b_dec": False, "train_b_dec": False, "b_dec_start": "zero", "clip": 1.0,
        "order": "normalise-forward-normalise-clip-step", "normalise_eps": 1e-8, "lr_decay": "constant",
    }  # fmt: skip


def _overcomplete_relu(s: Sizes) -> Options:
    return {**_overcomplete(s), "l1": 1.0, "penalty_reduction": "sum"}


def _overcomplete_topk(s: Sizes) -> Options:
    own = {"k": max(s.d_sae // 10, 1), "relu": "before", "auxk": 0.1, "k_aux": s.d_sae // 2, "auxk_over": "unchosen"}
    return {**_overcomplete(s), **own, "auxk_reach": "everything"}


def _overcomplete_batch_topk(s: Sizes) -> Options:
    own = {"k_per": "batch", "ties": "all", "threshold_of": "kth", "threshold_decay": 0.9}
    shared = {key: value for key, value in _overcomplete_topk(s).items() if key != "relu"}
    return {**shared, **own, "threshold_rule": "from_first"}


def _overcomplete_archetypal(s: Sizes) -> Options:
    shared = {"reduction": "mean", "clip": 1.0, "lr_decay": "constant", "train_b_dec": False, "b_dec_start": "zero"}
    return {**shared, "k": max(s.d_sae // 10, 1), "delta": 1.0}


def _overcomplete_jumprelu(s: Sizes) -> Options:
    own = {"threshold_as": "log", "first_threshold": math.exp(-3), "bandwidth": 1e-3, "kernel": "silverman"}
    own |= {"penalty": "l1", "penalty_reduction": "sum", "l1": 1.0}
    own |= {"at_threshold": "on", "step_sees": "positive_part", "kernel_scale": "overcomplete"}
    return {**_overcomplete(s), **own}


def _overcomplete_matching_pursuit(s: Sizes) -> Options:
    shared = {key: value for key, value in _overcomplete(s).items() if key != "subtract_b_dec"}
    return {**shared, "k": 1}


def _gemma_scope(s: Sizes) -> Options:
    return {
        "lr": 7e-5, "beta1": 0.0, "lr_warmup": min(1000, s.steps - 1), "lr_decay": "constant",
        "sparsity_warmup": min(10_000, s.steps - 1), "l1": 1e-3, "bandwidth": 1e-3, "first_threshold": 1e-3,
        "threshold_as": "log", "subtract_b_dec": False, "input_scale": "mean_square", "b_dec_start": "zero",
    }  # fmt: skip


TRANSCODER = (
    *("k", "relu", "selected_zero", "mse_normaliser", "auxk", "auxk_normaliser", "auxk_reach", "auxk_few"),
    *("dead_after", "init_rows", "lr", "lr_warmup", "lr_warmup_begins", "lr_decay", "lr_decay_start"),
)
"""What a transcoder of sparsify takes from its autoencoder."""
EIGHT = "Adam is 8-bit there where bitsandbytes is installed; on a GPU the forward pass is bfloat16"
LATE = "with k_anneal (from k = min(d_sae, 10 d_in) on) each k comes a step later there"
TWICE = "between two uses in one step rows are divided by norm + 1e-8 once more there: some 1e-10 of them"
USER = "encoder and optimiser are the user's there; here the linear encoder without batch norm, and Adam"
PRESETS = (
    Preset(
        "sparsify-1.3.3/topk", "SparseCoder, optimizer adam", "topk", _sparsify_adam, 2048, (HOLLOW, LEAK, LAST),
        (START, EIGHT, LATE),
    ),
    Preset(
        "sparsify-1.3.3/topk-signum", "SparseCoder, optimizer signum (its default)", "topk", _sparsify_signum, 2048,
        (HOLLOW, LEAK, "saved rows are not of unit norm: they are averages, and renormalisation touches y alone"),
        (START, "on a GPU the forward pass is bfloat16 there"),
    ),
    Preset(
        "sparsify-1.3.3/multi_topk", "SparseCoder, multi_topk", "multi_topk", _sparsify_multi, 2048,
        (HOLLOW, "and so is it with the wider code: its slope ends at the decoder", LEAK, LAST), (START, EIGHT, LATE),
    ),
    Preset(
        "sparsify-1.3.3/group_max", "SparseCoder, activation groupmax", "group_max", _sparsify_adam, 2048,
        (HOLLOW, LEAK, LAST), (START, EIGHT, LATE),
    ),
    Preset(
        "sparsify-1.3.3/transcoder", "SparseCoder, transcode", "transcoder", _sparsify_transcoder, 2048, (HOLLOW, LEAK),
        ("on a GPU the forward pass is bfloat16 there",),
    ),
    Preset(
        "sparsify-1.3.3/skip_transcoder", "SparseCoder, transcode and skip_connection", "skip_transcoder",
        _sparsify_transcoder, 2048, (HOLLOW, LEAK), ("on a GPU the forward pass is bfloat16 there",),
    ),
    Preset(
        "openai-2024-06/topk", "FastAutoencoder and its training_loop_", "topk", _openai, 131_072,
        ("AuxK trains b_dec, which stands on both sides of its error", LAST),
        (
            "the error is divided by the variance of a sample there, once for all: give mse_weight=1/variance",
            "the encoder starts divided by the norm that random unit vectors have after reconstruction",
            "the forward pass is float16 there",
            "a latent that never fired is dead a step sooner than there",
        ),
    ),
    Preset(
        "overcomplete-0.3/relu", "SAE with losses.mse_l1", "relu", _overcomplete_relu, 2048,
        ("the penalty is summed over the batch beside a mean error: it grows with the batch", LAST),
        ("the start is drawn otherwise", USER),
    ),
    Preset(
        "overcomplete-0.3/topk", "TopKSAE with losses.top_k_auxiliary_loss", "topk", _overcomplete_topk, 2048,
        ("AuxK takes half of the latents, of all that a row did not choose", "its residual is not held fixed", LAST),
        ("the start is drawn otherwise", USER, TWICE),
    ),
    Preset(
        "overcomplete-0.3/batch_topk", "BatchTopKSAE with losses.top_k_auxiliary_loss", "batch_topk",
        _overcomplete_batch_topk, 2048,
        ("k counts latents of the whole batch", "entries equal to the last one kept are kept too", LAST),
        ("the start is drawn otherwise", USER, TWICE, "saving loses the threshold there"),
    ),
    Preset(
        "overcomplete-0.3/archetypal", "RATopKSAE with a mean squared error", "archetypal", _overcomplete_archetypal,
        2048, (),
        (USER, "points are the user's there, here centroids of the sample", "weights are divided by sum + 1e-8 there"),
    ),
    Preset(
        "overcomplete-0.3/jumprelu", "JumpSAE with losses.mse_l1", "jumprelu", _overcomplete_jumprelu, 2048,
        (
            "kernels integrate to 2 (silverman) or to one over their bandwidth more than that of the paper",
            "the pseudo-derivative looks at the pre-activation's positive part", LAST,
        ),
        ("the start is drawn otherwise", USER, "kernels and the bandwidth are float32 there"),
    ),
    Preset(
        "overcomplete-0.3/matching_pursuit", "MpSAE with a mean squared error", "matching_pursuit",
        _overcomplete_matching_pursuit, 2048, (LAST,),
        ("the start is drawn otherwise", "the optimiser is the user's there, Adam here", TWICE),
    ),
    Preset(
        "gemma-scope/jumprelu", "Lieberum et al. 2024, arXiv:2408.05147, section 3", "jumprelu", _gemma_scope, 4096,
        (), ("published as text, not as code", "the rate rises along a cosine from a tenth there, here along a line"),
    ),
)  # fmt: skip
"""Their trainers, where they have one."""
