"""Schedules on values worked by hand."""

import pytest

from minisae.errors import InputError
from minisae.schedules import anneal, decay, warmup


def test_warmup_counts_from_the_first_step():
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, 0) == 1


def test_decay_shapes():
    assert [decay(step, total=10, start=6, shape="linear") for step in (0, 6, 8, 10)] == [1, 1, 0.5, 0]
    assert decay(8, total=10, start=6, shape="cosine") == pytest.approx(0.5)
    assert decay(8, total=10, start=6, shape="quarter_cosine") == pytest.approx(0.5**0.5)
    assert decay(9, total=10, start=6, shape="constant") == 1


def test_anneal_ends_where_it_should():
    assert [anneal(step, first=16, last=4, steps=4) for step in (0, 1, 4, 9)] == [16, 13, 4, 4]


def test_unknown_shape():
    with pytest.raises(InputError, match=r"lr_decay: expected one of constant, .*, quarter_cosine, got 'step'"):
        decay(0, total=1, start=0, shape="step")


def test_warmup_from_zero():
    """dictionary_learning's rate and SAELens' coefficient: nothing on the first step, all of it a step later."""
    assert [warmup(step, 4, begins="zero") for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert warmup(0, 0, begins="zero") == 1


def test_decay_to_a_share():
    assert [decay(step, total=10, start=6, end=0.25) for step in (0, 6, 8, 10)] == [1, 1, 0.625, 0.25]
    assert decay(10, total=10, start=6, shape="cosine", end=0.1) == pytest.approx(0.1)
    assert decay(9, total=10, start=6, shape="constant", end=0.1) == 1
