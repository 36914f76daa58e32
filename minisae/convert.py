"""``minisae convert``: a trained autoencoder from one library's files into another's."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisae.checkpoint import SAE
from minisae.console import Result
from minisae.errors import InputError
from minisae.evaluate import load_sae
from minisae.interop import formats
from minisae.interop.common import Stored
from minisae.settings import settings


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    source_format: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[SAE, list[str]]:
    """Read an autoencoder and write it in another format; the function stays the same.

    Parameters
    ----------
    source : a run, or a file or folder of a format of :data:`minisae.interop.formats.FORMATS`
    target : folder to write; it must be new, or empty
    to : a format of :data:`minisae.interop.formats.WRITTEN`
    source_format : that of ``source``, where its content does not show it
    options : what the source's files do not say

    Returns
    -------
    The autoencoder as it was read, and one sentence for everything that was folded or left out, first in reading.

    Raises
    ------
    InputError
        For a source that cannot be read, an autoencoder that the format cannot hold, and a target that holds files.
    """
    if to not in formats.WRITTEN:
        raise InputError(f"--to: expected one of {', '.join(formats.WRITTEN)}, got {to!r}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: expected a new or an empty folder to write to")
    sae = load_sae(source, format=source_format, options=options)
    read = sae.metadata.get("notes")
    written = formats.export(target, Stored(*sae), to=to)
    return sae, [str(note) for note in read if isinstance(note, str)] + written if isinstance(read, list) else written


def convert_(options: argparse.Namespace) -> Result:
    """Turn a trained autoencoder into another library's files; says what had to be folded."""
    said = settings(options.set)
    sae, notes = convert(options.source, options.target, to=options.to, source_format=options.format, options=said)
    head = f"{options.target}: {sae.variant}, {sae.cfg.d_in} → {sae.cfg.d_sae} latents, for {options.to}"
    about = {"source": str(options.source), "target": str(options.target), "to": options.to, "variant": sae.variant}
    text = "\n".join([head, *(f"- {note}" for note in notes)])
    return Result(text, {**about, "cfg": sae.cfg._asdict(), "notes": notes})
