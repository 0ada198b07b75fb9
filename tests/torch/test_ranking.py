"""Ranks of positions by weights, on random networks: against a slow reference, and laws."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune.passes.fold import plan_fold
from fxprune.testing import networks
from fxprune.torch.record import gates_of, record_of
from tests.torch.models import images, plain, randomise

IMAGE_KINDS = (
    *("conv", "transposed", "grouped", "depthwise", "strided", "shared", "residual"),
    *("concatenation", "split_and_join", "normalisation", "channel_shuffle", "channel_slice"),
)
SEQUENCE_KINDS = (
    *("linear", "mlp", "recurrent", "convolution", "residual", "normalisation", "bilinear"),
    *("concatenation", "multihead", "slice_write"),
)


def drawn():
    """Networks whose weights lie in modules of known classes, or are written out."""
    return st.one_of(
        networks(IMAGE_KINDS, max_nodes=3),
        networks(("conv", "transposed"), max_nodes=2),
        networks(SEQUENCE_KINDS, dims="sequence", max_nodes=3),
        networks(("linear",), dims="sequence", max_nodes=2),
    )


def examples(count):
    return settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None)


def prepared(network):
    return fxprune.prepare(network, network.inputs, target=1.0)


# Against a slow reference ---------------------------------------------------------------------


def written(name):
    """The axis along which parameters that networks write out make channels."""
    known = {"weight": 1, "position": 2, "in_proj_weight": 0, "experts": 1}
    return known.get(re.sub(r"_\d+$", "", name))  # a second one has a number


def maker_of(model, name):
    """The axis of a parameter along which the class of its module makes channels."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, nn.modules.conv._ConvTransposeNd | nn.Embedding):
        return 1
    known = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
    return 0 if isinstance(module, known) else written(leaf)


def removed_by(gated, name, position):
    """By parameter and axis, the indices that go when one position of a group does."""
    a = record_of(gated).analysis
    size = a.costs.full[name]
    keep = {name: [i != position for i in range(size)]}
    plan = plan_fold(a.graph, a.types, a.groups, a.branches, keep)
    shapes = {value.name: value.shape for value in a.graph.parameters}
    return {
        (cut.parameter, cut.dim): sorted(set(range(shapes[cut.parameter][cut.dim])) - {*cut.kept})
        for cut in plan.slices
    }


def reference(network, gated, name, position):
    """The L1 norm of all that makes a position, by the classes of modules."""
    total = 0.0
    removed = removed_by(gated, name, position)
    for parameter, weight in network.named_parameters():
        used = any((parameter, dim) in removed for dim in range(weight.dim()))
        maker = maker_of(network, parameter) if weight.dim() > 1 else None
        vector = maker is None and sum(size > 1 for size in weight.shape) < 2
        if vector or not used:
            continue
        assert maker is not None, f"{parameter} is of no known class"
        gone = removed.get((parameter, maker), [])
        total += float(weight.detach().abs().index_select(maker, torch.tensor(gone).long()).sum())
        module = network.get_submodule(parameter.rpartition(".")[0])
        if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1:
            rows = torch.zeros(len(weight), dtype=torch.bool)
            rows[removed.get((parameter, 0), [])] = True
            groups = rows.view(module.groups, -1).all(1)  # whole groups make as many channels
            total += float(weight.detach().unflatten(0, (module.groups, -1))[groups].abs().sum())
    return total


def check_magnitude(network):
    gated = prepared(network)
    found = fxprune.importance(gated, "magnitude")
    layout = gates_of(gated).layout
    for name in layout.names[: layout.groups]:
        norms = [reference(network, gated, name, i) for i in range(len(found[name]))]
        expected = torch.tensor(norms, dtype=torch.double)
        expected /= expected.max().clamp(min=1e-300)
        assert torch.allclose(found[name], expected, rtol=1e-9), (name, found[name], expected)


@examples(10)
@given(drawn())
def test_magnitude_is_the_norm_of_what_makes_a_position(network):
    check_magnitude(network)


