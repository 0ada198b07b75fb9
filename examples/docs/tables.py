"""Tables of measured pages, made of the JSON that benchmarks wrote.

    cd examples/docs/measured/results; export PYTHONPATH=../../../..
    python -m tests.benchmarks.exactness --json exactness.json
    python -m tests.benchmarks.criteria --json criteria.json
    python -m tests.benchmarks.speed --json speed.json
    python -m tests.benchmarks.revisions a50b2c7 --json revisions.json
    python -m tests.benchmarks.latency --reach .5 --models cifar20 cifar56 mobilenet_v2 \
        --json time.json
    python -m tests.benchmarks.factorising --data DATA --weights WEIGHTS --depth 56 --macs .5 \
        --bytes --stored float32 --images 2000 --json factorising.json
    python -m examples.docs.tables    # writes them into the pages, between the marks

A page says where a table goes: `<!-- table: NAME -->` before it, `<!-- end of table -->` behind.
Below it stands on which code it was measured; the site adds whether that has changed since, as far
as git knows where it is built.
"""

import json
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

PAGES = Path(__file__).parent / "measured"
ROOT = Path(__file__).parents[2]
MEASURED = re.compile(r"Measured on `([0-9a-f]{7,40})`(?: with changes)?, [\d-]+\.")
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
    """CPU seconds of both libraries for each model, and the median of their ratios."""
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


def time(rows: Rows) -> str:
    """A row for each model, what measures, and target."""
    columns = ("model", "by", "wanted", "as predicted", "in the end", "once more", "MACs")

    def cells(row: dict[str, Any]) -> list[str]:
        shares = (row[name] for name in ("target", "first", "share", "again", "macs"))
        effort = (str(row["multiple"]), str(row["measured"]), f"{row['seconds']:.0f}")
        return [row["model"], row["route"], *(f"{share:.1%}" for share in shares), *effort]

    return markdown((*columns, "widths", "measured", "seconds"), map(cells, rows))


def factorising(rows: Rows) -> str:
    """A row for each way to prune, at each target."""
    columns = ("network", "target", "what layers may lose", "stored in", "accuracy")

    def cells(row: dict[str, Any]) -> list[str]:
        named = [row[name] for name in ("network", "target", "way", "stored")]
        shares = (row[name] for name in ("macs", "params"))
        figures = [f"{row['accuracy']:.2%}", *(f"{share:.1%}" for share in shares)]
        return [*named, *figures, f"{row['time']:.2f}", str(row["pairs"])]

    return markdown(
        (*columns, "MACs", "parameters", "time", "layers that are two"), map(cells, rows)
    )


TABLES: MappingProxyType[str, Callable[[Rows], str]] = MappingProxyType(
    {
        "exactness": exactness,
        "criteria": criteria,
        "speed": speed,
        "revisions": revisions,
        "time": time,
        "factorising": factorising,
    }
)


def provenance(measured: Rows) -> str:
    """On which code the rows of a table were measured, and when; a line for each."""
    lines = []
    for one in measured:
        commit = one["commit"].removesuffix("-dirty")
        changed = " with changes" if commit != one["commit"] else ""
        lines.append(f"Measured on `{commit}`{changed}, {one['date']}.\n")
    return "".join(f"{line}\n" for line in lines)


def with_changes(page: str, root: Path = ROOT) -> str:
    """A page that says under its tables whether the code has changed since they were measured."""

    def told(match: re.Match[str]) -> str:
        if not has_changed(match[1], root):
            return match[0]
        return f"{match[0]} The code of fxprune and passes has changed since."

    return MEASURED.sub(told, page)


def has_changed(commit: str, root: Path = ROOT) -> bool:
    """Whether the code differs from that of a commit; False where git does not know that."""
    words = ["git", "-C", str(root), "diff", "--quiet", commit, "--", "fxprune", "passes"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 1
    except OSError:
        return False


def filled(page: str) -> str:
    """The text of a page with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        before, name, after = match.groups()
        found = json.loads((PAGES / "results" / f"{name}.json").read_text())
        return f"{before}\n{TABLES[name](found['rows'])}\n{provenance(found['measured'])}{after}"

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
