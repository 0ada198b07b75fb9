"""What does a gated or folded module cost here and now: exactly, in bytes, and in milliseconds?"""

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from fxprune.folding import fold_as
from fxprune.frontends.torch_modes import in_evaluation
from fxprune.gates.module import PREFIX
from fxprune.record import Record, gates_of, is_gated, record_of
from fxprune.reports import costs_at
from fxprune.verification import random_inputs

_LATENCY_SECONDS = 1.0


def costs_of(module: nn.Module) -> dict[str, int]:
    """The exact costs of a gated or folded module under its keep-set."""
    record = record_of(module)
    assert record is not None
    return costs_at(record.analysis, sizes_of(module, record))


def sizes_of(module: nn.Module, record: Record) -> dict[str, int]:
    """How many positions of every group and branch are kept."""
    if is_gated(module):
        return {name: int(flags.sum()) for name, flags in gates_of(module).keep_set().items()}
    return {name: len(kept) for name, kept in record.history[-1].kept.items()}


def file_bytes(module: nn.Module, gated: bool) -> dict[str, int]:
    """Bytes of the tensors that a checkpoint holds, each counted once."""
    if not gated:
        return {"after": _bytes(module)}
    return {"before": _bytes(module), "after": _bytes(fold_as(module, None))}


def _bytes(module: nn.Module) -> int:
    state = module.state_dict()
    own = (tensor for name, tensor in state.items() if not name.startswith(f"{PREFIX}."))
    sizes = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in own}
    return sum(sizes.values())


def latencies(module: nn.Module, record: Record, gated: bool) -> dict[str, float]:
    """Median milliseconds of evaluating one sample, of the model as it was and as it would fold."""
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
