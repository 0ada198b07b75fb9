"""One run of a forward under the recorder: arguments in, nodes out."""

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.errors import InputError
from fxprune.torch.frontend.namespaces import OwnCode
from fxprune.torch.frontend.owners import Handed
from fxprune.torch.frontend.recorder import Recorder
from fxprune.torch.frontend.watch import watched

FIXED = "fxprune_fixed"
"""Key in a placeholder's meta: the value of an argument that the trace takes for granted."""

_PLAIN = (bool, int, float, str, type(None))


class Use(Enum):
    """What a graph is for, and so how much it has to know beyond what one run of forward tells.

    `LOOK`: its shapes are read. `COMPARE`: it is compared with another, recorded alike, so no other
    way is tried. `ANALYSIS`: it is read for inputs of any batch size. `RUN`: it runs, on inputs of
    any batch size and type of data.
    """

    LOOK = auto()
    COMPARE = auto()
    ANALYSIS = auto()
    RUN = auto()


@dataclass(frozen=True, slots=True)
class Subject:
    """What is traced: a model and its code, one input per argument, its mode, paths not entered.

    `extras` are arguments for the `**kwargs` of forward; `alike` says whether inputs
    that are one object are one input, `use` what the graph is for, `told` whether libraries are
    told of the trace at once; `known` has what some of `leaves` return. The batch size `is_alone`
    where no other size is the same.
    """

    model: nn.Module
    own: OwnCode
    inputs: tuple[Any, ...]
    mode: bool
    leaves: frozenset[str] = frozenset()
    extras: Mapping[str, Any] = field(default_factory=dict)
    alike: bool = False
    use: Use = Use.ANALYSIS
    told: bool = False
    known: Mapping[str, Any] = field(default_factory=dict)
    batch_is_alone: bool = False

    @property
    def batch(self) -> int:
        """The batch size that all inputs share; 0 if they do not."""
        sizes = {x.shape[0] for x in self.inputs if isinstance(x, Tensor) and x.dim()}
        return sizes.pop() if len(sizes) == 1 else 0

    def with_batch(self, batch: int) -> "Subject":
        """The same with inputs of another batch size, without data."""
        return replace(self, inputs=tuple(_resized(x, batch) for x in self.inputs))


def _resized(value: Any, batch: int) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return value.new_empty((batch, *value.shape[1:]), device="meta")
    return value


def record(subject: Subject, floats: torch.dtype | None = None) -> Recorder:
    """Run forward once; `floats` stands in for the type of the model's parameters."""
    recorder = Recorder(subject.model, subject.mode, floats)
    decisions = recorder.decisions
    decisions.batch, decisions.is_alone = subject.batch, subject.batch_is_alone
    recorder.known_results = subject.known
    try:
        args, kwargs = _placeholders(recorder, subject)
        for name, value in subject.extras.items():
            default = None if holds_tensor(value) or isinstance(value, Handed) else value
            node, kwargs[name] = recorder.input(name, value, (default,))
            if not holds_tensor(value) and not isinstance(value, Handed):
                node.meta[FIXED] = value
        with watched(recorder, subject.model, subject.own.namespaces(), subject.leaves):
            result = subject.model.forward(*args, **kwargs)
        recorder.graph.output(_returned(recorder, result))
        recorder.graph.knows_single = decisions.know_single
    finally:
        recorder.let_go()
    return recorder


def _placeholders(recorder: Recorder, subject: Subject) -> tuple[list[Any], dict[str, Any]]:
    """One placeholder per argument of forward; returns what forward is called with."""
    model, inputs = subject.model, subject.inputs
    known: dict[int, Any] = {}
    named = named_arguments(model)
    signature = inspect.signature(model.forward).parameters.values()
    rest = next((p.name for p in signature if p.kind is p.VAR_POSITIONAL), None)
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
        if isinstance(value, Handed):
            pass
        elif not holds_tensor(value):
            node.meta[FIXED] = value
        elif subject.alike:
            argument = known.setdefault(id(value), argument)
        if value is default:
            continue  # forward knows its own defaults
        by_name = index < len(named) and named[index].kind is inspect.Parameter.KEYWORD_ONLY
        if len(args) == index and not by_name:
            args.append(argument)
        else:
            kwargs[name] = argument
    return args, kwargs


def named_arguments(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of forward that have a name of their own, in order."""
    signature = inspect.signature(model.forward).parameters.values()
    return [p for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _returned(recorder: Recorder, value: Any) -> Any:
    """What forward returns, as nodes; containers of other classes are made by calling the class."""
    if isinstance(value, Mapping):
        items = {key: _returned(recorder, item) for key, item in value.items()}
        if is_dataclass(value):
            return _made(recorder, type(value), (), items)
        if isinstance(value, OrderedDict):
            return _made(recorder, OrderedDict, (items,), {})
        return items
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _made(recorder, type(value), tuple(_returned(recorder, x) for x in value), {})
    if isinstance(value, list | tuple):
        return type(value)(_returned(recorder, item) for item in value)
    if isinstance(value, (Tensor, *_PLAIN)):
        return recorder.to_nodes(value)
    if _is_cache(value):
        return None
    raise TypeError(
        f"its forward returns a {type(value).__name__}, which a graph cannot hold: let it return "
        "tensors"
    )


def _is_cache(value: Any) -> bool:
    """Whether something holds keys and values for the next call of a transformers model.

    Forward has used them, so they are in the graph. Only the model's own code returns them.
    """
    kinds = type(value).__mro__
    return any(k.__name__ == "Cache" and k.__module__.startswith("transformers.") for k in kinds)


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
