"""Nested inputs and outputs: tensors in lists, tuples, mappings."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of a nested structure, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def rebuilt(container: Any, items: list[Any]) -> Any:
    """A list or tuple of the kind of `container`."""
    if isinstance(container, tuple) and hasattr(container, "_fields"):
        return type(container)(*items)
    if isinstance(container, tuple) and type(container) is not tuple:
        return type(container)(items)
    return items if isinstance(container, list) else tuple(items)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """`function` applied to the items of a container; anything else as it is."""
    if type(value) in _LEAVES:
        return value
    if isinstance(value, Mapping):
        return {key: function(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return rebuilt(value, [function(item) for item in value])
    if isinstance(value, slice):
        return slice(function(value.start), function(value.stop), function(value.step))
    return value


def leaves_of(value: Any) -> list[Any]:
    """What containers hold that is none, in order."""
    if isinstance(value, list | tuple):  # quicker to tell than mappings
        return [leaf for item in value for leaf in leaves_of(item)]
    if type(value) not in _LEAVES and isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves_of(item)]
    return [value]


_LEAVES = frozenset((bool, int, float, str, type(None), Tensor))
