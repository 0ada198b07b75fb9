"""How far long work is, told through logging: the command line shows it as a bar."""

import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

STEPS_LOG = logging.getLogger("fxprune.steps")
"""Its records, of level DEBUG, have the attributes `what`, `done` and `total`."""

T = TypeVar("T")


def steps(items: Sequence[T], what: str) -> Iterator[T]:
    """Go through `items`, and say before each how many are done.

    >>> [item.upper() for item in steps(["a", "b"], "capitals")]
    ['A', 'B']
    """
    for done, item in enumerate(items):
        _tell(what, done, len(items))
        yield item
    _tell(what, len(items), len(items))


def _tell(what: str, done: int, total: int) -> None:
    facts = {"what": what, "done": done, "total": total}
    STEPS_LOG.debug("%s: %d of %d", what, done, total, extra=facts)
