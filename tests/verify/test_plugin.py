"""The harness inside another library's own tests: a test for each case, which fails where the library is wrong."""

import pytest

import minisae.verify.pytest_plugin  # noqa: F401  before a run takes stock of what is loaded: NumPy loads once only

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["minisae.verify.pytest_plugin"]'
MARKED = """
import pytest
from tests.verify import good_adapter

@pytest.mark.minisae({arguments})
def test_topk(minisae_report):
    assert minisae_report.ok, str(minisae_report)
"""


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(CONFTEST)

    def run(arguments, *options):
        pytester.makepyfile(MARKED.format(arguments=arguments))
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", *options)

    return run


def test_each_case_is_a_test(suite):
    done = suite('good_adapter, "topk"', "-v")
    done.assert_outcomes(passed=9)
    done.stdout.fnmatch_lines(["*test_topk?zero decoder row? PASSED*"])


def test_a_name_and_options_are_taken(suite):
    suite('"tests.verify.good_adapter", "topk", dtype="float32", options={"k": 2}').assert_outcomes(passed=9)


def test_what_is_wrong_fails_with_the_table(suite):
    done = suite('good_adapter, "topk", options={"subtract_b_dec": False}')
    outcomes = done.parseoutcomes()
    assert outcomes["failed"] >= 7
    done.stdout.fnmatch_lines(["*quantity*slope on*verdict*", "*encode*FAIL*"])


def test_a_marker_without_a_variant_is_told(suite):
    done = suite("good_adapter")
    done.stdout.fnmatch_lines(["*expected a marker minisae(adapter, variant)*"])
    assert done.ret != 0
