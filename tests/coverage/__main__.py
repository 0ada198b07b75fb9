"""Which models are handled, exactly, how far and how fast, beside other pruning libraries?

    python -m tests.coverage torchvision timm transformers --json coverage.json
    python -m tests.coverage transformers:bert timm:swin_transformer --tools fxprune --details
    python -m tests.coverage torchvision --tools fxprune-ranks --limit 600
    python -m tests.coverage timm --tools fxprune torch-pruning torch-kirigami --limit 60

Every model runs in a process of its own, with a time limit, once for each tool. What each outcome
means is in tests/coverage/tools.py.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.coverage.tools import TOOLS
from tests.coverage.zoo import FAMILIES, names_of

TIMED_OUT = "timed out"


def main() -> None:
    """Parse the command line, run every pair, print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+", help=f"{', '.join(FAMILIES)}, or family:name")
    parser.add_argument("--tools", nargs="+", default=["fxprune"], choices=TOOLS)
    parser.add_argument("--limit", type=float, default=60, help="seconds per model and tool")
    parser.add_argument("--onnx", type=int, default=3, help="run one in N in ONNX Runtime")
    parser.add_argument("--details", action="store_true", help="print pinned groups with reasons")
    parser.add_argument("--json", type=Path, help="write every row here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        logging.disable(logging.WARNING)
        print(json.dumps(measure(options.models[0], options.tools[0], bool(options.onnx))))
        return
    pairs = [
        (model, tool, index)
        for index, model in enumerate(names_of(options.models))
        for tool in options.tools
    ]
    rows = []
    for model, tool, index in track(pairs, "measuring", console=Console(stderr=True)):
        onnx = bool(options.onnx) and index % options.onnx == 0
        rows.append(in_process(model, tool, options.limit, onnx))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    report(rows, options.details)
    if any(row["outcome"] == "wrong" for row in rows if row["tool"].startswith("fxprune")):
        sys.exit(1)


def measure(model: str, tool: str, onnx: bool) -> dict[str, Any]:
    """One row, in this process."""
    family, _, name = model.partition(":")
    build = FAMILIES[family].build
    row: dict[str, Any] = {"model": model, "tool": tool}
    try:
        return {**row, **TOOLS[tool](lambda: build(name), onnx)}
    except Exception as error:
        text = " ".join(str(error).split())
        return {**row, "outcome": "failed", "reason": f"{type(error).__name__}: {text}"[:400]}


def in_process(model: str, tool: str, limit: float, onnx: bool) -> dict[str, Any]:
    """One row, measured by a process that is stopped after `limit` seconds."""
    command = [sys.executable, "-m", "tests.coverage", model, "--tools", tool, "--one"]
    command += ["--onnx", str(int(onnx))]
    row = {"model": model, "tool": tool}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit + 30, env=environment
        )
    except subprocess.TimeoutExpired:
        return {**row, "outcome": TIMED_OUT, "reason": f"not done after {limit:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {**row, "outcome": "failed", "reason": f"died: {done.stderr[-300:]}"}
    found: dict[str, Any] = json.loads(lines[-1])
    if found.get("seconds", 0) > limit:
        found["outcome"] = TIMED_OUT
    return found


def report(rows: Iterable[dict[str, Any]], details: bool) -> None:
    """A table per tool, what was not ok with its reason, and the totals."""
    rows = list(rows)
    console = Console(width=160)
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == tool]
        table = Table("model", "outcome", *_COLUMNS, title=tool)
        for row in mine:
            table.add_row(row["model"], row["outcome"], *(_cell(row, key) for key in _COLUMNS))
        console.print(table)
        for row in mine:
            if "reason" in row or details:
                reason = row.get("reason", row["outcome"])
                console.print(f"{row['model']}: {reason}", highlight=False)
            for pin in row.get("pins", []) if details else []:
                console.print(f"    {pin}", highlight=False)
        for family in dict.fromkeys(row["model"].partition(":")[0] for row in mine):
            counts = Counter(r["outcome"] for r in mine if r["model"].startswith(f"{family}:"))
            console.print(f"{tool} {family}: {dict(counts)} of {counts.total()}", highlight=False)
            own = [r["code"] for r in mine if "code" in r and r["model"].startswith(f"{family}:")]
            if own:
                whose = Counter(code.partition(" ")[0] for code in own)
                console.print(f"    whose code: {dict(whose)}", highlight=False)


_COLUMNS = {
    "code": ".40",
    "error": ".0e",
    "onnx_error": ".0e",
    "free": ".2f",
    "params": ".2f",
    "macs": ".2f",
    "seconds": ".2f",
    "pairs": "d",
}


def _cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else format(value, _COLUMNS[key])


if __name__ == "__main__":
    main()
