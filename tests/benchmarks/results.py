"""What benchmarks have found, as JSON: rows, and on which code and machine they were measured.

    {"measured": [{"commit": "689d536", "date": "2026-11-30", "machine": {...}}], "rows": [...]}

A file is written anew with every row, whole or not at all, so that a benchmark that was killed goes
on where it was. There is one entry of "measured" for every commit and machine that rows are of.
"""

import datetime
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fxprune.files import draft_of
from fxprune.pages.environment import environment

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


class Results:
    """The rows of one table, in a file if there is a path."""

    def __init__(self, path: Path | None = None, *, go_on: bool = False) -> None:
        """With `go_on` those that a file already has come first."""
        self._path = path
        found = read(path) if path and go_on and path.exists() else {"measured": [], "rows": []}
        self.rows: list[Row] = found["rows"]
        self._measured: list[Row] = found["measured"]

    def add(self, row: Any) -> None:
        """One more row, a mapping or a dataclass."""
        self.rows.append(plain(row))
        here = measured_here()
        if here not in self._measured:
            self._measured.append(here)
        if self._path:
            write(self._path, {"measured": self._measured, "rows": self.rows})


def append(path: Path, row: Any) -> None:
    """Add a row to a file."""
    Results(path, go_on=True).add(row)


def save(path: Path | None, rows: Iterable[Any]) -> None:
    """Write all rows at once, if there is a path."""
    if path:
        found = [plain(row) for row in rows]
        write(path, {"measured": [measured_here()], "rows": found})


def read(path: Path) -> dict[str, Any]:
    """What a file has; a list of rows alone was measured nobody knows where."""
    found = json.loads(path.read_text())
    return {"measured": [], "rows": found} if isinstance(found, list) else dict(found)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """All of it, or nothing."""
    with draft_of(path, overwrite=True) as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n")


def plain(row: Any) -> Row:
    """A row as a mapping."""
    if is_dataclass(row) and not isinstance(row, type):
        return asdict(row)
    return dict(row)


@cache
def measured_here() -> Row:
    """The commit, the day, and what computes; the first row of a run decides."""
    threads = os.environ.get("OMP_NUM_THREADS", "as many as torch takes")
    machine = {**environment(), "threads": threads}
    return {"commit": commit(), "date": str(datetime.date.today()), "machine": machine}


def commit(root: Path = ROOT) -> str:
    """The commit that the code is, with "-dirty" if it has been changed; "unknown" without git."""
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
