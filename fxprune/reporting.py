"""What did pruning do to a model? Groups, pins with reasons, costs before and after, latency."""

from dataclasses import replace

from torch import nn

from fxprune.errors import InputError
from fxprune.measuring import file_bytes, latencies, sizes_of
from fxprune.record import gates_of, is_gated, record_of, traced_part
from fxprune.reports import Report, describe


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
    described = describe(record.source, record.analysis, sizes_of(module, record))
    return replace(
        described,
        before=record.costs_before or described.before,
        latency_ms=latencies(module, record, gated) if latency else {},
        file_bytes=file_bytes(module, gated),
        figures=gates_of(module).method.figures() if gated else {},
    )
