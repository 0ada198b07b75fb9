"""How does a torch module compute? A torch.fx graph of it, with a value on every node.

The model's own forward runs once on tensors without data while `Recorder` writes down every call.
Modules that the operator table knows are one call; every other module is entered, so that no leaf
hides parameters that inference cannot see. `self.training` stays live: where it is passed on it
becomes a node of the graph, and where the model branches on it both modes are traced and merged.
Nothing is computed, no statistics move, no random numbers are drawn, and the model is as it was
afterwards.
"""

import builtins
import functools
import inspect
import itertools
import logging
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from fxprune.errors import InputError, TraceError
from fxprune.frontends.torch_in_place import follow_in_place
from fxprune.frontends.torch_recorder import CONSTANT, EFFECTS, CallError, Recorder, UndecidedError
from fxprune.frontends.torch_spellings import NAMES, bare_name, module_spelling
from fxprune.passes.operators import OPERATORS

MODES = "fxprune_modes"
"""Key in the output node's meta: the graph returns (train result, eval result)."""

FIXED = "fxprune_fixed"
"""Key in a placeholder's meta: the value of an argument that the trace takes for granted."""

STAND_IN = torch.float64

_log = logging.getLogger("fxprune")
_PLAIN = (bool, int, float, str, type(None))


def trace(model: nn.Module, inputs: tuple[Any, ...]) -> fx.Graph:
    """The torch.fx graph of a model on example inputs, one per argument of its forward.

    Every node has `meta["value"]`: a meta tensor, a container of them, or a Python value. A model
    that branches on `self.training` gets one graph that returns the pair of both results, marked
    by `MODES` in the meta of its output node.

    Raises:
        InputError: the model does not accept the inputs.
        TraceError: the model's Python cannot be traced.
    """
    graph, branched = _trace_mode(model, inputs, model.training)
    if not branched:
        return graph
    other, _ = _trace_mode(model, inputs, not model.training)
    return _merge(*((graph, other) if model.training else (other, graph)))


def _trace_mode(model: nn.Module, inputs: tuple[Any, ...], mode: bool) -> tuple[fx.Graph, bool]:
    try:
        recorder = _attempt(model, inputs, mode)
    except CallError as error:
        raise InputError(
            f"{type(model).__name__} fails at {error.place} on example inputs of shape "
            f"{_shapes(inputs)}: {error}\n  {_line_of(error)}\n"
            "Pass example_inputs that the model accepts."
        ) from error
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be traced: {error}\n  {_line_of(error)}\n"
            f"on example inputs of shape {_shapes(inputs)}. Pass example_inputs that the model "
            "accepts, prune a part of the model that has no control flow on values of tensors, or "
            "move that control flow out of forward."
        ) from error
    graph = recorder.graph
    for node in graph.nodes:
        if node.op == "get_attr":
            node.meta["training_flag"] = is_training_flag(node)
    _name_no_first_operand(graph)
    follow_in_place(model, graph)
    remove_dead(graph)
    return graph, recorder.branched_on_mode


def _attempt(model: nn.Module, inputs: tuple[Any, ...], mode: bool) -> Recorder:
    """Run forward as it is; where that needs to know values, as libraries run it under a trace."""
    try:
        return _followed(model, inputs, mode)
    except (CallError, UndecidedError):
        with _told():
            return _followed(model, inputs, mode)


def _followed(model: nn.Module, inputs: tuple[Any, ...], mode: bool) -> Recorder:
    recorder = _record(model, inputs, mode)
    nodes = list(recorder.graph.nodes)  # before any of them is added for what follows
    if recorder.reads_types and recorder.writes_types:
        _follow_types(recorder, nodes, model, inputs)
    if recorder.loses_sizes:
        _follow_batch(recorder, nodes, model, inputs)
    return recorder


def _record(
    model: nn.Module, inputs: tuple[Any, ...], mode: bool, floats: torch.dtype | None = None
) -> Recorder:
    """Run forward once; `floats` stands in for the type of the model's parameters."""
    recorder = Recorder(model, mode, floats)
    args, kwargs = _placeholders(recorder, model, inputs)
    with _restored(model), _live_training(recorder), _watched_calls(recorder), recorder:
        result = model.forward(*args, **kwargs)
    recorder.graph.output(_returned(recorder, result))
    return recorder


