"""What a model costs under a keep-set."""

import math
from dataclasses import replace

import pytest

from fxprune.passes.cost import Polynomial, cost_polynomials
from tests.passes.example import example


def test_costs_are_polynomials_of_group_sizes_and_branches():
    found = {name: str(p) for name, p in example().costs.polynomials.items()}
    assert found == {
        "macs": "2232*a + 144*a*b*d+ + 72*a*e + 288*e",
        "params": "172*a + 2*a*b*d+ + 2*b*d+ + 1*a*e + 144*e",
        "memory": "216*a + 144*b*d+ + 144*a*d+ + 216*e + 8",
    }


def counted(a, b, e, branch):
    """The costs of the network of example.py, counted by hand for given widths."""
    pixels = 36
    flat = (a + e) * pixels
    macs = a * 3 * 9 * pixels + branch * 2 * a * b * pixels + a * e * pixels + flat * 4
    params = a * 27 + a + branch * (2 * a * b + 2 * b) + a * e + flat * 4
    memory = pixels * (a + branch * (2 * b + 2 * a) + e) + 2 * flat + 4
    return {"macs": macs, "params": params, "memory": memory}


@pytest.mark.parametrize("a", [1, 5, 8])
@pytest.mark.parametrize("b", [1, 6])
@pytest.mark.parametrize("branch", [0, 1])
def test_costs_are_those_counted_by_hand(a, b, branch):
    check_costs(example().costs.at, a, b, 5, branch)


def check_costs(costs, a, b, e, branch):
    assert costs({"a": a, "b": b, "e": e, "d+": branch}) == counted(a, b, e, branch)


def test_full_sizes_are_those_of_free_groups_and_branches():
    assert example().costs.full == {"a": 8, "b": 6, "e": 5, "d+": 1}


def test_polynomials_take_fractions():
    macs = example().costs.polynomials["macs"]
    assert macs({"a": 0.5, "b": 1.0, "e": 0.0, "d+": 1.0}) == (2232 * 0.5 + 144 * 0.5) / 2


def test_macs_of_open_model_are_the_products_of_contracted_sizes():
    analysis = example()
    total = sum(math.prod(axis.size for axis in c.axes) for c in analysis.types.contractions)
    assert analysis.costs.at(analysis.costs.full)["macs"] == total // analysis.graph.batch


def test_what_only_training_runs_costs_parameters_alone():
    analysis = example()
    graph = replace(analysis.graph, results=analysis.graph.nodes[0].outputs)
    costs = cost_polynomials(graph, analysis.types, analysis.groups, analysis.branches)
    assert str(costs.polynomials["macs"]) == "1944*a"
    assert str(costs.polynomials["params"]) == str(analysis.costs.polynomials["params"])


def test_counting_by_hand_finds_a_wrong_term():
    right = example().costs
    wrong = Polynomial(
        tuple((c + (names == ("a", "e")), names) for c, names in right.polynomials["macs"].terms),
        right.polynomials["macs"].divisor,
    )
    costs = replace(right, polynomials={**right.polynomials, "macs": wrong})
    with pytest.raises(AssertionError):
        check_costs(costs.at, 8, 6, 5, 1)
