"""A module that runs a torch.fx graph and keeps everything else of the module it came from.

torch.fx.GraphModule keeps only what its graph mentions. This one keeps unused parameters, buffers
that are not saved, the order of state_dict keys and plain attributes such as `config`, and it
survives deepcopy and pickle. Where train and eval differ it runs the graph of its mode.
"""

import copy
import functools
import inspect
import linecache
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph_module import _loader

from fxprune.errors import InputError
from fxprune.torch.frontend.forward import FIXED
from fxprune.torch.frontend.modes import MODES, select_mode
from fxprune.torch.frontend.packing import Row, pack_graph, unpack_graph
from fxprune.torch.frontend.values import CONSTANT
from fxprune.torch.gates.module import PREFIX, Gates

_CONTAINERS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_OF_GRAPHS = [
    "_code",
    "_create_node_hooks",
    "_deepcopy_hooks",
    "_erase_node_hooks",
    "_lineno_map",
    "_prologue_start",
    "_replace_hooks",
    "_tracer_cls",
    "_tracer_extras",
    "shape_env",
]
"""What torch.fx keeps on its modules."""
CALLS = ("_compiled_call_impl", "forward", "_original_forward")
"""What libraries leave in the dictionary of a module and calls this very one."""
_HOOKS = ("_forward_", "_backward_", "_state_dict_", "_load_state_dict_")


class TracedModule(fx.GraphModule):
    """An ordinary nn.Module: `root` with its forward replaced by `graph`."""

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
        if MODES in self._graph.output_node().meta:
            return select_mode(self._graph, self.training)
        return self._graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        fx.GraphModule.graph.fset(self, graph)  # type: ignore[attr-defined]
        owner: Any = weakref.proxy(self)  # in a cycle of references it would outlive its use
        graph.owning_module = owner

    def recompile(self) -> Any:
        """Regenerate `forward` from the graph, one per mode if they differ."""
        code = super().recompile()
        generated = [type(self).forward]
        if MODES in self._graph.output_node().meta:
            train, evaluation = (
                _forward_of(self, select_mode(self._graph, mode)) for mode in (True, False)
            )
            type(self).forward = _dispatch(train, evaluation)
            generated += [train, evaluation]
        files = [function.__code__.co_filename for function in generated]
        weakref.finalize(self, _forget, files).atexit = False
        if fixed := _fixed_arguments(self._graph):
            type(self).forward = _guarded(type(self).forward, fixed)
        return code

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

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedModule":
        root = nn.Module()
        graph = fx.Graph()
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


def _forget(files: Iterable[str]) -> None:
    """Drop generated source, which torch keeps for tracebacks even when its module is gone."""
    for file in files:
        linecache.cache.pop(file, None)
        _loader.eval_cache.pop(file, None)


def of_own_kind(folded: TracedModule, kind: type[nn.Module]) -> nn.Module:
    """A module of the class that a traced module was made from, with its state."""
    module = kind.__new__(kind)
    module.__dict__ = {
        name: value
        for name, value in own_state(folded).items()
        if name not in _OF_GRAPHS and not name.startswith(CONSTANT)
    }
    return module


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


def forward_of(root: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    """What runs a graph as the forward of `root`, in its mode, with the arguments of the trace."""
    if MODES in graph.output_node().meta:
        train, evaluation = (_forward_of(root, select_mode(graph, mode)) for mode in (True, False))
        forward = _dispatch(train, evaluation)
    else:
        forward = _forward_of(root, graph)
    fixed = _fixed_arguments(graph)
    return _guarded(forward, fixed) if fixed else forward


def _forward_of(root: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    """The code that torch generates for a graph."""
    module = fx.GraphModule(root, graph)
    graph.owning_module = None  # else it would hold the parameters of `root`, in a cycle
    return type(module).forward


def _dispatch(train: Callable[..., Any], evaluation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(evaluation)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (train if self.training else evaluation)(self, *args, **kwargs)

    return forward


def _fixed_arguments(graph: fx.Graph) -> dict[str, Any]:
    """The arguments whose values the trace took for granted."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    return {str(node.target): node.meta[FIXED] for node in places if FIXED in node.meta}


def _guarded(forward: Callable[..., Any], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    """`forward`, which refuses another value for an argument that the trace took for granted."""
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def guarded(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, value in fixed.items():
            given = bound.arguments[name]
            if given is not value and not (_kind(given) is _kind(value) and given == value):
                raise InputError(
                    f"this model was traced with {name}={value!r}, not {given!r}: give prepare "
                    "example_inputs with the value that you use"
                )
        return forward(*bound.args, **bound.kwargs)

    return guarded


def _kind(value: Any) -> type:
    """The class of an argument; shapes are tuples, which they are equal to."""
    return tuple if isinstance(value, torch.Size) else type(value)


def copy_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of a graph and the map from old nodes to new ones; metas are shared."""
    copies: dict[fx.Node, fx.Node] = {}
    clone = fx.Graph()
    clone.output(clone.graph_copy(graph, copies)).meta.update(graph.output_node().meta)
    clone.set_codegen(graph._codegen)
    return clone, copies
