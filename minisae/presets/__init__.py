"""Named presets: what each library makes of a variant, in loss, gradients, optimiser, schedules, dead rule, threshold.

A preset is options, nothing else: every switch it sets can be set by hand. See :data:`PRESETS` for their names,
:func:`preset` for one of them, :func:`options` for what it sets at given sizes, and
:func:`minisae.presets.words.describe` for all that in words. Known deviations of a library from its paper are part of
its presets, for a preset is to give the same numbers.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.presets import dictionary_learning, others, saelens
from minisae.presets.base import Options, Preset, Sizes, first_k
from minisae.recipe import Recipe
from minisae.sae import variant

__all__ = ["PRESETS", "Options", "Preset", "Sizes", "options", "preset", "variant_of", "with_preset"]

PRESETS: dict[str, Preset] = {p.name: p for library in (saelens, dictionary_learning, others) for p in library.PRESETS}
"""Every preset, by name."""


def preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises
    ------
    InputError
        If there is none: with the names nearest to it.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InputError(f"preset: no preset {name!r}; {hint}minisae info preset lists them")
    return PRESETS[name]


def options(name: str, sizes: Sizes) -> Options:
    """Return what a preset sets at these sizes: fields of the variant's ``Config`` and of the ``Recipe``.

    What is at its default already is left out.
    """
    chosen = preset(name)
    defaults = variant(chosen.variant).Config._field_defaults | Recipe._field_defaults
    given = {**chosen.options(sizes), "batch_size": sizes.batch_size}
    return {key: value for key, value in given.items() if defaults[key] != value}


def variant_of(name: str | None, asked: str | None) -> str:
    """Return the variant to train: the preset's, which another may not be asked beside; without one topk if not asked.

    Raises
    ------
    InputError
        If the two differ, or there is no preset of that name.
    """
    if name is None:
        return asked or "topk"
    own = preset(name).variant
    if asked not in (None, own):
        raise InputError(f"variant: preset {name} trains {own}, got {asked!r}")
    return own


def with_preset(name: str | None, chosen: Mapping[str, Any], *, d_in: int, d_sae: int) -> dict[str, Any]:
    """Return options with those of a preset beneath them: what is ``chosen``, ``steps`` among it, wins.

    With ``k_anneal`` chosen, k starts where the preset's library has it; with ``prefixes``, levels weigh as there.
    """
    if name is None:
        return dict(chosen)
    rows = chosen.get("batch_size", preset(name).batch_size)
    for key, value in {"d_sae": d_sae, "steps": chosen["steps"], "batch_size": rows}.items():
        check_number(key, value, least=1, whole=True)
    dtype = "float64" if chosen.get("dtype") == "float64" else "float32"
    sizes = Sizes(d_in, d_sae, chosen["steps"], rows, dtype)
    first = first_k(name, sizes) if chosen.get("k_anneal") else None
    start = {} if first is None else {"k_start": first}
    following = preset(name).following(sizes, chosen)
    return {**options(name, sizes), "batch_size": rows, **start, **following, **chosen}
