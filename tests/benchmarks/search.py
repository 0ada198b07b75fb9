"""Is a searched keep-set better than a ranked one? ResNet-20 at half of its MACs on CIFAR-10.

python -m tests.benchmarks.search --data FOLDER --weights FILE --trials 40 --seeds 3 --epochs 0
python -m tests.benchmarks.search --speed

With `--speed` nothing is trained: 200 trials over a ResNet-18 for its parameters, and one of a
builder of CodeBERT's size, recorded on the meta device; seconds, also of the processor, and memory.

The search sees training images only: a loss on some of them after the weights have been solved anew
on others. What it finds, and what the default ranking keeps, is then refitted on the same images
(and trained for the same number of epochs), and tried on all 10,000 test images.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import pretrained
from examples.cifar_train import train
from fxprune import scores
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.recorded_costs import recorded_costs
from tests.vision import torchvision

BATCH = 256


def images(data: Cifar, first: int, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Some training images, as they are."""
    chosen = torch.arange(first, first + number).split(BATCH)
    return [(data.normalised(data.train.images[c]), data.train.labels[c]) for c in chosen]


def accuracy(model: nn.Module, data: Cifar) -> float:
    """The share of test images that are told right."""
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in data.test_batches())
    return right / len(data.test)


def finished(gated: nn.Module, data: Cifar, refit: Any, epochs: int, seed: int) -> list[float]:
    """Test accuracy of a keep-set after refitting, and after some epochs."""
    gated = copy_module(gated)
    fxprune.refit(gated, refit)
    folded = fxprune.fold(gated).eval()
    found = [accuracy(folded, data)]
    if epochs:
        train(folded, data, epochs=epochs, lr=0.02, seed=seed)
        found.append(accuracy(folded.eval(), data))
    return found


def speed() -> None:
    """How long trials take that only look at costs."""
    from examples.compressor import CODEBERT, builder

    recorded_costs(builder, CODEBERT)  # libraries are imported
    clocks = time.perf_counter(), time.process_time()
    costs = recorded_costs(builder, CODEBERT)
    wall, processor = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"CodeBERT ({costs['params']:,} parameters): {wall:.2f} s, {processor:.2f} s of the")
    print(f"processor; {peak:.0f} MB at most, torch and transformers included")
    gated = fxprune.prepare(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
    for sampler in ("random", "tpe", "nsga2", "cmaes", "qmc"):
        clocks = time.perf_counter(), time.process_time()
        fxprune.search(gated, "params", target=0.5, trials=200, sampler=sampler)
        wall, processor = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        print(
            f"200 trials of ResNet-18, {sampler}: {wall:.1f} s, {processor:.1f} s of the processor"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--samples", type=int, default=512)
    given = parser.parse_args()
    if given.speed:
        return speed()
    if not given.data or not given.weights:
        parser.error("give --data and --weights, or --speed")
    data = load(given.data)
    refit, seen = images(data, 0, given.samples), images(data, 10_000, 2 * given.samples)
    model = pretrained(20, given.weights).eval()
    gated = fxprune.prepare(model, refit[0][0][:2], target=0.5)
    fxprune.reach_target(gated, fxprune.importance(gated))
    print("ranked by group_norm:", finished(gated, data, refit, given.epochs, 0), flush=True)
    measure = scores.loss(seen, refit=refit)
    for seed in range(given.seeds):
        begin = time.perf_counter()
        found = fxprune.search(gated, measure, target=0.5, trials=given.trials, seed=seed)
        took = time.perf_counter() - begin
        fxprune.set_keep_set(gated, found.best.keep_set)
        done = finished(gated, data, refit, given.epochs, seed)
        macs = found.best.costs["macs"]
        print(f"searched, seed {seed}: {done}, {macs:,} MACs, {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
