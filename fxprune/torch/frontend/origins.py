"""Where do the numbers in a module's code come from? Ints that remember the attribute they were.

    self.head_dim                         Attribute("layers.0.attn", ("head_dim",))
    self.config.hidden_size               Attribute("", ("config", "hidden_size"))
    self.num_heads * self.head_dim        Computed("mul", ..., ...)

While a model is recorded, the whole numbers that its modules and their configurations hold are such
ints; in the recorded calls they are plain again, and the calls remember where they came from.
"""

import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxprune.torch.frontend.leaves import is_leaf
from fxprune.torch.frontend.walk import named_modules

CallSlot = tuple[str | int, ...]
"""Where an argument stands in a call: `("args", 1, 0)`, `("kwargs", "shape", 2)`."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A number that the module at `path` keeps: in an attribute, or inside of what it holds."""

    path: str
    names: tuple[str | int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, (self.path, *self.names)))


@dataclass(frozen=True, slots=True)
class Computed:
    """Arithmetic on numbers that modules keep, and on sizes that code asks for: nodes."""

    op: str
    left: "Origin"
    right: "Origin"


@dataclass(frozen=True, slots=True)
class Quotient:
    """A quotient or power of numbers that modules keep, such as a scale: no size of anything."""

    numbers: "tuple[Origin, ...]"


Origin = Attribute | Computed | int | fx.Node


class OwnInt(int):
    """An int that remembers where a module keeps it.

    What else remembers something, such as a size that is traced, has the last word.
    """

    origin: Origin


class OwnFloat(float):
    """A fraction that remembers the numbers that it was computed from."""

    origin: Quotient


def _own_float(value: Any, origin: Quotient) -> Any:
    """A fraction that remembers; anything else, a whole power say, as it is."""
    if type(value) is not float:
        return value
    number = OwnFloat(value)
    number.origin = origin
    return number


def own_int(value: int, origin: Origin) -> OwnInt:
    """`value`, which remembers its origin."""
    number = OwnInt(value)
    number.origin = origin
    return number


def _origin_of(number: Any) -> Origin:
    if isinstance(number, OwnInt):
        return number.origin
    return int(number) if isinstance(number, int) else 1


def attributes_of(origin: Origin | Quotient) -> Iterator[Attribute]:
    """The attributes that a number was computed from."""
    if isinstance(origin, Attribute):
        yield origin
    elif isinstance(origin, Computed):
        yield from attributes_of(origin.left)
        yield from attributes_of(origin.right)
    elif isinstance(origin, Quotient):
        for number in origin.numbers:
            yield from attributes_of(number)


_PLAIN = (int, float, bool, OwnInt, OwnFloat)


def _method(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    function = _FORGETFUL.get(name) or getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        left, right = (other, self) if swapped else (self, other)
        return _computed(name, function, left, right)

    return method


def _computed(name: str, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """What `function` makes of two numbers, if neither is one that remembers something else."""
    if type(left) not in _PLAIN or type(right) not in _PLAIN:
        return NotImplemented
    value = function(_plain(left), _plain(right))
    if type(value) is int and name in _KEPT:
        return own_int(value, Computed(name, _origin_of(left), _origin_of(right)))
    numbers = tuple(n for each in (left, right) for n in _numbers_of(each))
    return _own_float(value, Quotient(numbers))


def _plain(number: Any) -> Any:
    if isinstance(number, OwnInt):
        return int.__int__(number)
    return float.__float__(number) if isinstance(number, OwnFloat) else number


def _numbers_of(number: Any) -> tuple[Origin, ...]:
    """The numbers that modules keep of which one was computed."""
    if isinstance(number, OwnFloat):
        return number.origin.numbers
    return (number.origin,) if isinstance(number, OwnInt) else ()


_KEPT = ("add", "sub", "mul", "floordiv")
"""What whole numbers are computed by that remember how."""
BINARY = (*_KEPT, "truediv", "pow", "mod")
"""The arithmetic that numbers are known by."""

_FORGETFUL: Mapping[str, Callable[..., Any]] = {
    **{"lshift": operator.lshift, "rshift": operator.rshift, "divmod": divmod},
    **{"and": operator.and_, "or": operator.or_, "xor": operator.xor},
}
"""What gives plain numbers of what modules keep, but leaves to others what they remember."""

for _name in (*BINARY, *_FORGETFUL):
    for _kind in (OwnInt, OwnFloat):
        setattr(_kind, f"__{_name}__", _method(_name, swapped=False))
        setattr(_kind, f"__r{_name}__", _method(_name, swapped=True))


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    compare = getattr(int, name)

    def method(self: OwnInt, other: Any) -> Any:
        return compare(self, other) if type(other) in _PLAIN else NotImplemented

    return method


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(OwnInt, _name, _comparison(_name))


def origins_in(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[CallSlot, Origin | Quotient]:
    """The numbers of a call that modules keep, by where they stand in it."""
    return dict(_found(args, ("args",))) | dict(_found(kwargs, ("kwargs",)))


def _found(value: Any, place: CallSlot) -> Iterator[tuple[CallSlot, Origin | Quotient]]:
    if isinstance(value, OwnInt | OwnFloat):
        yield place, value.origin
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _found(item, (*place, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _found(item, (*place, index))
    elif isinstance(value, slice):
        for name in ("start", "stop", "step"):
            yield from _found(getattr(value, name), (*place, name))


@contextmanager
def remembering(model: nn.Module) -> Iterator[None]:
    """Let the numbers that modules and their configurations keep remember where they are kept."""
    written: list[tuple[dict[str, Any], str, Any]] = []
    seen: set[int] = set()
    try:
        for path, module in named_modules(model):
            if not is_leaf(module):
                _remember(path, (), module.__dict__, written, seen)
        yield
    finally:
        for holder, name, value in reversed(written):
            holder[name] = value


def _remember(
    path: str,
    names: tuple[str | int, ...],
    holder: dict[str, Any],
    written: list[tuple[dict[str, Any], str, Any]],
    seen: set[int],
) -> None:
    for name, value in list(holder.items()):
        if type(value) in _NO_NUMBERS or name.startswith("_"):
            continue
        if _is_configuration(value) and len(names) < 2 and id(value) not in seen:
            seen.add(id(value))
            _remember(path, (*names, name), value.__dict__, written, seen)
        new = _remembered(value, path, (*names, name))
        if new is not value:
            written.append((holder, name, value))
            holder[name] = new


_NO_NUMBERS = frozenset((bool, float, str, type(None), dict, OrderedDict, set))
"""What most attributes are."""


def _remembered(value: Any, path: str, names: tuple[str | int, ...]) -> Any:
    """A number, or a tuple or list of numbers, that remembers; anything else as it is."""
    if type(value) is int and value > 1:
        return own_int(value, Attribute(path, names))
    if type(value) in (tuple, list) and value and all(type(item) is int for item in value):
        return type(value)(_remembered(item, path, (*names, i)) for i, item in enumerate(value))
    return value


def _is_configuration(value: Any) -> bool:
    """Whether something may hold numbers that a module reads: a plain object with attributes."""
    kind = type(value)
    return (
        isinstance(getattr(value, "__dict__", None), dict)
        and not isinstance(value, nn.Module | Tensor | type)
        and not callable(value)
        and kind.__module__ not in ("builtins", "functools", "weakref", "types")
    )
