"""AutoBot's experiment: 55.84 M FLOPs of ResNet-56 from 12,800 images, and nothing after.

    python -m tests.benchmarks.autobot --weights cifar10_resnet56.safetensors --json autobot.json

Castells & Yeom (arXiv 2111.09635) train gates for 200 batches of 64 CIFAR-10 images with frozen
weights. Every row here sees the same images in the same order, and is tested as it is then:

    METHOD                  fxprune: gates and weights in one ordinary loop
    autobot                 fxprune: gates only, also on what blocks write into the residual stream
    autobot:inner           the same without these; autobot:branches has gates for whole blocks too
    refit:CRITERION         fxprune: positions closed by a criterion, weights refitted on
                            the first batches, then the same loop
    peer:magnitude          Torch-Pruning prunes by group magnitude, then trains on all batches
    peer:taylor             Torch-Pruning's Taylor pruner, likewise

`+distillation` after a row's name trains with the unpruned network as teacher, `+features` with
what it writes into its residual stream as well, weighted by `--features`. `+refit` after `autobot`
refits the weights behind what the gates have closed, on the first batches.

Each row can be given several learning rates; all are reported. Finished rows are appended to the
JSON file one by one.
"""

import argparse
import copy
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import CifarResNet, pretrained
from examples.cifar_train import accuracy
from tests.benchmarks.cifar10_peers import EXAMPLE, METHODS, Job, count, prune_until
from tests.benchmarks.results import append

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
BATCHES, BATCH_SIZE = 200, 64
FLOPS, FULL_FLOPS = 55_840_000, 126_554_816
FEATURES = "+features"
TEACHERS = ("+distillation", FEATURES)
REFIT = "+refit"
ROWS = ("refit:group_norm", "static", "autobot", "peer:magnitude", "peer:taylor")


@dataclass(frozen=True, slots=True)
class Row:
    """One run; accuracies as shares of 1, MACs for one image, seconds without testing."""

    row: str
    lr: float
    seed: int
    accuracy_before: float
    accuracy_pruned: float
    accuracy: float
    macs: int
    parameters: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.row} lr={self.lr:g} seed={self.seed}: {self.accuracy_before:.2%} before, "
            f"{self.accuracy_pruned:.2%} pruned, {self.accuracy:.2%} after; {self.macs:,} MACs, "
            f"{self.parameters:,} parameters, {self.seconds:.0f} s"
        )


