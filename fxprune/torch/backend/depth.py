"""Layers of a list that only hand on what they are given go out of it.

    layers.0, layers.1 (nothing left), layers.2        layers.0, layers.1

What comes later moves up: names of parameters, numbers that layers keep of themselves, lists in the
configuration with an entry for each layer, and how many layers it says there are. The shorter model
is recorded and compared with the longer one, line for line.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from torch import fx, nn

from fxprune.errors import FxpruneError
from fxprune.torch.backend.constructor import (
    Constructor,
    is_configuration,
    set_number,
    shapes_of,
    whole_numbers,
)
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.elimination import Name
from fxprune.torch.backend.generated import graph_run_by
from fxprune.torch.backend.outline import Recording
from fxprune.torch.backend.places import joined, lengths_of_uneven_lists, numbered_in
from fxprune.torch.backend.proof import first_difference, normal_form
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.walk import named_modules


def idle_layers(model: nn.Module) -> list[list[str]]:
    """The layers of each list that only hand on what they are given, where others do more."""
    found = []
    for path, layers in named_modules(model):
        if isinstance(layers, nn.ModuleList | nn.Sequential):
            idle = [name for name, layer in layers.named_children() if _hands_on(layer)]
            if 0 < len(idle) < len(layers):
                found.append([joined(path, name) for name in idle])
    return found


def shorter(small: nn.Module, full: Recording) -> tuple[nn.Module, tuple[str, ...]]:
    """A folded model without the layers that hand on what they are given, and which these were.

    `full` is the model before. Parameters stay the same objects.
    """
    found, taken = small, list[str]()
    for paths in idle_layers(small):
        short = without_layers(small, full.module, [*taken, *paths])
        if _compute_alike(small, short, full):
            found, taken = short, [*taken, *paths]
    return found, tuple(taken)


def without_layers(small: nn.Module, full: nn.Module, paths: Iterable[str]) -> nn.Module:
    """A copy without some layers of lists, the rest moved up; tensors are shared."""
    short = copy_module(small, share_tensors=True)
    for parent, gone in _by_list(paths).items():
        _number_by_layer(short, full, parent, gone)
        layers = short.get_submodule(parent)
        before = list(layers._modules)
        left = [layer for name, layer in layers._modules.items() if name not in gone]
        names = moved_up(before, gone)
        layers._modules = dict(zip(names.values(), left, strict=True))
        follow_depth(short, parent, [name in gone for name in before])
    return short


def moved_up(names: Iterable[str], gone: Iterable[str]) -> dict[str, str]:
    """The names that are left in a list of layers, which may count them, and what they are now."""
    names, gone = list(names), set(gone)
    left = [name for name in names if name not in gone]
    counted = names == [str(number) for number in range(len(names))]
    return {name: str(number) if counted else name for number, name in enumerate(left)}


def renamed(path: str, model: nn.Module, taken: Iterable[str]) -> str | None:
    """What a path of `model` is called once layers were taken out; None for what is in them."""
    by_list, parts = _by_list(taken), path.split(".")
    for place in range(len(parts)):
        parent = ".".join(path.split(".")[:place])
        if parent in by_list:
            now = moved_up(model.get_submodule(parent)._modules, by_list[parent])
            if parts[place] not in now:
                return None
            parts[place] = now[parts[place]]
    return ".".join(parts)


def _by_list(layers: Iterable[str]) -> dict[str, list[str]]:
    """The names of layers by the list that they are in."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        parent, _, name = layer.rpartition(".")
        found.setdefault(parent, []).append(name)
    return found


def _number_by_layer(short: nn.Module, full: nn.Module, parent: str, gone: Iterable[str]) -> None:
    """New numbers for what counts layers whatever is left in them, since lists say their kinds."""
    now = moved_up(full.get_submodule(parent)._modules, gone)
    for numbered in numbered_in(full):
        for path in numbered.paths:
            inside = path.removeprefix(f"{parent}.") if parent else path
            layer = inside.partition(".")[0]
            if numbered.layers == parent and not numbered.is_uniform and layer in now:
                short.get_submodule(path).__dict__[numbered.attribute] = int(now[layer])


