"""What is known of operators names operators, and nothing else."""

from collections.abc import Iterable

import pytest

from fxprune.onnx.backend.masked_forms import MASKED_FORMS
from fxprune.passes import kinds
from fxprune.passes.infer import RULES
from fxprune.passes.operators import OPERATORS, factor_of
from fxprune.torch.backend.masked_calls import MODULE_FORMS
from fxprune.torch.frontend.module_spellings import MODULES
from fxprune.torch.frontend.spellings import NAMES

FACTS = {name: fact for name, fact in vars(kinds).items() if name.isupper()}
SPELLED = {spelling.op for spelling in (*NAMES.values(), *MODULES.values())}
TABLES = {**FACTS, "torch": MODULE_FORMS, "ONNX": MASKED_FORMS, "spellings": SPELLED}


def check_operators(names: Iterable[str]) -> None:
    """Every name is a line of the operator table or a rule."""
    unknown = sorted(set(names) - OPERATORS.keys() - RULES.keys())
    assert not unknown, f"no operators: {unknown}"


@pytest.mark.parametrize("table", TABLES)
def test_every_fact_is_about_an_operator(table):
    assert TABLES[table]
    check_operators(TABLES[table])


def test_check_of_facts_finds_what_is_no_operator():
    with pytest.raises(AssertionError, match=r"no operators: \['convolution'\]"):
        check_operators({"conv", "convolution"})


def test_no_operator_is_known_by_two_names():
    assert OPERATORS.keys().isdisjoint(RULES)


def test_factors_are_those_of_normalisations():
    factors = {name: factor_of(name) for name in OPERATORS if factor_of(name) is not None}
    assert factors == {
        "batch_norm": 3,
        "standardise": 3,
        "instance_norm": 3,
        "instance_standardise": 1,
        "layer_norm": 1,
        "rms_norm": 1,
        "group_norm": 1,
    }
    assert factor_of("conv") is None is factor_of("add")
