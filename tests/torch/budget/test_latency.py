"""Predicted latency: tables at a grid of widths, and what is between."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

import fxprune
from examples.cifar_resnet import CifarResNet
from fxprune.passes.polynomials import Polynomial
from fxprune.timing import median_ms
from fxprune.torch.budget.budget import renewed
from fxprune.torch.budget.latency import Latency, TimedLayer, measure_latency
from fxprune.torch.budget.latency_tables import Table, _grid
from fxprune.torch.record import gates_of, record_of
from tests.torch.models import half, images, randomise
from tests.vision import torchvision

GRID = (1.0, 2.0, 4.0, 6.0, 8.0)


def bilinear(x: float, y: float) -> float:
    return 0.5 + x / 4 + y / 2 + x * y / 8


def example() -> Latency:
    """Two layers with tables of a bilinear function, one of them in a branch, and the rest."""
    table = Table(GRID, GRID, tuple(tuple(bilinear(x, y) for y in GRID) for x in GRID))
    one, a, b = Polynomial(((3, ()),)), Polynomial(((1, ("a",)),)), Polynomial(((2, ("b",)),))
    layers = (TimedLayer(one, a, (), "stem", table), TimedLayer(a, b, ("d",), "block.conv", table))
    others = {"stem": Polynomial(((0.25, ()), (0.125, ("a",)))), "": Polynomial(((1, ("d",)),), 2)}
    return Latency(layers, others)


@pytest.mark.parametrize("sizes", [(8, 4, 1), (1, 1, 1), (3, 2, 1), (5, 3, 0), (4.5, 1.5, 0.5)])
def test_bilinear_tables_are_interpolated_exactly(sizes):
    a, b, d = sizes
    expected = bilinear(3, a) + d * bilinear(a, 2 * b) + 0.25 + a / 8 + d / 2
    assert example()({"a": a, "b": b, "d": d}) == pytest.approx(expected)


def test_part_of_a_model_has_the_layers_inside():
    sizes = {"a": 5, "b": 3, "d": 1}
    assert example().inside("stem")(sizes) == pytest.approx(bilinear(3, 5) + 0.25 + 5 / 8)
    assert example().inside("block")(sizes) == pytest.approx(bilinear(5, 6))
    assert example().inside("")(sizes) == example()(sizes)


def test_after_growth_is_the_latency_of_what_has_grown():
    cost = example().on_tensors({"a": 0, "b": 1, "d": 2})
    sizes, more = torch.tensor([4.0, 2.0, 0.0]).double(), torch.tensor([2.0, 1.0, 1.0]).double()
    expected = [example()({"a": 6, "b": 2, "d": 0}), example()({"a": 4, "b": 3, "d": 0}),
                example()({"a": 4, "b": 2, "d": 1})]  # fmt: skip
    assert cost.after(sizes, more).tolist() == pytest.approx(expected)


def test_flat_stretches_have_a_price():
    steps = tuple(tuple(float(max(i, 3) + (i == 4)) for i in range(5)) for _ in range(5))
    ends = Polynomial(((1, ()),)), Polynomial(((1, ("a",)),))
    latency = Latency((TimedLayer(*ends, (), "", Table(GRID, GRID, steps)),), {})
    cost, sizes = latency.on_tensors({"a": 0}), torch.tensor([3.0]).double().requires_grad_()
    (slope,) = torch.autograd.grad(cost(sizes), sizes)
    (price,) = torch.autograd.grad(cost.priced(sizes, 1.0), sizes)
    assert float(slope) == 0
    assert float(price) == pytest.approx((5 - 3) / 7 / 2)


@pytest.mark.parametrize(("full", "step"), [(1, 1), (3, 1), (64, 1), (64, 8), (20, 8), (4, 8)])
def test_grid_runs_from_the_least_to_the_full_width_in_units(full, step):
    grid = _grid(full, step)
    assert grid == sorted(grid)
    assert (grid[0], grid[-1]) == (min(step, full), full)
    assert all(width % step == 0 or width == full for width in grid)


class Mixed(nn.Module):
    """Every kind of layer that is timed, and a product of activations that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.token = nn.Linear(6, 10)
        self.last = nn.Linear(10, 5)

    def forward(self, x):
        x = self.up(self.grouped(self.depthwise(self.first(x)).relu()))
        x = self.token(x.flatten(2).transpose(1, 2))
        return self.last((x @ x.transpose(1, 2)).mean(2, keepdim=True) * x)


