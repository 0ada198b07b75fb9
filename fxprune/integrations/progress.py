"""What trackers and logs get of a gated model, and when.

Trainers know how long they train, so schedules of which nobody said how long they are follow them.
"""

import logging
import math

from torch import nn

from fxprune.torch.progress import progress, shares
from fxprune.torch.record import gated_record

_log = logging.getLogger("fxprune")


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
    """Says how far a gated model is, and once that the target is reached, and what is kept then."""

    def __init__(self) -> None:
        self._made = False

    def on_log(self, model: nn.Module) -> dict[str, float]:
        """Log a line, until the target is reached; what a tracker gets."""
        if not self._made:
            _log.info(progress(model))
        return metrics(model)

    def update(self, model: nn.Module) -> None:
        """Look at the gates after a step."""
        method = gated_record(model)[0].method
        if method.done and not self._made:
            kept = ", ".join(f"{share:.1%} of {name}" for name, share in shares(model).items())
            _log.info("the target is reached after %d steps: %s", int(method.steps_done), kept)
        self._made = method.done
