"""What people see while a command works: bars on stderr if that is a terminal, and log lines."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from fxprune.stages import PROGRESS_LOG

Announce = Callable[[str, float], None]
"""Says what the job does from here on, and about what share of it is done."""


@contextlib.contextmanager
def announcing() -> Iterator[Announce]:
    """A bar for the job, and one for the part of it that is going on."""
    console = Console(stderr=True)
    lines = RichHandler(logging.INFO, console, show_time=False, show_path=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        _TimeLeft(),
    )
    hidden = not console.is_terminal
    with (
        _heard(logging.getLogger("fxprune"), lines, logging.INFO),
        Progress(*columns, console=console, transient=True, disable=hidden) as progress,
    ):
        task, part = progress.add_task("starting", total=1.0, count=""), PartBar(progress)

        def announce(text: str, done: float) -> None:
            part.hide()
            progress.update(task, description=text, completed=done)

        with _heard(PROGRESS_LOG, part, logging.DEBUG):
            yield announce


class _TimeLeft(ProgressColumn):
    """How long a part takes from here on, by how long it has taken so far."""

    max_refresh = 0.5  # seconds: it is no use if it flickers

    def render(self, task: Task) -> Text:
        """The time, where n of m says how far it is."""
        seconds = task.time_remaining if task.fields["count"] else None
        return Text("" if seconds is None else f"{timedelta(seconds=int(seconds))} left")


class PartBar(logging.Handler):
    """A bar that records of `fxprune.progress` move; it is there while there is something to do."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Show how far it is."""
        told = vars(record)
        what, done, total = told["what"], told["done"], told["total"]
        if what not in self._tasks:
            self.hide()
            self._tasks[what] = self._progress.add_task(what, total=total, count="")
        count = f"{done:,} of {total:,}" if total else ""
        self._progress.update(self._tasks[what], completed=done, count=count)
        if done == total:
            self.hide()

    def hide(self) -> None:
        """Nothing is known of what goes on."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


@contextlib.contextmanager
def _heard(log: logging.Logger, handler: logging.Handler, least: int) -> Iterator[None]:
    """Records from a level on go to a handler, for a while."""
    level = log.level
    log.addHandler(handler)
    log.setLevel(least)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
