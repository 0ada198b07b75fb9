"""The sabotages of `sabotages.txt`, and how they are put in.

    a slice forgets its stop                            its name
      in passes.structural:_cut, seen by channel_slice  the function, and networks to try first
      - state.literal(node, ("stop", dim), ...)         a piece of its source
      + pass                                            what takes its place

`operator NAME` stands for a line of the operator table. A piece that does not occur exactly once is
an error, so that the file follows the source.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from fxprune.passes import operators


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One deliberate mistake."""

    name: str
    place: str
    old: str
    new: str
    seen_by: str = ""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While the block runs, the function has the mistake, for everyone who holds it."""
        if self.place.startswith("operator "):
            with self._in_operator(self.place.removeprefix("operator ")):
                yield
            return
        function = self.function()
        code = function.__code__
        function.__code__ = self.code(function)
        try:
            yield
        finally:
            function.__code__ = code

    def function(self) -> FunctionType:
        """The function that is changed."""
        module, _, path = self.place.partition(":")
        found: Any = import_module(f"fxprune.{module}")
        for part in path.split("."):
            found = inspect.getattr_static(found, part)
        return inspect.unwrap(getattr(found, "__func__", found))

    def code(self, function: FunctionType) -> CodeType:
        """The code of the changed function."""
        source = self.changed(textwrap.dedent(inspect.getsource(function)))
        module = compile(source, f"<{self.name}>", "exec")
        return next(
            item
            for item in module.co_consts
            if isinstance(item, CodeType) and item.co_name == function.__name__
        )

    def changed(self, source: str) -> str:
        """A source with the mistake."""
        count = source.count(self.old)
        assert count == 1, f"{self.name}: {self.old!r} occurs {count} times in {self.place}"
        return source.replace(self.old, self.new)

    @contextmanager
    def _in_operator(self, name: str) -> Iterator[None]:
        right = operators.OPERATORS[name]
        wrong = operators.parse(
            name,
            self.changed(right.text),
            macs=" ".join(right.macs),
            linear=" ".join(map(str, right.linear)),
        )
        operators._operators[name] = wrong
        try:
            yield
        finally:
            operators._operators[name] = right


def _read(text: str) -> tuple[Sabotage, ...]:
    found = []
    for entry in text.strip().split("\n\n"):
        name, place, old, new = entry.splitlines()
        place, _, seen_by = place.removeprefix("  in ").partition(", seen by ")
        found.append(Sabotage(name, place, old.removeprefix("  - "), new[4:], seen_by))
    return tuple(found)


SABOTAGES = _read((Path(__file__).parent / "sabotages.txt").read_text())
