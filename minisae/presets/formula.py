"""The formula that a configuration computes, in readable mathematics: every piece is made from an option's value.

    encoder, code, reconstruction, loss        in the code's letters; numbers are the configuration's own

An option that a variant does not have is at its default.
"""

from collections.abc import Callable
from typing import Any

from minisae.conventions import option
from minisae.errors import InputError
from minisae.sae import matryoshka

Lines = list[str]


def number(value: float) -> str:
    """Return a number as one writes it: 1/32 and not 0.03125."""
    if value and not float(value).is_integer() and float(1 / value).is_integer() and 1 / value <= 64:
        return f"1/{1 / value:g}"
    return f"{value:g}"


def times(factor: float, expression: str) -> str:
    """Return a product, without a factor of 1."""
    return expression if factor == 1 else f"{number(factor)} · {expression}"


def _pre(cfg: Any) -> str:
    return f"pre = {'(x − b_dec)' if option(cfg, 'subtract_b_dec') else 'x'} W_enc + b_enc"


def _relu(cfg: Any) -> Lines:
    return [_pre(cfg), "f = ReLU(pre)"]


def _gated(cfg: Any) -> Lines:
    z = "(x − b_dec) W_enc" if cfg.subtract_b_dec else "x W_enc"
    return [
        f"z = {z}",
        "pre = z + b_enc",
        "mag = exp(r_mag) z + b_mag",
        "f = 1[pre > 0] · ReLU(mag)",
        "f_gate = ReLU(pre)",
    ]


def _select(cfg: Any, how: str) -> Lines:
    """Return how the k largest are taken: of what, and on which side of the ReLU."""
    lines, ranked = [_pre(cfg)], "pre"
    if option(cfg, "select_by") == "contribution":
        lines, ranked = [*lines, "rank = pre · ‖W_dec,j‖"], "rank"
    before = option(cfg, "relu") == "before"
    chosen = f"{how}(ReLU({ranked}))" if before else f"ReLU({how}({ranked}))"
    lines.append(f"f = {chosen}" if ranked == "pre" else f"f = ReLU(pre) where {how}({ranked}) takes it, else 0")
    if before:
        leak = "passes through it" if option(cfg, "selected_zero") == "passes" else "does not pass"
        lines.append(f"a 0 may be selected: it counts as having fired, and a slope {leak}")
    elif option(cfg, "selected_zero") == "passes":
        lines.append("a slope passes through what is selected, also where it is below 0 and ReLU makes it 0")
    return lines


def _transcoder(cfg: Any) -> Lines:
    return _select(cfg, f"Top{cfg.k}") if cfg.k else [_pre(cfg), "f = ReLU(pre)"]


def _topk(cfg: Any) -> Lines:
    return _select(cfg, f"Top{number(cfg.k)}")


def _multi_topk(cfg: Any) -> Lines:
    wide = f"Top{number(cfg.k * cfg.multi)}"
    code = f"{wide}(ReLU(pre))" if cfg.relu == "before" else f"ReLU({wide}(pre))"
    trains = "; its codes held fixed" if cfg.multi_reach == "decoder" else ""
    return [*_topk(cfg), f"wide = {code} W_dec + b_dec{trains}"]


def _group_max(cfg: Any) -> Lines:
    lines = _select(cfg, "Winners")
    return [*lines, f"Winners: the largest of each of {number(cfg.k)} groups of d_sae/{number(cfg.k)} latents"]


def _abs_topk(cfg: Any) -> Lines:
    ranked = "pre · ‖W_dec,j‖" if option(cfg, "select_by") == "contribution" else "pre"
    return [_pre(cfg), f"f = pre where |{ranked}| is among the {number(cfg.k)} largest, else 0"]


def _archetypal(cfg: Any) -> Lines:
    scale = "exp(log_scale) · " if cfg.scaled else ""
    return [
        *_topk(cfg), f"W_dec = {scale}(A C + Λ),  C: {cfg.n_points} points",
        f"after each step: A ← ReLU(A) over the sums of its rows, rows of Λ shortened to {number(cfg.delta)}",
    ]  # fmt: skip


