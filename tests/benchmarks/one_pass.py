"""One training: how good is the folded network beside the alternatives of its size?

    python -m tests.benchmarks.one_pass --row dense gated narrow inner peer --json one_pass.json
    python -m tests.benchmarks.one_pass --data uoft-cs/cifar100 --target 0.5
    python -m tests.benchmarks.one_pass --depth 56 --weights cifar10_resnet56.safetensors --epochs 5

Every row gets the same data, augmentation, number of epochs in all, optimizer and schedule:

    dense   the whole network
    gated   prepared, trained once, folded
    narrow  a network whose widths are scaled uniformly until it has no more MACs than the target
    inner   the same for the widths inside of blocks only: residual streams are whole
    peer    Torch-Pruning: two thirds of the epochs dense, pruned by group magnitude, then the rest

With pretrained weights all rows but `narrow` and `inner` start from them, and the peer prunes at
once. There are none for those two, which start from scratch. With `--teacher` all rows but `dense`
learn from a trained network as well, such as the one that `--row dense --write FILE` leaves.

Finished rows are appended to the JSON file one by one. Forward passes run in bfloat16 by default,
which halves the time on a CPU that has it.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from safetensors.torch import save_file
from torch import nn

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import WIDTHS, CifarResNet, pretrained
from examples.cifar_train import accuracy, train
from tests.benchmarks.cifar10_peers import (
    EXAMPLE,
    Job,
    append,
    count,
    magnitude,
    prune_until,
)

DENSE_SHARE = 2 / 3
"""How much of the training the peer spends before pruning, if it starts from scratch."""


@dataclass(frozen=True, slots=True)
class Row:
    """One trained network; accuracy as a share of 1, MACs for one image, seconds of training."""

    row: str
    target: float
    accuracy: float
    macs: int
    parameters: int
    seconds: float
    seed: int
    options: dict[str, Any]
    accuracy_by_epoch: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.row} at {self.target:g}: {self.accuracy:.2%}, {self.macs:,} MACs, "
            f"{self.parameters:,} parameters, {self.seconds:.0f} s"
        )


class Bench:
    """The data and the settings that all rows share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data: Cifar = load(options.data)
        self.classes = int(self.data.test.labels.max()) + 1
        self.macs, _ = count(CifarResNet(options.depth, self.classes))
        self.teacher: nn.Module | None = None
        if options.teacher is not None:
            self.teacher = pretrained(options.depth, options.teacher, self.classes).eval()

    def network(self, widths: tuple[int, int, int] = WIDTHS) -> CifarResNet:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(self.options.seed)
        return CifarResNet(self.options.depth, self.classes, widths)

    def whole(self) -> CifarResNet:
        """The whole network, as training starts with it."""
        options = self.options
        if options.weights is None:
            return self.network()
        torch.manual_seed(options.seed)
        return pretrained(options.depth, options.weights, self.classes)

    def train(
        self, model: nn.Module, epochs: int, lr: float, teacher: nn.Module | None
    ) -> tuple[float, ...]:
        """Train as every row is trained; test accuracy by epoch."""
        options = self.options
        history = train(
            model.to(memory_format=torch.channels_last),
            self.data,
            epochs=epochs,
            lr=lr,
            seed=options.seed * 1000,
            autocast=torch.bfloat16 if options.bfloat16 else None,
            teacher=teacher,
        )
        return tuple(epoch.test_accuracy for epoch in history)

    def row(self, name: str, target: float, model: nn.Module, start: float, curve: Any) -> Row:
        """The figures of a trained network."""
        seconds = time.monotonic() - start
        macs, parameters = count(model)
        settings = {key: str(value) for key, value in vars(self.options).items()}
        return Row(
            name,
            target,
            accuracy(model, self.data),
            macs,
            parameters,
            seconds,
            self.options.seed,
            settings,
            tuple(curve),
        )


def dense(bench: Bench) -> Iterator[Row]:
    start = time.monotonic()
    model = bench.whole()
    curve = bench.train(model, bench.options.epochs, bench.options.lr, None)
    yield bench.row("dense", 1.0, model, start, curve)
    if bench.options.write is not None:
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state, bench.options.write)


