"""What are the modules of a model called with, and what do they return?"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.ir import Value
from fxprune.torch.frontend.nests import leaves_of, mapped
from fxprune.torch.frontend.owners import Handed


@dataclass(frozen=True, slots=True)
class Given:
    """An array that a module is called with: as passes know it, if they do, and without data."""

    value: Value | None
    example: Tensor


@dataclass(frozen=True, slots=True)
class CallOf:
    """One call of a module that was entered; arrays are `Given`, numbers those of the example.

    `result` has arrays without data, and is None if it is not known. What is neither an array nor a
    plain value is `Handed`.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any


def calls_of(
    recorded: Mapping[str, list[Any]], values: Mapping[fx.Node, Any]
) -> dict[str, tuple[CallOf, ...]]:
    """The calls that a graph has written down; `values` are those of passes by node."""

    def given(item: Any) -> Any:
        if not isinstance(item, fx.Node):
            return _described(item, given)
        value, example = values.get(item), item.meta.get("value")
        if not isinstance(example, Tensor):
            return example
        return Given(value if isinstance(value, Value) else None, example)

    def call_of(args: Any, kwargs: Any, result: Any) -> CallOf:
        return CallOf(given(args), given(kwargs), _returned(result))

    return {path: tuple(call_of(*call) for call in calls) for path, calls in recorded.items()}


def _returned(item: Any) -> Any:
    """What a module returned, without data."""
    if isinstance(item, fx.Node):
        return item.meta.get("value")
    return _described(item, _returned)


_PLAIN = (bool, int, float, str, torch.dtype, torch.device, type(None), Handed)


def _described(item: Any, inner: Callable[[Any], Any]) -> Any:
    """A nest with `inner` of its items; something else as handed on."""
    if isinstance(item, _PLAIN):
        return item
    nested = isinstance(item, Mapping | list | tuple | slice)
    return mapped(item, inner) if nested else Handed(type(item).__qualname__)


def forms_of(calls: Iterable[CallOf]) -> list[CallOf]:
    """Calls of different forms: shapes of arrays, and everything else that is given."""
    return list({shapes_in((call.args, dict(call.kwargs))): call for call in calls}.values())


def shapes_in(nest: Any) -> str:
    """A nest with shapes and types for its arrays, to compare."""

    def shape_of(item: Any) -> Any:
        if isinstance(item, Given):
            item = item.example
        if isinstance(item, Tensor):
            return tuple(item.shape), item.dtype
        return mapped(item, shape_of)

    return repr(shape_of(nest))


def hands_more(call: CallOf) -> bool:
    """Whether a call hands over more than arrays and plain values."""
    return any(isinstance(item, Handed) for item in leaves_of([call.args, dict(call.kwargs)]))


def inputs_of(
    module: nn.Module, call: CallOf
) -> tuple[tuple[Any, ...], dict[str, Any], list[Given]]:
    """What a module is called with: in the order of its forward, in its `**kwargs`, the arrays."""
    signature = inspect.signature(module.forward)
    bound = signature.bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    kinds = {p.kind: name for name, p in signature.parameters.items()}
    extras = dict(bound.arguments.pop(kinds.get(inspect.Parameter.VAR_KEYWORD, ""), {}))
    rest = bound.arguments.pop(kinds.get(inspect.Parameter.VAR_POSITIONAL, ""), ())
    named = [*bound.arguments.values(), *rest]
    given = [item for item in leaves_of([named, extras]) if isinstance(item, Given)]
    return tuple(map(_example, named)), _example(extras), given


def _example(value: Any) -> Any:
    return value.example if isinstance(value, Given) else mapped(value, _example)
