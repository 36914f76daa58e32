"""The levels of a Matryoshka autoencoder: widths of its nested dictionaries, what each reconstructs, AuxK of each.

    x_hat_m = b_dec + Σ_{j < m} f_j W_dec,j                  the first m latents, m in the prefixes

Bussmann et al. 2025, arXiv:2503.17547; how the prefixes are drawn is said in :mod:`minisae.sae.matryoshka`. Letters:
n rows, d_in, d_sae.
"""

from typing import Any

import numpy as np

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.ops import Code, columns, decode, top_k_among
from minisae.sae import auxk, linear, ranking
from minisae.streams import generator

Params = linear.Params

SHARES = (1 / 32, 3 / 32, 7 / 32, 15 / 32)
"""Prefixes as shares of d_sae where none are given: the paper's 2048, 6144, 14336 and 30720 of 65536."""


def check_config(cfg: Any) -> None:
    """Refuse prefixes that are not nested, and numbers that make no sense, in one line."""
    for name in ("prefixes", "level_weights"):
        if not isinstance(getattr(cfg, name), tuple):
            raise InputError(f"{name}: expected a list of numbers, got {getattr(cfg, name)!r}")
    for width in cfg.prefixes:
        check_number("prefixes", width, least=1, most=cfg.d_sae, whole=True)
    if any(first >= then for first, then in zip(cfg.prefixes, cfg.prefixes[1:], strict=False)):
        raise InputError(f"prefixes: expected widths that rise, got {', '.join(map(str, cfg.prefixes))}")
    check_number("n_prefixes", cfg.n_prefixes, least=0, whole=True)
    check_number("least_prefix", cfg.least_prefix, least=1, whole=True)
    check_number("prefix_power", cfg.prefix_power, least=0)
    if not cfg.prefix_power:
        raise InputError("prefix_power: expected a number above 0, got 0")
    if cfg.n_prefixes and (cfg.prefixes or cfg.level_weights):
        raise InputError("n_prefixes: expected 0 beside prefixes or level_weights, which are for fixed ones")
    if cfg.n_prefixes > 1 + max(0, cfg.d_sae - cfg.least_prefix):
        raise InputError(f"n_prefixes: expected no more than there are widths to draw, got {cfg.n_prefixes}")
    for weight in cfg.level_weights:
        check_number("level_weights", weight, least=0)
    n_levels = len(widths(cfg))
    if len(cfg.level_weights) not in (0, n_levels):
        raise InputError(f"level_weights: expected one for each of {n_levels} prefixes, got {cfg.level_weights}")


def widths(cfg: Any) -> tuple[int, ...]:
    """Return the widths of the nested dictionaries, the last of them ``d_sae``."""
    some = cfg.prefixes or {max(1, round(share * cfg.d_sae)) for share in SHARES}
    return (*sorted(m for m in some if m < cfg.d_sae), cfg.d_sae)


def weights(cfg: Any) -> tuple[float, ...]:
    """Return what the error of each nested dictionary is multiplied by."""
    n_levels = len(widths(cfg))
    share = n_levels if cfg.levels == "mean" else 1
    return tuple(weight / share for weight in cfg.level_weights or (1.0,) * n_levels)


def drawn(cfg: Any, *, step: int, seed: int) -> tuple[int, ...]:
    """Return the ``n_prefixes`` prefixes of a step of the run with this ``seed``."""
    rises = np.arange(cfg.d_sae - cfg.least_prefix + 1) ** cfg.prefix_power  # (n_widths+1,)
    p = np.diff(rises) / rises[-1] if len(rises) > 1 else None  # (n_widths,)
    found = generator(seed, "prefixes", step).choice(
        np.arange(cfg.least_prefix, cfg.d_sae), cfg.n_prefixes - 1, replace=False, p=p
    )  # (n_drawn,)
    return (*sorted(found.tolist()), cfg.d_sae)


def reconstructions(params: Params, f: Code, cfg: Any) -> Array | None:
    """Return the reconstructions of the prefixes but the last ``(n_inner, n, d_in)``; ``None`` if there is one only."""
    found, x_hat, start = [], params["b_dec"][..., None, :], 0
    for stop in widths(cfg)[:-1]:
        x_hat = x_hat + decode(columns(f, start, stop), params["W_dec"][..., start:stop, :])  # (n, d_in)
        found.append(x_hat)
        start = stop
    return namespace(x_hat).stack(found, axis=-3) if found else None


def dead_codes(pre: Array, ranked: Array, cfg: Any, dead: Array) -> tuple[Code, ...]:
    """Return the codes of the dead latents of each level, those of earlier levels left out, ``(n, width)`` each."""
    found, start = [], 0
    for stop in widths(cfg):
        own = ranked[..., :stop]  # (n, width)
        allowed = dead[..., :stop] & (namespace(dead).arange(stop) >= start)  # (width,)
        f_aux = top_k_among(own, min(auxk.aux_width(cfg), stop), allowed, rectify=cfg.auxk_relu)  # (n, width)
        found.append(ranking.code_of(f_aux, own, pre[..., :stop]))
        start = stop
    return tuple(found)


def errors(nested: Array, y: Array, cfg: Any) -> losses.Term:
    """Return the weighted errors of all ``nested`` reconstructions ``(n_inner, n, d_in)`` together."""
    terms = [
        losses.mse(nested[..., j, :, :], y, reduction=cfg.reduction, weight=weight)
        for j, weight in enumerate(weights(cfg)[:-1])
    ]
    d_nested = namespace(y).stack([term.slopes["x_hat"] for term in terms], axis=-3)  # (n_inner, n, d_in)
    return losses.Term(sum(term.value for term in terms), {"nested": d_nested}, {})


def aux_k(aux: Array, hats: list[Array], y: Array, cfg: Any, dead: Array) -> losses.Term:
    """Return AuxK summed over the levels, each with the dead latents that are new in it.

    Parameters
    ----------
    aux : what those reconstruct ``(n_levels, n, d_in)``
    hats : reconstructions of the levels ``(n, d_in)``, whose residuals are to be explained
    y : the target ``(n, d_in)``
    cfg : the variant's configuration
    dead : bool ``(d_sae,)``
    """
    few = auxk.aux_width(cfg) if cfg.auxk_few == "proportional" else 1
    through, terms, start = cfg.auxk_reach == "everything", [], 0
    for j, stop in enumerate(widths(cfg)):
        n_dead = dead[..., start:stop].sum(axis=-1)  # ()
        terms.append(
            losses.aux_k(
                aux[..., j, :, :], hats[j], y, n_dead, few=few, coefficient=cfg.auxk, reduction=cfg.reduction,
                normaliser=cfg.auxk_normaliser, through_residual=through,
            )
        )  # fmt: skip
        start = stop
    xp = namespace(y)
    slopes = {"aux": xp.stack([term.slopes["aux"] for term in terms], axis=-3)}
    if through:
        *inner, slopes["x_hat"] = [term.slopes.get("x_hat", xp.zeros_like(y)) for term in terms]
        slopes |= {"nested": xp.stack(inner, axis=-3)} if inner else {}
    return losses.Term(sum(term.value for term in terms), slopes, {})
