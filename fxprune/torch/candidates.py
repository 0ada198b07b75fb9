"""The models behind the points of a search, made when somebody looks at them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.searching.spaces import Point
from fxprune.torch.fold import fold
from fxprune.torch.keep_sets import set_keep_set
from fxprune.torch.recorded_costs import Builder, built


@dataclass(frozen=True, slots=True)
class Pruned:
    """A keep-set of a gated model; `working` is a copy that all candidates share."""

    point: Point
    working: nn.Module

    def gated(self) -> nn.Module:
        """The copy, with this keep-set."""
        set_keep_set(self.working, self.point.keep_set)
        return self.working

    def model(self) -> Any:
        """It folded."""
        return fold(self.gated())


@dataclass(frozen=True, slots=True)
class Built:
    """A configuration of a builder; `seed` decides what it draws."""

    point: Point
    builder: Builder
    seed: int

    def gated(self) -> None:
        """There is none."""

    def model(self) -> nn.Module:
        """What is built, with weights; random numbers go on as if nothing had been drawn."""
        config: Mapping[str, Any] = self.point.config
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return built(self.builder, config)[0]
