"""ONNX files of others, inspected, pruned to half of their MACs, and verified.

    python -m tests.foreign --files FOLDER --json foreign.json

FOLDER keeps the files: those that are missing are taken from wheels of the package index, or
written by scikit-learn's and Keras' exporters in environments of their own. Every file is checked
in a process of its own.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

import fxprune
from fxprune.onnx.frontend.loading import load_onnx
from tests.benchmarks.apart import found_apart
from tests.foreign.collecting import SHAPES, collect

SECONDS = 180


@dataclass(slots=True)
class Row:
    """What became of a file: `status` is ok, nothing to prune, failed, or wrong."""

    file: str
    source: str
    producer: str = ""
    nodes: int = 0
    operators: int = 0
    status: str = "failed"
    reason: str = ""
    macs: float = 1.0
    parameters: float = 1.0
    bytes: float = 1.0
    error: float = 0.0
    accepted: float = 0.0
    free_groups: int = 0
    branches: int = 0
    pinned: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def check(path: Path) -> Row:
    """Inspect, fold with everything open, prune, verify; the pruned file is thrown away."""
    row = Row(path.name, path.parent.name)
    start = time.perf_counter()
    try:
        _fill(row, path)
    except fxprune.NothingToPruneError as error:
        row.status, row.reason = "nothing to prune", str(error)
    except fxprune.VerificationError as error:
        row.status, row.reason = "wrong", str(error)
    except fxprune.FxpruneError as error:
        row.reason = str(error)
    row.seconds = time.perf_counter() - start
    return row


def _fill(row: Row, path: Path) -> None:
    model, shapes = load_onnx(path), SHAPES.get(path.stem)
    row.producer = f"{model.producer_name or '?'} {model.producer_version or ''}".strip()
    kinds = Counter(node.op_type for node in model.graph.all_nodes())
    row.nodes, row.operators = kinds.total(), len(kinds)
    analysis = fxprune.inspect_onnx(path, shapes=shapes)
    row.free_groups, row.branches = len(analysis.free_groups), len(analysis.branches)
    row.pinned = dict(Counter(group.pin for group in analysis.groups if group.pin).most_common())
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / path.name
        result = fxprune.prune_onnx(path, output, shapes=shapes)
        everything = {name: [True] * len(flags) for name, flags in result.keep_set.items()}
        whole = fxprune.fold_onnx(path, everything, shapes=shapes)
        fxprune.verify_onnx(path, whole.model, shapes=shapes)
        row.bytes = output.stat().st_size / path.stat().st_size
    before, after = result.costs_before, result.costs_after
    row.macs, row.parameters = (after[k] / max(before[k], 1) for k in ("macs", "params"))
    worst = max(result.verdict.comparisons, key=lambda c: c.error / (c.tolerance or 1))
    row.error, row.accepted = worst.error, worst.tolerance
    row.status = "ok"


def in_a_process(path: Path) -> Row:
    """The row of a file; a crash or a hang is a row as well."""
    found, reason = found_apart(SECONDS, "-m", "tests.foreign", "--one", str(path))
    return Row(**found) if found else Row(path.name, path.parent.name, reason=reason)


def table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    made = Table("file", "from", "by", "status", "MACs", "parameters", "groups", "error", "pinned")
    for row in rows:
        pinned = "; ".join(f"{count} x {reason}" for reason, count in row.pinned.items())
        cells = (row.file, row.source, row.producer, row.status)
        figures = (f"{row.macs:.0%}", f"{row.parameters:.0%}", f"{row.free_groups}")
        made.add_row(*cells, *figures, f"{row.error:.0e}", row.reason or pinned)
    return made


def main() -> int:
    """Collect, check, print; 1 if a file came out wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, default=Path(tempfile.gettempdir()) / "foreign")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help="check this file, print its row as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(check(options.one))))
        return 0
    rows = [in_a_process(path) for path in collect(options.files)]
    Console().print(table(rows))
    print(dict(Counter(row.status for row in rows)))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(any(row.status == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
