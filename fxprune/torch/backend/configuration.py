"""Which numbers of a model's configuration size which groups? Its constructor is asked.

    hidden_size * 2            doubles the stream, and what is inside of a head
    num_attention_heads * 2    doubles the heads, and halves what is inside of each
    both                       double stream and heads, and nothing else

Each number is doubled in turn, and the model is made anew, on the meta device. In logarithms what
that does to sizes is linear, so elimination finds the combinations that change nothing but what is
free. Each ties the groups that it sizes, and says how the configuration follows their shares. They
come in steps, since some numbers a configuration refuses.
"""

import copy
import logging
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Prod, Sum, spaces
from fxprune.passes.ties import Tie, steps_of
from fxprune.torch.backend.attributes import attributes_of_axes, attributes_read, scaling_attributes
from fxprune.torch.backend.derived import base_of, is_derived
from fxprune.torch.backend.elimination import Elimination, Name, Place
from fxprune.torch.frontend.program import Program

_log = logging.getLogger("fxprune")


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
    oracle = _Constructor.of(model)
    if oracle is None:
        return None
    places = _places(model, program, analysis)
    written = oracle.left_open(places, {group.size for group in analysis.free_groups})
    effects = oracle.effects(places, written)
    size_of = {group.name: group.size for group in analysis.free_groups}
    rules = []
    for groups, numbers in Elimination(analysis, places, effects).combinations():
        steps = steps_of(size_of[group] for group in groups)
        if all(oracle.at(name, written) % steps == 0 for name, _ in numbers):
            rules.append(ConfigurationRule(groups, numbers, tuple(written.items()), steps))
    return _in_accepted_steps(rules, oracle)


