"""Functions that torch.jit has compiled: one call each, of which a graph sees nothing inside."""

from dataclasses import dataclass, field
from typing import Any

import torch

from fxprune.torch.frontend.packing import Imported, imported


@dataclass(frozen=True)
class Scripted:
    """Calls a scripted function; it goes by the name that it was scripted under."""

    function: Any
    __name__: str = field(init=False)

    def __post_init__(self) -> None:
        home, _, name = self.function.qualified_name.removeprefix("__torch__.").rpartition(".")
        for attribute in ("__name__", "__qualname__"):
            object.__setattr__(self, attribute, name)
        object.__setattr__(self, "__module__", home)

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (imported(self.function, self.__module__, self.__name__),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _found(place: Imported) -> Scripted:
    return Scripted(place.found())


def is_scripted(value: Any) -> bool:
    """Whether a value is a scripted function."""
    return isinstance(value, torch.jit.ScriptFunction)
