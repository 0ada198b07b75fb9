"""How a command answers: text or JSON on stdout, all else on stderr, an exit code that says why.

A job is a function that is told how to announce its steps and returns an `Answer`.
"""

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import typer

from fxprune.agreement import Verdict
from fxprune.commands.bars import Announce, announcing
from fxprune.commands.wording import in_options
from fxprune.errors import FxpruneError, InternalError, NothingToPruneError, VerificationError
from fxprune.extras import extra_of
from fxprune.reports import Report

EXIT_CODES = (
    "Exit codes: 0 done, 1 the models differ, 2 an argument or a file does not fit, "
    "3 nothing can be pruned, 4 an error in fxprune itself."
)
COMMAND: ContextVar[str] = ContextVar("COMMAND", default="")
"""What was written on the command line."""

OPTIONS: ContextVar[Mapping[str, str]] = ContextVar("OPTIONS", default=MappingProxyType({}))
"""The options of the verb that runs, by the arguments that messages speak of."""

_BY_ERROR: tuple[tuple[type[Exception], int], ...] = (
    (VerificationError, 1),
    (NothingToPruneError, 3),
    (InternalError, 4),
    (FxpruneError, 2),
    (OSError, 2),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job found: for people, and for programs."""

    text: str
    data: Mapping[str, Any]


Job = Callable[[Announce], Answer]


def answer(job: Job, *, as_json: bool, show_traceback: bool) -> None:
    """Run a job, print its answer, and leave with its exit code."""
    try:
        with announcing() as announce, contextlib.redirect_stdout(sys.stderr):
            found = job(announce)
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        code, message = _explained(error)
        if as_json:
            print(json.dumps({"error": message, "kind": type(error).__name__, "exit_code": code}))
        print(f"fxprune: {printable(message)}", file=sys.stderr)
        raise typer.Exit(code) from error
    print(json.dumps(found.data) if as_json else printable(found.text))


def printable(text: str) -> str:
    """A text without what would steer a terminal: names come from models, and anybody made those.

    >>> printable("conv\\x1b[31m")
    'conv?[31m'
    """
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _explained(error: Exception) -> tuple[int, str]:
    """An exit code, and one line that says what to do."""
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name)):
        return 2, f'this needs {error.name}: pip install "fxprune[{extra}]"'
    text = in_options(" ".join(str(error).split()), OPTIONS.get())
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code, text
    return 4, f"{type(error).__name__}: {text}; --traceback shows where; please report this"


def about(report: Report, verdict: Verdict | None = None, **more: Any) -> dict[str, Any]:
    """A report and a verdict for programs."""
    compared = {"verdict": None} if verdict is None else as_data(verdict)
    return {**asdict(report), **compared, **more}


def as_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict for programs: what was compared, and what that does not show."""
    return {
        "verdict": [asdict(item) for item in verdict.comparisons],
        "shows_nothing": list(verdict.shows_nothing),
        "left_out": list(verdict.left_out),
    }
