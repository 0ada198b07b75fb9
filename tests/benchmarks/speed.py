"""How long do prepare and fold take, beside Torch-Pruning's graph and step, and how do both grow?

    python -m tests.benchmarks.speed --json speed.json
    python -m tests.benchmarks.speed --profile           # which passes take how much of it
    python -m tests.benchmarks.speed --depth             # ResNets of 20 to 1202 layers
    MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 \\
        python -m tests.benchmarks.speed --step          # a gated training step against a plain one
    python -m tests.benchmarks.speed --shrink            # a training that shrinks to half
    python -m tests.benchmarks.speed --scatter           # branches that write some channels only

Every figure is a ratio within one run, the candidates taking turns: of medians, the median of
ratios (`--step`), or of totals (`--shrink`). With the two variables the process keeps freed memory;
otherwise page faults, a tenth of a step and more, hit one candidate or the other by chance.
"""

import argparse
import copy
import cProfile
import gc
import pstats
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor, nn

import fxprune
from examples.cifar_resnet import CifarResNet
from tests.benchmarks.autobot import stream
from tests.benchmarks.results import save
from tests.vision import torchvision

import timm  # isort: skip  (torchvision comes first)
from examples.language_model import Setting, llama  # isort: skip

MODELS = (
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "vit_b_16",
    "mobilenetv4_conv_small",
    "convnextv2_atto",
    "repvit_m0_9",
)
"""Of torchvision, the last three of timm."""
DEPTHS = (20, 56, 110, 218, 434, 866, 1202)
TORCH_PRUNING_DEPTH = 434
"""Deeper networks are left out for Torch-Pruning: its recursive walk takes minutes."""


def with_fxprune(model: nn.Module, example: Tensor) -> nn.Module:
    """Half of the multiply-accumulates closed by rank, then folded; no copy, as the other."""
    gated = fxprune.prepare(model, example, target=0.5, copy=False)
    fxprune.reach_target(gated)
    return fxprune.fold(gated)


def with_torch_pruning(model: nn.Module, example: Tensor) -> nn.Module:
    """Half of the channels of every group, by magnitude."""
    outputs = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    pruner = tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=outputs,
    )
    pruner.step()
    return model


CANDIDATES: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "fxprune": with_fxprune,
    "torch-pruning": with_torch_pruning,
}


