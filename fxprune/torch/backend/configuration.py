"""Which numbers of a model's configuration size which groups? Its constructor is asked.

    hidden_size * 2            doubles the stream, and what is inside of a head
    num_attention_heads * 2    doubles the heads, and halves what is inside of each
    both                       double stream and heads, and nothing else

Each number is doubled in turn, and the model is made anew, on the meta device. In logarithms what
that does to sizes is linear, so elimination finds the combinations that change nothing but what is
free. Each ties the groups that it sizes, and says how the configuration follows their shares. They
come in steps, since some numbers a configuration refuses.
"""

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

from torch import Tensor, fx, nn

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Prod, Sum, spaces
from fxprune.passes.cost import lies_in
from fxprune.passes.ties import Tie, steps_of
from fxprune.torch.backend.attributes import attributes_of_axes, attributes_read, scaling_attributes
from fxprune.torch.backend.constructor import (
    Constructor,
    number_at,
    numbers_kept_by,
    open_numbers,
    set_number,
    shapes_of,
    unsaved_tensors,
    whole_numbers,
)
from fxprune.torch.backend.elimination import Elimination, Name, Place
from fxprune.torch.backend.places import count_on
from fxprune.torch.frontend.program import Program

_log = logging.getLogger("fxprune")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConfigurationRule:
    """If `groups` keep a share, a number grows by that share to its power, from what it is.

    `numbers` are powers by name, `written` what numbers are where the configuration leaves them to
    the constructor. The share is a number of `steps` equal ones: the configuration has a say in
    which numbers it takes.
    """

    groups: tuple[str, ...]
    numbers: tuple[tuple[Name, Fraction], ...]
    written: tuple[tuple[Name, int], ...] = ()
    steps: int = 0

    def changed(self, numbers: Mapping[Name, int], share: Fraction) -> dict[Name, int]:
        """What numbers are at a share."""
        powers = dict(self.numbers)
        return {n: int(v * share ** powers[n]) if n in powers else v for n, v in numbers.items()}


def rules_of(
    model: nn.Module, program: Program, analysis: Analysis
) -> tuple[ConfigurationRule, ...] | None:
    """How a model's configuration follows its groups; None if it has none that makes it.

    What no rule names, no configuration can say.
    """
    oracle = Constructor.of(model)
    if oracle is None:
        return None
    places = _places(model, program, analysis)
    written = _left_open(oracle, places, {group.size for group in analysis.free_groups})
    effects = _effects(oracle, places, written)
    size_of = {group.name: group.size for group in analysis.free_groups}
    rules = []
    for groups, numbers in Elimination(analysis, places, effects).combinations():
        steps = steps_of(size_of[group] for group in groups)
        if all(oracle.at(name, written) % steps == 0 for name, _ in numbers):
            rules.append(ConfigurationRule(groups, numbers, tuple(written.items()), steps))
    return _in_accepted_steps(rules, oracle)


def _in_accepted_steps(
    rules: Iterable[ConfigurationRule], oracle: Constructor
) -> tuple[ConfigurationRule, ...]:
    """The same in so few steps that the configuration takes whatever is kept of each.

    Llama's wants `hidden_size` to be a multiple of `num_attention_heads`, whatever a head is. Those
    of the most steps come first, so that the stream keeps fine ones, and heads few.
    """
    found: list[ConfigurationRule] = []
    for rule in sorted(rules, key=lambda each: -each.steps):
        others = [{}, *({each: Fraction(1, each.steps)} for each in found)]
        others.append({each: Fraction(1, each.steps) for each in found})
        divisors = (n for n in range(rule.steps, 0, -1) if rule.steps % n == 0)
        steps = next((n for n in divisors if _takes(oracle, replace(rule, steps=n), others)), 1)
        found.append(replace(rule, steps=steps))
    return tuple(found)


