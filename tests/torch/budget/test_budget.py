"""Targets are met exactly, and nothing that fits stays closed."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.filling import PointArrayCost, _largest
from fxprune.passes.cost import COSTS
from fxprune.passes.polynomials import Maximum, Polynomial
from fxprune.testing import count_macs, networks
from fxprune.testing.torch.checkers import assert_costs
from fxprune.torch.budget.budget import Budget
from fxprune.torch.budget.point_costs import PointCost
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import gates_of, record_of
from fxprune.torch.recorded import recorded
from tests.passes.test_peak import watched
from tests.torch.models import Residual, images, randomise


class Blocks(nn.Module):
    """Residual blocks, a concatenation and a pool: groups of many sizes, branches of many costs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.layer1 = nn.ModuleList(block(12, inner) for inner in (5, 16))
        self.down = nn.Conv2d(12, 20, 3, stride=2, padding=1)
        self.layer2 = nn.ModuleList(block(20, inner) for inner in (30, 3))
        self.side = nn.Conv2d(20, 7, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(27 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner in self.layer1:
            x = x + inner(x)
        x = self.down(x)
        for inner in self.layer2:
            x = x + inner(x)
        x = torch.cat([x, self.side(x).relu()], dim=1)
        return self.head(self.pool(x).flatten(1))


def block(channels: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, channels, 3, padding=1),
    )


def settled(seed: int, model: nn.Module | None = None, **options):
    """A gated model whose target is met under a random rank."""
    gated = fxprune.prepare(model or randomise(Blocks()), images(1), **options)
    method = gates_of(gated).method
    generator = torch.Generator().manual_seed(seed)
    method.settle(torch.randn(method.budget.layout.total, generator=generator))
    return gated


def closed_units(gated: nn.Module, rank: Tensor, round_to: int):
    """Keep-sets in which one gate has opened its best closed positions, a branch also if thin."""
    keep = fxprune.keep_set(gated)
    layout = gates_of(gated).method.budget.layout
    for name, places in zip(layout.names, layout.inside, strict=True):
        if not keep[name].all() and places:
            inside = [layout.names[place] for place in places]
            thin = {group: torch.arange(len(keep[group])) < round_to for group in inside}
            yield {**keep, **thin, name: torch.ones(1, dtype=torch.bool)}
    ranks = torch.split(rank, [len(flags) for flags in keep.values()])
    for (name, flags), values in zip(keep.items(), ranks, strict=True):
        order = [i for i in values.argsort(descending=True, stable=True).tolist() if not flags[i]]
        if order:
            more = flags.clone()
            more[order[: round_to if len(flags) > 1 or name[-1] != "+" else 1]] = True
            yield {**keep, name: more}


TARGETS = [
    0.5,
    0.31,
    {"params": 0.4},
    {"memory": 0.6},
    {"flops": 0.45},
    {"flops": 150_000},
    {"peak": 0.7},
    {"peak": 2500},
    {"macs": 0.6, "params": 0.5, "peak": 0.75},
    {"macs": 0.5, "layer1": {"macs": 0.3}},
    {"layer1": 0.6, "layer2.0": {"params": 0.4}, "memory": 0.9},
    {"layer2": {"peak": 0.6}},
    {"latency": 0.8},
    1.0,
]


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.usefixtures("counted_time")
def test_no_closed_position_could_be_opened(target, round_to):
    for seed in range(2):
        check_exactness(settled(seed, target=target, round_to=round_to), seed, round_to)


def check_exactness(gated, seed, round_to):
    """Every limit holds, and to open one more unit of any gate would break one."""
    method = gates_of(gated).method
    costs, limit = method.budget.costs, record_of(gated).targets
    rank = torch.randn(method.budget.layout.total, generator=torch.Generator().manual_seed(seed))
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    found = costs.at(sizes)
    assert set(found) == set(limit)
    for name, cost in found.items():
        assert cost <= limit[name] * (1 + 1e-9), (name, cost, limit[name])
    for keep in closed_units(gated, rank, round_to):
        grown = costs.at({name: int(flags.sum()) for name, flags in keep.items()})
        assert any(grown[name] > limit[name] * (1 - 1e-9) for name in limit), (found, grown, limit)


def test_check_of_exactness_finds_what_is_left_closed():
    gated = settled(0, target={"params": 0.5})
    keep = fxprune.keep_set(gated)
    worst = torch.split(
        torch.randn(sum(map(len, keep.values())), generator=torch.Generator().manual_seed(0)),
        [len(flags) for flags in keep.values()],
    )
    for (name, flags), rank in zip(keep.items(), worst, strict=True):
        if flags.sum() > 1:
            flags[rank.masked_fill(~flags, torch.inf).argmin()] = False
            fxprune.set_keep_set(gated, {name: flags})
            break
    with pytest.raises(AssertionError):
        check_exactness(gated, 0, 1)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    networks(["conv", "residual", "concatenation", "depthwise", "normalisation", "pooling"]),
    st.sampled_from(COSTS),
    st.floats(0.3, 1),
    st.integers(0, 99),
)
def test_targets_of_random_networks_are_met_exactly(network, cost, share, seed):
    try:
        gated = fxprune.prepare(network.eval(), network.inputs, target={cost: share})
    except fxprune.TargetError:
        return
    method = gates_of(gated).method
    generator = torch.Generator().manual_seed(seed)
    method.settle(torch.randn(method.budget.layout.total, generator=generator))
    check_exactness(gated, seed, 1)


