"""What values can a model have that there is no memory for? Numbers that many places share.

    w[i, j, ...] = v[i + j + ...]       a Hankel matrix, of vectors v of random numbers

Whether two models compute the same can be seen with such weights as well: no two rows are alike.
An array of shape (m, n) takes m + n numbers, and the matrix that is being multiplied by is copied.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def with_values(model: nn.Module) -> Iterator[None]:
    """Let what a model has on the meta device have values, the same in every model like it."""
    generator = torch.Generator().manual_seed(0)
    made: dict[int, Tensor] = {}
    before: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    try:
        for module in model.modules():
            for container in (module._parameters, module._buffers):
                for name, tensor in container.items():
                    if tensor is None or not tensor.is_meta:
                        continue
                    if id(tensor) not in made:
                        made[id(tensor)] = _like(tensor, generator)
                    before.append((container, name, tensor))  # type: ignore[arg-type]
                    container[name] = made[id(tensor)]  # type: ignore[assignment]
        yield
    finally:
        for container, name, tensor in before:
            container[name] = tensor


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor with values: fractions, positive in buffers, which hold variances; else zeros."""
    is_parameter = isinstance(tensor, nn.Parameter)
    if tensor.is_floating_point():
        shape = tensor.shape
        length = sum(shape) + 1 - len(shape)
        draw = torch.randn if is_parameter else torch.rand
        numbers = draw(max(length, 1), generator=generator)
        if len(shape) > 1:
            numbers = numbers * (tensor.numel() / max(shape[0], 1)) ** -0.5
        values = numbers.to(tensor.dtype).as_strided(shape, [1] * len(shape))
    else:
        values = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    return nn.Parameter(values, requires_grad=False) if is_parameter else values
