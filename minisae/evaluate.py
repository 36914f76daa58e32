"""What ``minisae eval`` measures: every metric that an autoencoder, a cache and perhaps a model allow.

Rows are read in the order of the cache or array, a chunk at a time. Those that count are the held-out ones, found again
by the selection and the checksums in the run's metadata; on other data, where nothing was held out, or where it is not
known what an autoencoder was trained on, all rows count, and the result says so.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, to_device, to_host
from minisae.cache import Cache, Filters, View, array_source, split, view
from minisae.cache.format import MANIFEST
from minisae.cache.index import kept_rows
from minisae.cache.reader import hook_name, read_column
from minisae.cache.stream import ArraySource
from minisae.checkpoint import SAE, load
from minisae.errors import InputError
from minisae.interventions import Coder, averaged, effects, from_position, spliced, zeroed
from minisae.metrics import Totals, cosine_structure, measure, merge, recovered_report, report, share_above
from minisae.models import CharGPT
from minisae.models.char_gpt import hook_names
from minisae.runs import source_identity
from minisae.sae import split as split_row
from minisae.sae import variant

CHUNK = 8192
IDENTITIES = ("cache", "sha256", "dictionary_sha256")
"""What metadata may know the data of training by: see :func:`minisae.runs.source_identity`."""
Progress = Callable[[int], None]

MEANING = {
    "rows": "rows evaluated",
    "pooled_r2": "share of the variance about the mean row that is explained; 1 is perfect",
    "squared_error_per_row": "mean squared distance of a reconstruction from its row",
    "squared_error_per_element": "the same, divided by d_in",
    "mean_of_ratios_legacy": "explained variance as SAELens computed it until 6.39",
    "frac_variance_explained": "as dictionary_learning computes it: a constant bias is free",
    "saebench_0_6_explained_variance": "as SAEBench 0.6 computes it: depends on the units of the rows",
    "overcomplete_r2": "as overcomplete computes it, about the mean of all entries",
    "openai_about_zero": "1 - normalised error, about zero instead of the mean",
    "cosine_similarity": "mean cosine between a row and its reconstruction",
    "l2_ratio": "mean norm of a reconstruction over its row's; below 1 is shrinkage",
    "relative_reconstruction_bias": "below 1 is shrinkage",
    "l0": "mean number of active latents per row",
    "l1": "mean sum of the code per row",
    "dead_fraction": "share of latents silent on all these rows",
    "density_above_0.01": "share of latents active in more than 1% of the rows",
    "density_above_0.1": "share of latents active in more than 10% of the rows",
    "density_median": "median share of rows in which a latent is active",
    "decoder_coherence": "largest absolute cosine between two decoder rows",
    "decoder_mean_max_cosine": "mean over latents of the largest absolute cosine with another",
    "decoder_rms_cosine": "root mean square cosine between two decoder rows",
    "welch_bound": "least coherence possible at this size",
    "ce_clean": "cross-entropy of the model as it is, nats per token",
    "ce_sae": "with the reconstruction spliced in",
    "ce_zero_ablation": "with the activation put to zero",
    "ce_mean_ablation": "with the activation put to its mean",
    "ce_recovered_vs_zero_ablation": "1: as good as the clean model, 0: as bad as zero",
    "ce_recovered_vs_mean_ablation": "1: as good as the clean model, 0: as bad as the mean",
    "kl_sae": "KL divergence from the clean model's prediction, nats per token",
    "kl_zero_ablation": "the same with the activation put to zero",
    "kl_mean_ablation": "the same with the activation put to its mean",
    "kl_recovered_vs_zero_ablation": "1 - kl_sae / kl_zero_ablation",
    "kl_recovered_vs_mean_ablation": "1 - kl_sae / kl_mean_ablation",
}
"""Every number an evaluation can hold, in the order of its table, with what it means."""


class Rows(NamedTuple):
    """Rows to evaluate on."""

    source: View | ArraySource
    how: str
    """Which ones, in words."""


class Evaluation(NamedTuple):
    """What was measured on some rows."""

    numbers: dict[str, float]
    """By the names of :data:`MEANING`."""
    totals: Totals
    """Sums over the rows; ``density`` among them."""
    mean: Array
    """Mean row ``(d_in,)``, float64, on the host."""


def load_sae(path: Path, *, format: str | None = None, options: Mapping[str, Any] | None = None) -> SAE:
    """Load an autoencoder as :func:`minisae.checkpoint.load` does; a cache in its place is one line."""
    if (path / MANIFEST).exists():
        raise InputError(
            f"{path}: expected a run or a saved autoencoder, this is an activation cache (minisae cache info {path})"
        )
    return load(path, format=format, options=options)


def held_out_rows(
    sae: SAE, data: Cache | np.ndarray, *, hook: str | Sequence[str] | None = None, drop_nonfinite: bool = False
) -> Rows:
    """Return the rows of a cache or an array that ``sae`` was not trained on, as far as its metadata tells.

    Parameters
    ----------
    sae : the autoencoder; its metadata names the data, the filters and the split of its training
    data : the same data, or other
    hook : which activation of a cache, several for several side by side; ``None``: what the metadata says
    drop_nonfinite : drop rows of an array with NaN or infinity, also if training did not

    Raises
    ------
    InputError
        If no rows are left, rows of other data are not finite, or a cache has no such hook.
    """
    chosen = _selection(sae)
    filters = Filters(**chosen.get("filters", {}))
    if not isinstance(data, Cache):
        if hook is not None:
            raise InputError(f"hook: expected none for an array, which has no hooks, got {hook!r}")
        return _array_rows(sae, array_source(data, drop_nonfinite=drop_nonfinite or filters.drop_nonfinite))
    source = view(data, hook=_hooks(data, hook, chosen.get("hook")), filters=filters)
    trained = sae.metadata.get("hooks", list(source.kept.hooks))
    if sae.metadata.get("cache") != data.identity or list(source.kept.hooks) != trained:
        return _other_rows(sae, source)
    if not chosen.get("held_out"):
        return _nothing_held_out(sae, source)
    parts = split(source, held_out=chosen["held_out"], seed=chosen["seed"])
    return Rows(parts.held_out, f"held out: {parts.how}")


def _selection(sae: SAE) -> dict[str, Any]:
    """Return what training noted on its rows; a file's metadata may hold anything under that name."""
    chosen = sae.metadata.get("selection", {})
    filters = chosen.get("filters", {}) if isinstance(chosen, dict) else None
    named = not isinstance(chosen, dict) or isinstance(chosen.get("hook"), str | list | tuple | None)
    if not isinstance(filters, dict) or set(filters) - set(Filters._fields) or not named:
        raise InputError("metadata: expected selection to be what training here notes, got something else")
    return dict(chosen)


