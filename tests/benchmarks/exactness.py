"""Is the folded model the gated one, and is everything prunable pruned? Measured on torchvision.

    python -m tests.benchmarks.exactness                       # every model, with ONNX Runtime
    python -m tests.benchmarks.exactness resnet18 --no-onnx --json exactness.json

Each model gets random statistics, scales and biases and a random keep-set of about half of its
channels. tests/torch/test_torchvision.py asserts on the same figures.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from fxprune.testing.torch.checkers import assert_costs
from tests.benchmarks.results import save
from tests.torch.models import assert_equal, half, relative_error, tensors_in
from tests.vision import torchvision

SIZES: Mapping[str, int] = MappingProxyType(
    {
        "alexnet": 96,
        "vgg11_bn": 32,
        "vgg16_bn": 32,
        "resnet18": 64,
        "resnet50": 64,
        "wide_resnet50_2": 64,
        "resnext50_32x4d": 64,
        "densenet121": 64,
        "googlenet": 64,
        "inception_v3": 299,  # its auxiliary head needs as much
        "mobilenet_v2": 64,
        "mobilenet_v3_small": 64,
        "mobilenet_v3_large": 64,
        "mnasnet1_0": 64,
        "shufflenet_v2_x1_0": 64,
        "efficientnet_b0": 64,
        "efficientnet_v2_s": 64,
        "regnet_x_400mf": 64,
        "regnet_y_400mf": 64,
        "squeezenet1_1": 64,
        "convnext_tiny": 64,
        "fcn_resnet50": 64,
        "deeplabv3_resnet50": 64,
        "lraspp_mobilenet_v3_large": 64,
    }
)
"""The models and the image size each is measured on."""

_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "googlenet": {"init_weights": False},  # initialising draws 1e7 numbers from scipy, slowly
        "inception_v3": {"init_weights": False},
        "fcn_resnet50": {"weights_backbone": None, "aux_loss": True},
        "deeplabv3_resnet50": {"weights_backbone": None, "aux_loss": True},
        "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    }
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on one model.

    `error` is the relative error of gated against folded in float64, `onnx_error` that of folded
    against ONNX Runtime in float32. Shares are of the original at the random keep-set with every
    branch open; `expected` is the share of parameters if every channel were free (see
    `expected_params`). `pins` maps groups that may not change to the reason.
    """

    model: str
    error: float
    onnx_error: float | None
    params: float
    expected: float
    macs: float
    groups: int
    branches: int
    pins: Mapping[str, str]
    seconds: float


def measure(name: str, *, onnx: bool = False) -> Figures:
    """Measure one model; what must hold to the bit or to the unit is asserted on the way."""
    start = time.perf_counter()
    model = random_model(name)
    x = random_images(3, SIZES[name])
    gated = fxprune.prepare(model, x[:1], target=1)
    assert_same_bits(model, gated, x)
    expected = expected_params(model) / params(model)
    size = params(model)
    del model
    gated = gated.double()
    keep = half(gated)
    branches = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    fxprune.set_keep_set(gated, {**keep, **{name: [True] for name in branches}})
    wide = fxprune.report(gated, latency=False)
    fxprune.set_keep_set(gated, keep)
    randomise_statistics(gated, x.double())
    folded = fxprune.fold(gated)
    with torch.no_grad():
        y = gated(x.double())
        error = relative_error(y, folded(x.double()))
    assert_of_order_one(y)
    costs = dict(fxprune.report(folded, latency=False).after)
    costs["bytes"] = 2 * costs["bytes"]  # what is compared has doubles
    assert_costs(folded, [x.double()], costs)
    assert wide.before["params"] == size
    groups = fxprune.groups(gated)
    return Figures(
        model=name,
        error=error,
        onnx_error=_onnx_error(gated.float(), folded.float()) if onnx else None,
        params=wide.after["params"] / size,
        expected=expected,
        macs=wide.after["macs"] / wide.before["macs"],
        groups=sum(group.kind != "branch" and not group.pin for group in groups),
        branches=len(branches),
        pins={group.name: group.pin for group in groups if group.pin},
        seconds=time.perf_counter() - start,
    )


