"""The coverage command on small models of every family: what it says, and that it can fail."""

import json
import subprocess

import pytest
import torch

import fxprune
from fxprune.torch import splitting
from tests.coverage import __main__ as command
from tests.coverage.tools import TOOLS
from tests.coverage.zoo import FAMILIES, names_of

pytestmark = pytest.mark.filterwarnings("ignore")

ANALYSED = """
    torchvision:squeezenet1_1 torchvision:shufflenet_v2_x0_5 timm:test_byobnet timm:test_vit
    timm:test_efficientnet transformers:llama transformers:wav2vec2 transformers:clip
"""
ALSO = """
    torchvision:mc3_18 timm:test_nfnet timm:test_convnext transformers:bert transformers:deberta_v2
    transformers:gpt2 transformers:gemma2 transformers:t5 transformers:swin transformers:whisper
    transformers:mamba transformers:segformer
"""
"""The slower ones; of most, a quicker one has the same parts."""
EMBEDDED = {"transformers:clip": 0.7, "transformers:gpt_neo": 0.9}  # tables are part of the output
TRANSFORMER_LIKE = ("transformers:", "timm:test_vit")


@pytest.mark.parametrize(
    "model",
    [*ANALYSED.split(), *(pytest.param(name, marks=pytest.mark.slow) for name in ALSO.split())],
)
def test_model_is_handled_exactly_and_far(model):
    row = command.measure(model, "fxprune", onnx=False)
    assert row["outcome"] == "ok", row
    assert row["free"] >= EMBEDDED.get(model, 0.8), row["pins"]
    assert row["macs"] <= (0.6 if model.startswith(TRANSFORMER_LIKE) else 0.45), row


@pytest.mark.parametrize(
    "model",
    ["timm:test_byobnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ALSO.split()[3:6])],
)
def test_layers_as_two_are_handled_exactly(model):
    row = command.measure(model, "fxprune-ranks", onnx=False)
    assert row["outcome"] == "ok", row
    assert row["pairs"] > 0


def test_a_wrong_pair_is_called_wrong(monkeypatch):
    right = splitting.second_weight
    monkeypatch.setattr(splitting, "second_weight", lambda *given: (1 + 1e-7) * right(*given))
    row = command.measure("timm:test_byobnet", "fxprune-ranks", onnx=False)
    assert (row["outcome"], row["error"] <= 1e-10) == ("wrong", True)


def test_families_are_as_large_as_promised():
    sizes = {name: len(family.names()) for name, family in FAMILIES.items()}
    assert sizes["timm"] >= 90
    assert sizes["transformers"] >= 25
    assert sizes["torchvision"] >= 40


def test_names_of_families_and_models():
    assert names_of(["torchvision:resnet18"]) == ["torchvision:resnet18"]
    assert names_of(["timm"])[0].startswith("timm:")


def test_wrong_result_is_called_wrong(monkeypatch):
    def fold_and_spoil(gated):
        folded = fold(gated)
        with torch.no_grad():
            next(folded.parameters()).mul_(1.01)
        return folded

    fold = fxprune.fold
    monkeypatch.setattr(fxprune, "fold", fold_and_spoil)
    row = command.measure("torchvision:squeezenet1_1", "fxprune", onnx=False)
    assert row["outcome"] == "wrong"
    assert row["error"] > 1e-6


def test_error_is_called_failed(monkeypatch):
    def fail(build, onnx):
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(command, "TOOLS", {**TOOLS, "fxprune": fail})
    row = command.measure("torchvision:squeezenet1_1", "fxprune", onnx=False)
    assert (row["outcome"], row["reason"]) == ("failed", "RuntimeError: no luck")


def test_slow_model_is_stopped(monkeypatch):
    def never(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", never)
    row = command.in_process("torchvision:squeezenet1_1", "fxprune", 1.0, False)
    assert row["outcome"] == command.TIMED_OUT


def test_process_gives_a_row():
    row = command.in_process("torchvision:squeezenet1_1", "fxprune", 60, False)
    assert row["outcome"] == "ok"
    assert json.loads(json.dumps(row)) == row
