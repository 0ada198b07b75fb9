"""How long will one evaluation of a sample take on this machine? An estimate from measured tables.

    latency = sum over layers of open(branches of the layer) * table(kept inputs, kept outputs)
            + what other operators take, per call and per element that they write

Every distinct convolution and linear layer is timed at a grid of input and output widths, and
interpolated multilinearly. Grouped layers are timed with whole groups. Nothing is known of caches
warm from the layer before, fused operators, or widths that a library is fast at and the grid skips.
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

from fxprune.frontends.torch_meta import device_of
from fxprune.gates.point_costs import PointCost
from fxprune.ir import Graph, Node
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis
from fxprune.passes.cost import homes_of, lies_in
from fxprune.passes.peak import VIEWS, enclosing_branches
from fxprune.passes.polynomials import Monomials, Polynomial, Sizes, polynomial, times

_log = logging.getLogger("fxprune")

_WIDTHS = 5
_SECONDS = 5.0
_FEWEST_RUNS, _MOST_RUNS = 3, 25
_FRESH = 16
"""How many arrays take turns, so that none is in the caches when its turn comes."""
_CHANNELS = 32
_NORMS = ("batch_norm", "standardise", "instance_norm", "layer_norm", "rms_norm", "group_norm")
_TIMED = ("conv", "conv_transpose", "linear")


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
class Layer:
    """A layer with a table: its kept widths, the branches around it, the module that it is."""

    inputs: Polynomial
    outputs: Polynomial
    branches: tuple[str, ...]
    module: str
    table: Table


@dataclass(frozen=True, slots=True)
class Latency:
    """Predicted milliseconds of a model or a part of it, as a cost.

    `others` is what all but the layers takes, by module. `measured` serves to predict it anew.
    """

    layers: tuple[Layer, ...]
    others: Mapping[str, Polynomial]
    measured: "Measured | None" = None

    def inside(self, path: str) -> "Latency":
        """The part that lies in a module."""
        layers = tuple(layer for layer in self.layers if lies_in(layer.module, path))
        others = {home: cost for home, cost in self.others.items() if lies_in(home, path)}
        return Latency(layers, others, self.measured)

    def renewed(self, analysis: Analysis, path: str) -> "Latency":
        """The same for what is left of the model, from what was measured before."""
        assert self.measured is not None
        return predict(analysis, self.measured).inside(path)

    def __call__(self, sizes: Mapping[str, Any]) -> float:
        """The milliseconds for the given sizes by variable name."""
        index = {name: i for i, name in enumerate(sizes)}
        return float(self.on_tensors(index)(torch.tensor(list(sizes.values())).double()))

    def on_tensors(self, index: Mapping[str, int]) -> "LatencyOnTensors":
        """The same on vectors of sizes."""
        return LatencyOnTensors(self, index)


class LatencyOnTensors:
    """Tables looked up for all layers at once, for sizes along the last axis."""

    def __init__(self, latency: Latency, index: Mapping[str, int]) -> None:
        layers, tables = latency.layers, [layer.table for layer in latency.layers]
        self._inputs = PointCost([layer.inputs for layer in layers], index)
        self._outputs = PointCost([layer.outputs for layer in layers], index)
        self._open = PointCost([Polynomial(((1, layer.branches),)) for layer in layers], index)
        terms = [(c / p.divisor, n) for p in latency.others.values() for c, n in p.terms]
        self._others = PointCost([Polynomial(tuple(terms))], index)
        shape = (len(layers), _WIDTHS)
        self._rows = torch.tensor([t.inputs for t in tables], dtype=torch.double).reshape(shape)
        self._columns = torch.tensor([t.outputs for t in tables], dtype=torch.double).reshape(shape)
        self._table = torch.tensor([t.milliseconds for t in tables], dtype=torch.double).reshape(
            *shape, _WIDTHS
        )

    def __call__(self, sizes: Tensor) -> Tensor:
        """The predicted milliseconds."""
        return self._sum(sizes, self._rows, self._columns, self._table)

    def priced(self, sizes: Tensor, limit: float) -> Tensor:
        """A scalar whose gradient says what a position costs.

        Half of it is the slope over the whole width, so that a flat stretch has a price too.
        """
        ends = [0, -1]
        rows, columns = self._rows[:, ends], self._columns[:, ends]
        whole = self._sum(sizes, rows, columns, self._table[:, ends][:, :, ends])
        return (self(sizes) + whole) / 2

    def after(self, sizes: Tensor, more: Tensor) -> Tensor:
        """For every variable the milliseconds if it alone grew by `more`."""
        return self(sizes + torch.diag(more))

    def _sum(self, sizes: Tensor, rows: Tensor, columns: Tensor, table: Tensor) -> Tensor:
        on = sizes.device
        row, down = _place(rows.to(on), self._inputs.at(sizes))
        column, across = _place(columns.to(on), self._outputs.at(sizes))
        layer, table = torch.arange(len(table), device=on), table.to(on)
        upper = torch.lerp(table[layer, row, column], table[layer, row, column + 1], across)
        lower = torch.lerp(table[layer, row + 1, column], table[layer, row + 1, column + 1], across)
        layers = self._open.at(sizes) * torch.lerp(upper, lower, down)
        return layers.sum(dim=-1) + self._others(sizes)


def _place(grid: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The grid point below each width, and the share of the way to the next one."""
    below = (grid <= width.detach()[..., None]).sum(dim=-1).sub(1).clamp(0, grid.shape[1] - 2)
    layer = torch.arange(len(grid), device=grid.device)
    start, end = grid[layer, below], grid[layer, below + 1]
    return below, ((width - start) / (end - start).clamp(min=1e-9)).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was timed: a table for every module that is a layer, and rates for the rest."""

    tables: Mapping[str, Table]
    rates: Rates


def predict(analysis: Analysis, measured: Measured) -> Latency:
    """The latency of a model whose layers have been measured, as a function of its sizes."""
    types, sizes = analysis.types, Sizes({g.space: g.name for g in analysis.free_groups})
    guards, served = enclosing_branches(analysis.branches), analysis.graph.served()
    layers = []
    for node in analysis.graph.nodes:
        if node.name not in served or node.source not in measured.tables:
            continue
        dim, image = _channel_dim(node), node.inputs[0]
        assert image is not None
        inputs, outputs = (
            polynomial(sizes.of(types.axes[value.name][dim])) for value in (image, node.outputs[0])
        )
        table = measured.tables[node.source]
        layers.append(Layer(inputs, outputs, guards.get(node.name, ()), node.source, table))
    return Latency(tuple(layers), _others(analysis, sizes, measured), measured)


def _others(analysis: Analysis, sizes: Sizes, measured: Measured) -> dict[str, Polynomial]:
    """What all else takes, by module: a time per call, per element, and per product."""
    graph, types, rates = analysis.graph, analysis.types, measured.rates
    guards, homes = enclosing_branches(analysis.branches), homes_of(graph)
    totals: dict[str, dict[tuple[str, ...], float]] = {}

    def add(node: str, axes: tuple[Axis, ...], rate: float) -> None:
        guard: Monomials = {tuple(sorted(guards.get(node, ()))): 1}
        total = totals.setdefault(homes[node], {})
        for names, count in times(guard, sizes.of(*axes)).items():
            total[names] = total.get(names, 0.0) + rate * count

    nodes = _other_nodes(graph, measured.tables)
    for node in nodes:
        for value in node.outputs:
            rate = rates.per_normalised if node.op in _NORMS else rates.per_element
            add(node.name, (), rates.per_call)
            add(node.name, types.axes[value.name], rate / graph.batch)
    alone = {node.name for node in nodes}
    for contraction in types.contractions:
        if contraction.node in alone:
            add(contraction.node, contraction.axes, rates.per_product / graph.batch)
    return {
        home: Polynomial(tuple((c, names) for names, c in total.items()))
        for home, total in totals.items()
    }


def _other_nodes(graph: Graph, layers: Collection[str]) -> list[Node]:
    """The nodes that compute something in evaluation and have no table."""
    served = graph.served()
    return [
        node
        for node in graph.nodes
        if node.name in served and node.op not in VIEWS and node.source not in layers
    ]


# Measuring ------------------------------------------------------------------------------------


def measure_latency(model: nn.Module, analysis: Analysis, round_to: int = 1) -> Latency:
    """Time the layers of a model, each distinct one at a grid of widths; this takes seconds.

    Grid points are multiples of `round_to` where the width allows it.
    """
    graph, served = analysis.graph, analysis.graph.served()
    layers = {
        node.source: node
        for node in graph.nodes
        if node.name in served and node.op in _TIMED and node.source
    }
    keys = {
        path: (repr(model.get_submodule(path)), _shape_of(node)[1:])
        for path, node in layers.items()
    }
    distinct = {key: path for path, key in reversed(keys.items())}
    _log.info("timing %d distinct layers of %d", len(distinct), len(layers))
    device = device_of(model)
    clock = _Clock(device, _SECONDS / max(len(distinct) * _WIDTHS**2, 1))
    with torch.inference_mode():
        tables = {
            key: _table(model.get_submodule(path), layers[path], graph.batch, round_to, clock)
            for key, path in distinct.items()
        }
        rates = _rates(graph, _other_nodes(graph, layers), clock)
    return predict(analysis, Measured({path: tables[key] for path, key in keys.items()}, rates))


def _shape_of(node: Node) -> tuple[int, ...]:
    image = node.inputs[0]
    assert image is not None
    return image.shape


def _channel_dim(node: Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    return 1 - len(weight.shape) if node.op != "linear" else -1


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
    between = (full * i // (_WIDTHS - 1) // step * step for i in range(1, _WIDTHS - 1))
    if step == 1:
        between = (width - (width % 2 == 0) for width in between)
    return [min(step, full), *(min(max(width, step), full) for width in between), full]


def _table(module: Any, node: Node, batch: int, round_to: int, clock: _Clock) -> Table:
    first, *rest = _shape_of(node)
    shape = [1 if first == batch else first, *rest]
    dim, linear = _channel_dim(node), node.op == "linear"
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
