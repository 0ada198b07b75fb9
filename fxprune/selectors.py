"""Which modules, groups and branches does a user mean? One language for both routes and all verbs.

    model.layers.0.mlp              a module and all that lies in it, or one group by name or label
    *.mlp                           every such place; * stands for anything, dots too
    *: heads                        all groups of a kind (heads of keys and values are heads, too)
    model.layers.*.mlp: MLP width   those at a place

What a report calls a group, its label, means that group.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fxprune.arguments import names, near
from fxprune.errors import InputError, NothingToPruneError
from fxprune.layout import closing_with
from fxprune.passes.analyse import Analysis
from fxprune.passes.branches import Branch
from fxprune.passes.groups import Group
from fxprune.passes.roles import Kind
from fxprune.passes.ties import is_at, place_in_block
from fxprune.passes.whole_layers import whole_layers

KINDS = tuple(str(kind) for kind in Kind)
_COVERED = {Kind.HEADS.value: (Kind.HEADS, Kind.KV_HEADS)}
"""What a kind means that means more than itself: a head of keys takes its queries along."""

_WANTED = 'names of modules, patterns such as "*.mlp", or kinds such as "*: heads"'


@dataclass(frozen=True, slots=True)
class Selector:
    """What a text means: places that match a pattern, of one kind or ("") of any."""

    text: str
    pattern: str
    kind: str = ""

    def fits(self, item: Group | Branch) -> bool:
        """Whether a group or branch is meant."""
        if self.text in (item.name, item.label):
            return True
        kinds = _COVERED.get(self.kind, (self.kind,))
        paths = (item.path if isinstance(item, Group) else item.name, item.place)
        at_place = any(is_at(path, self.pattern) for path in paths)
        return at_place and (not self.kind or item.kind in kinds)

    def closeness(self, item: Group | Branch) -> tuple[bool, int]:
        """How closely this says that it means a group: what it is before where it is made."""
        says_what = bool(self.kind) or self.text in (item.name, item.label)
        return says_what, len(self.text)

    def fits_path(self, path: str) -> bool:
        """Whether a module or parameter is meant, or lies in one that is."""
        return not self.kind and is_at(path, self.pattern)


def selector_of(text: str) -> Selector:
    """What a text means.

    >>> selector_of("*.mlp").kind, selector_of("*.self_attn: kv heads").kind
    ('', 'kv heads')
    """
    place, _, kind = text.rpartition(":")
    if kind.strip() in KINDS and (place or ":" in text):
        return Selector(text, place.strip() or "*", kind.strip())
    return Selector(text, text or "*")


def selectors(argument: str, value: Any) -> tuple[Selector, ...]:
    """What several texts mean.

    Raises:
        InputError: they are no texts.
    """
    return tuple(map(selector_of, names(argument, value, _WANTED)))


def unknown(argument: str, text: str, analysis: Analysis, paths: Iterable[str]) -> InputError:
    """The error for what means nothing, with what was perhaps meant."""
    found = sorted({f"*: {item.kind}" for item in analysis.items})
    labels = [item.label for item in analysis.items]
    modules = [path for path in paths if path]
    first = ", ".join(sorted(modules)[:10])
    return InputError(
        f"{argument}: the model has no module {text!r}; it has {first}, ..., and groups "
        f"{', '.join(found)}{near(text, [*found, *modules, *patterns_of_places(modules), *labels])}"
    )


def patterns_of_places(paths: Iterable[str]) -> list[str]:
    """Patterns that mean some modules: their places in repeated blocks, and how they end.

    >>> patterns_of_places(["layers.0.mlp"])
    ['layers.*.mlp', '*.mlp']
    """
    found: dict[str, None] = {}
    for path in paths:
        found[place_in_block(f"{path}.").removesuffix(".")] = None
        found["*." + path.rpartition(".")[2]] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class Ignored:
    """What is left alone: what parameters produce, and groups and branches by themselves."""

    parameters: tuple[str, ...]
    others: tuple[Selector, ...]

    def pinned(self, analysis: Analysis, paths: Iterable[str]) -> Analysis:
        """The facts with these groups pinned; branches that would close with them stay.

        Raises:
            InputError: something means nothing in this model.
        """
        wanted: set[str] = set()
        for selector in self.others:
            found = {item.name for item in analysis.items if selector.fits(item)}
            if selector.kind == Kind.LAYER:
                found.update(*(x.joins for x in whole_layers(analysis) if selector.fits(x)))
            if not found:
                raise unknown("ignore", selector.text, analysis, paths)
            wanted |= found
        reasons = {g.space: "ignored by the caller" for g in analysis.groups if g.name in wanted}
        inside = closing_with(analysis)
        left = [b.name for b in analysis.branches if wanted.isdisjoint((b.name, *inside[b.name]))]
        pinned = analysis.pinning(reasons) if wanted else analysis
        return pinned.only([*(group.name for group in analysis.groups), *left], "")


def ignored(
    wanted: Iterable[Selector], parameters: Mapping[str, Iterable[str]], modules: Iterable[str]
) -> Ignored:
    """What selectors leave alone.

    Args:
        wanted: of modules, whose outputs stay as they are, or of groups.
        parameters: what users call each parameter, and the module that it is in.
        modules: the paths of all modules.
    """
    modules = tuple(modules)
    own: dict[str, None] = {}
    others = []
    for selector in wanted:
        found = [key for key, called in parameters.items() if any(map(selector.fits_path, called))]
        own.update(dict.fromkeys(found))
        if not found and not any(map(selector.fits_path, modules)):
            others.append(selector)
    return Ignored(tuple(own), tuple(others))


def outermost(selector: Selector, paths: Collection[str]) -> list[str]:
    """The modules that match and lie in no other that does.

    >>> outermost(selector_of("layers.*"), ["layers", "layers.0", "layers.0.mlp", "layers.1"])
    ['layers.0', 'layers.1']
    """
    if selector.text in paths:
        return [selector.text]
    found: list[str] = []
    for path in sorted(paths, key=lambda path: path.count(".")):
        if selector.fits_path(path) and not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


def chosen_layers(
    layers: Any,
    called: Mapping[str, Iterable[str]],
    reasons: Mapping[str, str],
    what: str,
) -> list[str]:
    """The layers that are meant and can become something.

    Args:
        layers: the argument of that name: texts.
        called: by layer what users call it.
        reasons: by layer why it cannot, "" where it can.
        what: what they are to become, as in "cannot be low_rank".

    Raises:
        InputError: a text means no layer, or none that can.
        NothingToPruneError: no layer can.
    """
    wanted = selectors("layers", layers)
    if not wanted:
        raise InputError("layers is empty: name some, or leave it out for all that can be two")
    free = [layer for layer, reason in reasons.items() if not reason]
    if all(selector.text == "*" for selector in wanted):
        if not free:
            told = "\n".join(f"  {layer}: {reason}" for layer, reason in list(reasons.items())[:10])
            raise NothingToPruneError(
                f"no layer of this model can {what}; what was found:\n"
                f"{told or '  no linear layer, convolution or embedding'}"
            )
        return free
    found: dict[str, None] = {}
    for selector in wanted:
        meant = [name for name, own in called.items() if any(map(selector.fits_path, own))]
        if not meant:
            names = [name for own in called.values() for name in own]
            raise InputError(
                f"layers: the model has no layer {selector.text!r} that could be two"
                f"{near(selector.text, [*names, *patterns_of_places(names)])}"
            )
        able = [layer for layer in meant if not reasons[layer]]
        if not able:
            raise InputError(f"layers: {meant[0]} cannot {what}: {reasons[meant[0]]}")
        found.update(dict.fromkeys(able))
    return list(found)
