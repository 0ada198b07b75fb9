"""What did the user ask for? Limits on costs of the model or of its modules, and what stays."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

from fxprune.arguments import is_number, near, number, refusal, shown, whole
from fxprune.errors import InputError, TargetError
from fxprune.passes.analyse import Analysis
from fxprune.passes.branches import Branch
from fxprune.passes.cost import COSTS, Cost, Costs
from fxprune.passes.groups import Group
from fxprune.passes.roles import Kind
from fxprune.passes.whole_layers import lists_of_layers
from fxprune.selectors import Selector, outermost, patterns_of_places, selector_of, unknown
from fxprune.uniform import Uniform, made_uniform, patterns_of

Target = float | int | Mapping[str, Any]
"""A share of the MACs, or by cost shares (up to 1) or absolute numbers (above 1), or by module path
or pattern of paths a target for what is inside of each."""

LATENCY = ("latency", "latency_ms")
"""The names of a target on time: a share of what is predicted in full, or milliseconds."""


def latency_in(target: Any) -> bool:
    """Whether a target limits time, of the model or of a module."""
    return any(name in LATENCY for _, name, _ in _items(target))


def times_in(target: Any) -> dict[str, float]:
    """What a target asks of the time of the whole model.

    >>> times_in({"latency": 0.5, "macs": 0.6})
    {'latency': 0.5}
    """
    if not isinstance(target, Mapping):
        return {}
    return {name: value for name, value in target.items() if name in LATENCY}


def with_whole_time(target: Any) -> dict[str, Any]:
    """The same without a limit on the time of the whole model, which is still a cost.

    >>> with_whole_time({"latency_ms": 3.0, "macs": 0.6})
    {'macs': 0.6, 'latency': 1.0}
    """
    others = {name: value for name, value in target.items() if name not in LATENCY}
    return {**others, "latency": 1.0}


Least = float | Mapping[str, float]
"""A share of the positions of every group, or shares by what selectors mean."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user asks for: how much of which cost may remain, and what every group keeps.

    It is checked when it is made, so that whoever holds one knows that its numbers make sense; the
    names in it are checked once there is a model.

    Args:
        target: what may remain.
        round_to: every group keeps a multiple of this many positions, or all of them.
        least: what every group keeps at least.
        uniform: what keeps equal numbers in repeated blocks.

    Raises:
        TargetError: an empty target, an unknown cost of a module, or a number out of range.
        InputError: `round_to` or `least` is out of range, or `uniform` no pattern.
    """

    target: Target = 0.5
    round_to: int = 1
    least: Least = 0.0
    uniform: Uniform = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "uniform", patterns_of(self.uniform))
        for path, name, value in _items(self.target):
            _check_number(_key(path, name), name, value)
        whole("round_to", self.round_to, "a positive integer such as 8")
        for share in self._shares().values():
            number("least", share, lambda x: 0 <= x <= 1, "a share in [0, 1], or shares by module")

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of verbs."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def made_uniform(self, analysis: Analysis) -> Analysis:
        """The facts about a model, with ties of what is to keep equal numbers."""
        patterns = patterns_of(self.uniform)
        return made_uniform(analysis, patterns) if patterns else analysis

    def on(
        self, analysis: Analysis, modules: Collection[str], latency: Callable[[str], Cost]
    ) -> tuple[Costs, dict[str, float]]:
        """The costs that are limited and their absolute limits, by "macs", "macs of layer1", ...

        Args:
            analysis: the facts about the model.
            modules: the paths of all modules.
            latency: measures this model, for a module path.

        Raises:
            TargetError: an unknown module, or a number that is out of range for this model.
        """
        costs: dict[str, Cost] = {}
        bounds: dict[str, float] = {}
        full = analysis.costs.full
        inside: dict[str, Costs] = {"": analysis.costs}
        for path, name, value in _by_module(self.target, modules):
            key = _key(path, name)
            if name in LATENCY:
                cost = latency(path)
            else:
                inside[path] = inside.get(path) or analysis.costs_inside(path)
                cost = inside[path].polynomials[name]
            bound = _bound(key, name, value, cost(full))
            if key in bounds:
                raise TargetError(f"target gives {key} twice")
            costs[key], bounds[key] = cost, bound
        return Costs(costs, full), bounds

    def least_positions(self, analysis: Analysis, modules: Collection[str]) -> tuple[int, ...]:
        """How many positions each free group keeps at least, never none; then layers of each list.

        A share of layers is one that is given for them, such as `{"*: layer": 0.5}`.

        Args:
            analysis: the facts about the model.
            modules: the paths of all modules. Of what fits a group the closest decides: kinds and
                labels before paths, then the longest.

        Raises:
            InputError: something means no module and no group.
        """
        shares = {selector_of(text): share for text, share in self._shares().items()}
        branches = {branch.name: branch for branch in analysis.branches}
        of_lists = lists_of_layers(analysis).values()
        lists = [[branches[name] for name in layers.names] for layers in of_lists]
        some: list[Group | Branch] = [*analysis.groups, *chain.from_iterable(lists)]
        for selector in shares:
            fits = any(map(selector.fits_path, modules)) or any(map(selector.fits, some))
            if selector.text and not fits:
                raise unknown("least", selector.text, analysis, modules)
        of_layers = {s: share for s, share in shares.items() if s.kind == Kind.LAYER}
        found = [(group.size, _share_of(group, shares)) for group in analysis.free_groups]
        return (
            *(max(1, math.ceil(share * size - 1e-9)) for size, share in found),
            *(math.ceil(sum(_share_of(one, of_layers) for one in own) - 1e-9) for own in lists),
        )

    def _shares(self) -> Mapping[str, Any]:
        if not isinstance(self.least, Mapping):
            return {"": self.least}
        if not all(isinstance(path, str) for path in self.least):
            raise refusal("least", self.least, 'shares by the path of a module, or by "*: heads"')
        return self.least


def _share_of(item: Group | Branch, shares: Mapping[Selector, float]) -> float:
    """The share for what fits best; none, where nothing fits."""
    fitting = [selector for selector in shares if selector.fits(item)]
    closest = max(fitting, key=lambda selector: selector.closeness(item), default=None)
    return shares[closest] if closest else 0.0


class Absolute(float):
    """A number of a target that is in units of the cost, however small it is."""


def absolute(bounds: Mapping[str, float]) -> dict[str, Any]:
    """The target that means these limits, which are by "macs", "macs of layer1", ...

    >>> absolute({"macs": 9.0, "params of layer1": 0.5})
    {'macs': 9.0, 'layer1': {'params': 0.5}}
    """
    target: dict[str, Any] = {}
    for key, bound in bounds.items():
        cost, _, path = key.partition(" of ")
        name = "latency_ms" if cost == "latency" else cost
        (target.setdefault(path, {}) if path else target)[name] = Absolute(bound)
    return target


def _key(path: str, name: str) -> str:
    return ("latency" if name in LATENCY else name) + (f" of {path}" if path else "")


def _items(target: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Module path, cost and number of everything in a target; a module holds no other."""
    if not isinstance(target, Mapping):
        yield path, "macs", target
        return
    if not target:
        raise TargetError("target is empty: give a share of the MACs such as 0.5")
    for name, value in target.items():
        if isinstance(name, str) and name in (*COSTS, *LATENCY):
            yield path, name, value
        elif path or not isinstance(name, str):
            raise TargetError(
                f"target{f' of {path}' * bool(path)} names {shown(name)}; known costs are "
                f"{', '.join((*COSTS, *LATENCY))}{near(name, (*COSTS, *LATENCY))}"
            )
        else:
            yield from _items(value, name)


