"""The space that is searched: every other value of every named option, and what no library here calls an option."""

from collections.abc import Callable, Iterator
from typing import Any

from minisae.conventions import SWITCHES
from minisae.errors import InputError
from minisae.recipe import check_recipe
from minisae.sae import variant
from minisae.verify.cases import Case, choices, recipe_choices
from minisae.verify.detective import data, loss, steps, thresholds
from minisae.verify.detective.way import Deviation, Terms

SAYS: dict[tuple[str, object], str] = {
    ("subtract_b_dec", False): "you do not subtract b_dec before encoding",
    ("subtract_b_dec", True): "you subtract b_dec before encoding",
    ("reduction", "mean"): "your squared error is averaged over d_in",
    ("reduction", "sum"): "your squared error is summed over d_in",
    ("l1_weight", "decoder_norm"): "your L1 weighs each latent with its decoder norm",
    ("l1_weight", "plain"): "your L1 does not weigh latents with their decoder norm",
    ("relu", "before"): "your ReLU comes before the selection",
    ("relu", "after"): "your ReLU comes after the selection",
    ("selected_zero", "passes"): "a selected latent of value 0 gets gradient from you",
    ("select_by", "contribution"): "you select latents by pre-activation times decoder norm",
    ("mse_normaliser", "input_variance"): "your squared error is divided by the variance of the target",
    ("auxk_normaliser", "none"): "your AuxK is not normalised",
    ("auxk_normaliser", "residual_variance"): "your AuxK is divided by the variance of the residual",
    ("auxk_normaliser", "input_variance"): "your AuxK is divided by the variance of the target",
    ("auxk_reach", "latents"): "your AuxK trains encoder and decoder of the dead latents",
    ("auxk_reach", "decoder"): "your AuxK trains the decoder alone",
    ("auxk_reach", "everything"): "the residual of your AuxK is not detached",
    ("auxk_relu", False): "your AuxK has no ReLU on the code of the dead latents",
    ("auxk_few", "proportional"): "your AuxK counts in proportion while few latents are dead",
    ("auxk_over", "unchosen"): "your AuxK selects among all latents that the row did not choose, not the dead ones",
    ("auxk_bias", True): "your AuxK trains b_dec too",
    ("k_rounding", "down"): "your k times n is cut to a whole number",
    ("threshold_rule", "from_zero"): "your running threshold starts at 0, without bias correction",
    ("threshold_rule", "from_first"): "your running threshold starts at its first value, without bias correction",
    ("threshold_of", "kth"): "your threshold follows the last value selected, 0 included",
    ("aux_decoder", "trained"): "the gate's own reconstruction trains your decoder: it is not frozen",
    ("aux_decoder", "frozen"): "your decoder is frozen in the gate's own reconstruction",
    ("ste_reach", "everything"): "your pseudo-derivative trains the encoder too",
    ("ste_reach", "threshold"): "your pseudo-derivative trains the threshold alone",
    ("step_sees", "code"): "your pseudo-derivative of the penalty looks at the code, not at the pre-activation",
    ("at_threshold", "off"): "your code is not active at its threshold",
    ("at_threshold", "on"): "your code is active at its threshold, your gate is not",
    ("below_zero", "keep"): "your thresholds below 0 are kept in training, so that negative codes pass",
    ("below_zero", "clamp"): "your thresholds below 0 are set to 0 before each step",
    ("below_zero", "zero"): "your thresholds below 0 count as 0, and stay where they are",
    ("threshold_as", "log"): "you take the threshold for its logarithm",
    ("threshold_as", "itself"): "you take the logarithm of the threshold for the threshold itself",
    ("target_of", "batch"): "your target is for the mean L0 of the batch, not for each row's",
    ("target_of", "rows"): "your target is for the L0 of each row, not for the batch's mean",
    ("pre_act_reach", "dead"): "your pre-activation loss counts dead latents only",
    ("pre_act_reach", "all"): "your pre-activation loss counts all latents",
    ("penalty_reduction", "sum"): "your penalty is summed over rows, not averaged",
    ("decoder", "free"): "you neither project nor renormalise the decoder",
    ("decoder", "unit"): "you keep decoder rows at unit norm",
    ("eps_convention", "before_correction"): "your Adam has ε beside the uncorrected root of v",
    ("eps_convention", "after_correction"): "your Adam has ε beside the corrected root of v",
    ("optimiser", "signum"): "your optimiser is schedule-free sign descent",
    ("ghost", True): "you add ghost gradients",
    ("train_b_dec", False): "you do not train b_dec",
    ("dead_judged", "with_batch"): "you judge with the batch which latents are dead",
    ("lr_warmup_begins", "zero"): "your learning rate is 0 on the first step of its warm-up",
    ("sparsity_warmup_begins", "zero"): "your λ is 0 on the first step of its warm-up",
    ("projection", "assumes_unit"): "your projection takes decoder rows to have unit norm",
}  # fmt: skip
"""Clauses for values of options; what is not here is put together from the option's own description."""
SKIPPED = ("dtype", "d_in", "d_sae")


