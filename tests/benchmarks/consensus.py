"""Do gates that look at samples come to agree, and what does the static network lose to them?

    python -m tests.benchmarks.consensus --weights cifar10_resnet20.safetensors

A CIFAR-10 ResNet is trained with gates of the method `consensus`, from pretrained weights. Before
the gates become final it is tested with every gate deciding by the sample ("dynamic"), and with the
keep-set of that moment ("static").
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import pretrained
from examples.cifar_train import predictions, train
from fxprune.torch.record import gates_of
from tests.benchmarks.cifar10_peers import EXAMPLE
from tests.benchmarks.results import save


def share(gated: nn.Module, data: Cifar) -> float:
    """Test accuracy."""
    return float((predictions(gated, data) == data.test.labels).double().mean())


def run(options: argparse.Namespace, data: Cifar) -> dict[str, Any]:
    """Train, and test both ways."""
    torch.manual_seed(options.seed)
    steps = options.epochs * -(-len(data.train) // 128)
    gated = fxprune.prepare(
        pretrained(options.depth, options.weights),
        EXAMPLE,
        target=options.target,
        steps=steps + 1,  # the last step, which makes gates final, is not taken
        method=fxprune.Consensus(
            activation_weight=options.activation,
            polarisation_weight=options.polarisation,
            consensus_weight=options.consensus,
        ),
    )
    train(
        gated.to(memory_format=torch.channels_last),
        data,
        epochs=options.epochs,
        lr=options.lr,
        seed=options.seed,
        autocast=torch.bfloat16 if options.bfloat16 else None,
    )
    with gates_of(gated).deciding():
        dynamic = share(gated, data)
    static = share(gated, data)
    gap = fxprune.report(gated, latency=False).figures["consensus_gap"]
    costs = fxprune.report(gated, latency=False).as_dict()
    return {
        "gap": gap,
        "dynamic": dynamic,
        "static": static,
        "macs": costs["macs_after"] / costs["macs_before"],
        "options": {name: str(value) for name, value in vars(options).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="uoft-cs/cifar10", help="folder or hub name, for datasets.load_dataset")
    add("--weights", type=Path, required=True)
    add("--depth", type=int, default=20)
    add("--target", type=float, default=0.7)
    add("--epochs", type=int, default=2)
    add("--lr", type=float, default=0.02)
    add("--activation", type=float, default=2.0)
    add("--polarisation", type=float, default=1.0)
    add("--consensus", type=float, default=1000.0)
    add("--seed", type=int, default=0)
    add("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    add("--json", type=Path, default=Path("consensus.json"))
    options = parser.parse_args()
    found = run(options, load(options.data))
    print(
        f"gap {found['gap']:.3f}, dynamic {found['dynamic']:.2%}, static {found['static']:.2%}, "
        f"MACs {found['macs']:.1%}"
    )
    save(options.json, [found])


if __name__ == "__main__":
    main()
