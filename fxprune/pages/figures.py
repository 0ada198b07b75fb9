"""The figures of a report as PNG, for slides and papers; drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxprune.arguments import flag
from fxprune.errors import MissingExtraError
from fxprune.files import check_folder, check_output, draft_of, made_folder
from fxprune.pages.charts import Points, Profile, Scatter, costs, scatter, widths
from fxprune.pages.writing import MOST_NAMES, check_sensitivity, described
from fxprune.sensitivities import Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEFORE, _AFTER, _REMOVED = "#b4bcc9", "#1f5fd0", "#8a4b08"
_SENSITIVITY = "sensitivity.png"


def write_figures(
    subject: Any,
    folder: str | Path,
    *,
    points: Points = (),
    sensitivity: Sensitivity | None = None,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write the figures of `write_report` as PNG: widths, cost, and accuracy over target.

    Args:
        subject: what `report` describes, or the `Report` itself.
        folder: where to write; it is made if it does not exist.
        points: as for `write_report`; without any there is no accuracy.png.
        sensitivity: as for `write_report`; without it there is no sensitivity.png.
        overwrite: whether figures that are there already may be replaced.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: an argument does not fit.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'figures need matplotlib: pip install "fxprune[figures]"'
        ) from error
    front = scatter(points)
    check_sensitivity(sensitivity)
    folder = check_figures(folder, front is not None, overwrite=overwrite)
    found = described(subject, latency=False)
    made_folder(folder)
    figures = {
        _NAMES[0]: _profile(Figure(figsize=(10, 4)), widths(found.layers)),
        _NAMES[1]: _profile(Figure(figsize=(10, 4)), costs(found.layers)),
    }
    if front is not None:
        figures[_NAMES[2]] = _scatter(Figure(figsize=(6, 4)), front)
    if sensitivity is not None:
        check_output("folder", folder / _SENSITIVITY, overwrite=overwrite)
        figures[_SENSITIVITY] = _cuts(Figure(figsize=(10, 4)), sensitivity)
    for name, figure in figures.items():
        with draft_of(folder / name, overwrite=overwrite) as draft:
            figure.savefig(draft, dpi=150, bbox_inches="tight")
    return tuple(folder / name for name in figures)


def check_figures(folder: str | Path, with_points: bool, *, overwrite: bool = False) -> Path:
    """The folder, if no figure is in the way there.

    Raises:
        InputError: it is a file, or one of the figures is there already.
    """
    folder = check_folder("folder", folder)
    flag("overwrite", overwrite)
    for name in _NAMES[: 3 if with_points else 2] if folder.is_dir() else ():
        check_output("folder", folder / name, overwrite=overwrite)
    return folder


_NAMES = ("widths.png", "cost.png", "accuracy.png")


def _profile(figure: Figure, profile: Profile) -> Figure:
    """Wide bars before, narrow bars after, hatched bars for what is removed."""
    from matplotlib.ticker import EngFormatter

    axes: Axes = figure.add_subplot()
    kept = [(i, bar) for i, bar in enumerate(profile.bars) if not bar.removed]
    gone = [(i, bar) for i, bar in enumerate(profile.bars) if bar.removed]
    axes.bar([i for i, _ in kept], [b.before for _, b in kept], 0.9, color=_BEFORE, label="before")
    axes.bar([i for i, _ in kept], [b.after for _, b in kept], 0.5, color=_AFTER, label="after")
    if gone:
        heights = [bar.before for _, bar in gone]
        style: dict[str, Any] = {"fill": False, "hatch": "///", "edgecolor": _REMOVED}
        axes.bar([i for i, _ in gone], heights, 0.9, label="removed", **style)
    axes.set_ylabel(f"{profile.title.lower()} ({profile.unit})")
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("layers, from the input to the output")
    if len(profile.bars) <= MOST_NAMES:
        names = [bar.name for bar in profile.bars]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.legend(frameon=False)
    return _plain(figure, axes)


def _scatter(figure: Figure, shown: Scatter) -> Figure:
    """Filled points on the front, hollow points that some other exceeds."""
    axes: Axes = figure.add_subplot()
    front = shown.front
    axes.step([p.target for p in front], [p.accuracy for p in front], "--", c=_AFTER, where="post")
    for point in shown.points:
        fill = _AFTER if point.best else "none"
        axes.scatter(point.target, point.accuracy, facecolors=fill, edgecolors=_AFTER, zorder=3)
        if point not in shown.listed:
            continue
        place = (point.target, point.accuracy)
        axes.annotate(
            point.label,
            place,
            (4, -11),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
        )
    axes.set(xlim=shown.x, ylim=shown.y)
    axes.set_xlabel(shown.titles[0], parse_math=False)
    axes.set_ylabel(shown.titles[1], parse_math=False)
    return _plain(figure, axes)


def _cuts(figure: Figure, found: Sensitivity) -> Figure:
    """The score by group, a line for each share that is kept; branches are points of their own."""
    axes: Axes = figure.add_subplot()
    shares = sorted({share for cut in found.cuts for share in cut.shares}, reverse=True)
    for share in shares:
        placed = [
            (place, cut.scores[cut.shares.index(share)])
            for place, cut in enumerate(found.cuts)
            if share in cut.shares
        ]
        line = "o-" if share else "o"
        axes.plot(*zip(*placed, strict=True), line, label=f"{share:.0%} kept", markersize=4)
    axes.axhline(found.full, ls="--", c=_BEFORE, label="everything open")
    axes.set_ylabel(found.objective.name, parse_math=False)
    if len(found.cuts) <= MOST_NAMES:
        names = [cut.label or cut.name for cut in found.cuts]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.legend(frameon=False)
    return _plain(figure, axes)


def _plain(figure: Figure, axes: Axes) -> Figure:
    axes.spines[["top", "right"]].set_visible(False)
    return figure
