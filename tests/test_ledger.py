"""The ledger of known deviations: both numbers of every entry, worked by hand, and how it is printed."""

import doctest
import json
import math

import numpy as np
import pytest

from minisae import ledger
from minisae.cli import main
from minisae.errors import InputError

INF, NAN = math.inf, math.nan
NUMBERS = {
    ("overcomplete", "penalty grows with the batch"): ((0.4, 0.4, 0.4), (1.2, 2.4, 12)),  # λ · 4 · rows
    ("overcomplete", "no projection"): ((0, -4), (-4, -4)),  # 2 · (−1, −1) · f
    ("overcomplete", "threshold slope"): (-2, -4),  # −θ/ε, and once more over ε
    ("overcomplete", "kernel areas"): ((1,) * 8, (2, 2, 2, 2, 1, 1, 2, 4)),
    ("overcomplete", "at the threshold"): (0, 0.5),
    ("overcomplete", "far below the threshold"): (0, -0.4),  # −θ/ε²
    ("overcomplete", "AuxK of the living"): (0, 0.025),  # 0.1 · (¼ + ¼)/2
    ("overcomplete", "the residual is not held fixed"): (0, -0.05),  # 0.1 · 2 · (−½)/2
    ("overcomplete", "k of the whole batch"): (8, 2),
    ("overcomplete", "ties are kept"): (1, 2),
    ("overcomplete", "threshold not saved"): (3, 0),
    ("overcomplete", "variance about a number"): (0, 1 - 2 / 102),  # mean 5: 25 + 16 + 25 + 36
    ("dictionary_learning", "p-norm"): (5, 25),  # 2 + 3 and its square
    ("dictionary_learning", "norm twice"): (6, 12),
    ("dictionary_learning", "division by zero"): (100, 91),
    ("dictionary_learning", "zero to the zero"): (1, 3),
    ("dictionary_learning", "half a window"): (-2, 0),  # −1/ε
    ("dictionary_learning", "all silent entries in the window"): (0, -100),
    ("dictionary_learning", "negative codes"): (0, -0.05),
    ("dictionary_learning", "selected zeros have fired"): (1, 2),
    ("dictionary_learning", "AuxK beside an error in other units"): ((0.5, 0.5), (2, 0.02)),  # ¾ over ½ over ¾
    ("dictionary_learning", "nested errors divided twice"): (27, 3),
    ("dictionary_learning", "infinite threshold"): (0.5005, INF),
    ("dictionary_learning", "first step of rate 0"): (0.001, 0),
    ("dictionary_learning", "decoder lifted to norm 1"): (1, 10),
    ("dictionary_learning", "logging trains"): (8, 16),
    ("dictionary_learning", "evaluated in other units"): (1, 4),  # √16
    ("dictionary_learning", "geometric median at a row"): (0, NAN),
    ("dictionary_learning", "resampled rows keep their length"): (0.2, 1),
    ("dictionary_learning", "resampling writes to a copy"): (1 - 0.2 * 4 / 5, 0),  # 1 → 0.16
    ("dictionary_learning", "a bias is free"): (1 - 3 / 14, 1),
    ("SAELens", "p-norm"): (5, 25),
    ("SAELens", "gate trains the decoder"): (0, -4),  # 2 · (2 − 3) · 2
    ("SAELens", "target L0 of each row"): (0, 2),
    ("SAELens", "AuxK without ReLU"): (0, -0.5),
    ("SAELens", "k of the first axis"): (12, 4),
    ("SAELens", "threshold from zero"): (1, 1 - 0.99**100),
    ("SAELens", "threshold not folded"): (1, 0),
    ("SAELens", "mean of ratios"): (1 - 3 / 14, 1 - (1 / 4 + 1 + 1 / 9) / 3),
    ("SAELens", "MCC of the matched"): (0.25, 1),
    ("SAELens", "sparsify's decoder transposed"): ((0.6, 0.8), (0.6, -0.8)),
    ("SAELens", "sparsify's b_dec not subtracted"): (0, 2),
    ("SAELens", "sparsify's width read as 0"): (64, 0),
    ("SAELens", "features in scaled units"): (0.375, 1.5),  # ½ − ⅛, and 2 − ½
    ("SAELens", "zero row rescaled"): (0, NAN),
    ("sparsify", "kl is a cross-entropy"): (0, (2 * math.log(2) + 0.5 * math.log(4) + 1.5 * math.log(4 / 3)) / 4),
    ("sparsify", "AuxK does not reach the encoder"): (-1, 0),  # 2 · (−½)
    ("sparsify", "multi-TopK does not reach the encoder"): (-1 / 8, 0),
    ("sparsify", "selected zeros get gradient"): (0, 1),
    ("sparsify", "selected zeros have fired"): (1, 2),
    ("sparsify", "saved rows off unit norm"): (1, 1.01**0.5),  # (1, ±0.1)
    ("OpenAI", "saved rows off unit norm"): (1, 1.01**0.5),
    ("OpenAI", "AuxK trains b_dec"): (0, -1),  # 2 · (−½)
    ("OpenAI", "zero row"): (0.5, NAN),
    ("OpenAI", "variance about zero"): (0, 1 - 1 / 101),
    ("OpenAI", "layer norm left out of training"): (1, 10),
    ("SAEBench", "explained variance depends on units"): (
        (0.9, 0.9),  # 1 − 0.04 · 10 / (10 − 3·2): rows about (1, 1)
        tuple(1 - 0.04 * p / (p - (p / 2) ** 2) for p in (10 / 12, 40 / 3)),
    ),
    ("SAEBench", "mse divided twice"): (2, 0.25),
}  # fmt: skip
"""What each entry shows: as it should be, as the library has it."""
LOOSE = {("OpenAI", "layer norm left out of training"): 1e-4}
"""An ε of 1e-5 beside a deviation of 1."""


