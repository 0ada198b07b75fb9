"""Costs per sample do not depend on the batch of the example."""

import pytest
import torch
from torch import nn

from fxprune.passes.analyse import analyse
from fxprune.passes.samples import one_sample
from fxprune.torch.frontend import trace
from fxprune.torch.frontend.program import read_model


class Joined(nn.Module):
    """A linear layer whose bias is a part of another array, and a token for every sample."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 3))
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.biases = nn.Parameter(torch.randn(8))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return nn.functional.linear(x, self.weight, self.biases.chunk(2)[0])


class Hidden(nn.Module):
    """An operator without a rule hides the samples, alone or joined with heads."""

    def __init__(self, joined):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(5, 4)
        self.points = nn.Parameter(torch.randn(5, 4))
        self.joined = joined

    def forward(self, x):
        x = self.first(x)
        x = x.reshape(-1, 2, 4) if self.joined else x
        return self.second(torch.cdist(x, self.points))


class Films(nn.Module):
    """Every four samples are a film, of which the mean is taken."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.second(self.first(x).view(-1, 4, 4).mean(1))


class Averaged(nn.Module):
    """The mean of samples has none; nor has a weight that an operator without a rule makes."""

    def __init__(self):
        super().__init__()
        self.rows, self.columns = nn.Parameter(torch.randn(14, 4)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return nn.functional.linear(x.mean(0), torch.cdist(self.rows, self.columns))


class Added(nn.Module):
    """A parameter for every sample."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x + self.rows


def costs_of(monkeypatch, model, x, batch=0):
    """All costs, with a batch for the stand-in."""
    monkeypatch.setattr(trace, "_BATCHES", (batch,) if batch else ())
    analysis = analyse(read_model(model, [(x,)]).ir)
    assert analysis.graph.batch == (batch or len(x))
    return analysis.costs.at(analysis.costs.full)


@pytest.mark.parametrize("batch", [5, 7, 13])
def test_arrays_without_samples_count_whole(batch, monkeypatch):
    costs = costs_of(monkeypatch, Joined(), torch.randn(2, 6, 3), batch)
    assert costs["macs"] == 7 * 3 * 4
    assert costs["memory"] == 3 + 7 * 3 + 8 + 7 * 4  # token, joined, biases, result
    assert costs["params"] == 3 + 12 + 8


@pytest.mark.parametrize("joined", [False, True])
def test_samples_behind_an_unknown_operator_are_found(joined, monkeypatch):
    model, x = Hidden(joined), torch.randn(2, 6, 3)
    first, *others = [costs_of(monkeypatch, model, x, batch) for batch in (7, 11, 13)]
    assert others == [first, first]
    assert first["macs"] == 6 * (3 * 4 + 5 * 4)


def test_what_has_lost_its_samples_counts_whole(monkeypatch):
    costs = costs_of(monkeypatch, Averaged(), torch.randn(2, 21, 3), 7)
    assert costs["macs"] == 21 * 3 * 14
    assert costs["memory"] == 21 * 3 + 14 * 3 + 21 * 14


def test_parameters_count_whole(monkeypatch):
    costs = costs_of(monkeypatch, Added(), torch.randn(4, 3))
    assert (costs["params"], costs["memory"]) == (4 * 3, 3)


def test_what_a_cut_batch_costs_is_divided(monkeypatch):
    costs = costs_of(monkeypatch, Films(), torch.randn(8, 3))
    assert costs["macs"] == 3 * 4 + 4 * 5 // 4
    graph = read_model(Films(), [(torch.randn(8, 3),)]).ir
    assert one_sample(graph, analyse(graph).types).divisor == 8
