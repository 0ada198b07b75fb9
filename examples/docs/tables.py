"""Tables of measured pages, made of the JSON that benchmarks wrote.

    cd examples/docs/measured/results; export PYTHONPATH=../../../..
    python -m tests.benchmarks.exactness --json exactness.json
    python -m tests.benchmarks.criteria --json criteria.json
    python -m tests.benchmarks.speed --json speed.json
    python -m tests.benchmarks.revisions a50b2c7 --json revisions.json
    python -m examples.docs.tables    # writes them into the pages, between the marks

A page says where a table goes: `<!-- table: NAME -->` before it, `<!-- end of table -->` behind.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

PAGES = Path(__file__).parent / "measured"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
Rows = list[dict[str, Any]]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def exactness(rows: Rows) -> str:
    """A row for each model."""
    columns = ("model", "error float64", "error ONNX Runtime", "parameters", "MACs")
    return markdown(
        (*columns, "free groups", "branches"),
        (
            (
                row["model"],
                f"{row['error']:.0e}",
                f"{row['onnx_error']:.0e}",
                f"{row['params']:.0%}",
                f"{row['macs']:.0%}",
                str(row["groups"]),
                str(row["branches"]),
            )
            for row in rows
        ),
    )


def criteria(rows: Rows) -> str:
    """A row for each criterion, a column for each model and route; means over seeds."""
    columns = {(row["model"], row["route"]): None for row in rows if row["method"] != "none"}

    def cell(method: str, model: str, route: str) -> str:
        own = [row for row in rows if (row["method"], row["model"]) == (method, model)]
        own = [row for row in own if row["route"] == route]
        means = [
            statistics.mean(found)
            for corrected in (False, True)
            if (found := [row["accuracy"] for row in own if row["corrected"] is corrected])
        ]
        return " → ".join(f"{100 * mean:.1f}" for mean in means) + " %" * bool(means)

    return markdown(
        ("criterion", *(f"{model}, {route}" for model, route in columns)),
        (
            (
                "none (dense)" if method == "none" else method,
                *(cell(method, *column) for column in columns),
            )
            for method in dict.fromkeys(row["method"] for row in rows)
        ),
    )


def speed(rows: Rows) -> str:
    """Seconds of both libraries for each model, and the median of their ratios."""
    median = statistics.median(row["ratio"] for row in rows)
    return markdown(
        ("model", "fxprune (s)", "Torch-Pruning (s)", "ratio"),
        (
            *(
                [row["model"], *(f"{row[x]:.2f}" for x in ("fxprune", "torch-pruning", "ratio"))]
                for row in rows
            ),
            ("median", "", "", f"{median:.2f}"),
        ),
    )


def revisions(rows: Rows) -> str:
    """For each model the shares of the time that an earlier revision took."""
    columns = ("prepare", "fold", "both")
    return markdown(
        ("model", *(f"`{name}`" for name in columns[:2]), "both"),
        ([row["model"], *(f"{row[name]:.2f}" for name in columns)] for row in rows),
    )


TABLES: MappingProxyType[str, Callable[[Rows], str]] = MappingProxyType(
    {"exactness": exactness, "criteria": criteria, "speed": speed, "revisions": revisions}
)


def filled(page: str) -> str:
    """The text of a page with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        before, name, after = match.groups()
        results = json.loads((PAGES / "results" / f"{name}.json").read_text())
        return f"{before}\n{TABLES[name](results)}\n{after}"

    return MARKED.sub(made, page)


def main() -> None:
    """Write every page that has marks."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        if text != filled(text):
            page.write_text(filled(text))
            print(f"written: {page.name}")


if __name__ == "__main__":
    main()