def test_every_entry_is_worked_by_hand():
    names = [(entry.library, entry.name) for entry in ledger.LEDGER]
    assert len(set(names)) == len(names)
    assert set(names) == NUMBERS.keys()


@pytest.mark.parametrize("entry", ledger.LEDGER, ids=lambda entry: f"{entry.library}: {entry.name}")
def test_both_behaviours(entry):
    shown, tolerance = entry.show(), LOOSE.get((entry.library, entry.name), 1e-6)
    for got, expected in zip((shown.right, shown.theirs), NUMBERS[entry.library, entry.name], strict=True):
        assert isinstance(got, tuple | float)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=1e-12)
    assert not np.allclose(shown.right, shown.theirs, equal_nan=True)
    assert entry.checked in ("run", "read")
    assert entry.says.endswith(".")
    assert "{" not in ledger.told(entry, shown)


def test_a_consequence_has_its_numbers():
    [entry] = [e for e in ledger.entries("SAELens") if e.name == "features in scaled units"]
    shown = entry.show()
    assert ledger.told(entry, shown) == "the same function has features 4 times as large: the scale"
    assert ledger.told(entry._replace(consequence="{theirs} for {right}"), shown) == "1.5 for 0.375"
    assert ledger.told(entry._replace(consequence="{right}"), shown._replace(right=(-1.0, 2.0))) == "−1, 2"


def test_the_command_lists_them(capsys):
    assert main(["info", "ledger"]) == 0
    text = capsys.readouterr().out
    assert all(f"{entry.library} {entry.version}: {entry.name}\n" in text for entry in ledger.LEDGER)
    assert f"{len(ledger.LEDGER)} known deviations" in text


def test_the_command_lists_one_library_as_json(capsys):
    assert main(["info", "ledger", "openai", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["deviations"]
    assert {entry["library"] for entry in found} == {"OpenAI"}
    by_name = {entry["name"]: entry for entry in found}
    assert by_name["zero row"]["theirs"] is None, "NaN has no number in JSON"
    assert by_name["zero row"]["right"] == 0.5


def test_an_unknown_library_is_one_line(capsys):
    with pytest.raises(InputError, match=r"library: expected one of dictionary_learning, OpenAI, .*, got 'keras'"):
        ledger.entries("keras")
    assert main(["info", "ledger", "keras"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_example_in_the_docstring():
    result = doctest.testmod(ledger)
    assert result.attempted == 4
    assert result.failed == 0
