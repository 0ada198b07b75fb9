"""The verb: search over the keep-sets of a gated model, or over the configurations of a builder."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fxprune.arguments import is_number, near, refusal, shown, whole
from fxprune.arguments import seed as check_seed
from fxprune.errors import FxpruneError, InputError, TargetError
from fxprune.searching.additive import best_picks
from fxprune.searching.configurations import Configurations, dimensions_of
from fxprune.searching.exhaustive import best_of_all
from fxprune.searching.found import Found, Trial
from fxprune.searching.samplers import MOST_POINTS, SamplerOf, check_sampler
from fxprune.searching.scores import Score
from fxprune.searching.spaces import Point, Space, config_of, size_of
from fxprune.searching.study import Plan, run
from fxprune.searching.widths import KeepSets
from fxprune.targets import Target
from fxprune.torch.candidates import Built
from fxprune.torch.keep_set_space import CandidateOf, keep_set_space
from fxprune.torch.objectives import scores_of, some_cost_is_to_be_small
from fxprune.torch.recorded_costs import recorded_costs
from fxprune.torch.wrapping import check_module


def search(
    gated: Any,
    score: Any = "macs",
    *,
    target: Target | None = None,
    trials: int = 100,
    sampler: str | SamplerOf = "tpe",
    seed: int = 0,
    data: Iterable[Any] | None = None,
    importance: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    costs: Any = None,
    storage: str | Path | Any = None,
) -> Found:
    """Look for the best keep-set of a gated model, or the best configuration of a builder.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> gated = fxprune.prepare(model, torch.randn(1, 3, 8, 8))
    >>> found = fxprune.search(gated, "params", target=0.5, trials=5)
    >>> found.best.config, found.best.costs["params"]
    ({'0': 8}, 516)

    A gated model is searched by the widths of its groups, in units of `round_to` of `prepare`, and
    by its branches; which positions stay, `importance` says. The model stays as it is:
    `set_keep_set(gated, found.best.keep_set)` applies what was found. A builder is called with one
    value of each range, `builder(depth=3, width=64)`, and returns a module, or a pair of a module
    and its example inputs; what it costs is found by recording it on the meta device, without
    weights.

    Every trial is within the target: what a sampler proposes is narrowed in proportion until it
    fits, and, unless a cost is to be small, widened until nothing more does.

    Args:
        gated: what `prepare` returned, or a builder with `ranges`.
        score: what is to be large, or a list of several: a function of the smaller model (folded,
            or built) that returns a number; `fxprune.scores.accuracy(loader)` or `.loss(loader)`;
            importances by group, as `importance` returns them, of which the least shall close; or a
            name: a cost ("macs", "params", "bytes", "flops", "memory", "peak"; "-macs" is to be
            small), "naswot", "synflow", "snip" or "zico" (see `fxprune.score`), or, for gated
            models, "taylor" (the sum of the squared first-order effects of what closes). These look
            at `data`.
        target: what may remain, as for `prepare`; if missing, what the model was prepared with. Of
            a builder, numbers by cost: `{"params": 750_000}`.
        trials: how many configurations are looked at, in all.
        sampler: how they are proposed: "random", "tpe", "gp", "nsga2", "cmaes" (by optuna), "qmc"
            (a Sobol sequence), "exhaustive" (all of them, whatever `trials` says; if these are more
            than 100,000, `costs` gets arrays, and the best `trials` are returned), "milp" (the
            best, by linear programming; for importances and "taylor"); or a function from a seed
            to a sampler of optuna.
        seed: of the sampler, and of what builders draw. Same seed, same trials.
        data: batches, for scores that are names.
        importance: how much every position matters, as `fxprune.importance` says it; if missing,
            by norms of weights.
        ranges: by argument of the builder the values that it can have.
        costs: what a builder costs, as a function from its configuration to numbers by name; if
            missing, it is recorded.
        storage: where trials are kept, so that a search goes on after a break, and several
            processes share it: a file, the address of a database ("mysql://..."), or a storage of
            optuna. If missing they are in memory only.

    Returns:
        What was found: `best`, `front` (of several scores) and `table`.

    Raises:
        InputError: an argument does not fit; TargetError for the target.
        SearchError: a score fails or is no number; trials that are done are kept.
    """
    whole("trials", trials, "how many configurations to look at, such as 100")
    seed = check_seed(seed)
    widen = sampler != "exhaustive"  # which looks at every point as it is, if it fits
    if isinstance(gated, nn.Module):
        check_module("gated", gated)
        asked = _Asked(*keep_set_space(gated, score, target, importance, data, widen=widen))
        for name, given in (("ranges", ranges), ("costs", costs)):
            if given is not None:
                raise InputError(f"{name} is for builders: a gated model has groups and costs")
    else:
        if importance is not None:
            raise InputError("importance is for gated models: a builder has no positions")
        asked = _of_builder(gated, score, target, ranges, costs, data, seed, widen)
    plan = Plan(tuple(each.objective for each in asked.scores), trials, sampler, seed, storage)
    if sampler == "milp":
        return asked.solved()
    check_sampler(sampler, plan.objectives)
    if sampler == "exhaustive" and costs and size_of(asked.space.dimensions) > MOST_POINTS:
        return asked.best_of_all(costs, trials)
    return run(asked.space, asked.scored, plan)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is searched, and for what."""

    space: Space
    scores: tuple[Score, ...]
    candidate: CandidateOf

    def scored(self, point: Point) -> dict[str, float]:
        """The scores of a point by name."""
        candidate = self.candidate(point)
        return {score.name: score.of(candidate) for score in self.scores}

    def solved(self) -> Found:
        """The best point of a score that adds up."""
        score, *others = self.scores
        if score.effects is None or others or not isinstance(self.space, KeepSets):
            raise InputError(
                'sampler="milp" is for one score that adds up over the positions of a gated model: '
                'importances, or "taylor"'
            )
        if not self.space.limits:
            raise InputError('sampler="milp" needs a target: all open is best without')
        picks = best_picks(self.space, score.effects, self.space.costs.polynomials)
        point = self.space.point(picks)
        trial = Trial(0, point.config, self.scored(point), point.costs, point.keep_set)
        return Found((score.objective,), (trial,))

    def best_of_all(self, costs: Any, number: int) -> Found:
        """The best points by a cost that the user's function says of arrays."""
        score, *others = self.scores
        known = costs_at(self.space)
        if others or score.name not in known:
            raise InputError(
                f'sampler="exhaustive" looks at {size_of(self.space.dimensions):,} points for one '
                f"score that is among the costs ({', '.join(known)}): take another sampler"
            )
        trials = []
        for place, picks in enumerate(best_of_all(self.space, costs, score.objective, number)):
            point = self.space.point(picks)
            value = self.scored(point)
            trials.append(Trial(place, point.config, value, point.costs))
        return Found((score.objective,), tuple(trials))


