"""Matryoshka sparse autoencoder (Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse
Autoencoders", arXiv:2503.17547): nested dictionaries, each of which has to reconstruct by itself.

    pre   = (x − b_dec) W_enc + b_enc
    f     = ReLU(BatchTopK(pre))                                      as in batch_topk; one selection for all levels
    x_hat_m = b_dec + Σ_{j < m} f_j W_dec,j                           the first m latents, m in the prefixes 𝓜
    L     = (1/n) Σ_rows ( Σ_{m ∈ 𝓜} ‖x − x_hat_m‖² + c ‖aux − (x − x_hat)‖² )            x_hat: the last, m = d_sae

The prefixes are fixed, or drawn anew at each step (``n_prefixes``), as in Nabeshima 2024, sparselatents.com. Their
distribution is that of its code, github.com/noanabeshima/matryoshka-saes, ``sample_prefixes``, which calls it Pareto:
without replacement, P(``least_prefix`` + i) ∝ (i + 1)^p − i^p with p = 0.5, and d_sae always. That code also averages
the levels, has L1 in place of BatchTopK, and keeps sorting the latents by their mean square, which is left out here.

    paper, SAELens 6.54        ``levels="sum"``; SAELens' ``use_matryoshka_aux_loss``: ``auxk_levels="each"``
    dictionary_learning        ``levels="mean"`` of w_m ‖x − x_hat_m‖², w_m = 1/|𝓜| if not given: 1/|𝓜|² of the sum, so
                               that AuxK, which is not divided, weighs |𝓜|² times as much as beside a sum
Letters: n rows, d_in, d_sae, k.

Examples
--------
>>> import numpy as np
>>> cfg = Config(d_in=3, d_sae=7, k=2, prefixes=(2, 5, 7))
>>> rng = np.random.default_rng(0)
>>> params, x = init(cfg, rng), rng.standard_normal((50, 3), dtype=np.float32)
>>> forward(params, x, cfg)[0].nested.shape
(2, 50, 3)
>>> small, its_cfg = prefix(params, cfg, 2)
>>> bool((encode(small, x, its_cfg) == encode(params, x, cfg)[:, :2]).all())
True
>>> at_step(cfg._replace(prefixes=(), n_prefixes=3), step=4, steps=9, seed=0).prefixes
(1, 5, 7)
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisae import losses
from minisae.backend import Array, namespace
from minisae.conventions import check_number
from minisae.ops import Code, columns, fired
from minisae.ops import decode as product
from minisae.sae import auxk, batchwise, linear, nesting, ranking

SOURCE = "Bussmann et al. 2025, Learning Multi-Level Features with Matryoshka Sparse Autoencoders, arXiv:2503.17547"
SHAPES = batchwise.SHAPES
UNITS = batchwise.UNITS
SAELENS = "jumprelu trained as matryoshka_batchtopk"
"""The architecture that SAELens 6 has for it: a threshold for each latent, once it is trained."""
STATE = batchwise.STATE
"""What stands beside the parameters and is not trained; ``after_step`` moves it."""
FRACTIONAL_K = True
"""Annealing k does not round it."""
init = batchwise.init
encode = batchwise.encode
after_step = batchwise.after_step
decode = linear.reconstruct
widths = nesting.widths
weights = nesting.weights
folded = ranking.folded
Params = linear.Params


class Config(NamedTuple):
    """What the variant computes."""

    d_in: int
    """Activation width."""
    d_sae: int
    """Number of latents."""
    k: float = 32
    """Active latents a row on average, not necessarily whole: k times the rows of a batch is rounded."""
    prefixes: tuple[int, ...] = ()
    """Widths of the nested dictionaries, rising; ``d_sae`` is added where it is missing. Empty takes the paper's
    shares, ``nesting.SHARES``."""
    n_prefixes: int = 0
    """Draw so many prefixes at each step of training, ``d_sae`` among them; 0 keeps the same."""
    least_prefix: int = 1
    """The smallest prefix that is drawn."""
    prefix_power: float = 0.5
    """p of the distribution of drawn prefixes; 1 is uniform."""
    level_weights: tuple[float, ...] = ()
    """w_m of each prefix; empty takes 1."""
    levels: str = "sum"
    """Sum or mean of the errors over the prefixes."""
    k_aux: int = 0
    """Dead latents a row in AuxK; 0 takes half of ``d_in``, and at most ``d_sae``."""
    auxk: float = 1 / 32
    """Coefficient of AuxK; 0 switches it off."""
    auxk_levels: str = "last"
    """``"each"``: the dead latents that are new in a level explain its residual, summed over the levels (SAELens)."""
    subtract_b_dec: bool = True
    """Subtract ``b_dec`` from the input before encoding."""
    reduction: str = "sum"
    """Sum or mean of the squared error over ``d_in``."""
    select_by: str = "pre"
    """What the largest are selected of; SAELens: ``"contribution"``, whose units the threshold has then."""
    k_rounding: str = "nearest"
    """How ``k · n`` becomes whole, at least 1; SAELens cuts it ``"down"``."""
    threshold_rule: str = "corrected"
    """How the running threshold starts."""
    threshold_decay: float = 0.99
    """β of the running threshold."""
    threshold_start: int = 0
    """First step, counted from 0, whose batch counts for the running threshold."""
    auxk_normaliser: str = "none"
    """What AuxK is divided by."""
    auxk_reach: str = "latents"
    """What AuxK trains."""
    auxk_relu: bool = True
    """ReLU on the code of the dead latents; without it (SAELens) negative values enter too."""
    auxk_few: str = "full"
    """``"proportional"``: AuxK counts ``n_dead / k_aux`` while fewer than ``k_aux`` are dead (SAELens)."""
    decoder: str = "unit"
    """``"unit"`` decoder rows, or ``"free"``."""

    @property
    def mse_weight(self) -> float:
        """What the error of the whole dictionary counts."""
        return weights(self)[-1]


class Out(NamedTuple):
    """Every output that a loss may touch."""

    x_hat: Array
    """Reconstruction of the whole dictionary ``(n, d_in)``."""
    f: Code
    """Code ``(n, d_sae)``."""
    pre: Array
    """What latents are selected by ``(n, d_sae)``: pre-activations, or as ``select_by`` says."""
    aux: Array | None
    """Reconstruction from dead latents ``(n, d_in)``, or one a level ``(n_levels, n, d_in)``."""
    nested: Array | None
    """Reconstructions of the prefixes but the last ``(n_levels − 1, n, d_in)``; ``None`` where there is only one."""


class Cache(NamedTuple):
    """What backward needs from forward."""

    main: auxk.Cache
    """That of the whole dictionary."""
    f_aux: tuple[Code, ...]
    """Codes of the dead latents of each level, of its prefix's width."""


