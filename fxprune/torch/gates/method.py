"""How gates learn: what every method is.

A method says how gates look to autograd, what it does with their gradients, and how it ranks
positions; the budget then opens the best ones. All positions (those of every group, then all
branches) stand in one flat vector.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fxprune.arguments import number
from fxprune.passes.condition import Condition
from fxprune.targets import ramp
from fxprune.torch.budget.budget import Budget

_STAGES = 250
"""How often the budget shrinks on its way to the target, at most twice that many times."""

Norms = Callable[[], Tensor | None]
"""Computes what weights say of positions: see `weights.norms`."""

NO_GRADIENT = "no gradient reached the gates"
NOT_FINITE = "the gradients of the gates are infinite or not numbers"
_ZERO = "the gradients of the gates are all zero: the loss does not depend on what has gates"


class Method(nn.Module):
    """A gating method; it lives in tensors, so it is saved, moved and averaged with the model.

    It is asked for gates in every training forward, and told of every step of the optimizer that
    holds `scores`. `scores` never changes: it only carries gradients to the method, which reach
    it reduced over ranks, unscaled and accumulated like those of any parameter.
    """

    freezes_model = False
    """Whether the model's own parameters and statistics stay as they are."""

    learns_in_evaluation = False
    """Whether a forward that sees the keep-set, as in evaluation, can teach these gates."""

    conditions: tuple[Condition, ...] = ()
    """The gates that depend on the sample."""

    scores: nn.Parameter
    is_open: Tensor
    steps_done: Tensor

    def __init__(self, budget: Budget, steps: int, settings: "Settings") -> None:
        super().__init__()
        total = budget.layout.total
        self.budget = budget
        self.steps = steps
        self.settings = settings
        self.learning = True
        self.adjustable = False
        self.lack = NO_GRADIENT
        self.scores = nn.Parameter(torch.zeros(total))
        self.register_buffer("is_open", torch.ones(total))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def gates(self) -> Tensor:
        """Gate values of a training forward, in [0, 1]; with a gradient while `learning`."""
        raise NotImplementedError

    def rank(self) -> Tensor:
        """Which positions to keep: the higher the better."""
        raise NotImplementedError

    def learn(self, gradient: Tensor) -> None:
        """Take the gradient of the loss by `scores`."""
        raise NotImplementedError

    def weigh(self, norms: Norms) -> None:
        """Hear what weights say, before positions close."""

    def share(self) -> float:
        """How much of the way to the target the budget has gone."""
        return 1.0

    def figures(self) -> dict[str, float]:
        """What a report should say of this method."""
        return {}

    def progress(self) -> dict[str, int]:
        """How many steps of the schedule are done, of all."""
        return {"done": min(int(self.steps_done), self.steps), "all": self.steps}

    @property
    def has_learned(self) -> bool:
        """Whether any gradient has ever told something of the positions."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """Whether the keep-set is final."""
        return int(self.steps_done) >= self.steps

    def before_step(self, scale: Tensor | None = None, skipped: bool = False) -> None:
        """Take the gradients that reached the gates; the optimizer leaves `scores` alone.

        `scale` is what a fused optimizer is still to divide gradients by; nothing is learned from
        gradients of a step that is `skipped`. `lack` says what is missing where nothing is learned
        from a step that should teach.
        """
        gradient, self.scores.grad = self.scores.grad, None
        if not skipped:
            self.lack = self._take(gradient, scale) if self.learning else ""

    def _take(self, gradient: Tensor | None, scale: Tensor | None) -> str:
        """Learn from a gradient; what is missing if that is not possible."""
        if gradient is None:
            return NO_GRADIENT
        gradient = full_tensor(gradient) if scale is None else full_tensor(gradient) / scale
        if not bool(torch.isfinite(gradient).all()):
            return NOT_FINITE
        self.learn(gradient)
        return "" if self.has_learned else _ZERO

    def after_step(self, norms: Norms = lambda: None) -> bool:
        """Advance the schedule until the target is reached; from then on the keep-set stays.

        `norms` says what weights say of positions, if that can be known. False where it waits,
        because the step should have taught something and has not.
        """
        if self.done:
            return True
        if self.lack:
            return False
        self.steps_done += 1
        done = int(self.steps_done)
        if done % max(self.steps // _STAGES, 1) == 0 or done == self.steps:
            if self.share() > 0:
                self.weigh(norms)
            self._choose()
        self.plan()
        return True

    def span(self, total: int) -> int:
        """How many of the steps of a training the schedule should take.

        Where only gates learn, nothing is left to do when they are final.
        """
        return total if self.freezes_model else ramp(total)

    def follow(self, total: int) -> None:
        """Let the schedule end in time for a training of `total` optimizer steps in all.

        What has come further already ends with the next step, unless the target is met.
        """
        if self.done:
            return
        steps, done = self.span(total), int(self.steps_done)
        self.steps = steps if self.budget.is_met(self.is_open) else max(steps, done + 1)
        self.plan()

    def settle(self, rank: Tensor | None = None) -> None:
        """Close the lowest-ranked positions until the target is met, and stop learning."""
        self.steps_done.fill_(self.steps)
        self._choose(rank)
        self.plan()

    def keep(self, is_open: Tensor) -> None:
        """Open exactly these positions, and stop learning."""
        self.is_open.copy_(is_open)
        self.steps_done.fill_(self.steps)
        self.plan()

    def plan(self) -> None:
        """Say whether the next step takes gradients."""
        self.learning = not self.done

    def _choose(self, rank: Tensor | None = None) -> None:
        share = 1.0 if self.done else self.share()
        rank = self.rank() if rank is None else rank
        self.is_open.copy_(self.budget.choose(rank, self.budget.relative(share)))

    def carry(self, other: "Method", kept: Tensor) -> None:
        """Go on where `other` stands, of whose positions those at the indices `kept` are left."""
        own = dict(self.named_buffers())
        for name, value in other.named_buffers():
            if name in own and value.shape == (other.budget.layout.total,):
                own[name].copy_(value[kept])
            elif name in own and not value.dim():
                own[name].copy_(value)
        self.plan()

    def check_carry(self) -> None:
        """Raise InputError if these gates cannot go on in a smaller model."""

    def _load_from_state_dict(self, state: Mapping[str, Any], *args: Any) -> None:
        super()._load_from_state_dict(state, *args)
        self.plan()


@runtime_checkable
class Conditioned(Protocol):
    """A method with gates that depend on the sample."""

    def decide(self, name: str, features: Tensor) -> Tensor:
        """The gate `name` for features of shape (samples, channels): (samples, positions)."""


def full_tensor(value: Tensor) -> Tensor:
    """A tensor, gathered if it is sharded over processes."""
    gather = getattr(value, "full_tensor", None)
    return gather() if gather else value


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


class Settings(Protocol):
    """The settings of a method; `build` makes it for a model."""

    @property
    def branches(self) -> bool:
        """Whether there are gates for whole branches."""

    def build(self, budget: Budget, steps: int, conditions: tuple[Condition, ...] = ()) -> Method:
        """The method with the gates that `budget` chooses among, to end after `steps` steps.

        `conditions` are the gates that may depend on the sample.
        """


def weight(name: str, value: Any) -> None:
    """Raise InputError unless a setting can weigh a term of the loss."""
    number(name, value, lambda x: 0 <= x < math.inf, "a number from 0 on")


def rate(value: Any) -> None:
    """Raise InputError unless a setting is a learning rate."""
    number("lr", value, lambda x: 0 < x < math.inf, "a learning rate above 0")


def probability(name: str, value: Any) -> None:
    """Raise InputError unless a setting is a probability that has a logit."""
    number(name, value, lambda x: 0 < x < 1, "a number above 0, below 1")


def cubic(done: int, steps: int) -> float:
    """The sparsity schedule of Zhu & Gupta 2017, equation 1: fast first, slow at the end."""
    return 1 - (1 - min(done / steps, 1)) ** 3


class Adam(nn.Module):
    """Kingma & Ba 2015 on one tensor: gates learn at their own rate, whatever trains the model."""

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, size: int | tuple[int, ...], lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.register_buffer("first", torch.zeros(size))
        self.register_buffer("second", torch.zeros(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def has_moved(self) -> bool:
        """Whether there was a gradient, also where a moving average of weights has averaged it."""
        return bool(self.first.any())

    def step(self, gradient: Tensor) -> Tensor:
        """What to add to the tensor."""
        self.count += 1
        self.first.lerp_(gradient, 0.1)
        self.second.lerp_(gradient.square(), 0.001)
        count = int(self.count)
        mean = self.first / (1 - 0.9**count)
        scale = (self.second / (1 - 0.999**count)).sqrt() + 1e-8
        return -self.lr * mean / scale


def logit(share: float) -> float:
    """The inverse of the sigmoid."""
    return math.log(share / (1 - share))
