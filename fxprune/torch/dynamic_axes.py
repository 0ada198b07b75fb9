"""Axes of inputs that may have any size in an exported file."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments import near, refusal
from fxprune.errors import InputError
from fxprune.torch.frontend.forward import named_arguments

Axes = tuple[Mapping[int, str], ...]
"""For every input the names of its axes of any size."""


def named_axes(dynamic: Any, model: nn.Module, examples: tuple[Any, ...]) -> Axes:
    """What a user said of axes, by input.

    Raises:
        InputError: there is no such argument or axis, or one name is of axes of two sizes.
    """
    if dynamic is None:
        return ({},) * len(examples)
    wanted = 'names of axes by argument, such as {"input_ids": {1: "sequence"}}'
    if not isinstance(dynamic, Mapping):
        raise refusal("dynamic", dynamic, wanted)
    names = [parameter.name for parameter in named_arguments(model)][: len(examples)]
    sizes: dict[str, int] = {}
    for argument, axes in dynamic.items():
        if argument not in names:
            raise InputError(
                f"dynamic: the model has no example of an argument {argument!r}"
                f"{near(argument, names)}; it has {', '.join(names)}"
            )
        example = examples[names.index(argument)]
        if not isinstance(axes, Mapping) or not isinstance(example, Tensor):
            raise refusal(f"dynamic[{argument!r}]", axes, wanted)
        for axis, name in axes.items():
            if type(axis) is not int or not 0 < axis < example.dim():
                last = example.dim() - 1
                raise refusal(
                    f"an axis of dynamic[{argument!r}]", axis, f"a number from 1 to {last}"
                )
            if not isinstance(name, str) or not name.isidentifier() or name == "batch":
                raise refusal(f"dynamic[{argument!r}][{axis}]", name, "a name for the axis")
            if sizes.setdefault(name, example.shape[axis]) != example.shape[axis]:
                raise InputError(
                    f"dynamic: {name} is the name of axes of {sizes[name]} and of "
                    f"{example.shape[axis]} positions: give each size its own"
                )
    return tuple(dict(dynamic.get(name, {})) for name in names) + ({},) * (
        len(examples) - len(names)
    )


def at_other_sizes(examples: tuple[Any, ...], axes: Axes) -> Iterator[tuple[Any, ...]]:
    """The examples, without data, with every axis of any size shorter: a little, and by half."""
    if any(axes):
        yield tuple(
            _resized(x, own, lambda n: n - 1) for x, own in zip(examples, axes, strict=True)
        )
        yield tuple(
            _resized(x, own, lambda n: n // 2 + 1) for x, own in zip(examples, axes, strict=True)
        )


def _resized(value: Any, axes: Mapping[int, str], size: Any) -> Any:
    if not axes:
        return value
    shape = [max(size(n), 2) if axis in axes else n for axis, n in enumerate(value.shape)]
    return torch.empty(shape, dtype=value.dtype, device="meta")
