"""Goodfire's autoencoders of Llama (2025): one ``.pt`` or ``.pth`` file, two linear layers and ReLU.

Both weights stand transposed; b_dec is not subtracted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisae.interop.arrays import read_state
from minisae.interop.common import Layout, Stored, adopted, gather, only

NAME = "goodfire"
LAYOUT: Layout = {
    "W_enc": "encoder_linear.weight.T", "b_enc": "encoder_linear.bias",
    "W_dec": "decoder_linear.weight.T", "b_dec": "decoder_linear.bias",
}  # fmt: skip


def recognises(path: Path) -> bool:
    """Return whether ``path`` is a state dict of these two layers."""
    return path.suffix in (".pt", ".pth") and path.is_file() and "encoder_linear.weight" in read_state(path)


def read(path: Path, options: Mapping[str, Any]) -> Stored:
    """Read such a file; it says everything, so there are no ``options``.

    Raises
    ------
    InputError
        For whatever is wrong with the file.
    """
    only(options, (), path)
    arrays = gather(read_state(path), LAYOUT, path)
    return adopted(path, "relu", {"subtract_b_dec": False}, arrays, metadata={"format": NAME, "notes": []})
