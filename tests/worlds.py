"""What verbs of both routes are tried on: a small model in every state, and a folder with files."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

import fxprune
from fxprune.passes import operators
from tests.torch.models import images, plain, randomise

X = images(4)
Y = torch.tensor([0, 1, 2, 3])
GROUP = "0"
"""The only free group, of 8 positions, on both routes."""


class Classifier(nn.Sequential):
    """Two convolutions and a mean, so that there are logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))


def onnx_model(model: nn.Module) -> onnx.ModelProto:
    """`plain()` as an exporter writes it."""
    weights = {
        name: numpy_helper.from_array(tensor.numpy(), name)
        for name, tensor in model.state_dict().items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "2.weight", "2.bias"], ["y"]),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])]
        for name, shape in (("x", (3, 8, 8)), ("y", (4, 4, 4)))
    ]
    graph = helper.make_graph(nodes, "plain", *ends, list(weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass(frozen=True)
class World:
    """What verbs work on, and a folder with something in it."""

    folder: Path
    model: nn.Module
    gated: nn.Module
    folded: nn.Module
    proto: onnx.ModelProto

    def weights(self) -> str:
        """A folder with the weights of the model."""
        (self.folder / "weights").mkdir(exist_ok=True)
        save_file(self.model.state_dict(), self.folder / "weights" / "model.safetensors")
        return self.place("weights")

    def place(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, nn.Module, nn.Module, onnx.ModelProto]:
    model = randomise(Classifier(*plain())).eval()
    gated = fxprune.prepare(model, X, target=0.5)
    half = copy.deepcopy(gated)
    fxprune.set_keep_set(half, {GROUP: [True, False] * 4})
    return model, half, fxprune.fold(half), onnx_model(randomise(plain()))


@pytest.fixture
def world(made, tmp_path, monkeypatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    for name in ("there.onnx", "there.html", "text"):
        (tmp_path / name).write_text("what was there")
    (tmp_path / "empty.onnx").mkdir()
    known = dict(operators._operators)
    yield World(tmp_path, *copy.deepcopy(made))
    operators._operators.clear()
    operators._operators.update(known)
