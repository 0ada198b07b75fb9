"""What random networks are made of: steps, which are lines of Python, and the programs they form.

A step is drawn for the place that it stands at, so it always fits. Alternatives are listed with
the plainest first, which is where Hypothesis shrinks to. What is drawn is the text: a network is
made by running it, so the source that a failure prints is the network that failed.
"""

import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch.weights import randomise

Memory = Literal["own", "view of own", "shared", "view of shared"]
"""Whether others read the same memory later, and whether it is seen through a view."""


@dataclass(frozen=True, slots=True)
class Context:
    """What reaches a step: channels, the `size` of the axes beside them, and its memory.

    An image has (batch, channels, *size), a sequence (batch, length, channels). `kinds` and
    `depth` say what may nest inside a step, and how deep.
    """

    channels: int
    size: tuple[int, ...]
    kinds: tuple["StepKind", ...] = ()
    depth: int = 0
    memory: Memory = "own"

    @property
    def dims(self) -> int:
        """The number of axes beside batch and channels."""
        return len(self.size)

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.size[0]

    @property
    def divisors(self) -> list[int]:
        """The numbers of equal groups that the channels form, the whole excluded."""
        return [n for n in range(2, self.channels + 1) if self.channels % n == 0]

    @property
    def groupings(self) -> list[int]:
        """Numbers of groups for a norm; several groups of several channels are there twice."""
        return [1, *self.divisors, *self.divisors[:-1]]


@dataclass(frozen=True, slots=True)
class Step:
    """`code` computes x from x. What it calls `self.name` is in `parts`: an expression, or a block.

    An expression that begins with `nn.` makes a module or parameter, a whole number an attribute,
    any other a buffer.
    """

    code: str
    after: Context
    parts: Mapping[str, "str | Block"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """A module that runs steps in a row, given `arguments`, the first of which is x."""

    steps: tuple[Step, ...]
    arguments: tuple[str, ...] = ("x",)


Build = Callable[[DrawFn, Context], Step]


@dataclass(frozen=True, slots=True)
class StepKind:
    """A kind of step: how it is drawn, where it fits, whether the size of the other axes stays.

    `result` says whether what it returns is a new array, maybe a view, or what it was given.
    """

    build: Build
    fits: Callable[[Context], bool]
    keeps_size: bool = True
    result: Literal["new", "view", "same"] = "new"


@dataclass(frozen=True, slots=True)
class Family:
    """Networks on one sort of data: how they start, their kinds of steps by name, how they end.

    `stem` is given the names of the inputs and returns an expression for each of them, which may
    use `generator`; `head` is given the stem and the place before the end.
    """

    stem: Callable[[DrawFn, tuple[str, ...]], tuple[Step, tuple[str, ...]]]
    kinds: Mapping[str, StepKind]
    head: Callable[[DrawFn, Step, Context], Step]


def always(place: Context) -> bool:
    """What fits everywhere."""
    return True


def nests(place: Context) -> bool:
    """What has chains inside it."""
    return place.depth > 0


def several(place: Context) -> bool:
    """What tells channels apart."""
    return place.channels > 1


def even(place: Context) -> bool:
    """What halves the channels."""
    return place.channels % 2 == 0


def spelled(
    draw: DrawFn,
    after: Context,
    spellings: Sequence[str],
    parts: Mapping[str, str | Block] | None = None,
) -> Step:
    """A step in one of several spellings."""
    return Step(draw(st.sampled_from(spellings)), after, parts or {})


def chain(draw: DrawFn, place: Context, limit: int) -> list[Step]:
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


def _memory_after(kind: StepKind, place: Context) -> Memory:
    if kind.result == "new":
        return "own"
    return place.memory if kind.result == "same" else _view(place.memory)


def _view(memory: Memory) -> Memory:
    return "view of own" if memory in ("own", "view of own") else "view of shared"


def inside(draw: DrawFn, place: Context) -> tuple[list[Step], Context]:
    """A chain inside a step, that keeps the size of the other axes."""
    kinds = tuple(kind for kind in place.kinds if kind.keeps_size)
    memory: Memory = "shared" if place.memory in ("own", "shared") else "view of shared"
    within = replace(place, kinds=kinds, depth=place.depth - 1, memory=memory)
    steps = chain(draw, within, limit=2)
    after = steps[-1].after if steps else place
    return steps, replace(place, channels=after.channels)


# Text --------------------------------------------------------------------------------------------

HEADER = """\
import math

import torch
import torch.nn.functional as F
from torch import nn
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A whole network: its block, expressions for its inputs, the seed of inputs and weights."""

    block: Block
    inputs: tuple[str, ...]
    seed: int

    def source(self) -> str:
        """Python that defines `network` and `inputs`; it needs torch only."""
        last = (
            f"generator = torch.Generator().manual_seed({self.seed})\n"
            f"inputs = ({' '.join(f'{each},' for each in self.inputs)})\n"
            "network = Network().double().eval()\n"
            "randomise(network, generator)"
        )
        classes = _Classes()
        classes.add(self.block, "Network")
        return "\n\n".join([HEADER, *classes.texts, inspect.getsource(randomise), last]) + "\n"

    def __str__(self) -> str:
        classes = _Classes()
        classes.add(self.block, "Network")
        return "\n".join(classes.texts)


class _Classes:
    """The text of a block as a class, after those of the blocks in it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.inner = 0

    def add(self, block: Block, name: str) -> None:
        """Write a block as a class; parts of one name are numbered."""
        made: list[str] = []
        code: list[str] = []
        taken: set[str] = set()
        for step in block.steps:
            names: dict[str, str] = {}
            for part, expression in step.parts.items():
                if not re.search(rf"self\.{part.partition('.')[0]}\b", step.code):
                    continue
                if "." not in part:
                    names[part] = _fresh(part, taken)
                made.append(_renamed(self._made(part, expression), names))
            code += _renamed(step.code, names).splitlines()
        if not code or not code[-1].startswith("return"):
            code.append("return x")
        lines = [f"class {name}(nn.Module):"]
        if made:
            lines += ["    def __init__(self):", "        super().__init__()"]
            lines += [f"        {line}" for line in made] + [""]
        lines += [f"    def forward(self, {', '.join(block.arguments)}):"]
        lines += [f"        {line}" for line in code]
        self.texts.append("\n".join(lines) + "\n")

    def _made(self, part: str, expression: "str | Block") -> str:
        if isinstance(expression, Block):
            self.inner += 1
            name = f"Block{self.inner}"
            self.add(expression, name)
            return f"self.{part} = {name}()"
        if "." in part or expression.startswith("nn.") or expression.isdigit():
            return f"self.{part} = {expression}"
        return f'self.register_buffer("{part}", {expression})'


def _fresh(name: str, taken: set[str]) -> str:
    numbered = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
    fresh = next(each for each in numbered if each not in taken)
    taken.add(fresh)
    return fresh


def _renamed(code: str, names: Mapping[str, str]) -> str:
    def fresh(match: re.Match[str]) -> str:
        return match[1] + names.get(match[2], match[2])

    return re.sub(r'(self\.register_buffer\("|self\.)(\w+)', fresh, code)
