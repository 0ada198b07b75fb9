"""What a job is asked to do and what comes of it, the same for torch models and ONNX files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxprune.agreement import Verdict
from fxprune.clocks import Clock
from fxprune.commands.answers import COMMAND, Answer, about
from fxprune.reports import Report
from fxprune.targets import Limits


@dataclass(frozen=True, slots=True)
class Source:
    """A model: an .onnx file or `module:factory`, its input shapes, and what to leave alone.

    `checkpoint` has the weights of what a factory makes, and `seed` seeds whatever is random.
    """

    text: str
    shapes: Mapping[str, tuple[int, ...]]
    ignore: tuple[str, ...] = ()
    checkpoint: Path | None = None
    seed: int = 0

    @property
    def is_onnx(self) -> bool:
        """Whether it is a file."""
        return self.text.lower().endswith(".onnx")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a job writes, if anywhere, and what it reads and so may not write over."""

    path: Path | None = None
    overwrite: bool = False
    sources: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which positions close, and how far: the arguments of `fxprune.prune`."""

    limits: Limits
    method: str
    data: str | None = None
    correct: bool = False
    factorise: tuple[str, ...] = ()
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """A smaller model, checked, and where it was written, if it was."""

    report: Report
    verdict: Verdict
    keep_set: Mapping[str, list[bool]]
    written: Path | None = None

    def by(self, ranking: Ranking, seed: int) -> "Pruned":
        """The same with a report that says how it came about."""
        target = json.dumps(ranking.limits.target)
        origin = {"method": ranking.method, "target": target, "seed": str(seed)}
        origin["command"] = COMMAND.get()
        return replace(self, report=replace(self.report, origin=origin))

    def answer(self) -> Answer:
        """What is kept, what was checked, and the keep-set."""
        end = f"\nwritten: {self.written}" if self.written else ""
        keep_set = {name: [int(flag) for flag in flags] for name, flags in self.keep_set.items()}
        written = None if self.written is None else str(self.written)
        changes = "\n".join(self.report.changes())
        return Answer(
            f"{changes}\n{self.report.summary()}\n{self.verdict}{end}",
            about(self.report, self.verdict, keep_set=keep_set, written=written),
        )
