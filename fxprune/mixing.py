"""Channels, ranks, or neither? One target shared out over all layers of a model, without training.

For every layer the form is found in which it loses least; then channels and ranks close together,
by what is lost for what it saves. Pairs that do not pay in the end are one layer again, and what
they leave is filled, until all that are left pay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fxprune.arguments import choice, names
from fxprune.flow import Flow
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, evaluate
from fxprune.passes.cost import lies_in, macs_by_node
from fxprune.passes.factorisation import FORMS, Form, Layer
from fxprune.passes.groups import Group
from fxprune.ranking import WeightOf, spread
from fxprune.tradeoffs import Curve, chosen_forms, losses, steps


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer that may be two: its weights and its module, and by form the energies of ranks."""

    layer: Layer
    weight: str
    home: str
    energies: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Two:
    """A layer that is two of some form: which weights these have.

    Axis `inputs` of the first weights and axis `outputs` of the second are those of the layer.
    """

    layer: Layer
    form: str
    first: str
    second: str
    inputs: int = 1
    outputs: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A model some layers of which are two, filled up to its target.

    `kept` says by group how many positions are open.
    """

    model: Any
    analysis: Analysis
    pairs: Mapping[str, Two]
    kept: Mapping[str, int]

    def idle(self) -> list[str]:
        """The pairs that do no less than their one layer would, of the channels that are open."""
        return [name for name, pair in self.pairs.items() if not self._pays(pair)]

    def _pays(self, pair: Two) -> bool:
        group = rank_of(self.analysis, pair)
        if group is None:
            return False
        rank = self.kept[group.name]
        return FORMS[pair.form].pays(self._layer(pair, rank), rank)

    def _layer(self, pair: Two, rank: int) -> Layer:
        """The one layer, with the channels that are open."""
        size = {group.space: self.kept[group.name] for group in self.analysis.free_groups}

        def of(axis: Axis) -> int:
            found: int = evaluate(axis, lambda space: size.get(space, space.size))
            return found

        first, second = (self.analysis.types.axes[name] for name in (pair.first, pair.second))
        by_input = FORMS[pair.form].by_input
        inputs = of(first[0]) // rank if by_input else of(first[pair.inputs])
        return replace(pair.layer, outputs=of(second[pair.outputs]), inputs=inputs)


def settled(chosen: Mapping[str, str], attempt: Callable[[Mapping[str, str]], Attempt]) -> Attempt:
    """The first attempt all of whose pairs pay, with fewer of the chosen forms each time."""
    left = dict(chosen)
    while True:
        found = attempt(left)
        idle = found.idle()
        if not idle:
            return found
        left = {name: form for name, form in left.items() if name not in idle}


def forms_named(factorise: Any) -> tuple[Form, ...]:
    """The forms that a user allows.

    Raises:
        InputError: an unknown form.
    """
    wanted = f"forms that layers may have, of {', '.join(FORMS)}"
    chosen = names("factorise", factorise, wanted)
    return tuple(FORMS[choice("factorise", name, tuple(FORMS))] for name in dict.fromkeys(chosen))


# Which form


def forms_at(
    analysis: Analysis, key: str, share: float, layers: Mapping[str, Candidate]
) -> dict[str, str]:
    """The forms of layers that are better as two at a limit, as if no channel closed.

    What has no simple cost by layers, such as latency, is taken for as large a share of the MACs.

    Args:
        analysis: the facts about the model as it is.
        key: what is limited: "macs", "macs of layer1", ...
        share: how much of that may stay.
        layers: the layers by name.
    """
    name, _, inside = key.partition(" of ")
    cost = name if name in _OF_LAYERS else "macs"
    full = analysis.costs_inside(inside).at(analysis.costs.full)[cost]
    macs = macs_by_node(analysis.graph, analysis.types)
    curves: dict[str, dict[str, Curve]] = {}
    for path, candidate in layers.items():
        if lies_in(candidate.home, inside):
            price = _price(analysis, candidate, cost, macs)
            for form, energies in candidate.energies.items():
                curve = _curve(FORMS[form], candidate.layer, energies, price)
                curves.setdefault(path, {})[form] = curve
    return chosen_forms(curves, share * full - (full - _sum(curves)))


_OF_LAYERS = ("macs", "flops", "params", "bytes")
"""The costs that the weights of a layer have a share of."""


def _price(analysis: Analysis, candidate: Candidate, cost: str, macs: Mapping[str, float]) -> float:
    """What a weight of a layer costs."""
    if cost == "params":
        return 1.0
    if cost == "bytes":
        return {p.name: p.bits / 8 for p in analysis.graph.parameters}[candidate.weight]
    users = analysis.graph.users().get(candidate.weight, ())
    return sum(macs.get(node.name, 0.0) for node in users) / candidate.layer.weights


def _curve(form: Form, layer: Layer, energies: np.ndarray, price: float) -> Curve:
    """What a layer loses and costs by rank; a multiply-accumulate of it costs `price`."""
    work = [form.work(layer, rank) for rank in range(1, len(energies) + 1)]
    return Curve(price * layer.weights, price * np.array(work, float), losses(energies))


def _sum(curves: Mapping[str, Mapping[str, Curve]]) -> float:
    return sum(next(iter(own.values())).whole for own in curves.values())


# What closes


def scores(
    analysis: Analysis,
    bounds: Iterable[str],
    pairs: Mapping[str, Two],
    energies: Mapping[str, np.ndarray],
    weights: WeightOf,
    flow: Flow | None,
) -> dict[str, np.ndarray]:
    """For every position of channels and ranks the loss per saving, by group.

    Args:
        analysis: the facts about a model some layers of which are two.
        bounds: what is limited: "macs", "macs of layer1", ...
        pairs: the layers that are two.
        energies: by pair those of its positions.
        weights: gives parts of parameters.
        flow: what flows through the model on data, if there is some.
    """
    saved = _savings(analysis, bounds)
    ranks = {group.name: path for path, pair in pairs.items() if (group := rank_of(analysis, pair))}
    parts = _parts(analysis, flow or Flow(analysis), weights, flow is not None)
    found: dict[str, np.ndarray] = {}
    for group in analysis.free_groups:
        if group.name in ranks:
            pair = pairs[ranks[group.name]]
            form = FORMS[pair.form]
            price = saved[group.name] / form.work(pair.layer, 1)
            found[group.name] = _curve(form, pair.layer, energies[ranks[group.name]], price).rates()
        else:
            readers = parts.get(group.name, [])
            rates = steps([own for own, _ in readers], [total for _, total in readers])
            found[group.name] = (rates if len(rates) else np.zeros(group.size)) / saved[group.name]
    return found


def _savings(analysis: Analysis, bounds: Iterable[str]) -> dict[str, float]:
    """What a position of every group saves of all that is limited, as shares."""
    limited = []
    for key in bounds:
        cost, _, inside = key.partition(" of ")
        costs = analysis.costs_inside(inside) if inside else analysis.costs
        limited.append(costs.polynomials[cost if cost in costs.polynomials else "macs"])
    full = analysis.costs.full
    saved: dict[str, float] = {}
    for group in analysis.free_groups:
        fewer = {**full, group.name: group.size - 1}
        shares = ((cost(full) - cost(fewer)) / max(cost(full), 1) for cost in limited)
        saved[group.name] = max(sum(shares), _LEAST_SAVING)
    return saved


_LEAST_SAVING = 1e-12
"""What closing a position of a group saves at least, so that losses can be divided by it."""


def _parts(
    analysis: Analysis, flow: Flow, weights: WeightOf, on_data: bool
) -> dict[str, list[tuple[np.ndarray, float]]]:
    """By group the energies that readers have of its positions, and have of all they sum over."""
    found: dict[str, list[tuple[np.ndarray, float]]] = {}
    for read in flow.reads:
        norms = flow.norms(read, weights) if on_data or not read.computed_weight else np.ones(1)
        size = read.array.shape[read.dim]
        energy = norms * (flow.of(read).square if on_data else np.ones(size))
        energy = np.broadcast_to(energy, (size,))
        sums: dict[Any, np.ndarray] = {}
        spread(analysis.types.axes[read.array.name][read.dim], energy, sums)
        for group in analysis.free_groups:
            if group.space in sums:
                found.setdefault(group.name, []).append((sums[group.space], float(energy.sum())))
    return found


def rank_of(analysis: Analysis, pair: Two) -> Group | None:
    """The free group between the two layers of a pair, if it is one."""
    inside = {pair.first, pair.second}
    for group in analysis.free_groups:
        if {member.rpartition(":")[0] for member in group.members} == inside:
            return group
    return None
