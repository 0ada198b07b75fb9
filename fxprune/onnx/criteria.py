"""How much every position of an ONNX model matters: by weights, or on data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fxprune.arguments import choice
from fxprune.errors import InputError
from fxprune.ir import Value
from fxprune.layout import Layout
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.frontend.session import Feeds, session_of
from fxprune.onnx.saliency import saliency
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import spaces
from fxprune.progress import track
from fxprune.ranking import (
    NORMS,
    Part,
    Sums,
    WeightOf,
    along,
    finite,
    measured,
    ranks,
    readers,
    spread,
)

METHODS = ("group_norm", "magnitude", "random", "activation", "wanda", "saliency")


def onnx_importance(
    program: OnnxProgram,
    analysis: Analysis,
    layout: Layout,
    method: str = "group_norm",
    data: Iterable[Feeds] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """How much every position matters, in the order of `layout`.

    - "magnitude": the L1 norm of the filters that make a channel (Li et al. 2017, section 3.1),
      along whichever axis of a weight they lie
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
        sums = NORMS[method](analysis, weight_of(program))
    return ranks(analysis, layout, sums, method, over=np.mean)


def check_method(method: Any, data: Any) -> None:
    """Raise InputError unless positions can be ranked so."""
    choice("method", method, METHODS, "known for ONNX models are")
    if method in _ON_DATA and data is None:
        raise InputError(f'method="{method}" needs data: some batches of inputs')


_ON_DATA = ("activation", "wanda", "saliency")


def weight_of(program: OnnxProgram) -> WeightOf:
    """What gives parts of a parameter of a model."""

    def of(name: str) -> Callable[[Part], np.ndarray]:
        tensor = program.model.graph.initializers[program.initializers[name]].const_value
        assert tensor is not None
        array = tensor.numpy()
        return lambda part: array[part].astype(np.float64)

    return of


def _of_flow(program: OnnxProgram, analysis: Analysis, method: str, data: Iterable[Feeds]) -> Sums:
    """Numbers of the arrays that free groups are read from."""
    free = {group.space for group in analysis.free_groups}
    read = [
        (array, weight, reader)
        for array, weight, reader in readers(analysis)
        if array is not None and free.intersection(spaces(reader.axis))
    ]
    names = list(dict.fromkeys(array.name for array, _, _ in read))
    flows = _moments(program, names, data, 2 if method == "wanda" else 1)
    sums: Sums = {}
    of = weight_of(program)
    for array, weight, reader in read:
        for space, numbers in _flow(analysis, array, flows[array.name]).items():
            norm: np.ndarray | float = 1.0
            if method == "wanda" and weight is not None:
                norms: Sums = {}
                (squares,) = measured(of(weight.name), weight.shape, (reader.dim,), np.square)
                spread(reader.axis, squares, norms)
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
    if not names:  # branches alone can be removed
        return {}
    totals: dict[str, list[np.ndarray]] = {}
    with session_of(program.model, names, optimised=True) as session:
        for feeds in track(data, "looking at data"):
            for name, array in zip(names, session.run(feeds, names), strict=True):
                known = finite(array.astype(np.float64))
                measure = np.abs(known) ** power / max(array.size, 1)
                means = [along(measure, dim) * length for dim, length in enumerate(array.shape)]
                former = totals.get(name)
                totals[name] = means if former is None else _added(former, means)
    if not totals:
        raise InputError("there is no data: give some batches of inputs")
    return totals


def _added(former: list[np.ndarray], more: list[np.ndarray]) -> list[np.ndarray]:
    """Sums by position; an axis whose length varies (samples) carries no group."""
    return [a + b if a.shape == b.shape else a for a, b in zip(former, more, strict=True)]