def costs_at(space: Space) -> tuple[str, ...]:
    """The names of the costs of a space."""
    return tuple(space.point(tuple(0 for _ in space.dimensions)).costs)


def _of_builder(
    builder: Any,
    score: Any,
    target: Target | None,
    ranges: Any,
    costs: Any,
    data: Any,
    seed: int,
    widen: bool,
) -> _Asked:
    if not callable(builder) or (isinstance(builder, type) and issubclass(builder, nn.Module)):
        raise refusal("gated", builder, "what prepare returned, or a builder with ranges")
    if costs is not None and not callable(costs):
        raise refusal("costs", costs, "a function from a configuration to numbers by name")
    costs_of = partial(_given_costs, costs) if costs else partial(recorded_costs, builder)
    dimensions = dimensions_of(ranges)
    known = tuple(costs_of(config_of(dimensions, tuple(0 for _ in dimensions))))
    scores = scores_of(score, known, data, None)
    widen = widen and not some_cost_is_to_be_small(scores, known)
    space = Configurations(ranges, costs_of, _numbers(target, known), widen=widen)
    return _Asked(space, scores, lambda point: Built(point, builder, seed))


def _given_costs(costs: Any, config: Mapping[str, Any]) -> dict[str, float]:
    """What a function of the user says of a configuration."""
    try:
        found = costs(**config)
    except FxpruneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"costs fails on {shown(dict(config))}: {reason}") from error
    if not isinstance(found, Mapping) or not all(map(is_number, found.values())):
        raise refusal("costs", found, 'a function that returns numbers by name, {"params": 1e6}')
    return dict(found)


def _numbers(target: Any, known: Sequence[str]) -> dict[str, float]:
    """The limits of a builder, in absolute numbers."""
    if target is None:
        return {}
    wanted = f'numbers by cost, such as {{"{known[0]}": 1e6}}: a builder has no full size'
    if not isinstance(target, Mapping) or not target:
        raise TargetError(f"target is {shown(target)}: give {wanted}")
    for name, most in target.items():
        if name not in known:
            raise TargetError(
                f"target names {shown(name)}; known costs are {', '.join(known)}{near(name, known)}"
            )
        if not is_number(most) or not 0 < most < math.inf:
            raise TargetError(f"target of {name} is {shown(most)}: give {wanted}")
    return {name: float(most) for name, most in target.items()}
