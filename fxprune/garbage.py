"""When does Python look for garbage in cycles? Not while a graph is made.

A graph is many small objects that live, and the collector walks through all that a process has
whenever their number has grown by a quarter: a third of the time of a model of many layers.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_later() -> Iterator[None]:
    """Let cycles wait until the end; what nothing refers to is let go at once, as ever.

    Also a decorator. The collector is left as it was found.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
