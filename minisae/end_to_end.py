"""End-to-end training: an autoencoder is judged by what the model predicts with its reconstruction spliced in.

    L = (1/n) Σ_rows KL(p ‖ q) + penalty              "kl": Braun et al. 2024, arXiv:2405.12241; p clean, q spliced
    L = (1/n) Σ_rows −log q(next token) + penalty     "ce": sparsify 1.3.3
      + (β / m) Σ_h (1/n) Σ_rows ‖a_h − a_hat_h‖²     with β > 0 Braun's e2e + downstream: the m later residual hooks h

The squared error of the reconstruction has no part in it, and the penalties of the variant's objective stay as they
are. A variant that has further squared errors (prefixes of matryoshka, the wide code of multi_topk, the gate of gated)
is refused: they would outweigh a loss in nats. AuxK, a squared error of the dead latents, is off unless ``options``
ask for it by its weight ``auxk``. The slope on the reconstruction comes from the model's own backward. (In Braun's code
the comment says KL(q ‖ p); what it computes is KL(p ‖ q), and its downstream error is a mean over the width and leaves
out the last block's output.)
Letters: n rows (all positions of b windows of t tokens), d, v vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, backend_of, namespace, resolve, to_device, to_host
from minisae.cache.stream import ArraySource
from minisae.checkpoint import SAE
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.losses import Term
from minisae.models import CharGPT, char_gpt
from minisae.models.layers import cross_entropy, log_softmax
from minisae.models.train_char_gpt import sample_windows
from minisae.runs import Job, finished, job
from minisae.sae import variant as variant_module
from minisae.streams import generator
from minisae.train import Hook, Run, now, refuse_broken_state, refuse_divergence, start, step

SOURCE = "Braun et al. 2024, Identifying Functionally Important Features with End-to-End Sparse Dictionary Learning"
LOSSES = ("kl", "ce")
MORE_ERRORS = ("nested", "multi", "aux")
"""Terms that are squared errors, besides the one of the reconstruction and AuxK."""


class Splice(NamedTuple):
    """Where a reconstruction goes, and what is asked of the model then."""

    hook: str
    """The hook whose activation is replaced."""
    loss: str = "kl"
    """``"kl"`` from the clean model's prediction, or ``"ce"``, the cross-entropy of the next token."""
    downstream: float = 0.0
    """β, the weight of the squared error at the later residual hooks, in units of 1 / activation²; 0: none."""


class Batch(NamedTuple):
    """Some windows of text and what the clean model has to say on them."""

    tokens: Array
    """``(b, t)``, int."""
    targets: Array
    """The next tokens ``(b, t)``."""
    log_p: Array
    """The clean model's log-probabilities ``(b, t, v)``."""
    activations: dict[str, Array]
    """Of the clean model ``(b, t, d)``, at the hook and the later ones."""


def later_hooks(cfg: char_gpt.Config, splice: Splice) -> tuple[str, ...]:
    """Return the hooks at which the residual stream is compared: after every later block; none with β = 0.

    Raises
    ------
    InputError
        If the model has no such hook, or β > 0 and nothing comes after it.
    """
    names = char_gpt.hook_names(cfg)
    if splice.hook not in names:
        raise InputError(f"hook: expected one of {', '.join(names)}, got {splice.hook!r}")
    if not splice.downstream:
        return ()
    later = tuple(name for name in names[names.index(splice.hook) + 1 :] if name.endswith("resid_post"))
    if not later:
        raise InputError(f"downstream: expected 0 for the last hook {splice.hook}, got {splice.downstream}")
    return later


def look(model: CharGPT, tokens: Array, targets: Array, splice: Splice) -> Batch:
    """Run the clean model on windows ``tokens (b, t)`` with next tokens ``targets (b, t)``."""
    out = model.forward(tokens, read=(splice.hook, *later_hooks(model.cfg, splice)))
    return Batch(tokens, targets, log_softmax(out.logits), out.activations)


def spliced_loss(model: CharGPT, batch: Batch, x_hat: Array, splice: Splice) -> Term:
    """Return the loss of the model with ``x_hat (n, d)`` in place of the activation, and its slope on ``x_hat``.

    Parameters
    ----------
    model, batch, splice : the model, the windows, what is asked; ``n = b*t`` rows in reading order
    x_hat : reconstruction ``(n, d)``, in the units of the model
    """
    prediction, downstream, slope = _parts(model, batch, x_hat, splice)
    return Term(prediction + downstream, {"x_hat": slope}, {})


