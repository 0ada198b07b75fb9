"""What a search maximises or minimises: a name, a direction, and what computes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fxprune.searching.found import Objective
from fxprune.searching.spaces import Point


class Candidate(Protocol):
    """A point that is scored."""

    @property
    def point(self) -> Point:
        """What was chosen, and what it costs."""

    def gated(self) -> Any:
        """The gated model with this keep-set, which computes what `model` does; None if built."""

    def model(self) -> Any:
        """The smaller model, or what a builder has built."""


@dataclass(frozen=True, slots=True)
class Score:
    """A score of candidates, as `search` takes it.

    `effects` are those of a score that adds up: minus the sum, over all positions that close, of a
    number of theirs, by group and branch; what goes with a closed branch counts as the branch
    alone.
    """

    objective: Objective
    of: Callable[[Candidate], float]
    effects: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.objective.name
