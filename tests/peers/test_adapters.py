"""The adapters that ship, against the real packages: each is its own preset, but for what is listed here."""

import importlib.util

import pytest

from minisae.verify.adapter import load_adapter
from minisae.verify.harness import check

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # the libraries' own

PACKAGES = {"saelens": "sae_lens", "dictionary_learning": "dictionary_learning"}
ZEROS = {"ties", "negative row", "at the edge", "dead latent", "x = b_dec"}
"""Where a tie decides what is selected: with ReLU before, zeros are selected, and torch takes whichever it likes."""
APART = {
    ("saelens", "relu"): set(),
    ("saelens", "gated"): set(),
    ("saelens", "topk"): {"zero decoder row"},  # NaN: divided by the norm
    ("saelens", "jumprelu"): set(),
    ("sparsify", "topk"): ZEROS,
    ("overcomplete", "relu"): set(),
    ("overcomplete", "topk"): {"ties"},
    ("dictionary_learning", "relu"): {"zero decoder row"},  # NaN in training: divided by the norm
    ("dictionary_learning", "gated"): {"zero decoder row"},
    ("dictionary_learning", "topk"): {"ties"},
}
"""By adapter and variant, the cases in which the library is not its preset."""
TOLERANCE = {("dictionary_learning", "topk"): 1e-6}
"""Where a library computes in float32 inside."""


@pytest.mark.parametrize(("library", "variant"), APART)
def test_the_library_is_its_preset(library, variant):
    for name in (PACKAGES.get(library, library), "torch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (extra peers)")
    adapter = load_adapter(f"minisae.verify.adapters.{library}")
    report = check(adapter, variant, tolerance=TOLERANCE.get((library, variant)))
    failed = {row.case for row in report.rows if row.verdict == "FAIL"}
    assert failed <= APART[library, variant], str(report)
    agreed = {row.quantity for row in report.rows if row.case == "base" and row.verdict == "ok"}
    assert agreed >= {"encode", "decode", "x_hat", "f", "gradient of W_enc", "gradient of W_dec"}
    assert any(quantity.startswith("loss/") for quantity in agreed)
    if library == "dictionary_learning":
        assert "W_dec after 10 steps" in agreed
