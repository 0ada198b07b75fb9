"""The comparison of the torch route with the ONNX route agrees, and can disagree."""

import pytest
import torch

import fxprune
from tests.benchmarks import onnx_models
from tests.torch.models import Residual, randomise


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
