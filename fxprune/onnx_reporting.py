"""What an ONNX model costs here before and after pruning, in bytes and milliseconds."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import onnx_ir

from fxprune.frontends.onnx_session import random_feeds, session_of
from fxprune.onnx_pruning import OnnxResult
from fxprune.reports import Report, describe
from fxprune.timing import median_ms

_SECONDS = 1.0


def report_result(result: OnnxResult, *, latency: bool) -> Report:
    """The report of a pruned ONNX model; `latency` in ONNX Runtime with all its optimisations."""
    models = {"before": result.original, "after": result.model}
    sizes = {name: sum(flags) for name, flags in result.keep_set.items()}
    return replace(
        describe(result.original.graph.name or "model", result.analysis, sizes),
        latency_ms=_latencies(result, models) if latency else {},
        file_bytes={when: _bytes(model) for when, model in models.items()},
    )


def _bytes(model: onnx_ir.Model) -> int:
    """Bytes of the stored tensors."""
    stored = (
        value.const_value for graph in model.graphs() for value in graph.initializers.values()
    )
    return sum(tensor.nbytes for tensor in stored if tensor is not None)


def _latencies(result: OnnxResult, models: dict[str, onnx_ir.Model]) -> dict[str, float]:
    """Median milliseconds of one sample, or of the batch that the model insists on."""
    shapes = {value.name: value.shape for value in result.analysis.graph.inputs}
    for value in result.original.graph.inputs:
        if value.shape and not isinstance(value.shape[0], int):
            shapes[str(value.name)] = (1, *shapes[str(value.name)][1:])
    with ExitStack() as stack:
        sessions = {
            when: stack.enter_context(session_of(model, optimised=True))
            for when, model in models.items()
        }
        feeds = random_feeds(sessions["before"], shapes)
        runs = {when: partial(session.run, None, feeds) for when, session in sessions.items()}
        return median_ms(runs, _SECONDS)
