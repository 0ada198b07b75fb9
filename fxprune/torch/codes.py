"""Which units behind ReLUs does a sample switch on? Codes of samples, and how alike these are.

The graph of a model is run node by node, so that functions count as layers do, and of a gated model
only what is open is looked at.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.errors import InputError
from fxprune.keep_sets import closed_branches, kept_of
from fxprune.passes.axes import Axis, kept_flags
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.module import TracedModule
from fxprune.torch.batches import arguments_of
from fxprune.torch.frontend.examples import check_examples
from fxprune.torch.frontend.forward import Use
from fxprune.torch.frontend.program import read_model
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.gating import gated_graph_of
from fxprune.torch.record import gated_record, inputs_taken, is_gated, traced_part

_CHUNK = 1 << 18
"""How many units are compared at once."""
_FUNCTIONS = frozenset(["relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu"])


def codes_of(model: nn.Module, batch: Any) -> list[Tensor]:
    """For every ReLU that runs a bool tensor of shape (samples, open units): what is above 0."""
    _, part = traced_part(model)
    if part is not model:
        raise InputError("only a part of the model was prepared: pass that submodule")
    args, kwargs = arguments_of(batch, inputs_taken(model))
    if is_gated(model):
        traced, axes, gone = _of_gated(model)
    else:
        traced, axes, gone = _of_any(model, args, kwargs), {}, frozenset()
    graph, values = traced.call_of(args, kwargs)
    coder = _Coder(traced, graph, axes, gone)
    coder.run(*values)
    return coder.codes


Flags = dict[str, list[Tensor]]
"""By node, for every axis but the first, which positions of what it returns are open."""


def _of_gated(gated: nn.Module) -> tuple[TracedModule, Flags, frozenset[str]]:
    """The graph of a gated model, what is open at every node, and the nodes that fold removes."""
    gates, record = gated_record(gated)
    keep = {name: tuple(flags.tolist()) for name, flags in gates.keep_set().items()}
    kept = kept_of(record.analysis, keep)
    gone = {node for branch in closed_branches(record.analysis, keep) for node in branch.nodes}

    def flags(axis: Axis) -> Tensor:
        return torch.tensor(kept_flags(axis, kept))

    types = record.analysis.types.axes
    axes = {
        node.name: [flags(axis) for axis in types[node.outputs[0].name][1:]]
        for node in record.program.ir.nodes
        if len(node.outputs) == 1 and node.outputs[0].name in types
    }
    return gated_graph_of(gated), axes, frozenset(gone)


def _of_any(model: nn.Module, args: tuple[Any, ...], kwargs: Any) -> TracedModule:
    """The graph of a model that was not prepared, on the inputs that it is given."""
    examples = check_examples(model, dict(kwargs) if kwargs else args)
    program = read_model(model, examples, use=Use.RUN)
    return TracedModule(copy_module(model, share_tensors=True), program.graph)


class _Coder(fx.Interpreter):
    """Runs a graph, and looks at what goes into ReLUs."""

    def __init__(
        self, module: TracedModule, graph: fx.Graph, open_at: Flags, gone: frozenset[str]
    ) -> None:
        super().__init__(module, graph=graph)
        self._open_at, self._gone = open_at, gone
        self._modules = dict(module.named_modules())
        self.codes: list[Tensor] = []
        self._samples = 0

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node; before that, look at what goes in: the node may write on it."""
        if self._is_seen(n):
            ((x, *_), _) = self.fetch_args_kwargs_from_env(n)
            self.codes.append(self._code(n, x))
        result = super().run_node(n)
        if n.op == "placeholder" and isinstance(result, Tensor) and not self._samples:
            self._samples = len(result)
        return result

    def _is_seen(self, node: fx.Node) -> bool:
        """Whether a node is a ReLU that the folded model has as well."""
        return node.name not in self._gone and _is_relu(node, self._modules)

    def _code(self, node: fx.Node, x: Tensor) -> Tensor:
        above = x > 0
        for dim, flags in enumerate(self._open_at.get(node.name, ()), start=1):
            if len(flags) == above.shape[dim]:
                above = above.index_select(dim, flags.to(above.device).nonzero().flatten())
        return above.reshape(self._samples, -1)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return "ReLU" in type(modules[str(node.target)]).__name__
    return node.op in ("call_function", "call_method") and bare_name(node) in _FUNCTIONS


def kernel(codes: Iterable[Tensor]) -> np.ndarray:
    """The number of units minus the Hamming distance of codes, for each pair of samples.

    That is the sum over units of x x' + (1 - x)(1 - x').
    """
    total: Any = 0.0
    for piece in _pieces(codes):
        x = piece.double()
        total = total + x @ x.T + (1 - x) @ (1 - x).T
    found: np.ndarray = total.cpu().numpy()
    return found


def _pieces(codes: Iterable[Tensor]) -> Iterator[Tensor]:
    for code in codes:
        yield from torch.split(code, _CHUNK, dim=1)