def _hooks(cache: Cache, asked: str | Sequence[str] | None, noted: Any) -> tuple[str, ...]:
    """Return the names of the hooks to read: those asked for, or those that training noted."""
    hook: Any = noted if asked is None else asked
    try:
        return tuple(hook_name(cache, name) for name in (hook if isinstance(hook, list | tuple) else [hook]))
    except InputError as error:
        if asked is not None:
            raise
        what = "no hook is in the autoencoder's metadata" if noted is None else "that is in the autoencoder's metadata"
        raise InputError(f"{error}; {what}, say which with hook (--hook)") from None


def _array_rows(sae: SAE, source: ArraySource) -> Rows:
    """Find the held-out rows of an array: those after its first rows, if training's checksum is that of the first."""
    known = sae.metadata.get("rows")
    first = known if isinstance(known, int) and known > 0 else 0
    trained = ArraySource(source.x[:first])
    if not first or source_identity(trained).get("sha256") != sae.metadata.get("sha256"):
        return _other_rows(sae, source)
    held = ArraySource(source.x[first:])
    if not held.rows:
        return _nothing_held_out(sae, source)
    return Rows(held, f"held out: the last {held.rows} of {source.rows} rows (an array has no documents)")


def _other_rows(sae: SAE, source: View | ArraySource) -> Rows:
    if not any(sae.metadata.get(name) for name in IDENTITIES):  # converted from another library, or from memory
        return Rows(source, f"all {source.rows} rows: it is not known on what the autoencoder was trained")
    return Rows(source, f"all {source.rows} rows of other data than the autoencoder was trained on")