def _batch_topk(cfg: Any) -> Lines:
    whole = {"nearest": "rounded", "down": "cut to a whole number"}[cfg.k_rounding]
    per = f"{number(cfg.k)} · n, {whole}" if option(cfg, "k_per") == "row" else f"{number(cfg.k)} in all"
    per += ", and all that equal the last one" if option(cfg, "ties") == "all" else ""
    kind = "smallest positive value kept" if option(cfg, "threshold_of") == "least_kept" else "last value selected"
    start = {
        "corrected": "corrected for its start", "from_zero": "from 0", "from_first": "from its first value"
    }[cfg.threshold_rule]  # fmt: skip
    late = f", from step {cfg.threshold_start} on" if cfg.threshold_start else ""
    ranked = "rank" if option(cfg, "select_by") == "contribution" else "pre"
    reaches = "≥" if option(cfg, "ties") == "all" else ">"
    rule = f"θ: running mean of the {kind} of a batch, factor {cfg.threshold_decay:g}, {start}{late}"
    return [
        *_select(cfg, "BatchTopK"),
        f"entries kept in a batch of n rows: {per}",
        f"inference: f = ReLU(pre) · 1[{ranked} {reaches} θ]",
        rule,
    ]


def _jumprelu(cfg: Any) -> Lines:
    above = "≥" if option(cfg, "at_threshold") == "on" else ">"
    sees = {"pre": "pre", "code": "f", "positive_part": "ReLU(pre)"}[option(cfg, "step_sees")]
    log_unit = f"{cfg.log_unit:g}"
    stored = "exp(threshold)" if log_unit == "1" else f"{log_unit} · exp(threshold / {log_unit})"
    below = {
        "zero": "below 0 it counts as 0", "clamp": "set to 0 before each step where below", "keep": "also below 0"
    }[option(cfg, "below_zero")]  # fmt: skip
    stored = stored if cfg.threshold_as == "log" else f"threshold; {below}"
    scale = ", with overcomplete's factors" if option(cfg, "kernel_scale") == "overcomplete" else ""
    inner = "; and pre gets the same with the other sign" if cfg.ste_reach == "everything" else ""
    into_f = "f" if sees == "ReLU(pre)" else "pre"
    f_sees = into_f if sees != "ReLU(pre)" else sees
    return [
        _pre(cfg), f"θ = {stored}", f"f = pre · 1[pre {above} θ];  gate = 1[pre > θ]",
        f"∂f/∂θ := −θ K(({f_sees} − θ)/ε)/ε;  ∂gate/∂θ := −K(({sees} − θ)/ε)/ε{inner}",
        f"K = {cfg.kernel}{scale}, ε = {cfg.bandwidth:g}",
    ]  # fmt: skip


def _matryoshka(cfg: Any) -> Lines:
    drawn = f"{cfg.n_prefixes} drawn at each step" if cfg.n_prefixes else ", ".join(map(str, matryoshka.widths(cfg)))
    return [*_batch_topk(cfg), f"x_hat_m = Σ_[j < m] f_j W_dec,j + b_dec,  m: {drawn}"]


def _levels(cfg: Any) -> str:
    """Return the error of all levels, with the weight of each as the code has it."""
    if cfg.n_prefixes:
        inner, weighted = "Σ_m", ""
    else:
        each = matryoshka.weights(cfg)
        inner = "Σ_m" if len(set(each)) == 1 else f"Σ_m w_m, w = {', '.join(map(number, each))},"
        weighted = f"{number(each[0])} · " if len(set(each)) == 1 and each[0] != 1 else ""
    rows = "(1/n) Σ_rows" if cfg.reduction == "sum" else "(1/(n·d_in)) Σ_rows"
    return f"{weighted}{inner} {rows} ‖x − x_hat_m‖²"


def _matching_pursuit(cfg: Any) -> Lines:
    floor = "0 where that is below 0" if cfg.match == "positive" else "of either sign"
    ends = [f"its residual is shorter than {cfg.residual_threshold:g}"] if cfg.residual_threshold else []
    ends += ["a latent comes up again"] if cfg.stop_on_repeat else []
    stop = f"; a row ends once {' or '.join(ends)}" if ends else ""
    return [
        "r = x − b_dec,  f = 0",
        f"{cfg.k} times: j = argmax ⟨r, W_dec,j⟩,  v = ⟨r, W_dec,j⟩, {floor},  f_j += v,  r −= v W_dec,j{stop}",
    ]


