"""What 8-bit files cost in accuracy, and save in bytes, on the CIFAR example.

    python -m tests.benchmarks.quantization --data DATA --weights WEIGHTS --json quantization.json

A pretrained ResNet, and the same pruned to half of its MACs without training, as ONNX in float32
and quantised: dynamic, and static with calibration on training images. All 10,000 test images.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import pretrained
from tests.benchmarks.results import save

EXAMPLE = torch.zeros(1, 3, 32, 32)
BATCH = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One file: accuracy as a share of 1, its bytes, what became of both by quantising."""

    network: str
    form: str
    accuracy: float
    bytes: int
    drop: float = 0.0
    size_ratio: float = 1.0
    agreement: float = 1.0


def files(options: argparse.Namespace, data: Cifar, folder: Path) -> Iterator[tuple[str, Path]]:
    """The float32 networks, named."""
    model = pretrained(options.depth, options.weights).eval()
    name = f"ResNet-{options.depth}"
    yield name, fxprune.export_onnx(model, folder / "dense.onnx", EXAMPLE)
    refitting = [data.normalised(data.train.images[i : i + 64]) for i in range(0, 1024, 64)]
    pruned = fxprune.prune(model, EXAMPLE, target=options.target, data=refitting, correct=True)
    yield f"{name}, {options.target:.0%} of MACs", fxprune.export_onnx(pruned, folder / "half.onnx")


def rows(name: str, path: Path, data: Cifar, number: int) -> Iterator[Row]:
    """The float32 file and its quantised copies."""
    plain = measured(name, "float32", path, data)
    yield plain
    images = data.normalised(data.train.images[:number]).numpy()
    calibration = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    for scheme, given in (("dynamic", None), ("static", calibration)):
        found = fxprune.quantize(path, path.with_suffix(f".{scheme}.onnx"), calibration=given)
        row = measured(name, f"8-bit {scheme}", found.path, data)
        yield Row(
            **{
                **asdict(row),
                "drop": plain.accuracy - row.accuracy,
                "size_ratio": found.size_ratio,
                "agreement": found.agreement,
            }
        )


def measured(name: str, form: str, path: Path, data: Cifar) -> Row:
    """Accuracy on the test images."""
    session = onnxruntime.InferenceSession(path, None, ["CPUExecutionProvider"])
    images, labels = data.normalised(data.test.images).numpy(), data.test.labels.numpy()
    (entry,) = session.get_inputs()
    right = 0
    for start in range(0, len(images), BATCH):
        (scores,) = session.run(None, {entry.name: images[start : start + BATCH]})
        right += int((scores.argmax(1) == labels[start : start + BATCH]).sum())
    return Row(name, form, right / len(images), path.stat().st_size)


def table(found: list[Row]) -> Table:
    """The rows for the terminal."""
    made = Table("network", "form", "accuracy", "drop", "size", "of float32")
    for row in found:
        made.add_row(
            row.network,
            row.form,
            f"{row.accuracy:.2%}",
            f"{row.drop * 100:+.2f}",
            f"{row.bytes / 1e6:.2f} MB",
            f"{row.size_ratio:.2f}",
        )
    return made


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="as for examples.cifar10")
    parser.add_argument("--weights", type=Path, required=True, help="a pretrained ResNet")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs kept")
    parser.add_argument("--samples", type=int, default=500, help="training images to calibrate on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load(options.data)
    with tempfile.TemporaryDirectory() as folder:
        found = [
            row
            for name, path in files(options, data, Path(folder))
            for row in rows(name, path, data, options.samples)
        ]
    Console().print(table(found))
    save(options.json, found)


if __name__ == "__main__":
    main()
