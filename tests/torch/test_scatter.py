"""Branches that write only some channels of what they are added to."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.testing import assert_costs, assert_rewrite_equivalent
from fxprune.torch.backend.fold import add_scattered
from fxprune.torch.gates.methods import METHODS
from fxprune.torch.record import record_of
from tests.torch.models import images, randomise, train


class Stream(nn.Module):
    """A residual stream with two blocks; one ends in a norm, the other in an activation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.first = nn.Sequential(
            nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        )
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.first(x)
        x = self.second(x) + x
        return self.head(x.mean((2, 3)))


WRITTEN = {"first.2": [0, 3, 7], "second.0": [1, 2]}
KEPT = {"first.0": [0, 1, 2, 5], **WRITTEN}


def model():
    return randomise(Stream()).double().eval()


def gated_of(module, keep, **settings):
    gated = fxprune.prepare(module, images(1).double(), target=1.0, scatter=True, **settings)
    sizes = {name: len(flags) for name, flags in fxprune.keep_set(gated).items()}
    flags = {name: [i in kept for i in range(sizes[name])] for name, kept in keep.items()}
    fxprune.set_keep_set(gated, flags)
    return gated


def index_adds(folded):
    return {n: buffer.tolist() for n, buffer in folded.named_buffers() if n.endswith("index")}


def test_each_branch_has_channels_of_its_own_and_the_stream_none_to_lose():
    found = {g.name: g for g in fxprune.groups(gated_of(model(), {}))}
    assert {n for n, g in found.items() if not g.pin} == {*KEPT, "first+", "second+"}
    assert "written in part by add" in found["stem"].pin


def test_folded_computes_what_the_gated_one_does():
    gated = gated_of(model(), KEPT)
    folded = fxprune.fold(gated)
    assert list(index_adds(folded).values()) == list(WRITTEN.values())
    assert folded.get_submodule("first.2").out_channels == 3
    assert folded.get_submodule("first.3").num_features == 3
    assert folded.get_submodule("second.0").out_channels == 2
    assert str(fxprune.verify(gated, folded))


def test_what_keeps_everything_stays_an_addition():
    keep = {name: kept for name, kept in KEPT.items() if name != "second.0"}
    assert list(index_adds(fxprune.fold(gated_of(model(), keep))).values()) == [WRITTEN["first.2"]]
    assert not index_adds(fxprune.fold(gated_of(model(), {})))


def test_closed_branch_goes_whole():
    folded = fxprune.fold(gated_of(model(), {**KEPT, "first+": []}))
    assert list(index_adds(folded).values()) == [WRITTEN["second.0"]]
    assert not list(folded.first.parameters())


def test_costs_are_those_of_the_folded_model():
    gated = gated_of(model(), KEPT)
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    folded = fxprune.fold(gated)
    predicted = record_of(gated).analysis.costs.at(sizes)
    assert_costs(folded, [images(1).double()], predicted)
    again = fxprune.prepare(folded, images(1).double())
    costs = record_of(again).analysis.costs
    counted = costs.at(costs.full)
    assert {name: counted[name] for name in ("macs", "flops", "memory", "peak")} == {
        name: predicted[name] for name in ("macs", "flops", "memory", "peak")
    }


def test_folded_model_can_be_pruned_again_and_saved(tmp_path):
    once = fxprune.fold(gated_of(model(), KEPT))
    gated = gated_of(once, {"first.2": [0, 2], "second.0": [1]})
    twice = fxprune.fold(gated)
    fxprune.verify(gated, twice)
    assert list(index_adds(twice).values()) == [[0, 7], [2]]
    whole = fxprune.fold(gated_of(model(), {**KEPT, "first.2": [0, 7], "second.0": [2]}))
    assert_rewrite_equivalent(whole, twice, inputs=[images(2).double()])
    fxprune.save(twice, tmp_path)
    loaded = fxprune.load(tmp_path, Stream().double()).eval()
    assert torch.equal(loaded(images(2).double()), twice(images(2).double()))


def test_branch_that_is_written_in_part_can_still_close():
    once = fxprune.fold(gated_of(model(), KEPT))
    gated = gated_of(once, {"first+": []})
    folded = fxprune.fold(gated)
    fxprune.verify(gated, folded)
    assert list(index_adds(folded).values()) == [WRITTEN["second.0"]]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_what_branches_write(method):
    gated = fxprune.prepare(
        model().train(), images(1).double(), target=0.3, steps=6, scatter=True, method=method
    )
    train(gated, torch.optim.SGD(gated.parameters(), 0.02), 7)
    folded = fxprune.fold(gated)
    assert (
        fxprune.report(folded, latency=False).as_dict()["macs_after"]
        <= 0.3 * (fxprune.report(gated, latency=False).as_dict()["macs_before"])
    )
    fxprune.verify(gated, folded)


def test_shrinking_changes_nothing_that_is_kept():
    losses = []
    for shrinks in (False, True):
        gated = gated_of(model().train(), KEPT)
        optimizer = torch.optim.SGD(gated.parameters(), 0.02, momentum=0.9)
        first = train(gated, optimizer, 2)
        if shrinks:
            assert fxprune.shrink(gated, optimizer) == 2 + 5 + 6
            assert list(index_adds(gated).values()) == list(WRITTEN.values())
        losses.append(first + train(gated, optimizer, 3, first=2))
    assert torch.allclose(*map(torch.tensor, losses), rtol=1e-10)


def test_exported_file_agrees(tmp_path):
    gated = gated_of(model().float(), KEPT)
    folded = fxprune.fold(gated)
    path = fxprune.export_onnx(folded, tmp_path / "model.onnx", images(1))
    assert fxprune.verify(gated, folded, path).worst["folded == onnxruntime float32"] <= 1e-4


@pytest.mark.parametrize(
    "kinds", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_sum_of_two_data_types_is_that_of_an_addition(kinds):
    whole, part = images(2)[:, :3].to(kinds[0]), images(2)[:, :2].to(kinds[1])
    expanded = F.pad(part, (0, 0, 0, 0, 0, 1))[:, [2, 0, 1]]
    added = add_scattered(whole, 1, torch.tensor([1, 2]), part)
    assert added.dtype is torch.float32
    assert torch.equal(added, whole + expanded)


def test_user_s_model_stays_as_it_is():
    own = model()
    before = copy.deepcopy(own.state_dict())
    fxprune.prune(own, images(1).double(), scatter=True)
    assert all(torch.equal(before[name], value) for name, value in own.state_dict().items())
