"""The text the shipped model reads: one alphabet, one rule for everything outside it, and the held-out documents.

The rule, in this order: Unicode compatibility decomposition (NFKD) with combining marks dropped; typographic quotes and
dashes to their ASCII forms (an em dash becomes ``--``); tabs and other spaces to a space, runs of spaces to one, more
than two newlines to two; every character still outside :data:`ALPHABET` to :data:`STAND_IN`.

The split, by file name: State of the Union addresses of years that end a score with ten (1790, 1810, ... 2010) and
Moby-Dick chapters whose number is a multiple of ten are held out and shipped; everything else is for training.
"""

import json
import re
import string
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minisae.backend import Array
from minisae.errors import InputError

STAND_IN = "~"
ALPHABET = "".join(sorted("\n " + string.ascii_letters + string.digits + "!\"$%&'()*+,-./:;?[]_" + STAND_IN))
"""Every character the model knows; the position in this string is the token."""

DATA = Path(__file__).parent / "data"
_SIMPLER = {
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "`": "'", "´": "'", "′": "'",
    "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "″": '"',
    "—": "--", "―": "--", "–": "-", "‑": "-", "‐": "-", "−": "-", "•": "*", "Œ": "OE", "œ": "oe", "Æ": "AE", "æ": "ae",
}  # fmt: skip
_REPEATS = {"data.txt", "contents.txt"}  # the whole book once more, and its table of contents


class Document(NamedTuple):
    """One text: file name without suffix, title, year of delivery or publication (0: unknown), text."""

    name: str
    title: str
    year: int
    text: str


def normalise(text: str) -> str:
    """Return ``text`` in the characters of :data:`ALPHABET`, by the rule in the head of this module."""
    simple = "".join(_SIMPLER.get(c, c) for c in text.replace("\r\n", "\n").replace("\r", "\n"))
    plain = "".join(c for c in unicodedata.normalize("NFKD", simple) if not unicodedata.combining(c))
    spaced = re.sub(r" *\n *", "\n", re.sub(r"[^\S\n]+", " ", plain))
    return re.sub(f"[^{re.escape(ALPHABET)}]", STAND_IN, re.sub(r"\n{3,}", "\n\n", spaced))


def encode(text: str) -> Array:
    """Return the tokens ``(t,)``, int32, of the normalised ``text``."""
    table = np.zeros(128, dtype=np.int32)  # (128,)
    table[[ord(c) for c in ALPHABET]] = np.arange(len(ALPHABET))
    return table[np.frombuffer(normalise(text).encode("ascii"), dtype=np.uint8)]


def decode(tokens: Array) -> str:
    """Return the text of ``tokens``, a host array or list of integers of any shape, in row-major order."""
    return "".join(ALPHABET[i] for i in np.asarray(tokens).ravel())


def is_held_out(name: str) -> bool:
    """Return whether the file called ``name`` (without suffix) belongs to the held-out side of the split."""
    address = re.match(r"(\d{4})_", name)
    chapter = re.fullmatch(r"chapter_(\d+)", name)
    return bool((address and int(address[1]) % 20 == 10) or (chapter and int(chapter[1]) % 10 == 0))


def read_folder(folder: str | Path) -> tuple[list[Document], list[Document]]:
    """Return the training and the held-out documents of every ``.txt`` file below ``folder``, sorted by name.

    Raises
    ------
    InputError
        If the folder has no text in it, or a file is not UTF-8.
    """
    files = sorted((f for f in Path(folder).rglob("*.txt") if f.name not in _REPEATS), key=lambda f: (f.stem, str(f)))
    if not files:
        raise InputError(f"{folder}: expected a folder with .txt files in it, found none")
    found = [_read(f) for f in files]
    return [d for d in found if not is_held_out(d.name)], [d for d in found if is_held_out(d.name)]


def _read(path: Path) -> Document:
    try:
        text = normalise(path.read_text(encoding="utf-8")).strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, got {error.reason} at byte {error.start}") from None
    address = re.match(r"(\d{4})_([a-z_]+)_[a-z]+$", path.stem)
    if address:
        speaker = address[2].replace("_", " ").title().replace("Mc K", "McK")
        return Document(path.stem, f"State of the Union {address[1]}, {speaker}", int(address[1]), text)
    chapter = re.match(r"CHAPTER (\d+)\. ([^.]+)", text)
    if chapter:
        return Document(path.stem, f"Moby-Dick {chapter[1]}, {' '.join(chapter[2].split())}", 1851, text)
    return Document(path.stem, path.stem, 0, text)


def write_documents(documents: list[Document], folder: str | Path) -> None:
    """Write one ``.txt`` a document and ``documents.json``, the index that :func:`documents` reads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        (folder / f"{document.name}.txt").write_text(document.text + "\n", encoding="ascii")
    index = [{"name": d.name, "title": d.title, "year": d.year} for d in documents]
    (folder / "documents.json").write_text(json.dumps(index, indent=1) + "\n", encoding="ascii")


def documents(folder: str | Path = DATA) -> tuple[Document, ...]:
    """Return the shipped held-out documents: 12 addresses and 13 chapters, none of them used in training."""
    folder = Path(folder)
    index = json.loads((folder / "documents.json").read_text(encoding="ascii"))
    return tuple(Document(**entry, text=(folder / f"{entry['name']}.txt").read_text("ascii")[:-1]) for entry in index)