def seconds(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call, by the clock on the wall or that of the processor."""
    start = clock()
    action()
    return clock() - start


def compare(
    model: nn.Module, example: Tensor, runs: int, names: tuple[str, ...]
) -> dict[str, float]:
    """Median CPU seconds by candidate; every run gets a fresh copy, made outside the clock."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            fresh = copy.deepcopy(model)
            gc.collect()  # what one leaves in cycles is not the other's
            run = partial(CANDIDATES[name], fresh, example)
            times[name].append(seconds(run, time.process_time))
    return {name: statistics.median(values) for name, values in times.items()}


def made(name: str) -> nn.Module:
    """A model of torchvision or timm, with random weights."""
    if name in torchvision.models.list_models():
        return torchvision.models.get_model(name, weights=None).eval()  # type: ignore[no-any-return]
    return timm.create_model(name).eval()


PASSES = (
    "trace",
    "infer",
    "cost_polynomials",
    "labelled",
    "find_branches",
    "gate",
    "without_gates",
    "edited_graph",
    "take_parameters",
    "normal_form",
    "with_values",
)
"""Functions whose shares of the time are of interest."""


def shares() -> None:
    """The largest passes of each model, by their share of the time under Python's profiler.

    Recordings are of the model, of parts of it, and of what was folded; other passes lie in none.
    """
    torch.set_num_threads(1)
    for name in MODELS:
        model, example = made(name), torch.zeros(1, 3, 224, 224)
        with_fxprune(copy.deepcopy(model), example)  # imports what it needs
        profile = cProfile.Profile()
        profile.runcall(with_fxprune, model, example)
        stats: Any = pstats.Stats(profile)
        found = {
            function: cumulative / stats.total_tt
            for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items()
            if "fxprune" in file and function in PASSES
        }
        largest = sorted(found.items(), key=lambda item: -item[1])[:6]
        print(f"{name:24}", "   ".join(f"{each} {share:.0%}" for each, share in largest))


def families(runs: int) -> list[dict[str, Any]]:
    """The models of torchvision and timm, at 224 x 224, on one thread."""
    torch.set_num_threads(1)
    rows = []
    for name in MODELS:
        model = made(name)
        found = compare(model, torch.zeros(1, 3, 224, 224), runs, tuple(CANDIDATES))
        rows.append({"model": name, **found, "ratio": found["fxprune"] / found["torch-pruning"]})
        print(
            f"{name:20} fxprune {found['fxprune']:6.3f} s   torch-pruning "
            f"{found['torch-pruning']:6.3f} s   ratio {rows[-1]['ratio']:.2f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(row['ratio'] for row in rows):.2f}")
    return rows


def growth() -> list[dict[str, Any]]:
    """CIFAR ResNets of growing depth: seconds, and seconds per layer."""
    rows = []
    for depth in DEPTHS:
        model = CifarResNet(depth).eval()
        names = tuple(CANDIDATES) if depth <= TORCH_PRUNING_DEPTH else ("fxprune",)
        found = compare(model, torch.zeros(1, 3, 32, 32), 1, names)
        rows.append({"depth": depth, **found})
        each = "   ".join(
            f"{n} {s:7.2f} s ({1e3 * s / depth:6.2f} ms/layer)" for n, s in found.items()
        )
        print(f"ResNet-{depth:<5} {each}", flush=True)
    return rows


STEPS = (
    ("ResNet-20", "static"),
    ("ResNet-56", "static"),
    ("ResNet-56", "consensus"),
    ("Llama", "static"),
)
"""Network and method whose training steps are measured."""
PHASES = 4
"""Static gates take gradients on every fourth step."""


def steps(runs: int, only: str) -> list[dict[str, Any]]:
    """Training steps of CIFAR ResNets and of a Llama of four layers, plain and gated."""
    return [step(name, method, runs) for name, method in STEPS if only in name]


Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def network(name: str) -> tuple[nn.Module, Batch, Loss]:
    """A network, a batch of 128 images or of 16 times 128 tokens, and its loss on it."""
    if name == "Llama":
        tokens = torch.randint(256, (16, 128))
        batch = {"input_ids": tokens, "labels": tokens}
        return llama(Setting()), batch, lambda model, given: model(**given).loss
    batch = {"x": torch.randn(128, 3, 32, 32), "labels": torch.randint(10, (128,))}
    return (
        CifarResNet(int(name.removeprefix("ResNet-"))),
        batch,
        lambda model, given: nn.functional.cross_entropy(model(given["x"]), given["labels"]),
    )


def step(name: str, method: str, runs: int) -> dict[str, Any]:
    """Training steps: plain, gated, and those of a plain copy, which show the error of the method.

    The ratio of a run is to the plain step of the same run; that of a phase the median over runs.
    """
    plain, batch, loss = network(name)
    example = batch if name == "Llama" else batch["x"][:1]
    models = {
        "plain": plain,
        "copy": copy.deepcopy(plain),
        "gated": fxprune.prepare(plain, example, steps=2000, method=method),
    }
    optimizers = {n: torch.optim.SGD(m.parameters(), lr=0.01) for n, m in models.items()}

    def one(name: str) -> None:
        optimizers[name].zero_grad()
        loss(models[name], batch).backward()
        optimizers[name].step()

    order, shuffle = list(models), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(runs + PHASES):
        shuffle(order)
        for each in order:
            taken = seconds(lambda: one(each))  # noqa: B023
            if run >= PHASES:
                times[each].append(taken)
    found = {each: statistics.median(values) for each, values in times.items()}
    ratios = {each: _ratio(times[each], times["plain"]) for each in ("copy", "gated")}
    print(
        f"{name} {method}: plain {found['plain']:.3f} s   "
        f"gated {ratios['gated']:.3f} times   a plain copy {ratios['copy']:.3f} times",
        flush=True,
    )
    ratios = {f"{each}_ratio": ratio for each, ratio in ratios.items()}
    return {"network": name, "method": method, **found, **ratios, "runs": runs}


def _ratio(times: list[float], plain: list[float]) -> float:
    runs = [taken / reference for taken, reference in zip(times, plain, strict=True)]
    return statistics.mean(statistics.median(runs[phase::PHASES]) for phase in range(PHASES))


def shrinking(
    round_to: int, steps: int = 600, chunk: int = 10, batch: int = 128
) -> list[dict[str, Any]]:
    """A whole training of ResNet-20, plain and with gates that shrink it to half, in turn.

    The target is reached after 30 % of the steps, as in `one_pass`; times are of all steps.
    """
    plain = CifarResNet(20)
    models = {
        "plain": plain,
        "shrinking": fxprune.prepare(
            plain,
            torch.zeros(1, 3, 32, 32),
            target=0.5,
            steps=int(0.3 * steps),
            round_to=round_to,
            shrink_every=steps // 20,
        ),
    }
    optimizers = {n: torch.optim.SGD(m.parameters(), lr=0.01) for n, m in models.items()}
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    times = dict.fromkeys(models, 0.0)

    def some(name: str) -> None:
        for _ in range(chunk):
            optimizers[name].zero_grad()
            nn.functional.cross_entropy(models[name](images), labels).backward()
            optimizers[name].step()

    for _ in range(steps // chunk):
        for name in models:
            times[name] += seconds(lambda: some(name))  # noqa: B023
    ratio = times["shrinking"] / times["plain"]
    print(f"plain {times['plain']:.1f} s   shrinking {times['shrinking']:.1f} s   {ratio:.3f}")
    return [{**times, "round_to": round_to, "ratio": ratio}]


def scattering(runs: int, batch: int = 8) -> list[dict[str, Any]]:
    """Evaluations of ResNet-56, whole, and at half of its MACs with streams left as they are.

    Once all of a block's output is kept, once a block may write some channels only. One thread.
    """
    torch.set_num_threads(1)
    model, images = CifarResNet(56).eval(), torch.randn(batch, 3, 32, 32)
    models = {
        "whole": model,
        "inner": fxprune.prune(model, images, ignore=stream(model)),
        "scatter": fxprune.prune(model, images, scatter=True),
    }
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, each in models.items():
            session = _session(fxprune.export_onnx(each, Path(folder) / f"{name}.onnx", images))
            calls[f"{name} torch"] = partial(each, images)
            calls[f"{name} onnxruntime"] = partial(session.run, None, {"x": images.numpy()})
        times: dict[str, list[float]] = {name: [] for name in calls}
        with torch.inference_mode():
            for _ in range(runs + 1):
                for name, call in calls.items():
                    times[name].append(seconds(call))
    rows = []
    for name in models:
        row: dict[str, Any] = {"model": name}
        for runtime in ("torch", "onnxruntime"):
            own, reference = times[f"{name} {runtime}"][1:], times[f"whole {runtime}"][1:]
            row[runtime] = statistics.median(a / b for a, b in zip(own, reference, strict=True))
        print(f"{name:8} torch {row['torch']:.2f}   ONNX Runtime {row['onnxruntime']:.2f}")
        rows.append(row)
    return rows


def _session(path: Path) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--network", default="", help="one of them, for --step: Llama")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--scatter", action="store_true")
    parser.add_argument("--round-to", type=int, default=1, help="channels, for --shrink")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    if options.profile:
        shares()
    elif options.depth:
        rows = growth()
    elif options.step:
        rows = steps(options.runs, options.network)
    elif options.shrink:
        rows = shrinking(options.round_to)
    elif options.scatter:
        rows = scattering(options.runs)
    else:
        rows = families(options.runs)
    save(options.json, rows)


if __name__ == "__main__":
    main()
