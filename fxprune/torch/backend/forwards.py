"""A graph as the forward of a module: the code of its mode, for arguments like those it recorded.

Several examples may have taken several ways. An argument must be an array where an array was
recorded, and have the value that the graph takes for granted; among the examples that fit in this
way, the one with arrays of the very sizes runs, else the first.
"""

import functools
import inspect
import linecache
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph_module import _loader

from fxprune.errors import InputError
from fxprune.torch.frontend.forward import FIXED
from fxprune.torch.frontend.ways import Way, select, ways_of

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Code:
    """The generated code of one example, by mode, and what it takes for granted of arguments."""

    by_mode: Mapping[bool | None, Forward]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    arrays: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """In the module's mode."""
        mode = None if None in self.by_mode else bool(module.training)
        return self.by_mode[mode](module, *args, **kwargs)

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name."""
        return {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs}

    def misfit(self, given: Mapping[str, Any]) -> str:
        """What is not as it was recorded; nothing if all is."""
        for name, value in given.items():
            if name not in self.defaults:
                return f"was traced without {name}"
            if name in self.fixed and not _is_same(value, self.fixed[name]):
                return f"was traced with {name}={self.fixed[name]!r}, not {value!r}"
            is_array = isinstance(value, Tensor | fx.Proxy)
            if name in self.arrays and not is_array and value is not inspect.Parameter.empty:
                return f"was traced with an array {name}, not {value!r}"
        return ""

    def has_sizes_of(self, given: Mapping[str, Any]) -> bool:
        """Whether arrays have the sizes that were recorded, behind the first axis."""
        arrays = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        return {name: array.shape[1:] for name, array in arrays.items()} == self.shapes


def codes_of(
    root: nn.Module, graph: fx.Graph, generate: Callable[[fx.Graph], Forward] | None = None
) -> list[Code]:
    """The code of every example of a graph, by `generate` if torch has it already."""
    by_example: dict[int, list[Way]] = {}
    for way in ways_of(graph):
        by_example.setdefault(way.example, []).append(way)
    codes = []
    for ways in by_example.values():
        graphs = {way.training: select(graph, way) for way in ways}
        places = [node for node in next(iter(graphs.values())).nodes if node.op == "placeholder"]
        forwards = {
            mode: generate(own) if generate else generated(root, own)
            for mode, own in graphs.items()
        }
        arrays = {str(p.target): p for p in places if isinstance(p.meta.get("value"), Tensor)}
        codes.append(
            Code(
                forwards,
                _defaults(next(iter(forwards.values()))),
                {str(node.target): node.meta[FIXED] for node in places if FIXED in node.meta},
                frozenset(arrays) & _computed_with(graphs.values()),
                {name: tuple(node.meta["value"].shape[1:]) for name, node in arrays.items()},
            )
        )
    return codes


def _computed_with(graphs: Iterable[fx.Graph]) -> set[str]:
    """The arguments that code computes with, and does not only hand on to other modules."""
    places = (node for graph in graphs for node in graph.nodes if node.op == "placeholder")
    return {str(p.target) for p in places if any(user.op != "call_module" for user in p.users)}


def forward_of(codes: Sequence[Code]) -> Forward:
    """A forward that runs the code of the example that its arguments are like."""
    first = next(iter(codes[0].by_mode.values()))

    @functools.wraps(first)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return codes[chosen(codes, args, kwargs)].run(self, args, kwargs)

    return forward


def chosen(codes: Sequence[Code], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The number of the example that arguments are like.

    Raises:
        InputError: of none.
    """
    fitting, problem = [], ""
    for number, code in enumerate(codes):
        given = code.given(args, kwargs)
        misfit = code.misfit(given)
        if not misfit:
            if len(codes) == 1 or code.has_sizes_of(given):
                return number
            fitting.append(number)
        problem = problem or misfit
    if not fitting:
        raise InputError(f"this model {problem}: give prepare example_inputs with what you use")
    return fitting[0]


def _defaults(forward: Forward) -> dict[str, Any]:
    """The arguments of a forward but for `self`, with what stands for those that are not given."""
    _, *own = inspect.signature(forward).parameters.values()
    return {each.name: each.default for each in own}


def generated(root: nn.Module, graph: fx.Graph) -> Forward:
    """The code that torch generates for a graph."""
    module = fx.GraphModule(root, graph)
    graph.owning_module = None  # else it would hold the parameters of `root`, in a cycle
    return tidy(type(module).forward)


def tidy(forward: Forward) -> Forward:
    """Generated code, whose source goes when it does: torch keeps that for tracebacks."""
    weakref.finalize(forward, _forget_source, forward.__code__.co_filename).atexit = False
    return forward


def _forget_source(file: str) -> None:
    linecache.cache.pop(file, None)
    _loader.eval_cache.pop(file, None)


def _is_same(given: Any, value: Any) -> bool:
    return given is value or (_kind(given) is _kind(value) and bool(given == value))


def _kind(value: Any) -> type:
    """The class of an argument; shapes are tuples, which they are equal to."""
    return tuple if isinstance(value, torch.Size) else type(value)
