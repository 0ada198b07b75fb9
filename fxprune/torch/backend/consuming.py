"""How is a model folded in the memory that it has? Its weights are cut one by one, at the end.

Until everything else is done the folded model has stand-ins on the meta device, so what fails till
then leaves the model as it was. Then each weight is sliced and the original is let go, before the
next one is; what no slice concerns moves over.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import FxpruneError
from fxprune.passes.fold import Slice
from fxprune.torch.backend.fold import sliced

Places = dict[int, list[tuple[Any, Any]]]
"""By the identity of a tensor the containers that hold it, with the key there."""


@dataclass(frozen=True, slots=True)
class _Promise:
    """A parameter that is to be sliced, and what stands in for the result."""

    original: nn.Parameter
    slices: tuple[Slice, ...]
    stand_in: Tensor

    def kept(self) -> Tensor:
        """The result."""
        kept = sliced(self.original, self.slices) if self.slices else self.original
        return kept.requires_grad_(self.stand_in.requires_grad)


class Promises:
    """The tensors of a folded model that are not there yet."""

    def __init__(self) -> None:
        self._open: deque[_Promise] = deque()

    def take(self, tensor: Tensor, slices: Sequence[Slice]) -> Tensor:
        """What a folded model has for a tensor: a stand-in; of buffers code may ask for values."""
        if type(tensor) is not nn.Parameter:
            return sliced(tensor, slices) if slices else tensor
        empty = torch.empty_like(tensor, device="meta")
        stand_in = sliced(nn.Parameter(empty, requires_grad=tensor.requires_grad), slices)
        self._open.append(_Promise(tensor, tuple(slices), stand_in))
        return stand_in

    def keep(self, full: nn.Module, small: nn.Module) -> None:
        """Slice all of them; `full`, whose tensors they are, loses each when it has been sliced.

        Raises:
            FxpruneError: there is no memory for one; `full` has lost those before.
        """
        given, taken = _places(full), _places(small)
        number = len(self._open)
        while self._open:
            promise = self._open.popleft()
            try:
                _exchange(taken, promise.stand_in, promise.kept())
            except (RuntimeError, MemoryError) as error:
                done = number - len(self._open) - 1
                raise FxpruneError(
                    f"a weight of shape {tuple(promise.original.shape)} cannot be sliced: {error}; "
                    f"{done} of {number} weights of the {type(full).__name__} are gone, so it is "
                    "of no use any more: load it again"
                ) from error
            _exchange(given, promise.original, promise.stand_in)
        for parameter in small.parameters():
            parameter.grad = None


def _places(model: nn.Module) -> Places:
    """Where the modules of a model hold tensors, in lists of their own as well."""
    places: Places = {}
    for module in model.modules():
        containers: list[Any] = [module._parameters, module._buffers]
        containers += [value for value in module.__dict__.values() if isinstance(value, list)]
        for container in containers:
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, item in items:
                if isinstance(item, Tensor):
                    places.setdefault(id(item), []).append((container, key))
    return places


def _exchange(places: Places, old: Tensor, new: Tensor) -> None:
    for container, key in places.pop(id(old), ()):
        container[key] = new