class Kinds(nn.Module):
    """Every way in which weights lie."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.weight = nn.Parameter(torch.zeros(6, 7))
        self.bias = nn.Parameter(torch.zeros(7))
        self.up = nn.ConvTranspose1d(7, 8, 3, groups=1)
        self.grouped = nn.ConvTranspose1d(8, 12, 3, groups=4)
        self.depthwise = nn.ConvTranspose1d(12, 12, 3, groups=12)
        self.recurrent = nn.GRU(12, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = torch.addmm(self.bias, x.flatten(0, 1), self.weight).relu().view(*x.shape[:2], 7)
        x = self.depthwise(self.grouped(self.up(x.transpose(1, 2)).relu()).relu()).relu()
        return self.head(self.recurrent(x.transpose(1, 2))[0])


def kinds():
    model = randomise(Kinds().double())
    model.inputs = (torch.arange(8).view(2, 4),)
    return model


def test_magnitude_knows_every_way_in_which_weights_lie():
    check_magnitude(kinds())


def test_reference_finds_norms_along_the_other_axis(monkeypatch):
    network = kinds()
    right = fxprune.importance

    def turned(gated, method):
        found = right(gated, method)
        return {name: numbers.flip(0) for name, numbers in found.items()}

    monkeypatch.setattr(fxprune, "importance", turned, raising=False)
    with pytest.raises(AssertionError):
        check_magnitude(network)


# Laws -----------------------------------------------------------------------------------------


@examples(10)
@given(drawn(), st.data())
def test_position_whose_makers_are_large_ranks_first(network, data):
    gated = prepared(network)
    layout = gates_of(gated).layout
    names = [
        name for name in layout.names[: layout.groups] if reference(network, gated, name, 0) > 0
    ]
    if not names:
        return
    name = data.draw(st.sampled_from(names), "group")
    size = layout.sizes[layout.names.index(name)]
    position = data.draw(st.integers(0, size - 1), "position")
    with torch.no_grad():
        for (parameter, dim), indices in removed_by(gated, name, position).items():
            weight = dict(network.named_parameters()).get(parameter)
            if weight is not None and weight.dim() > 1 and maker_of(network, parameter) == dim:
                gone = torch.tensor(indices)
                weight.index_copy_(dim, gone, 1e6 * weight.index_select(dim, gone))
    assert int(fxprune.importance(prepared(network), "magnitude")[name].argmax()) == position


def shares(gated):
    """By group how many positions are open, and how many there are."""
    layout, keep = gates_of(gated).layout, fxprune.keep_set(gated)
    groups = {name: keep[name] for name in layout.names[: layout.groups]}
    return {name: (int(flags.sum()), len(flags)) for name, flags in groups.items()}


def constant(gated, score_of):
    """One importance for all positions of a group, by its name."""
    keep = fxprune.keep_set(gated)
    return {name: torch.full(flags.shape, score_of(name)) for name, flags in keep.items()}


def check_even(gated, round_to):
    """No group could open a unit by what those got that have a larger share than it then had."""
    budget = gates_of(gated).method.budget
    keep = fxprune.keep_set(gated)
    sizes = {name: int(flags.sum()) for name, flags in keep.items()}
    found = shares(gated)
    for name, (kept, size) in found.items():
        if kept == size:
            continue
        share = min(kept + round_to, size) / size
        level = dict(sizes)
        for other, (own, of) in found.items():
            level[other] = min(own, int(np.ceil(share * of / round_to)) * round_to)
        level[name] = min(kept + round_to, size)
        costs = budget.costs.at(level)
        limits = budget.limit
        assert any(costs[key] > limits[key] * (1 - 1e-9) for key in limits), (name, found)


@examples(10)
@given(
    drawn(), st.sampled_from((1, 2)), st.floats(0.4, 0.9), st.sampled_from((0.0, 0.1, 1.0, -3.0))
)
def test_groups_lose_alike_where_scores_are_equal(network, round_to, target, score):
    try:
        gated = fxprune.prepare(network, network.inputs, target=target, round_to=round_to)
    except fxprune.TargetError:
        return
    fxprune.reach_target(gated, constant(gated, lambda name: score))
    check_even(gated, round_to)


def chain(*widths):
    layers = [
        layer
        for fan_in, fan_out in zip((3, *widths), widths, strict=False)
        for layer in (nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU())
    ]
    return randomise(nn.Sequential(*layers, nn.Conv2d(widths[-1], 4, 1)))


def test_check_of_evenness_finds_a_starved_group():
    gated = fxprune.prepare(chain(16, 32, 16), images(1), target=0.5)
    fxprune.reach_target(gated, constant(gated, lambda name: 1.0 - 0.1 * (name == "2")))
    with pytest.raises(AssertionError):
        check_even(gated, 1)


@pytest.mark.parametrize("method", ["magnitude", "group_norm", "taylor"])
def test_model_of_zeros_meets_its_target_evenly(method):
    model = chain(16, 32, 64)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    gated = fxprune.prepare(model, images(1), target=0.5)
    numbers = fxprune.importance(gated, method, [images(1)], lambda m, x: m(x).square().mean())
    fxprune.reach_target(gated, numbers)
    check_even(gated, 1)
    kept = [own / of for own, of in shares(gated).values()]
    assert max(kept) - min(kept) < 0.1


def test_group_without_ranks_loses_what_others_lose(caplog):
    model = chain(16, 32, 32, 16)
    nn.init.zeros_(model[2].weight)
    gated = fxprune.prepare(model, images(1), target=0.5)
    with caplog.at_level("DEBUG", "fxprune"):
        fxprune.reach_target(gated, fxprune.importance(gated, "magnitude"))
    found = {name: own / of for name, (own, of) in shares(gated).items()}
    others = [share for name, share in found.items() if name != "2"]
    assert min(others) - 0.1 < found["2"] < max(others) + 0.1
    assert "2 ranks zero: it loses what others lose" in caplog.text


def test_layers_without_a_norm_are_not_emptied_first():
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32))
    randomise(model.append(nn.ReLU()).append(nn.Conv2d(32, 4, 1)))
    gated = fxprune.prepare(model, images(1), target=0.5)
    fxprune.reach_target(gated, fxprune.importance(gated, "bn_scale"))
    (bare, of), (normed, _) = shares(gated).values()
    assert abs(bare - normed) < 0.25 * of


# What is not finite ---------------------------------------------------------------------------


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_endless_importance_moves_one_position_only(value, round_to):
    keeps = []
    for number in (0.5, value):
        gated = fxprune.prepare(chain(16, 32), images(1), target=0.5, round_to=round_to)
        generator = torch.Generator().manual_seed(0)
        numbers = {
            name: torch.rand(flags.shape, generator=generator)
            for name, flags in fxprune.keep_set(gated).items()
        }
        numbers["0"][3] = number
        fxprune.reach_target(gated, numbers)
        keep = fxprune.keep_set(gated)
        assert bool(keep["0"][3]) == (number == float("inf")) or number == 0.5
        keeps.append({name: int(flags.sum()) for name, flags in keep.items()})
    for name, kept in keeps[0].items():
        assert abs(kept - keeps[1][name]) <= round_to + 2


def test_gradients_that_are_not_finite_count_for_nothing():
    gated = fxprune.prepare(chain(8, 8), images(1), target=0.5)
    clean = fxprune.importance(gated, "taylor", [images(2)], lambda m, x: m(x).square().mean())

    def loss(model, x):
        return model(x).square().mean() * x.flatten()[0]

    broken = images(2).clone()
    broken[0, 0, 0, 0] = torch.nan
    found = fxprune.importance(gated, "taylor", [broken], loss)
    assert all(bool(numbers.isfinite().all()) for numbers in (*clean.values(), *found.values()))


# Few groups -----------------------------------------------------------------------------------


class Branches(nn.Module):
    """Two residual convolutions on the input's own channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        x = x + torch.relu(self.a(x))
        return x + self.b(x)


