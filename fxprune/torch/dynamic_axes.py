"""Axes of inputs that may have any size in an exported file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments import near, refusal
from fxprune.errors import InputError
from fxprune.torch.frontend.forward import holds_tensor, named_arguments
from fxprune.torch.frontend.trace import Arguments

Axes = tuple[Mapping[int, str], ...]
"""For every input the names of its axes of any size."""


def axes_that_vary(model: nn.Module, examples: Sequence[Arguments]) -> Axes:
    """The axes of the first of some examples that have another size in others.

    Axes that have the same size in all of them share a name, that of the first: `ids_1`.
    """
    names = _names(model, examples[0])
    alike = [each for each in examples if is_alike(each, examples[0])]
    known: dict[tuple[int, ...], str] = {}
    axes: list[dict[int, str]] = []
    for place, value in enumerate(examples[0]):
        shape = value.shape if isinstance(value, Tensor) else ()
        own: dict[int, str] = {}
        for axis in range(1, len(shape)):
            sizes = tuple(int(each[place].shape[axis]) for each in alike)
            if len(set(sizes)) > 1:
                own[axis] = known.setdefault(sizes, f"{names[place]}_{axis}")
        axes.append(own)
    return tuple(axes)


def is_alike(one: Arguments, other: Arguments) -> bool:
    """Whether two examples differ in nothing but the sizes of arrays, so that a file runs both."""
    return len(one) == len(other) and all(map(_is_alike, one, other))


def _is_alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.dim(), one.dtype) == (other.dim(), other.dtype)
    return not holds_tensor(one) and not holds_tensor(other) and bool(one == other)


def _names(model: nn.Module, example: Arguments) -> list[str]:
    """What the inputs of an example are called."""
    named = _named(model, example)
    return named + [f"input_{place}" for place in range(len(named), len(example))]


def _named(model: nn.Module, example: Arguments) -> list[str]:
    """The inputs that have a name of their own, which are the first ones."""
    return [parameter.name for parameter in named_arguments(model)][: len(example)]


def named_axes(dynamic: Any, model: nn.Module, example: Arguments) -> Axes:
    """What a user said of axes, by input.

    Raises:
        InputError: there is no such argument or axis, or one name is of axes of two sizes.
    """
    wanted = 'names of axes by argument, such as {"input_ids": {1: "sequence"}}'
    if not isinstance(dynamic, Mapping):
        raise refusal("dynamic", dynamic, wanted)
    names = _named(model, example)
    sizes: dict[str, int] = {}
    for argument, axes in dynamic.items():
        if argument not in names:
            raise InputError(
                f"dynamic: the model has no example of an argument {argument!r}"
                f"{near(argument, names)}; it has {', '.join(names)}"
            )
        array = example[names.index(argument)]
        if not isinstance(axes, Mapping) or not isinstance(array, Tensor):
            raise refusal(f"dynamic[{argument!r}]", axes, wanted)
        for axis, name in axes.items():
            if type(axis) is not int or not 0 < axis < array.dim():
                last = array.dim() - 1
                raise refusal(
                    f"an axis of dynamic[{argument!r}]", axis, f"a number from 1 to {last}"
                )
            if not isinstance(name, str) or not name.isidentifier() or name == "batch":
                raise refusal(f"dynamic[{argument!r}][{axis}]", name, "a name for the axis")
            if sizes.setdefault(name, array.shape[axis]) != array.shape[axis]:
                raise InputError(
                    f"dynamic: {name} is the name of axes of {sizes[name]} and of "
                    f"{array.shape[axis]} positions: give each size its own"
                )
    return tuple(dict(dynamic.get(name, {})) for name in names) + ({},) * (
        len(example) - len(names)
    )


def at_other_sizes(example: Arguments, axes: Axes) -> Iterator[Arguments]:
    """The example, without data, with every axis of any size shorter: a little, and by half."""
    if any(axes):
        yield tuple(_resized(x, own, lambda n: n - 1) for x, own in zip(example, axes, strict=True))
        yield tuple(
            _resized(x, own, lambda n: n // 2 + 1) for x, own in zip(example, axes, strict=True)
        )


def _resized(value: Any, axes: Mapping[int, str], size: Any) -> Any:
    if not axes:
        return value
    shape = [max(size(n), 2) if axis in axes else n for axis, n in enumerate(value.shape)]
    return torch.empty(shape, dtype=value.dtype, device="meta")
