"""What an ONNX model costs here before and after pruning, in bytes and milliseconds."""

from dataclasses import replace

from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.session import Providers, run_by, weight_bytes
from fxprune.onnx.latency import latencies_ms
from fxprune.onnx.prune import OnnxResult
from fxprune.reports import Report, describe, two_and_whole


def report_result(result: OnnxResult, *, latency: bool, providers: Providers = None) -> Report:
    """The report of a pruned ONNX model; `latency` in ONNX Runtime with all its optimisations.

    A file that has been overwritten since is not measured.
    """
    sizes = {name: sum(flags) for name, flags in result.keep_set.items()}
    pairs, whole = two_and_whole(result.layers)
    with run_by(providers):
        times = _latencies(result) if latency else {}
    return replace(
        describe(result.model.graph.name or "model", result.analysis, sizes),
        before=dict(result.costs_before),
        pairs=pairs,
        whole=whole,
        latency_ms=times,
        timed=result.timed,
        origin={"method": result.method} if result.method else {},
        file_bytes={"before": result.bytes_before, "after": weight_bytes(result.model)},
    )


def _latencies(result: OnnxResult) -> dict[str, float]:
    """Median milliseconds of one sample, or of the batch that the model insists on."""
    models = {"before": load_onnx(result.source), "after": result.model}
    if weight_bytes(models["before"]) != result.bytes_before:
        del models["before"]
    return latencies_ms(models, result.analysis.graph)