def squares(model, x):
    return model(x).square().mean()


METHODS = ("magnitude", "group_norm", "bn_scale", "taylor", "random")


@pytest.mark.parametrize("method", METHODS)
def test_branches_alone_are_pruned(method):
    folded = fxprune.prune(
        randomise(Branches()), images(1), target=0.5, method=method, data=[images(2)], loss=squares
    )
    costs = fxprune.report(folded, latency=False).as_dict()
    assert costs["macs_after"] == 0.5 * costs["macs_before"]


@pytest.mark.parametrize("method", ["magnitude", "group_norm", "taylor", "random"])
def test_one_group_of_two_is_pruned(method):
    pair = randomise(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 5, 1)))
    folded = fxprune.prune(pair, images(1), method=method, data=[images(2)], loss=squares)
    assert folded.get_submodule("0").out_channels == 1


# Memory ---------------------------------------------------------------------------------------

MEASURE = """
import torch, fxprune
from torch import nn

def most_resident():  # ru_maxrss would begin with that of the process that started this one
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0])

model = nn.Sequential(nn.Linear(2048, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(),
                      nn.Linear(4096, 8)).bfloat16()
gated = fxprune.prepare(model, torch.randn(1, 2048).bfloat16())

def rank(gated):
    for method in ("magnitude", "group_norm"):
        found = fxprune.importance(gated, method)
        assert all(bool(numbers.isfinite().all()) for numbers in found.values())

small = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
rank(fxprune.prepare(small, torch.randn(1, 4)))  # loads what is loaded once
before = most_resident()
rank(gated)
after = most_resident()
print((after - before) * 1024 / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


def more_memory(code=MEASURE):
    """What ranking takes beside the model, in sizes of the model."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def test_ranking_takes_little_memory_beside_the_model():
    assert more_memory() < 1.0


def test_measure_of_memory_finds_weights_held_whole():
    whole = "import fxprune.ranking\nfxprune.ranking._PIECE = 1 << 30\n"
    assert more_memory(whole + MEASURE) > 1.0


def test_weights_of_half_precision_do_not_overflow():
    norms = []
    for dtype in (torch.float64, torch.float16):
        model = randomise(plain())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 300).half())
        gated = fxprune.prepare(model.to(dtype), images(1).to(dtype))
        norms.append(fxprune.importance(gated, "group_norm")["0"])
    assert torch.allclose(*norms)
