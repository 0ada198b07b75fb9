"""ONNX files pruned without training: accuracy by method, and time and memory of the command.

    python -m tests.benchmarks.onnx_pruning --data DATA --weights WEIGHTS --json accuracy.json
    python -m tests.benchmarks.onnx_pruning --speed

The first exports a pretrained CIFAR ResNet and prunes the file to half of its MACs, with every
method, with and without corrected weights. The second runs `fxprune prune` on a ResNet-50 file.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import pretrained
from fxprune.onnx.criteria import METHODS
from tests.benchmarks.quantization import measured
from tests.benchmarks.results import save
from tests.vision import torchvision

BATCH = 64
RANKED = tuple(method for method in METHODS if method != "bn_scale")
"""The exporter folds norms into convolutions, so there are no factors to rank by."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pruned file."""

    method: str
    corrected: bool
    accuracy: float
    macs: int
    seconds: float


def accuracies(options: argparse.Namespace, data: Cifar, folder: Path) -> list[Row]:
    """The file as it is, then pruned by every method."""
    model = pretrained(options.depth, options.weights).eval()
    path = fxprune.export_onnx(model, folder / "dense.onnx", torch.zeros(1, 3, 32, 32))
    dense = fxprune.inspect_onnx(path).costs
    rows = [
        Row("none", False, measured("", "", path, data).accuracy, dense.at(dense.full)["macs"], 0.0)
    ]
    images = data.normalised(data.train.images[: options.samples]).numpy()
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    for method in options.methods:
        for corrected in (False, True):
            small, start = folder / "small.onnx", time.perf_counter()
            result = fxprune.prune_onnx(
                path,
                small,
                target=options.target,
                method=method,
                data=batches,
                correct=corrected,
                overwrite=True,
            )
            seconds = time.perf_counter() - start
            found = measured("", "", small, data).accuracy
            rows.append(Row(method, corrected, found, result.costs_after["macs"], seconds))
            print(rows[-1], flush=True)
    return rows


def table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    made = Table("method", "weights corrected", "accuracy", "MACs", "seconds")
    for row in rows:
        corrected = "yes" if row.corrected else "no"
        figures = (f"{row.accuracy:.2%}", f"{row.macs:,}", f"{row.seconds:.1f}")
        made.add_row(row.method, corrected, *figures)
    return made


_TELL_PEAK = "atexit.register(lambda: print(open('/proc/self/status').read()))"
"""Linux knows the largest resident size of a process since it was started."""


def speed(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of the command, the interpreter and verification included."""
    model = torchvision.models.resnet50(weights=None).eval()
    path = fxprune.export_onnx(model, folder / "resnet50.onnx", torch.zeros(2, 3, 224, 224))
    command = f"import atexit; {_TELL_PEAK}; from fxprune.cli import main; main()"
    arguments = ["prune", str(path), str(folder / "half.onnx"), "--method", "magnitude"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    peak = 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", done.stdout)[-1])
    size = path.stat().st_size
    print(f"{seconds:.1f} s, peak {peak / 1e6:.0f} MB, {peak / size:.2f} times the file")
    return {"seconds": seconds, "peak_bytes": peak, "file_bytes": size, "ratio": peak / size}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--data", help="as for examples.cifar10")
    parser.add_argument("--weights", type=Path, help="a pretrained ResNet")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs kept")
    parser.add_argument("--samples", type=int, default=1024, help="training images to look at")
    parser.add_argument("--methods", nargs="+", choices=RANKED, default=RANKED)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.speed:
            found: list[object] = [speed(Path(folder))]
        else:
            if not (options.data and options.weights):
                parser.error("give --data and --weights, or --speed")
            rows = accuracies(options, load(options.data), Path(folder))
            Console().print(table(rows))
            found = list(rows)
    save(options.json, found)


if __name__ == "__main__":
    main()
