"""How far is a gated model on its way to the target? In numbers for a tracker, and in one line.

Trainers know how long they train, so schedules of which nobody said how long they are follow them.
"""

import logging
import math

from torch import nn

from fxprune.torch.measuring import costs_of
from fxprune.torch.record import gated_record, traced_part

_log = logging.getLogger("fxprune")


def shares(model: nn.Module) -> dict[str, float]:
    """The share of every cost that is kept at present."""
    _, record = gated_record(model)
    costs = record.analysis.costs
    before, after = costs.at(costs.full), costs_of(traced_part(model)[1])
    return {name: value / max(before[name], 1) for name, value in after.items()}


def metrics(model: nn.Module) -> dict[str, float]:
    """The shares by the names under which they are logged, such as "fxprune/macs"."""
    return {f"fxprune/{name}": share for name, share in shares(model).items()}


def follow(model: nn.Module, total_steps: float) -> None:
    """Let a schedule whose `steps` nobody gave end in time for so many optimizer steps in all."""
    method = gated_record(model)[0].method
    if not method.adjustable or method.done or not 0 < total_steps < math.inf:
        return
    method.follow(int(total_steps))
    _log.info("the target is to be reached after %d of %d steps", method.steps, total_steps)


class Announcement:
    """Says once that the target is reached, and what is kept then."""

    def __init__(self) -> None:
        self._made = False

    def update(self, model: nn.Module) -> None:
        """Look at the gates after a step."""
        method = gated_record(model)[0].method
        if method.done and not self._made:
            kept = ", ".join(f"{share:.1%} of {name}" for name, share in shares(model).items())
            _log.info("the target is reached after %d steps: %s", int(method.steps_done), kept)
        self._made = method.done
