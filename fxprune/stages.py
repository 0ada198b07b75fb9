"""How far long work is, told through logging: the command line shows it as a bar."""

import logging
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

PROGRESS_LOG = logging.getLogger("fxprune.progress")
"""Its records, of level DEBUG, have the attributes `what`, `done` and `total` (None: unknown)."""

T = TypeVar("T")


def stage(what: str) -> None:
    """Say what is done from here on."""
    _tell(what, 0, None)


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Go through `items`, and say before each how many are done.

    >>> [item.upper() for item in track(["a", "b"], "capitals")]
    ['A', 'B']
    """
    total = len(items) if isinstance(items, Sized) else None
    done = 0
    for item in items:
        _tell(what, done, total)
        yield item
        done += 1
    _tell(what, done, done)


def _tell(what: str, done: int, total: int | None) -> None:
    facts = {"what": what, "done": done, "total": total}
    PROGRESS_LOG.debug("%s: %d of %s", what, done, total or "?", extra=facts)