CODES: dict[str, Callable[[Any], Lines]] = {
    "relu": _relu, "p_anneal": _relu, "gated": _gated, "topk": _topk, "batch_topk": _batch_topk, "jumprelu": _jumprelu,
    "multi_topk": _multi_topk, "group_max": _group_max, "abs_topk": _abs_topk, "archetypal": _archetypal,
    "matryoshka": _matryoshka, "matching_pursuit": _matching_pursuit, "transcoder": _transcoder,
    "skip_transcoder": _transcoder,
}  # fmt: skip
"""How each variant that has a preset makes its code."""


def _mse(cfg: Any, name: str = "x_hat") -> str:
    weight, y = getattr(cfg, "mse_weight", 1.0), _target(cfg)
    if option(cfg, "mse_normaliser") == "input_variance":
        return times(weight, f"Σ_rows ‖{y} − {name}‖² / Σ_rows ‖{y} − mean({y})‖²")
    one = f"‖{y} − {name}‖²" + (" / ‖x‖²" if option(cfg, "relative") else "")
    return times(weight, f"(1/n) Σ_rows {one}" if cfg.reduction == "sum" else f"(1/(n·{_width(cfg)})) Σ_rows {one}")


def _target(cfg: Any) -> str:
    return "y" if hasattr(cfg, "d_out") else "x"


def _width(cfg: Any) -> str:
    """Return the letter of the target's width."""
    return "d_out" if hasattr(cfg, "d_out") else "d_in"


def _l1(cfg: Any, f: str = "f") -> str:
    size = f"{f}_j" + (" ‖W_dec,j‖" if option(cfg, "l1_weight") == "decoder_norm" else "")
    p = getattr(cfg, "p", 1.0)
    inner = f"Σ_j {size}" if p == 1 else f"(Σ_j ({size})^{number(p)})^(1/{number(p)})"
    inner += " / ‖x‖" if option(cfg, "relative") else ""
    rows = "Σ_rows" if option(cfg, "penalty_reduction") == "sum" else "(1/n) Σ_rows"
    return f"λ {rows} {inner},  λ = {number(cfg.l1)}"


def _lp(cfg: Any) -> Lines:
    """Return the penalty of p-annealing, p and λ as they move."""
    powers = "(Σ_j f_j^p)^(1/p)" if cfg.p_root else "Σ_j f_j^p"
    end = f"step {cfg.anneal_end}" if cfg.anneal_end else "the end"
    return [
        f"  + λ (1/n) Σ_rows {powers},  λ = {number(cfg.l1)} at first",
        f"    p from {cfg.p_start:g} to {cfg.p_end:g} in {cfg.p_count} values, from step {cfg.anneal_start} to {end}",
        f"    at a new p: λ · mean penalty with the old p / with the new one, over the last {cfg.queue} batches",
    ]


