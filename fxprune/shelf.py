"""Where do values of many batches wait? In memory as long as they are few, then in files.

So what goes through data several times needs no more memory for more data.
"""

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

IN_MEMORY = 1 << 30
"""How many bytes of arrays wait in memory; what is more goes to files in the temporary folder."""


class Shelf:
    """Things by number, to be taken and put back, as `with Shelf() as shelf` lasts.

    >>> with Shelf(most=0) as shelf:
    ...     shelf.put(0, {"x": 1})
    ...     shelf.take(0)
    {'x': 1}

    Args:
        most: how many bytes of arrays are held in memory.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = IN_MEMORY if most is None else most
        self._held: dict[int, tuple[Any, int]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fxprune-")
        self.numbers: list[int] = []

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        self._held.clear()
        self._folder.cleanup()

    def put(self, number: int, thing: Any) -> None:
        """Keep something until it is taken."""
        if number not in self.numbers:
            self.numbers.append(number)
        size = sum(array_bytes(thing))
        if sum(held for _, held in self._held.values()) + size < self._most:
            self._held[number] = thing, size
        else:
            self._file(number).write_bytes(pickle.dumps(thing, pickle.HIGHEST_PROTOCOL))

    def take(self, number: int) -> Any:
        """What was put there; it is gone from here."""
        if number in self._held:
            return self._held.pop(number)[0]
        file = self._file(number)
        thing = pickle.loads(file.read_bytes())
        file.unlink()
        return thing

    def _file(self, number: int) -> Path:
        return Path(self._folder.name, str(number))


def array_bytes(thing: Any) -> Iterator[int]:
    """The sizes of the arrays in a nest."""
    if isinstance(thing, Mapping):
        thing = list(thing.values())
    if isinstance(thing, list | tuple):
        for item in thing:
            yield from array_bytes(item)
    else:
        yield int(getattr(thing, "nbytes", 0))
