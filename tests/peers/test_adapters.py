"""The adapters that ship, against the real packages: each is its own preset, but for what it declares as known."""

import importlib.util

import pytest

from minisae.verify.adapter import load_adapter
from minisae.verify.harness import check

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # the libraries' own

PACKAGES = {"saelens": "sae_lens", "dictionary_learning": "dictionary_learning"}
VARIANTS = [
    *(("saelens", name) for name in ("relu", "gated", "topk", "jumprelu")),
    *(("dictionary_learning", name) for name in ("relu", "gated", "topk")),
    *(("overcomplete", name) for name in ("relu", "topk")),
    ("sparsify", "topk"),
]
TOLERANCE = {("dictionary_learning", "topk"): 1e-6}
"""Where a library computes in float32 inside."""


def loaded(library):
    for name in (PACKAGES.get(library, library), "torch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (extra peers)")
    return load_adapter(f"minisae.verify.adapters.{library}")


@pytest.mark.parametrize(("library", "variant"), VARIANTS)
def test_the_library_is_its_preset(library, variant):
    report = check(loaded(library), variant, tolerance=TOLERANCE.get((library, variant)))
    assert report.ok, str(report)
    agreed = {row.quantity for row in report.rows if row.case == "base" and row.verdict == "ok"}
    assert agreed >= {"encode", "decode", "x_hat", "f", "gradient of W_enc", "gradient of W_dec"}
    assert any(quantity.startswith("loss/") for quantity in agreed)
    if library == "dictionary_learning":
        assert "W_dec after 10 steps" in agreed


@pytest.mark.parametrize(
    ("library", "variant"),
    [("saelens", "topk"), ("dictionary_learning", "relu"), ("dictionary_learning", "gated")],
)
def test_a_library_that_divides_by_the_norm_of_a_zero_row_is_told_so(library, variant):
    adapter = loaded(library)
    assert adapter.known[variant].keys() == {"zero decoder row"}
    report = check(adapter._replace(known={}), variant)
    assert {row.case for row in report.rows if row.verdict == "FAIL"} == {"zero decoder row"}
    assert report.explanation == "your numbers are not finite where a decoder row is zero"