# What the configuration says -------------------------------------------------------------------


def follow_depth(model: nn.Module, path: str, gone: Sequence[bool]) -> None:
    """Let the configuration of a model say how many layers the list at `path` has, if it does.

    What it says of each layer in a list of its own goes with the layers that are `gone`.
    """
    oracle = Constructor.named_by(model)
    found = None if oracle is None else _with_fewer_layers(oracle, path, gone)
    if oracle is None or found is None:
        return
    name, made = found
    if _names_in(model, path) <= _names_in(made, path):
        set_number(oracle.config, name, len(gone) - sum(gone))
        _shorten(oracle.config, gone)


def sayable_layers(model: nn.Module, layers: Iterable[str]) -> set[str]:
    """Those of some layers without each of which a configuration can say a model of the others.

    All of them if no configuration makes the model. Where layers are of one kind, one is tried for
    all.
    """
    oracle = Constructor.of(model)
    if oracle is None:
        return set(layers)
    found: set[str] = set()
    for path, names in _by_list(layers).items():
        entries = dict(model.get_submodule(path).named_children())
        shapes = [shapes_of(layer) for layer in entries.values()]
        uneven = len(entries) in lengths_of_uneven_lists(model)
        alike = not uneven and all(each == shapes[0] for each in shapes)
        for name in names[:1] if alike else names:
            gone = [entry == name for entry in entries]
            made = _with_fewer_layers(oracle, path, gone)
            left = [own for own, goes in zip(shapes, gone, strict=True) if not goes]
            others = made[1].get_submodule(path).children() if made else ()
            if left == [shapes_of(layer) for layer in others]:
                found.update(joined(path, each) for each in (names if alike else [name]))
    return found


def _with_fewer_layers(
    oracle: Constructor, path: str, gone: Sequence[bool]
) -> tuple[Name, nn.Module] | None:
    """The number of a configuration that counts the layers of a list, and a model of fewer."""
    left = len(gone) - sum(gone)
    for name, value in whole_numbers(oracle.config):
        if value != len(gone):
            continue
        config = copy.deepcopy(oracle.config)
        set_number(config, name, left)
        _shorten(config, gone)
        made = replace(oracle, config=config).made({})
        layers = dict(made.named_modules()).get(path) if made is not None else None
        if made is not None and isinstance(layers, Sized) and len(layers) == left:
            return name, made
    return None


def _shorten(config: Any, gone: Sequence[bool]) -> None:
    """Leave out what lists say of some layers, in a configuration and those inside of it."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == len(gone):
            left = [item for item, goes in zip(value, gone, strict=True) if not goes]
            setattr(config, name, type(value)(left))
        elif is_configuration(value):
            _shorten(value, gone)


def _names_in(model: nn.Module, path: str) -> set[str]:
    return {name for name, _ in model.get_submodule(path).named_parameters()}


# Whether they compute the same -----------------------------------------------------------------


def _hands_on(layer: nn.Module) -> bool:
    """Whether a layer has no parameters, and code that returns what it was given."""
    graph = graph_run_by(layer)
    if graph is None or next(layer.parameters(), None) is not None:
        return False
    returned = [x for x in leaves_of(graph.output_node().args) if isinstance(x, fx.Node)]
    return bool(returned) and all(node.op == "placeholder" for node in returned)


def _compute_alike(small: nn.Module, short: nn.Module, full: Recording) -> bool:
    """Whether two models with the same tensors record the same lines."""
    names = _names_by_tensor(small)
    forms = []
    for model in (small, short):
        try:
            ways = full.of_another(model)
        except FxpruneError:
            return False
        forms.append({way: normal_form(model, own, names) for way, own in ways.items()})
    one, other = forms
    return one.keys() == other.keys() and all(
        first_difference(one[way], other[way]) is None for way in one
    )


def _names_by_tensor(model: nn.Module) -> Mapping[int, str]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {id(tensor): name for name, tensor in tensors.items()}