@pytest.mark.parametrize("cost", COSTS)
def test_predicted_costs_are_counted_after_folding(cost):
    gated = settled(1, target={cost: 0.6})
    folded = fxprune.fold(gated).eval()
    predicted = costs_of(gated)
    assert predicted == costs_of(folded)
    assert_costs(folded, [images(1)], predicted)
    again = record_of(fxprune.prepare(folded, images(1), target=1.0)).analysis.costs
    assert again.at(again.full) == predicted
    elements, flops = written(folded)
    assert predicted["memory"] == elements
    assert predicted["flops"] == count_macs(folded, [images(1)]) + flops
    assert predicted["peak"] == watched(folded, images(1))
    assert predicted[cost] <= record_of(gated).targets[cost]


def written(model):
    """Elements that a model computes, and operations beside its products, seen as it runs."""
    elements = flops = 0

    class Counter(torch.fx.Interpreter):
        def run_node(self, n):
            nonlocal elements, flops
            result = super().run_node(n)
            if n.op.startswith("call") and isinstance(result, Tensor):
                elements += result.numel()
                module = traced.get_submodule(n.target) if n.op == "call_module" else None
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    flops += result.numel()
                if isinstance(module, nn.BatchNorm2d):
                    flops += 2 * result.numel()
                if isinstance(module, nn.AdaptiveAvgPool2d):
                    flops += result.numel() * (2 * 2 + 1)  # windows of 4 x 4 images
            return result

    traced = recorded(model)
    Counter(traced).run(images(1))
    return elements, flops


# Least shares ---------------------------------------------------------------------------------


def sizes_of(gated):
    return {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}


def test_every_group_keeps_its_least_share():
    least = {"": 0.2, "layer2": 0.34, "layer2.0": 0.4}
    expected = {"stem.0": 3, "layer1.0.0": 1, "layer2.0.0": 12, "layer2.1.0": 2, "side": 2}
    models = [fxprune.prepare(Blocks(), images(1), target=0.4, least=x) for x in (0.0, least)]
    for gated in models:
        layout = gates_of(gated).method.budget.layout
        worst = [-2.0 if n == "layer2.0.0" else 1.0 - 2 * (n in expected) for n in layout.names]
        gates_of(gated).method.settle(torch.from_numpy(np.repeat(worst, layout.sizes)))
    free, guarded = map(sizes_of, models)
    assert all(guarded[name] >= size for name, size in expected.items()), guarded
    assert guarded["layer2.0.0"] == 12
    assert free["layer2.0.0"] == 1


def test_least_share_is_rounded_up_to_units():
    kept = sizes_of(settled(0, target=0.35, least=0.3, round_to=4))
    assert kept["layer2.0.0"] >= 12  # of 30, of which three tenths are 9
    assert kept["stem.0"] >= 4


def test_unreachable_combination_of_target_and_least_is_refused():
    with pytest.raises(fxprune.TargetError, match=r"with every group at its smallest .* or least"):
        fxprune.prepare(Blocks(), images(1), target=0.05, least=0.9)


# Modules --------------------------------------------------------------------------------------


def test_target_of_a_module_is_about_what_is_inside():
    gated = settled(0, target={"layer2": {"params": 0.5}})
    folded = fxprune.fold(gated)
    full = sum(p.numel() for p in Blocks().layer2.parameters())
    kept = sum(p.numel() for p in folded.layer2.parameters())
    assert 0 < kept <= 0.5 * full
    assert kept == gates_of(gated).method.budget.costs.at(sizes_of(gated))["params of layer2"]
    assert record_of(gated).targets == {"params of layer2": 0.5 * full}


def test_number_for_a_module_is_a_share_of_its_macs():
    left, right = (settled(0, target={"layer1": t}) for t in (0.4, {"macs": 0.4}))
    assert sizes_of(left) == sizes_of(right)