def _parts(model: CharGPT, batch: Batch, x_hat: Array, splice: Splice) -> tuple[Array, Array, Array]:
    """Return the loss of the prediction ``()``, that downstream ``()``, and the slope ``(n, d)`` of their sum."""
    xp = namespace(x_hat)
    b, t = batch.tokens.shape
    later = later_hooks(model.cfg, splice)
    new = x_hat.reshape(b, t, -1)  # (b, t, d)
    out, cache = char_gpt.forward(
        model.params, batch.tokens, model.cfg, read=later, replace={splice.hook: lambda x: new}
    )
    if splice.loss == "ce":
        value, d_logits = cross_entropy(out.logits, batch.targets)
    else:
        log_q, p = log_softmax(out.logits), xp.exp(batch.log_p)  # (b, t, v) each
        value = (p * (batch.log_p - log_q)).sum() / (b * t)  # ()
        d_logits = (xp.exp(log_q) - p) / (b * t)  # (b, t, v)
    downstream = xp.zeros((), dtype=value.dtype)  # ()
    through: dict[str, Callable[[Array], Array]] = {}
    for name in later:
        error = out.activations[name] - batch.activations[name]  # (b, t, d)
        share = splice.downstream / (len(later) * b * t)
        downstream = downstream + share * (error * error).sum()  # ()
        through[name] = _adding(2 * share * error)
    grads = char_gpt.backward(
        model.params, cache, model.cfg, d_logits, want=(splice.hook,), through=through, want_params=False
    )
    return value, downstream, grads[splice.hook].reshape(b * t, -1)


def _adding(slope: Array) -> Callable[[Array], Array]:
    return lambda d_x: d_x + slope


def train(
    model: CharGPT,
    documents: Sequence[Array],
    splice: Splice,
    *,
    variant: str = "relu",
    d_sae: int,
    steps: int,
    batch_size: int = 2048,
    lr: float = 1e-3,
    seed: int = 0,
    k: float | None = None,
    l1: float | None = None,
    options: Mapping[str, Any] | None = None,
    backend: str | None = None,
    hooks: Iterable[Hook] = (),
) -> SAE:
    """Train an autoencoder of one activation of ``model``, end to end, and return it.

    Parameters
    ----------
    model : the model; its parameters stay as they are
    documents : encoded texts ``(c,)`` to draw windows of ``n_ctx`` tokens from
    splice : where, and which loss
    variant, d_sae, steps, lr, seed, k, l1, options, backend : as in :func:`minisae.train`; λ is in nats a unit of the
        code here, and ``auxk`` is 0 unless ``options`` say otherwise
    batch_size : tokens a step, a multiple of the model's context
    hooks : called as ``hook(run, record)`` every ``log_every`` steps; a record holds the loss of the prediction under
        its name, ``"kl"`` or ``"ce"``, and with β > 0 ``"downstream"``, in place of ``"mse"``

    Raises
    ------
    InputError
        For bad input; and for a variant or option that looks at a squared error besides: matryoshka, multi_topk, gated,
        transcoders, ghost gradients, resampling.
    Diverged
        If a loss was not finite.
    """
    if splice.loss not in LOSSES:
        raise InputError(f"loss: expected one of {', '.join(LOSSES)}, got {splice.loss!r}")
    check_number("downstream", splice.downstream, least=0)
    later_hooks(model.cfg, splice)
    named = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "k": k, "l1": l1}
    first = {"auxk": 0.0} if "auxk" in variant_module(variant).Config._fields else {}
    chosen = first | {key: value for key, value in named.items() if value is not None} | dict(options or {})
    todo = job(model.cfg.d_model, variant=variant, d_sae=d_sae, options=chosen)
    _refuse_squared_error(todo, model.cfg)
    model = model.to(resolve(backend))
    run = _begin(todo, model, documents, splice)
    run = _fit(run, model, documents, splice, tuple(hooks))
    return finished(run, metadata={"hook_name": splice.hook, "end_to_end": splice._asdict(), "model_name": model.name})


