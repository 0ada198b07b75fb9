"""The comparison of the torch route with the ONNX route agrees, and can disagree."""

import io

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.layout import layout_of
from fxprune.onnx.criteria import METHODS, onnx_importance
from fxprune.onnx.frontend.program import read_onnx
from fxprune.passes.analyse import analyse
from fxprune.ranking import NORMS
from tests.benchmarks import onnx_models
from tests.torch.models import Residual, randomise

pytestmark = pytest.mark.filterwarnings("ignore")  # of the old exporter


@pytest.fixture
def small(monkeypatch):
    """A residual network in place of torchvision's models."""
    with torch.no_grad():
        model = randomise(Residual()).eval()
    monkeypatch.setattr(onnx_models, "model_of", lambda name: (model, 12))


def test_both_routes_find_the_same_groups_and_fold_to_the_same_function(small):
    row = onnx_models.measure("small")
    assert (row.status, row.reason) == ("ok", "")
    assert row.matched == row.groups > 1
    assert row.branches_torch == row.branches_onnx
    assert 0 < row.routes_error < 1e-4
    assert row.macs < 0.8


def test_another_keep_set_is_found_to_be_wrong(small, monkeypatch):
    fold = fxprune.fold_onnx

    def mistaken(source, keep, *arguments):
        return fold(source, {name: flags[::-1] for name, flags in keep.items()}, *arguments)

    monkeypatch.setattr(fxprune, "fold_onnx", mistaken, raising=False)
    row = onnx_models.measure("small")
    assert (row.status, row.reason) == ("wrong", "folded ONNX differs from folded torch")


def test_what_is_pinned_on_one_route_is_found(small, monkeypatch):
    analyse = onnx_models.analyse
    name = "stem.0.weight"
    monkeypatch.setattr(onnx_models, "analyse", lambda graph: analyse(graph, (name,)))
    row = onnx_models.measure("small")
    assert row.status == "other groups"
    assert row.only_torch == 1
    assert "is pinned in ONNX: " in row.reason


# The same ranks -------------------------------------------------------------------------------


