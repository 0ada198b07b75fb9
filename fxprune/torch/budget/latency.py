"""How long will one evaluation of a sample take on this machine? An estimate from measured tables.

    latency = sum over layers of open(branches of the layer) * table(kept inputs, kept outputs)
            + what other operators take, per call and per element that they write

Every distinct convolution and linear layer is timed at a grid of input and output widths, and
interpolated multilinearly. Grouped layers are timed with whole groups. Nothing is known of caches
warm from the layer before, fused operators, or widths that a library is fast at and the grid skips.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis
from fxprune.passes.cost import homes_of, lies_in
from fxprune.passes.operators import factor_of
from fxprune.passes.peak import enclosing_branches
from fxprune.passes.polynomials import Monomials, Polynomial, Sizes, polynomial, times
from fxprune.passes.samples import one_sample
from fxprune.torch.budget.latency_tables import (
    WIDTHS,
    Measured,
    Table,
    channel_dim,
    measure,
    other_nodes,
)
from fxprune.torch.budget.point_costs import PointCost


@dataclass(frozen=True, slots=True)
class TimedLayer:
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

    layers: tuple[TimedLayer, ...]
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
        shape = (len(layers), WIDTHS)
        self._rows = torch.tensor([t.inputs for t in tables], dtype=torch.double).reshape(shape)
        self._columns = torch.tensor([t.outputs for t in tables], dtype=torch.double).reshape(shape)
        self._table = torch.tensor([t.milliseconds for t in tables], dtype=torch.double).reshape(
            *shape, WIDTHS
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


def predict(analysis: Analysis, measured: Measured) -> Latency:
    """The latency of a model whose layers have been measured, as a function of its sizes."""
    types, sizes = analysis.types, Sizes({g.space: g.name for g in analysis.free_groups})
    guards, evaluated = enclosing_branches(analysis.branches), analysis.graph.evaluated()
    layers = []
    for node in analysis.graph.nodes:
        if node.name not in evaluated or node.source not in measured.tables:
            continue
        dim, image = channel_dim(node), node.inputs[0]
        assert image is not None
        inputs, outputs = (
            polynomial(sizes.of(types.axes[value.name][dim])) for value in (image, node.outputs[0])
        )
        table = measured.tables[node.source]
        layers.append(TimedLayer(inputs, outputs, guards.get(node.name, ()), node.source, table))
    return Latency(tuple(layers), _others(analysis, measured), measured)


def _others(analysis: Analysis, measured: Measured) -> dict[str, Polynomial]:
    """What all else takes, by module: a time per call, per element, and per product."""
    graph, types, rates = analysis.graph, analysis.types, measured.rates
    single = one_sample(graph, types)
    sizes = Sizes({g.space: g.name for g in analysis.free_groups}, single.sizes)
    guards, homes = enclosing_branches(analysis.branches), homes_of(graph)
    totals: dict[str, dict[tuple[str, ...], float]] = {}

    def add(node: str, axes: tuple[Axis, ...], rate: float) -> None:
        guard: Monomials = {tuple(sorted(guards.get(node, ()))): 1}
        total = totals.setdefault(homes[node], {})
        for names, count in times(guard, sizes.of(*axes)).items():
            total[names] = total.get(names, 0.0) + rate * count

    nodes = other_nodes(graph, measured.tables)
    for node in nodes:
        for value in node.outputs:
            rate = rates.per_normalised if factor_of(node.op) is not None else rates.per_element
            add(node.name, (), rates.per_call)
            add(node.name, types.axes[value.name], rate / single.divisor)
    alone = {node.name for node in nodes}
    for contraction in types.contractions:
        if contraction.node in alone:
            add(contraction.node, contraction.axes, rates.per_product / single.divisor)
    return {
        home: Polynomial(tuple((c, names) for names, c in total.items()))
        for home, total in totals.items()
    }


def measure_latency(model: nn.Module, analysis: Analysis, round_to: int = 1) -> Latency:
    """Time the layers of a model, each distinct one at a grid of widths; this takes seconds.

    Grid points are multiples of `round_to` where the width allows it.
    """
    return predict(analysis, measure(model, analysis.graph, round_to))
