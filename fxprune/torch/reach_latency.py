"""The verb that keeps as much as takes the time of a target, as it is measured."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.clocks import ONNX_RUNTIME, TORCH, Clock, clock_for
from fxprune.errors import InputError
from fxprune.extras import naming_extras
from fxprune.filling import kept_first
from fxprune.time_search import reaching
from fxprune.timing import Run
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.batches import running_on
from fxprune.torch.checks import check_weights
from fxprune.torch.fold import fold
from fxprune.torch.frontend.examples import random_inputs
from fxprune.torch.frontend.meta import real_device_of
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.gating import without_gates
from fxprune.torch.keep_sets import ranked
from fxprune.torch.record import attach, gated_record, gates_of, traced_part

Flags = tuple[bool, ...]
"""What is open, position by position of all groups and branches."""


def reach_latency(
    gated: nn.Module, importance: Mapping[str, Any] | None = None, *, clock: Clock | None = None
) -> None:
    """Keep as much as takes the time of the target, as it is measured, whatever the schedule says.

    What `prepare` predicts of a target on "latency" or "latency_ms" is corrected by measuring whole
    models in turns with the whole one, until the share of its time is within 3 % of the target; by
    default in widths of the multiple that loses least for the time it saves. `report` says what
    was measured.

    Args:
        gated: what `prepare` returned for such a target; it is changed in place, and its gates stop
            learning. Other limits of the target hold, too.
        importance: how much each position matters, as for `reach_target`; if missing, what the
            method has learned, or norms of weights.
        clock: by what is measured; torch with one thread and one sample, if missing.

    Raises:
        InputError: an argument does not fit, or the target has no latency; a share of the time is
            none any more of a model that was shrunk.
        TargetError: no model is fast enough.
    """
    times = gated_record(gated)[1].times
    if not times:
        raise InputError(
            'gated has no target on its time: give prepare(..., target={"latency": 0.5}); what has '
            'been shrunk can be measured for "latency_ms" alone'
        )
    reach_times(gated, importance, times, clock_for(times, clock) or Clock())


def reach_times(
    gated: nn.Module,
    importance: Mapping[str, Any] | None,
    times: Mapping[str, float],
    clock: Clock,
) -> None:
    """Keep what takes no more than `times`, "latency" and "latency_ms", as a clock measures it."""
    _, part = traced_part(gated)
    gates, record = gated_record(part)
    check_weights(part)
    rank = _rank(part, importance)
    clock = clock if clock.runtime else replace(clock, runtime=TORCH)
    budget, costs = gates.method.budget, record.analysis.costs
    predicted = budget.costs.polynomials["latency"](budget.costs.full)
    macs = costs.polynomials["macs"]
    working = copy_module(part)

    def limit_at(at: float) -> dict[str, float]:
        return {**budget.limit, "latency": at * predicted}

    def keep_at(at: float, multiple: int, base: Flags | None) -> Flags:
        chosen = budget.at(limit_at(at), multiple)
        first = rank if base is None else torch.from_numpy(kept_first(rank.numpy(), base))
        return tuple(chosen.choose(first, chosen.limit).tolist())

    def macs_of(keep: Flags) -> float:
        gates_of(working).method.keep(torch.tensor(keep))
        sizes = {name: int(flags.sum()) for name, flags in gates_of(working).keep_set().items()}
        return float(macs(sizes) / macs(costs.full))

    def model_of(keep: Flags | None) -> nn.Module:
        if keep is None:
            return without_gates(working)
        gates_of(working).method.keep(torch.tensor(keep))
        return fold(working)

    example = record.examples[0]
    with ExitStack() as stack:
        provider = stack.enter_context(measuring(clock, part))
        found, search = reaching(
            times, keep_at, macs_of, lambda keep: module_run(model_of(keep), example, clock)
        )
    assert found.keep is not None
    gates.method.budget = budget.at(limit_at(found.at), found.multiple)
    gates.method.keep(torch.tensor(found.keep))
    timed = search.timed(found, clock, provider)
    attach(part, replace(record, timed=timed, targets=dict(gates.method.budget.limit)))


def _rank(gated: nn.Module, importance: Mapping[str, Any] | None) -> Tensor:
    """Which positions to keep: as is given, by what the method has learned, or by weights."""
    if importance is not None:
        return torch.from_numpy(ranked(gated, importance))
    gates = gates_of(gated)
    if gates.method.has_learned:
        gates.method.weigh(gates.norms)
        known = None
    else:
        known = gates.norms()
    return (gates.method.rank() if known is None else known).detach().cpu().double()


def _onnx() -> Any:
    """What measures with ONNX Runtime; torch alone goes without its libraries."""
    with naming_extras('Clock("onnxruntime")'):
        from fxprune.torch import exported_runs
    return exported_runs


@contextmanager
def measuring(clock: Clock, model: nn.Module) -> Iterator[str]:
    """What a clock needs around it; the name of what computes."""
    if clock.runtime == ONNX_RUNTIME:
        with _onnx().clocked(clock) as provider:
            yield provider
        return
    before = torch.get_num_threads()
    torch.set_num_threads(clock.threads)
    try:
        yield str(real_device_of(model))
    finally:
        torch.set_num_threads(before)


@contextmanager
def module_run(model: nn.Module, example: Arguments, clock: Clock) -> Iterator[Run]:
    """A run of a model, which is ours, on random inputs."""
    inputs = random_inputs(example, (clock.batch,), seed=0)[0]
    if clock.runtime == ONNX_RUNTIME:
        with _onnx().exported_run(model, example, inputs, clock) as exported:
            yield exported
        return
    place = real_device_of(model)
    moved = [value.to(place) if isinstance(value, Tensor) else value for value in inputs]

    def run() -> None:
        model(*moved)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    with torch.inference_mode(), in_evaluation(model):
        with running_on(f"a batch of {clock.batch}"):
            run()
        yield run
