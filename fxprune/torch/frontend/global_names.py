"""What do the globals of a model's code hold? Looked at once for all recordings of a verb.

A model of a large library reaches hundreds of modules with ten thousand globals, and a verb records
it, and parts of it, several times.
"""

import builtins
import functools
import sys
from abc import ABCMeta
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import EnumMeta
from importlib.machinery import ModuleSpec, SourceFileLoader
from operator import is_
from types import BuiltinFunctionType, FunctionType, GenericAlias, ModuleType, UnionType
from typing import Any, Optional

from fxprune.torch.frontend.namespaces import Namespace
from fxprune.torch.frontend.scripted import is_scripted

Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]
_CONTAINERS = frozenset((dict, list, set, deque))
_BUILTINS = vars(builtins)
"""What every module has as `__builtins__`, and no model writes into."""


class Globals:
    """The globals of one Python module, and the containers among them, as they were."""

    def __init__(self, names: Namespace) -> None:
        self.names = names
        self._before = names.copy()
        held = [
            (value, value.copy())
            for value in self._before.values()
            if type(value) in _CONTAINERS and value is not _BUILTINS
        ]
        self._mappings = [(names, self._before), *(each for each in held if type(each[0]) is dict)]
        self._others = [each for each in held if type(each[0]) is not dict]
        self.replaced = replaced_in(self._before)

    def changed(self) -> list[tuple[Container, Container]]:
        """What holds other things than it did, or more or fewer if it is no mapping; each with what
        it was."""
        found: list[tuple[Container, Container]] = [
            (now, before) for now, before in self._others if len(now) != len(before)
        ]
        return found + [
            (now, before)
            for now, before in self._mappings
            if len(now) != len(before) or not all(map(is_, now.values(), before.values()))
        ]


def replaced_in(items: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The names of functions that are cached, compiled or scripted, which none of most owners has,
    with these."""
    if _NO_FUNCTIONS.issuperset(map(type, items.values())):
        return []
    named = [each for each in items.items() if type(each[1]) not in _NO_FUNCTIONS]
    return [each for each in named if _is_replaced(each[1])]


_NO_FUNCTIONS = frozenset((bool, int, float, str, tuple, list, dict, set, OrderedDict, type(None),
    type, ABCMeta, EnumMeta, ModuleType, ModuleSpec, SourceFileLoader, BuiltinFunctionType,
    GenericAlias, UnionType, type(Optional)))  # fmt: skip
"""What most attributes and globals are."""
_COMPILED = "_torchdynamo_orig_callable"


def _is_replaced(value: Any) -> bool:
    if type(value) is FunctionType:
        return hasattr(value, _COMPILED)
    return as_written(value) is not None or is_scripted(value)


def as_written(value: Any) -> Any:
    """The function that one that is cached or compiled was made of, if any."""
    if isinstance(value, functools._lru_cache_wrapper):
        return value.__wrapped__
    return getattr(value, "__dict__", {}).get(_COMPILED)


_LOOKED: ContextVar[dict[int, Globals] | None] = ContextVar("globals", default=None)
"""What a verb has looked at."""


@contextmanager
def looked_at_once() -> Iterator[None]:
    """Until the end globals that stay the same are looked at once. Also a decorator."""
    known = _LOOKED.get()
    token = _LOOKED.set({} if known is None else known)
    try:
        yield
    finally:
        _LOOKED.reset(token)


def globals_in(namespaces: Sequence[Namespace]) -> list[Globals]:
    """What is in namespaces."""
    known = _LOOKED.get()
    if known is None:
        return [Globals(names) for names in namespaces]
    for names in namespaces:
        if id(names) not in known:
            known[id(names)] = Globals(names)
    return [known[id(names)] for names in namespaces]


def look_again(found: Globals) -> None:
    """Forget globals that have changed."""
    if (known := _LOOKED.get()) is not None:
        known.pop(id(found.names), None)


def namespaces_with(name: str, value: Any, own: Sequence[Namespace]) -> list[Namespace]:
    """The globals of modules that know something by a name: `own` ones, and all that did so when
    there were as many modules as now."""
    every = (*own, *_that_had(name, value, len(sys.modules)))
    found = {id(names): names for names in every if names.get(name) is value}
    return list(found.values())


@functools.lru_cache(maxsize=16)
def _that_had(name: str, value: Any, modules: int) -> tuple[Namespace, ...]:
    every = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    return tuple(each for each in every if name in each and each[name] is value)