@pytest.mark.parametrize("seed", range(3))
def test_limits_hold_for_what_is_left_after_shrinking(seed):
    target = {"macs": 0.4, "peak": 0.7, "layer2": {"params": 0.3}}
    gated = fxprune.prepare(randomise(Blocks()), images(1), target=target, least=0.3)
    before = gates_of(gated).method.budget
    rank = torch.randn(before.layout.total, generator=torch.Generator().manual_seed(seed))
    halfway = before.choose(rank, before.relative(0.5))
    gates_of(gated).method.is_open.copy_(halfway)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.1)
    assert fxprune.shrink(gated, optimizer) > 0
    budget = gates_of(gated).method.budget
    assert budget.layout.total < before.layout.total
    assert budget.limit == before.limit
    assert budget._full == before._full
    counts = torch.split(halfway, list(before.layout.sizes))
    then = dict(zip(before.layout.names, (int(flags.sum()) for flags in counts), strict=True))
    assert budget.costs.at(budget.costs.full) == pytest.approx(before.costs.at(then))
    fxprune.reach_target(gated)
    kept = sizes_of(gated)
    for name, value in budget.costs.at(kept).items():
        assert value <= budget.limit[name]
    full = before.costs.full
    groups = budget.layout.names[: budget.layout.groups]
    assert all(kept[name] >= 0.3 * full[name] for name in groups if name in full)


# Schedule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "total", "expected"),
    [(0.5, 40, 20), (0.3, 7, 2), (0.01, 10, 1), (12, 40, 12), (9, None, 9)],
)
def test_steps_may_be_a_share_of_the_training(steps, total, expected):
    gated = fxprune.prepare(Residual(), images(1), steps=steps, total_steps=total)
    assert gates_of(gated).method.steps == expected


# Prices and parts -----------------------------------------------------------------------------

POINTS = (
    Polynomial(((3, ("a",)), (2, ("a", "b")), (5, ()))),
    Polynomial(((4, ("b", "c")), (1, ("c", "c"))), 2),
    Polynomial(((1, ("a", "d")), (-1, ("a", "c", "d")), (7, ("c",)))),
)
NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize("points", [POINTS[:1], POINTS[1:2], POINTS], ids=len)
def test_costs_on_tensors_are_those_of_polynomials(points):
    cost = PointCost(points, {name: i for i, name in enumerate(NAMES)})
    for values in itertools.product([1, 2, 5], [1, 3], [1, 4], [0, 1]):
        sizes = dict(zip(NAMES, map(float, values), strict=True))
        found = cost(torch.tensor(values).double())
        assert float(found) == pytest.approx(Maximum(points)(sizes))
        arrays = PointArrayCost(points, {name: i for i, name in enumerate(NAMES)})
        assert arrays(np.array(values, dtype=float)) == pytest.approx(float(found))
        more = np.array([1.0, 2.0, 4.0, 1.0])
        after = arrays.after(np.array(values, dtype=float), more)
        for i, name in enumerate(NAMES):
            grown = {**sizes, name: sizes[name] + float(more[i])}
            expected = Maximum(points)(grown)
            assert float(after[i]) == pytest.approx(max(expected, float(found))), name


def test_positions_outside_the_largest_point_have_a_price():
    gated = fxprune.prepare(Blocks(), images(1), target={"peak": 0.5})
    budget = gates_of(gated).method.budget
    prices = budget.prices(torch.ones(budget.layout.total))
    counts = torch.tensor(budget.layout.sizes).double().requires_grad_()
    (largest,) = torch.autograd.grad(budget._tensors["peak"](counts), counts)
    assert int((prices > 0).sum()) > int((largest > 0).sum()) > 0


def test_price_of_a_single_polynomial_is_its_gradient():
    gated = fxprune.prepare(Blocks(), images(1), target=0.5)
    budget = gates_of(gated).method.budget
    counts = torch.tensor(budget.layout.sizes).double().requires_grad_()
    (expected,) = torch.autograd.grad(budget._tensors["macs"](counts), counts)
    prices = budget.prices(torch.ones(budget.layout.total))
    assert torch.allclose(prices, expected / budget._full["macs"])


@pytest.mark.parametrize("most", [0, 1, 2, 7, 100])
def test_largest_is_found_in_few_questions(most):
    for answer in range(most + 1):
        asked = []
        found = _largest(lambda n: asked.append(n) or n <= answer, most)  # noqa: B023
        assert found == answer
        assert len(asked) <= 2 * (answer + 1).bit_length()
        assert all(1 <= n <= most for n in asked)


def test_choice_is_the_same_twice_and_leaves_no_group_empty():
    gated = settled(3, target={"params": 0.2})
    budget: Budget = gates_of(gated).method.budget
    rank = torch.randn(budget.layout.total)
    left, right = (budget.choose(rank, budget.relative(1.0)) for _ in range(2))
    assert torch.equal(left, right)
    groups = torch.split(left, list(budget.layout.sizes))[: budget.layout.groups]
    assert all(bool(flags.any()) for flags in groups)
