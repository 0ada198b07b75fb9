"""Channels, ranks, or neither? One target shared out over all layers of a model, without training.

For every layer the form is found in which it loses least; then channels and ranks close together,
by what is lost for what it saves. Pairs that do not pay in the end are one layer again, and what
they leave is filled, until all that are left pay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.arguments import choice, names
from fxprune.errors import InputError
from fxprune.flow import Flow
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, evaluate
from fxprune.passes.cost import lies_in
from fxprune.passes.factorisation import FORMS, Form, Layer
from fxprune.passes.groups import Group
from fxprune.ranking import WeightOf, spread
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.criteria import weight_of
from fxprune.torch.factorise import as_pairs, can_be
from fxprune.torch.keep_sets import keep_set, reach_target
from fxprune.torch.observing import observed
from fxprune.torch.pairs import Pair, layer_of, pairs_of
from fxprune.torch.record import gated_record
from fxprune.torch.splitting import put
from fxprune.tradeoffs import Curve, chosen_forms, losses, steps

Prepare = Callable[[nn.Module, Any], Any]
"""Gates a model for a target."""


def mixed(
    model: nn.Module,
    target: Any,
    forms: Iterable[Form],
    prepare: Prepare,
    data: Iterable[Any] | None,
) -> nn.Module:
    """A gated model, at its target, some layers of which are two where that loses less.

    Args:
        model: the model as it is.
        target: what the user asked for, of the model as it is.
        forms: the forms that layers may have.
        prepare: gates a model for a target.
        data: batches, for what channels and ranks do on them.
    """
    gates, record = gated_record(prepare(model, target))
    bounds = record.targets or {}
    absolute = _absolute(bounds)
    energies = {form.name: as_pairs(model, can_be(model, form), data)[1] for form in forms}
    key, bound = next(iter(bounds.items()))
    share = min(bound / gates.reached()[key], 1.0)
    chosen = _chosen(model, record.analysis, key, share, energies)
    pairs, _ = as_pairs(model, chosen, data)
    while True:
        gated: nn.Module = prepare(pairs, absolute)
        reach_target(gated, _scores(gated, chosen, energies, data))
        idle = [path for path in chosen if not _pays(gated, path)]
        if not idle:
            return gated
        pairs = copy_module(pairs)
        for path in idle:
            del chosen[path]
            put(pairs, pairs.get_submodule(path), copy_module(model.get_submodule(path)))


def forms_named(factorise: Any, scope: str, *, copy: bool) -> tuple[Form, ...]:
    """The forms that a user allows.

    Raises:
        InputError: an unknown form, or another argument that does not go with any.
    """
    wanted = f"forms that layers may have, of {', '.join(FORMS)}"
    chosen = names("factorise", factorise, wanted)
    forms = tuple(FORMS[choice("factorise", name, tuple(FORMS))] for name in dict.fromkeys(chosen))
    if forms and (scope or not copy):
        reason = "scope" if scope else "copy=False"
        raise InputError(f"factorise makes other layers of a whole model: leave out {reason}")
    return forms


def _absolute(bounds: Mapping[str, float]) -> dict[str, Any]:
    """A target in absolute numbers, from limits by "macs", "macs of layer1", ..."""
    target: dict[str, Any] = {}
    for key, bound in bounds.items():
        cost, _, path = key.partition(" of ")
        name = "latency_ms" if cost == "latency" else cost
        (target.setdefault(path, {}) if path else target)[name] = bound
    return target


# Which form


def _chosen(
    model: nn.Module,
    analysis: Analysis,
    key: str,
    share: float,
    energies: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, str]:
    """The forms of layers that are better as two at the first limit, as if no channel closed.

    What has no simple cost by layers, such as latency, is taken for as large a share of the MACs.
    """
    name, _, inside = key.partition(" of ")
    cost = name if name in ("macs", "params", "flops") else "macs"
    full = analysis.costs_inside(inside).at(analysis.costs.full)[cost]
    curves: dict[str, dict[str, Curve]] = {}
    for form, own in energies.items():
        for path, parts in own.items():
            if not lies_in(path, inside):
                continue
            layer = layer_of(model.get_submodule(path))
            price = analysis.costs_inside(path).at(analysis.costs.full)[cost] / layer.weights
            curves.setdefault(path, {})[form] = _curve(FORMS[form], layer, parts, price)
    return chosen_forms(curves, share * full - (full - _sum(curves)))


def _curve(form: Form, layer: Layer, energies: np.ndarray, price: float) -> Curve:
    """What a layer loses and costs by rank; a multiply-accumulate of it costs `price`."""
    work = [form.work(layer, rank) for rank in range(1, len(energies) + 1)]
    return Curve(price * layer.weights, price * np.array(work, float), losses(energies))


def _sum(curves: Mapping[str, Mapping[str, Curve]]) -> float:
    return sum(next(iter(own.values())).whole for own in curves.values())


# What closes


def _scores(
    gated: nn.Module,
    chosen: Mapping[str, str],
    energies: Mapping[str, Mapping[str, np.ndarray]],
    data: Iterable[Any] | None,
) -> dict[str, torch.Tensor]:
    """For every position of channels and ranks the loss per saving."""
    _, record = gated_record(gated)
    analysis = record.analysis
    flow = observed(gated, data) if data is not None else Flow(analysis)
    saved = _savings(analysis, record.targets or {})
    ranks = {group.name: path for path in chosen if (group := _rank_of(analysis, path))}
    scores: dict[str, torch.Tensor] = {}
    parts = _parts(analysis, flow, weight_of(gated), data is not None)
    for group in analysis.free_groups:
        if group.name in ranks:
            path = ranks[group.name]
            form = FORMS[chosen[path]]
            layer = layer_of(gated.get_submodule(path))
            price = saved[group.name] / form.work(layer, 1)
            rates = _curve(form, layer, energies[form.name][path], price).rates()
        else:
            readers = parts.get(group.name, [])
            rates = steps([own for own, _ in readers], [total for _, total in readers])
            rates = (rates if len(rates) else np.zeros(group.size)) / saved[group.name]
        scores[group.name] = torch.from_numpy(rates)
    return scores


def _savings(analysis: Analysis, bounds: Mapping[str, float]) -> dict[str, float]:
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


# What pays


def _rank_of(analysis: Analysis, path: str) -> Group | None:
    """The free group between the two layers of a pair, if it is one."""
    inside = {f"{path}.first.weight", f"{path}.second.weight"}
    for group in analysis.free_groups:
        if {member.rpartition(":")[0] for member in group.members} == inside:
            return group
    return None


def _pays(gated: nn.Module, path: str) -> bool:
    """Whether a pair does less than its one layer would, of the channels that are open."""
    _, record = gated_record(gated)
    group = _rank_of(record.analysis, path)
    if group is None:
        return False
    kept = {name: int(flags.sum()) for name, flags in keep_set(gated).items()}
    pair = pairs_of(gated)[path]
    rank = kept[group.name]
    return FORMS[pair.form].pays(_kept(record.analysis, path, pair, kept, rank), rank)


def _kept(analysis: Analysis, path: str, pair: Pair, kept: Mapping[str, int], rank: int) -> Layer:
    """The one layer that a pair was, with the channels that are open, at an open rank."""
    size = {group.space: kept[group.name] for group in analysis.free_groups}
    first, second = (analysis.types.axes[f"{path}.{name}.weight"] for name in ("first", "second"))

    def of(axis: Axis) -> int:
        found: int = evaluate(axis, lambda space: size.get(space, space.size))
        return found

    if FORMS[pair.form].by_input:
        inputs = of(first[0]) // rank
    else:
        inputs = of(first[0 if isinstance(pair.first, nn.Embedding) else 1])
    return replace(layer_of(pair), outputs=of(second[0]), inputs=inputs)