def _follow_types(
    recorder: Recorder, nodes: list[fx.Node], model: nn.Module, inputs: tuple[Any, ...]
) -> None:
    """Let `y.to(x.dtype)` follow the type of `x`.

    Types do not remember where they come from, so a second run with another type tells
    `x.dtype` (which changes) from `torch.float32` (which does not).
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(STAND_IN)
    try:
        other = _record(model, inputs, recorder.mode, STAND_IN)
    except Exception as error:
        _log.debug("types stay as they are: %s", error)
        return
    finally:
        torch.set_default_dtype(before)
    pairs = list(zip(nodes, other.graph.nodes, strict=False))
    if any((a.op, a.name) != (b.op, b.name) for a, b in pairs):
        return
    for node, twin in pairs:
        for name, (value, changed) in _arguments(node, twin).items():
            if value == recorder.floats and changed == STAND_IN and node in recorder.writes_types:
                asked = recorder.writes_types[node]
                with recorder.graph.inserting_before(node):
                    live = recorder.graph.call_function(getattr, (asked, "dtype"))
                live.meta["value"] = value
                if isinstance(name, int):
                    node.update_arg(name, live)
                else:
                    node.update_kwarg(name, live)


def _follow_batch(
    recorder: Recorder, nodes: list[fx.Node], model: nn.Module, inputs: tuple[Any, ...]
) -> None:
    """Let numbers that are multiples of the batch size follow it.

    Python's `int` and `range` forget where a size comes from, so a second run with a larger batch
    tells which numbers depend on it.
    """
    batch = batch_of(inputs)
    if not batch:
        return
    try:
        other = _record(model, rebatched(inputs, batch + 1), recorder.mode)
    except (CallError, UndecidedError):
        return
    pairs = list(itertools.zip_longest(nodes, other.graph.nodes))
    if any(a is None or b is None or (a.op, a.name) != (b.op, b.name) for a, b in pairs):
        raise ValueError("what it does depends on the size of the batch")
    size: fx.Node | None = None

    def renewed(value: Any, changed: Any, node: fx.Node) -> Any:
        nonlocal size
        if isinstance(value, list | tuple) and isinstance(changed, list | tuple):
            items = zip(value, changed, strict=True)
            return type(value)(renewed(*item, node) for item in items)
        if type(value) is not int or value == changed:
            return value
        if value % batch or value // batch * (batch + 1) != changed:
            raise ValueError(f"{node.name} depends on the size of the batch by a number")
        if size is None:
            first = next(n for n in recorder.graph.nodes if is_batched(n, batch))
            with recorder.graph.inserting_after(first):
                size = recorder.graph.call_method("size", (first, 0))
            size.meta["value"] = batch
        with recorder.graph.inserting_before(node):
            number = recorder.graph.call_function(operator.mul, (size, value // batch))
        number.meta["value"] = value
        return number

    for node, twin in pairs:
        if node.op in ("call_function", "call_method"):
            node.args = tuple(
                renewed(*item, node) for item in zip(node.args, twin.args, strict=True)
            )
            node.kwargs = {
                name: renewed(value, twin.kwargs[name], node) for name, value in node.kwargs.items()
            }


def batch_of(inputs: tuple[Any, ...]) -> int:
    """The batch size that all inputs share; 0 if they do not."""
    sizes = {x.shape[0] for x in inputs if isinstance(x, Tensor) and x.dim()}
    return sizes.pop() if len(sizes) == 1 else 0


def rebatched(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Inputs of another batch size, without data."""
    return tuple(
        x.new_empty((batch, *x.shape[1:]), device="meta")
        if isinstance(x, Tensor) and x.dim()
        else x
        for x in inputs
    )


def is_batched(node: fx.Node, batch: int) -> bool:
    """Whether a node is an input with a batch axis."""
    value = node.meta.get("value")
    return node.op == "placeholder" and isinstance(value, Tensor) and value.shape[:1] == (batch,)


def _arguments(node: fx.Node, twin: fx.Node) -> dict[Any, tuple[Any, Any]]:
    """The arguments of two calls of the same function, side by side."""
    positional = enumerate(zip(node.args, twin.args, strict=False))
    named = {key: (value, twin.kwargs.get(key)) for key, value in node.kwargs.items()}
    return {**dict(positional), **named}


