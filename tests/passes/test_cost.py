"""What a model costs under a keep-set."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from examples.cifar_resnet import CifarResNet
from fxprune.passes.analyse import analyse
from fxprune.passes.cost import cost_polynomials
from fxprune.passes.polynomials import Polynomial
from fxprune.torch.frontend.program import read_model
from tests.passes.example import example
from tests.vision import torchvision


def test_costs_are_polynomials_of_group_sizes_and_branches():
    found = {name: str(p) for name, p in example().costs.polynomials.items()}
    assert found == {
        "macs": "1116*a + 72*a*b*d+ + 36*a*e + 144*e",
        "params": "172*a + 2*a*b*d+ + 2*b*d+ + 1*a*e + 144*e",
        "bytes": "688*a + 8*a*b*d+ + 8*b*d+ + 4*a*e + 576*e",
        "memory": "108*a + 72*b*d+ + 72*a*d+ + 108*e + 4",
        "flops": "1152*a + 72*a*b*d+ + 36*a*e + 144*e + 72*b*d+",
        "peak": "max(108 + 36*a, 36*a + 72*b*d+, 36*a + 36*b*d+ + 36*a*d+, 36*a + 72*a*d+, "
        "36*a + 36*a*d+ + 36*e, 72*a + 72*e, 36*a + 36*e + 4)",
    }


def counted(a, b, e, branch):
    """The costs of the network of example.py, counted by hand for given widths."""
    pixels = 36
    flat = (a + e) * pixels
    macs = a * 3 * 9 * pixels + branch * 2 * a * b * pixels + a * e * pixels + flat * 4
    params = a * 27 + a + branch * (2 * a * b + 2 * b) + a * e + flat * 4
    memory = pixels * (a + branch * (2 * b + 2 * a) + e) + 2 * flat + 4
    flops = macs + pixels * (a + branch * 2 * b)
    alive = [3 * pixels + a * pixels, branch * (a + 2 * b) * pixels, branch * (2 * a + b) * pixels]
    alive += [branch * 3 * a * pixels, (a + branch * a + e) * pixels, 2 * flat, flat + 4]
    return {
        "macs": macs,
        "params": params,
        "bytes": 4 * params,
        "memory": memory,
        "flops": flops,
        "peak": max(alive),
    }


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


@pytest.mark.parametrize(
    ("network", "flops"),
    [
        (lambda: CifarResNet(20), 40_932_032),
        (lambda: CifarResNet(56), 126_554_816),
        (lambda: CifarResNet(110), 254_988_992),
        (torchvision.models.resnet50, 4_111_514_624),
    ],
)
def test_flops_are_those_that_are_published(network, flops):
    side = 32 if flops < 10**9 else 224
    analysis = analyse(read_model(network().eval(), [(torch.zeros(2, 3, side, side),)]).ir)
    assert analysis.costs.at(analysis.costs.full)["flops"] == flops


@pytest.mark.parametrize(
    ("layers", "flops"),
    [
        ([nn.Conv2d(3, 4, 3, padding=1)], 4 * 36 * (27 + 1)),
        ([nn.Conv2d(3, 4, 3, padding=1, bias=False)], 4 * 36 * 27),
        ([nn.BatchNorm2d(3)], 3 * 36 * 2),
        ([nn.AvgPool2d(2)], 3 * 9),
        ([nn.AdaptiveAvgPool2d(2)], 3 * 4 * (3 * 3 + 1)),
        ([nn.AdaptiveAvgPool2d((1, 6))], 3 * 6 * (6 * 1 + 1)),
        ([nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5)], 27 * 5),
    ],
)
def test_flops_of_single_layers(layers, flops):
    model = nn.Sequential(*layers).eval()
    analysis = analyse(read_model(model, [(torch.zeros(2, 3, 6, 6),)]).ir)
    assert analysis.costs.at(analysis.costs.full)["flops"] == flops


@pytest.mark.parametrize("path", ["layer1", "layer2", "layer2.1", "layer2.1.conv1"])
def test_costs_inside_a_module_are_those_of_the_module_alone(path):
    model = CifarResNet(20).eval()
    shapes = {}
    model.get_submodule(path).register_forward_hook(
        lambda module, inputs, output: shapes.update(x=inputs[0].shape)
    )
    a = analyse(read_model(model, [(torch.zeros(2, 3, 32, 32),)]).ir)
    model(torch.zeros(2, 3, 32, 32))
    alone = analyse(read_model(model.get_submodule(path), [(torch.zeros(shapes["x"]),)]).ir)
    inside = cost_polynomials(a.graph, a.types, a.groups, a.branches, path)
    expected, got = alone.costs.at(alone.costs.full), inside.at(inside.full)
    for name in ("macs", "params", "flops"):
        assert got[name] == expected[name], name


def test_costs_inside_all_modules_are_those_of_the_model():
    a = analyse(read_model(CifarResNet(20).eval(), [(torch.zeros(2, 3, 32, 32),)]).ir)
    paths = ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"]
    parts = [cost_polynomials(a.graph, a.types, a.groups, a.branches, path) for path in paths]
    whole = a.costs.at(a.costs.full)
    for name in ("macs", "params", "bytes", "memory", "flops"):
        assert sum(part.at(part.full)[name] for part in parts) == whole[name]


def test_what_only_training_runs_costs_parameters_alone():
    analysis = example()
    graph = replace(analysis.graph, results=analysis.graph.nodes[0].outputs)
    costs = cost_polynomials(graph, analysis.types, analysis.groups, analysis.branches)
    assert str(costs.polynomials["macs"]) == "972*a"
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