class Images(nn.Module):
    """Convolutions of every sort, and a residual stream."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 1)
        self.inner, self.outer = nn.Conv2d(8, 11, 3, padding=1), nn.Conv2d(11, 8, 1)
        self.up = nn.ConvTranspose2d(8, 12, 3, groups=2)
        self.depthwise = nn.ConvTranspose2d(12, 12, 3, groups=12)
        self.last, self.head = nn.Conv2d(12, 10, 1), nn.Linear(10, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.inner(x).relu())
        x = self.last(self.depthwise(self.up(x.relu()).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """An embedding with positions, recurrent layers, and products with weights on either side."""

    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(11, 6), nn.Parameter(torch.zeros(1, 5, 6))
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 5, batch_first=True)
        self.weight, self.bias = nn.Parameter(torch.zeros(5, 7)), nn.Parameter(torch.zeros(7))
        self.left, self.mixed = nn.Parameter(torch.zeros(9, 7)), nn.Parameter(torch.zeros(4, 9))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.lstm(self.embedding(x) + self.position)[0]
        x = torch.addmm(self.bias, self.gru(x)[0][:, -1], self.weight).relu()
        x = (self.left @ x.transpose(0, 1)).relu().transpose(0, 1)
        return self.head(torch.einsum("bi,oi->bo", x, self.mixed).relu())


MODELS = {
    "images": (Images, lambda: torch.randn(2, 1, 6, 6)),
    "tokens": (Tokens, lambda: torch.arange(10).view(2, 5)),
    "residual": (Residual, lambda: torch.randn(2, 3, 8, 8)),
}


def ranks_of_both(name, method):
    """By route, for every group, ranks over the largest, and the branches; sorted."""
    build, example = MODELS[name]
    model, file = randomise(build()).eval(), io.BytesIO()
    torch.manual_seed(1)
    data = [example() for _ in range(3)]
    torch.onnx.export(model, (data[0],), file, dynamo=False, do_constant_folding=False)
    gated = fxprune.prepare(model, data[0])
    found = fxprune.importance(gated, method, data)
    program = read_onnx(file.getvalue(), None, [x.numpy() for x in data])
    analysis = analyse(program.ir)
    layout = layout_of(analysis)
    flat = onnx_importance(program, analysis, layout, method, program.feeds)
    other = np.split(flat, np.cumsum(layout.sizes)[:-1])
    branches = (
        [float(found[name]) for name in found if name[-1] == "+"],
        np.concatenate([np.zeros(0), *other[layout.groups :]]),
    )
    groups = [v.numpy() for n, v in found.items() if n[-1] != "+"], other[: layout.groups]
    return [
        (sorted((own / own.max()).tolist() for own in route), sorted(ends))
        for route, ends in zip(groups, branches, strict=True)
    ]


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("random", "bn_scale")])
@pytest.mark.parametrize("name", MODELS)
def test_both_routes_rank_alike(name, method):
    if (name, method) == ("tokens", "block_influence"):
        pytest.skip("there are no branches")
    (torch_ranks, torch_ends), (onnx_ranks, onnx_ends) = ranks_of_both(name, method)
    assert len(torch_ranks) == len(onnx_ranks) > 1
    exact = method in NORMS
    for left, right in zip(torch_ranks, onnx_ranks, strict=True):
        assert left == pytest.approx(right, rel=1e-9 if exact else 1e-4, abs=1e-5)
    if method not in NORMS:
        assert torch_ends == pytest.approx(onnx_ends, rel=1e-4)


@pytest.mark.parametrize("method", ["magnitude", "group_norm", "activation", "wanda", "saliency"])
def test_branches_alone_are_pruned_in_files(method):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            x = x + torch.relu(self.a(x))
            return x + self.b(x)

    file, x = io.BytesIO(), torch.randn(2, 3, 8, 8)
    torch.onnx.export(randomise(Branches()).eval(), (x,), file, dynamo=False)
    result = fxprune.prune_onnx(file.getvalue(), method=method, data=[x.numpy()])
    assert 2 * result.costs_after["macs"] == result.costs_before["macs"]


def biased(value):
    """Two layers, one of which is shifted by a table whose last number is `value`."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)
            self.register_buffer("table", torch.zeros(12))

        def forward(self, x):
            return self.c(torch.sigmoid(self.b(torch.relu(self.a(x))) + self.table))

    torch.manual_seed(0)
    model, file = randomise(Shifted()).eval(), io.BytesIO()
    model.table[-1] = value
    torch.onnx.export(model, (torch.randn(2, 6),), file, dynamo=False)
    program = read_onnx(file.getvalue())
    analysis = analyse(program.ir)
    return program, analysis, layout_of(analysis)


@pytest.mark.parametrize("method", ["magnitude", "group_norm", "activation", "wanda"])
@pytest.mark.parametrize("value", [-np.inf, np.nan, float(np.finfo(np.float32).min)])
def test_one_endless_number_moves_no_other_rank(method, value):
    data = [{"x": np.random.default_rng(0).standard_normal((2, 6), np.float32)}]
    found = []
    for number in (0.0, value):
        program, analysis, layout = biased(number)
        (name,) = (str(v.name) for v in program.model.graph.inputs)
        feeds = [{name: feed["x"]} for feed in data]
        found.append(onnx_importance(program, analysis, layout, method, feeds))
    assert np.isfinite(found[1]).all()
    for plain, endless in zip(*(np.split(own, [layout.sizes[0]]) for own in found), strict=True):
        others = slice(0, 11 if len(plain) == 12 else None)
        ratio = endless[others].sum() / plain[others].sum()  # a mean moves with the position itself
        assert np.allclose(endless[others], ratio * plain[others])
        assert 0.5 < ratio < 2.0
