"""What a search maximises or minimises: a name, a direction, and what computes it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fxprune.arguments import is_number, shown
from fxprune.errors import FxpruneError, InputError
from fxprune.layout import Layout
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


def measured(score: Score, candidate: Candidate) -> float:
    """The score of a candidate.

    Raises:
        InputError: it fails, or is no number.
    """
    try:
        value = score.of(candidate)
    except FxpruneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the score {score.name} fails: {reason}") from error
    return check_score(score.name, value)


def check_score(name: str, value: Any) -> float:
    """A score that is a number, perhaps an endless one.

    Raises:
        InputError: it is none.
    """
    if not is_number(value) or math.isnan(value):
        raise InputError(f"the score {name} is {shown(value)}: it must be a number")
    return float(value)


def loss_of(
    layout: Layout,
    effects: Mapping[str, np.ndarray],
    keep_set: Mapping[str, tuple[bool, ...]],
) -> float:
    """What the closed positions of a keep-set lose together."""
    gone = {
        place
        for branch in range(layout.groups, len(layout.names))
        if not keep_set[layout.names[branch]][0]
        for place in layout.inside[branch]
    }
    total = 0.0
    for place, name in enumerate(layout.names):
        if place not in gone:
            total += float(effects[name][~np.array(keep_set[name])].sum())
    return total
