"""How much every position of an ONNX model matters: by weights, or on data."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fxprune.arguments import choice
from fxprune.errors import InputError
from fxprune.filling import Layout
from fxprune.ir import Kind, Value
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.frontend.session import Feeds, session_of
from fxprune.onnx.saliency import saliency
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Prod, Space, spaces
from fxprune.passes.facts import Reader
from fxprune.progress import steps

METHODS = ("group_norm", "magnitude", "random", "activation", "wanda", "saliency")

Sums = dict[Space, np.ndarray]
"""A number for every position of a space."""


def onnx_importance(
    program: OnnxProgram,
    analysis: Analysis,
    layout: Layout,
    method: str = "group_norm",
    data: Iterable[Feeds] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """How much every position matters, in the order of `layout`.

    - "magnitude": the L1 norm of the filter that makes a channel (Li et al. 2017, section 3.1)
    - "group_norm": the L2 norm of all weights that make or read it (Fang et al. 2023, equation 5)
    - "activation": its mean absolute value where it is read, on data
    - "wanda": to first order, by how much closing it changes what its readers compute, on data: the
      square norm of the weights that read it times its mean square (Sun et al. 2023, section 3,
      for whole channels)
    - "saliency": the squared change of the model's outputs when it is closed, on eight samples of
      the data, one run per position, see `saliency`
    - "random": a random order

    Numbers are divided by their mean over the group, so that groups compare; they say nothing of
    branches, which close last. There is no "taylor": ONNX Runtime takes no gradients.

    Raises:
        InputError: the method is unknown, or has no data.
    """
    check_method(method, data)
    if method == "random":
        return np.random.default_rng(seed).random(layout.total)
    if method == "saliency":
        sums = saliency(program, analysis, list(data or ()))
    elif method in _ON_DATA:
        sums = _of_flow(program, analysis, method, data or ())
    else:
        sums = _of_weights(program, analysis, method)
    return _ranks(analysis, layout, sums)


def check_method(method: Any, data: Any) -> None:
    """Raise InputError unless positions can be ranked so."""
    choice("method", method, METHODS, "known for ONNX models are")
    if method in _ON_DATA and data is None:
        raise InputError(f'method="{method}" needs data: some batches of inputs')


_ON_DATA = ("activation", "wanda", "saliency")


def _ranks(analysis: Analysis, layout: Layout, sums: Sums) -> np.ndarray:
    spaces = [group.space for group in analysis.free_groups]
    if not any(space in sums for space in spaces):
        raise InputError("this method finds nothing to rank by in this model")
    known = [sums.get(space, np.zeros(space.size)) for space in spaces]
    ranks = np.concatenate([own / max(float(own.mean()), 1e-300) for own in known])
    branches = np.full(layout.total - len(ranks), 1.0 + float(ranks.max()))
    return np.concatenate([ranks, branches])


def spread(axis: Axis, numbers: np.ndarray, sums: Sums) -> None:
    """Add what belongs to positions of an axis to the spaces that it is made of."""
    if isinstance(axis, Space):
        sums[axis] = sums.get(axis, 0.0) + numbers
    elif isinstance(axis, Prod):
        grid = numbers.reshape([factor.size for factor in axis.factors])
        for dim, factor in enumerate(axis.factors):
            others = tuple(other for other in range(grid.ndim) if other != dim)
            spread(factor, grid.sum(others), sums)
    else:
        start = 0
        for part in axis.parts:
            spread(part, numbers[start : start + part.size], sums)
            start += part.size


def weights(program: OnnxProgram, parameter: Value) -> np.ndarray:
    """A parameter as an array of doubles."""
    tensor = program.model.graph.initializers[program.initializers[parameter.name]].const_value
    assert tensor is not None
    array: np.ndarray = tensor.numpy().astype(np.float64)
    return array


def _along(array: np.ndarray, dim: int) -> np.ndarray:
    """Sums over all other axes."""
    sums: np.ndarray = array.sum(tuple(other for other in range(array.ndim) if other != dim))
    return sums


def _of_weights(program: OnnxProgram, analysis: Analysis, method: str) -> Sums:
    """Norms of filters, or of everything."""
    sums: Sums = {}
    filters = method == "magnitude"
    read = _reading_axes(analysis)
    for parameter in analysis.graph.parameters:
        if not parameter.trained or (filters and len(parameter.shape) < 2):
            continue
        array = weights(program, parameter)
        measure = np.abs(array) if filters else np.square(array)
        for dim, axis in enumerate(analysis.types.axes.get(parameter.name, ())):
            if not filters or dim not in read.get(parameter.name, ()):
                spread(axis, _along(measure, dim), sums)
    return sums


def _reading_axes(analysis: Analysis) -> dict[str, set[int]]:
    """By parameter the axes along which it is contracted."""
    read: dict[str, set[int]] = {}
    for _, weight, reader in _readers(analysis):
        if weight is not None:
            read.setdefault(weight.name, set()).add(reader.dim)
    return read


def _readers(analysis: Analysis) -> Iterator[tuple[Value | None, Value | None, Reader]]:
    """Every reader with the array that comes in, and the parameter that it contracts."""
    nodes = {node.name: node for node in analysis.graph.nodes}
    for reader in analysis.types.readers:
        inputs = nodes[reader.node].inputs
        arrays = [v for v in inputs if v is not None and v.kind is not Kind.PARAMETER]
        operand = inputs[reader.operand]
        parameter = operand is not None and operand.kind is Kind.PARAMETER
        yield arrays[0] if arrays else None, operand if parameter else None, reader


def _of_flow(program: OnnxProgram, analysis: Analysis, method: str, data: Iterable[Feeds]) -> Sums:
    """Numbers of the arrays that free groups are read from."""
    free = {group.space for group in analysis.free_groups}
    read = [
        (array, weight, reader)
        for array, weight, reader in _readers(analysis)
        if array is not None and free.intersection(spaces(reader.axis))
    ]
    names = list(dict.fromkeys(array.name for array, _, _ in read))
    flows = _moments(program, names, data, 2 if method == "wanda" else 1)
    sums: Sums = {}
    for array, weight, reader in read:
        for space, numbers in _flow(analysis, array, flows[array.name]).items():
            norm: np.ndarray | float = 1.0
            if method == "wanda" and weight is not None:
                norms: Sums = {}
                spread(reader.axis, _along(np.square(weights(program, weight)), reader.dim), norms)
                norm = norms.get(space, 0.0)
            if space in spaces(reader.axis):
                sums[space] = sums.get(space, 0.0) + numbers * norm
    return sums


def _flow(analysis: Analysis, array: Value, means: list[np.ndarray]) -> Sums:
    """What flows through the positions of an array; samples may be more or fewer than typed."""
    flow: Sums = {}
    for axis, numbers in zip(analysis.types.axes[array.name], means, strict=True):
        if len(numbers) == axis.size:
            spread(axis, numbers, flow)
    return flow


def _moments(
    program: OnnxProgram, names: list[str], data: Iterable[Feeds], power: int
) -> Mapping[str, list[np.ndarray]]:
    """For every axis of the named arrays the mean of its positions' absolute value to a power."""
    totals: dict[str, list[np.ndarray]] = {}
    with session_of(program.model, names, optimised=True) as session:
        for feeds in steps(data, "looking at data"):
            for name, array in zip(names, session.run(feeds, names), strict=True):
                measure = np.abs(array.astype(np.float64)) ** power / max(array.size, 1)
                means = [_along(measure, dim) * length for dim, length in enumerate(array.shape)]
                former = totals.get(name)
                totals[name] = means if former is None else _added(former, means)
    if not totals:
        raise InputError("there is no data: give some batches of inputs")
    return totals


def _added(former: list[np.ndarray], more: list[np.ndarray]) -> list[np.ndarray]:
    """Sums by position; an axis whose length varies (samples) carries no group."""
    return [a + b if a.shape == b.shape else a for a, b in zip(former, more, strict=True)]
