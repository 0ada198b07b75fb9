"""A gated or folded model, which is the user's own, as a module that runs the graph of it.

For what needs the graph: float64 throughout, first differences, torch's exporter.
"""

from dataclasses import replace

from torch import fx, nn

from fxprune.errors import FxpruneError
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.module import TracedModule
from fxprune.torch.frontend.forward import Use
from fxprune.torch.frontend.program import Program, read_model
from fxprune.torch.gating import gated_graph_of
from fxprune.torch.record import Record, attach, is_gated, record_of


def recorded(module: nn.Module, *, first: bool = False) -> nn.Module:
    """A module that runs the graph of a gated or folded one; anything else as it is.

    With `first` that of its first example alone.
    """
    record = record_of(module)
    if record is None or isinstance(module, fx.GraphModule):
        return module
    if is_gated(module):
        return gated_graph_of(module)
    if first:
        record = replace(record, examples=record.examples[:1])
    try:
        program, _ = recorded_program(module, record, Use.RUN)
    except FxpruneError:
        return module  # it has been changed, and fails
    traced = TracedModule(copy_module(module), program.graph, type(module).__name__)
    attach(traced, record)
    return traced


def recorded_program(
    module: nn.Module, record: Record, use: Use = Use.ANALYSIS
) -> tuple[Program, tuple[str, ...]]:
    """A folded module recorded again, and those of its leaves that are still there."""
    modules = dict(module.named_modules())
    leaves = tuple(path for path in record.leaves if path in modules)
    batch = record.program.batch
    program = read_model(module, record.examples, frozenset(leaves), batch=batch, use=use)
    return program, leaves