def built(
    name: str,
    build: Callable[[Bench, float], nn.Module],
    finish: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Callable[[Bench], Iterator[Row]]:
    """The rows of networks that are built for a target and trained in one go."""

    def rows(bench: Bench) -> Iterator[Row]:
        options = bench.options
        for target in options.target:
            start = time.monotonic()
            model = build(bench, target)
            curve = bench.train(model, options.epochs, options.lr, bench.teacher)
            yield bench.row(name, target, finish(model), start, curve)

    return rows


def narrowed(bench: Bench, target: float) -> nn.Module:
    """The widest uniform scaling of the stages that needs no more MACs than the target."""
    for thousandths in range(1000, 0, -1):
        first, second, third = (max(1, round(width * thousandths / 1000)) for width in WIDTHS)
        model = bench.network((first, second, third))
        if count(model)[0] <= target * bench.macs:
            return model
    raise ValueError(f"no network is as small as {target}")


def thinned(bench: Bench, target: float) -> nn.Module:
    """The widest uniform scaling inside of blocks that needs no more MACs than the target."""
    gated = fxprune.prepare(bench.network(), EXAMPLE, target=1.0)
    shares = range(WIDTHS[-1], 0, -1)
    for share in shares:
        keep = fxprune.keep_set(gated)
        for name, flags in keep.items():
            if name.startswith("layer") and name.endswith("conv1"):
                keep[name] = torch.arange(len(flags)) < round(len(flags) * share / len(shares))
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        if count(folded)[0] <= target * bench.macs:
            return folded
    raise ValueError(f"no network is as small as {target}")


def prepared(bench: Bench, target: float) -> nn.Module:
    """The whole network with gates that reach the target in the first part of the training."""
    options = bench.options
    steps = options.epochs * -(-len(bench.data.train) // 128)
    return fxprune.prepare(
        bench.whole(),
        EXAMPLE,
        target=target,
        steps=max(1, int(options.ramp * steps)),
        method=options.method,
        scatter=options.scatter,
        shrink_every=options.shrink_every,
    )


def peer(bench: Bench) -> Iterator[Row]:
    options = bench.options
    start = time.monotonic()
    model = bench.whole()
    epochs = 0 if options.weights else round(DENSE_SHARE * options.epochs)
    curve = bench.train(model, epochs, options.lr, bench.teacher) if epochs else ()
    first = time.monotonic() - start
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for target in options.target:
        start = time.monotonic()
        pruned = bench.network().to(memory_format=torch.contiguous_format)
        pruned.load_state_dict(state)
        job = Job("magnitude", "inner", options.peer_lr, options.epochs, target)
        pruner: tp.pruner.BasePruner = magnitude(pruned, job)
        prune_until(pruner, pruned, macs=int(target * bench.macs))
        rest = bench.train(pruned, options.epochs - epochs, options.peer_lr, bench.teacher)
        yield bench.row("peer", target, pruned, start - first, (*curve, *rest))


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "dense": dense,
    "gated": built("gated", prepared, fxprune.fold),
    "narrow": built("narrow", narrowed),
    "inner": built("inner", thinned),
    "peer": peer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="uoft-cs/cifar10", help="folder or hub name, for datasets.load_dataset")
    add("--row", nargs="+", choices=ROWS, default=list(ROWS))
    add("--target", type=float, nargs="+", default=[0.5, 0.3], help="shares of the MACs to keep")
    add("--depth", type=int, default=20)
    add("--weights", type=Path, help="safetensors file to start from")
    add("--epochs", type=int, default=30)
    add("--lr", type=float, default=0.1, help="highest learning rate")
    add("--peer-lr", type=float, default=0.05, help="the same after Torch-Pruning's pruning")
    add("--method", default="static")
    add("--scatter", action="store_true", help="let branches write some channels only")
    add("--ramp", type=float, default=0.3, help="share of the steps after which the target is met")
    add("--shrink-every", type=int, default=195, help="steps; 0 for never")
    add("--teacher", type=Path, help="safetensors file of a network to learn from")
    add("--write", type=Path, help="safetensors file for the weights that dense ends with")
    add("--seed", type=int, default=0)
    add("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    add("--json", type=Path, default=Path("one_pass.json"))
    options = parser.parse_args()
    bench = Bench(options)
    for name in options.row:
        for row in ROWS[name](bench):
            print(row, flush=True)
            append(options.json, row)


if __name__ == "__main__":
    main()
