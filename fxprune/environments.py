"""Pruning as a game for agents: how much of every group to keep, for a reward.

The space is that of `fxprune.search`: an action is a point of it, costs are exact, what costs more
than the target is narrowed until it fits, and what costs less stays as it is. One step is one
episode, as in ArchGym (Krishnan et al. 2023), whose reward is taken over, and every step is logged
as a trial.

    env = fxprune.environments.PruningEnv(gated, "params", target=0.5, aim=100_000)
    observation, information = env.reset(seed=0)
    observation, reward, terminated, truncated, information = env.step(env.action_space.sample())
    env.found.table.write("trials.parquet")
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fxprune.arguments import number
from fxprune.errors import InputError
from fxprune.extras import naming_extras
from fxprune.passes.cost import COSTS
from fxprune.searching.found import Found, Trial
from fxprune.searching.scores import measured
from fxprune.targets import Target

with naming_extras("fxprune.environments"):
    import gymnasium
    import numpy as np
    from gymnasium import spaces
    from torch import nn

    from fxprune.torch.keep_set_space import keep_set_space
    from fxprune.torch.wrapping import check_module


class PruningEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Keep-sets of a gated model as actions.

    An action has an entry for every group and branch that may lose something: how much of it to
    keep, in `levels` equal steps from the least to all. An observation has the costs ("macs",
    "params", "bytes", "memory", "flops", "peak") as shares of the whole model's, and the score.
    """

    metadata = {"render_modes": []}  # noqa: RUF012, gymnasium's own name

    def __init__(
        self,
        gated: nn.Module,
        score: Any,
        *,
        target: Target | None = None,
        aim: float | None = None,
        levels: int = 8,
        data: Iterable[Any] | None = None,
        importance: Mapping[str, Any] | None = None,
    ) -> None:
        """The model stays as it is.

        Args:
            gated: what `prepare` returned.
            score: what an agent is rewarded for, one of those that `search` takes.
            target: what may remain; if missing, what the model was prepared with.
            aim: the score to come near; the reward is then `aim / |aim - score|`, at most 1e6
                (ArchGym's target form). If missing it is the score, or minus what is to be small.
            levels: how many steps an action has for every group.
            data: batches, for scores that are names.
            importance: which positions stay, as for `search`.

        Raises:
            InputError: an argument does not fit.
        """
        check_module("gated", gated)
        if aim is not None:
            number("aim", aim, lambda x: x != 0 and math.isfinite(x), "a score to come near, not 0")
        number("levels", levels, lambda x: x >= 2 and x == int(x), "a whole number from 2 on")
        self._space, scores, self._candidate = keep_set_space(
            gated, score, target, importance, data, widen=False
        )
        if len(scores) > 1:
            raise InputError("score: an agent is rewarded for one score: give it alone")
        (self._score,) = scores
        self._aim = aim
        self._full = [
            max(self._space.costs.polynomials[c](self._space.costs.full), 1) for c in COSTS
        ]
        self._levels = [min(int(levels), len(each.values)) for each in self._space.dimensions]
        self.action_space = spaces.MultiDiscrete(self._levels)
        low = np.array([0.0] * len(COSTS) + [-np.inf])
        high = np.array([1.0] * len(COSTS) + [np.inf])
        self.observation_space = spaces.Box(low, high, dtype=np.float64)
        self._trials: list[Trial] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Everything open: the costs of the whole model, and no score yet (0)."""
        super().reset(seed=seed)
        return np.array([1.0] * len(COSTS) + [0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Try a keep-set: the episode is over."""
        pairs = zip(action, self._levels, self._space.dimensions, strict=True)
        asked = tuple(round(int(level) / (levels - 1) * each.last) for level, levels, each in pairs)
        point = self._space.point(self._space.repaired(asked))
        value = measured(self._score, self._candidate(point))
        trial = Trial(
            len(self._trials), point.config, {self._score.name: value}, point.costs, point.keep_set
        )
        self._trials.append(trial)
        shares = [point.costs[name] / full for name, full in zip(COSTS, self._full, strict=True)]
        reward = self.reward_of(value)
        keep_set = {name: np.array(flags) for name, flags in point.keep_set.items()}
        return np.array([*shares, value]), reward, True, False, {"keep_set": keep_set}

    def reward_of(self, value: float) -> float:
        """The reward of a score."""
        if self._aim is None:
            return self._score.objective.sign() * value
        return min(abs(self._aim) / max(abs(self._aim - value), 1e-12), 1e6)

    @property
    def found(self) -> Found:
        """Every step of every agent so far as a trial."""
        return Found((self._score.objective,), tuple(self._trials))
