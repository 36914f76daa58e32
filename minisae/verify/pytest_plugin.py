"""The harness in another library's own tests: a fixture that gives one report a case.

    # conftest.py
    pytest_plugins = ["minisae.verify.pytest_plugin"]

    # test_reference.py
    import pytest
    import adapter                                  # see minisae.verify.adapter

    @pytest.mark.minisae(adapter, "topk")           # or a path or a module's name; and what harness.check takes
    def test_topk_is_that_of_the_paper(minisae_report):
        assert minisae_report.ok, str(minisae_report)

Each case is a test of its own: ``test_topk_is_that_of_the_paper[zero decoder row]``.
"""

from typing import Any

import pytest

from minisae.verify.adapter import Adapter, load_adapter
from minisae.verify.harness import check, chosen_cases
from minisae.verify.report import Report


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    text = "minisae(adapter, variant, dtype=, preset=, options=): compare an adapter with minisae, a test for each case"
    config.addinivalue_line("markers", text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that wants ``minisae_report`` every case of its marker's variant."""
    if "minisae_report" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("minisae")
    if mark is None or len(mark.args) != 2:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: expected a marker minisae(adapter, variant)")
    where, variant = mark.args
    adapter = load_adapter(where)
    names = chosen_cases(adapter, variant, preset=mark.kwargs.get("preset"), options=mark.kwargs.get("options"))
    cases = [(adapter, variant, {**mark.kwargs, "case": name}) for name in names]
    metafunc.parametrize("minisae_report", cases, ids=list(names), indirect=True)


@pytest.fixture
def minisae_report(request: pytest.FixtureRequest) -> Report:
    """Return the report on one case; its text is the harness's table."""
    chosen: tuple[Adapter, str, dict[str, Any]] = request.param
    adapter, variant, options = chosen
    return check(adapter, variant, **options)
