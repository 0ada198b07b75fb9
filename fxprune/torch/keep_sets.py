"""Groups and keep-sets as data: what is open, what a user opens, what a target closes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.arguments import near, refusal, shown
from fxprune.errors import InputError
from fxprune.keep_sets import by_name, flags_of
from fxprune.layout import Layout
from fxprune.passes.fold import check_keep_set
from fxprune.passes.ties import check_ties, steps_of
from fxprune.passes.whole_layers import check_layers
from fxprune.ranking import completed, group_norm
from fxprune.torch.gates.module import PREFIX
from fxprune.torch.gates.weights import weight_of
from fxprune.torch.record import gated_record, gates_of, record_of, traced_part
from fxprune.torch.wrapping import check_module


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One line of `groups`: `label` says place and kind; `pin` is empty for what is free.

    `kind` is "hidden", "heads", "kv heads", "head dimension", "MLP width", "rank", "experts",
    "vocabulary", "channel", "branch" or "layer"; `place` is the module that it belongs to, "" for
    the model.
    `tied` names the groups of which it keeps the same share, because the model's code computes one
    size from the other: half of the heads with half of the channels. It keeps a multiple of `unit`.
    What does not keep all keeps `least` positions or more, in a multiple of `multiple`: as many
    experts as a router chooses.
    """

    name: str
    kind: str
    size: int
    members: tuple[str, ...]
    pin: str = ""
    tied: tuple[str, ...] = ()
    label: str = ""
    place: str = ""
    unit: int = 1
    least: int = 1
    multiple: int = 1


def groups(gated: nn.Module) -> list[GroupInfo]:
    """Every group and branch of a gated or folded module, the pinned ones with the reason."""
    check_module("gated", gated)
    record = record_of(traced_part(gated)[1])
    if record is None:
        raise InputError(f"gated must be a gated or folded module, got {type(gated).__name__}")
    analysis = record.analysis
    tied = {
        name: tuple(other for other in tie.groups if other != name)
        for tie in analysis.ties
        for name in tie.groups
    }
    size = {group.name: group.size for group in analysis.groups}
    unit = {
        name: size[name] // steps_of((size[other] for other in tie.groups), tie.steps)
        for tie in analysis.ties
        for name in tie.groups
    }
    channels = [
        GroupInfo(
            *(g.name, g.kind.value, g.size, g.members, g.pin, tied.get(g.name, ())),
            *(g.label, g.place, unit.get(g.name, 1), g.numbers.least, g.numbers.multiple),
        )
        for g in analysis.groups
    ]
    return channels + [
        GroupInfo(b.name, b.kind.value, 1, b.nodes, label=b.label, place=b.place)
        for b in analysis.branches
    ]


def keep_set(gated: nn.Module) -> dict[str, Tensor]:
    """The open positions of every group (a bool tensor of its size) and branch (of size 1)."""
    return gates_of(gated).keep_set()


def set_keep_set(gated: nn.Module, keep: Mapping[str, Any]) -> None:
    """Open exactly the positions that `keep` names; the gates stop learning from here on.

    Args:
        gated: what `prepare` returned; it is changed in place.
        keep: for each group, by name or label, a bool tensor or sequence of its size, for each
            branch one of size 1. What is left out stays as it is.

    Raises:
        KeepSetError: an unknown or pinned name, a wrong size, a group that keeps nothing, tied
            groups that keep unequal shares, a list that keeps no layer.
    """
    gates, record = gated_record(gated)
    flags = by_name(flags_of(keep), record.analysis)
    check_keep_set(flags, record.analysis.groups, record.analysis.branches)
    everything = flags_of(gates.keep_set()) | flags
    check_ties(everything, record.analysis.ties)
    check_layers(everything, record.analysis)
    gates.set_keep_set(flags)


def reach_target(gated: nn.Module, importance: Mapping[str, Any] | None = None) -> None:
    """Close the lowest-ranked positions now until the target is met, whatever the schedule says.

    Args:
        gated: what `prepare` returned; it is changed in place, and its gates stop learning.
        importance: how much each position matters, by the names of groups and branches, as
            `fxprune.importance` gives it; if missing, what the method has learned. A group that is
            left out goes in the order of its weights' norms, and loses the share that the others
            lose together; a branch that is left out closes last.

    Raises:
        InputError: `importance` names no group and no branch, or something else, or has values of a
            wrong size or that are no numbers.
    """
    gates = gates_of(gated)
    rank = None if importance is None else torch.from_numpy(ranked(gated, importance))
    gates.settle(rank)


def ranked(gated: nn.Module, importance: Mapping[str, Any]) -> np.ndarray:
    """Importance as a rank of every position, completed where it leaves something out."""
    gates, record = gated_record(gated)
    given = _given(gates.layout, importance)
    weights = weight_of(traced_part(gated)[1])
    by_weights = lambda: group_norm(record.analysis, weights)  # noqa: E731
    return completed(record.analysis, gates.layout, given, by_weights)


def positions_of(layout: Layout, values: Any, argument: str = "importance") -> np.ndarray:
    """Numbers by group and branch in one flat vector; zeros for what is left out.

    Raises:
        InputError: they are none, or of something else.
    """
    given = _given(layout, values, argument)
    pairs = zip(layout.names, layout.sizes, strict=True)
    return np.concatenate([given.get(name, np.zeros(size)) for name, size in pairs])


def _given(
    layout: Layout, values: Mapping[str, Any], argument: str = "importance"
) -> dict[str, np.ndarray]:
    """Values by name as arrays."""
    if not isinstance(values, Mapping) or not values:
        raise refusal(argument, values, "numbers by group and branch, as importance(gated)")
    sizes = dict(zip(layout.names, layout.sizes, strict=True))
    for name in values:
        if name not in sizes:
            raise InputError(
                f"{argument} names {shown(name)}, which is no free group and no branch"
                f"{near(name, layout.names)}"
            )
    return {
        name: _numbers(name, value, sizes[name], argument).numpy() for name, value in values.items()
    }


def _numbers(name: str, value: Any, size: int, argument: str) -> Tensor:
    refused = InputError(f"{argument} of {name} must be {size} numbers, got {shown(value)}")
    try:
        given = torch.as_tensor(value).detach().reshape(-1).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise refused from error
    if len(given) != size or given.is_complex() or bool(given.isnan().any()):
        raise refused
    return given.double()


def parameter_groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Optimizer parameter groups: the model's own with `options`, the gates without weight decay.

    >>> optimizer = torch.optim.SGD(parameter_groups(gated, weight_decay=5e-4), lr=0.1)
    ... # doctest: +SKIP
    """
    check_module("model", model)
    if "params" in options:
        raise InputError("params is what parameter_groups finds: leave it out of the options")
    own = [p for name, p in model.named_parameters() if PREFIX not in name.split(".")]
    gates = [p for name, p in model.named_parameters() if PREFIX in name.split(".")]
    return [{"params": own, **options}, {"params": gates, **options, "weight_decay": 0.0}]
