"""What do channels, ranks and both keep of a CIFAR ResNet, without training?

    python -m tests.benchmarks.factorising --data DATA --weights WEIGHTS --json factorising.json

A pretrained ResNet at some share of its multiply-accumulates: by channels alone, by one form of two
layers for all, by any of them or channels layer by layer, and by what other tools do, truncated
singular values at one share of the rank everywhere. 1,024 training images for calibration and
correction. Rows are written as they come, so that a run that is stopped leaves what it has.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import pretrained
from fxprune.passes.factorisation import FORMS
from fxprune.testing import count_macs

EXAMPLE = torch.zeros(1, 3, 32, 32)
PLAIN, UNIFORM = "uniform SVD, as it is", "uniform SVD"
WAYS = {
    "channels": (),
    **{form: (form,) for form in FORMS},
    "any": tuple(FORMS),
    UNIFORM: None,
    PLAIN: None,
}
CALIBRATION, BATCH = 1024, 64


@dataclass(frozen=True, slots=True)
class Row:
    """One network: accuracy as a share of 1, and what it costs as shares of the whole one."""

    network: str
    way: str
    target: float
    accuracy: float
    macs: float
    params: float
    pairs: int
    images: int
    seconds: float


def accuracy(model: nn.Module, data: Cifar, number: int) -> float:
    """On the first test images."""
    right = 0
    with torch.no_grad():
        for start in range(0, number, 500):
            images = data.normalised(data.test.images[start : min(start + 500, number)])
            labels = data.test.labels[start : start + len(images)]
            right += int((model.eval()(images).argmax(1) == labels).sum())
    return right / number


def uniform(model: nn.Module, share: float) -> Any:
    """Every convolution but the first at one share of its rank, the largest that fits."""
    low = fxprune.factorise(model, ["layer1", "layer2", "layer3"])
    gated = fxprune.prepare(low, EXAMPLE, target=1.0)
    ranks = {g.name: g.size for g in fxprune.groups(gated) if ".first" in g.name}
    limit = share * count_macs(model, [EXAMPLE])
    for percent in range(100, 0, -1):
        keep = {
            name: [place < max(1, size * percent // 100) for place in range(size)]
            for name, size in ranks.items()
        }
        fxprune.set_keep_set(gated, keep)
        if count_macs(fxprune.fold(gated), [EXAMPLE]) <= limit:
            break
    return gated


def row(way: str, target: float, options: argparse.Namespace, data: Cifar) -> Row:
    """Prune one way, with correction, and look at accuracy."""
    torch.manual_seed(0)
    model = pretrained(options.depth, options.weights).eval()
    images = data.train.images[:CALIBRATION]
    batches = [data.normalised(images[i : i + BATCH]) for i in range(0, CALIBRATION, BATCH)]
    start = time.perf_counter()
    forms = WAYS[way]
    if forms is None:
        gated = uniform(model, target)
        if way == UNIFORM:
            fxprune.refit(gated, batches)
        small = fxprune.fold(gated)
    else:
        given: dict[str, Any] = {"target": target, "data": batches, "method": "wanda"}
        small = fxprune.prune(model, EXAMPLE, factorise=forms, correct=True, **given)
    seconds = time.perf_counter() - start
    return Row(
        f"ResNet-{options.depth}",
        way,
        target,
        accuracy(small, data, options.images),
        count_macs(small, [EXAMPLE]) / count_macs(model, [EXAMPLE]),
        sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters()),
        sum(bool(item.form) for item in fxprune.factors(small)),
        options.images,
        seconds,
    )


def table(found: list[Row]) -> Table:
    """The rows for the terminal."""
    made = Table("network", "way", "target", "accuracy", "MACs", "params", "pairs")
    for one in found:
        numbers = (one.target, one.accuracy, one.macs, one.params)
        shown = ("{:.0%}", "{:.2%}", "{:.1%}", "{:.1%}")
        texts = [form.format(number) for form, number in zip(shown, numbers, strict=True)]
        made.add_row(one.network, one.way, *texts, str(one.pairs))
    return made


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="as for examples.cifar10")
    parser.add_argument("--weights", type=Path, required=True, help="a pretrained ResNet")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--images", type=int, default=10_000, help="how many test images")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data, found = load(options.data), []
    for target in options.targets:
        for way in options.ways:
            found.append(row(way, target, options, data))
            if options.json:
                options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    Console().print(table(found))


if __name__ == "__main__":
    main()
