"""Groups and keep-sets as data: what is open, what a user opens, what a target closes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError, KeepSetError
from fxprune.filling import Layout
from fxprune.passes.fold import check_keep_set
from fxprune.torch.gates.module import PREFIX
from fxprune.torch.record import gated_record, gates_of, record_of, traced_part


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One line of `groups`: `kind` is "channel" or "branch"; `pin` is empty for what is free."""

    name: str
    kind: str
    size: int
    members: tuple[str, ...]
    pin: str = ""


def groups(gated: nn.Module) -> list[GroupInfo]:
    """Every group and branch of a gated or folded module, the pinned ones with the reason."""
    record = record_of(traced_part(gated)[1])
    if record is None:
        raise InputError(f"expected a gated or folded module, got {type(gated).__name__}")
    analysis = record.analysis
    channels = [GroupInfo(g.name, "channel", g.size, g.members, g.pin) for g in analysis.groups]
    return channels + [GroupInfo(b.name, "branch", 1, b.nodes) for b in analysis.branches]


def keep_set(gated: nn.Module) -> dict[str, Tensor]:
    """The open positions of every group (a bool tensor of its size) and branch (of size 1)."""
    return gates_of(gated).keep_set()


def set_keep_set(gated: nn.Module, keep: Mapping[str, Any]) -> None:
    """Open exactly the positions that `keep` names; the gates stop learning from here on.

    Args:
        gated: what `prepare` returned; it is changed in place.
        keep: for each group name a bool tensor or sequence of its size, for each branch one of
            size 1. Names that are left out stay as they are.

    Raises:
        KeepSetError: an unknown or pinned name, a wrong size, a group that keeps nothing.
    """
    gates, record = gated_record(gated)
    if not isinstance(keep, Mapping):
        raise KeepSetError(f"a keep-set maps names to bools, got {type(keep).__name__}")
    flags = {name: _flags(name, value) for name, value in keep.items()}
    check_keep_set(flags, record.analysis.groups, record.analysis.branches)
    gates.set_keep_set(flags)


def reach_target(gated: nn.Module, importance: Mapping[str, Any] | None = None) -> None:
    """Close the lowest-ranked positions now until the target is met, whatever the schedule says.

    Args:
        gated: what `prepare` returned; it is changed in place, and its gates stop learning.
        importance: how much each position matters, by the names of all groups and branches, as
            `fxprune.importance` gives it; if missing, what the method has learned.

    Raises:
        InputError: `importance` lacks a name, or has values of a wrong size or that are no numbers.
    """
    gates = gates_of(gated)
    gates.method.settle(None if importance is None else _flat(gates.layout, importance))


def _flat(layout: Layout, values: Mapping[str, Any]) -> Tensor:
    """Values by name as one vector."""
    parts = []
    for name, size in zip(layout.names, layout.sizes, strict=True):
        if name not in values:
            raise InputError(f"importance lacks {name!r}: give every group and branch")
        part = torch.as_tensor(values[name]).detach().double().reshape(-1).cpu()
        if len(part) != size or bool(part.isnan().any()):
            raise InputError(f"importance of {name} must be {size} numbers, got {values[name]!r}")
        parts.append(part)
    return torch.cat(parts)


def parameter_groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Optimizer parameter groups: the model's own with `options`, the gates without weight decay.

    >>> optimizer = torch.optim.SGD(parameter_groups(gated, weight_decay=5e-4), lr=0.1)
    ... # doctest: +SKIP
    """
    own = [p for name, p in model.named_parameters() if PREFIX not in name.split(".")]
    gates = [p for name, p in model.named_parameters() if PREFIX in name.split(".")]
    return [{"params": own, **options}, {"params": gates, **options, "weight_decay": 0.0}]


def _flags(name: str, value: Any) -> list[bool]:
    try:
        tensor = torch.as_tensor(value).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise KeepSetError(f"the keep-set of {name} must be bools, got {value!r}") from error
    if tensor.dtype is not torch.bool and not bool(((tensor == 0) | (tensor == 1)).all()):
        raise KeepSetError(f"the keep-set of {name} must be bools, got {tensor.dtype}")
    return [bool(flag) for flag in tensor.tolist()]
