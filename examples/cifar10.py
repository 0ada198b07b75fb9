"""A CIFAR-10 ResNet that prunes itself while it trains, folded, exported and compared.

    python -m examples.cifar10 --data uoft-cs/cifar10 --epochs 30
    python -m examples.cifar10 --data DIR --weights cifar10_resnet20.safetensors --epochs 5

The training loop is that of `examples.cifar_train`, the same for the dense and the gated network.
Writes the folded model, the ONNX file, a picture of the learning curves and all figures as JSON.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import CifarResNet, pretrained
from examples.cifar_train import Epoch, accuracy, predictions, train

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RAMP = 0.1
"""The share of all optimizer steps after which the target is reached."""


def main() -> None:
    """Prepare, train, fold, export, and print a table."""
    options = arguments().parse_args()
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.data)
    model = (
        pretrained(options.depth, options.weights)
        if options.weights
        else CifarResNet(options.depth)
    )
    example = torch.zeros(1, 3, 32, 32)
    steps = options.epochs * -(-len(data.train) // options.batch_size)
    gated = fxprune.prepare(
        model,
        example,
        target=options.target,
        steps=max(1, int(RAMP * steps)),
        round_to=options.round_to,
        method=options.method,
        shrink_every=options.shrink_every,
    )
    history = train(
        gated,
        data,
        epochs=options.epochs,
        lr=options.lr,
        batch_size=options.batch_size,
        seed=options.seed,
        teacher=model.eval() if options.distill else None,
    )
    folded = fxprune.fold(gated)
    figures = compare(model, gated, folded, data, options.out)
    figures["history"] = [vars_of(epoch) for epoch in history]
    figures["options"] = {name: str(value) for name, value in vars(options).items()}
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1))
    draw(history, figures, options.out / "curves.png")
    Console().print(table(figures))
    print(fxprune.report(gated, latency=False))


def compare(
    model: nn.Module, gated: nn.Module, folded: nn.Module, data: Cifar, out: Path
) -> dict[str, Any]:
    """Accuracies, agreement, costs and latencies of the original, gated, folded and ONNX models."""
    fxprune.save(folded, out / "folded", overwrite=True)
    example = torch.zeros(1, 3, 32, 32)
    dense_file = fxprune.export_onnx(model, out / "dense.onnx", example, overwrite=True)
    file = fxprune.export_onnx(folded, out / "folded.onnx", overwrite=True)
    verdict = fxprune.verify(gated, folded, file, inputs=[data.normalised(data.test.images[:64])])
    classes = {
        "gated": predictions(gated, data),
        "folded": predictions(folded, data),
        "onnxruntime": onnx_predictions(file, data),
    }
    share = {
        name: float((found == data.test.labels).double().mean()) for name, found in classes.items()
    }
    latency = onnx_latency({"dense": dense_file, "folded": file})
    return {
        "accuracy": {"before": accuracy(model, data), **share},
        "equal_predictions": {
            name: int((classes["gated"] == classes[name]).sum())
            for name in ("folded", "onnxruntime")
        },
        "images": len(data.test.labels),
        "costs": fxprune.report(folded, latency=False).as_dict(),
        "onnxruntime_ms": latency,
        "speedup": latency["dense"] / latency["folded"],
        "largest_errors": verdict.worst,
    }


def onnx_predictions(path: Path, data: Cifar) -> Tensor:
    """The class that ONNX Runtime finds for each test image."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (item.name for item in session.get_inputs())
    outputs = [session.run(None, {name: x.numpy()})[0] for x, _ in data.test_batches()]
    return torch.from_numpy(np.concatenate(outputs).argmax(1))


def onnx_latency(paths: dict[str, Path], runs: int = 200) -> dict[str, float]:
    """Median milliseconds for one image in ONNX Runtime, the files taking turns."""
    image = np.zeros((1, 3, 32, 32), np.float32)
    sessions = {
        name: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for name, path in paths.items()
    }
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(runs):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: image})
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def table(figures: dict[str, Any]) -> Table:
    """The final figures, before and after."""
    result = Table(title="CIFAR-10", title_justify="left")
    for column in ("", "before", "after"):
        result.add_column(column, justify="right" if column else "left")
    found, costs = figures["accuracy"], figures["costs"]
    after = " = ".join(f"{found[name]:.2%}" for name in ("gated", "folded", "onnxruntime"))
    result.add_row("accuracy (gated = folded = ONNX)", f"{found['before']:.2%}", after)
    for name, unit in (("macs", "MACs"), ("params", "parameters")):
        before, now = costs[f"{name}_before"], costs[f"{name}_after"]
        result.add_row(unit, f"{before:,}", f"{now:,} ({now / before:.1%})")
    times = figures["onnxruntime_ms"]
    result.add_row(
        "ONNX Runtime, one image (ms)",
        f"{times['dense']:.2f}",
        f"{times['folded']:.2f} ({figures['speedup']:.2f} times faster)",
    )
    return result


def draw(history: list[Epoch], figures: dict[str, Any], path: Path) -> None:
    """Learning curves of the gated network."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    epochs = [epoch.number for epoch in history]
    axes.plot(epochs, [100 * epoch.train_accuracy for epoch in history], "o-", label="training")
    axes.plot(epochs, [100 * epoch.test_accuracy for epoch in history], "o-", label="test")
    axes.axhline(100 * figures["accuracy"]["before"], color="grey", ls="--", label="before")
    axes.set(xlabel="epoch", ylabel="accuracy (%)", title="gated network")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def vars_of(epoch: Epoch) -> dict[str, float]:
    """The fields of an epoch."""
    return {name: getattr(epoch, name) for name in epoch.__slots__}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", default="uoft-cs/cifar10", help="hub name or folder")
    parser.add_argument("--weights", type=Path, help="safetensors file to start from")
    parser.add_argument("--depth", type=int, default=20, help="20, 32, 44, 56 or 110")
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs to keep")
    parser.add_argument("--round-to", type=int, default=8, help="keep multiples of this")
    parser.add_argument("--method", default="static", help="how gates learn")
    parser.add_argument("--shrink-every", type=int, default=0, help="steps; 0 for never")
    parser.add_argument("--distill", action="store_true", help="the unpruned model is the teacher")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("cifar10"), help="folder for results")
    return parser


if __name__ == "__main__":
    main()
