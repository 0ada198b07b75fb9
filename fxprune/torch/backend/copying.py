"""A module tree of our own, with everything the original has.

What `copy.deepcopy` gives, several times faster: modules are cloned by their dictionaries, and only
what may be mutable in them is copied deeply. Tensors are cloned, or shared where the caller is
going to replace them.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.torch.backend.derived import is_derived
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.walk import tensors_in

_IMMUTABLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)
_PLAIN = frozenset(_IMMUTABLE)
_CONTAINERS = frozenset((dict, OrderedDict, set))
"""What modules hold many of that are empty, beside what is plain."""
_TENSORS = ("_parameters", "_buffers")


def copy_module(
    model: nn.Module, *, share_tensors: bool = False, shared: Iterable[nn.Module] = ()
) -> nn.Module:
    """A copy of a module tree; with `share_tensors` its tensors are the same objects.

    Modules that are `shared` are not copied, those that define `__deepcopy__` their own way.
    """
    memo: dict[int, Any] = {id(module): module for module in shared}
    if share_tensors:
        memo |= {id(tensor): tensor for tensor in tensors_in(model)}
    return _copied(model, memo)


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    if hasattr(type(module), "__deepcopy__") and not is_derived(type(module)):
        own_way: nn.Module = copy.deepcopy(module, memo)
        return own_way
    clone: nn.Module = type(module).__new__(type(module))
    memo[id(module)] = clone
    own: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        kind = type(value)
        if kind in _PLAIN:
            own[name] = value
        elif kind in _CONTAINERS and not value:  # as most
            own[name] = value.copy()
        elif name != "_compiled_call_impl":  # module.compile() left it, and it calls the original
            own[name] = _copied_attribute(name, value, memo)
    clone.__dict__ = own
    if type(module).__name__ == "OptimizedModule":  # it has compiled the original
        clone._initialize()  # type: ignore[operator]
    return clone


def _copied_attribute(name: str, value: Any, memo: dict[int, Any]) -> Any:
    if name in _TENSORS:
        return {key: _copied_tensor(tensor, memo) for key, tensor in value.items()}
    if name == "_modules":
        return {k: None if child is None else _copied(child, memo) for k, child in value.items()}
    if isinstance(value, (*_IMMUTABLE, torch.jit.ScriptFunction)):
        return value
    if isinstance(value, tuple) and all(isinstance(item, _IMMUTABLE) for item in value):
        return value
    for leaf in leaves_of(value):
        if isinstance(leaf, Tensor) and not leaf.is_leaf:  # torch refuses to copy it
            memo.setdefault(id(leaf), leaf.detach().clone())
    return copy.deepcopy(value, memo)


def _copied_tensor(tensor: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    if tensor is None:
        return None
    if id(tensor) not in memo:
        memo[id(tensor)] = clone_tensor(tensor)
    found: Tensor = memo[id(tensor)]
    return found


def clone_tensor(tensor: Tensor) -> Tensor:
    """A parameter or buffer with the same values and attributes, in memory of its own."""
    if type(tensor) not in (Tensor, nn.Parameter):
        special: Tensor = copy.deepcopy(tensor)
        return special
    data = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        data = nn.Parameter(data, requires_grad=tensor.requires_grad)
    data.__dict__.update(tensor.__dict__)
    return data