def test_every_kind_of_layer_is_timed_at_every_width():
    model = randomise(Mixed())
    analysis = record_of(fxprune.prepare(model, images(1), target=1.0)).analysis
    before = torch.get_rng_state()
    latency = measure_latency(model, analysis)
    assert torch.equal(before, torch.get_rng_state())
    assert [layer.module for layer in latency.layers] == [
        "first", "depthwise", "grouped", "up", "token", "last",
    ]  # fmt: skip
    for table in latency.measured.tables.values():
        values = torch.tensor(table.milliseconds)
        assert bool((values > 0).all())
        assert bool((values.diff(dim=0) >= 0).all())
        assert bool((values.diff(dim=1) >= 0).all())
    full = latency(analysis.costs.full)
    assert full > latency(dict.fromkeys(analysis.costs.full, 1)) > 0


@pytest.mark.usefixtures("counted_time")
def test_equal_layers_share_a_table():
    model = CifarResNet(20).eval()
    analysis = record_of(fxprune.prepare(model, torch.zeros(1, 3, 32, 32), target=1.0)).analysis
    latency = measure_latency(model, analysis)
    assert len({layer.module for layer in latency.layers}) == 20
    assert len(set(map(id, latency.measured.tables.values()))) == 7


@pytest.mark.usefixtures("counted_time")
def test_closed_branches_take_no_time():
    model = CifarResNet(8).eval()
    gated = fxprune.prepare(model, torch.zeros(1, 3, 32, 32), target={"latency": 0.9})
    cost = gates_of(gated).method.budget.costs.polynomials["latency"]
    full = record_of(gated).analysis.costs.full
    names = [name for name in full if name.endswith("+")]
    assert len(names) == 3
    inside = cost.inside("layer1.0")(full)
    assert cost({**full, "layer1.0+": 0}) <= cost(full) - 0.9 * inside
    assert cost.inside("layer1.0")({**full, "layer1.0+": 0}) <= 0.1 * inside


@pytest.mark.usefixtures("counted_time")
def test_latency_targets_are_met_by_prediction_and_survive_copies():
    model = CifarResNet(8).eval()
    gated = fxprune.prepare(model, torch.zeros(1, 3, 32, 32), target={"latency": 0.6}, round_to=4)
    for each in (gated, copy.deepcopy(gated), pickle.loads(pickle.dumps(gated))):
        fxprune.reach_target(each)
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(each).items()}
        cost = gates_of(each).method.budget.costs.polynomials["latency"]
        limit = record_of(gated).targets["latency"]
        assert cost(sizes) <= limit
        assert limit == pytest.approx(0.6 * cost(record_of(gated).analysis.costs.full))


@pytest.mark.usefixtures("counted_time")
def test_milliseconds_are_absolute():
    model = CifarResNet(8).eval()
    x = torch.zeros(1, 3, 32, 32)
    full = record_of(fxprune.prepare(model, x, target={"latency": 1.0})).targets["latency"]
    gated = fxprune.prepare(model, x, target={"latency_ms": 0.5 * full})
    assert record_of(gated).targets == {"latency": 0.5 * full}


@pytest.mark.usefixtures("counted_time")
def test_what_is_left_of_a_model_is_predicted_from_the_same_tables():
    model = CifarResNet(8).eval()
    x = torch.zeros(1, 3, 32, 32)
    gated = fxprune.prepare(model, x, target={"latency": 0.6})
    fxprune.reach_target(gated)
    costs = gates_of(gated).method.budget.costs
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    analysis = record_of(fxprune.prepare(fxprune.fold(gated), x, target=1.0)).analysis
    now = renewed(costs, analysis)
    for name, value in costs.at(sizes).items():
        assert now.at(now.full)[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.slow
def test_prediction_orders_networks_as_they_run():
    x = torch.zeros(1, 3, 224, 224)
    model = torchvision.models.resnet18(weights=None).eval()
    gated = fxprune.prepare(model, x, target=1.0)
    latency = measure_latency(model, record_of(gated).analysis)
    predicted, runs = {}, {}
    for name, keep in (("whole", {}), ("half", half(gated, seed=1, branches=1.0))):
        fxprune.set_keep_set(gated, keep)
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
        predicted[name] = latency(sizes)
        runs[name] = partial(fxprune.fold(gated).eval(), x)
    with torch.inference_mode():
        took = median_ms(runs, 1.0)
    assert sorted(predicted, key=predicted.__getitem__) == sorted(took, key=took.__getitem__)
