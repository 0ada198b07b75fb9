"""What does a gated or folded module cost here and now: exactly, in bytes, and in milliseconds?"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fxprune.arguments import shown
from fxprune.errors import InputError
from fxprune.passes.whole_layers import put_together
from fxprune.reports import Report, costs_at, describe, two_and_whole
from fxprune.timing import median_ms
from fxprune.torch.backend.configuration import is_configured
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.checks import check_weights
from fxprune.torch.factorise import factors
from fxprune.torch.fold import fold_as
from fxprune.torch.frontend.examples import random_inputs
from fxprune.torch.frontend.meta import real_device_of
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.gates.module import PREFIX
from fxprune.torch.record import Record, gates_of, is_gated, record_of, traced_part

_SECONDS = 1.0


def report_module(module: nn.Module, *, latency: bool, device: Any = None) -> Report:
    """The report of a gated or folded module; latency on a device, or where its weights are.

    Raises:
        InputError: the module is neither, or the device is none.
    """
    place = None if device is None else _device(device)
    part = traced_part(module)[1] if isinstance(module, nn.Module) else module
    record = record_of(part)
    if record is None:
        raise InputError(
            f"subject must be a gated or folded module, got {type(part).__name__} (what prune_onnx "
            "returned will do as well)"
        )
    gated = is_gated(part)
    described = describe(record.source, record.analysis, sizes_of(part, record))
    gates = gates_of(part) if gated else None
    pairs, whole = two_and_whole(factors(part) if record.pairs else [])
    return replace(
        described,
        before=record.costs_before or described.before,
        latency_ms=_latencies(part, record, gated, place) if latency else {},
        file_bytes=_file_bytes(part, gated),
        figures=gates.method.figures() if gates else {},
        targets=dict(record.targets or {}),
        reached=gates.reached() if gates else dict(record.reached or {}),
        schedule=gates.method.progress() if gates else {},
        generated=generated_code(part),
        configured=_is_followed(record) and is_configured(part),
        pairs=pairs,
        whole=whole,
        timed=record.timed,
        origin={"method": record.method} if record.method else {},
    )


def _is_followed(record: Record) -> bool:
    """Whether a configuration was to follow a fold."""
    return any(step.configuration or step.taken for step in record.history)


def costs_of(module: nn.Module) -> dict[str, int]:
    """The exact costs of a gated or folded module under its keep-set."""
    record = record_of(module)
    assert record is not None
    return costs_at(record.analysis, sizes_of(module, record))


def sizes_of(module: nn.Module, record: Record) -> dict[str, int]:
    """How many positions of every group and branch are kept."""
    if is_gated(module):
        return {name: int(flags.sum()) for name, flags in gates_of(module).keep_set().items()}
    kept = {name: len(kept) for name, kept in record.history[-1].kept.items()}
    return put_together(kept, record.analysis.branches)


def _file_bytes(module: nn.Module, gated: bool) -> dict[str, int]:
    """Bytes of the tensors that a checkpoint holds, each counted once."""
    if not gated:
        return {"after": _bytes(module)}
    return {"before": _bytes(module), "after": _bytes(fold_as(module, None))}


def _bytes(module: nn.Module) -> int:
    state = module.state_dict(keep_vars=True)
    own = [tensor for name, tensor in state.items() if not name.startswith(f"{PREFIX}.")]
    sizes = {t.data_ptr() or id(t): t.numel() * t.element_size() for t in own}
    return sum(sizes.values())


def _device(device: Any) -> torch.device:
    """A device on which something can be measured."""
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except Exception as error:  # of a kind that depends on what is missing
        reason = str(error).splitlines()[0]
        raise InputError(f"device {shown(device)} cannot be used here: {reason}") from error
    return place


def _latencies(
    module: nn.Module, record: Record, gated: bool, place: torch.device | None
) -> dict[str, float]:
    """Median milliseconds of evaluating one sample, of the model as it was and as it would fold."""
    check_weights(module)
    if not gated:
        return _medians({"after": module}, record.examples[0], place)
    everything = {name: torch.ones(size) for name, size in record.analysis.costs.full.items()}
    models = {"before": fold_as(module, everything), "after": fold_as(module, None)}
    return _medians(models, record.examples[0], place)


def _medians(
    models: Mapping[str, nn.Module], example: Arguments, place: torch.device | None
) -> dict[str, float]:
    """Median milliseconds of one evaluation of a single sample."""
    if place is None:
        place = real_device_of(next(iter(models.values())))
    else:
        models = {name: copy.deepcopy(model).to(place) for name, model in models.items()}
    inputs = [
        value.to(place) if isinstance(value, torch.Tensor) else value
        for value in random_inputs(example, (1,), seed=0)[0]
    ]
    with torch.no_grad(), ExitStack() as stack:
        for model in models.values():
            stack.enter_context(in_evaluation(model))
        return median_ms(
            {name: partial(_run, model, inputs, place) for name, model in models.items()}, _SECONDS
        )


def _run(model: nn.Module, inputs: Sequence[Any], place: torch.device) -> None:
    """One evaluation, to its end: a GPU is only told what to do."""
    model(*inputs)
    if place.type == "cuda":
        torch.cuda.synchronize(place)
