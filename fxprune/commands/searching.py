"""The verb `search` for models that Python makes with torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fxprune
from fxprune.commands.answers import Answer
from fxprune.commands.arguments import imported
from fxprune.commands.bars import Announce
from fxprune.commands.jobs import Source
from fxprune.commands.torch_route import data_of, gated_of
from fxprune.errors import InputError
from fxprune.targets import Limits


@dataclass(frozen=True, slots=True)
class Asked:
    """What is searched for, on what data, and where the trials go."""

    scores: tuple[str, ...]
    data: str | None
    table: Path | None
    overwrite: bool
    options: dict[str, Any]


def search(source: Source, limits: Limits, asked: Asked, announce: Announce) -> Answer:
    """Look for the best keep-set, and write all trials if that is wanted."""
    data = None if asked.data is None else data_of(asked.data)
    scores = [_score(text) for text in asked.scores]
    announce("finding groups", 0)
    gated = gated_of(source, limits)
    found = fxprune.search(gated, scores, data=data, **asked.options)
    written = asked.table and found.table.write(asked.table, overwrite=asked.overwrite)
    best = {name: list(map(int, flags)) for name, flags in found.best.keep_set.items()}
    trials = [{"scores": dict(t.scores), "costs": dict(t.costs)} for t in found.front]
    end = f"\nwritten: {written}" if written else ""
    return Answer(
        f"{found}{end}",
        {
            "trials": len(found),
            "front": trials,
            "keep_set": best,
            "written": str(written) if written else None,
        },
    )


def _score(text: str) -> Any:
    """The name of a score, or a function of Python."""
    if ":" not in text:
        return text
    function = imported(text)
    if not callable(function):
        raise InputError(f"score: {text} is no function of a model")
    return function
