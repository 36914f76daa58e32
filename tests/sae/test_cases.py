"""Every variant has cases that show all it can do, and what is missing is named."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisae import sae
from minisae.conventions import SWITCHES
from minisae.recipe import Recipe, check_recipe
from tests.sae import cases
from tests.sae.cases import Case, cases_of, config, covering, every_case, module_of, switches, unseen


@pytest.mark.parametrize("name", sae.VARIANTS)
def test_every_option_is_in_some_case(name):
    missing = unseen(name, cases_of(name))
    assert not missing, f"variant {name}: no case in tests/sae/test_{name}.py has {', '.join(missing)}"


@pytest.mark.parametrize(("name", "case"), every_case())
def test_every_case_is_valid_from_small_sizes_up(name, case):
    for d_in, d_sae in ((2, 11), (17, 97)):
        check_recipe(Recipe(steps=5, **case.recipe), config(name, case.options, d_in, d_sae))


@pytest.mark.parametrize("name", sae.VARIANTS)
def test_what_no_case_shows_is_named(name):
    """Without options at all: every number, and of every switch all values but the default."""
    bare = {"bare": Case({})}
    fields = sae.VARIANTS[name].Config._fields
    numbers = {field for field in fields if field not in SWITCHES and field not in cases.SIZES}
    missing = unseen(name, bare)
    named = {line.partition(" ")[0] for line in missing}
    assert named >= numbers | switches(name).keys()
    for field, values in switches(name).items():
        default = sae.VARIANTS[name].Config._field_defaults[field]
        assert {f"{field} = {value}" for value in values if value != default} <= set(missing)
    own = {option for case in cases_of(name).values() for option in case.recipe}
    plain = {label: case._replace(recipe={}) for label, case in cases_of(name).items()}
    known = [option for part in cases.PARTIAL for option in part if option in own]
    assert unseen(name, plain) == [f"{option} of the recipe" for option in known]


@pytest.mark.parametrize("name", sae.VARIANTS)
def test_a_value_taken_out_of_all_cases_is_named(name):
    for field, values in switches(name).items():
        for value in values:
            other = next(v for v in values if v != value)
            changed = {
                label: case._replace(options=case.options | {field: other}) for label, case in cases_of(name).items()
            }
            assert f"{field} = {value}" in unseen(name, changed)


def test_a_variant_without_tests_or_cases_is_named(monkeypatch):
    with pytest.raises(LookupError, match=r"^variant spline: expected its tests in tests/sae/test_spline.py, found"):
        module_of("spline")
    with pytest.raises(LookupError, match=re.escape("variant cases: expected CASES in tests/sae/test_cases.py")):
        module_of("cases")
    monkeypatch.setitem(sae.VARIANTS, "spline", sae.relu)
    for collect in (cases.every_case, cases.every_combination):
        with pytest.raises(LookupError, match="variant spline"):
            collect()


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6), strength=st.integers(1, 3))
def test_covering_holds_every_combination(sizes, strength):
    values = {f"option {i}": tuple(range(size)) for i, size in enumerate(sizes)}
    found = covering(values, strength)
    for names in itertools.combinations(values, min(strength, len(values))):
        held = {tuple(chosen[name] for name in names) for chosen in found}
        assert held == set(itertools.product(*(values[name] for name in names)))


def test_every_combination_of_a_small_variant():
    """With no more switches than the strength, all are combined."""
    values = {"a": (1, 2), "b": (True, False), "c": ("x", "y", "z")}
    assert len(covering(values, 3)) == 12
    assert len(covering(values, 5)) == 12
