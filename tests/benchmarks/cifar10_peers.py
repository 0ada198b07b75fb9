"""What does Torch-Pruning reach with the job that fxprune gets: half of ResNet-20, five epochs?

    python -m tests.benchmarks.cifar10_peers --weights resnet20.safetensors --json peers.json

The same network, weights, CIFAR-10, augmentation, training loop, batch size and number of epochs.
Torch-Pruning cannot follow the zero-padded skips of this network (`--check` shows it), so it gets
the network in two forms that it prunes correctly:

    inner   the residual stream is ignored; the channels inside each block are pruned
    stream  each padded skip is rewritten as the 1x1 convolution that computes the same, so that
            the residual stream is pruned too

and four methods. `magnitude` and `taylor` prune first and train for all epochs. `group_norm` (its
sparse learning, the best of its own CIFAR table) and `growing_reg` train with their regulariser for
some of the epochs, prune, and train for the others. As in its own benchmark, channels are ranked
globally and removed in small steps until the MACs are no more than the target.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from examples.cifar_data import Cifar, load
from examples.cifar_resnet import BasicBlock, CifarResNet, PaddedSkip, pretrained
from examples.cifar_train import accuracy, train
from tests.benchmarks.results import append

EXAMPLE = torch.zeros(1, 3, 32, 32)
PRUNING_STEPS = 400
TAYLOR_BATCHES = 50


@dataclass(frozen=True, slots=True)
class Job:
    """One run: how to prune and how to train."""

    method: str
    form: str
    lr: float
    epochs: int
    target: float
    sparse_epochs: int = 0
    sparse_lr: float = 0.0
    reg: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What a job came to; accuracies are shares of 1, MACs are for one image."""

    job: Job
    accuracy_before: float
    accuracy_sparse: float
    accuracy_pruned: float
    accuracy_final: float
    accuracy_by_epoch: tuple[float, ...]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    widths: dict[str, int]
    seconds: float


def run(job: Job, model: CifarResNet, data: Cifar) -> Result:
    """Prune and train a copy of the model, which must be the unpruned network of He et al."""
    start = time.monotonic()
    accuracy_before = accuracy_sparse = accuracy(model, data)
    macs_before, parameters_before = count(model)
    pruned = FORMS[job.form](model)
    pruner = METHODS[job.method](pruned, job)
    if job.sparse_epochs > 0:
        with regularised(pruner, pruned):
            train(pruned, data, epochs=job.sparse_epochs, lr=job.sparse_lr, seed=job.seed)
        accuracy_sparse = accuracy(pruned, data)
    if job.method == "taylor":
        accumulate_gradients(pruned, data)
    prune_until(pruner, pruned, macs=int(job.target * macs_before))
    pruned.zero_grad()
    accuracy_pruned = accuracy(pruned, data)
    rest = job.epochs - job.sparse_epochs
    history = train(pruned, data, epochs=rest, lr=job.lr, seed=job.seed + 100)
    macs_after, parameters_after = count(pruned)
    return Result(
        job=job,
        accuracy_before=accuracy_before,
        accuracy_sparse=accuracy_sparse,
        accuracy_pruned=accuracy_pruned,
        accuracy_final=history[-1].test_accuracy,
        accuracy_by_epoch=tuple(epoch.test_accuracy for epoch in history),
        macs_before=macs_before,
        macs_after=macs_after,
        parameters_before=parameters_before,
        parameters_after=parameters_after,
        widths=widths(pruned),
        seconds=time.monotonic() - start,
    )


def as_written(model: CifarResNet) -> CifarResNet:
    """A copy, nothing changed."""
    return copy.deepcopy(model)


def with_convolutional_skips(model: CifarResNet) -> CifarResNet:
    """A copy that computes the same, each padded skip written as a 1x1 convolution."""
    model = copy.deepcopy(model)
    for block in model.modules():
        if isinstance(block, BasicBlock) and isinstance(block.skip, PaddedSkip):
            inputs, outputs = block.conv1.in_channels, block.conv2.out_channels
            block.skip = convolution_like(block.skip, inputs, outputs)
    return model


def convolution_like(skip: PaddedSkip, inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 1, skip.stride, bias=False)
    nn.init.zeros_(convolution.weight)
    with torch.no_grad():
        convolution.weight[skip.before : skip.before + inputs, :, 0, 0] = torch.eye(inputs)
    return convolution


def ignored(model: CifarResNet, form: str) -> list[nn.Module]:
    """The layers whose outputs Torch-Pruning must leave alone."""
    if form != "inner":
        return [model.linear]
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    return [model.linear, model.conv1, *(block.conv2 for block in blocks)]


def magnitude(model: CifarResNet, job: Job) -> tp.pruner.BasePruner:
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    return pruner_of(tp.pruner.BasePruner, model, job, importance=importance)


def taylor(model: CifarResNet, job: Job) -> tp.pruner.BasePruner:
    importance = tp.importance.GroupTaylorImportance()
    return pruner_of(tp.pruner.BasePruner, model, job, importance=importance)


def group_norm(model: CifarResNet, job: Job) -> tp.pruner.BasePruner:
    """As its own CIFAR benchmark sets it up: scores divided by the largest of their group."""
    importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")
    return pruner_of(tp.pruner.GroupNormPruner, model, job, importance=importance, reg=job.reg)


def growing_reg(model: CifarResNet, job: Job) -> tp.pruner.BasePruner:
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    return pruner_of(tp.pruner.GrowingRegPruner, model, job, importance=importance, reg=job.reg)


