"""What flows through a gated model with everything open? Its graph is run on data, node by node.

Labels and losses have no part in it; where only a part of a model was prepared, the whole runs and
the part is observed at every call.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxprune.flow import Flow
from fxprune.ir import Graph
from fxprune.stages import track
from fxprune.torch.backend.module import TracedModule, copy_graph
from fxprune.torch.batches import arguments_of, running_on
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.gating import program_to_run, without_gates
from fxprune.torch.precision import arrays_of
from fxprune.torch.record import gated_record, inputs_taken, traced_part


def observed(gated: nn.Module, data: Iterable[Any]) -> Flow:
    """What flows through the groups of a gated model, in evaluation, with all gates open."""
    gates, record = gated_record(gated)
    _, part = traced_part(gated)
    flow = Flow(record.analysis)
    model = without_gates(part)
    program = program_to_run(model, record)
    traced = TracedModule(model, copy_graph(program.graph)[0]).eval()
    taken = inputs_taken(gated)
    everything = torch.ones_like(gates.method.is_open)

    def see(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        graph, values = traced.call_of(args, kwargs)
        flow.begin()
        _Observer(traced, graph, record.program.ir, flow).run(*values)
        flow.end()

    with in_evaluation(gated), torch.no_grad(), gates.showing(everything), _called(part, see):
        for number, batch in enumerate(track(data, "looking at data")):
            args, kwargs = arguments_of(batch, taken)
            with running_on(f"batch {number} of data"):
                if part is gated:
                    see(args, kwargs)
                else:
                    gated(*args, **kwargs)
    return flow


@contextmanager
def _called(part: nn.Module, see: Any) -> Iterator[None]:
    """Let `see` know what a part is called with."""

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args, kwargs)

    handle = part.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Observer(fx.Interpreter):
    """Hands on what flow wants to see, as it is computed."""

    def __init__(self, module: TracedModule, graph: fx.Graph, ir: Graph, flow: Flow) -> None:
        super().__init__(module, graph=graph)
        self._flow = flow
        self._names = {node.name: [value.name for value in node.outputs] for node in ir.nodes}
        self._names.update((value.name, [value.name]) for value in ir.inputs)

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node and show what it returns; the last of our nodes for it returns that."""
        result = super().run_node(n)
        for name, array in zip(self._names.get(n.name, ()), tensors_in(result), strict=False):
            if name in self._flow.names:
                self._flow.add(name, arrays_of(array))
        return result
