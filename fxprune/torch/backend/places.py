"""Which numbers tell the layers of a list which of them they are? Those that stay count on.

    layers.0.attn.layer_idx 0    (gone)
    layers.1.attn.layer_idx 1    0
    layers.2.attn.layer_idx 2    1

A cache finds by such a number what a layer has kept, and asks the first how much there is already.
So without the attention of the first layer every position would be the first one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxprune.torch.backend.constructor import is_configuration
from fxprune.torch.frontend.walk import modules_in, named_modules


@dataclass(frozen=True, slots=True)
class Numbered:
    """Modules at one place in the layers of a list, which keep the number of their layer."""

    layers: str
    paths: tuple[str, ...]
    attribute: str
    is_uniform: bool
    """Whether all layers have one, and the configuration says the same of all of them."""


def numbered_in(model: nn.Module) -> Iterator[Numbered]:
    """All such modules of a model, by list, place and attribute."""
    uneven = lengths_of_uneven_lists(model)
    for path, layers in named_modules(model):
        if isinstance(layers, nn.ModuleList | nn.Sequential) and len(layers) > 1:
            for (place, attribute), found in _numbers(list(layers)).items():
                if len(found) > 1 and all(number == layer for layer, number in found.items()):
                    uniform = len(found) == len(layers) and len(layers) not in uneven
                    paths = (joined(path, str(layer), place) for layer in found)
                    yield Numbered(path, tuple(paths), attribute, uniform)


def places(model: nn.Module, paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by their place in layers that differ in nothing but their number, such as
    `layers.*.attn`; all others by themselves."""
    lists = {each.layers for each in numbered_in(model) if each.is_uniform}
    alike = {path for path in lists if _are_alike(list(model.get_submodule(path).children()))}
    found: dict[str, list[str]] = {}
    for path in paths:
        inside = next((each for each in alike if path.startswith(f"{each}.")), None)
        place = path
        if inside is not None:
            place = joined(inside, "*", path.removeprefix(f"{inside}.").partition(".")[2])
        found.setdefault(place, []).append(path)
    return found


def _are_alike(layers: Sequence[nn.Module]) -> bool:
    """Whether layers are made of the same classes."""
    kinds = [[(path, type(module)) for path, module in named_modules(layer)] for layer in layers]
    return all(each == kinds[0] for each in kinds[1:])


def first_ones(model: nn.Module) -> list[str]:
    """The modules that must stay, since others cannot be numbered anew: the first of each place."""
    return [numbered.paths[0] for numbered in numbered_in(model) if not numbered.is_uniform]


def count_on(full: nn.Module, small: nn.Module, numbering: nn.Module | None = None) -> None:
    """Number anew what is left in `small` of the numbered modules of `full`.

    The numbers are written into `numbering` instead, if that is given.
    """
    for numbered in list(numbered_in(full)):
        left = [path for path in numbered.paths if is_left(full, small, path)]
        if numbered.is_uniform:
            for number, path in enumerate(left):
                module = (numbering or small).get_submodule(path)
                module.__dict__[numbered.attribute] = number


def is_left(full: nn.Module, small: nn.Module, path: str) -> bool:
    """Whether a module is there still; what has lost all of its parameters went with a branch."""
    try:
        left = small.get_submodule(path)
    except AttributeError:
        return False
    return _has_parameters(left) or not _has_parameters(full.get_submodule(path))


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _numbers(layers: Sequence[nn.Module]) -> dict[tuple[str, str], dict[int, int]]:
    """The whole numbers that modules of layers keep, by place and attribute, then by layer."""
    found: dict[tuple[str, str], dict[int, int]] = {
        (place, name): {0: 0}
        for place, module in named_modules(layers[0])
        for name, value in module.__dict__.items()
        if type(value) is int and value == 0
    }
    for index, layer in enumerate(layers[1:], 1) if found else ():
        modules = dict(named_modules(layer))
        for place, name in found:
            value = vars(modules[place]).get(name) if place in modules else None
            if type(value) is int and value:
                found[place, name][index] = value
    return found


def lengths_of_uneven_lists(model: nn.Module) -> set[int]:
    """The lengths of lists in configurations that do not say the same of all layers."""
    held = (value for module in modules_in(model) for value in module.__dict__.values())
    said = (value for item in held if is_configuration(item) for value in vars(item).values())
    return {len(value) for value in said if isinstance(value, list | tuple) and _is_uneven(value)}


def _is_uneven(value: Sequence[Any]) -> bool:
    return any(item != value[0] for item in value[1:])


def joined(*parts: str) -> str:
    """A dotted path of those parts that are not empty."""
    return ".".join(part for part in parts if part)
