"""A report as one HTML file that needs nothing else: no network, no other file.

Its one script sorts, filters and highlights what the page holds. The page's policy, by the hash of
that script, forbids the browser to run another, or to load anything.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fxprune.agreement import Verdict
from fxprune.arguments import flag, refusal
from fxprune.files import HTML, check_output, draft_of
from fxprune.pages.charts import Points, costs, scatter, ticks, widths
from fxprune.pages.environment import environment
from fxprune.pages.wiring import Line, Wiring, wiring
from fxprune.passes.roles import WHOLE
from fxprune.reporting import report
from fxprune.reports import Report, Row
from fxprune.sensitivities import Sensitivity

MOST_NAMES = 60
"""How many layers are named below their bars; more would not be legible."""

_MOST_LETTERS = 18


def write_report(
    subject: Any,
    path: str | Path,
    *,
    points: Points = (),
    sensitivity: Sensitivity | None = None,
    verdict: Verdict | None = None,
    latency: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a report as a single HTML file, light or dark as the reader's system is.

    What is kept, every layer before and after, a graph of what feeds what, the verdict, groups and
    pins: tables are sorted and filtered, and wires followed, by the page's one script. Nothing is
    loaded from elsewhere.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> smaller = fxprune.prune(model, torch.randn(1, 3, 8, 8))
    >>> page = fxprune.write_report(smaller, "report.html")  # doctest: +SKIP

    Args:
        subject: what `report` describes, or the `Report` itself.
        path: the file to write; its folder must exist.
        points: what was reached, as (target, accuracy) or (target, accuracy, label); or what
            `search` has found: its trials by MACs and first score, with their front.
        sensitivity: what `sensitivity` returned.
        verdict: what `verify` returned.
        latency: whether to measure, which takes about two seconds.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        InputError: the subject or a point is none, the folder is missing, or the file is there.
    """
    read_from = None if isinstance(subject, Report) else getattr(subject, "source", None)
    path = check_output("path", path, overwrite=overwrite, sources=[read_from], suffixes=HTML)
    front = scatter(points)
    if verdict is not None and not isinstance(verdict, Verdict):
        raise refusal("verdict", verdict, "what verify returned")
    check_sensitivity(sensitivity)
    found = described(subject, latency)
    text = (
        _templates()
        .get_template("report.html.jinja")
        .render(
            report=found,
            costs=_costs(found),
            removed_layers=sum(layer.removed and layer.macs_before > 0 for layer in found.layers),
            widths=widths(found.layers),
            macs=costs(found.layers),
            scatter=front,
            sensitivity=sensitivity,
            verdict=verdict,
            wires=wiring(found),
            most_names=MOST_NAMES,
            script=Markup(_SCRIPT),
            script_hash=_hash(_SCRIPT),
            blocks=[row for row in found.rows if row.kind in WHOLE and not row.kept],
            free=[row for row in found.rows if not row.pin],
            pins=_pins(found.rows),
            environment={**environment(), "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"},
        )
    )
    with draft_of(path, overwrite=overwrite) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def check_sensitivity(value: Any) -> None:
    """Raise InputError unless this is what `sensitivity` returned, or None."""
    if value is not None and not isinstance(value, Sensitivity):
        raise refusal("sensitivity", value, "what sensitivity returned")


def described(subject: Any, latency: bool) -> Report:
    """The report of whatever has one."""
    flag("latency", latency)
    return subject if isinstance(subject, Report) else report(subject, latency=latency)


def _templates() -> Environment:
    """Everything is escaped: names come from models, and anybody may have made those."""
    templates = Environment(
        loader=PackageLoader("fxprune.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["count"] = short
    templates.filters["breakable"] = breakable
    templates.filters["told"] = told
    templates.filters["ending"] = ending
    templates.globals["ticks"] = ticks
    return templates


_SCRIPT = f"\n{(Path(__file__).with_name('report.js')).read_text(encoding='utf-8')}"


def _hash(script: str) -> str:
    """What a browser compares a script with before it runs it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def told(line: Line, wires: Wiring) -> str:
    """A stop in words: what it is, costs, reads and feeds."""
    layer = line.layer
    name = layer.name if layer else line.stop.name
    words = [f"{name} ({line.stop.op})" + ", removed" * line.stop.removed]
    if layer and layer.width_before:
        words.append(f"{layer.width_after:,} of {layer.width_before:,} channels")
    if layer and layer.macs_before:
        words.append(f"{short(layer.macs_after)} of {short(layer.macs_before)} MACs")
    names = [each.layer.name if each.layer else each.stop.name for each in wires.lines]
    for how, numbers in (("reads", line.stop.fed_by), ("feeds", line.feeds)):
        if numbers:
            words.append(f"{how} {', '.join(names[number] for number in numbers)}")
    return "; ".join(words)


def ending(name: str) -> str:
    """A name short enough to stand below a bar: how it ends, which tells most."""
    return name if len(name) <= _MOST_LETTERS else f"\u2026{name[1 - _MOST_LETTERS :]}"


def short(number: float) -> str:
    """A number with three digits and a unit that stays beside it: 1820000 is 1.82 M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g}\u00a0{unit}"
    return f"{number:.3g}"


def breakable(name: str) -> Markup:
    """A dotted name, escaped, that may be broken into lines after dots."""
    return Markup(".<wbr>").join(name.split("."))


@dataclass(frozen=True, slots=True)
class _Cost:
    """A tile: what a number was and is."""

    title: str
    before: str
    after: str
    share: float


_TITLES: Mapping[str, str] = {
    "macs": "MACs",
    "params": "parameters",
    "bytes": "bytes of parameters",
    "memory": "activations",
    "flops": "FLOPs, as published",
    "peak": "peak activations",
}


def _costs(found: Report) -> list[_Cost]:
    """What is shown of costs, file and latency, where both numbers are known."""
    pairs: list[tuple[str, str, str, float, float]] = [
        (_TITLES[name], short(found.before[name]), short(after), found.before[name], after)
        for name, after in found.shown_costs().items()
    ]
    size, time = found.file_bytes, found.latency_ms
    if {"before", "after"} <= set(size):
        shown = (f"{short(size['before'])}B", f"{short(size['after'])}B")
        pairs.append(("file size", *shown, size["before"], size["after"]))
    if {"before", "after"} <= set(time):
        shown = (f"{time['before']:.2f}", f"{time['after']:.2f} ms")
        pairs.append(("latency", *shown, time["before"], time["after"]))
    return [_Cost(t, b, a, after / before if before else 1.0) for t, b, a, before, after in pairs]


def _pins(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    """The pinned groups by reason, in order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.pin:
            found[row.pin].append(row)
    return dict(found)