@contextmanager
def _told() -> Iterator[None]:
    """Tell libraries that ask that they are being traced, so that they do not look at values."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {
        name: getattr(torch.compiler, name) for name in flags if hasattr(torch.compiler, name)
    }
    for name in before:
        setattr(torch.compiler, name, True)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch.compiler, name, value)


def _placeholders(
    recorder: Recorder, model: nn.Module, inputs: tuple[Any, ...]
) -> tuple[list[Any], dict[str, Any]]:
    """One placeholder per argument of forward; returns what forward is called with."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    required = sum(p.default is p.empty for p in named)
    if len(inputs) < max(required, 1) or (len(inputs) > len(named) and rest is None):
        raise InputError(
            f"{type(model).__name__} takes {', '.join(p.name for p in named)}, but there are "
            f"{len(inputs)} example_inputs: pass a tuple with one entry per argument"
        )
    names = [p.name for p in named]
    names += [f"{rest}_{i}" for i in range(len(inputs) - len(named))]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, name in enumerate(names):
        default = named[index].default if index < len(named) else inspect.Parameter.empty
        value = inputs[index] if index < len(inputs) else default
        optional = () if default is inspect.Parameter.empty else (default,)
        if optional and not isinstance(default, _PLAIN):
            optional = (None,)
        node, argument = recorder.input(name, value, optional)
        if not holds_tensor(value):
            node.meta[FIXED] = value
        if value is default:
            continue  # forward knows its own defaults
        by_name = index < len(named) and named[index].kind is inspect.Parameter.KEYWORD_ONLY
        if len(args) == index and not by_name:
            args.append(argument)
        else:
            kwargs[name] = argument
    return args, kwargs


def _returned(recorder: Recorder, value: Any) -> Any:
    """What forward returns, as nodes; containers of other classes are made by calling the class."""
    if isinstance(value, Mapping) and type(value) is not dict:
        items = {key: _returned(recorder, item) for key, item in value.items()}
        if is_dataclass(value):
            return _made(recorder, type(value), (), items)
        return _made(recorder, type(value), (items,), {})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _made(recorder, type(value), tuple(_returned(recorder, x) for x in value), {})
    if isinstance(value, list | tuple):
        return type(value)(_returned(recorder, item) for item in value)
    if isinstance(value, dict):
        return {key: _returned(recorder, item) for key, item in value.items()}
    if isinstance(value, (Tensor, *_PLAIN)):
        return recorder.to_nodes(value)
    raise TypeError(
        f"its forward returns a {type(value).__name__}, which a graph cannot hold: let it return "
        "tensors (for a transformers decoder set model.config.use_cache = False)"
    )


def _made(recorder: Recorder, kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    node = recorder.graph.call_function(kind, args, kwargs)
    made: Any = (args[0] if issubclass(kind, Mapping) else args) if args else kwargs
    node.meta["value"] = fx.map_arg(made, lambda item: item.meta["value"])
    return node


def holds_tensor(value: Any) -> bool:
    """Whether there is a tensor in a nested value."""
    if isinstance(value, Mapping):
        return any(map(holds_tensor, value.values()))
    return isinstance(value, Tensor) or (
        isinstance(value, list | tuple) and any(map(holds_tensor, value))
    )


def _shapes(inputs: tuple[Any, ...]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))


def _line_of(error: BaseException) -> str:
    """The line of the model where an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/fxprune/" not in f.filename]
    return f"at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "in its forward"


# What the model sees while it runs --------------------------------------------------------------


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Undo what forward writes on the modules."""
    dictionaries = [
        values
        for module in model.modules()
        for values in (module.__dict__, *module.__dict__.values())
        if isinstance(values, dict)
    ]
    before = [dict(values) for values in dictionaries]
    try:
        yield
    finally:
        for values, original in zip(dictionaries, before, strict=True):
            values.clear()
            values.update(original)