def check_config(cfg: Config) -> None:
    """Refuse a configuration that makes no sense, in one line."""
    batchwise.check_config(cfg)
    nesting.check_config(cfg)


def at_step(cfg: Config, *, step: int, steps: int, seed: int) -> Config:
    """Return the configuration with the prefixes of a step of the run with this ``seed``, where they are drawn."""
    return cfg._replace(prefixes=nesting.drawn(cfg, step=step, seed=seed)) if cfg.n_prefixes else cfg


def forward(params: Params, x: Array, cfg: Config, *, dead: Array | None = None) -> tuple[Out, Cache]:
    """Return the outputs for rows ``x (n, d_in)`` and the cache; ``dead``, bool ``(d_sae,)``, asks for ``aux``."""
    seen, pre = linear.encode(params, x, subtract_b_dec=cfg.subtract_b_dec)
    ranked = ranking.rank(params, pre, cfg)  # (n, d_sae)
    chosen = batchwise.select(ranked, cfg)  # (n, d_sae)
    alone = cfg.auxk_levels == "each"
    whole, main = auxk.outputs(params, seen, ranked, chosen, cfg, None if alone else dead, raw=pre)
    aux, f_aux = whole.aux, tuple[Code, ...]()
    if alone and dead is not None and cfg.auxk > 0:
        f_aux = nesting.dead_codes(pre, ranked, cfg, dead)
        levels = [product(code, params["W_dec"][..., : code.shape[-1], :]) for code in f_aux]
        aux = namespace(x).stack(levels, axis=-3)  # (n_levels, n, d_in)
    return Out(*whole[:3], aux, nesting.reconstructions(params, whole.f, cfg)), Cache(main, f_aux)


