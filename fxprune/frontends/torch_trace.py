"""How does a torch module compute? A torch.fx graph of it, with a shape on every node.

The tracer enters every module that torch.nn does not define, so that no leaf hides parameters
that inference cannot see. `self.training` stays live: where it is passed on it becomes a node of
the graph, and where the model branches on it both modes are traced and merged. Shapes come from a
run on the meta device: nothing is computed, no statistics move, no random numbers are drawn.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.errors import InputError, TraceError
from fxprune.frontends.torch_in_place import follow_in_place
from fxprune.frontends.torch_spellings import NAMES, bare_name
from fxprune.passes.operators import OPERATORS

MODES = "fxprune_modes"
"""Key in the output node's meta: the graph returns (train result, eval result)."""

CONSTANT = "fxprune_constant"
"""Key in a node's meta: the tensor that forward makes from nothing, under the node's target."""


class _Tracer(fx.Tracer):
    """torch.fx's tracer with a live `self.training`; remembers whether the model branched on it."""

    def __init__(self, root: nn.Module, mode: bool) -> None:
        super().__init__(autowrap_functions=_registered_functions(), param_shapes_constant=True)
        self.mode = mode
        self.branched_on_mode = False
        self.paths = {id(module): name for name, module in root.named_modules()}
        self.buffers = {id(buffer): name for name, buffer in root.named_buffers()}

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a module under trace sees as one of its attributes.

        Buffers are read by the graph; else arithmetic on buffers alone would be done right now.
        """
        name = self.buffers.get(id(attr_val))
        if name is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            node = self.create_node("get_attr", name, (), {})
            parameter_proxy_cache[name] = _BufferProxy(self, node, name, attr_val)
        return parameter_proxy_cache[name]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if qualified_name(type(m)) in OPERATORS:
            return True
        if type(m) in _timm_registry("_leaf_modules") and not any(True for _ in m.parameters()):
            return True
        return torch_base(type(m)) is not None and not isinstance(m, _ENTERED)

    def to_bool(self, obj: fx.Proxy) -> bool:
        if is_training_flag(obj.node):
            self.branched_on_mode = True
            return self.mode
        return super().to_bool(obj)

    def training_flag(self, module: nn.Module) -> Any:
        """What a module under trace sees as its `training`."""
        if id(module) not in self.paths:
            return module.__dict__["training"]
        path = self.paths[id(module)]
        return self.create_proxy("get_attr", f"{path}.training" if path else "training", (), {})


class _BufferProxy(fx.proxy.ParameterProxy):
    """A buffer in the graph; its shape and type are plain values, like those of a parameter."""

    def __init__(self, tracer: fx.Tracer, node: fx.Node, name: str, buffer: Tensor) -> None:
        fx.Proxy.__init__(self, node, tracer)
        self.param = buffer  # type: ignore[assignment]
        self.name = name


_ENTERED = (nn.Unflatten, nn.GLU, nn.ChannelShuffle, nn.Softmax)
"""Modules without parameters that only call a function of the same name."""


def qualified_name(thing: Any) -> str:
    """The name under which a class or function can be registered as an operator."""
    return f"{thing.__module__}.{thing.__qualname__}"


def _registered_functions() -> tuple[Any, ...]:
    """The functions that users registered as operators and those that timm keeps out of traces."""
    found = list(_timm_registry("_autowrap_functions"))
    for name in OPERATORS:
        home, _, attribute = name.rpartition(".")
        function = getattr(sys.modules.get(home), attribute, None)
        if callable(function) and not isinstance(function, type):
            found.append(function)
    return tuple(found)


def _timm_registry(name: str) -> set[Any]:
    """What timm registered as not traceable, if timm is in use."""
    registered: set[Any] = getattr(sys.modules.get("timm.layers._fx"), name, set())
    return registered


def torch_base(cls: type) -> type | None:
    """The torch.nn class whose forward `cls` runs; a batch norm subclass always counts as one."""
    for base in cls.__mro__:
        if base.__module__.startswith("torch.nn") and base is not nn.Module:
            if issubclass(base, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                return None
            if _computes_like(cls, base) or issubclass(base, nn.modules.batchnorm._BatchNorm):
                return base
            return base if issubclass(base, nn.modules.dropout._DropoutNd) else None
    return None


def _computes_like(cls: type, base: type) -> bool:
    """Whether a subclass leaves the forward of its base, and what that calls, as they are."""
    methods = {
        name
        for ancestor in base.__mro__[: base.__mro__.index(nn.Module)]
        for name, value in vars(ancestor).items()
        if callable(value) and name not in _HARMLESS
    }
    return all(getattr(cls, name) is getattr(base, name) for name in methods)


_HARMLESS = ("__init__", "__new__", "__repr__", "__setstate__", "extra_repr", "reset_parameters")


def is_training_flag(node: fx.Node) -> bool:
    """Whether a node reads `training` of a module."""
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training"


@contextmanager
def _live_training(tracer: _Tracer) -> Iterator[None]:
    """Let modules read their `training` from the tracer; a data descriptor wins over __dict__."""

    def write(module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    nn.Module.training = property(tracer.training_flag, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training


def trace(model: nn.Module) -> fx.Graph:
    """The torch.fx graph of a model; the model is as it was afterwards.

    A model that branches on `self.training` gets one graph that returns the pair of both results,
    marked by `MODES` in the meta of its output node.

    Raises:
        TraceError: the model's Python cannot be traced.
    """
    graph, branched = _trace_mode(model, model.training)
    if not branched:
        return graph
    other, _ = _trace_mode(model, not model.training)
    return _merge(*((graph, other) if model.training else (other, graph)))


def _trace_mode(model: nn.Module, mode: bool) -> tuple[fx.Graph, bool]:
    tracer = _Tracer(model, mode)
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    try:
        with _live_training(tracer):
            graph = tracer.trace(model)
        _take_constants(model, graph, attributes[model])
    except Exception as error:
        raise TraceError(_explain(model, error)) from error
    finally:
        for module, before in attributes.items():
            module.__dict__.clear()
            module.__dict__.update(before)
    for node in graph.nodes:
        if node.op == "get_attr":
            node.meta["training_flag"] = is_training_flag(node)
        if node.op == "placeholder" and str(node.target).startswith("*") and node.users:
            raise TraceError(
                f"{type(model).__name__}.forward uses {node.target}, whose length is not known: "
                "wrap the model in a module whose forward names every argument"
            )
    _name_no_first_operand(graph)
    follow_in_place(model, graph)
    remove_dead(graph)
    return graph, tracer.branched_on_mode


def _take_constants(model: nn.Module, graph: fx.Graph, before: Mapping[str, Any]) -> None:
    """Note the tensors that tracing leaves on the model, which will be taken off again."""
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in before and node.target in model.__dict__:
            node.meta[CONSTANT] = model.__dict__[node.target]


def remove_dead(graph: fx.Graph) -> None:
    """Remove nodes without users; in-place effects have been turned into uses before."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def _name_no_first_operand(graph: fx.Graph) -> None:
    """Put first operands given by name (`torch.relu(input=x)`) where everybody looks for them."""
    for node in graph.nodes:
        spelling = NAMES.get(bare_name(node)) if node.op == "call_function" else None
        first = spelling.signature.split()[0] if spelling else ""
        if not node.args and first in node.kwargs:
            rest = {name: value for name, value in node.kwargs.items() if name != first}
            node.args, node.kwargs = (node.kwargs[first],), rest


