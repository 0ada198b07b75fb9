"""Layers timed on this machine: tables of milliseconds by input and output width, and rates.

Every distinct convolution and linear layer is timed at a grid of widths; what remains has a time
per call, per element that it writes, and per multiply-accumulate.
"""

import copy
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.ir import Graph, Node
from fxprune.passes.kinds import CONVOLUTIONS, LAYERS, VIEWS
from fxprune.torch.frontend.meta import real_device_of

_log = logging.getLogger("fxprune")
WIDTHS = 5
_SECONDS = 5.0
_FEWEST_RUNS, _MOST_RUNS = 3, 25
_FRESH = 16
"""How many arrays take turns, so that none is in the caches when its turn comes."""
_CHANNELS = 32


@dataclass(frozen=True, slots=True)
class Table:
    """Milliseconds at a grid of input widths (rows) and output widths, never falling."""

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    milliseconds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Milliseconds of a call, of an element that is written, of a multiply-accumulate."""

    per_call: float
    per_element: float
    per_normalised: float
    per_product: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was timed: a table for every module that is a layer, and rates for the rest."""

    tables: Mapping[str, Table]
    rates: Rates


def measure(model: nn.Module, graph: Graph, round_to: int = 1) -> Measured:
    """Time the layers of a model, each distinct one at a grid of widths; this takes seconds."""
    evaluated = graph.evaluated()
    layers = {
        node.source: node
        for node in graph.nodes
        if node.name in evaluated and node.op in LAYERS and node.source
    }
    keys = {
        path: (repr(model.get_submodule(path)), _shape_of(node)[1:])
        for path, node in layers.items()
    }
    distinct = {key: path for path, key in reversed(keys.items())}
    _log.info("timing %d distinct layers of %d", len(distinct), len(layers))
    device = real_device_of(model)
    clock = _Clock(device, _SECONDS / max(len(distinct) * WIDTHS**2, 1))
    with torch.inference_mode():
        tables = {
            key: _table(model.get_submodule(path), layers[path], graph.batch, round_to, clock)
            for key, path in distinct.items()
        }
        rates = _rates(graph, other_nodes(graph, layers), clock)
    return Measured({path: tables[key] for path, key in keys.items()}, rates)


def _shape_of(node: Node) -> tuple[int, ...]:
    image = node.inputs[0]
    assert image is not None
    return image.shape


class _Clock:
    """Times calls on a device, each for about as long as it is given."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self._seconds = seconds

    def milliseconds(self, call: Callable[[], Any]) -> float:
        """The median of some calls."""
        call()
        times: list[float] = []
        while len(times) < _FEWEST_RUNS or (sum(times) < self._seconds and len(times) < _MOST_RUNS):
            self._wait()
            start = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _grid(full: int, step: int) -> list[int]:
    """Widths from the smallest to the full one, multiples of `step` in between."""
    between = (full * i // (WIDTHS - 1) // step * step for i in range(1, WIDTHS - 1))
    if step == 1:
        between = (width - (width % 2 == 0) for width in between)
    return [min(step, full), *(min(max(width, step), full) for width in between), full]


def _table(module: Any, node: Node, batch: int, round_to: int, clock: _Clock) -> Table:
    first, *rest = _shape_of(node)
    shape = [1 if first == batch else first, *rest]
    dim, linear = channel_dim(node), node.op not in CONVOLUTIONS
    full_in, full_out = shape[dim], node.outputs[0].shape[dim]
    groups = 1 if linear else module.groups
    found: dict[tuple[int, int], float] = {}

    def timed(inputs: int, outputs: int, kept: int) -> float:
        if (inputs, outputs) not in found:
            small = _narrowed(module, node, inputs, outputs, kept)
            x = module.weight.new_ones([*shape[:dim], inputs, *shape[len(shape) + dim + 1 :]])
            found[inputs, outputs] = clock.milliseconds(lambda: small.forward(x))
        return found[inputs, outputs]

    if groups > 1:
        kept = _grid(groups, round_to)
        rows = [number * (full_in // groups) for number in kept]
        columns = [number * (full_out // groups) for number in kept]
        alone = [timed(i, o, n) for i, o, n in zip(rows, columns, kept, strict=True)]
        values = [[(left + right) / 2 for right in alone] for left in alone]
    else:
        rows, columns = _grid(full_in, round_to), _grid(full_out, round_to)
        values = [[timed(i, o, 1) for o in columns] for i in rows]
    rising = torch.tensor(values).double().cummax(dim=0).values.cummax(dim=1).values
    return Table(tuple(rows), tuple(columns), tuple(map(tuple, rising.tolist())))


def _narrowed(module: Any, node: Node, inputs: int, outputs: int, groups: int) -> Any:
    """The same layer with other widths, and weights that cost no random numbers."""
    small = copy.copy(module)
    kernel = list(module.weight.shape[2:])
    turned = node.op == "conv_transpose"
    ends = [inputs, outputs // groups] if turned else [outputs, inputs // groups]
    weight, bias = module.weight.new_ones([*ends, *kernel]), module.bias
    small._parameters = {
        "weight": nn.Parameter(weight),
        "bias": None if bias is None else nn.Parameter(bias.new_zeros(outputs)),
    }
    small.groups, small.in_channels, small.out_channels = groups, inputs, outputs
    return small


def _rates(graph: Graph, nodes: list[Node], clock: _Clock) -> Rates:
    """Measured once each, on an array of the size that these nodes write."""
    written = [torch.Size(v.shape).numel() // graph.batch for n in nodes for v in n.outputs]
    many = max([4096, *sorted(written)[len(written) * 3 // 4 :][:1]])
    scale = torch.ones(_CHANNELS, device=clock.device)

    def timed(count: int, function: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Of an operator that writes `count` elements, whose input no cache holds any more."""
        side = max(round((count / _CHANNELS) ** 0.5), 1)
        shape = (1, _CHANNELS, side, side)
        fresh = itertools.cycle([torch.ones(shape, device=clock.device) for _ in range(_FRESH)])
        return clock.milliseconds(lambda: function(next(fresh), next(fresh)))

    def normalise(x: Tensor, _: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, scale, scale, scale, scale)

    square = torch.ones(256, 256, device=clock.device)
    per_call = timed(1, torch.add)
    elementwise = (timed(many, torch.add) + timed(many, lambda x, _: torch.relu(x))) / 2
    return Rates(
        per_call=per_call,
        per_element=max(elementwise - per_call, 0.0) / many,
        per_normalised=max(timed(many, normalise) - per_call, 0.0) / many,
        per_product=clock.milliseconds(lambda: square @ square) / 256**3,
    )


def other_nodes(graph: Graph, layers: Collection[str]) -> list[Node]:
    """The nodes that compute something in evaluation and have no table."""
    evaluated = graph.evaluated()
    return [
        node
        for node in graph.nodes
        if node.name in evaluated and node.op not in VIEWS and node.source not in layers
    ]


def channel_dim(node: Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    return 1 - len(weight.shape) if node.op in CONVOLUTIONS else -1