def backward(params: Params, cache: Cache, cfg: Config, slopes: losses.Slopes, *, want_x: bool = False) -> Params:
    """Return the gradient of every parameter for slopes on any of the outputs; with ``want_x`` also that of ``x``.

    The selection is held fixed: exact wherever no tie or zero is crossed.
    """
    beside = []
    if "nested" in slopes:
        for j, width in enumerate(widths(cfg)[:-1]):
            code = columns(cache.main.f, 0, width)  # (n, width)
            beside.append(auxk.Branch(code, slopes["nested"][..., j, :, :], encoder=True, bias=True))
    if "aux" in slopes:
        for j, code in enumerate(cache.f_aux):
            reach = cfg.auxk_reach != "decoder"
            beside.append(auxk.Branch(code, slopes["aux"][..., j, :, :], encoder=reach, bias=False))
    return auxk.backward(params, cache.main, cfg, slopes, want_x=want_x, beside=tuple(beside))


def objective(
    params: Params, out: Out, y: Array, cfg: Config, *, sparsity: float = 1.0, dead: Array | None = None
) -> dict[str, losses.Term]:
    """Return the loss terms for the target ``y (n, d_in)``: of the whole dictionary, of the others together, AuxK.

    ``sparsity`` is not used by this variant.
    """
    alone, nested = cfg.auxk_levels == "each", out.nested
    whole = auxk.Out(out.x_hat, out.f, out.pre, None if alone else out.aux)
    terms = auxk.objective(params, whole, y, cfg, dead=dead)
    if nested is not None:
        terms["nested"] = nesting.errors(nested, y, cfg)
    if alone and out.aux is not None and dead is not None and cfg.auxk > 0:
        hats = [] if nested is None else [nested[..., j, :, :] for j in range(nested.shape[-3])]
        terms["auxk"] = nesting.aux_k(out.aux, [*hats, out.x_hat], y, cfg, dead)
    return terms


def fired_latents(out: Out, cfg: Config) -> Array:
    """Return which latents fired in this batch: bool ``(d_sae,)``."""
    return fired(out.f)


def prefix(params: Params, cfg: Config, width: int) -> tuple[Params, Config]:
    """Return parameters and configuration of the first ``width`` latents alone: views, their code what it was.

    dictionary_learning's ``active_groups`` encodes so, with zeros for the others.
    """
    check_number("width", width, least=1, most=cfg.d_sae, whole=True)
    alone = {key: params[key][..., :width] for key in ("W_enc", "b_enc", "threshold")}
    alone |= {"W_dec": params["W_dec"][..., :width, :], "b_dec": params["b_dec"]}
    kept = (*(m for m in widths(cfg) if m < width), width)
    own = weights(cfg._replace(levels="sum"))[: len(kept)] if cfg.level_weights else ()
    k = min(cfg.k, width)
    return alone, cfg._replace(d_sae=width, k=k, prefixes=kept, n_prefixes=0, level_weights=own)


def to_saelens(cfg: Config) -> dict[str, Any]:
    """Return the fields of SAELens' ``cfg.json`` that are this variant's own; :func:`folded` selects by ``pre``."""
    return {"architecture": "jumprelu"} if cfg.select_by == "pre" else {}


def from_saelens(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return this variant's own options from SAELens' ``cfg.json``, or ``None`` if it is of another variant.

    A ``jumprelu`` is this variant where its metadata say that it was trained as ``matryoshka_batchtopk``, and how.
    """
    metadata = fields.get("metadata") or {}
    details = metadata.get("training_architecture_details")
    here = "jumprelu", "matryoshka_batchtopk"
    if (fields.get("architecture"), metadata.get("training_architecture")) != here or not isinstance(details, dict):
        return None
    own = {"k": details.get("k"), "prefixes": tuple(details.get("matryoshka_widths", ()))}
    return own | {"k_rounding": "down", "threshold_rule": "from_zero"}
