"""How gates learn. A method says how they look to autograd, and which of them are open.

Every method works on one flat vector of positions (all groups, then all branches) and is called
three times per optimizer step: for the gate values of a forward pass, before the step with the
gradients in place, and after it.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from fxprune.gates.budget import Budget

_STAGES = 250
"""How often the budget shrinks on its way to the target, at most twice that many times."""


class Method(Protocol):
    """What every gating method provides. Its state lives in tensors, so it is saved and moved."""

    def gates(self) -> Tensor:
        """Gate values of a training forward: exactly 0 or 1, with a gradient."""

    def before_step(self) -> None:
        """Take the gradients that reached the gates; add the regulariser where there is one."""

    def after_step(self) -> None:
        """Choose which positions are open from now on."""

    def settle(self) -> None:
        """Meet the target now, whatever the schedule says."""


class StaticGates(nn.Module):
    """One gate per position; the least important ones close while the budget shrinks.

    The forward pass sees the hard keep-set, the backward pass goes straight through, so the
    gradient of a gate is the first-order effect of its position on the loss. Its square, averaged
    over steps, is the importance of the position (Molchanov et al. 2019, equation 8). Per step the
    budget goes along a cubic from the full cost to the target (Zhu & Gupta 2017, equation 1), and
    the positions with the least importance per cost close.
    """

    scores: Tensor
    is_open: Tensor
    importance: Tensor
    steps_done: Tensor

    def __init__(self, budget: Budget, steps: int) -> None:
        super().__init__()
        total = budget.layout.total
        self.budget = budget
        self.steps = steps
        self.scores = nn.Parameter(torch.ones(total))
        self.register_buffer("is_open", torch.ones(total))
        self.register_buffer("importance", torch.zeros(total))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def gates(self) -> Tensor:
        """The keep-set, with the gradient of `scores`."""
        return self.is_open + (self.scores - self.scores.detach())

    def before_step(self) -> None:
        """Average the squared gradients; the optimizer itself leaves the scores alone."""
        gradient = self.scores.grad
        if gradient is None:
            return
        self.scores.grad = None
        if bool(torch.isfinite(gradient).all()):
            momentum = min(0.99, float(self.steps_done) / (float(self.steps_done) + 1.0))
            self.importance.lerp_(gradient.detach().square(), 1 - momentum)

    def after_step(self) -> None:
        """Advance the schedule until the target is reached; from then on the keep-set stays."""
        if int(self.steps_done) >= self.steps:
            return
        self.steps_done += 1
        done = int(self.steps_done)
        if done % max(self.steps // _STAGES, 1) == 0 or done == self.steps:
            self._choose(1 - (1 - done / self.steps) ** 3)

    def settle(self) -> None:
        """Close the least important positions until the target is met."""
        self.steps_done.fill_(self.steps)
        self._choose(1.0)

    def _choose(self, share: float) -> None:
        prices = self.budget.prices(self.is_open).to(self.importance)
        owners = self.budget.layout.owners().to(prices.device)
        rank = self.importance / prices[owners].clamp(min=1e-12)
        chosen = self.budget.choose(rank, self.budget.relative(share))
        self.is_open.copy_(chosen)


METHODS = {"static": StaticGates}
"""Gating methods by name."""
