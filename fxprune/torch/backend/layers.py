"""Layers that mask their own parameters and inputs: subclasses of their own classes.

So do other modules that mask what they own.

Whatever calls such a layer, in a forward of the whole model or by hand, sees it gated. Parameters
keep their names, and what the layer is asked for by name is not masked.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxprune.torch.backend import masked_forms
from fxprune.torch.backend.derived import base_of, derived, state_of
from fxprune.torch.frontend.walk import modules_in
from fxprune.torch.gates.module import Gates

GATES = "_fxprune_gates"
"""Where a gated module keeps the gates that it asks for masks."""
_EDITS = "_fxprune_edits"


@dataclass(frozen=True, slots=True)
class Masked:
    """A function of `masked_forms` on an array, the mask of a number and more arguments."""

    function: Callable[..., Tensor]
    number: int
    arguments: tuple[Any, ...] = ()

    def __call__(self, array: Tensor, gates: Gates) -> Tensor:
        return self.function(array, gates.number(self.number), *self.arguments)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The masked form of a layer: a function of the layer, its input, masks and their axes.

    `repeats` are by mask, as `masked_forms.stretched` takes them; empty where nothing is repeated.
    """

    function: Callable[..., Tensor]
    numbers: tuple[int, ...]
    dims: tuple[int, ...]
    repeats: tuple[tuple[int, ...], ...]

    def __call__(self, layer: nn.Module, x: Tensor, gates: Gates) -> Tensor:
        masks = tuple(
            masked_forms.stretched(gates.number(number), x, dim, *repeats)
            if repeats
            else gates.number(number)
            for number, dim, repeats in zip(self.numbers, self.dims, self.repeats, strict=True)
        )
        return self.function(layer, x, masks, self.dims)


@dataclass(frozen=True, slots=True)
class LayerEdits:
    """What gates do to a layer, wherever it is called."""

    inputs: tuple[Masked, ...] = ()
    parameters: tuple[tuple[str, tuple[Masked, ...]], ...] = ()
    statistics: Statistics | None = None


class GatesReference:
    """Gates that a module refers to without owning them: no child, no key of its state_dict."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates


def number(held: GatesReference, index: int) -> Tensor:
    """One mask, as a call that a graph can hold."""
    return held.gates.number(index)


def gate_layer(layer: nn.Module, edits: LayerEdits, gates: Gates) -> None:
    """Let a layer mask its parameters and input."""
    layer.__dict__[GATES] = GatesReference(gates)
    layer.__class__ = _subclass(type(layer), edits)


def ungate_modules(model: nn.Module) -> None:
    """Give back their own classes to all modules of a model that refer to gates."""
    for module in modules_in(model):
        if module.__dict__.pop(GATES, None) is not None:
            module.__class__ = base_of(type(module))


def _subclass(kind: type[nn.Module], edits: LayerEdits) -> type[nn.Module]:
    """Of a class and edits there is one class."""
    if (kind, edits) not in _CLASSES:
        _CLASSES[kind, edits] = _new_subclass(kind, edits)
    return _CLASSES[kind, edits]


_CLASSES: dict[tuple[type[nn.Module], LayerEdits], type[nn.Module]] = {}


def _new_subclass(kind: type[nn.Module], edits: LayerEdits) -> type[nn.Module]:
    own_forward: Callable[..., Any] = kind.forward

    @functools.wraps(own_forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        gates: Gates = self.__dict__[GATES].gates
        if edits.inputs or edits.statistics:
            x, *rest = args if args else (kwargs.pop("input"),)
            for masked in edits.inputs:
                x = masked(x, gates)
            if edits.statistics is not None:
                return edits.statistics(self, x, gates)
            args = (x, *rest)
        own = self._parameters
        masked_parameters: dict[str, Any] = {}
        for name, several in edits.parameters:
            parameter = own[name]
            for masked in several:
                parameter = masked(parameter, gates)  # type: ignore[assignment, arg-type]
            masked_parameters[name] = parameter
        return own_forward(_with_parameters(self, kind, masked_parameters), *args, **kwargs)

    return derived(kind, forward=forward, __reduce_ex__=_reduce, **{_EDITS: edits})


def _with_parameters(
    layer: nn.Module, kind: type[nn.Module], parameters: Mapping[str, Any]
) -> nn.Module:
    """A layer of class `kind` with some other parameters, and else all that `layer` has."""
    twin = kind.__new__(kind)
    twin.__dict__ = {**layer.__dict__, **parameters}  # found before those in `_parameters`
    return twin


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    kind = type(self)
    return _rebuilt, (base_of(kind), getattr(kind, _EDITS)), state_of(self)


def _rebuilt(kind: type[nn.Module], edits: LayerEdits) -> nn.Module:
    layer = kind.__new__(kind)
    layer.__class__ = _subclass(kind, edits)
    return layer
