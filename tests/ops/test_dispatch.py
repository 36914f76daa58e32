"""Which body runs, and what is counted."""

import numpy as np

from minisae.backend import to_device
from minisae.ops import fallbacks, known_false, reference_ops, relu
from minisae.ops.dispatch import twin
from tests.costume import xp


@twin(cpu=lambda a: "twin")
def op(a):
    """Say which body ran."""
    return "formula"


def test_the_argument_decides():
    assert op(np.zeros((2, 3))) == "twin"
    assert op((1, 2)) == "twin"
    assert op(np.zeros(3)) == op(np.zeros((5, 2, 3))) == "formula"
    with reference_ops():
        assert op(np.zeros((2, 3))) == "formula"
    assert op(np.zeros((2, 3))) == "twin"


def test_a_device_without_a_kernel_is_counted():
    before = fallbacks["relu"]
    relu(to_device(np.zeros((2, 3)), xp.__name__))
    assert fallbacks["relu"] == before + 1


def test_known_false():
    assert known_false(np.bool_(False))
    assert not known_false(np.bool_(True))
    assert not known_false(to_device(np.zeros(2, bool), xp.__name__).any())
    with reference_ops():
        assert not known_false(np.bool_(False))
