"""Where a latent fires: its strongest rows, each with the text around it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minisae.backend import to_host
from minisae.cache import View
from minisae.checkpoint import SAE
from minisae.errors import InputError
from minisae.ops import dense

CHUNK = 8192


class Firing(NamedTuple):
    """What some latents do on consecutive rows of text."""

    latents: np.ndarray
    """Which latents ``(m,)``."""
    values: np.ndarray
    """Their code ``(n, m)``."""
    token: np.ndarray
    """Token of each row ``(n,)``."""
    doc_id: np.ndarray
    """Document of each row ``(n,)``."""


class Context(NamedTuple):
    """A stretch of one document around a row at which a latent fires."""

    document: int
    """Its number in the cache."""
    peak: int
    """Where in the stretch that row is."""
    tokens: np.ndarray
    """``(c,)``."""
    values: np.ndarray
    """The latent's activation at each token ``(c,)``."""


class LatentPage(NamedTuple):
    """What there is to see of one latent."""

    latent: int
    """Its number."""
    density: float
    """Share of rows at which it fires."""
    largest: float
    """Largest activation."""
    tokens: tuple[tuple[int, float], ...]
    """The tokens on which it fires most, each with its share of all its activation."""
    contexts: tuple[Context, ...]
    """Strongest first; empty for a latent that is silent on all rows."""


def firing(sae: SAE, source: View, latents: Sequence[int]) -> Firing:
    """Encode every row of ``source``, in the order of the cache, and keep the code of ``latents``.

    Raises
    ------
    InputError
        If the cache has no tokens or documents.
    """
    wanted = np.asarray(latents)  # (m,)
    values, token, doc_id = [], [], []
    for chunk in source.chunks(CHUNK):
        if chunk.token is None or chunk.doc_id is None:
            raise InputError(f"{source.kept.cache.path}: expected columns token and doc_id for contexts, got none")
        f = to_host(dense(sae.encode(chunk.x, sparse=True)))  # (rows, d_sae)
        values.append(f[:, wanted])
        token.append(chunk.token)
        doc_id.append(chunk.doc_id)
    return Firing(wanted, np.concatenate(values), np.concatenate(token), np.concatenate(doc_id))


def token_mass(sae: SAE, source: View, n_vocab: int) -> np.ndarray:
    """Return the sum of each latent's activation on each token ``(d_sae, n_vocab)``, over all rows of ``source``."""
    mass = np.zeros((sae.cfg.d_sae, n_vocab))  # (d_sae, n_vocab)
    for chunk in source.chunks(CHUNK):
        if chunk.token is None:
            raise InputError(f"{source.kept.cache.path}: expected a column token, got none")
        f = to_host(dense(sae.encode(chunk.x, sparse=True)))  # (rows, d_sae)
        row, latent = np.nonzero(f)  # (nnz,) each
        where = latent * n_vocab + chunk.token[row]  # (nnz,)
        mass += np.bincount(where, weights=f[row, latent], minlength=mass.size).reshape(mass.shape)
    return mass


def latent_page(
    found: Firing, column: int, *, contexts: int = 5, before: int = 44, after: int = 12, common: int = 3
) -> LatentPage:
    """Return the page of one latent of ``found``.

    Parameters
    ----------
    found : from :func:`firing`
    column : which of its latents
    contexts : how many contexts at most; their peaks are more than ``before + after`` rows apart
    before, after : tokens around each peak, cut at the document's ends
    common : how many of the tokens on which it fires to name
    """
    f = found.values[:, column]  # (n,)
    mass = np.bincount(found.token, weights=f)  # (vocab,)
    order = np.argsort(-mass, kind="stable")[:common]  # (common,)
    most = tuple((int(t), float(mass[t] / mass.sum())) for t in order if mass[t] > 0)
    peaks = _peaks(f, contexts, before + after)
    shown = tuple(_context(found, f, row, before, after) for row in peaks)
    return LatentPage(int(found.latents[column]), float((f > 0).mean()), float(f.max()), most, shown)


def _peaks(f: np.ndarray, count: int, apart: int) -> list[int]:
    """Return up to ``count`` rows of largest activation ``f (n,)``, each more than ``apart`` rows from the others."""
    fires = np.flatnonzero(f > 0)  # (nnz,)
    chosen: list[int] = []
    for row in fires[np.argsort(-f[fires], kind="stable")].tolist():
        if len(chosen) == count:
            break
        if all(abs(row - other) > apart for other in chosen):
            chosen.append(row)
    return chosen


def _context(found: Firing, f: np.ndarray, row: int, before: int, after: int) -> Context:
    """Return the stretch around ``row``, inside its document."""
    first, stop = max(row - before, 0), min(row + after + 1, len(f))
    same = np.flatnonzero(found.doc_id[first:stop] == found.doc_id[row])  # (c,)
    here = first + same  # (c,)
    return Context(int(found.doc_id[row]), int(row - here[0]), found.token[here], f[here])


def marked(context: Context, characters: Sequence[str], *, threshold: float = 0.0) -> str:
    """Return a context as one line of text, runs of firing characters between ⟦ and ⟧, line ends as ↵."""
    line, inside = "", False
    for token, value in zip(context.tokens.tolist(), context.values.tolist(), strict=True):
        fires = value > threshold
        line += ("⟦" if fires and not inside else "⟧" if inside and not fires else "") + visible(characters[token])
        inside = fires
    return line + ("⟧" if inside else "")


def visible(character: str) -> str:
    """Return a character as it is shown: a line end as ↵."""
    return "↵" if character == "\n" else character