def _takes(
    oracle: Constructor,
    rule: ConfigurationRule,
    others: Iterable[Mapping[ConfigurationRule, Fraction]],
) -> bool:
    """Whether a configuration takes some shares of a rule, beside those of others."""
    tried = sorted({n for n in (*_TRIED, rule.steps - 1, rule.steps // 2) if 0 < n < rule.steps})
    for shares in others:
        for kept in tried:
            numbers = _numbers_of(oracle, (rule, *shares))
            for each, share in {**shares, rule: Fraction(kept, rule.steps)}.items():
                numbers = each.changed(numbers, share)
            if not oracle.accepts(numbers):
                return False
    return True


_TRIED = (1, 2, 3, 5, 7, 11, 13)
"""What is refused at any number of steps is at one of these, or beside all of them."""


def tied_by(rules: Iterable[ConfigurationRule]) -> tuple[Tie, ...]:
    """The groups that one rule sizes keep equal shares, and what one sizes alone has its steps."""
    reason = "the configuration has one number for both"
    alone = "the configuration takes no other numbers"
    return tuple(
        Tie(rule.groups, reason if len(rule.groups) > 1 else alone, rule.steps) for rule in rules
    )


def carried_rules(
    rules: Iterable[ConfigurationRule], origins: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[ConfigurationRule, ...]:
    """The rules of what is left of a model, whose groups `carried` found again."""
    now = {was: name for name, (was, _) in origins.items()}
    return tuple(
        replace(rule, groups=tuple(now[name] for name in rule.groups), written=())
        for rule in rules
        if now.keys() >= set(rule.groups)
    )


def follow(
    model: nn.Module,
    rules: Iterable[ConfigurationRule],
    keep: Mapping[str, Sequence[bool]],
    graph: fx.Graph,
    idle: Collection[str] = (),
) -> dict[str, int]:
    """Let the configuration of a folded model say its sizes, if its class then makes such a one.

    Layers at the paths `idle` have nothing left: they may have any size.

    Returns:
        The numbers that it has now, as `configure` takes them.
    """
    changes: dict[Name, int] = {}
    for rule in rules:
        flags = keep.get(rule.groups[0], (True,))
        share = Fraction(sum(flags), len(flags))
        if share != 1:
            own = {name: number_at(model.config, name) for name, _ in rule.numbers}
            changes = rule.changed({**own, **dict(rule.written), **changes}, share)
    numbers = {".".join(name): value for name, value in changes.items()}
    return numbers if configure(model, numbers, graph, idle) else {}


def configure(
    model: nn.Module, numbers: Mapping[str, int], graph: fx.Graph, idle: Collection[str] = ()
) -> bool:
    """Write numbers, by dotted name, into a configuration, if its class then makes such a model.

    So are the whole numbers that modules keep, but that their code in the `graph` of the model
    before did not read. A warning says that nothing was written.
    """
    oracle = Constructor.named_by(model)
    if oracle is None:
        return False
    changes = {tuple(name.split(".")): value for name, value in numbers.items()}
    again = oracle.made(changes) if oracle.accepts(changes) else None
    if again is not None and idle:
        count_on(again, model, numbering=again)
    own = None if again is None else _own_numbers(model, again, _read(graph), idle)
    if own is None:
        _log.warning("the configuration cannot say the sizes of what is kept: it stays as it was")
        return False
    for module, attribute, value in own:
        module.__dict__[attribute] = value
    for name, value in changes.items():
        set_number(model.config, name, value)
    return True


def lowers(model: nn.Module, numbers: Mapping[str, int]) -> bool:
    """Whether numbers from a file are those of a smaller model: trying them costs little then."""
    config = getattr(model, "config", None)
    if not isinstance(getattr(config, "__dict__", None), dict):
        return False
    most: dict[Name, float] = {**dict(whole_numbers(config))}
    most |= dict.fromkeys(open_numbers(config), max(most.values(), default=0))
    return all(0 < value <= most.get(tuple(n.split(".")), 0) for n, value in numbers.items())


def is_configured(model: nn.Module) -> bool:
    """Whether its class makes a model of the same sizes from its configuration."""
    oracle = Constructor.of(model)
    made = None if oracle is None else oracle.made({})
    return made is not None and _own_numbers(model, made, ()) == []


def _read(graph: fx.Graph) -> set[tuple[str, str]]:
    """The modules and attributes from which numbers in calls were computed."""
    return {(each.path, str(each.names[0])) for each in attributes_read(graph)}


def _own_numbers(
    model: nn.Module,
    other: nn.Module,
    read: Collection[tuple[str, str]],
    idle: Collection[str] = (),
) -> list[tuple[nn.Module, str, int]] | None:
    """What modules have to keep so that one model is like another; None if they differ in more."""
    ours, theirs = (_outside(idle, dict(each.named_modules())) for each in (model, other))
    shapes = [_outside(idle, shapes_of(each)) for each in (model, other)]
    if shapes[0] != shapes[1] or ours.keys() != theirs.keys():
        return None
    found = []
    for path, module in ours.items():
        for attribute, value in numbers_kept_by(theirs[path]).items():
            own = module.__dict__.get(attribute)
            if own == value:
                continue
            if type(value) is not int or type(own) is not int or (path, attribute) in read:
                return None
            found.append((module, attribute, value))
    return found


def _outside(idle: Collection[str], found: Mapping[str, T]) -> dict[str, T]:
    """What is found by path, but in some modules."""
    return {n: each for n, each in found.items() if not any(lies_in(n, path) for path in idle)}


# What the constructor says -----------------------------------------------------------------------


def _numbers_of(oracle: Constructor, rules: Iterable[ConfigurationRule]) -> dict[Name, int]:
    """The numbers that rules change, as they are."""
    rules = tuple(rules)
    written = {name: value for rule in rules for name, value in rule.written}
    return {n: oracle.at(n, written) for rule in rules for n, _ in rule.numbers} | written


def _effects(
    oracle: Constructor, places: Iterable[Place], written: Mapping[Name, int]
) -> dict[Name, dict[Place, Fraction]]:
    """For every number by how many powers of two sizes grow if it doubles.

    Numbers that make a model of other parts, or change nothing, are left out.
    """
    before = _sizes(oracle.made(written), places)
    effects: dict[Name, dict[Place, Fraction]] = {}
    for name, value in (dict(whole_numbers(oracle.config)) | dict(written)).items():
        after = _sizes(oracle.made({**written, name: 2 * value}), places)
        powers = {place: _power(before[place], size) for place, size in after.items()}
        told = before.keys() == after.keys() and None not in powers.values()
        if told and any(powers.values()):
            effects[name] = {place: power or Fraction(0) for place, power in powers.items()}
    return effects


def _left_open(
    oracle: Constructor, places: Iterable[Place], sizes: Iterable[int]
) -> dict[Name, int]:
    """What numbers are, where the configuration leaves them to the constructor."""
    before, found = _sizes(oracle.made({}), places), {}
    for name in open_numbers(oracle.config):
        for size in sorted(sizes):
            same = _sizes(oracle.made({name: size}), places) == before
            if same and _sizes(oracle.made({name: 2 * size}), places) != before:
                found[name] = size
    return found


def _power(before: float, after: float) -> Fraction | None:
    """Of two: how often one number is another, in quarters; None for other ratios."""
    power = Fraction(round(4 * math.log2(after / before)), 4)
    return power if math.isclose(before * 2.0**power, after, rel_tol=1e-6) else None


# What has which size --------------------------------------------------------------------------


def _places(model: nn.Module, program: Program, analysis: Analysis) -> list[Place]:
    """Axes of parameters and attributes of modules, by what they are the products of.

    What the graph does not have, and fractions, such as scales, must stay; so must tables that are
    not saved, since the constructor fills them by their size.
    """
    places: dict[Place, None] = {}
    axes = analysis.types.axes
    for name in unsaved_tensors(model):
        for dim in range(len(axes.get(name, ()))):
            places[name, dim, (f"{name}:{dim}",)] = None
    others = {name for names in program.aliases.values() for name in names[1:]}
    for name, tensor in model.state_dict(keep_vars=True).items():
        for dim, size in enumerate(tensor.shape):
            if name not in axes and name not in others:
                places[name, dim, (f"{name}:{dim}",)] = None
            elif name in axes and size > 1 and not _is_joined(axes[name][dim]):
                places[name, dim, tuple(spaces(axes[name][dim]))] = None
    for attribute, axis in attributes_of_axes(program.graph, analysis.types.literals):
        if len(attribute.names) == 1 and not _is_joined(axis):
            places[attribute.path, str(attribute.names[0]), tuple(spaces(axis))] = None
    for path, module in model.named_modules():
        for name, value in numbers_kept_by(module).items():
            if type(value) is float and value > 0:
                places[path, name, (f"{path}.{name}",)] = None
    for attribute in scaling_attributes(program.graph):
        if len(attribute.names) == 1:
            places[attribute.path, str(attribute.names[0]), (str(attribute),)] = None
    return list(places)


def _is_joined(axis: Axis) -> bool:
    parts = axis.factors if isinstance(axis, Prod) else (axis,)
    return any(isinstance(part, Sum) for part in parts)


def _sizes(model: nn.Module | None, places: Iterable[Place]) -> dict[Place, float]:
    """The sizes (and fractions) at places that a model has."""
    if model is None:
        return {}
    tensors: dict[str, Tensor] = {**dict(model.named_buffers()), **model.state_dict(keep_vars=True)}
    modules = dict(model.named_modules())
    found: dict[Place, float] = {}
    for place in places:
        name, which, _ = place
        if isinstance(which, int) and name in tensors:
            found[place] = tensors[name].shape[which]
        elif isinstance(which, str) and name in modules:
            found[place] = getattr(modules[name], which, 0)
    return {place: size for place, size in found.items() if size}
