"""Models of one class, made from its configuration with other numbers, on the meta device.

What a constructor makes of a number is asked, not read: no list of families, and no names.
"""

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.torch.backend.derived import base_of, is_derived
from fxprune.torch.backend.elimination import Name

_log = logging.getLogger("fxprune")


@dataclass(frozen=True, slots=True)
class Constructor:
    """Makes models of one class on the meta device, from a configuration with other numbers."""

    kind: type[nn.Module]
    config: Any

    @classmethod
    def of(cls, model: nn.Module) -> "Constructor | None":
        """That of a model whose class takes its configuration alone; else None."""
        found = cls.named_by(model)
        made = None if found is None else found.made({})
        same = made is not None and made.state_dict().keys() == model.state_dict().keys()
        return found if same else None

    @classmethod
    def named_by(cls, model: nn.Module) -> "Constructor | None":
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
                set_number(config, name, value)
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
                set_number(config, name, value)
            if hasattr(config, "to_dict") and hasattr(config, "from_dict"):
                config.from_dict(config.to_dict())
        except Exception as error:
            _log.debug("no configuration with %s: %s", changes, error)
            return False
        return True

    def at(self, name: Name, written: Mapping[Name, int]) -> int:
        """A number of the configuration."""
        return written.get(name) or number_at(self.config, name)


def whole_numbers(config: Any, before: Name = ()) -> Iterator[tuple[Name, int]]:
    """The numbers above one that a configuration, and those in it, say."""
    for name, value in vars(config).items():
        if type(value) is int and value > 1:
            yield (*before, name), value
        elif is_configuration(value) and len(before) < 2:
            yield from whole_numbers(value, (*before, name))


def open_numbers(config: Any, before: Name = ()) -> Iterator[Name]:
    """The names of sizes that it leaves to the constructor."""
    for name, value in vars(config).items():
        if value is None and _SIZE.search(name):
            yield (*before, name)
        elif is_configuration(value) and len(before) < 2:
            yield from open_numbers(value, (*before, name))


_SIZE = re.compile("inner|inter|ff|dim|hidden|head|width|size")


def is_configuration(value: Any) -> bool:
    """Whether something is what models of Hugging Face libraries are made from."""
    return hasattr(value, "to_dict") and isinstance(getattr(value, "__dict__", None), dict)


def number_at(config: Any, name: Name) -> int:
    """A number, 0 where there is none."""
    for part in name:
        config = getattr(config, part)
    return int(config or 0)


def set_number(config: Any, name: Name, value: int) -> None:
    """Let a configuration say another number."""
    for part in name[:-1]:
        config = getattr(config, part)
    setattr(config, name[-1], value)


def numbers_kept_by(module: nn.Module) -> dict[str, Any]:
    """The numbers that a module keeps, and whether something is so."""
    kinds = (int, float, bool)
    return {
        name: value
        for name, value in module.__dict__.items()
        if type(value) in kinds and not name.startswith("_") and name != "training"
    }


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes of all tensors in a model's state, by name."""
    return {name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()}


def unsaved_tensors(model: nn.Module) -> list[str]:
    """The tensors that are in no checkpoint: buffers that are not persistent, and what classes of
    transformers leave out."""
    patterns = getattr(model, "_keys_to_ignore_on_save", None) or ()
    saved = {name for name in model.state_dict() if not any(re.search(p, name) for p in patterns)}
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [name for name, _ in tensors if name not in saved]
