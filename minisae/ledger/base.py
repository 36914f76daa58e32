"""What an entry of the ledger is, and the small cases on which entries are shown."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.losses import gather
from minisae.sae import variant

Params = dict[str, Array]
Number = float | tuple[float, ...]


class Shown(NamedTuple):
    """Both behaviours on one small case."""

    what: str
    """What the numbers are."""
    case: str
    """What they are computed on."""
    right: Number
    """As the paper has it, or as most do."""
    theirs: Number
    """As the library has it."""


class Deviation(NamedTuple):
    """Where a library does otherwise than the paper of what it implements, or than the others."""

    library: str
    """Its name."""
    version: str
    """In which this was seen."""
    name: str
    """Short, one of its kind in the library."""
    says: str
    """What the library does, in one sentence."""
    source: str
    """Where: file, class, or number of an issue."""
    consequence: str
    """What follows; ``{right}``, ``{theirs}`` and ``{ratio}``, theirs over right, are filled in."""
    show: Callable[[], Shown]
    """Computes both behaviours."""
    checked: str = "run"
    """``"run"``: a test runs the library, in the first version named; ``"read"``: in its source, or the issue."""
    fixed: str = ""
    """Since which version it is otherwise, where it is."""


def params_of(
    W_enc: Array,
    W_dec: Array,
    *,
    b_enc: Sequence[float] = (),
    b_dec: Sequence[float] = (),
) -> Params:
    """Return parameters in float64, ``W_enc (d_in, d_sae)`` and ``W_dec (d_sae, d_in)``; biases are 0 if left out."""
    into, out_of = (np.array(W, dtype=np.float64) for W in (W_enc, W_dec))
    d_in, d_sae = into.shape
    biases = {"b_enc": b_enc or [0.0] * d_sae, "b_dec": b_dec or [0.0] * d_in}
    return {"W_enc": into, "W_dec": out_of} | {name: np.array(b, dtype=np.float64) for name, b in biases.items()}


def learn(
    name: str, cfg: Any, params: Params, x: Array, *, dead: Array | None = None, only: str | None = None
) -> tuple[dict[str, float], Params]:
    """Return the terms of a variant's loss on ``x (n, d_in)`` and all gradients, of one term alone if asked.

    ``dead`` is bool ``(d_sae,)``.
    """
    module = variant(name)
    out, cache = module.forward(params, x, cfg, dead=dead)
    terms = module.objective(params, out, x, cfg, dead=dead)
    _, slopes, direct = gather({only: terms[only]} if only else terms)
    grads = module.backward(params, cache, cfg, slopes)
    values = {key: float(term.value) for key, term in terms.items()}
    return values, {key: grad + direct.get(key, 0) for key, grad in grads.items()}
