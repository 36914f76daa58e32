"""What the tests of files that attack share."""

import tracemalloc

import pytest

import minisae
from minisae.errors import InputError

LIMIT = 5 * 2**20
"""Bytes that refusing may take; the attacks ask for a gigabyte and more. As many empty lists as may be take 4.2 MiB."""


def refused(path, match, **more):
    """Loading is refused, in one line with the file's name, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match) as caught:
            minisae.load(path, **more)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 600
    assert peak < LIMIT, f"{peak / 2**20:.0f} MiB"


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call
