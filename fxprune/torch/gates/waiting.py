"""Why does a schedule wait? What gates saw of a training that taught them nothing."""

import logging
from dataclasses import dataclass
from typing import Protocol

from torch import nn
from torch.optim import Optimizer

from fxprune.torch.gates.method import NO_GRADIENT, Method

_log = logging.getLogger("fxprune")

_NO_STEP = "no optimizer has made a step"
_FROZEN = (
    "the gates are frozen, because requires_grad was set to False after prepare: leave out "
    "parameters whose names begin with fxprune_gates"
)
_EVALUATION = (
    "the gated model was in evaluation mode, in which gates of its method do not learn: call "
    "gated.train()"
)
_NO_BACKWARD = (
    "no backward pass gave the optimizer's parameters a gradient: call backward before its step, "
    "on a loss of what the gated model returns"
)
_INDEPENDENT = (
    "the loss does not depend on what the gated model returns: compute it from the output of the "
    "gated model itself"
)


class Taught(Protocol):
    """Gates as they are seen from here."""

    method: Method
    training: bool

    @property
    def owner(self) -> nn.Module | None:
        """The gated module."""


@dataclass(slots=True)
class Waiting:
    """Optimizer steps that taught gates nothing, the cause of the last, and whether it was told.

    `elsewhere` counts steps of optimizers that do not hold the gates.
    """

    steps: int = 0
    elsewhere: int = 0
    cause: str = ""
    told: bool = False

    def saw_nothing(self, gates: Taught, optimizer: Optimizer) -> None:
        """Count a step of the optimizer of these gates that taught them nothing."""
        self.steps += 1
        self.cause = _cause(gates, optimizer)
        if self.steps >= gates.method.steps:
            self._tell(gates, self.steps)

    def passed_by(self, gates: Taught, optimizer: Optimizer) -> None:
        """Count a step of another optimizer; if it trains the gates' model it should hold them."""
        self.elsewhere += 1
        if self.elsewhere == gates.method.steps and _trains(optimizer, gates.owner):
            self._tell(gates, self.elsewhere)

    def why(self, method: Method) -> str:
        """Why gates that have learned nothing have not."""
        if self.steps:
            return self.cause
        if not self.elsewhere:
            return _NO_STEP
        if not method.scores.requires_grad:
            return _FROZEN
        return (
            f"the optimizer does not hold the gates ({self.elsewhere} steps were made by others): "
            "build it from gated.parameters(), after prepare"
        )

    def _tell(self, gates: Taught, steps: int) -> None:
        """Say once what is wrong, when a schedule would be over that has not begun."""
        if not self.told and not gates.method.has_learned:
            self.told = True
            _log.warning(
                "after %d optimizer steps gates have learned nothing, so nothing is closed: %s",
                steps,
                self.why(gates.method),
            )


def _cause(gates: Taught, optimizer: Optimizer) -> str:
    method = gates.method
    if method.lack != NO_GRADIENT:
        return method.lack
    if not method.scores.requires_grad:
        return _FROZEN
    if not gates.training and not method.learns_in_evaluation:
        return _EVALUATION
    held = (p for group in optimizer.param_groups for p in group["params"])
    return _INDEPENDENT if any(p.grad is not None for p in held) else _NO_BACKWARD


def _trains(optimizer: Optimizer, model: nn.Module | None) -> bool:
    """Whether an optimizer holds parameters of a model."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return model is not None and any(id(p) in held for p in model.parameters())
