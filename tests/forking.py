"""Work in a child process that shares what has been prepared here."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def fork(work: Callable[[], int | None]) -> int:
    """Start work in a child, whose exit code it returns; the child's process number.

    The threads that torch computes with stay behind in a fork, and waiting for them would never
    end, so the child computes alone.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        code = work() or 0
    finally:
        os._exit(code)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes as in a child: sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
