"""Classes that change one thing about a module's own class, under its name.

`isinstance`, methods and attributes stay. Such modules are copied by their dictionaries.
"""

import copy
from typing import Any

from torch import nn

_MARK = "_fxprune_derived"


def derived(kind: type[nn.Module], **members: Any) -> type[nn.Module]:
    """A subclass of `kind` that goes by its name; `members` say how it is pickled."""
    own = {
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__deepcopy__": _deepcopy,
        _MARK: True,
    }
    return type(kind.__name__, (kind,), {**own, **members})


def is_derived(kind: type) -> bool:
    """Whether `derived` made a class."""
    return _MARK in vars(kind)


def base_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a derived one was made from."""
    base: type[nn.Module] = kind.__mro__[1]
    return base


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    clone = type(self).__new__(type(self))
    memo[id(self)] = clone
    clone.__dict__ = copy.deepcopy(self.__dict__, memo)
    return clone
