"""The module in a gated model that turns gates into masks for its readers."""

import copy
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fxprune.gates.budget import Layout
from fxprune.gates.methods import StaticGates
from fxprune.passes.axes import Axis, Prod, Space

PREFIX = "fxprune_gates"
"""Where the gates live in a gated model, and the prefix of their state_dict keys."""


class Gates(nn.Module):
    """All gates of a model. Called, it returns one mask per axis, then one scalar per branch."""

    def __init__(
        self,
        method: StaticGates,
        layout: Layout,
        axes: tuple[Axis, ...],
        names: Mapping[Space, str],
    ) -> None:
        super().__init__()
        self.method = method
        self.layout = layout
        self._axes = axes
        self._places = {space: layout.names.index(name) for space, name in names.items()}
        _live.add(self)

    def forward(self) -> tuple[Tensor, ...]:
        """Masks in the order of the axes, then scalars in the order of the branches."""
        values = self.method.gates() if self.training else self._open().to(self.method.is_open)
        parts = torch.split(values, list(self.layout.sizes))
        masks = tuple(self._mask(axis, parts) for axis in self._axes)
        return masks + tuple(part.reshape(()) for part in parts[self.layout.groups :])

    def _mask(self, axis: Axis, parts: tuple[Tensor, ...]) -> Tensor:
        if isinstance(axis, Space):
            place = self._places.get(axis)
            return parts[0].new_ones(axis.size) if place is None else parts[place]
        if isinstance(axis, Prod):
            mask, *others = (self._mask(factor, parts) for factor in axis.factors)
            for other in others:
                mask = torch.outer(mask, other).flatten()
            return mask
        return torch.cat([self._mask(part, parts) for part in axis.parts])

    def _open(self) -> Tensor:
        """What is open, also where a moving average of weights has averaged the flags."""
        return self.method.is_open.detach() > 0.5

    def keep_set(self) -> dict[str, Tensor]:
        """The open positions by name."""
        flags = self._open().cpu()
        return dict(
            zip(self.layout.names, torch.split(flags, list(self.layout.sizes)), strict=True)
        )

    def set_keep_set(self, keep: Mapping[str, Any]) -> None:
        """Open exactly what `keep` says from now on; names that it leaves out stay as they are."""
        current = self.keep_set()
        new = {name: torch.as_tensor(keep.get(name, current[name])).bool() for name in current}
        flat = torch.cat([new[name].reshape(-1) for name in self.layout.names])
        self.method.is_open.copy_(flat)
        self.method.steps_done.fill_(self.method.steps)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _live.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Gates":
        clone = Gates.__new__(Gates)
        memo[id(self)] = clone
        clone.__dict__ = {
            name: value if name in _SHARED else copy.deepcopy(value, memo)
            for name, value in self.__dict__.items()
        }
        _live.add(clone)
        return clone


_SHARED = ("layout", "_axes", "_places")
# Gates hear of the steps of the optimizer that holds their parameters through global hooks.
_live: "weakref.WeakSet[Gates]" = weakref.WeakSet()


def _held_by(optimizer: Optimizer) -> list[Gates]:
    if not _live:
        return []
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [gates for gates in _live if id(gates.method.scores) in held]


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for gates in _held_by(optimizer):
        gates.method.before_step()


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for gates in _held_by(optimizer):
        gates.method.after_step()


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
