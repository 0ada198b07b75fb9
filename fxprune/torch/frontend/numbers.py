"""Sizes that remember where they come from.

While a model is traced, `x.shape[0]` is an int like any other, and also a node of the graph, so
that the graph computes with the batch size it is called with. Arithmetic is recorded. Where Python
compares a number or makes another of it, it decides with the value of the example run; a watcher
hears of that.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch import fx

from fxprune.torch.frontend.origins import BINARY, OwnFloat, OwnInt, origins_in
from fxprune.torch.frontend.owners import ORIGINS


class Watcher(Protocol):
    """Who hears what Python does with the numbers of a trace, until the trace has ended."""

    @property
    def ended(self) -> bool:
        """Whether the trace is over; its numbers are plain from then on."""

    def number_lost(self, *numbers: Any) -> None:
        """Python forgets where numbers, or what they are computed from, come from."""

    def size_compared(self, compare: Callable[[int, Any], Any], size: "TracedInt", to: Any) -> None:
        """Python compares a size to something, which may be a size as well."""


class TracedInt(int):
    """An int that `node` computes."""

    node: fx.Node
    watcher: Watcher

    def __int__(self) -> int:
        self.watcher.number_lost(self)
        return int.__int__(self)

    def __float__(self) -> float:
        self.watcher.number_lost(self)
        return int.__float__(self)

    __hash__ = int.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (plain_number(self),)


class TracedFloat(float):
    """A float that `node` computes."""

    node: fx.Node
    watcher: Watcher

    def __int__(self) -> int:
        self.watcher.number_lost()
        return int(plain_number(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (plain_number(self),)


TracedNumber = TracedInt | TracedFloat


def traced_number(value: Any, node: fx.Node, watcher: Watcher) -> Any:
    """A number of the example run together with the node that computes it; the rest as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = TracedInt(value) if isinstance(value, int) else TracedFloat(value)
    number.node, number.watcher = node, watcher
    node.meta["value"] = plain_number(value)
    return number


def plain_number(value: Any) -> Any:
    """A number without its history."""
    if isinstance(value, TracedInt | OwnInt):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, TracedFloat | OwnFloat) else value


def _record(function: Callable[..., Any], *operands: Any) -> Any:
    """Compute with plain numbers and note the call in the graph of the first traced operand."""
    first = next(x for x in operands if isinstance(x, TracedNumber))
    if not all(isinstance(operand, int | float) for operand in operands):
        first.watcher.number_lost(*operands)  # as in [x] * n
        return NotImplemented
    result = function(*map(plain_number, operands))
    if first.watcher.ended:
        return result
    arguments = tuple(x.node if isinstance(x, TracedNumber) else plain_number(x) for x in operands)
    node = first.node.graph.call_function(function, arguments)
    if origins := origins_in(operands, {}):
        node.meta[ORIGINS] = origins
    return traced_number(result, node, first.watcher)


def _method(function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    def method(self: Any, *others: Any) -> Any:
        return _record(function, *others, self) if swapped else _record(function, self, *others)

    return method


def _divmod(self: Any, other: Any) -> Any:
    return self // other, self % other


def _rdivmod(self: Any, other: Any) -> Any:
    return other // self, other % self


_BINARY = {
    **{name: getattr(operator, name) for name in BINARY},
    **{"lshift": operator.lshift, "rshift": operator.rshift},
    **{"and": operator.and_, "or": operator.or_, "xor": operator.xor},
}
_UNARY: dict[str, Callable[..., Any]] = {
    "__neg__": operator.neg,
    "__abs__": abs,
    "__round__": round,
    "__ceil__": math.ceil,
    "__floor__": math.floor,
    "__trunc__": math.trunc,
}
for _kind in (TracedInt, TracedFloat):
    for _name, _function in _BINARY.items():
        setattr(_kind, f"__{_name}__", _method(_function))
        setattr(_kind, f"__r{_name}__", _method(_function, swapped=True))
    for _name, _function in _UNARY.items():
        setattr(_kind, _name, _method(_function))
    _kind.__divmod__, _kind.__rdivmod__ = _divmod, _rdivmod  # type: ignore[method-assign]


def _comparison(name: str) -> Callable[..., Any]:
    compare = getattr(int, name)

    def method(self: TracedInt, other: Any) -> Any:
        self.watcher.size_compared(compare, self, other)
        return compare(self, other)

    return method


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(TracedInt, _name, _comparison(_name))
