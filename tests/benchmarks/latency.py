"""How far is a predicted latency from the measured one, and does a target on it hold?

    python -m tests.benchmarks.latency --models cifar20 resnet18 mobilenet_v2 --json latency.json
    python -m tests.benchmarks.latency --reach 0.5 --models cifar20 cifar56 --json time.json
    python -m tests.benchmarks.latency --blocks --models cifar20 --json blocks.json

The first looks at folded networks of random widths. Every network is measured by evaluations of one
sample, the networks taking turns. Printed are the error of the full network's time, the errors of
the others' times as shares of that (which is what a target of 0.6 is about), and the rank
correlation of predicted and measured times.

The second prunes networks to a share of their time, by torch and by ONNX Runtime, as modules and as
files, with one thread and one sample, and measures what comes out once more. The third removes each
block of a network: does it save the time that is predicted for it?
"""

import argparse
import copy
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from examples.cifar_resnet import CifarResNet
from fxprune.clocks import ONNX_RUNTIME, TORCH
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.latency import feeds_of, timed_run
from fxprune.time_search import Stopwatch
from fxprune.timing import Run
from fxprune.torch.budget.latency import Latency, measure_latency
from fxprune.torch.reach_latency import measuring, module_run
from fxprune.torch.record import gated_record
from tests.benchmarks.results import Results
from tests.vision import torchvision

FILES = "onnxruntime, files"
"""The route of files; the others are those of modules, by runtime."""


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A model with its example."""
    if name.startswith("cifar"):
        return CifarResNet(int(name.removeprefix("cifar"))).eval(), torch.zeros(1, 3, 32, 32)
    model = torchvision.models.get_model(name, weights=None).eval()
    return model, torch.zeros(1, 3, 224, 224)


def folded_at(gated: nn.Module, share: float, round_to: int, seed: int) -> nn.Module:
    """Folded with a random share of each group around `share`, and a branch closed now and then."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in fxprune.groups(gated):
        if group.pin:
            continue
        draw = float(torch.rand((), generator=generator))
        if group.kind == "branch":
            keep[group.name] = torch.tensor([draw < 0.9])
            continue
        wanted = max(round(group.size * min(share * (0.5 + draw), 1) / round_to), 1) * round_to
        keep[group.name] = torch.arange(group.size) < min(wanted, group.size)
    fxprune.set_keep_set(gated, keep)
    return fxprune.fold(gated).eval()


