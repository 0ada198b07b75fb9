"""What a gated or folded module remembers about itself, kept in its `meta`."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from fxprune.clocks import Timed
from fxprune.errors import InputError
from fxprune.passes.analyse import Analysis
from fxprune.torch.backend.configuration import ConfigurationRule
from fxprune.torch.frontend.program import Program
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.frontend.walk import named_modules
from fxprune.torch.gates.module import PREFIX, Gates
from fxprune.torch.wrapping import check_module, unwrapped

_KEY = "_fxprune_record"


@dataclass(frozen=True, slots=True)
class FoldStep:
    """One fold: the keep-set as tuples of kept indices, and how the groups were found.

    `taken` are the layers that were taken out of lists after it; `configuration` are the numbers,
    by dotted name, that the model's has since. `pairs` are the layers that were two, with the form.
    """

    kept: Mapping[str, tuple[int, ...]]
    ignored: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    scatter: bool = False
    taken: tuple[str, ...] = ()
    configuration: Mapping[str, int] = field(default_factory=dict)
    pairs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """The facts behind a module.

    `history` lists the folds since the original constructor; `costs_before` are those of the
    module before the first fold. `reached` says, of a folded module, what it costs by the names of
    `targets`; `configuration` how that of the model follows. `pairs` are the layers that are two.
    `method` is by what positions close. `times` is what a target asks of the whole model's time,
    as the user wrote it, `timed` what measuring has found of it.
    """

    source: str
    examples: tuple[Arguments, ...]
    program: Program
    analysis: Analysis
    ignored: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    scatter: bool = False
    history: tuple[FoldStep, ...] = ()
    costs_before: Mapping[str, int] | None = None
    targets: Mapping[str, float] | None = None
    reached: Mapping[str, float] | None = None
    configuration: tuple[ConfigurationRule, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    times: Mapping[str, float] = field(default_factory=dict)
    timed: Timed | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Record":
        return self  # nothing in it changes

    def __reduce__(self) -> tuple[Any, ...]:
        """As bytes, so that the user's model in a pickle needs no fxprune."""
        values = tuple(getattr(self, item.name) for item in fields(self))
        return bytes, (pickle.dumps(values),)


def attach(module: nn.Module, record: Record | None) -> None:
    """Let a module remember its record, or forget it."""
    module.__dict__[_KEY] = record
    if record is None:
        del module.__dict__[_KEY]


def record_of(module: nn.Module) -> Record | None:
    """The record of a module, None if fxprune did not make it."""
    record = getattr(module, "__dict__", {}).get(_KEY)
    if isinstance(record, bytes):  # from a pickle
        record = Record(*pickle.loads(record))
        attach(module, record)
    return record if isinstance(record, Record) else None


def inputs_taken(module: nn.Module) -> int:
    """How many of the items of a batch a module takes: as many as its examples have, else one."""
    record = record_of(module)
    return len(record.examples[0]) if record else 1


def traced_part(module: nn.Module) -> tuple[str, nn.Module]:
    """The gated or folded module in `module`, and its path: itself, or the one that `scope` named.

    Raises:
        InputError: there are several.
    """
    module = unwrapped(module)
    if record_of(module) is not None:
        return "", module
    parts = [(path, part) for path, part in named_modules(module) if record_of(part) is not None]
    if len(parts) > 1:
        paths = ", ".join(path for path, _ in parts)
        raise InputError(f"several parts were prepared ({paths}): pass one of them")
    return parts[0] if parts else ("", module)


def is_gated(module: nn.Module) -> bool:
    """Whether a traced module has its gates: if not, it is folded."""
    return hasattr(module, PREFIX)


def gates_of(gated: nn.Module) -> Gates:
    """The gates of a gated module.

    Raises:
        InputError: the module has none.
    """
    check_module("gated", gated)
    _, gated = traced_part(gated)
    gates = getattr(gated, PREFIX, None)
    if not isinstance(gates, Gates):
        kind = "a folded module" if record_of(gated) else f"a plain {type(gated).__name__}"
        raise InputError(f"gated must be what fxprune.prepare returns, got {kind}")
    return gates


def gated_record(gated: nn.Module) -> tuple[Gates, Record]:
    """Gates and record of a gated module.

    Raises:
        InputError: the module is not gated.
    """
    gates, record = gates_of(gated), record_of(traced_part(gated)[1])
    assert record is not None
    return gates, record
