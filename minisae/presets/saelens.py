"""SAELens 6.54: Adam at 3e-4, all gradients clipped to a norm of 1, no constraint on the decoder."""

from minisae.presets.base import ITSELF, Options, Preset, Sizes

NORMS = "decoder rows are free; their norm weighs the penalty, or they select by pre-activation times norm"
ZERO = "the running threshold starts at 0 and is not corrected for it"
START = "the start is drawn otherwise (there: uniform, then rows scaled to 0.1); its scale is the same"


def _recipe(s: Sizes) -> Options:
    """Return the trainer's defaults: a latent is dead after more than 1000 steps, of any batch size."""
    return {
        "lr": 3e-4, "lr_decay": "constant", "clip": 1.0, "sparsity_warmup_begins": "zero", "decoder": "free",
        "dead_after": 1001 * s.batch_size, "b_dec_start": "zero", "start_norm": 0.1,
    }  # fmt: skip


def _relu(s: Sizes) -> Options:
    return {**_recipe(s), "l1": 1.0, "l1_weight": "decoder_norm"}


def _gated(s: Sizes) -> Options:
    return {**_relu(s), "aux_decoder": "trained"}


def _topk(s: Sizes) -> Options:
    own = {"k": min(100, s.d_sae), "select_by": "contribution"}
    return {**_recipe(s), **own, "auxk": 1.0, "auxk_relu": False, "auxk_few": "proportional"}


def _batch_topk(s: Sizes) -> Options:
    return {**_topk(s), "k_rounding": "down", "threshold_rule": "from_zero", "threshold_decay": 0.99}


def _abs_topk(s: Sizes) -> Options:
    return {key: value for key, value in _topk(s).items() if key != "auxk_relu"}


def _matryoshka(s: Sizes) -> Options:
    return {**_batch_topk(s), "levels": "sum", "auxk_levels": "last"}


def _matching_pursuit(s: Sizes) -> Options:
    own = {"k": s.d_in, "residual_threshold": 1e-2, "stop_on_repeat": True, "match": "positive"}
    return {**_recipe(s), **own, "start_norm": 1.0}


def _jumprelu(s: Sizes) -> Options:
    own = {"l1": 1.0, "first_threshold": 0.01, "bandwidth": 0.05, "below_zero": "clamp", "pre_act_reach": "dead"}
    return {**_recipe(s), **own}


def _tanh(s: Sizes) -> Options:
    own = {"penalty": "tanh", "tanh_scale": 4.0, "pre_act": 3e-6, "ste_reach": "everything"}
    return {**_jumprelu(s), **own}


def _quadratic(s: Sizes) -> Options:
    """Return (2 λ'/T)(L0 − T)² with the default λ' = 1 as 2 T λ' (L0/T − 1)²; the source has no default T."""
    target = min(20.0, float(s.d_sae))
    return {**_jumprelu(s), "penalty": "target_l0", "target": target, "l1": 2 * target}


PRESETS = (
    Preset("saelens-6.54/relu", "StandardTrainingSAE", "relu", _relu, 4096, (), (START,)),
    Preset(
        "saelens-6.54/gated", "GatedTrainingSAE", "gated", _gated, 4096,
        ("the gate's own reconstruction trains the decoder too; the paper holds it fixed there",), (START,),
    ),
    Preset(
        "saelens-6.54/topk", "TopKTrainingSAE", "topk", _topk, 4096,
        (NORMS, "AuxK takes negative values too, is not divided by anything, and weighs 1"), (START,),
    ),
    Preset(
        "saelens-6.54/batch_topk", "BatchTopKTrainingSAE", "batch_topk", _batch_topk, 4096,
        (NORMS, "AuxK takes negative values too, is not divided by anything, and weighs 1", ZERO), (START,),
    ),
    Preset(
        "saelens-6.54/abs_topk", "AbsTopKTrainingSAE", "abs_topk", _abs_topk, 4096,
        (NORMS, "AuxK, which the paper does not have, weighs 1"), (START,),
    ),
    Preset(
        "saelens-6.54/matryoshka", "MatryoshkaBatchTopKTrainingSAE", "matryoshka", _matryoshka, 4096,
        (NORMS, "AuxK takes negative values too, is not divided by anything, and weighs 1", ZERO),
        (START, "the widths of the levels have no default there; here they are the paper's shares"),
    ),
    Preset(
        "saelens-6.54/matching_pursuit", "MatchingPursuitTrainingSAE", "matching_pursuit", _matching_pursuit, 4096,
        ("a match below 0 counts as 0", "a row ends at a residual of 0.01 or once a latent comes up again"), (START,),
    ),
    Preset(
        "saelens-6.54/jumprelu", "JumpReLUTrainingSAE, mode step", "jumprelu", _jumprelu, 4096,
        (ITSELF,),
        (START, "the threshold is float32 there whatever the dtype"),
    ),
    Preset(
        "saelens-6.54/jumprelu-tanh", "JumpReLUTrainingSAE, mode tanh", "jumprelu", _tanh, 4096,
        (ITSELF, "the pre-activation loss counts dead latents only; at its source (Anthropic, January 2025) all"),
        (START, "the threshold is float32 there whatever the dtype"),
    ),
    Preset(
        "saelens-6.54/jumprelu-quadratic", "JumpReLUTrainingSAE, mode quadratic", "jumprelu", _quadratic, 4096,
        (ITSELF, "the penalty squares the distance of each row's L0 from its target, not that of the mean"),
        (START, "the threshold is float32 there whatever the dtype"),
    ),
)  # fmt: skip
"""What SAELens 6.54.12 trains; a penalty's coefficient is ``l1`` here."""
