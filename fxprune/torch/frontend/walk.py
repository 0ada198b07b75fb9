"""The modules of a tree and their tensors, without a chain of generators as long as it is deep.

Torch hands every module through one generator for each module around it, and a verb walks a model
some thirty times.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def named_modules(model: nn.Module, *, again: bool = False) -> list[tuple[str, nn.Module]]:
    """What `model.named_modules()` gives; with `again` modules under all of their names."""
    found: list[tuple[str, nn.Module]] = []
    met: set[int] = set()
    pending: list[tuple[str, nn.Module]] = [("", model)]
    while pending:
        path, module = pending.pop()
        if not again:
            if id(module) in met:
                continue
            met.add(id(module))
        found.append((path, module))
        if inner := module._modules:
            prefix = f"{path}." if path else ""
            inside = [(prefix + name, child) for name, child in inner.items() if child is not None]
            pending += reversed(inside)
    return found


def modules_in(model: nn.Module) -> list[nn.Module]:
    """What `model.modules()` gives."""
    return [module for _, module in named_modules(model)]


def _once(held: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, Any]]:
    met: set[int] = set()
    for path, tensors in held:
        for name, tensor in tensors.items():
            if tensor is not None and id(tensor) not in met:
                met.add(id(tensor))
                yield f"{path}.{name}" if path else name, tensor


def named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What `model.named_parameters()` gives."""
    return list(_once((path, module._parameters) for path, module in named_modules(model)))


def named_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """What `model.named_buffers()` gives."""
    return list(_once((path, module._buffers) for path, module in named_modules(model)))


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters of a model, then its buffers."""
    return [*named_parameters(model), *named_buffers(model)]


def tensors_in(model: nn.Module) -> list[Tensor]:
    """The same without their names."""
    return [tensor for _, tensor in named_tensors(model)]