def random_model(name: str) -> nn.Module:
    """A torchvision model with random biases, scales and statistics, in evaluation."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    normalised = any("norm" in type(module).__name__.lower() for module in model.modules())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1 and not normalised:  # a signal must survive half the channels
                parameter.normal_(std=2 * parameter[0].numel() ** -0.5)
            elif parameter.dim() < 2:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif key.endswith("layer_scale"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    randomise_statistics(model, random_images(3, SIZES[name]))
    return model


@torch.no_grad()
def randomise_statistics(model: nn.Module, x: Tensor) -> None:
    """Draw running statistics around those of `x`, layer by layer: no signal fades or explodes."""

    def draw(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        variance = variance + 0.1 * variance.mean() + 1e-6
        norm.running_mean.copy_(mean + 0.3 * variance.sqrt() * torch.randn_like(mean))
        norm.running_var.copy_(variance * (0.5 + torch.rand_like(mean)))

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(draw) for norm in norms]
    model.eval()(x)
    for hook in hooks:
        hook.remove()


def random_images(batch: int, size: int) -> Tensor:
    """Noise on colours and contrasts of its own per image, so that averages over pixels differ."""
    noise, colour = torch.randn(batch, 3, size, size), torch.randn(batch, 3, 1, 1)
    return colour + torch.linspace(0.5, 1.5, batch).view(-1, 1, 1, 1) * noise


def assert_same_bits(model: nn.Module, gated: nn.Module, x: Tensor) -> None:
    """With everything open a gated model is the original, in both modes, statistics included."""
    for mode in (False, True):
        outputs = []
        for each in (model.train(mode), gated.train(mode)):
            torch.manual_seed(1)
            with torch.no_grad():
                outputs.append(each(x))
        assert_equal(*outputs)
    state = gated.state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(state[key], tensor), f"{key} differs after a pass in training mode"


def assert_of_order_one(outputs: Any) -> None:
    """Outputs are finite, neither huge nor tiny, and depend on the input."""
    for y in tensors_in(outputs):
        largest = float(y.abs().max())
        assert 1e-2 < largest < 1e2, f"the largest output is {largest:.1e}"
        assert float((y[0] - y[1]).abs().max()) > 1e-3 * largest, "the input does not matter"


def params(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def expected_params(model: nn.Module) -> float:
    """Parameters that remain if every channel but images and predictions is halved.

    From the layers alone: a dense weight keeps a quarter, a depthwise weight and a vector a half;
    the side of the images or of the predictions stays whole.
    """
    total = 0.0
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            total += parameter.numel() * _share(module, parameter)
    return total


def _share(module: nn.Module, parameter: Tensor) -> float:
    if parameter.dim() < 2 or not isinstance(module, nn.Conv2d | nn.Linear):
        whole = isinstance(module, nn.Conv2d | nn.Linear) and len(parameter) in _CLASSES
        return 1.0 if whole else 0.5
    free = [parameter.shape[0] not in _CLASSES, parameter.shape[1] > 3]
    return 0.5 ** sum(free)


_CLASSES = (1000, 21)


def _onnx_error(gated: nn.Module, folded: nn.Module) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = fxprune.export_onnx(folded, Path(folder) / "model.onnx")
        verdict = fxprune.verify(gated, folded, path, batch_sizes=(1, 3))
    return verdict.worst["folded == onnxruntime float32"]


def table(figures: list[Figures]) -> str:
    """The figures as Markdown."""
    columns = "model, float64, ONNX Runtime, params, expected, MACs, groups, branches, pins, s"
    head = f"| {columns.replace(', ', ' | ')} |"
    rule = "|---" * (columns.count(",") + 1) + "|"
    return "\n".join([head, rule, *map(_row, figures)])


def _row(f: Figures) -> str:
    onnx = "" if f.onnx_error is None else f"{f.onnx_error:.1e}"
    return (
        f"| {f.model} | {f.error:.1e} | {onnx} | {f.params:.1%} | {f.expected:.1%} | {f.macs:.1%} "
        f"| {f.groups} | {f.branches} | {len(f.pins)} | {f.seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(SIZES), help="names of torchvision")
    parser.add_argument("--no-onnx", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    figures = []
    for name in arguments.models:
        figures.append(measure(name, onnx=not arguments.no_onnx))
        print(_row(figures[-1]), flush=True)
    print(table(figures))
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