def _explain(model: nn.Module, error: Exception) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/fx/" not in f.filename and "/fxprune/" not in f.filename]
    where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "its forward"
    return (
        f"{type(model).__name__} cannot be traced: {error}\n  at {where}\n"
        "Prune a part of the model that has no data-dependent Python control flow, or move that "
        "control flow out of forward."
    )


def _merge(train: fx.Graph, evaluation: fx.Graph) -> fx.Graph:
    """One graph that computes both results; what both modes compute alike is there once."""
    merged = fx.Graph()
    known: dict[Any, fx.Node] = {}
    results = []
    for graph in (train, evaluation):
        copies: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if node.op == "output":
                results.append(fx.map_arg(node.args[0], copies.__getitem__))
                continue
            args = fx.map_arg(node.args, copies.__getitem__)
            kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
            if CONSTANT in node.meta and graph is evaluation:
                node.target = f"{node.target}_of_evaluation"  # each mode makes its own
            key = (node.op, node.target, str(args), str(kwargs), node.name)
            if key not in known:
                known[key] = merged.node_copy(node, copies.__getitem__)
            copies[node] = known[key]
    merged.output(tuple(results)).meta[MODES] = True
    return merged


def select_mode(graph: fx.Graph, training: bool) -> fx.Graph:
    """The part of a merged graph that one mode runs."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    copy.set_codegen(graph._codegen)
    output = copy.output_node()
    output.args = (output.args[0][0 if training else 1],)  # type: ignore[index]
    remove_dead(copy)
    return copy


def propagate_shapes(model: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]) -> None:
    """Set `meta["value"]` of every node: a meta tensor, a container of them, or a Python value.

    Raises:
        InputError: the model does not accept the inputs.
    """
    _check_count(model, graph, inputs)
    run = _MetaRun(model, inputs)
    with torch.no_grad(), torch.device("meta"):
        for node in graph.nodes:
            try:
                node.meta["value"] = run.value_of(node)
            except Exception as error:
                shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
                raise InputError(
                    f"{type(model).__name__} fails at {node.name} ({node.target}) on example "
                    f"inputs of shape {shapes}: {error}\n"
                    "Pass example_inputs that the model accepts."
                ) from error


def _check_count(model: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]) -> None:
    places = [node for node in graph.nodes if node.op == "placeholder"]
    required = sum(not node.args for node in places if not str(node.target).startswith("*"))
    if not required <= len(inputs) <= len(places):
        names = ", ".join(str(node.target) for node in places)
        raise InputError(
            f"{type(model).__name__} takes {names}, but there are {len(inputs)} example_inputs: "
            "pass a tuple with one entry per argument"
        )


class _MetaRun:
    """Evaluates nodes on meta tensors; the frequent modules by formula, the others for real."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._modules = dict(model.named_modules())
        self._inputs = iter(inputs)
        self._meta: dict[int, Tensor] = {}
        self._model = model

    def value_of(self, node: fx.Node) -> Any:
        """The value of one node whose operands have theirs."""
        args = fx.map_arg(node.args, _value)
        kwargs = fx.map_arg(node.kwargs, _value)
        target: Any = node.target
        if node.op == "placeholder":
            default = node.args[0] if node.args else None
            return _to_meta(next(self._inputs, default))
        if node.op == "get_attr":
            constant = node.meta.get(CONSTANT)
            return self._attribute(target) if constant is None else self._on_meta(constant)
        if node.op == "call_module":
            return self._call_module(self._modules[target], args, kwargs)
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return args[0]

    def _attribute(self, target: str) -> Any:
        path, _, name = target.rpartition(".")
        value = getattr(self._modules[path], name)
        return self._on_meta(value) if isinstance(value, Tensor) else value

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._meta:
            self._meta[id(tensor)] = _to_meta(tensor.detach())
        return self._meta[id(tensor)]

    def _call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        if not kwargs and len(args) == 1 and _is_float(args[0]):
            shape = _module_shape(module, tuple(args[0].shape))
            if shape is not None:
                return args[0].new_empty(shape)
        tensors = itertools.chain(module.named_parameters(), module.named_buffers())
        state = {name: self._on_meta(tensor) for name, tensor in tensors}
        return torch.func.functional_call(module, state, args, kwargs)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _value(node: fx.Node) -> Any:
    return node.meta["value"]


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, list | tuple):
        return type(value)(map(_to_meta, value))
    if isinstance(value, Mapping):
        return {key: _to_meta(item) for key, item in value.items()}
    return value


_SAME_SHAPE = (nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish,
               nn.Hardsigmoid, nn.Sigmoid, nn.GELU, nn.Dropout, nn.Identity)  # fmt: skip


def _module_shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The output shape of the modules that make up most of a CNN; None for the others."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return shape if len(shape) > 1 and shape[1] == module.num_features else None
    if isinstance(module, _SAME_SHAPE):
        return shape
    if type(module) is nn.Conv2d and len(shape) == 4 and shape[1] == module.in_channels:
        return _conv_shape(module, shape)
    if type(module) is nn.Linear and shape and shape[-1] == module.in_features:
        return (*shape[:-1], module.out_features)
    return None


def _conv_shape(module: nn.Conv2d, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if isinstance(module.padding, str):
        return None
    windows = zip(
        shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True
    )
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in windows]
    return (shape[0], module.out_channels, *sizes) if min(sizes) > 0 else None
