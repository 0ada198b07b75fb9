"""Everything about a model that a user could notice: what must stay as it was."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def facts_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a user could notice, by name."""
    facts: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        facts[f"{path}: class"] = type(module)
        facts[f"{path}: attributes"] = {
            name: value if isinstance(value, bool | int | float | str | tuple) else type(value)
            for name, value in module.__dict__.items()
        }
        facts[f"{path}: hooks"] = {
            name: len(value) for name, value in module.__dict__.items() if name.endswith("_hooks")
        }
        facts[f"{path}: children"] = list(module._modules)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            facts[f"{path}.{name}: object"] = None if tensor is None else _identity(tensor)
            if tensor is not None and not (tensor.is_meta or nn.parameter.is_lazy(tensor)):
                facts[f"{path}.{name}"] = tensor.detach().clone()
                facts[f"{path}.{name}: gradient"] = copy.deepcopy(tensor.grad)
    return facts


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return id(tensor), tensor.requires_grad, tensor.device


def equal(left: Any, right: Any) -> bool:
    """Whether two facts are the same, tensors bit for bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.shape == right.shape and left.dtype is right.dtype
        bits = (x.contiguous().flatten().view(torch.uint8) for x in (left, right))
        return same and torch.equal(*bits)
    return bool(left == right)