def _auxk(cfg: Any, *, signed: bool = False) -> Lines:
    """Return AuxK: among whom, what it reconstructs, what it is divided by, what it trains."""
    if not cfg.auxk:
        return []
    width = f"{cfg.k_aux}" if cfg.k_aux else "(d_in/2)"
    ranked = "pre · ‖W_dec,j‖" if option(cfg, "select_by") == "contribution" else "pre"
    by = f", by |{ranked}|" if signed else "" if ranked == "pre" else ", by rank"
    who = "dead latents" if option(cfg, "auxk_over") == "dead" else "latents that the row did not choose"
    picked = f"Top{width}(pre of {who}{by})"
    code = f"ReLU({picked})" if option(cfg, "auxk_relu") and not signed else picked
    error, y = "‖aux − e‖²", _target(cfg)
    spread = {"none": "", "residual_variance": "e", "input_variance": y}
    below = {name: f" / Σ_rows ‖{of} − mean({of})‖²" if of else "" for name, of in spread.items()}
    normaliser = option(cfg, "auxk_normaliser")
    mean = "(1/n)" if cfg.reduction == "sum" else f"(1/(n·{_width(cfg)}))"
    rows = "Σ_rows" if normaliser != "none" else f"{mean} Σ_rows"
    few = f" · min(1, dead / {width})" if option(cfg, "auxk_few") == "proportional" else ""
    trains = {
        "latents": "e held fixed", "decoder": "e and the codes held fixed: it trains the decoder alone",
        "everything": "e not held fixed",
    }[option(cfg, "auxk_reach")]  # fmt: skip
    bias = "; b_dec is added on both sides and trained by aux alone" if option(cfg, "auxk_bias") else ""
    return [
        f"  + {times(cfg.auxk, f'{rows} {error}{below[normaliser]}')}{few}",
        f"    aux = {code} W_dec,  e = {y} − {'y_hat' if y == 'y' else 'x_hat'};  {trains}{bias}",
    ]


def _penalty(cfg: Any) -> Lines:
    """Return the penalties of a JumpReLU autoencoder."""
    lam = number(cfg.l1)
    rows = "Σ_rows" if option(cfg, "penalty_reduction") == "sum" else "(1/n) Σ_rows"
    target = number(cfg.target)
    each = cfg.target_of == "rows"
    terms = {
        "l0": f"λ {rows} L0", "tanh": f"λ {rows} Σ_j tanh({number(cfg.tanh_scale)} f_j ‖W_dec,j‖)",
        "target_l0": f"λ {rows} (L0/{target} − 1)²" if each else f"λ (mean L0/{target} − 1)²",
        "l1": f"λ {rows} Σ_j f_j",
    }  # fmt: skip
    count = ",  L0 = Σ_j gate_j" if "L0" in terms[cfg.penalty] else ""
    lines = [f"  + {terms[cfg.penalty]},  λ = {lam}{count}"]
    if cfg.pre_act:
        who = "dead latents j" if cfg.pre_act_reach == "dead" else "j"
        lines.append(f"  + {number(cfg.pre_act)} · (1/n) Σ_rows Σ_[{who}] ReLU(θ_j − pre_j) ‖W_dec,j‖")
    return lines


def formula(variant: str, cfg: Any) -> Lines:
    """Return the lines of the formula that a variant computes and trains with this configuration.

    Raises
    ------
    InputError
        For a variant that has no preset.
    """
    if variant not in CODES:
        raise InputError(f"formula: expected one of {', '.join(CODES)}, got {variant!r}")
    made = "y_hat" if _target(cfg) == "y" else "x_hat"
    skip = " + x W_skipᵀ" if variant == "skip_transcoder" else ""
    loss = [f"L = {_mse(cfg, made)}"]
    if variant == "gated":
        fixed = (
            "; W_dec and b_dec held fixed in it" if cfg.aux_decoder == "frozen" else "; it trains W_dec and b_dec too"
        )
        loss += [f"  + {_l1(cfg, 'f_gate')}", f"  + {_mse(cfg, 'aux')},  aux = f_gate W_dec + b_dec{fixed}"]
    elif variant == "jumprelu":
        loss += _penalty(cfg)
    elif variant == "matryoshka":
        loss = [f"L = {_levels(cfg)}", *_auxk(cfg)]
        loss += ["    each level for its own new latents, its own e"] if cfg.auxk and cfg.auxk_levels == "each" else []
    elif variant == "p_anneal":
        loss += _lp(cfg)
    elif hasattr(cfg, "auxk") and cfg.k:
        loss += [f"  + {times(cfg.multi_weight, _mse(cfg, 'wide'))}"] if variant == "multi_topk" else []
        loss += _auxk(cfg, signed=variant == "abs_topk")
    elif variant != "matching_pursuit":
        loss.append(f"  + {_l1(cfg)}")
    rows = "‖W_dec,j‖ = 1" if cfg.decoder == "unit" else "the rows of W_dec are free"
    return [*CODES[variant](cfg), f"{made} = f W_dec + b_dec{skip},  {rows}", *loss]
