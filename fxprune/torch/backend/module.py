"""A module that runs a torch.fx graph and keeps everything else of the module it came from.

torch.fx.GraphModule keeps only what its graph mentions. This one keeps unused parameters, buffers
that are not saved, the order of state_dict keys and plain attributes such as `config`, and it
survives deepcopy and pickle. Where train and eval differ it runs the graph of its mode.
"""

import copy
import weakref
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import InputError
from fxprune.torch.backend.forwards import (
    Code,
    Forward,
    chosen,
    codes_of,
    forward_of,
    generated,
    tidy,
)
from fxprune.torch.frontend.owners import PlainGraph
from fxprune.torch.frontend.packing import Row, pack_graph, unpack_graph
from fxprune.torch.frontend.values import CONSTANT
from fxprune.torch.frontend.ways import select, ways_of
from fxprune.torch.gates.module import PREFIX, Gates

_CONTAINERS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
CALLS = ("_compiled_call_impl", "forward", "_original_forward")
"""What libraries leave in the dictionary of a module and calls this very one."""
_LABELS = "labels"
"""The argument of which a model computes its loss."""
_HOOKS = ("_forward_", "_backward_", "_state_dict_", "_load_state_dict_")


class TracedModule(fx.GraphModule):
    """An ordinary nn.Module: `root` with its forward replaced by `graph`."""

    _codes: list[Code]

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "") -> None:
        for node in graph.nodes:
            if CONSTANT in node.meta:
                root.__dict__.setdefault(str(node.target), node.meta[CONSTANT])
        super().__init__(root, graph, class_name or type(root).__name__)
        for name in _CONTAINERS:
            self.__dict__[name] = root.__dict__[name]
        for name, value in own_state(root).items():
            self.__dict__.setdefault(name, value)
            if name.startswith(_HOOKS):
                self.__dict__[name] = value
        self.training = root.training
        if isinstance(gates := self._modules.get(PREFIX), Gates):
            gates.belong_to(self)

    @property
    def graph(self) -> fx.Graph:
        """The graph of the present mode: what torch.export and interpreters run."""
        return self.graph_of(0)

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        fx.GraphModule.graph.fset(self, graph)  # type: ignore[attr-defined]
        owner: Any = weakref.proxy(self)  # in a cycle of references it would outlive its use
        graph.owning_module = owner

    def graph_of(self, example: int) -> fx.Graph:
        """The graph of an example in the present mode."""
        ways = [way for way in ways_of(self._graph) if way.example == example]
        return select(self._graph, next(w for w in ways if w.training in (None, self.training)))

    def recompile(self) -> Any:
        """Regenerate `forward` from the graph."""
        whole, self._graph = self._graph, self.graph  # torch knows no graph of several ways
        try:
            code = super().recompile()
        finally:
            self._graph = whole
        own = tidy(type(self).forward)

        def of_way(graph: fx.Graph) -> Forward:
            return own if graph is whole else generated(self, graph)

        codes = codes_of(self, whole, of_way)
        type(self).forward = forward_of(codes)
        type(self)._codes = codes
        return code

    def graph_for(self, inputs: tuple[Any, ...]) -> fx.Graph:
        """The graph that inputs run in the present mode."""
        return self.graph_of(chosen(self._codes, inputs, {}))

    def call_of(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[fx.Graph, list[Any]]:
        """The graph that a call runs in the present mode, and the values of its placeholders.

        Arrays are copied, since models may write on them. Labels, which decide on a loss alone, are
        left out where it was recorded without.
        """
        code = self._codes[0]
        without = _LABELS not in code.defaults or code.fixed.get(_LABELS, 0) is None
        known = {n: value for n, value in kwargs.items() if n != _LABELS or not without}
        number = chosen(self._codes, args, known)
        given, graph = self._codes[number].given(args, known), self.graph_of(number)
        places = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
        if lacking := [name for name in places if given[name] is Parameter.empty]:
            raise InputError(f"a batch of data lacks the input {', '.join(lacking)}")
        values = (given[name] for name in places)
        return graph, [v.clone() if isinstance(v, torch.Tensor) else v for v in values]

    def replace_literals(self, old: Any, new: Any) -> None:
        """Write `new` wherever a call has the literal `old`."""

        def swap(item: Any) -> Any:
            return new if item is old else item

        for node in self._graph.nodes:
            node.args = fx.node.map_aggregate(node.args, swap)
            node.kwargs = fx.node.map_aggregate(node.kwargs, swap)
            if node.op == "call_method" and node.target == "float" and new is torch.float64:
                node.target = "double"
        self.recompile()

    def replace_function(self, old: Callable[..., Any], new: Callable[..., Any]) -> None:
        """Call `new` wherever the graph calls `old`."""
        calls = [node for node in self._graph.nodes if node.target is old]
        for node in calls:
            node.target = new
        if calls:
            self.recompile()

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedModule":
        root = nn.Module()
        graph = PlainGraph()
        graph.output(graph.graph_copy(self._graph, {})).meta.update(self._graph.output_node().meta)
        record = self.meta
        root.__dict__ = {
            name: value
            if isinstance(value, torch.jit.ScriptFunction)  # torch cannot copy it
            else copy.deepcopy(value, memo)
            for name, value in own_state(self).items()
        }
        clone = TracedModule(root, graph, type(self).__name__)
        clone.meta = dict(record)
        memo[id(self)] = clone
        return clone

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (
            own_state(self),
            pack_graph(self._graph),
            type(self).__name__,
            dict(self.meta),
        )


def become(module: nn.Module, other: nn.Module) -> None:
    """Let a module be another one, under its own identity; what refers to it stays right."""
    module.__class__ = other.__class__
    module.__dict__ = other.__dict__
    if isinstance(module, TracedModule):
        module.graph = module._graph  # owned by `module` from now on
    if isinstance(gates := module._modules.get(PREFIX), Gates):
        gates.belong_to(module)


def own_state(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module but for its graph, and for what calls this very module.

    `module.compile()`, and libraries that replace `forward` of an instance, as accelerate does to
    train in bfloat16, leave the latter in its dictionary; another module would call this one.
    """
    left_out = ("_graph", "meta", *CALLS)
    return {name: value for name, value in module.__dict__.items() if name not in left_out}


def _rebuilt(
    state: dict[str, Any], rows: list[Row], class_name: str, meta: dict[str, Any]
) -> TracedModule:
    root = nn.Module()
    root.__dict__ = state
    module = TracedModule(root, unpack_graph(rows), class_name)
    module.meta = meta
    return module


def copy_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of a graph and the map from old nodes to new ones; metas are shared."""
    copies: dict[fx.Node, fx.Node] = {}
    clone = PlainGraph()
    clone.output(clone.graph_copy(graph, copies)).meta.update(graph.output_node().meta)
    clone.set_codegen(graph._codegen)
    return clone, copies
