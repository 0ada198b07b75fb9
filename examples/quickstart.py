"""The whole of fxprune on real data: 1,797 handwritten digits, half of the multiply-accumulates.

python examples/quickstart.py                          # scikit-learn's digits, under a minute
python examples/quickstart.py --out digits.onnx        # and keep the smaller model
python examples/quickstart.py --data uoft-cs/cifar10   # the same steps on CIFAR-10
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import timeit
from pathlib import Path

if __name__ == "__main__":  # torch takes seconds to load
    print("A residual network learns digits, and which half of itself it needs.", flush=True)

import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune

EPOCHS = 12


def small_resnet() -> nn.Module:
    """A residual network for 8x8 images with 10 classes."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.body(x))

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32),
        Block(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        Block(64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Training set, test images and test labels."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    return TensorDataset(images[train], labels[train]), images[test], labels[test]


def train(name: str, model: nn.Module, data: TensorDataset, gated: bool = False) -> None:
    """An ordinary training loop; of pruning it only prints how far that is."""
    loader = DataLoader(data, batch_size=50, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    model.train()
    for epoch in range(1, EPOCHS + 1):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        schedule.step()
        told = f"; {fxprune.progress(model)}" if gated else ""
        print(f"{name}: epoch {epoch} of {EPOCHS}, loss {loss.item():.4f}{told}", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of test images that are classified correctly."""
    return float((model.eval()(images).argmax(1) == labels).float().mean())


def milliseconds(path: Path, images: Tensor) -> float:
    """How long ONNX Runtime takes for all the images, at best."""
    session = onnxruntime.InferenceSession(path)
    feeds = {session.get_inputs()[0].name: images.numpy()}
    return 1000 * min(timeit.repeat(lambda: session.run(None, feeds), number=1, repeat=30))


def main(folder: Path) -> Path:
    """Train the dense network and the gated one equally long; fold, export, compare.

    Returns:
        The smaller model, in a file in `folder`.
    """
    torch.manual_seed(0)
    data, images, labels = digits()
    dense = small_resnet()
    gated = fxprune.prepare(dense, images[:1], target=0.5, steps=200)

    train("dense", dense, data)
    train("gated", gated, data, gated=True)

    print("folding, exporting and comparing", flush=True)
    folded = fxprune.fold(gated)
    small = fxprune.export_onnx(folded, folder / "folded.onnx")
    large = fxprune.export_onnx(dense, folder / "dense.onnx", images[:1])
    for pair, error in fxprune.verify(gated, folded, small, inputs=[images]).worst.items():
        print(f"verified: {pair}, largest relative error {error:.1e}")

    report = fxprune.report(gated, latency=False)
    before, after = report.before, report.after
    slow, fast = milliseconds(large, images), milliseconds(small, images)
    right = {m: accuracy(m, images, labels) for m in (dense, gated, folded)}
    print(
        f"\nsmaller:  {after['macs']:,} of {before['macs']:,} multiply-accumulates, "
        f"{after['params']:,} of {before['params']:,} parameters\n"
        f"faster:   {fast:.2f} of {slow:.2f} ms for {len(images)} images in ONNX Runtime "
        f"({slow / fast:.2f} times)\n"
        f"accuracy: {right[folded]:.2%} folded, {right[gated]:.2%} gated, {right[dense]:.2%} dense"
    )
    return small


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="run examples/cifar10.py on this data set instead")
    parser.add_argument("--out", type=Path, help="where to keep the smaller model, as NAME.onnx")
    arguments = parser.parse_args()
    if arguments.data:
        command = [sys.executable, "-m", "examples.cifar10", "--data", arguments.data]
        sys.exit(subprocess.call(command, cwd=Path(__file__).parent.parent))
    if arguments.out and arguments.out.exists():
        parser.error(f"{arguments.out} is there already")
    with tempfile.TemporaryDirectory() as folder:
        written = main(Path(folder))
        if arguments.out:
            shutil.copy(written, arguments.out)
