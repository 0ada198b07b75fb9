"""Channels, ranks or neither in a torch model: gates on what `fxprune/mixing.py` chooses."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.mixing import Attempt, Candidate, Two, forms_at, scores, settled
from fxprune.passes.factorisation import Form
from fxprune.targets import absolute
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.factorise import as_pairs, can_be
from fxprune.torch.gates.weights import weight_of
from fxprune.torch.keep_sets import keep_set, reach_target
from fxprune.torch.observing import observed
from fxprune.torch.pairs import layer_of, pairs_of
from fxprune.torch.record import attach, gated_record, traced_part
from fxprune.torch.splitting import put

Prepare = Callable[[nn.Module, Any], Any]
"""Gates a model for a target."""


def mixed(
    model: nn.Module,
    target: Any,
    forms: Iterable[Form],
    prepare: Prepare,
    data: Iterable[Any] | None,
    scope: str = "",
) -> nn.Module:
    """A gated model, at its target, some layers of which are two where that loses less.

    Args:
        model: the model as it is.
        target: what the user asked for, of the model as it is.
        forms: the forms that layers may have.
        prepare: gates a model for a target.
        data: batches, for what channels and ranks do on them.
        scope: the part of the model that is prepared.
    """
    inside = f"{scope}." if scope else ""
    gates, record = gated_record(prepare(model, target))
    bounds = record.targets or {}
    energies = {form.name: _energies(model, form, data, inside) for form in forms}
    key, bound = next(iter(bounds.items()))
    share = min(bound / gates.reached()[key], 1.0)
    chosen = forms_at(record.analysis, key, share, _candidates(model, energies, inside))
    pairs, _ = as_pairs(model, _whole_paths(chosen, inside), data)

    def attempt(left: Mapping[str, str]) -> Attempt:
        nonlocal pairs
        pairs = _whole_again(pairs, model, _whole_paths(left, inside))
        gated: nn.Module = prepare(pairs, absolute(bounds))
        analysis = gated_record(gated)[1].analysis
        _, part = traced_part(gated)
        two, own = _two(part), {path: energies[form][path] for path, form in left.items()}
        flow = observed(gated, data) if data is not None else None
        found = scores(analysis, bounds, two, own, weight_of(part), flow)
        reach_target(gated, {name: torch.from_numpy(numbers) for name, numbers in found.items()})
        kept = {name: int(flags.sum()) for name, flags in keep_set(gated).items()}
        return Attempt(gated, analysis, two, kept)

    gated: nn.Module = settled(chosen, attempt).model
    _, part = traced_part(gated)
    before = record.costs_before or record.analysis.costs.at(record.analysis.costs.full)
    attach(part, replace(gated_record(gated)[1], costs_before=before))
    return gated


def _energies(
    model: nn.Module, form: Form, data: Iterable[Any] | None, inside: str
) -> dict[str, np.ndarray]:
    """By layer the energies that the positions of its rank would have, by its path in a part."""
    own = {path: name for path, name in can_be(model, form).items() if path.startswith(inside)}
    found = as_pairs(model, own, data)[1]
    return {path.removeprefix(inside): energies for path, energies in found.items()}


def _whole_paths(forms: Mapping[str, str], inside: str) -> dict[str, str]:
    """The same by paths in the whole model."""
    return {f"{inside}{path}": form for path, form in forms.items()}


def _candidates(
    model: nn.Module, energies: Mapping[str, Mapping[str, np.ndarray]], inside: str
) -> dict[str, Candidate]:
    """The layers that may be two, by path."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for form, own in energies.items():
        for path, parts in own.items():
            found.setdefault(path, {})[form] = parts
    return {
        path: Candidate(
            layer_of(model.get_submodule(f"{inside}{path}")), f"{path}.weight", path, own
        )
        for path, own in found.items()
    }


def _two(part: nn.Module) -> dict[str, Two]:
    """The layers that are two, by path, as passes know them."""
    return {
        path: Two(
            layer_of(pair),
            pair.form,
            f"{path}.first.weight",
            f"{path}.second.weight",
            inputs=0 if isinstance(pair.first, nn.Embedding) else 1,
        )
        for path, pair in pairs_of(part).items()
    }


def _whole_again(pairs: nn.Module, model: nn.Module, left: Mapping[str, str]) -> nn.Module:
    """The same model with only some pairs left: the others are the layers that they were."""
    gone = [path for path in pairs_of(pairs) if path not in left]
    if gone:
        pairs = copy_module(pairs)
    for path in gone:
        put(pairs, pairs.get_submodule(path), copy_module(model.get_submodule(path)))
    return pairs
