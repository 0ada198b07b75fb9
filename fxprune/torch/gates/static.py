"""Static gates: importance from gradients, closed one by one while the budget shrinks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxprune.arguments import number
from fxprune.passes.condition import Condition
from fxprune.torch.budget.budget import Budget
from fxprune.torch.gates.method import Method, Norms, cubic

_GRADIENTS = 250
_LONGEST_PAUSE = 4
_BELIEF = 150
"""After how many gradients they say as much as weights do."""
_AT_ONCE = 300
"""A schedule of this many steps goes half of its way at once."""


@dataclass(frozen=True, slots=True)
class Static:
    """One gate per position; the least important ones close while the budget shrinks.

    The forward pass sees the hard keep-set, the backward pass goes straight through, so the
    gradient of a gate is the first-order effect of its position on the loss. Its square, averaged
    over steps, is the importance of the position (Molchanov et al. 2019, equation 8). The budget
    goes along a cubic from the full cost to the target (Zhu & Gupta 2017, equation 1), and the
    positions with the least root of importance per cost close: where channels act alike, closing
    many has the effect of the sum of their gradients, not of their squares. A gradient that is
    itself a sum counts for its terms: a branch for all that it holds, a residual stream for each
    of its readers.

    Few gradients say less than the weights of a trained model do. So positions go by group norm at
    first, in the places of importance that they would have by it, and by importance the more of it
    has been seen. Short schedules go most of their way as soon as warm-up is over, which leaves the
    rest of the training to the weights that stay; long ones go all of it step by step.

    Long schedules take these gradients on every fourth step only, the others then cost what a step
    without gates costs.

    Args:
        warmup: the share of the steps that only collect importance, in [0, 1).

    Raises:
        InputError: `warmup` is out of range.
    """

    branches: ClassVar[bool] = True

    warmup: float = 0.1

    def __post_init__(self) -> None:
        number("warmup", self.warmup, lambda x: 0 <= x < 1, "a share of the steps in [0, 1)")

    def build(
        self, budget: Budget, steps: int, conditions: tuple[Condition, ...] = ()
    ) -> "StaticGates":
        """The gates of a model."""
        return StaticGates(budget, steps, self)


class StaticGates(Method):
    """The state of the method `Static`."""

    learns_in_evaluation = True

    settings: Static
    importance: Tensor
    taken: Tensor
    weighed: Tensor

    def __init__(self, budget: Budget, steps: int, settings: Static) -> None:
        super().__init__(budget, steps, settings)
        self.register_buffer("importance", torch.zeros(budget.layout.total))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))
        self.register_buffer("weighed", torch.zeros(budget.layout.total))

    def gates(self) -> Tensor:
        """The keep-set, with the gradient of `scores` where one is taken."""
        if not self.learning:
            return self.is_open.detach()
        return self.is_open + (self.scores - self.scores.detach())

    @property
    def has_learned(self) -> bool:
        """Whether any position has importance."""
        return bool(self.importance.any())

    def learn(self, gradient: Tensor) -> None:
        """Average the squared gradients."""
        self.taken += 1
        momentum = min(0.99, 1 - 1 / int(self.taken))
        self.importance.lerp_(gradient.detach().square(), 1 - momentum)

    def plan(self) -> None:
        """Long schedules need no gradient on every step."""
        pause = min(max(self.steps // _GRADIENTS, 1), _LONGEST_PAUSE)
        self.learning = not self.done and int(self.steps_done) % pause == 0

    def weigh(self, norms: Norms) -> None:
        """Ask weights once."""
        if not bool(self.weighed.any()):
            found = norms()
            if found is not None:
                self.weighed.copy_(found)

    def share(self) -> float:
        """A first part at once, then fast, slow at the end."""
        start = int(self.settings.warmup * self.steps)
        done = int(self.steps_done) - start
        if done <= 0:
            return 0.0
        first = 1 / (1 + (self.steps / _AT_ONCE) ** 2)
        return first + (1 - first) * cubic(done, self.steps - start)

    def rank(self) -> Tensor:
        """Root of the importance per cost, as far as it is known better than by weights."""
        rank = self.budget.effect_per_price(self.importance, self.is_open)
        if not bool(self.weighed.any()):
            return rank
        places = self.weighed.argsort(stable=True).argsort()
        belief = 1 / (1 + (int(self.taken) / _BELIEF) ** 2)
        return rank.lerp(rank.sort().values[places], belief)
