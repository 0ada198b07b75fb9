"""Which code is a model's own? The globals of its classes, of what they call, and so on.

Torch's own code and Python's library do not count: nothing is ever replaced there.
"""

import functools
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from fxprune.torch.frontend.walk import modules_in

_NOT_OWN = frozenset(("torch", "torchgen", "functorch", "numpy", "fxprune", "builtins"))
_CODE = (FunctionType, type, ModuleType, functools.partial, staticmethod, classmethod, property,
         functools._lru_cache_wrapper)  # fmt: skip

Namespace = dict[str, Any]


class OwnCode:
    """The namespaces of a model, looked for again only where modules were imported since."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = 0
        self._found: list[Namespace] = []

    def namespaces(self) -> list[Namespace]:
        """The globals of all code that the model's forward may run."""
        if self._modules != len(sys.modules):
            self._found = namespaces_of(self._model)
            self._modules = len(sys.modules)
        return self._found


def namespaces_of(model: nn.Module) -> list[Namespace]:
    """The globals of all code that a model's forward may run."""
    modules = modules_in(model)
    kinds = frozenset(map(type, modules))
    held = [item for module in modules for item in _held(module)]
    return _reached(held, _of_classes(kinds, len(sys.modules)))


@functools.lru_cache(maxsize=16)
def _of_classes(kinds: frozenset[type], modules: int) -> tuple[Namespace, ...]:
    """Those of classes alone, while no more than `modules` are imported; parts have the same."""
    return tuple(_reached(kinds))


def _reached(roots: Iterable[Any], known: Iterable[Namespace] = ()) -> list[Namespace]:
    """The namespaces that are known, and those that are reached from elsewhere."""
    found = {id(namespace): namespace for namespace in known}
    met: set[int] = set()
    pending = list(roots)
    while pending:
        item = pending.pop()
        if id(item) in met:
            continue
        met.add(id(item))
        namespace = _globals_of(item)
        if namespace is not None and id(namespace) not in found and _is_own(namespace):
            found[id(namespace)] = namespace
            pending.extend(filter(_is_code, list(namespace.values())))
        pending.extend(filter(_is_code, _inside(item)))
    return list(found.values())


def _held(module: nn.Module) -> list[Any]:
    held = module.__dict__.values()
    return [value for value in held if type(value) not in _NO_CODE and _is_code(value)]


_NO_CODE = frozenset(
    (bool, int, float, str, tuple, list, dict, set, OrderedDict, type(None), torch.device)
)
"""What modules hold mostly."""


def _is_code(value: Any) -> bool:
    return isinstance(value, _CODE)


def _globals_of(item: Any) -> Namespace | None:
    if isinstance(item, ModuleType):
        return vars(item)
    return item.__globals__ if isinstance(item, FunctionType) else None


def _inside(item: Any) -> Iterator[Any]:
    """The functions and classes that a class, function or wrapper is made of."""
    if isinstance(item, type):
        if is_own(item):
            yield from (*item.__bases__, *vars(item).values())
    elif isinstance(item, FunctionType):
        yield from map(_content, item.__closure__ or ())
    elif isinstance(item, property):
        yield from (item.fget, item.fset)
    elif isinstance(item, functools.partial):
        yield item.func
    if not isinstance(item, type | ModuleType):
        yield getattr(item, "__wrapped__", None)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def is_own(cls: type) -> bool:
    """Whether a class is of the model's own code."""
    return _is_own_name(str(cls.__module__))


def _is_own(namespace: Namespace) -> bool:
    return _is_own_name(str(namespace.get("__name__", "")))


def _is_own_name(name: str) -> bool:
    top = name.partition(".")[0]
    return top not in _NOT_OWN and (top == "__main__" or top not in sys.stdlib_module_names)
