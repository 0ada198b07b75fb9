"""What did pruning do to a model? The facts, for people, trackers and pages; no framework."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from rich.console import Console
from rich.table import Table

from fxprune import markup
from fxprune.clocks import Timed
from fxprune.passes.analyse import Analysis
from fxprune.passes.cost import COSTS
from fxprune.passes.factorisation import Factorised
from fxprune.passes.layers import LayerSizes, layers_of, outline_of
from fxprune.passes.outline import Stop
from fxprune.version import __version__

_MOST_NAMES = 6
_PLURALS = {"channel": "channels", "branch": "branches", "layer": "layers"}


@dataclass(frozen=True, slots=True)
class Row:
    """One group or branch: how many positions it had and has, and why it is pinned.

    `label` says where it is and what it is for, `name` is what keep-sets call it.
    """

    name: str
    kind: str
    size: int
    kept: int
    members: int
    pin: str
    label: str = ""

    @property
    def title(self) -> str:
        """What people call it."""
        return self.label or self.name

    @property
    def noun(self) -> str:
        """What its positions are."""
        noun = self.label.rpartition(": ")[2] or self.kind
        return _PLURALS.get(noun, noun)


@dataclass(frozen=True, slots=True)
class Report:
    """Prints as tables; `as_dict` gives plain scalars for any tracker.

    `before` is the model before the first fold, `rows` and `layers` are what the last one did.
    `latency_ms` holds medians of single-sample evaluations on this machine, `file_bytes` the sizes
    of all saved tensors, by "before" and "after", whichever is known; `figures` is what the gating
    method says of itself. `targets` are the limits, in absolute numbers, of the costs that have
    one, `reached` what these costs are; `schedule` says of gates that learn how many steps of
    their schedule are "done", and how many there are in "all". `generated` says of a torch
    model which modules run generated code instead of their own, and why; "" is the model itself.
    `configured` says whether its class makes one of these sizes from the model's `config`.
    `pairs` are the layers that are two, with form and rank, and `whole`, where there are any, why
    others are not. `outline` says what feeds what. `origin` says how it came about: "method", and
    of what the command line made also "target", "seed" and "command". `timed` is what was measured
    for a target on latency.
    """

    source: str
    rows: tuple[Row, ...]
    layers: tuple[LayerSizes, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    file_bytes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)
    reached: Mapping[str, float] = field(default_factory=dict)
    schedule: Mapping[str, int] = field(default_factory=dict)
    generated: Mapping[str, str] | None = None
    configured: bool = False
    pairs: Mapping[str, str] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    outline: tuple[Stop, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    timed: Timed | None = None

    def as_dict(self) -> dict[str, float]:
        """Every number under a flat name."""
        result: dict[str, float] = {}
        for when, costs in (("before", self.before), ("after", self.after)):
            result.update({f"{name}_{when}": value for name, value in costs.items()})
        result.update({f"latency_ms_{when}": value for when, value in self.latency_ms.items()})
        result.update({f"file_bytes_{when}": value for when, value in self.file_bytes.items()})
        result.update({f"{name}_target": value for name, value in self.targets.items()})
        result.update({f"{name}_reached": value for name, value in self.reached.items()})
        result.update({f"schedule_{name}": value for name, value in self.schedule.items()})
        if self.generated is not None:
            result["generated_modules"] = len(self.generated)
        if self.pairs:
            result["pairs"] = len(self.pairs)
        if self.timed is not None:
            result.update(self.timed.numbers())
        return {**result, **self.figures}

    def progress(self) -> tuple[str, ...]:
        """Target and what is reached of every cost that has one, and how far a schedule is."""
        lines = [
            f"target of {name}: at most {target:,.10g}"
            + (f", {self.reached[name]:,.10g} reached" if name in self.reached else "")
            for name, target in self.targets.items()
            if self.timed is None or name != "latency"  # it was a prediction
        ]
        if self.timed is not None:
            lines.append(str(self.timed))
        done, steps = self.schedule.get("done", 0), self.schedule.get("all", 0)
        if done < steps:
            lines.append(f"schedule: {done:,} of {steps:,} steps")
        return tuple(lines)

    def _repr_html_(self) -> str:
        """Notebooks show it so."""
        free = [row for row in self.rows if not row.pin]
        return (
            markup.table(["cost", "before", "after", "kept"], self._compared(), self.source)
            + markup.paragraphs((*self.kept(), *self.progress(), *self.code()))
            + markup.table(["group", "kept", "of"], [(r.title, r.kept, r.size) for r in free])
            + markup.paragraphs([f"{len(self.rows) - len(free)} more are pinned"])
        )

    def __str__(self) -> str:
        return f"{self.groups()}\n{self.summary()}"

    def groups(self) -> str:
        """The groups and branches as a table."""
        return _text(self._groups())

    def summary(self) -> str:
        """What is kept of every cost as a table, targets, and what the method says of itself."""
        figures = (f"{name}: {value:.3g}" for name, value in self.figures.items())
        facts = (*self.kept(), *self.two(), *self.progress(), *figures, *self.code())
        return "\n".join((_text(self._costs()), *facts))

    def changes(self) -> tuple[str, ...]:
        """What happened to every layer that multiplies, in words; like layers are told together."""
        told: dict[tuple[str, str], list[str]] = {}
        for layer in filter(attrgetter("macs_before"), self.layers):
            words = _what_happened(layer)
            told.setdefault((re.sub(r"\d+", "*", layer.name), words), []).append(layer.name)
        same = [name for (_, words), names in told.items() if not words for name in names]
        lines = [
            f"{names[0]}{f' and {len(names) - 1} like it' if names[1:] else ''}: {words}"
            for (_, words), names in told.items()
            if words
        ]
        kept = f"as {'they were' if same[1:] else 'it was'}: {_listed(same)}"
        return (*lines, *([kept] if same else []))

    def two(self) -> tuple[str, ...]:
        """Which layers are two, and why others are not, by reason."""
        if not self.pairs:
            return ()
        why: dict[str, list[str]] = {}
        for path, reason in self.whole.items():
            why.setdefault(reason, []).append(path)
        return (
            f"as two layers: {', '.join(f'{path} ({how})' for path, how in self.pairs.items())}",
            *(f"whole: {', '.join(paths)}: {reason}" for reason, paths in why.items()),
        )

    def kept(self) -> tuple[str, ...]:
        """How many positions all free groups of each kind keep."""
        counts: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            if not row.pin:
                kept, size = counts.get(row.noun, (0, 0))
                counts[row.noun] = kept + row.kept, size + row.size
        told = (f"{kept:,} of {size:,} {noun}" for noun, (kept, size) in counts.items())
        return (f"kept: {', '.join(told)}",) if counts else ()

    def code(self) -> tuple[str, ...]:
        """Whose code a torch model runs."""
        if self.generated is None:
            return ()
        if not self.generated:
            return ("code: the model's own throughout",)
        return tuple(
            f"code: generated for {path or 'the whole model'}: {reason}"
            for path, reason in self.generated.items()
        )

    def _groups(self) -> Table:
        table = Table(title=f"{self.source}: groups", title_justify="left")
        table.add_column("group", overflow="fold")
        table.add_column("kept", justify="right", no_wrap=True)
        table.add_column("name", overflow="fold")
        table.add_column("members", justify="right")
        table.add_column("pinned because", overflow="fold")
        for row in self.rows:
            kept = f"{row.kept:,} of {row.size:,}"
            table.add_row(row.title, kept, row.name, str(row.members), row.pin)
        return table

    def shown_costs(self) -> dict[str, int]:
        """What is shown of costs after: the size of the file stands for that of its parameters."""
        known = "after" in self.file_bytes
        return {name: cost for name, cost in self.after.items() if name != "bytes" or not known}

    def _costs(self) -> Table:
        table = Table(title="per sample", title_justify="left")
        for name in ("cost", "before", "after", "kept"):
            table.add_column(name, justify="left" if name == "cost" else "right")
        for row in self._compared():
            table.add_row(*row)
        return table

    def _compared(self) -> Iterator[tuple[str, str, str, str]]:
        """Every cost, file and latency: before, after, and what is kept."""
        for name, value in self.shown_costs().items():
            share = value / max(self.before[name], 1)
            yield name, f"{self.before[name]:,}", f"{value:,}", f"{share:.1%}"
        for name, known, form in (
            ("file (bytes)", self.file_bytes, ",d"),
            ("latency (ms)", self.latency_ms, ".2f"),
        ):
            if "after" in known:
                before, after = known.get("before"), known["after"]
                shown = format(before, form) if before else ""
                kept = f"{after / before:.1%}" if before else ""
                yield name, shown, format(after, form), kept


def _what_happened(layer: LayerSizes) -> str:
    """In words; nothing where nothing did."""
    if layer.removed:
        return f"gone, with {layer.params_before:,} parameters"
    if (layer.width_after, layer.macs_after) == (layer.width_before, layer.macs_before):
        return ""
    share = f"{layer.macs_after / layer.macs_before:.0%} of its multiply-accumulates"
    if layer.width_after < layer.width_before:
        return f"{layer.width_after:,} of {layer.width_before:,} channels, {share}"
    return f"all {layer.width_before:,} channels, made from less, {share}"


def _listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _text(table: Table) -> str:
    """A table as text; names of models are text too, whatever brackets they have."""
    file = io.StringIO()
    Console(file=file, width=110, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(map(str.rstrip, file.getvalue().rstrip().splitlines()))


def describe(source: str, analysis: Analysis, sizes: Mapping[str, int]) -> Report:
    """The report of a model under the numbers of positions that are kept, before any measurement.

    Args:
        source: what the model is called.
        analysis: the facts about it.
        sizes: by group and branch (0 or 1); what is left out is open.
    """
    return Report(
        source=source,
        rows=_rows(analysis, sizes),
        layers=layers_of(analysis, sizes),
        outline=outline_of(analysis, sizes),
        before=costs_at(analysis, {}),
        after=costs_at(analysis, sizes),
    )


def two_and_whole(layers: Iterable[Factorised]) -> tuple[dict[str, str], dict[str, str]]:
    """Form and rank of layers that are two, and why others are whole."""
    layers = tuple(layers)
    pairs = {one.name: f"{one.form}, rank {one.rank}" for one in layers if one.form}
    whole = {one.name: one.reason for one in layers if not one.form}
    return pairs, whole


def costs_at(analysis: Analysis, sizes: Mapping[str, int]) -> dict[str, int]:
    """The exact costs under the numbers of positions that are kept."""
    found = analysis.costs.at({**analysis.costs.full, **sizes})
    return {name: int(found[name]) for name in COSTS}


def metadata(after: Mapping[str, int], before: Mapping[str, int], **more: str) -> dict[str, str]:
    """What an ONNX file says of itself: the version, costs after and before, and more."""
    costs = {**after, **{f"{name}_before": value for name, value in before.items()}}
    facts = {"version": __version__, **costs, **more}
    return {f"fxprune_{name}": str(value) for name, value in facts.items()}


def _rows(analysis: Analysis, sizes: Mapping[str, int]) -> tuple[Row, ...]:
    channels = [
        Row(
            name=g.name,
            kind=g.kind.value,
            size=g.size,
            kept=sizes.get(g.name, g.size),
            members=len(g.members),
            pin=g.pin,
            label=g.label,
        )
        for g in analysis.groups
    ]
    branches = [
        Row(b.name, b.kind.value, 1, sizes.get(b.name, 1), len(b.nodes), "", b.label)
        for b in analysis.branches
    ]
    return (*channels, *branches)
