"""What do channels, ranks, both, and few bits keep of a CIFAR ResNet, without training?

    python -m tests.benchmarks.factorising --data DATA --weights WEIGHTS --json factorising.json

A pretrained ResNet at some share of its multiply-accumulates, by channels alone, by one form of two
layers for all, by any of them or channels layer by layer, and by what other tools do, truncated
singular values at one share of the rank everywhere; each stored in float32, 8 and 4 bits, and
palettes of 16. Then at some share of its bytes: what is stored in fewer bits may keep more weights.
1,024 training images for calibration and correction; accuracy and time are those of the files in
ONNX Runtime, time as a ratio to the whole network on one image. Rows are written as they come, and
a run goes on from those that are there.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fxprune
from examples.cifar_data import Cifar, load
from examples.cifar_resnet import pretrained
from fxprune.errors import TargetError, VerificationError
from fxprune.passes.factorisation import FORMS
from fxprune.testing import count_macs
from fxprune.timing import median_ms
from tests.benchmarks.results import Results

EXAMPLE = torch.zeros(1, 3, 32, 32)
PLAIN, UNIFORM = "uniform SVD, as it is", "uniform SVD"
WAYS = {
    "channels": (),
    **{form: (form,) for form in FORMS},
    "any": tuple(FORMS),
    UNIFORM: None,
    PLAIN: None,
}
STORED: dict[str, tuple[int, dict[str, Any]]] = {
    "float32": (32, {}),
    "8-bit": (8, {"bits": 8}),
    "4-bit": (4, {"bits": 4}),
    "palette of 16": (4, {"form": "palette", "bits": 4}),
}
"""By name how many bits a weight takes, and the arguments of `quantize`."""
CALIBRATION, BATCH = 1024, 64


@dataclass(frozen=True, slots=True)
class Row:
    """One file: accuracy as a share of 1, and what it costs as shares of the whole network."""

    network: str
    way: str
    target: str
    stored: str
    images: int
    accuracy: float
    macs: float
    params: float
    bytes: float
    time: float
    pairs: int
    seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What was asked for."""
        return self.network, self.way, self.target, self.stored, self.images


@dataclass(frozen=True, slots=True)
class Job:
    """What is pruned, and on what it is looked at."""

    network: str
    model: nn.Module
    data: Cifar
    whole: Path
    images: int

    @property
    def calibration(self) -> list[torch.Tensor]:
        """Training images in batches."""
        images = self.data.train.images[:CALIBRATION]
        return [self.data.normalised(images[i : i + BATCH]) for i in range(0, CALIBRATION, BATCH)]