def _nothing_held_out(sae: SAE, source: View | ArraySource) -> Rows:
    known = sae.metadata.get("rows", source.rows)
    them = "them" if known == source.rows else f"{known} of them"
    return Rows(source, f"all {source.rows} rows: the autoencoder was trained on {them}, nothing was held out")


def evaluate(coder: Coder | SAE, source: View | ArraySource, *, progress: Progress | None = None) -> Evaluation:
    """Measure reconstructions and codes of all rows of ``source``, in two passes: the mean row, then all else.

    Parameters
    ----------
    coder : an autoencoder, or a baseline with ``encode`` and ``decode``
    source : rows to read
    progress : called with the number of rows done

    Raises
    ------
    InputError
        If the widths differ.
    """
    mean = sum(chunk.x.sum(axis=0, dtype=np.float64) for chunk in source.chunks(CHUNK)) / source.rows  # (d_in,)
    totals: Totals | None = None
    for chunk in source.chunks(CHUNK):
        part = _measure(coder, chunk.x, mean)
        totals = part if totals is None else merge(totals, part)
        if progress:
            progress(totals.rows)
    if totals is None:
        raise InputError("source: expected rows to evaluate, got none")
    numbers = report(totals)
    if isinstance(coder, SAE):
        density = to_host(totals.density)  # (d_sae,)
        numbers |= {f"density_above_{share}": share_above(density, share) for share in (0.01, 0.1)}
        numbers |= {"density_median": float(np.median(density))} | geometry(coder.params["W_dec"])
    return Evaluation(in_order(numbers), totals, mean)


def _measure(coder: Coder | SAE, x: np.ndarray, mean: np.ndarray) -> Totals:
    if not isinstance(coder, SAE):
        f = coder.encode(x)  # (n, d_sae)
        return measure(x, coder.decode(f), f, center=mean)
    backend, module = backend_of(coder.params["W_dec"]), variant(coder.variant)
    here, target = split_row(module, to_device(x, backend), coder.cfg)
    code = coder.encode(here, sparse=backend == "numpy")  # a code (n, d_sae); a sparse one is on the host
    center = split_row(module, to_device(mean, backend), coder.cfg)[1]
    return measure(target, coder.decode(code, here), code, center=center)


def geometry(W_dec: Array) -> dict[str, float]:
    """Return the cosine structure of decoder rows ``(d_sae, d_in)`` in four numbers."""
    found = cosine_structure(W_dec)
    return {
        "decoder_coherence": found.coherence,
        "decoder_mean_max_cosine": float(found.max_abs.mean()),
        "decoder_rms_cosine": found.rms,
        "welch_bound": found.welch_bound,
    }


