"""Putting something else in place of an activation, and what the model then predicts.

A replacement is a function of the activation ``(b, t, d)`` at a hook that returns what flows on in its place. Splicing
in an autoencoder's reconstruction shows what the model loses with it; an ablation (the activation put to zero, or to
its mean) shows what there was to lose. Cross-entropy and KL divergence are in nats a token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from minisae.backend import Array, backend_of, namespace, to_device
from minisae.checkpoint import SAE
from minisae.errors import InputError
from minisae.metrics import cross_entropy, kl_divergence, log_softmax
from minisae.models import CharGPT
from minisae.models.language_model import windows

Replacement = Callable[[Array], Array]


class Coder(Protocol):
    """What has a code and a reconstruction: an autoencoder, or a baseline."""

    def encode(self, x: Array) -> Array:
        """Return the code ``(n, d_sae)`` of ``x (n, d_in)``."""

    def decode(self, f: Array) -> Array:
        """Return the reconstruction ``(n, d_in)`` of a code."""


class Effect(NamedTuple):
    """What a replacement does to the model, mean over tokens."""

    cross_entropy: float
    """Nats a token."""
    kl: float
    """KL divergence of the prediction from the clean model's, nats a token."""


def reconstruct(coder: Coder | SAE, x: Array) -> Array:
    """Return the coder's reconstruction ``(n, d_in)`` of rows ``x (n, d_in)``, on the backend and in the dtype of x."""
    x_hat = coder.reconstruct(x) if isinstance(coder, SAE) else coder.decode(coder.encode(x))  # (n, d_in)
    return to_device(x_hat, backend_of(x)).astype(x.dtype, copy=False)


def spliced(coder: Coder | SAE) -> Replacement:
    """Return the replacement of an activation by its reconstruction."""

    def replacement(x: Array) -> Array:
        b, t, d = x.shape
        return reconstruct(coder, x.reshape(b * t, d)).reshape(b, t, d)

    return replacement


def zeroed(x: Array) -> Array:
    """Replace an activation by zero: the ablation that the libraries use."""
    return namespace(x).zeros_like(x)


def averaged(mean: Array) -> Replacement:
    """Return the replacement of an activation by ``mean (d,)``: the harder baseline."""

    def replacement(x: Array) -> Array:
        return namespace(x).zeros_like(x) + to_device(mean, backend_of(x)).astype(x.dtype, copy=False)

    return replacement


def from_position(first: int, replacement: Replacement) -> Replacement:
    """Return a replacement that leaves the positions before ``first`` as they are."""

    def later(x: Array) -> Array:
        new = replacement(x).copy()  # (b, t, d)
        new[:, :first] = x[:, :first]
        return new

    return later if first else replacement


def effects(
    model: CharGPT,
    documents: Sequence[Array],
    hook: str,
    replacements: Mapping[str, Replacement],
    *,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Effect]:
    """Run documents through the model with each replacement at ``hook``; also without any, under ``"clean"``.

    Every character but a document's first is predicted, in windows of ``n_ctx`` that do not overlap, as in
    :func:`minisae.models.document_loss`.

    Parameters
    ----------
    model, hook : the model, and one of its hooks
    documents : tokens of each document ``(c,)``
    replacements : by name
    batch : windows at a time
    progress : called with the number of tokens done

    Raises
    ------
    InputError
        If no document has two tokens, for an unknown hook, or a replacement of another shape.
    """
    totals = {name: [0.0, 0.0] for name in ("clean", *replacements)}
    done = 0
    for tokens in documents:
        pairs = zip(
            windows(tokens[:-1], model.cfg.n_ctx, batch), windows(tokens[1:], model.cfg.n_ctx, batch), strict=True
        )
        for inputs, targets in pairs:
            _add_window(totals, model, inputs, targets.reshape(-1), hook, replacements)
            done += targets.size
            if progress:
                progress(done)
    if not done:
        raise InputError("documents: expected one of at least 2 tokens, got none")
    return {name: Effect(ce / done, kl / done) for name, (ce, kl) in totals.items()}


def _add_window(
    totals: dict[str, list[float]],
    model: CharGPT,
    inputs: Array,
    targets: Array,
    hook: str,
    replacements: Mapping[str, Replacement],
) -> None:
    """Add the sums over some windows ``inputs (b, t)`` with next tokens ``targets (b*t,)``."""
    backend = backend_of(model.params["embed.W_E"])
    here, targets = to_device(inputs, backend), to_device(targets, backend)
    clean = None
    for name, total in totals.items():
        replace = {hook: replacements[name]} if name in replacements else {}
        logits = model.forward(here, replace=replace).logits  # (b, t, v)
        log_p = log_softmax(logits.reshape(targets.shape[0], -1))  # (n, v)
        clean = log_p if clean is None else clean
        total[0] += float(cross_entropy(log_p, targets).sum(dtype="float64"))
        total[1] += float(kl_divergence(clean, log_p).sum(dtype="float64"))
