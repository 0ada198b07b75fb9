"""Do the two routes agree? Every classification model of torchvision, exported and pruned as ONNX.

    python -m tests.benchmarks.onnx_models --json onnx_models.json
    python -m tests.benchmarks.onnx_models resnet18 swin_t

The model is analysed by torch and, exported, as an ONNX file. Groups are the same if they own the
same slices of the weights that are in both (the same numbers, perhaps transposed), position by
position; others are counted. Then a random keep-set of half of all channels is
folded on both routes: ONNX Runtime finds masked and folded ONNX equal, and folded ONNX equal to
folded torch, while the original is something else.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fxprune
from fxprune.onnx.frontend.program import OnnxProgram, read_onnx
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.axes import Axis, Space, Sum
from fxprune.torch.record import gated_record
from tests.benchmarks.apart import found_apart
from tests.benchmarks.exactness import random_images, randomise_statistics
from tests.benchmarks.results import Results
from tests.vision import torchvision

SIZE = 64
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False, "aux_logits": False},  # ONNX has no auxiliary heads
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "maxvit_t": {"input_size": (224, 224)},
    **{f"vit_{name}": {"image_size": SIZE} for name in ("b_16", "b_32", "l_16", "l_32")},
    "vit_h_14": {"image_size": 56},
}
SIZES = {"inception_v3": 128, "maxvit_t": 224, "vit_h_14": 56, "alexnet": 224} | {
    f"vgg{depth}{norm}": 224 for depth in (11, 13, 16, 19) for norm in ("", "_bn")
}
SECONDS = 600


@dataclass(slots=True)
class Row:
    """What was found for a model; `status` is ok, other groups, wrong, or failed."""

    model: str
    status: str = "failed"
    reason: str = ""
    groups: int = 0
    matched: int = 0
    branches_torch: int = 0
    branches_onnx: int = 0
    only_torch: int = 0
    only_onnx: int = 0
    macs: float = 1.0
    masked_error: float = 0.0
    routes_error: float = 0.0
    seconds: float = 0.0


def model_of(name: str) -> tuple[nn.Module, int]:
    """A model with random weights, biases and statistics, and the size of its images."""
    torch.manual_seed(0)
    size = SIZES.get(name, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "relative_position_bias_table" in key or key.endswith("layer_scale"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
            elif not parameter.any():  # heads of transformers begin with zeros
                parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    randomise_statistics(model, random_images(3, size))
    return model, size


def measure(name: str) -> Row:
    """Compare the routes on one model."""
    row, start = Row(name), time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _fill(row, Path(folder))
    except fxprune.VerificationError as error:
        row.status, row.reason = "wrong", str(error)
    except (fxprune.FxpruneError, AssertionError) as error:
        row.reason = f"{type(error).__name__}: {error}"[:500]
    row.seconds = time.perf_counter() - start
    return row


def _fill(row: Row, folder: Path) -> None:
    model, size = model_of(row.model)
    example = random_images(2, size)
    path = fxprune.export_onnx(model, folder / "model.onnx", example)
    gated = fxprune.prepare(model, example)
    ours, program = gated_record(gated)[1].analysis, read_onnx(path)
    theirs = analyse(program.ir)
    row.groups, row.branches_torch = len(ours.free_groups), len(ours.branches)
    row.branches_onnx = len(theirs.branches)
    partner, pinned = partners(model, ours, program, theirs)
    names = {group.space: group.name for group in theirs.free_groups}
    generator = torch.Generator().manual_seed(1)
    keep, keep_onnx = {}, {}
    for group in ours.free_groups:
        if group.space in partner:
            flags = torch.rand(group.size, generator=generator) < 0.5
            flags[int(torch.randint(group.size, (1,), generator=generator))] = True
            keep[group.name] = flags
            keep_onnx[names[partner[group.space]]] = flags.tolist()
    row.matched = len(keep)
    row.only_torch, row.only_onnx = row.groups - len(keep), len(names) - len(keep)
    row.reason = "; ".join(
        f"{group.name} is pinned in ONNX: {pinned[group.space]}"
        for group in ours.free_groups
        if group.name not in keep
    )[:500]
    fxprune.set_keep_set(gated, keep)
    folded = fxprune.fold(gated).eval()
    result = fxprune.fold_onnx(path, keep_onnx, folder / "folded.onnx")
    row.macs = result.costs_after["macs"] / result.costs_before["macs"]
    row.masked_error = max(item.error for item in result.verdict.comparisons)
    with torch.no_grad():
        expected, original = folded(example).numpy(), model(example).numpy()
    session = onnxruntime.InferenceSession(folder / "folded.onnx", None, ["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    largest = np.abs(expected).max()
    row.routes_error = float(np.abs(got - expected).max() / largest)
    assert np.abs(original - expected).max() > 1e-2 * largest, "pruning changed nothing"
    if not row.routes_error <= 1e-3:
        row.status, row.reason = "wrong", "folded ONNX differs from folded torch"
    else:
        row.status = "other groups" if row.only_torch or row.only_onnx else "ok"


Footprint = dict[Space, dict[int, list[tuple[str, int, int]]]]
"""By space and position the slices of shared weights (name, dim, index) that belong to it."""


def partners(
    model: nn.Module, ours: Analysis, program: OnnxProgram, theirs: Analysis
) -> tuple[dict[Space, Space], dict[Space, str]]:
    """Groups that own the same slices of weights, position by position; why others are pinned."""
    left: Footprint = defaultdict(lambda: defaultdict(list))
    right: Footprint = defaultdict(lambda: defaultdict(list))
    for name, dim, axis, other in _shared(model, ours, program, theirs):
        for footprint, own in ((left, axis), (right, other)):
            for index, positions in enumerate(members(own)):
                for space, position in positions:
                    footprint[space][position].append((name, dim, index))
    pins = {group.space: group.pin for group in theirs.groups if group.pin}
    reasons = {
        place: pins[space]
        for space, positions in right.items()
        if space in pins
        for places in positions.values()
        for place in places
    }
    free = {group.space for group in theirs.free_groups}
    known = {_frozen(right[space]): space for space in right if space in free}
    matched, pinned = {}, {}
    for group in ours.free_groups:
        own = left.get(group.space, {})
        if own and _frozen(own) in known:
            matched[group.space] = known[_frozen(own)]
        else:
            places = [place for found in own.values() for place in found]
            pinned[group.space] = next(
                (reasons[place] for place in places if place in reasons), "not the same group"
            )
    return matched, pinned


def members(axis: Axis) -> list[list[tuple[Space, int]]]:
    """For every index of an axis the positions of spaces that it stands for."""
    if isinstance(axis, Space):
        return [[(axis, position)] for position in range(axis.size)]
    if isinstance(axis, Sum):
        return [positions for part in axis.parts for positions in members(part)]
    factors = map(members, axis.factors)
    return [list(itertools.chain(*positions)) for positions in itertools.product(*factors)]


def _frozen(positions: Mapping[int, list[tuple[str, int, int]]]) -> frozenset[Any]:
    return frozenset((position, frozenset(places)) for position, places in positions.items())


def _shared(
    model: nn.Module, ours: Analysis, program: OnnxProgram, theirs: Analysis
) -> Iterator[tuple[str, int, Axis, Axis]]:
    """Axes of weights that both routes have: by name, else by their numbers."""
    mine = {value.name: value for value in ours.graph.parameters if len(value.shape) > 1}
    stored = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    by_numbers = {}
    for name in mine:
        array = stored[name].detach().numpy()
        by_numbers[_key(array)] = name, range(array.ndim)
        if array.ndim == 2:
            by_numbers.setdefault(_key(array.T), (name, (1, 0)))
    for value in theirs.graph.parameters:
        initializer = program.initializers[value.name]
        found = (initializer, range(len(value.shape))) if initializer in mine else None
        if found is None and len(value.shape) > 1:
            tensor = program.model.graph.initializers[initializer].const_value
            found = by_numbers.get(_key(tensor.numpy()))
        if found is None or value.name not in theirs.types.axes:
            continue
        name, order = found
        for dim, axis in zip(order, theirs.types.axes[value.name], strict=True):
            yield name, dim, ours.types.axes[name][dim], axis


def _key(array: np.ndarray) -> tuple[tuple[int, ...], int]:
    return array.shape, hash(np.ascontiguousarray(array).tobytes())


def in_a_process(name: str) -> Row:
    """The row of a model, measured with a limit of time."""
    found, reason = found_apart(SECONDS, "-m", "tests.benchmarks.onnx_models", name, "--one")
    return Row(**found) if found else Row(name, reason=reason)


def table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    made = Table("model", "status", "groups", "branches", "MACs", "masked", "routes", "s", "reason")
    for row in rows:
        branches = f"{row.branches_torch} {row.branches_onnx}"
        errors = f"{row.masked_error:.0e}", f"{row.routes_error:.0e}"
        figures = f"{row.matched}/{row.groups}", branches, f"{row.macs:.0%}"
        made.add_row(row.model, row.status, *figures, *errors, f"{row.seconds:.0f}", row.reason)
    return made


def main() -> int:
    """Measure, print; 1 if a model came out wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="all of torchvision's for classification")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(dataclasses.asdict(measure(options.models[0]))))
        return 0
    names = options.models or torchvision.models.list_models(module=torchvision.models)
    rows, results = [], Results(options.json)
    for name in names:
        rows.append(in_a_process(name))
        results.add(rows[-1])
    Console().print(table(rows))
    print(dict(Counter(row.status for row in rows)))
    return int(any(row.status == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
