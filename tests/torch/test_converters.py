"""Converters take a folded model as they took the original: what they read is its own code."""

import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.torch.models import half, randomise
from tests.vision import torchvision

pytestmark = pytest.mark.slow

CLOSE = 1e-5
SIZES: Any = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
HEADS: Any = {"num_attention_heads": 4}


def resnet() -> tuple[Any, Tensor]:
    return torchvision.models.resnet18(num_classes=7), torch.randn(2, 3, 40, 40)


def vit() -> tuple[Any, Tensor]:
    config = ViTConfig(**SIZES, **HEADS, image_size=32, patch_size=8, num_labels=5)
    return ViTForImageClassification(config), torch.randn(2, 3, 32, 32)


def bert() -> tuple[Any, Tensor]:
    config = BertConfig(**SIZES, **HEADS, vocab_size=50, max_position_embeddings=40)
    return BertModel(config), torch.randint(3, 50, (2, 7))


MODELS = {"resnet": resnet, "vit": vit, "bert": bert}
every_model = pytest.mark.parametrize("name", MODELS)


class Alone(nn.Module):
    """Returns the first array of what a model does, as a trace wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return first(self.model(x))


def first(found: Any) -> Tensor:
    result: Tensor = found if isinstance(found, Tensor) else found[0]
    return result


def pair(name: str) -> tuple[Any, Any, Tensor]:
    """A model, what is left of it at half of every group, in its own code, and an input."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    gated = fxprune.prepare(randomise(model).eval(), x, target=1.0)
    fxprune.set_keep_set(gated, half(gated, branches=1.0))
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded) == {}
    return model, folded, x


def assert_alike(converted: Any, model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        assert relative_error(first(model(x)), torch.as_tensor(first(converted(x)))) < CLOSE


@pytest.fixture
def quiet() -> Iterator[None]:
    """Converters warn of versions that they do not know, and of traces in general."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_what_is_converted_from_another_model_is_not_alike():
    model, folded, x = pair("resnet")
    with pytest.raises(AssertionError):
        assert_alike(model, folded, x)


@every_model
def test_export_with_a_batch_of_any_size(name):
    _, folded, x = pair(name)
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(folded, (x,), dynamic_shapes=shapes).module()
    for more in (x, torch.cat([x, x[:1]])):
        assert_alike(exported, folded, more)


@every_model
def test_torchscript_by_a_trace(name, quiet):
    _, folded, x = pair(name)
    traced = torch.jit.trace(Alone(folded), x)
    for more in (x, torch.cat([x, x[:1]])):
        assert_alike(traced, folded, more)


def test_torchscript_by_a_script(quiet):
    model, folded, x = pair("resnet")
    assert type(folded) is type(model)
    scripted = torch.jit.script(folded)
    for more in (x, torch.randn(3, 3, 56, 48)):
        assert_alike(scripted, folded, more)


@pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")
@every_model
def test_openvino(name, quiet):
    openvino = import_module("openvino")
    _, folded, x = pair(name)
    converted = openvino.convert_model(folded, example_input=x)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for more in (x, torch.cat([x, x[:1]])):
        assert_alike(lambda x: compiled(x.numpy()), folded, more)


def traced(model: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(Alone(model), x)


def exported(model: nn.Module, x: Tensor) -> Any:
    return torch.export.export(model, (x,)).run_decompositions({})


def core_ml(source: Any, x: Tensor) -> Any:
    """The Core ML program of a trace or an export. It can be made on Linux, but not run."""
    coremltools = import_module("coremltools")
    inputs = {} if hasattr(source, "graph_module") else {"inputs": [tensor_type(coremltools, x)]}
    target = coremltools.target.iOS16
    return coremltools.convert(source, minimum_deployment_target=target, **inputs).get_spec()


def tensor_type(coremltools: Any, x: Tensor) -> Any:
    return coremltools.TensorType(shape=x.shape, dtype=x.numpy().dtype)


def widths(program: Any) -> list[tuple[str, int]]:
    """What the convolutions and linear layers of a program make, sorted."""
    (block,) = program.mlProgram.functions["main"].block_specializations.values()
    axes = {"conv": 1, "linear": -1}
    return sorted(
        (each.type, each.outputs[0].type.tensorType.dimensions[axes[each.type]].constant.size)
        for each in block.operations
        if each.type in axes
    )


def own_widths(model: nn.Module) -> list[tuple[str, int]]:
    return sorted(
        ("conv", module.out_channels)
        if isinstance(module, nn.Conv2d)
        else ("linear", module.out_features)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    )


ROUTES = [("resnet", traced), ("resnet", exported), ("vit", traced), ("bert", exported)]
"""BERT as it is cannot be converted from a trace either."""


@pytest.mark.skipif(not find_spec("coremltools"), reason="coremltools is not installed")
@pytest.mark.parametrize(("name", "route"), ROUTES)
def test_core_ml_has_the_shapes_of_the_folded_model(name, route, quiet):
    model, folded, x = pair(name)
    program = core_ml(route(folded, x), x)
    assert widths(program) == own_widths(folded) != own_widths(model)
    with torch.no_grad():
        shape = first(folded(x)).shape
    assert tuple(program.description.output[0].type.multiArrayType.shape) == tuple(shape)