def _refuse_squared_error(todo: Job, cfg: char_gpt.Config) -> None:
    """Refuse what goes by the squared error of the reconstruction, which end-to-end training does not look at."""
    recipe, module = todo.recipe, variant_module(todo.variant)
    if recipe.ghost or recipe.resample != "none":
        raise InputError("ghost, resample: expected neither in end-to-end training, they go by the squared error")
    if recipe.batch_size % cfg.n_ctx:
        raise InputError(f"batch_size: expected a multiple of the context {cfg.n_ctx}, got {recipe.batch_size}")
    if hasattr(module, "split"):
        raise InputError(f"variant: expected one that reconstructs its input, got {todo.variant}")
    terms = _terms(module, todo.cfg)
    more = [name for name in MORE_ERRORS if name in terms]
    if more:
        what = f"{todo.variant}, whose objective has {', '.join(more)} too"
        raise InputError(f"variant: expected one with no squared error but that of its reconstruction, got {what}")


def _terms(module: Any, cfg: Any) -> set[str]:
    """Return the names of the terms of a variant's objective; without AuxK, as nothing is dead."""
    params = module.init(cfg, np.random.default_rng(0))
    x = np.ones((1, cfg.d_in), np.float32)  # (1, d_in)
    return set(module.objective(params, module.forward(params, x, cfg)[0], x, cfg))


def windows_of(documents: Sequence[Array], t: int, b: int, seed: int, number: int) -> tuple[Array, Array]:
    """Return tokens and next tokens ``(b, t)`` of batch ``number``, a pure function of ``seed`` and that."""
    return next(sample_windows(documents, t, b, generator(seed, "end_to_end", number)))


def _begin(todo: Job, model: CharGPT, documents: Sequence[Array], splice: Splice) -> Run:
    """Return the run at step 0, ``b_dec`` and the input scale estimated on rows of its own."""
    recipe, t = todo.recipe, model.cfg.n_ctx
    backend = backend_of(model.params["embed.W_E"])
    found = []
    for number in range(-(-recipe.init_rows // recipe.batch_size)):
        tokens, _ = windows_of(documents, t, recipe.batch_size // t, recipe.seed + 1, number)
        out = model.forward(to_device(tokens, backend), read=(splice.hook,), layers=1 + int(splice.hook.split(".")[1]))
        found.append(to_host(out.activations[splice.hook]).reshape(-1, model.cfg.d_model))
    rows = np.concatenate(found)  # (n, d)
    return start(ArraySource(rows), todo.variant, todo.cfg, recipe, backend=backend)


def _batches(run: Run, model: CharGPT, documents: Sequence[Array], splice: Splice) -> Iterator[Batch]:
    r, backend = run.recipe, backend_of(run.idle)
    for number in range(r.steps):
        drawn = windows_of(documents, model.cfg.n_ctx, r.batch_size // model.cfg.n_ctx, r.seed, number)
        tokens, targets = (to_device(a, backend) for a in drawn)
        yield look(model, tokens, targets, splice)


def _fit(run: Run, model: CharGPT, documents: Sequence[Array], splice: Splice, hooks: tuple[Hook, ...]) -> Run:
    """Take every step; call ``hooks`` with the records."""
    r, scale = run.recipe, run.scale
    for batch in _batches(run, model, documents, splice):
        parts: dict[str, Array] = {}

        def error(x_hat: Array, batch: Batch = batch, parts: dict[str, Array] = parts) -> Term:
            parts[splice.loss], downstream, slope = _parts(model, batch, x_hat / scale, splice)
            parts.update({"downstream": downstream} if splice.downstream else {})
            return Term(parts[splice.loss] + downstream, {"x_hat": slope / scale}, {})

        rows = batch.activations[splice.hook].reshape(-1, run.cfg.d_in).astype(r.dtype, copy=False)  # (n, d)
        lr = now(run)[1]
        run, measures = step(run, rows, error=error)
        if run.step == r.steps or run.step % r.log_every == 0:
            refuse_divergence(run)
            record = {"step": run.step, "rows": run.step * r.batch_size, "lr": lr}
            rest = {name: value for name, value in measures.items() if name not in ("loss", "mse")}
            shown = {"loss": measures["loss"], **parts, **rest}
            record |= {name: float(value) for name, value in shown.items()}
            for hook in hooks:
                hook(run, record)
    refuse_divergence(run)
    refuse_broken_state(run)
    return run