def deviations(case: Case) -> list[Deviation]:
    """Return all single deviations that make sense for a case, the likelier first.

    Examples
    --------
    >>> from minisae.verify.cases import cases
    >>> "your squared error is averaged over d_in" in [d.says for d in deviations(cases("relu")["base"])]
    True
    """
    found = [*_options(case), *_numbers(case), *loss.deviations(case), *data.deviations(case)]
    return [*found, *thresholds.deviations(case), *_recipe(case), *steps.deviations(case)]


def _accepted(case: Case, cfg: Any) -> bool:
    try:
        variant(case.variant).check_config(cfg)
    except InputError:
        return False
    return True


def _clause(field: str, value: object, default: object) -> str:
    if (field, value) in SAYS:
        return SAYS[field, value]
    about = f" ({SWITCHES[field].says})" if field in SWITCHES else ""
    return f"your {field} is {value}, not {default}{about}"


def _options(case: Case) -> Iterator[Deviation]:
    width = next(iter(loss.widths_of(case.cfg)))
    for field, values in choices(case.variant).items():
        default = getattr(case.cfg, field)
        for value in values:
            if value != default and _accepted(case, case.cfg._replace(**{field: value})):
                says = _clause(field, value, default).replace("over d_in", f"over {width}")
                yield Deviation(
                    f"{field}={value}", says, field,
                    cfg=_with(field, _always(value)),
                    terms=_under_the_old_name(value, default) if field == "penalty" else None,
                )  # fmt: skip


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda options: value


def _with(field: str, value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a change of one option, to what ``value`` makes of the options."""
    return lambda options: options._replace(**{field: value(options)})


def _under_the_old_name(new: str, old: str) -> Callable[..., Terms]:
    """Return a change of terms: another penalty is handed over as the one that it stands for."""
    return lambda at, out, found, sparsity: {old if name == new else name: term for name, term in found.items()}


def _numbers(case: Case) -> Iterator[Deviation]:
    """Yield other numbers of the configuration that are easily mistaken."""
    cfg = case.cfg
    tries: dict[str, dict[str, Any]] = {
        "k": {"one too many": lambda c: c.k + 1, "one too few": lambda c: c.k - 1},
        "k_aux": {
            "d_sae // 2": lambda c: c.d_sae // 2, "d_in": lambda c: c.d_in, "d_in // 2": lambda c: max(1, c.d_in // 2),
            "k": lambda c: round(c.k), "d_sae": lambda c: c.d_sae,
        },
        "tanh_scale": {"1": lambda c: 1.0, "4": lambda c: 4.0},
        "threshold_decay": {"0.9": lambda c: 0.9, "0.99": lambda c: 0.99, "0.999": lambda c: 0.999},
        "threshold_start": {"1001": lambda c: 1001},
    }  # fmt: skip
    for field, values in tries.items():
        for label, value in values.items() if hasattr(cfg, field) and (field != "k" or cfg.k) else ():
            other = cfg._replace(**{field: value(cfg)})
            if other != cfg and _accepted(case, other):
                says = f"your {field} is {label}" + ("" if field == "k" else f", not {getattr(cfg, field)}")
                yield Deviation(
                    f"{field}={label}", says, field,
                    cfg=_with(field, value),
                )  # fmt: skip


def _recipe(case: Case) -> Iterator[Deviation]:
    for field, values in recipe_choices().items():
        default = getattr(case.recipe, field)
        for value in values if field not in SKIPPED else ():
            recipe = case.recipe._replace(**{field: value})
            if value == default or not _trains(case, recipe):
                continue
            yield Deviation(
                f"{field}={value}", _recipe_clause(field, value, default), field,
                recipe=_with(field, _always(value)),
            )  # fmt: skip


def _recipe_clause(field: str, value: object, default: object) -> str:
    if field == "order":
        return f"the order of your training step is {str(value).replace('-', ', ')}"
    return _clause(field, value, default)


def _trains(case: Case, recipe: Any) -> bool:
    """Whether a recipe makes sense; another optimiser would need another state, which a case does not hold."""
    try:
        check_recipe(recipe, case.cfg)
    except InputError:
        return False
    return bool(recipe.optimiser == case.recipe.optimiser)
