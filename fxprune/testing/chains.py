"""What random networks are made of: steps that print as a line of Python, and chains of them.

A step is drawn for the place that it stands at, so it always fits. Alternatives are listed with
the plainest first, which is where Hypothesis shrinks to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

Memory = Literal["own", "view of own", "shared", "view of shared"]
"""Whether others read the same memory later, and whether it is seen through a view."""


@dataclass(frozen=True, slots=True)
class Place:
    """What reaches a step: channels, the `size` of the axes beside them, and its memory.

    An image has (batch, channels, height, width), a sequence (batch, length, channels). `kinds`
    and `depth` say what may nest inside a step, and how deep.
    """

    channels: int
    size: tuple[int, ...]
    kinds: tuple["Kind", ...] = ()
    depth: int = 0
    memory: "Memory" = "own"

    @property
    def height(self) -> int:
        """Rows of an image."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Columns of an image."""
        return self.size[1]

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.size[0]

    @property
    def divisors(self) -> list[int]:
        """The numbers of equal groups that the channels form, the whole excluded."""
        return [n for n in range(2, self.channels + 1) if self.channels % n == 0]


class Step(nn.Module):
    """One line of a network: `text` says it, `run(self, x)` does it, `after` is what it returns."""

    def __init__(
        self,
        text: str,
        after: Place,
        run: Callable[[Any, Any], Any],
        parts: Mapping[str, nn.Module | Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.text, self.after, self.run = text, after, run
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Any) -> Any:
        """Run the line."""
        return self.run(self, x)

    def __repr__(self) -> str:
        return self.text


Build = Callable[[DrawFn, Place], Step]
Spelling = tuple[str, Callable[[Any, Any], Any]]
"""How a line is written, and what it does."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step: how it is drawn, where it fits, whether the size of the other axes stays.

    `result` says whether what it returns is a new array, maybe a view, or what it was given.
    """

    build: Build
    fits: Callable[[Place], bool]
    keeps_size: bool = True
    result: Literal["new", "view", "same"] = "new"


def always(place: Place) -> bool:
    """What fits everywhere."""
    return True


def nests(place: Place) -> bool:
    """What has chains inside it."""
    return place.depth > 0


def several(place: Place) -> bool:
    """What tells channels apart."""
    return place.channels > 1


def even(place: Place) -> bool:
    """What halves the channels."""
    return place.channels % 2 == 0


def parameter(*shape: int) -> nn.Parameter:
    """A parameter whose values come later."""
    return nn.Parameter(torch.zeros(shape))


def spelled(
    draw: DrawFn,
    after: Place,
    spellings: list[Spelling],
    parts: Mapping[str, nn.Module | Tensor] = MappingProxyType({}),
) -> Step:
    """A step in one of several spellings."""
    text, run = draw(st.sampled_from(spellings))
    return Step(text, after, run, parts)


def chain(draw: DrawFn, place: Place, limit: int) -> list[Step]:
    """Up to `limit` steps in a row; it ends where no kind fits."""
    steps: list[Step] = []
    while len(steps) < limit and draw(st.integers(0, 3)):
        fitting = [kind for kind in place.kinds if kind.fits(place)]
        if not fitting:
            break
        kind = draw(st.sampled_from(fitting))
        steps.append(kind.build(draw, place))
        place = replace(steps[-1].after, memory=_memory_after(kind, place))
    return steps


def _memory_after(kind: Kind, place: Place) -> Memory:
    if kind.result == "new":
        return "own"
    return place.memory if kind.result == "same" else _view(place.memory)


def _view(memory: Memory) -> Memory:
    return "view of own" if memory in ("own", "view of own") else "view of shared"


def inside(draw: DrawFn, place: Place) -> tuple[nn.Sequential, Place]:
    """A chain inside a step, that keeps the size of the other axes."""
    kinds = tuple(kind for kind in place.kinds if kind.keeps_size)
    memory: Memory = "shared" if place.memory in ("own", "shared") else "view of shared"
    within = replace(place, kinds=kinds, depth=place.depth - 1, memory=memory)
    steps = chain(draw, within, limit=2)
    after = steps[-1].after if steps else place
    return nn.Sequential(*steps), replace(place, channels=after.channels)


def indented(step: nn.Module) -> str:
    """The lines of a step, as they are printed inside something."""
    return repr(step).replace("\n", "\n  ")


def inner_text(inner: nn.Module) -> str:
    """The lines of a chain inside a step."""
    return "".join(f"\n  {indented(step)}" for step in inner.children())


Example = Callable[[torch.Generator], Tensor]
"""An input for a network, drawn with a generator."""


@dataclass(frozen=True, slots=True)
class Family:
    """Networks on one sort of data: how they start, their kinds of steps by name, how they end.

    `stem` also says how an input is drawn; `head` is given the stem and the place before the end.
    """

    stem: Callable[[DrawFn], tuple[Step, Example]]
    kinds: Mapping[str, Kind]
    head: Callable[[DrawFn, Step, Place], Step]
