"""What a forward writes while it is recorded is undone: it holds arrays without data.

The modules of the model, and all that hangs on them, get back what they held. Of the globals of the
model's code only what is of a trace is taken out again: other news may be there to stay.
"""

import copy
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import Tensor, nn

from fxprune.torch.frontend.flags import TrainingFlag
from fxprune.torch.frontend.global_names import Container, Globals, look_again
from fxprune.torch.frontend.namespaces import is_own
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.numbers import TracedNumber
from fxprune.torch.frontend.owners import Kept
from fxprune.torch.frontend.walk import modules_in, named_modules

_OF_TORCH = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (dict, list, set, deque)


@contextmanager
def restored_state(model: nn.Module, found: Sequence[Globals]) -> Iterator[Kept]:
    """Undo what forward writes on the modules, and what it keeps of the trace in globals.

    What is handed out has in the end the attributes in which forward keeps arrays.
    """
    full, empty = _containers(modules_in(model))
    held = [(item, item.copy()) for item in full]
    kept: Kept = {}
    try:
        yield kept
    finally:
        held += [(item, _emptied(item)) for item in empty if item]
        if changed := [(now, before) for now, before in held if not _is_same(now, before)]:
            kept |= _kept_arrays(model, {id(item): before for item, before in held})
        for container, before in changed:
            _refill(container, before)
        for each in found:
            for container, before in each.changed():
                _take_out_traces(container, before)
                look_again(each)


def _kept_arrays(model: nn.Module, before: Mapping[int, Any]) -> Kept:
    """The attributes of modules in which there are other arrays, or buffers of other shapes."""
    found: Kept = {}
    for path, module in named_modules(model):
        old, buffers = before.get(id(module.__dict__)), before.get(id(module._buffers), {})
        if old is None or not isinstance(module._buffers, dict):
            continue  # new, or a scripted module, which keeps things elsewhere
        for name, value in module.__dict__.items():
            same = value is old.get(name)
            if same and not (isinstance(value, _CONTAINERS) and (value or id(value) in before)):
                continue  # no container, or one that was empty and is
            if name in _OF_TORCH:
                continue
            held = (before.get(id(old[name]), old[name]),) if name in old else ()
            if list(map(id, _arrays(value))) != list(map(id, _arrays(held))):
                found[path, name] = held
        for name, tensor in module._buffers.items():
            if getattr(buffers.get(name), "shape", ()) != getattr(tensor, "shape", ()):
                found[path, name] = (buffers.get(name),)
    return found


def _arrays(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor))


def forget(model: nn.Module, kept: Kept) -> None:
    """Let modules hold what they held before forward kept arrays in them, which may be stale."""
    modules = dict(named_modules(model))
    for (path, name), held in kept.items():
        if path not in modules:
            continue  # went with its branch
        own = modules[path]
        place = own._buffers if name in own._buffers else own.__dict__
        if name in place and held:
            place[name] = copy.copy(held[0])
        elif name in place:
            del place[name]


def _containers(modules: Sequence[nn.Module]) -> tuple[list[Container], list[Container]]:
    """The containers that hang on modules, by way of one another and of the model's objects.

    Those that hold something, and those that do not, as most.
    """
    known = set(map(id, modules))
    full: dict[int, Container] = {}
    empty: list[Container] = []
    pending: list[Any] = [module.__dict__ for module in modules]
    while pending:
        item = pending.pop()
        if id(item) in full:
            continue
        if isinstance(item, _CONTAINERS):
            full[id(item)] = item
        for inner in [x for x in _held_by(item) if type(x) not in _USUAL_ENDS]:
            kind = type(inner)
            if kind in _USUAL_CONTAINERS and not inner:
                empty.append(inner)
            elif kind is tuple:
                pending += [x for x in inner if type(x) not in _USUAL_ENDS]
            elif id(inner) not in known:
                pending.append(inner)
    return list(full.values()), empty


_ENDS = (bool, int, float, str, bytes, type(None), Tensor, type)
_USUAL_ENDS = frozenset((*_ENDS, nn.Parameter))
_USUAL_CONTAINERS = frozenset((*_CONTAINERS, OrderedDict))


def _emptied(container: Container) -> Container:
    """What a container was before it was filled."""
    before = container.copy()
    before.clear()
    return before


def _held_by(item: Any) -> Iterable[Any]:
    if isinstance(item, dict) or isinstance(item, Mapping):  # noqa: SIM101  (the first is quicker)
        return item.values()
    if isinstance(item, (*_CONTAINERS, tuple)):
        return item
    if isinstance(item, _ENDS):
        return ()
    return [vars(item)] if is_own(type(item)) and hasattr(item, "__dict__") else []


def _is_same(container: Any, before: Any) -> bool:
    """Whether a container holds the very objects that it held before, in their order."""
    if len(container) != len(before):
        return False
    if isinstance(container, set):
        return set(map(id, container)) == set(map(id, before))
    if isinstance(container, dict) and not all(map(is_, container.values(), before.values())):
        return False
    return all(map(is_, container, before))


def _refill(container: Any, before: Any) -> None:
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(before)


def _take_out_traces(container: Any, before: Any) -> None:
    if not isinstance(container, dict):
        if any(map(_is_traced, container)):
            _refill(container, before)
        return
    for key in [key for key, value in container.items() if value is not before.get(key)]:
        if not (_is_traced(container[key]) or _is_traced(key)):
            continue
        del container[key]
        if key in before:
            container[key] = before[key]


def _is_traced(value: Any) -> bool:
    """Whether a value is made of what only a trace has."""
    if isinstance(value, Tensor):
        return value.is_meta
    if isinstance(value, Mapping):
        return any(map(_is_traced, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_is_traced, value))
    return isinstance(value, TracedNumber | TrainingFlag)