def measured(models: list[nn.Module], example: Tensor, rounds: int) -> list[float]:
    """Median milliseconds of each, taking turns; a call before brings its weights to the caches."""
    times: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for _ in range(rounds):
            for model, found in zip(models, times, strict=True):
                model(example)
                start = time.perf_counter()
                model(example)
                found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def correlation(left: list[float], right: list[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (left, right)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def compare(name: str, networks: int, round_to: int, rounds: int) -> dict[str, Any]:
    """Predicted and measured times of random networks and of the full one."""
    model, example = network(name)
    gated = fxprune.prepare(model, example, target=1.0)
    _, record = gated_record(gated)
    start = time.perf_counter()
    latency: Latency = measure_latency(model, record.analysis, round_to)
    seconds = time.perf_counter() - start
    models, predicted = [fxprune.fold(gated).eval()], [latency(record.analysis.costs.full)]
    macs = [float(record.analysis.costs.polynomials["macs"](record.analysis.costs.full))]
    for seed in range(networks):
        share = 0.3 + 0.7 * seed / max(networks - 1, 1)
        models.append(folded_at(gated, share, round_to, seed))
        sizes = {k: int(flags.sum()) for k, flags in fxprune.keep_set(gated).items()}
        predicted.append(latency(sizes))
        macs.append(float(record.analysis.costs.polynomials["macs"](sizes)))
    times = measured(models, example, rounds)
    shares = [p / predicted[0] for p in predicted[1:]], [t / times[0] for t in times[1:]]
    errors = [abs(p / t - 1) for p, t in zip(*shares, strict=True)]
    row = {
        "model": name,
        "round_to": round_to,
        "seconds": seconds,
        "predicted_ms": predicted,
        "measured_ms": times,
        "full_ratio": predicted[0] / times[0],
        "median_error_of_share": statistics.median(errors),
        "largest_error_of_share": max(errors),
        "correlation": correlation(predicted, times),
        "correlation_of_macs": correlation(macs, times),
    }
    print(
        f"{name:14} round_to {round_to}: table in {seconds:4.1f} s, full predicted "
        f"{predicted[0]:.2f} ms / measured {times[0]:.2f} ms = {row['full_ratio']:.2f}; shares off "
        f"by {row['median_error_of_share']:.0%} in the median, {row['largest_error_of_share']:.0%} "
        f"at most; rank correlation {row['correlation']:.2f} (of MACs "
        f"{row['correlation_of_macs']:.2f})",
        flush=True,
    )
    return row


def reached(name: str, target: float, route: str) -> dict[str, Any]:
    """What `prune` (by either runtime) or `prune_onnx` makes of a target on the time."""
    model, example = network(name)
    runtime = TORCH if route == TORCH else ONNX_RUNTIME
    clock, wanted = fxprune.Clock(runtime), {"latency": target}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if route == FILES:
            whole = fxprune.export_onnx(model, Path(folder) / "whole.onnx", example)
            start = time.perf_counter()
            result: Any = fxprune.prune_onnx(whole, target=wanted, clock=clock)
            again = _again_as_files(whole, result)
        else:
            result = fxprune.prune(model, example, target=wanted, clock=clock)
            again = _again(model, result, example, clock)
        found = fxprune.report(result, latency=False)
    timed = found.timed
    row = {
        "model": name,
        "route": route,
        "target": target,
        "first": timed.first,
        "share": timed.share,
        "again": again,
        "macs": found.after["macs"] / found.before["macs"],
        "multiple": timed.multiple,
        "measured": timed.measured,
        "whole_ms": timed.whole_ms,
        "seconds": time.perf_counter() - start,
    }
    print(
        f"{name:14} {route:20} {target:.0%} wanted: {timed.first:.1%} as predicted, "
        f"{timed.share:.1%} in the end, {again:.1%} once more; {row['macs']:.1%} of the MACs, "
        f"widths of {timed.multiple}, measured {timed.measured} times in {row['seconds']:.0f} s",
        flush=True,
    )
    return row


def _again(model: nn.Module, small: nn.Module, example: Tensor, clock: fxprune.Clock) -> float:
    """The share of the time, measured of the user's own modules."""
    models = {None: model, "small": small}
    with (
        measuring(clock, model),
        Stopwatch(lambda keep: module_run(copy.deepcopy(models[keep]), (example,), clock)) as watch,
    ):
        return watch.measured("small").share


def _again_as_files(whole: Path, result: fxprune.OnnxResult) -> float:
    """The same of files."""
    feeds = feeds_of(result.model, result.analysis.graph, 1)
    models = {None: load_onnx(whole), "small": result.model}
    with Stopwatch(lambda keep: timed_run(models[keep], feeds, threads=1)) as watch:
        return watch.measured("small").share


def block_prices(name: str) -> Iterator[dict[str, Any]]:
    """The share of the time that is saved without each block, predicted and measured by torch."""
    model, example = network(name)
    gated = fxprune.prepare(model, example, target=1.0)
    analysis = gated_record(gated)[1].analysis
    latency, full = measure_latency(model, analysis), analysis.costs.full
    clock = fxprune.Clock(TORCH)

    def run_of(block: str | None) -> AbstractContextManager[Run]:
        if block is None:
            return module_run(copy.deepcopy(model), (example,), clock)
        without = copy.deepcopy(gated)
        fxprune.set_keep_set(without, {block: [False]})
        return module_run(fxprune.fold(without), (example,), clock)

    with measuring(clock, model), Stopwatch(run_of) as watch:
        for branch in analysis.branches:
            predicted = 1 - latency({**full, branch.name: 0}) / latency(full)
            saved = 1 - watch.measured(branch.name).share
            print(f"{name:14} {branch.name:14} saves {saved:.1%}, predicted {predicted:.1%}")
            yield {"model": name, "block": branch.name, "predicted": predicted, "saved": saved}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", nargs="+", default=["cifar20", "resnet18", "mobilenet_v2"])
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--reach", type=float, nargs="+", default=[], metavar="SHARE")
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--routes", nargs="+", default=[TORCH, ONNX_RUNTIME, FILES])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = Results(options.json, go_on=True)
    done = {(row["model"], row.get("route"), row.get("target")) for row in results.rows}
    for name in options.models:
        for target, route in itertools.product(options.reach, options.routes):
            if (name, route, target) not in done:
                torch.manual_seed(0)
                results.add(reached(name, target, route))
        for row in block_prices(name) if options.blocks else ():
            results.add(row)
        for round_to in () if options.reach or options.blocks else options.round_to:
            results.add(compare(name, options.networks, round_to, options.rounds))


if __name__ == "__main__":
    main()