@contextmanager
def _live_training(recorder: Recorder) -> Iterator[None]:
    """Let modules read their `training` from the recorder; a data descriptor wins over __dict__."""

    def write(module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    nn.Module.training = property(recorder.training_flag, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training


@contextmanager
def _watched_calls(recorder: Recorder) -> Iterator[None]:
    """Let calls of leaf modules and of registered functions reach the recorder."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if recorder.paused or not is_leaf(module) or not recorder.knows(module):
            return original(module, *args, **kwargs)
        return recorder.call_module(module, args, kwargs)

    with ExitStack() as stack:
        nn.Module.__call__ = call  # type: ignore[method-assign]
        stack.callback(setattr, nn.Module, "__call__", original)
        _watch_regions(recorder, stack)
        for name, watched in (("len", recorder.length), ("range", recorder.spy_on_range())):
            stack.callback(setattr, builtins, name, getattr(builtins, name))
            setattr(builtins, name, watched)
        for name in _RECURRENT:  # C functions that do not take a live `training`
            setattr(torch._VF, name, _stand_in(recorder, getattr(torch._VF, name)))
            stack.callback(delattr, torch._VF, name)
        for function in _whole_functions():
            stack.enter_context(_watched_function(recorder, function))
        yield


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def _watch_regions(recorder: Recorder, stack: ExitStack) -> None:
    """Record the regions that are no torch calls: autocast and inference mode."""
    regions: dict[int, Any] = {}

    def watch(kind: type, begin: Callable[[Any], Any]) -> None:
        def enter(self: Any) -> Any:
            regions[id(self)] = begin(self)
            regions[id(self)].__enter__()
            return self

        def leave(self: Any, *error: Any) -> Any:
            return regions.pop(id(self)).__exit__(*error)

        for name, method in (("__enter__", enter), ("__exit__", leave)):
            stack.callback(setattr, kind, name, getattr(kind, name))
            setattr(kind, name, method)

    watch(torch.autocast, recorder.autocast)
    watch(torch.inference_mode, lambda region: torch.set_grad_enabled(not region.mode))


def _stand_in(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """What records a call of `function` and otherwise is it."""

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if recorder.paused:
            return function(*args, **kwargs)
        return recorder.call(function, args, kwargs)

    return stand_in


def _whole_functions() -> list[Any]:
    """The functions outside of torch that the table knows."""
    found = []
    for name in (*OPERATORS, *NAMES):
        home, _, attribute = name.rpartition(".")
        function = getattr(sys.modules.get(home), attribute, None) if home else None
        if callable(function) and not isinstance(function, type):
            found.append(function)
    return found


@contextmanager
def _watched_function(recorder: Recorder, function: Callable[..., Any]) -> Iterator[None]:
    """Put a recording stand-in wherever a module has imported `function`."""

    places = [
        vars(module)
        for module in list(sys.modules.values())
        if getattr(module, "__dict__", {}).get(function.__name__) is function
    ]
    for place in places:
        place[function.__name__] = _stand_in(recorder, function)
    try:
        yield
    finally:
        for place in places:
            place[function.__name__] = function


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one call of the graph."""
    if qualified_name(type(module)) in OPERATORS:
        return True
    base = torch_base(type(module))
    return base is not None and module_spelling(base) is not None and not _computes_weights(module)


def _computes_weights(module: nn.Module) -> bool:
    """Whether a parametrisation, or a hook of torch.nn.utils, computes what the module reads."""
    hooks = (type(hook).__module__ for hook in module._forward_pre_hooks.values())
    return is_parametrized(module) or any(name.startswith("torch.nn.utils.") for name in hooks)


def qualified_name(thing: Any) -> str:
    """The name under which a class or function can be registered as an operator."""
    return f"{thing.__module__}.{thing.__qualname__}"


@functools.cache
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


def remove_dead(graph: fx.Graph) -> None:
    """Remove nodes without users; in-place effects have been turned into uses before."""
    graph.eliminate_dead_code(
        is_impure_node=lambda n: n.op in ("placeholder", "output") or n.target in EFFECTS
    )


def _name_no_first_operand(graph: fx.Graph) -> None:
    """Put first operands given by name (`torch.relu(input=x)`) where everybody looks for them."""
    for node in graph.nodes:
        spelling = NAMES.get(bare_name(node)) if node.op == "call_function" else None
        first = spelling.signature.split()[0] if spelling else ""
        if not node.args and first in node.kwargs:
            rest = {name: value for name, value in node.kwargs.items() if name != first}
            node.args, node.kwargs = (node.kwargs[first],), rest


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
