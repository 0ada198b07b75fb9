"""Which modules are one call of the graph? Those that the operator table knows, and scripted ones.

Every other module is entered, so that no leaf hides parameters that inference cannot see.
"""

from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fxprune.passes.operators import OPERATORS
from fxprune.torch.frontend.module_spellings import module_spelling


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one call of the graph."""
    if qualified_name(type(module)) in OPERATORS or isinstance(module, torch.jit.ScriptModule):
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
    return cls is base or all(
        getattr(cls, name) is getattr(base, name) for name in _methods_of(base)
    )


@cache
def _methods_of(base: type) -> Collection[str]:
    """The methods of a class of torch.nn that say what it computes."""
    return {
        name
        for ancestor in base.__mro__[: base.__mro__.index(nn.Module)]
        for name, value in vars(ancestor).items()
        if callable(value) and name not in _HARMLESS
    }


_HARMLESS = ("__init__", "__new__", "__repr__", "__setstate__", "extra_repr", "reset_parameters")
