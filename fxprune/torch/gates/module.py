"""The module in a gated model that turns gates into masks for its readers."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxprune.passes.axes import Axis, Space, interpret
from fxprune.torch.gates.hooks import live
from fxprune.torch.gates.method import Conditioned, Method, is_distributed
from fxprune.torch.gates.waiting import Waiting

PREFIX = "fxprune_gates"
"""Where the gates live in a gated model, and the prefix of their state_dict keys."""


class Gates(nn.Module):
    """All gates of a model. Called, it returns one mask per axis, then one scalar per branch."""

    def __init__(
        self,
        method: Method,
        axes: tuple[Axis, ...],
        branches: tuple[str, ...],
        names: Mapping[Space, str],
        weigh: Callable[[nn.Module], Tensor | None],
    ) -> None:
        """Masks are wanted of `axes` and `branches`; `names` are those of groups in the axes.

        `weigh` ranks all positions by the weights of the gated module.
        """
        super().__init__()
        self.method = method
        self.layout = method.budget.layout
        self._axes = axes
        self._branches = tuple(self.layout.names.index(name) for name in branches)
        self._places = {space: self.layout.names.index(name) for space, name in names.items()}
        self._weigh = weigh
        self._shown: Tensor | None = None
        self._deciding = False
        self._masks: tuple[Tensor, ...] | None = None
        self._owner: weakref.ref[nn.Module] | None = None
        self.shrink_every = 0
        self.followers: tuple[Callable[[Gates, Optimizer], None], ...] = ()
        self.waiting = Waiting()
        self._family = object()
        live.add(self)

    def forward(self, features: Tensor | None = None, name: str = "") -> Any:
        """Masks in the order of the axes, then scalars in the order of the branches.

        Given `features` of shape (samples, channels), the one gate `name`: of shape (positions,),
        or (samples, positions) where it depends on the sample. Without a name `features` come back:
        models that call all of their children, as nn.Sequential does, call this one too.
        """
        if features is not None:
            return self._conditioned(features, name) if name else features
        values = self._values()
        parts = torch.split(values, list(self.layout.sizes))
        if self._may_learn() and not self.method.learning and self._part_of_every_step():
            idle = [0 * parameter.sum() for parameter in self.method.parameters()]
            parts = (parts[0] + torch.stack(idle).sum(), *parts[1:])
        masks = tuple(self.mask(axis, parts) for axis in self._axes)
        return masks + tuple(parts[place].reshape(()) for place in self._branches)

    def begin(self) -> None:
        """Make the masks that one forward of the whole model sees everywhere."""
        self._masks = self()

    def end(self) -> None:
        """Forget them."""
        self._masks = None

    def number(self, index: int) -> Tensor:
        """One of what a call returns; made anew where only a part of the model runs."""
        if self._masks is not None:
            return self._masks[index]
        parts = torch.split(self._values(), list(self.layout.sizes))
        if index < len(self._axes):
            return self.mask(self._axes[index], parts)
        return parts[self._branches[index - len(self._axes)]].reshape(())

    def _part_of_every_step(self) -> bool:
        """Whether gates must be in the loss even where nothing is learned from it.

        DDP waits for the gradient of every parameter; a frozen model alone has none.
        """
        return is_distributed() or self.method.freezes_model

    def _conditioned(self, features: Tensor, name: str) -> Tensor:
        place = self.layout.names.index(name)
        decides = (self.training or self._deciding) and self.method.learning
        if decides and self._shown is None:
            assert isinstance(self.method, Conditioned)
            return self.method.decide(name, features)
        return torch.split(self._values(), list(self.layout.sizes))[place]

    def _values(self) -> Tensor:
        if self._shown is not None:
            return self._shown
        if self.training or self._deciding:
            return self.method.gates()
        is_open = self._open().to(self.method.is_open)
        if not (self._may_learn() and self.method.learning):
            return is_open
        return is_open + (self.method.scores - self.method.scores.detach())

    def _may_learn(self) -> bool:
        """Whether a loss of this forward may teach gates.

        In evaluation it may where the method learns at the keep-set, as in fine-tuning with frozen
        statistics; values stay those of the keep-set. What is exported has no part in that.
        """
        if self.training:
            return True
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        exported = torch.compiler.is_exporting() or tracing
        return self.method.learns_in_evaluation and torch.is_grad_enabled() and not exported

    @contextmanager
    def showing(self, values: Tensor) -> Iterator[None]:
        """Let the model see these gates, whatever the method says."""
        self._shown = values
        try:
            yield
        finally:
            self._shown = None

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Let gates act in evaluation as they do while they learn: dynamic gates by the sample."""
        self._deciding = True
        try:
            yield
        finally:
            self._deciding = False

    def holds(self, space: Space) -> bool:
        """Whether a space is a free group."""
        return space in self._places

    def mask(self, axis: Axis, parts: tuple[Tensor, ...]) -> Tensor:
        """The gates of an axis, from those of every group."""

        def leaf(space: Space) -> Tensor:
            place = self._places.get(space)
            return parts[0].new_ones(space.size) if place is None else parts[place]

        return interpret(axis, leaf, _outer, torch.cat)

    def _open(self) -> Tensor:
        """What is open, also where a moving average of weights has averaged the flags."""
        return self.method.is_open.detach() > 0.5

    @property
    def at_target(self) -> bool:
        """Whether what is open costs no more than the target allows."""
        return self.method.budget.is_met(self._open())

    def reached(self) -> dict[str, float]:
        """What is open costs, by the names of the costs that have a target."""
        sizes = {name: int(flags.sum()) for name, flags in self.keep_set().items()}
        costs = self.method.budget.costs
        found = costs.at({**costs.full, **sizes})
        return {name: float(found[name]) for name in self.method.budget.limit}

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
        self.method.keep(torch.cat([new[name].reshape(-1) for name in self.layout.names]))

    @property
    def owner(self) -> nn.Module | None:
        """The gated module that these gates are in, if it is alive."""
        return self._owner() if self._owner else None

    def belong_to(self, owner: nn.Module) -> None:
        """Let these gates know the gated module that they are in."""
        self._owner = weakref.ref(owner)

    def norms(self) -> Tensor | None:
        """What the weights of the gated module say of positions, as far as that can be known."""
        owner = self.owner
        return None if owner is None else self._weigh(owner)

    def settle(self, rank: Tensor | None = None) -> None:
        """Close what the target does not allow, the lowest ranked first, or the least learned."""
        if rank is None and self.method.has_learned:
            self.method.weigh(self.norms)
        self.method.settle(rank)

    @property
    def copied(self) -> bool:
        """Whether a copy of these gates is alive."""
        return any(other is not self and other._family is self._family for other in live)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": None, "_masks": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        live.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Gates":
        clone = Gates.__new__(Gates)
        memo[id(self)] = clone
        clone.__dict__ = {
            name: value if name in _SHARED else copy.deepcopy(value, memo)
            for name, value in self.__getstate__().items()
        }
        live.add(clone)
        return clone


_SHARED = ("layout", "_axes", "_branches", "_places", "_weigh", "_family")


def _outer(masks: list[Tensor]) -> Tensor:
    """The mask of a row-major product."""
    return functools.reduce(lambda left, right: torch.outer(left, right).flatten(), masks)
