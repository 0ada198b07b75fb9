"""Detectors of ultralytics stay DetectionModels, and its own trainer trains them with gates."""

import copy
import os
import random
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.vision import torchvision

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not find_spec("ultralytics"), reason="ultralytics is not installed"),
]
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # where importing it writes
os.environ.setdefault("YOLO_OFFLINE", "1")

NAMES = ("yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml")
CLASSES = 3


def part_of(name: str) -> Any:
    """A module of ultralytics, which changes other libraries when it is imported."""
    return import_module(f"ultralytics.{name}")


def is_detector(model: nn.Module) -> bool:
    return isinstance(model, part_of("nn.tasks").DetectionModel)


def detector(name: str) -> Any:
    """A small detector with statistics that are not those of its constructor."""
    torch.manual_seed(0)
    model = part_of("nn.tasks").DetectionModel(name, nc=CLASSES, verbose=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def gated_at_half(model: Any) -> Any:
    gated = fxprune.prepare(model, torch.randn(1, 3, 64, 64), target=1.0)
    draw = random.Random(0)
    keep = {}
    for group in fxprune.groups(gated):
        if group.kind != "branch" and not group.pin:
            kept = set(draw.sample(range(group.size), max(group.size // 2, 1)))
            keep[group.name] = [index in kept for index in range(group.size)]
    fxprune.set_keep_set(gated, keep)
    return gated


def batch_of(model: Any) -> dict[str, Tensor]:
    """Two pictures with one box each; what a loss needs beside them."""
    model.args = part_of("cfg").get_cfg()
    torch.manual_seed(1)
    return {
        "img": torch.rand(2, 3, 64, 96),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.4, 0.4, 0.2, 0.2]]),
    }


@pytest.mark.parametrize("name", NAMES)
def test_gated_and_folded_are_detectors(name, tmp_path):
    model = detector(name)
    gated = gated_at_half(model.eval()).eval()
    folded = fxprune.fold(gated).eval()
    assert is_detector(gated)
    assert is_detector(folded)
    assert "" not in generated_code(gated) | generated_code(folded)
    for height, width in ((64, 64), (96, 160), (32, 32)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        exact = [copy.deepcopy(each).double() for each in (gated, folded)]
        with torch.no_grad():
            assert relative_error(*(each(x)[0] for each in exact)) < 1e-10
            assert exact[0](x)[0].shape == model(x.float())[0].shape
    path = fxprune.export_onnx(folded, tmp_path / "a.onnx")
    fxprune.verify(gated, folded, path)
    losses = [each.train().loss(batch_of(each))[0].sum() for each in (gated, folded)]
    assert abs(losses[0] / losses[1] - 1).item() < 1e-4
    losses[1].backward()


def pictures(folder: Path) -> Path:
    """Ten pictures of noise, each with one box."""
    write_png = torchvision.transforms.functional.to_pil_image
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for index in range(10):
        write_png(torch.rand(3, 48, 64)).save(folder / "images" / f"{index}.png")
        (folder / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.3 0.4\n")
    lines = (f"path: {folder}", "train: images", "val: images", "names: [a, b, c]")
    (folder / "data.yaml").write_text("\n".join(lines))
    return folder / "data.yaml"


@pytest.mark.parametrize("name", NAMES[:2])
def test_its_own_trainer_trains_evaluates_and_saves(name, tmp_path, monkeypatch):
    def best_ten(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return scores.argsort(descending=True)[:10]

    monkeypatch.setattr(torchvision.ops, "nms", best_ten)  # a compiled operator, maybe missing
    monkeypatch.chdir(tmp_path)
    gated = fxprune.prepare(detector(name), torch.randn(1, 3, 64, 64), target=0.6, steps=1)

    class Trainer(part_of("models.yolo.detect").DetectionTrainer):
        def get_model(self, *args: Any, **kwargs: Any) -> Any:
            return gated

    (tmp_path / "data").mkdir()
    settings = {"epochs": 1, "batch": 4, "imgsz": 64, "device": "cpu", "workers": 0, "amp": False}
    places = {"data": str(pictures(tmp_path / "data")), "project": str(tmp_path / "runs")}
    trainer = Trainer(overrides={"model": name, "plots": False, **settings, **places})
    trainer.train()
    folded = fxprune.fold(trainer.model).eval()
    for each in (trainer.model, trainer.ema.ema):
        assert is_detector(each)
        assert is_detector(fxprune.fold(each))
    report = fxprune.report(folded)
    assert report.after["macs"] <= 0.6 * report.before["macs"]
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        assert relative_error(trainer.model.eval()(x)[0], folded(x)[0]) < 1e-4
        half = copy.deepcopy(folded).half().float()
        assert relative_error(folded(x)[0], half(x)[0]) < 0.05
    assert is_detector(torch.load(trainer.last, weights_only=False)["model"])