def _in_accepted_steps(
    rules: Iterable[ConfigurationRule], oracle: "_Constructor"
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
    oracle: "_Constructor",
    rule: ConfigurationRule,
    others: Iterable[Mapping[ConfigurationRule, Fraction]],
) -> bool:
    """Whether a configuration takes some shares of a rule, beside those of others."""
    tried = sorted({n for n in (*_TRIED, rule.steps - 1, rule.steps // 2) if 0 < n < rule.steps})
    for shares in others:
        for kept in tried:
            numbers = oracle.numbers_of((rule, *shares))
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
) -> dict[str, int]:
    """Let the configuration of a folded model say its sizes, if its class then makes such a one.

    Returns:
        The numbers that it has now, as `configure` takes them.
    """
    changes: dict[Name, int] = {}
    for rule in rules:
        flags = keep.get(rule.groups[0], (True,))
        share = Fraction(sum(flags), len(flags))
        if share != 1:
            own = {name: _at(model.config, name) for name, _ in rule.numbers}
            changes = rule.changed({**own, **dict(rule.written), **changes}, share)
    numbers = {".".join(name): value for name, value in changes.items()}
    return numbers if configure(model, numbers, graph) else {}


def configure(model: nn.Module, numbers: Mapping[str, int], graph: fx.Graph) -> bool:
    """Write numbers, by dotted name, into a configuration, if its class then makes such a model.

    So are the whole numbers that modules keep, but that their code in the `graph` of the model
    before did not read. A warning says that nothing was written.
    """
    oracle = _Constructor.of(model)
    if oracle is None:
        return False
    changes = {tuple(name.split(".")): value for name, value in numbers.items()}
    again = oracle.made(changes) if oracle.accepts(changes) else None
    own = None if again is None else _own_numbers(model, again, _read(graph))
    if own is None:
        _log.warning("the configuration cannot say the sizes of what is kept: it stays as it was")
        return False
    for module, attribute, value in own:
        module.__dict__[attribute] = value
    for name, value in changes.items():
        _set(model.config, name, value)
    return True


def lowers(model: nn.Module, numbers: Mapping[str, int]) -> bool:
    """Whether numbers from a file are those of a smaller model: trying them costs little then."""
    config = getattr(model, "config", None)
    if not isinstance(getattr(config, "__dict__", None), dict):
        return False
    most: dict[Name, float] = {**dict(_whole_numbers(config))}
    most |= dict.fromkeys(_open_numbers(config), max(most.values(), default=0))
    return all(0 < value <= most.get(tuple(n.split(".")), 0) for n, value in numbers.items())


def is_configured(model: nn.Module) -> bool:
    """Whether its class makes a model of the same sizes from its configuration."""
    oracle = _Constructor.of(model)
    made = None if oracle is None else oracle.made({})
    return made is not None and _own_numbers(model, made, ()) == []


def follow_depth(model: nn.Module, path: str, gone: Sequence[bool]) -> None:
    """Let the configuration of a model say how many layers the list at `path` has, if it does.

    What it says of each layer in a list of its own goes with the layers that are `gone`.
    """
    oracle = _Constructor.named_by(model)
    left = len(gone) - sum(gone)
    if oracle is None:
        return
    for name, value in _whole_numbers(oracle.config):
        if value != len(gone):
            continue
        config = copy.deepcopy(oracle.config)
        _set(config, name, left)
        _shorten(config, gone)
        made = replace(oracle, config=config).made({})
        layers = dict(made.named_modules()).get(path) if made is not None else None
        if isinstance(layers, Sized) and len(layers) == left:
            _set(oracle.config, name, left)
            _shorten(oracle.config, gone)
            return


def _shorten(config: Any, gone: Sequence[bool]) -> None:
    """Leave out what lists say of some layers, in a configuration and those inside of it."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == len(gone):
            left = [item for item, goes in zip(value, gone, strict=True) if not goes]
            setattr(config, name, type(value)(left))
        elif is_configuration(value):
            _shorten(value, gone)


def _read(graph: fx.Graph) -> set[tuple[str, str]]:
    """The modules and attributes from which numbers in calls were computed."""
    return {(each.path, str(each.names[0])) for each in attributes_read(graph)}


def _own_numbers(
    model: nn.Module, other: nn.Module, read: Collection[tuple[str, str]]
) -> list[tuple[nn.Module, str, int]] | None:
    """What modules have to keep so that one model is like another; None if they differ in more."""
    ours, theirs = model.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (ours, theirs)]
    modules = dict(other.named_modules())
    if shapes[0] != shapes[1] or modules.keys() != dict(model.named_modules()).keys():
        return None
    found = []
    for path, module in model.named_modules():
        for attribute, value in _plain(modules[path]).items():
            own = module.__dict__.get(attribute)
            if own == value:
                continue
            if type(value) is not int or type(own) is not int or (path, attribute) in read:
                return None
            found.append((module, attribute, value))
    return found


def _plain(module: nn.Module) -> dict[str, Any]:
    """The numbers that a module keeps, and whether something is so."""
    kinds = (int, float, bool)
    return {
        name: value
        for name, value in module.__dict__.items()
        if type(value) in kinds and not name.startswith("_") and name != "training"
    }


# The constructor ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Constructor:
    """Makes models of one class on the meta device, from a configuration with other numbers."""

    kind: type[nn.Module]
    config: Any

    @classmethod
    def of(cls, model: nn.Module) -> "_Constructor | None":
        """That of a model whose class takes its configuration alone; else None."""
        found = cls.named_by(model)
        made = None if found is None else found.made({})
        same = made is not None and made.state_dict().keys() == model.state_dict().keys()
        return found if same else None

    @classmethod
    def named_by(cls, model: nn.Module) -> "_Constructor | None":
        """The class and the configuration of a model that has one."""
        config = getattr(model, "config", None)
        kind = base_of(type(model)) if is_derived(type(model)) else type(model)
        has_one = isinstance(getattr(config, "__dict__", None), dict)
        return cls(kind, config) if has_one else None

    def made(self, changes: Mapping[Name, int]) -> nn.Module | None:
        """A model with changed numbers, None if there is none."""
        try:
            config = copy.deepcopy(self.config)
            for name, value in changes.items():
                _set(config, name, value)
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                return self.kind(config)
        except Exception as error:
            _log.debug("no model with %s: %s", changes, error)
            return None

    def accepts(self, changes: Mapping[Name, int]) -> bool:
        """Whether a configuration can be read with changed numbers, as files are."""
        try:
            config = copy.deepcopy(self.config)
            for name, value in changes.items():
                _set(config, name, value)
            if hasattr(config, "to_dict") and hasattr(config, "from_dict"):
                config.from_dict(config.to_dict())
        except Exception as error:
            _log.debug("no configuration with %s: %s", changes, error)
            return False
        return True

    def numbers_of(self, rules: Iterable[ConfigurationRule]) -> dict[Name, int]:
        """The numbers that rules change, as they are."""
        rules = tuple(rules)
        written = {name: value for rule in rules for name, value in rule.written}
        return {n: self.at(n, written) for rule in rules for n, _ in rule.numbers} | written

    def at(self, name: Name, written: Mapping[Name, int]) -> int:
        """A number of the configuration."""
        return written.get(name) or _at(self.config, name)

    def effects(
        self, places: Iterable[Place], written: Mapping[Name, int]
    ) -> dict[Name, dict[Place, Fraction]]:
        """For every number by how many powers of two sizes grow if it doubles.

        Numbers that make a model of other parts, or change nothing, are left out.
        """
        before = _sizes(self.made(written), places)
        effects: dict[Name, dict[Place, Fraction]] = {}
        for name, value in (dict(_whole_numbers(self.config)) | dict(written)).items():
            after = _sizes(self.made({**written, name: 2 * value}), places)
            powers = {place: _power(before[place], size) for place, size in after.items()}
            told = before.keys() == after.keys() and None not in powers.values()
            if told and any(powers.values()):
                effects[name] = {place: power or Fraction(0) for place, power in powers.items()}
        return effects

    def left_open(self, places: Iterable[Place], sizes: Iterable[int]) -> dict[Name, int]:
        """What numbers are, where the configuration leaves them to the constructor."""
        before, found = _sizes(self.made({}), places), {}
        for name in _open_numbers(self.config):
            for size in sorted(sizes):
                same = _sizes(self.made({name: size}), places) == before
                if same and _sizes(self.made({name: 2 * size}), places) != before:
                    found[name] = size
        return found


def _whole_numbers(config: Any, before: Name = ()) -> Iterator[tuple[Name, int]]:
    for name, value in vars(config).items():
        if type(value) is int and value > 1:
            yield (*before, name), value
        elif is_configuration(value) and len(before) < 2:
            yield from _whole_numbers(value, (*before, name))


def _open_numbers(config: Any, before: Name = ()) -> Iterator[Name]:
    for name, value in vars(config).items():
        if value is None and _SIZE.search(name):
            yield (*before, name)
        elif is_configuration(value) and len(before) < 2:
            yield from _open_numbers(value, (*before, name))


_SIZE = re.compile("inner|inter|ff|dim|hidden|head|width|size")


def is_configuration(value: Any) -> bool:
    """Whether something is what models of Hugging Face libraries are made from."""
    return hasattr(value, "to_dict") and isinstance(getattr(value, "__dict__", None), dict)


def _at(config: Any, name: Name) -> int:
    for part in name:
        config = getattr(config, part)
    return int(config or 0)


def _set(config: Any, name: Name, value: int) -> None:
    for part in name[:-1]:
        config = getattr(config, part)
    setattr(config, name[-1], value)


def _power(before: float, after: float) -> Fraction | None:
    """Of two: how often one number is another, in quarters; None for other ratios."""
    power = Fraction(round(4 * math.log2(after / before)), 4)
    return power if math.isclose(before * 2.0**power, after, rel_tol=1e-6) else None


# What has which size --------------------------------------------------------------------------


def _places(model: nn.Module, program: Program, analysis: Analysis) -> list[Place]:
    """Axes of parameters and attributes of modules, by what they are the products of.

    What the graph does not have, and fractions, such as scales, must stay.
    """
    places: dict[Place, None] = {}
    axes = analysis.types.axes
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
        for name, value in _plain(module).items():
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
    tensors = model.state_dict(keep_vars=True)
    modules = dict(model.named_modules())
    found: dict[Place, float] = {}
    for place in places:
        name, which, _ = place
        if isinstance(which, int) and name in tensors:
            found[place] = tensors[name].shape[which]
        elif isinstance(which, str) and name in modules:
            found[place] = getattr(modules[name], which, 0)
    return {place: size for place, size in found.items() if size}
