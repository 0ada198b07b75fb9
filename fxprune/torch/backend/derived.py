"""Classes that change one thing about a module's own class, under its name.

`isinstance`, methods and attributes stay. Such modules are copied by their dictionaries.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_MARK = "_fxprune_derived"


def derived(kind: type[nn.Module], **members: Any) -> type[nn.Module]:
    """A subclass of `kind` that goes by its name; `members` say how it is pickled."""
    own = {
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        _MARK: True,
    }
    copied = {} if is_derived(kind) else {"__deepcopy__": deepcopied}
    return type(kind.__name__, (kind,), {**own, **copied, **members})


def is_derived(kind: type) -> bool:
    """Whether `derived` made a class."""
    return _MARK in vars(kind)


def base_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a derived one was made from."""
    base: type[nn.Module] = kind.__mro__[1]
    return base


def state_of(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module but for what `module.compile()` left: it calls this very one."""
    own = module.__dict__
    return {name: value for name, value in own.items() if name != "_compiled_call_impl"}


def reducing(derive: Callable[[type[nn.Module]], type[nn.Module]]) -> Callable[..., Any]:
    """How an object of a class that `derive` made is pickled: as one of its base, derived again."""

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        kind = type(self)
        self.__class__ = base_of(kind)
        try:
            made: Any = self.__reduce_ex__(protocol)
        finally:
            self.__class__ = kind
        return _rebuilt, (derive, *made[:2]), *made[2:]

    return reduce


def _rebuilt(derive: Callable[..., Any], make: Callable[..., Any], arguments: Any) -> nn.Module:
    module: nn.Module = make(*arguments)
    module.__class__ = derive(type(module))
    return module


def deepcopied(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of the same class."""
    clone = type(self).__new__(type(self))
    memo[id(self)] = clone
    clone.__dict__ = {
        name: value
        if isinstance(value, torch.jit.ScriptFunction)  # torch cannot copy it
        else copy.deepcopy(value, memo)
        for name, value in state_of(self).items()
    }
    return clone
