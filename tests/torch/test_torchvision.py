"""Every torchvision CNN: gated is the original, folded is the gated one, nothing else is pinned."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch

import fxprune
from tests.benchmarks.exactness import (
    SIZES,
    Figures,
    assert_of_order_one,
    assert_same_bits,
    expected_params,
    main,
    measure,
    random_images,
    random_model,
)
from tests.benchmarks.results import read
from tests.torch.models import half, relative_error

FIRST = (
    "resnet18",
    "densenet121",
    "googlenet",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "squeezenet1_1",
    "lraspp_mobilenet_v3_large",
)
"""Small models of different designs; all are among the slow tests, with ONNX."""

PINS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "alexnet": ("features.0", "classifier.6"),
        "vgg11_bn": ("features.0", "classifier.6"),
        "vgg16_bn": ("features.0", "classifier.6"),
        "resnet18": ("conv1", "fc"),
        "resnet50": ("conv1", "fc"),
        "wide_resnet50_2": ("conv1", "fc"),
        "resnext50_32x4d": ("conv1", "fc"),
        "densenet121": ("features.conv0", "classifier"),
        "googlenet": ("conv1.conv", "aux1.fc2", "aux2.fc2", "fc"),
        "inception_v3": ("Conv2d_1a_3x3.conv", "AuxLogits.fc", "fc"),
        "mobilenet_v2": ("features.0.0", "classifier.1"),
        "mobilenet_v3_small": ("features.0.0", "classifier.3"),
        "mobilenet_v3_large": ("features.0.0", "classifier.3"),
        "mnasnet1_0": ("layers.0", "classifier.1"),
        "shufflenet_v2_x1_0": ("conv1.0", "fc"),
        "efficientnet_b0": ("features.0.0", "classifier.1"),
        "efficientnet_v2_s": ("features.0.0", "classifier.1"),
        "regnet_x_400mf": ("stem.0", "fc"),
        "regnet_y_400mf": ("stem.0", "fc"),
        "squeezenet1_1": ("features.0", "classifier.1"),
        "convnext_tiny": ("features.0.0", "classifier.2"),
        "fcn_resnet50": ("backbone.conv1", "classifier.4", "aux_classifier.4"),
        "deeplabv3_resnet50": ("backbone.conv1", "classifier.4", "aux_classifier.4"),
        # Both classifiers are added up, so they are one group, named after the first.
        "lraspp_mobilenet_v3_large": ("backbone.0.0", "classifier.low_classifier"),
    }
)
"""The layer that reads the image, then those that predict: all that may be pinned."""

BRANCHES: Mapping[str, int] = MappingProxyType(
    {
        "resnet18": 8,
        "resnet50": 16,
        "wide_resnet50_2": 16,
        "resnext50_32x4d": 16,
        "mobilenet_v2": 10,
        "mobilenet_v3_small": 6,
        "mobilenet_v3_large": 10,
        "mnasnet1_0": 10,
        "efficientnet_b0": 9,
        "efficientnet_v2_s": 35,
        "regnet_x_400mf": 22,
        "regnet_y_400mf": 16,
        "convnext_tiny": 18,
        "fcn_resnet50": 16,
        "deeplabv3_resnet50": 16,
        "lraspp_mobilenet_v3_large": 11,
    }
)
"""The residual additions of each architecture; LR-ASPP adds its two classifiers as well."""


def check(figures: Figures) -> None:
    """What the figures of a model must show."""
    name = figures.model
    assert figures.error <= 1e-10
    if figures.onnx_error is not None:
        assert figures.onnx_error <= 1e-4
    first, *last = PINS[name]
    reasons = {f"{first}.weight:1": "network input", **dict.fromkeys(last, "network output")}
    assert dict(figures.pins) == reasons
    assert figures.branches == BRANCHES.get(name, 0)
    # A tenth for chance; grouped convolutions fall below, since groups and what they hold halve.
    assert 0.5 * figures.expected < figures.params < 1.1 * figures.expected
    assert figures.macs < 0.38


@pytest.mark.parametrize("name", FIRST)
def test_half_of_a_model_is_exact_and_everything_is_prunable(name):
    check(measure(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_half_of_a_model_agrees_with_onnx_runtime(name):
    check(measure(name, onnx=True))


def test_every_model_has_a_table_of_pins():
    assert PINS.keys() == SIZES.keys()
    assert set(BRANCHES) <= set(SIZES)


# The measurement itself ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures() -> Figures:
    return measure("shufflenet_v2_x1_0")


@pytest.mark.parametrize(
    "change",
    [
        {"error": 1e-9},
        {"onnx_error": 2e-4},
        {"params": 0.45},
        {"params": 0.1},
        {"macs": 0.5},
        {"branches": 1},
        {"pins": {"conv1.0.weight:1": "network input"}},
        {"pins": {"conv1.0.weight:1": "network input", "fc": "unknown operator"}},
    ],
)
def test_check_refuses(figures, change):
    check(figures)
    with pytest.raises(AssertionError):
        check(replace(figures, **change))


def test_error_shows_a_single_wrong_weight():
    model = random_model("squeezenet1_1").double()
    x = random_images(2, SIZES["squeezenet1_1"]).double()
    gated = fxprune.prepare(model, x)
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated).eval()
    with torch.no_grad():
        expected = gated.eval()(x)
        assert relative_error(expected, folded(x)) <= 1e-10
        folded.get_parameter("features.3.squeeze.weight")[0, 0] += 1e-5
        assert relative_error(expected, folded(x)) > 1e-10


def test_comparison_of_bits_shows_one_wrong_bit():
    model = random_model("squeezenet1_1")
    x = random_images(2, SIZES["squeezenet1_1"])
    gated = fxprune.prepare(model, x)
    assert_same_bits(model, gated, x)
    with torch.no_grad():
        weight = gated.get_parameter("classifier.1.weight")
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor([[2.0]]))
    with pytest.raises(AssertionError):
        assert_same_bits(model, gated, x)


def test_comparison_of_bits_shows_statistics_that_moved():
    model = random_model("mobilenet_v3_small")
    gated = fxprune.prepare(model, random_images(1, 64))
    model.features[0][1].momentum = 0.2
    with pytest.raises(AssertionError, match=r"features\.0\.1\.running_mean differs after a pass"):
        assert_same_bits(model, gated, random_images(2, 64))


@pytest.mark.parametrize("y", [torch.full((2, 3), 1e5), torch.zeros(2, 3), torch.ones(2, 3)])
def test_outputs_that_hide_errors_are_refused(y):
    with pytest.raises(AssertionError, match=r"largest output|does not matter"):
        assert_of_order_one(y)


def test_expected_share_of_a_plain_chain():
    chain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),  # 8 * 3 * 9 halved, and 8 biases halved
        torch.nn.BatchNorm2d(8),  # 2 * 8 halved
        torch.nn.Conv2d(8, 8, 3, groups=8, bias=False),  # depthwise: 8 * 9 halved
        torch.nn.Conv2d(8, 6, 1, bias=False),  # 8 * 6, a quarter
        torch.nn.Linear(6, 1000),  # 6000 halved, 1000 biases whole
    )
    assert expected_params(chain) == 108 + 4 + 8 + 36 + 12 + 3000 + 1000


def test_command_prints_a_table_and_writes_json(monkeypatch, capsys, tmp_path):
    file = tmp_path / "figures.json"
    command = ["exactness", "squeezenet1_1", "--no-onnx", "--json", str(file)]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert "| squeezenet1_1 | " in capsys.readouterr().out
    (written,) = read(file)["rows"]
    assert written["model"] == "squeezenet1_1"
    assert written["error"] <= 1e-10
