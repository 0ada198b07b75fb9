"""What did pruning do to a model? Groups, pins with reasons, costs before and after, latency."""

import io
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fxprune.errors import InputError
from fxprune.folding import fold_as
from fxprune.frontends.torch_modes import in_evaluation
from fxprune.gates.module import PREFIX
from fxprune.passes.cost import COSTS
from fxprune.record import Record, gates_of, is_gated, record_of, traced_part
from fxprune.verification import random_inputs

_LATENCY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One group or branch: how many positions it had and has, and why it is pinned."""

    name: str
    kind: str
    size: int
    kept: int
    members: int
    pin: str


@dataclass(frozen=True, slots=True)
class Report:
    """Prints as tables; `as_dict` gives plain scalars for any tracker.

    `latency_ms` holds medians of single-sample evaluations on this machine, `file_bytes` the sizes
    of all saved tensors, by "before" and "after", whichever is known; `figures` is what the gating
    method says of itself.
    """

    source: str
    rows: tuple[Row, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    latency_ms: Mapping[str, float]
    file_bytes: Mapping[str, int]
    figures: Mapping[str, float]

    def as_dict(self) -> dict[str, float]:
        """Every number under a flat name."""
        result: dict[str, float] = {}
        for when, costs in (("before", self.before), ("after", self.after)):
            result.update({f"{name}_{when}": value for name, value in costs.items()})
        result.update({f"latency_ms_{when}": value for when, value in self.latency_ms.items()})
        result.update({f"file_bytes_{when}": value for when, value in self.file_bytes.items()})
        return {**result, **self.figures}

    def __str__(self) -> str:
        file = io.StringIO()
        console = Console(file=file, width=110)
        console.print(self._groups())
        console.print(self._costs())
        for name, value in self.figures.items():
            console.print(f"{name}: {value:.3g}")
        return file.getvalue().rstrip()

    def _groups(self) -> Table:
        table = Table(title=f"{self.source}: groups", title_justify="left")
        table.add_column("name", overflow="fold")
        table.add_column("kind")
        table.add_column("positions", justify="right")
        table.add_column("kept", justify="right")
        table.add_column("members", justify="right")
        table.add_column("pinned because", overflow="fold")
        for row in self.rows:
            table.add_row(
                row.name, row.kind, f"{row.size:,}", f"{row.kept:,}", str(row.members), row.pin
            )
        return table

    def _costs(self) -> Table:
        table = Table(title="per sample", title_justify="left")
        for name in ("cost", "before", "after", "kept"):
            table.add_column(name, justify="left" if name == "cost" else "right")
        for name, value in self.after.items():
            share = value / max(self.before[name], 1)
            table.add_row(name, f"{self.before[name]:,}", f"{value:,}", f"{share:.1%}")
        for name, known, form in (
            ("file (bytes)", self.file_bytes, ",d"),
            ("latency (ms)", self.latency_ms, ".2f"),
        ):
            if "after" in known:
                before, after = known.get("before"), known["after"]
                shown = format(before, form) if before else ""
                table.add_row(
                    name, shown, format(after, form), f"{after / before:.1%}" if before else ""
                )
        return table


def report(module: nn.Module, *, latency: bool = True) -> Report:
    """Describe a gated or folded module.

    Args:
        module: what `prepare` or `fold` returned. For a gated module, "after" is what folding it
            now would give.
        latency: whether to measure, which takes about two seconds; False gives exact figures only.

    Raises:
        InputError: the module is neither.
    """
    _, module = traced_part(module)
    record = record_of(module)
    if record is None:
        raise InputError(f"expected a gated or folded module, got {type(module).__name__}")
    gated = is_gated(module)
    costs = record.analysis.costs
    return Report(
        source=record.source,
        rows=_rows(module, record, gated),
        before=record.costs_before or costs.at(costs.full),
        after=costs_of(module),
        latency_ms=_latencies(module, record, gated) if latency else {},
        file_bytes=_file_bytes(module, gated),
        figures=gates_of(module).method.figures() if gated else {},
    )


def costs_of(module: nn.Module) -> dict[str, int]:
    """The exact costs of a gated or folded module under its keep-set."""
    record = record_of(module)
    assert record is not None
    found = record.analysis.costs.at(_sizes(module, record))
    return {name: int(found[name]) for name in COSTS}


def _sizes(module: nn.Module, record: Record) -> dict[str, int]:
    if is_gated(module):
        return {name: int(flags.sum()) for name, flags in gates_of(module).keep_set().items()}
    return {name: len(kept) for name, kept in record.history[-1].kept.items()}


def _rows(module: nn.Module, record: Record, gated: bool) -> tuple[Row, ...]:
    sizes = _sizes(module, record)
    channels = [
        Row(g.name, "channel", g.size, sizes.get(g.name, g.size), len(g.members), g.pin)
        for g in record.analysis.groups
    ]
    branches = [
        Row(b.name, "branch", 1, sizes.get(b.name, 1), len(b.nodes), "")
        for b in record.analysis.branches
    ]
    return (*channels, *branches)


def _file_bytes(module: nn.Module, gated: bool) -> dict[str, int]:
    """Bytes of the tensors that a checkpoint holds, each counted once."""
    if not gated:
        return {"after": _bytes(module)}
    return {"before": _bytes(module), "after": _bytes(fold_as(module, None))}


def _bytes(module: nn.Module) -> int:
    state = module.state_dict()
    own = (tensor for name, tensor in state.items() if not name.startswith(f"{PREFIX}."))
    sizes = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in own}
    return sum(sizes.values())


def _latencies(module: nn.Module, record: Record, gated: bool) -> dict[str, float]:
    if not gated:
        return _medians({"after": module}, record.examples)
    everything = {name: torch.ones(size) for name, size in record.analysis.costs.full.items()}
    models = {"before": fold_as(module, everything), "after": fold_as(module, None)}
    return _medians(models, record.examples)


def _medians(models: Mapping[str, nn.Module], examples: tuple[Any, ...]) -> dict[str, float]:
    """Median milliseconds of one evaluation of a single sample, the models taking turns."""
    inputs = random_inputs(examples, (1,), seed=0)[0]
    times: dict[str, list[float]] = {name: [] for name in models}
    deadline = time.perf_counter() + _LATENCY_SECONDS * len(models)
    with torch.no_grad(), ExitStack() as stack:
        for model in models.values():
            stack.enter_context(in_evaluation(model))
            model(*inputs)
        while time.perf_counter() < deadline or len(next(iter(times.values()))) < 3:
            for name, model in models.items():
                start = time.perf_counter()
                model(*inputs)
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