def batches(data: Cifar, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images that every row sees."""
    return itertools.islice(data.train_batches(BATCH_SIZE, seed=seed), BATCHES)


def first_batches(data: Cifar, options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """Those that weights are refitted on."""
    return list(itertools.islice(batches(data, options.seed), options.calibration))


def train(
    net: nn.Module, model: nn.Module, row: str, data: Cifar, options: argparse.Namespace, lr: float
) -> None:
    """An ordinary loop: SGD under a one-cycle learning rate."""
    net.train()
    optimizer = SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    scheduler = OneCycleLR(optimizer, lr, BATCHES, pct_start=0.2, cycle_momentum=False)
    teacher = copy.deepcopy(model)
    blocks = [name for name, _ in model.named_modules() if name.endswith("bn2")]
    with fxprune.FeatureDistillation(net, teacher, blocks) as features:
        for images, labels in batches(data, options.seed):
            logits = net(images)
            if row.endswith(TEACHERS):
                with torch.no_grad():
                    wanted = teacher(images)
                loss = fxprune.distillation_loss(logits, wanted, labels)
            else:
                loss = F.cross_entropy(logits, labels)
            if row.endswith(FEATURES):
                loss = loss + options.features * features.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def ours(row: str, model: CifarResNet, data: Cifar, options: argparse.Namespace, lr: float) -> Row:
    """Gates and weights together, or gates alone."""
    start = time.monotonic()
    torch.manual_seed(options.seed)
    method, _, variant = row.partition("+")[0].partition(":")
    settings: dict[str, Any] = {
        "joint": fxprune.AutoBot(frozen=False),
        "autobot": fxprune.AutoBot(branches=variant == "branches"),
    }
    gated = fxprune.prepare(
        model,
        EXAMPLE,
        target={"flops": FLOPS},
        steps=BATCHES if method == "autobot" else max(1, int(options.ramp * BATCHES)),
        scatter=method == "autobot" and variant != "inner",
        ignore=stream(model) if variant == "inner" else (),
        method=settings.get(method, method),
    )
    train(gated, model, row, data, options, lr)
    before = folded = fxprune.fold(gated)
    if row.endswith(REFIT):
        fxprune.refit(gated, first_batches(data, options), ridge=options.ridge)
        folded = fxprune.fold(gated)
    return result(row, lr, options.seed, model, before, folded, data, start)


def stream(model: nn.Module) -> list[str]:
    """The layers that write the residual stream."""
    return ["conv1", *(name for name, _ in model.named_modules() if name.endswith("conv2"))]


def refitted(
    row: str, model: CifarResNet, data: Cifar, options: argparse.Namespace, lr: float
) -> Row:
    """Closed at once, weights solved anew, then trained."""
    start = time.monotonic()
    torch.manual_seed(options.seed)
    criterion = row.partition("+")[0].removeprefix("refit:")
    gated = fxprune.prepare(model, EXAMPLE, target={"flops": FLOPS}, ignore=stream(model))
    some = first_batches(data, options)
    fxprune.reach_target(gated, fxprune.importance(gated, criterion, some))
    fxprune.refit(gated, some, ridge=options.ridge)
    folded = fxprune.fold(gated)
    before = copy.deepcopy(folded)
    train(folded, model, row, data, options, lr)
    return result(row, lr, options.seed, model, before, folded, data, start)


def peer(row: str, model: CifarResNet, data: Cifar, options: argparse.Namespace, lr: float) -> Row:
    """Torch-Pruning, then the same loop on what is left."""
    start = time.monotonic()
    pruned = copy.deepcopy(model)
    criterion = row.partition("+")[0].removeprefix("peer:")
    job = Job(criterion, "inner", lr, 0, FLOPS / FULL_FLOPS)
    pruner = METHODS[job.method](pruned, job)
    if job.method == "taylor":
        pruned.zero_grad()
        for images, labels in itertools.islice(batches(data, options.seed), 50):
            F.cross_entropy(pruned(images), labels).backward()
    prune_until(pruner, pruned, macs=int(FLOPS / FULL_FLOPS * count(model)[0]))
    pruned.zero_grad()
    before = copy.deepcopy(pruned)
    train(pruned, model, row, data, options, lr)
    return result(row, lr, options.seed, model, before, pruned, data, start)


RUNS = {"refit": refitted, "peer": peer}


def result(
    row: str,
    lr: float,
    seed: int,
    model: nn.Module,
    pruned: nn.Module,
    final: nn.Module,
    data: Cifar,
    start: float,
) -> Row:
    seconds = time.monotonic() - start
    before, after, last = (accuracy(m, data) for m in (model, pruned, final))
    return Row(row, lr, seed, before, after, last, *count(final), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="uoft-cs/cifar10", help="folder or hub name, for datasets.load_dataset")
    add("--weights", type=Path, required=True, help="ResNet-56 as a safetensors file")
    add("--row", nargs="+", default=ROWS)
    add("--lr", type=float, nargs="+", default=[0.02])
    add("--ramp", type=float, default=0.4, help="share of the steps after which the target is met")
    add("--calibration", type=int, default=24, help="batches for refitting")
    add("--features", type=float, default=500.0, help="weight of the features' loss")
    add("--ridge", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--json", type=Path, default=Path("autobot.json"))
    options = parser.parse_args()
    data = load(options.data, MEAN, STD)
    model = pretrained(56, options.weights).eval()
    for row, lr in itertools.product(options.row, options.lr):
        run = RUNS.get(row.partition(":")[0], ours)
        done = run(row, model, data, options, lr)
        print(done, flush=True)
        append(options.json, done)


if __name__ == "__main__":
    main()