def session_of(path: Path) -> Any:
    """What runs a file, in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def accuracy(path: Path, data: Cifar, number: int) -> float:
    """On the first test images."""
    session, right = session_of(path), 0
    (entry,) = session.get_inputs()
    for start in range(0, number, 100):
        images = data.normalised(data.test.images[start : min(start + 100, number)]).numpy()
        (scores,) = session.run(None, {entry.name: images})
        labels = data.test.labels[start : start + len(images)].numpy()
        right += int((scores.argmax(1) == labels).sum())
    return right / number


def time_ratio(path: Path, whole: Path) -> float:
    """The median time of one image, over that of the whole network; they take turns."""
    runs = {}
    for name, file in (("whole", whole), ("small", path)):
        session = session_of(file)
        feed = {session.get_inputs()[0].name: np.zeros((1, 3, 32, 32), np.float32)}
        runs[name] = partial(session.run, None, feed)
    times = median_ms(runs, 1.0)
    return times["small"] / times["whole"]


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


def pruned(way: str, target: dict[str, float], job: Job) -> Any:
    """The network made smaller one way, with correction."""
    torch.manual_seed(0)
    forms = WAYS[way]
    if forms is None:
        gated = uniform(job.model, target["macs"])
        if way == UNIFORM:
            fxprune.refit(gated, job.calibration)
        return fxprune.fold(gated)
    given: dict[str, Any] = {"target": target, "data": job.calibration, "method": "wanda"}
    return fxprune.prune(job.model, EXAMPLE, factorise=forms, correct=True, **given)


def rows(
    way: str, cost: str, share: float, stored: list[str], job: Job, known: set[tuple[Any, ...]]
) -> Iterator[Row]:
    """The files of one network at one target that are not known yet."""
    target = f"{cost} {share:g}"
    named = [(job.network, way, target, name, job.images) for name in stored]
    if known.issuperset(named):
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        smaller: dict[float, Path] = {}
        for key in named:
            bits, how = STORED[key[3]]
            kept = min(1.0, share * 32 / bits) if cost == "bytes" else share
            path = Path(folder) / f"{kept}.onnx"
            if kept not in smaller:
                with suppress(TargetError):
                    model = pruned(way, {cost: kept}, job)
                    smaller[kept] = fxprune.export_onnx(model, path, EXAMPLE)
            if kept in smaller and key not in known:
                try:
                    yield measured(key, smaller[kept], model, how, job, start)
                except VerificationError as error:  # no such file, so no row
                    print(f"{', '.join(map(str, key))}: {error}")


def measured(
    key: tuple[Any, ...],
    path: Path,
    model: nn.Module,
    how: dict[str, Any],
    job: Job,
    start: float,
) -> Row:
    """A file stored in some bits, and what it does."""
    if how:
        calibration = [batch.numpy() for batch in job.calibration]
        compact = path.with_suffix(f".{how['bits']}{how.get('form', '')}.onnx")
        path = fxprune.quantize(path, compact, calibration=calibration, **how).path
    parameters = [sum(p.numel() for p in each.parameters()) for each in (model, job.model)]
    return Row(
        *key,
        accuracy(path, job.data, job.images),
        count_macs(model, [EXAMPLE]) / count_macs(job.model, [EXAMPLE]),
        parameters[0] / parameters[1],
        path.stat().st_size / job.whole.stat().st_size,
        time_ratio(path, job.whole),
        sum(bool(item.form) for item in fxprune.factors(model)),
        time.perf_counter() - start,
    )


def table(found: list[Row]) -> Table:
    """The rows for the terminal."""
    columns = ("network", "target", "way", "stored", "accuracy", "MACs", "params", "bytes", "time")
    made = Table(*columns, "pairs")
    for one in found:
        shares = (one.macs, one.params, one.bytes)
        texts = [f"{one.accuracy:.2%}", *(f"{share:.1%}" for share in shares), f"{one.time:.2f}"]
        made.add_row(one.network, one.target, one.way, one.stored, *texts, str(one.pairs))
    return made


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="as for examples.cifar10")
    parser.add_argument("--weights", type=Path, required=True, help="a pretrained ResNet")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--macs", type=float, nargs="*", default=[0.5, 0.3])
    parser.add_argument("--bytes", type=float, nargs="*", default=[0.125, 0.0625])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--stored", nargs="+", default=list(STORED), choices=list(STORED))
    parser.add_argument("--images", type=int, default=10_000, help="how many test images")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = Results(options.json, go_on=True)
    found = [Row(**row) for row in results.rows]
    model = pretrained(options.depth, options.weights).eval()
    with tempfile.TemporaryDirectory() as folder:
        whole = fxprune.export_onnx(model, Path(folder) / "whole.onnx", EXAMPLE)
        name = f"ResNet-{options.depth}"
        job = Job(name, model, load(options.data), whole, options.images)
        wanted = [("macs", share, way) for share in options.macs for way in options.ways]
        some = [way for way in options.ways if WAYS[way] is not None]
        wanted += [("bytes", share, way) for share in options.bytes for way in some]
        for cost, share, way in wanted:
            for row in rows(way, cost, share, options.stored, job, {one.key for one in found}):
                found.append(row)
                results.add(row)
    Console(width=120).print(table(found))


if __name__ == "__main__":
    main()