def pruner_of(
    kind: type[tp.pruner.BasePruner], model: CifarResNet, job: Job, **settings: object
) -> tp.pruner.BasePruner:
    return kind(
        model.eval(),
        EXAMPLE,
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=PRUNING_STEPS,
        ignored_layers=ignored(model, job.form),
        **settings,
    )


FORMS: dict[str, Callable[[CifarResNet], CifarResNet]] = {
    "as_written": as_written,
    "inner": as_written,
    "stream": with_convolutional_skips,
}
METHODS: dict[str, Callable[[CifarResNet, Job], tp.pruner.BasePruner]] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "group_norm": group_norm,
    "growing_reg": growing_reg,
}


@contextmanager
def regularised(pruner: tp.pruner.BasePruner, model: nn.Module) -> Iterator[None]:
    """Between backward and step of any optimizer, add the pruner's regulariser to the gradients."""
    hook = register_optimizer_step_pre_hook(lambda *_: pruner.regularize(model))
    try:
        yield
    finally:
        hook.remove()


def accumulate_gradients(model: nn.Module, data: Cifar) -> None:
    """Leave the gradients of some training batches, which the Taylor importance reads."""
    model.zero_grad()
    batches = data.train_batches(128, seed=0)
    for _, (images, labels) in zip(range(TAYLOR_BATCHES), batches, strict=False):
        F.cross_entropy(model(images), labels).backward()


def prune_until(pruner: tp.pruner.BasePruner, model: nn.Module, *, macs: int) -> None:
    """Prune step by step until the model needs no more than `macs`."""
    while count(model)[0] > macs:
        if pruner.current_step == pruner.iterative_steps:
            raise RuntimeError(f"MACs after all steps: {count(model)[0]}, expected at most {macs}")
        pruner.step()


def count(model: nn.Module) -> tuple[int, int]:
    """MACs and parameters as Torch-Pruning counts them."""
    macs, parameters = tp.utils.count_ops_and_params(model, EXAMPLE)
    return int(macs), int(parameters)


def widths(model: nn.Module) -> dict[str, int]:
    convolutions = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return {name: convolution.out_channels for name, convolution in convolutions}


def check(model: CifarResNet, form: str, ratio: float = 0.3) -> str:
    """Say whether the network, pruned in this form, computes what it does with channels masked."""
    masked, pruned = FORMS[form](model), FORMS[form](model)
    pruner = tp.pruner.BasePruner(
        pruned,
        EXAMPLE,
        tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=ignored(pruned, form),
    )
    names = {module: name for name, module in pruned.named_modules()}
    for group in pruner.step(interactive=True):
        for dependency, positions in group:
            if dependency.handler in (tp.prune_conv_in_channels, tp.prune_linear_in_channels):
                reader = masked.get_submodule(names[dependency.target.module])
                reader.get_parameter("weight").data[:, positions] = 0
        group.prune()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            expected, got = masked.eval()(images), pruned.eval()(images)
    except RuntimeError as reason:
        return f"{form}: the pruned network does not run: {reason}"
    error = (got - expected).abs().max() / expected.abs().max()
    return f"{form}: relative difference of the pruned from the masked network {error:.1e}"


def line(result: Result) -> str:
    job = result.job
    return (
        f"{job.method} {job.form} lr={job.lr:g} sparse_epochs={job.sparse_epochs} reg={job.reg:g}: "
        f"accuracy {result.accuracy_before:.2%}, after sparsifying {result.accuracy_sparse:.2%}, "
        f"pruned {result.accuracy_pruned:.2%}, final {result.accuracy_final:.2%}; "
        f"MACs {result.macs_before:,} -> {result.macs_after:,}, "
        f"parameters {result.parameters_before:,} -> {result.parameters_after:,}; "
        f"{result.seconds:.0f} s"
    )


def jobs_of(options: argparse.Namespace) -> list[Job]:
    sparse = options.sparse_epochs if options.method in ("group_norm", "growing_reg") else 0
    return [
        Job(
            options.method,
            options.form,
            lr=lr,
            epochs=options.epochs,
            target=options.target,
            sparse_epochs=sparse,
            sparse_lr=options.sparse_lr if sparse else 0.0,
            reg=options.reg if sparse else 0.0,
            seed=options.seed,
        )
        for lr in options.lr
    ]


def arguments() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--data", default="uoft-cs/cifar10", help="folder or hub name, for datasets.load_dataset")
    add("--weights", type=Path, required=True, help="ResNet-20 as a safetensors file")
    add("--method", choices=METHODS, default="magnitude")
    add("--form", choices=FORMS, default="stream")
    add("--epochs", type=int, default=5, help="all epochs together")
    add("--target", type=float, default=0.5, help="share of the MACs to keep")
    add("--lr", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1], help="one run for each")
    add("--sparse-epochs", type=int, default=2, help="how many of the epochs are before pruning")
    add("--sparse-lr", type=float, default=0.05, help="highest learning rate before pruning")
    add("--reg", type=float, default=2e-3, help="strength of the regulariser before pruning")
    add("--seed", type=int, default=0)
    add("--check", action="store_true", help="only show whether each form is pruned correctly")
    add("--json", type=Path, help="append the results to this file")
    return parser


def main() -> None:
    options = arguments().parse_args()
    model = pretrained(20, options.weights).eval()
    if options.check:
        print(*(check(model, form) for form in FORMS), sep="\n")
        return
    data = load(options.data)
    for job in jobs_of(options):
        result = run(job, model, data)
        print(line(result), flush=True)
        if options.json:
            append(options.json, result)


if __name__ == "__main__":
    main()
