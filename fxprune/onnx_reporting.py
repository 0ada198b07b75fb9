"""What an ONNX model costs here before and after pruning, in bytes and milliseconds."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from fxprune.frontends.onnx_loading import load_onnx
from fxprune.frontends.onnx_session import random_feeds, session_of, weight_bytes
from fxprune.onnx_pruning import OnnxResult
from fxprune.reports import Report, describe
from fxprune.timing import median_ms

_SECONDS = 1.0


def report_result(result: OnnxResult, *, latency: bool) -> Report:
    """The report of a pruned ONNX model; `latency` in ONNX Runtime with all its optimisations.

    A file that has been overwritten since is not measured.
    """
    sizes = {name: sum(flags) for name, flags in result.keep_set.items()}
    return replace(
        describe(result.model.graph.name or "model", result.analysis, sizes),
        latency_ms=_latencies(result) if latency else {},
        file_bytes={"before": result.bytes_before, "after": weight_bytes(result.model)},
    )


def _latencies(result: OnnxResult) -> dict[str, float]:
    """Median milliseconds of one sample, or of the batch that the model insists on."""
    models = {"before": load_onnx(result.source), "after": result.model}
    if weight_bytes(models["before"]) != result.bytes_before:
        del models["before"]
    shapes = {value.name: value.shape for value in result.analysis.graph.inputs}
    for value in result.model.graph.inputs:
        if value.shape and not isinstance(value.shape[0], int):
            shapes[str(value.name)] = (1, *shapes[str(value.name)][1:])
    feeds = random_feeds(result.model, shapes)
    names = [str(value.name) for value in result.model.graph.outputs]
    with ExitStack() as stack:
        sessions = {
            when: stack.enter_context(session_of(model, optimised=True))
            for when, model in models.items()
        }
        runs = {when: partial(session.run, feeds, names) for when, session in sessions.items()}
        return median_ms(runs, _SECONDS)
