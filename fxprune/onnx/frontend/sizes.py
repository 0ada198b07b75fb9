"""Which sizes stand in for the axes that an ONNX file leaves open?

Sizes that occur nowhere in the model, so that two axes which happen to have one size are never
taken for one another. Axes of one name have one size.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir

from fxprune.arguments import near
from fxprune.errors import InputError

Shape = tuple[int, ...]
Sizes = Mapping[str, int]
"""A size by the name of an open axis."""

_USUAL = {"batch": 2, "sequence": 16, "image": 224, "volume": 224}
_CANDIDATES: Mapping[str, Sequence[int]] = {
    "batch": (3, 5, 7, 11, 13, 17, 19, 23, 29, 31),
    "sequence": (13, 17, 19, 23, 11, 29, 31, 37, 41, 43, 47, 53, 59, 61),
    "image": (224, 160, 192, 288, 352, 320, 256, 416, 384, 128, 96, 448, 480, 544, 608),
    "volume": (32, 48, 64, 80, 96, 112, 128),
}
"""What is tried for an axis, by its kind; images are halved again and again in a network."""
_HALVINGS = 4
_MOST_NUMBERS = 64
"""Whole-number arrays with more elements are tables, not sizes."""
_WHOLE = (onnx_ir.DataType.INT64, onnx_ir.DataType.INT32)


def open_axes(model: onnx_ir.Model) -> dict[str, str]:
    """The axes that the file leaves open, by name, with their kind; first axes come first."""
    axes: dict[str, str] = {}
    for is_first in (True, False):
        for value in model.graph.inputs:
            for axis, dim in enumerate(value.shape or ()):
                if not _is_known(dim) and (axis == 0) is is_first:
                    axes.setdefault(_symbol(value, axis), _kind(axis, len(value.shape or ())))
    return axes


def _is_known(dim: int | onnx_ir.SymbolicDim) -> bool:
    return isinstance(dim, int) and dim > 0


def _kind(axis: int, rank: int) -> str:
    if axis == 0:
        return "batch"
    return "sequence" if rank < 4 else "image" if rank == 4 else "volume"


def _symbol(value: onnx_ir.Value, axis: int) -> str:
    """Open axes of one name have one size, and so have first axes without a name."""
    assert value.shape is not None
    dim = value.shape[axis]
    name = dim.value if isinstance(dim, onnx_ir.SymbolicDim) else None
    return name or ("batch" if axis == 0 else f"{value.name}:{axis}")


def shapes_at(
    model: onnx_ir.Model, sizes: Sizes, given: Mapping[str, Sequence[int]]
) -> dict[str, Shape]:
    """A shape for every input: as given, as the file says, or at the sizes of open axes.

    What is given also binds the axes of the same names in other inputs.

    Raises:
        InputError: `given` does not fit the inputs, or lacks one whose shape is unknown.
    """
    bound = {**sizes, **bound_sizes(model, given)}
    return {
        str(value.name): tuple(given[str(value.name)])
        if value.name in given
        else _shape_at(value, bound)
        for value in model.graph.inputs
    }


def _shape_at(value: onnx_ir.Value, sizes: Sizes) -> Shape:
    if value.shape is None:
        raise InputError(f"shapes: input {value.name} has no shape, give one")
    return tuple(
        int(dim) if isinstance(dim, int) and dim > 0 else sizes[_symbol(value, axis)]
        for axis, dim in enumerate(value.shape)
    )


def bound_sizes(model: onnx_ir.Model, given: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The sizes of open axes that shapes of some inputs fix.

    Raises:
        InputError: `given` does not fit the inputs.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    if unknown := [name for name in given if name not in inputs]:
        raise InputError(
            f"shapes: no input is called {unknown[0]!r}; the inputs are {', '.join(inputs)}"
            f"{near(unknown[0], inputs)}"
        )
    bound: dict[str, int] = {}
    for name, shape in given.items():
        declared = inputs[name].shape
        if declared is None:
            continue
        fits = len(shape) == len(declared) and all(
            size > 0 and (not _is_known(dim) or dim == size)
            for dim, size in zip(declared, shape, strict=True)
        )
        if not fits:
            raise InputError(f"shapes: input {name} has shape {declared}, not {tuple(shape)}")
        for axis, size in enumerate(shape):
            if not _is_known(declared[axis]):
                bound.setdefault(_symbol(inputs[name], axis), int(size))
    return bound


def stand_ins(model: onnx_ir.Model, more_taken: Iterable[int] = ()) -> Iterator[dict[str, int]]:
    """Sizes for all open axes: the best first, and last the usual ones, which anything may have.

    All different; then one size for all first axes and one for all others of a kind, as of square
    images; then 2, 16 and 224.
    """
    axes = open_axes(model)
    if not axes:
        yield {}
        return
    taken = _sizes_in(model) | set(more_taken)
    apart: dict[str, int] = {}
    for name, kind in axes.items():
        apart[name] = _unused(kind, taken | set(apart.values()))
    alike: dict[str, int] = {}
    for kind in dict.fromkeys(axes.values()):
        alike[kind] = _unused(kind, taken | set(alike.values()))
    yield apart
    if any(alike[kind] != apart[name] for name, kind in axes.items()):
        yield {name: alike[kind] for name, kind in axes.items()}
    yield {name: _USUAL[kind] for name, kind in axes.items()}


def _unused(kind: str, taken: set[int]) -> int:
    """A size that is not taken; of an image, nor are the sizes that it is halved to."""
    halvings = _HALVINGS if kind in ("image", "volume") else 0
    for allowed in range(halvings, -1, -1):
        for size in _CANDIDATES[kind]:
            if not {size >> times for times in range(allowed + 1)} & taken:
                return size
    step = 32 if halvings else 2
    return next(n for n in itertools.count(_CANDIDATES[kind][-1], step) if n not in taken)


def _sizes_in(model: onnx_ir.Model) -> set[int]:
    """Every whole number that a model spells: sizes of arrays, attributes, numbers it computes."""
    found: set[int] = set()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            found.update(map(int, tensor.shape.numpy()))
            if tensor.dtype in _WHOLE and tensor.size <= _MOST_NUMBERS:
                found.update(map(int, np.ravel(tensor.numpy())))
        for value in graph.inputs:
            found.update(int(dim) for dim in value.shape or () if isinstance(dim, int))
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.INT:
                found.add(attribute.as_int())
            elif attribute.type == onnx_ir.AttributeType.INTS:
                found.update(attribute.as_ints())
        for value in node.outputs:
            found.update(int(dim) for dim in value.shape or () if isinstance(dim, int))
    return found
