"""By which criteria can positions be ranked without training? The same for torch and ONNX files.

A criterion is a name, or a function of the user's own that is given one group after the other, with
the weights that make and read it and, where there is data, with what flows through it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Any

import numpy as np

from fxprune.arguments import choice, refusal
from fxprune.errors import InputError
from fxprune.flow import Flow, Moments
from fxprune.ir import Value
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Space, interpret, spaces
from fxprune.passes.groups import Group
from fxprune.passes.makers import Makers, find_makers
from fxprune.ranking import NORMS, Scores, Sums, WeightOf, readers, spread

ON_FLOW: Mapping[str, tuple[Callable[[Moments], np.ndarray], bool]] = MappingProxyType(
    {
        "activation": (lambda moments: moments.absolute, False),
        "wanda": (lambda moments: moments.square, True),
        "flap": (lambda moments: moments.variance, True),
    }
)
"""By criterion what is summed over readers, and whether the weights that read it are factors."""

DEPTH = "block_influence"
"""Ranks branches alone."""

ON_DATA = (*ON_FLOW, "saliency", DEPTH)
"""What needs data on both routes."""


# The criteria of users --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter that makes or reads a group, whose positions lie along `axis` of `array`.

    Where it has each position several times, as the channels of one head, these lie along the axis
    behind that.
    """

    name: str
    axis: int
    _load: Callable[[], np.ndarray] = field(repr=False)

    @property
    def array(self) -> np.ndarray:
        """Its numbers, read anew at every access, in float64."""
        return self._load()


@dataclass(frozen=True, slots=True)
class FlowAt:
    """What flows through every position, on data: arrays of shape (size,)."""

    mean: np.ndarray
    absolute: np.ndarray
    square: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, slots=True)
class ReaderView:
    """A place where a group is read.

    `weight` is what reads it, None where that is no parameter; `flow` what comes in, None without
    data or where the data does not come there.
    """

    node: str
    weight: Weight | None
    flow: FlowAt | None


@dataclass(frozen=True, slots=True)
class GroupView:
    """What a criterion of your own is given: one group of `size` positions.

    `makers` are the weights that compute it, `readers` the places where it is mixed.
    """

    name: str
    size: int
    makers: tuple[Weight, ...]
    readers: tuple[ReaderView, ...]


Criterion = Callable[[GroupView], Any]
"""From a group to numbers of shape (size,), or to None where it says nothing of that group."""

Method = str | Criterion


def check_method(
    method: Any, data: Any, known: Sequence[str], among: str, on_data: Sequence[str] = ON_DATA
) -> None:
    """Raise InputError unless positions can be ranked so, as far as that can be told so early."""
    if callable(method) and not isinstance(method, type):
        return
    choice("method", method, known, among)
    if method in on_data and data is None:
        raise InputError(f'method="{method}" needs data: batches of inputs, or a loader')


def called(method: Method) -> str:
    """How messages name a criterion."""
    name = name_of(method)
    return f'method="{name}"' if isinstance(method, str) else f"method {name}"


def name_of(method: Method) -> str:
    """What a criterion is called, one of a user's own as well."""
    if isinstance(method, str):
        return method
    return getattr(method, "__name__", type(method).__name__)


def needs_flow(method: Method, data: Any) -> bool:
    """Whether data has to be looked at, by running the model as it is."""
    return data is not None and (callable(method) or method in ON_FLOW or method == DEPTH)


def scores_of(
    analysis: Analysis, method: Method, weight_of: WeightOf, flow: Flow | None = None
) -> Scores:
    """What a criterion says of every free group, by weights and by what flows.

    Raises:
        InputError: a function of the user's own fails, or returns something else than it should.
    """
    branches = flow.influences if flow else {}
    if callable(method):
        return Scores(_own(analysis, method, weight_of, flow), branches)
    if method == DEPTH:
        return Scores({}, branches)
    if method in NORMS:
        return Scores(NORMS[method](analysis, weight_of))
    assert flow is not None
    return Scores(_of_flow(analysis, *ON_FLOW[method], weight_of, flow), branches)


def _of_flow(
    analysis: Analysis,
    statistic: Callable[[Moments], np.ndarray],
    weighted: bool,
    weight_of: WeightOf,
    flow: Flow,
) -> Sums:
    """A statistic of the arrays that groups are read from, summed over readers.

    If it is `weighted`, it is multiplied by the square norm of the weights that read a position.
    """
    sums: Sums = {}
    for read in flow.reads:
        moments = flow.of(read)
        if not moments.count.any():
            continue
        numbers = statistic(moments)
        found: Sums = {}
        axis = analysis.types.axes[read.array.name][read.dim]
        norms = flow.norms(read, weight_of) if weighted else np.ones(1)
        if axis == read.reader.axis or len(norms) == 1:
            spread(axis, numbers * norms, found)
        else:  # as in grouped convolutions: the weights that read are those of one group
            factors: Sums = {}
            spread(axis, numbers, found)
            spread(read.reader.axis, norms, factors)
            found = {s: own * factors[s] for s, own in found.items() if s in factors}
        for space in spaces(read.reader.axis):
            if space in found:
                sums[space] = sums.get(space, 0.0) + found.pop(space)
    return sums