def _by_module(target: Target, modules: Collection[str]) -> Iterator[tuple[str, str, Any]]:
    """The same for each module that a pattern means; of several limits the longest name decides."""
    decided: dict[tuple[str, str], tuple[str, Any]] = {}
    for path, name, value in _items(target):
        for module in _modules_at(path, modules):
            known, _ = decided.get((module, name), ("", None))
            if len(path) >= len(known):
                decided[module, name] = path, value
    for (module, name), (_, value) in decided.items():
        yield module, name, value


def _modules_at(path: str, modules: Collection[str]) -> list[str]:
    """The modules that a path or pattern in a target means."""
    if not path:
        return [""]
    selector = selector_of(path)
    if selector.kind:
        raise TargetError(
            f"target names {path!r}, but only modules have costs: give a module or a pattern such "
            'as "*.mlp"; least takes kinds'
        )
    found = outermost(selector, modules)
    if not found:
        known = (*COSTS, *LATENCY)
        raise TargetError(
            f"target names {path!r}; known costs are {', '.join(known)}, and the model has no "
            f"module of that name"
            f"{near(path, [*known, *modules, *patterns_of_places(modules)])}"
        )
    return found


def _check_number(key: str, name: str, value: Any) -> None:
    if is_number(value) and 0 < value < math.inf and (name != "latency" or value <= 1):
        return
    if name == "latency_ms":
        raise TargetError(f"target of latency_ms is {shown(value)}: give milliseconds above 0")
    or_number = "" if name == "latency" else ", or an absolute number above 1"
    instead = "; milliseconds are called latency_ms" if name == "latency" else ""
    raise TargetError(
        f"target of {key} is {shown(value)}: give a share in (0, 1] to keep{or_number}{instead}"
    )


def _bound(key: str, name: str, value: float, full: float) -> float:
    if full <= 0:
        raise TargetError(f"target of {key}: there is nothing to limit, it is 0 already")
    is_share = value <= 1 and name != "latency_ms" and not isinstance(value, Absolute)
    if not is_share and value > full:
        raise TargetError(
            f"target of {key} is {shown(value)}, the model has {full:.12g}: give a share in (0, 1] "
            "to keep, or an absolute number below that"
        )
    return float(value) * full if is_share else float(value)


DEFAULT_STEPS = 1000
"""Optimizer steps until the target is reached, where nobody says how long the training is."""

_RAMP = 0.3
"""The share of a training after which the target is reached, where its length is known.

In one pass over CIFAR-10 targets that were met after 30 % of the steps cost no accuracy beside 70 %
(the site's page measured/one_pass.md), and what is closed early makes more of a training cheap that
shrinks.
"""


def ramp(total_steps: int) -> int:
    """Optimizer steps until the target is reached in a training of `total_steps`."""
    return max(1, round(_RAMP * total_steps))


def steps_to_target(steps: int | float, total_steps: int | None) -> int:
    """Optimizer steps until the target is reached.

    Raises:
        InputError: a fraction without a total, or numbers out of range.
    """
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    if whole and steps >= 1:
        if total_steps is not None and steps > total_steps:
            raise InputError(f"steps is {steps}, more than total_steps={total_steps}")
        return int(steps)
    if not isinstance(steps, float) or not 0 < steps < 1:
        raise InputError(
            f"steps is {steps!r}: give the number of optimizer steps, at least 1, or a fraction "
            "in (0, 1) of total_steps"
        )
    if total_steps is None:
        raise InputError(f"steps is {steps}, a fraction: give total_steps, the steps of training")
    return max(1, round(steps * total_steps))


def check_total_steps(total_steps: int | None) -> None:
    """Raise InputError unless this is the length of a training, or None."""
    if total_steps is not None and (
        isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1
    ):
        raise InputError(f"total_steps is {total_steps!r}: give the optimizer steps of training")