def in_order(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers in the order of :data:`MEANING`."""
    return {name: numbers[name] for name in MEANING if name in numbers}


def table(numbers: Mapping[str, float]) -> str:
    """Return numbers as lines of name, value and meaning."""
    wide = max(map(len, numbers))
    return "\n".join(f"{name:<{wide}}  {_number(value):>10}  {MEANING[name]}" for name, value in numbers.items())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


class Document(NamedTuple):
    """A document as a cache holds it."""

    first: int
    """Its first row in the cache."""
    tokens: np.ndarray
    """``(c,)`` int32."""


def documents_of(source: View, n_ctx: int) -> list[Document]:
    """Return every document that has rows in ``source``, with its filtered rows too.

    Raises
    ------
    InputError
        If the cache has no such columns, or not the whole documents in windows of ``n_ctx``.
    """
    cache = source.kept.cache
    missing = [name for name in ("doc_id", "position", "token") if name not in cache.manifest.columns]
    if missing:
        raise InputError(f"{cache.path}: expected columns doc_id, position, token for a model, got no {missing[0]}")
    shards = range(len(cache.shards))
    doc_id, position, token = (
        np.concatenate([read_column(cache, shard, name) for shard in shards])
        for name in ("doc_id", "position", "token")
    )
    kept = np.concatenate([kept_rows(source.kept, shard) for shard in shards])  # (rows,)
    documents = []
    for number in np.unique(doc_id[kept]).tolist():
        at = np.flatnonzero(doc_id == number)  # (c,)
        if not np.array_equal(position[at], np.arange(len(at)) % n_ctx) or at[-1] - at[0] != len(at) - 1:
            raise InputError(f"{cache.path}: expected document {number} whole, in windows of {n_ctx} positions")
        documents.append(Document(int(at[0]), token[at]))
    return documents


def text_behind(source: View, model: CharGPT) -> tuple[str, list[Document]]:
    """Return the hook of ``source`` in ``model`` and the documents; cheap, so that a long pass can come after it.

    Raises
    ------
    InputError
        If the cache does not know its hook or tokens, or holds activations of another model.
    """
    cache = source.kept.cache
    if len(source.kept.hooks) > 1:
        raise InputError(f"{cache.path}: expected one activation to splice into {model.name}, got rows of several")
    hook = str(cache.manifest.meta.get("hook") or source.kept.hooks[0].removeprefix("acts."))
    if hook not in hook_names(model.cfg):
        raise InputError(
            f"{cache.path}: expected a hook of {model.name} ({', '.join(hook_names(model.cfg))}), got {hook!r}; "
            "name it at import with --meta hook=NAME"
        )
    if source.d_in != model.cfg.d_model:
        raise InputError(f"{cache.path}: expected rows of {model.name}'s width {model.cfg.d_model}, got {source.d_in}")
    documents = documents_of(source, model.cfg.n_ctx)
    check_same_model(model, source, hook, documents[0])
    return hook, documents


def model_numbers(
    sae: SAE, model: CharGPT, source: View, mean: Array, *, progress: Progress | None = None
) -> dict[str, float]:
    """Splice ``sae`` into ``model`` and return what its predictions lose, beside two ablations.

    The model reads the documents of ``source``, whose tokens and hook the cache knows. Positions that training skipped
    are left as they are, under every replacement. The mean is that of the rows of ``source``.

    Raises
    ------
    InputError
        If the cache does not know its hook or tokens, or holds activations of another model.
    """
    hook, documents = text_behind(source, model)
    skip = sae.metadata.get("selection", {}).get("filters", {}).get("skip_positions", 0)
    replacements = {"sae": spliced(sae), "zero": zeroed, "mean": averaged(mean)}
    found = effects(
        model,
        [document.tokens for document in documents],
        hook,
        {name: from_position(skip, replacement) for name, replacement in replacements.items()},
        progress=progress,
    )
    ce = {f"ce_{name}": effect.cross_entropy for name, effect in found.items()}
    return recovered_report(**ce, **{f"kl_{name}": effect.kl for name, effect in found.items() if name != "clean"})


def check_same_model(model: CharGPT, source: View, hook: str, document: Document) -> None:
    """Refuse a model whose activations on a document's start are not those of the cache, within 2 %."""
    cache = source.kept.cache
    tokens = document.tokens[None, : model.cfg.n_ctx]  # (1, t)
    stored = view(cache, hook=source.kept.hooks[0]).read(document.first, document.first + tokens.size).x  # (t, d_in)
    out = model.forward(to_device(tokens, backend_of(model.params["embed.W_E"])), read=(hook,))
    own = to_host(out.activations[hook])[0]  # (t, d)
    if own.shape != stored.shape or np.linalg.norm(own - stored) > 0.02 * np.linalg.norm(own):
        raise InputError(f"{cache.path}: expected activations of {model.name} at {hook}, got others")