def _own(analysis: Analysis, method: Criterion, weight_of: WeightOf, flow: Flow | None) -> Sums:
    """What a function of the user's own says of groups."""
    views = _Views(analysis, weight_of, flow)
    found: Sums = {}
    for group in analysis.free_groups:
        try:
            given = method(views.of(group))
            numbers = None if given is None else np.asarray(given, dtype=np.float64)
        except Exception as error:
            raise InputError(
                f"{called(method)} fails on group {group.name!r}: {type(error).__name__}: {error}"
            ) from error
        if numbers is not None:
            found[group.space] = _checked(numbers, method, group)
    return found


def _checked(numbers: np.ndarray, method: Criterion, group: Group) -> np.ndarray:
    wanted = f"{group.size} finite numbers, or None"
    if numbers.shape != (group.size,):
        shape = f"something of shape {numbers.shape}"
        raise refusal(called(method), f"returned {shape} for group {group.name}", wanted)
    if not np.isfinite(numbers).all():
        raise refusal(called(method), f"returned NaN or infinity for group {group.name}", wanted)
    return numbers


class _Views:
    """Groups as functions of users see them."""

    def __init__(self, analysis: Analysis, weight_of: WeightOf, flow: Flow | None) -> None:
        self._analysis = analysis
        self._weight_of = weight_of
        self._flow = flow
        self._makers: Makers = find_makers(analysis.graph, analysis.types)
        self._parameters = {value.name: value for value in analysis.graph.parameters}

    def of(self, group: Group) -> GroupView:
        """One group."""
        return GroupView(
            group.name,
            group.size,
            tuple(self._making(group.space)),
            tuple(self._reading(group.space)),
        )

    def _making(self, space: Space) -> Iterable[Weight]:
        for name, axes in self._makers.axes.items():
            for dim, axis in enumerate(axes):
                for twin in spaces(axis):
                    if self._makers.made.get(twin) == space:
                        yield self._weight(self._parameters[name], dim, axis, twin)

    def _reading(self, space: Space) -> Iterable[ReaderView]:
        seen: set[tuple[str, int, int]] = set()
        for array, weight, reader in readers(self._analysis):
            key = (reader.node, reader.operand, reader.dim)
            if space not in spaces(reader.axis) or key in seen:
                continue
            seen.add(key)
            flow = self._flow_at(array, space)
            own = None
            if weight is not None and weight.name in self._parameters:
                own = self._weight(weight, reader.dim, reader.axis, space)
            yield ReaderView(reader.node, own, flow)

    def _weight(self, value: Value, dim: int, axis: Axis, space: Space) -> Weight:
        """A parameter with the positions of a group along an axis of their own."""
        at = places(axis, space)

        def load() -> np.ndarray:
            return np.take(self._weight_of(value.name)(()), at, axis=dim)

        return Weight(value.name, dim, load)

    def _flow_at(self, array: Value | None, space: Space) -> FlowAt | None:
        """The moments of positions, averaged over what else an axis is made of."""
        if self._flow is None or array is None:
            return None
        for read in self._flow.reads:
            axis = self._analysis.types.axes[array.name][read.dim]
            if read.array.name != array.name or space not in spaces(axis):
                continue
            moments = self._flow.of(read)
            if moments.count.any():
                times = places(axis, space).size // space.size
                names = ("mean", "absolute", "square", "variance")
                found: list[Sums] = [{} for _ in names]
                for name, sums in zip(names, found, strict=True):
                    spread(axis, getattr(moments, name), sums)
                return FlowAt(*(sums[space] / times for sums in found))
        return None


def places(axis: Axis, space: Space) -> np.ndarray:
    """Where in an axis the positions of a space lie: of shape (size, repeats), or (size,).

    >>> from fxprune.passes.axes import Prod, Space
    >>> heads, size = Space(1, 2), Space(2, 3)
    >>> places(Prod((heads, size), 6), size)
    array([[0, 3],
           [1, 4],
           [2, 5]])
    """
    labels = interpret(
        axis,
        lambda leaf: np.arange(leaf.size) if leaf == space else np.full(leaf.size, -1),
        lambda factors: reduce(_crossed, factors),
        np.concatenate,
    )
    found = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    return found if len(found) == space.size else found.reshape(space.size, -1)


def _crossed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Labels of a product of two axes, one of which may have some."""
    crossed: np.ndarray = np.maximum(left[:, None], right).ravel()
    return crossed
