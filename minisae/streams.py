"""Random numbers: every draw comes from a generator made from the seed, the name of its stream, and numbers.

Generators are made by NumPy's spawn keys, so streams of one seed are independent; ``default_rng([seed, 0])`` would not
do, for a list's trailing zeros do not count. Nothing has to be stored to resume: the same key gives the same draws.
"""

import numbers
from typing import Any

import numpy as np

from minisae.errors import InputError

STREAMS = (
    "synthetic_model",
    "synthetic_batch",
    "init",
    "init_rows",
    "resample",
    "resample_rows",
    "epoch",
    "pool",
    "split",
    "demo_latents",
    "random_directions",
    "toy_init",
    "toy_batch",
    "toy_frames",
    "toy_saes",
    "toy_test",
    "conformance",
    "gradcheck",
    "end_to_end",
    "prefixes",
)
"""One number each, by position: append only, or saved runs draw other numbers when resumed."""


def generator(seed: int, stream: str, *key: int) -> np.random.Generator:
    """Return the generator of a stream of the seed; ``key`` numbers its parts (step, epoch, batch …).

    Raises
    ------
    InputError
        If the seed is not a whole number of at least 0.
    """
    _check_seed(seed)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), *key)))


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed!r}")


def child_seed(seed: int, stream: str, *key: int) -> int:
    """Return a seed for something that takes a number, from the same tree."""
    return int(generator(seed, stream, *key).integers(1 << 62))
