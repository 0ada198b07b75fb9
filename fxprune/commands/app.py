"""The command `fxprune` and its verbs; options have the names of the functions' arguments."""

import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fxprune.commands.answers import EXIT_CODES, Answer, about, answer, as_data, printable
from fxprune.commands.arguments import keep_set_of, least_of, points_of, shapes_of, target_of
from fxprune.commands.bars import Announce
from fxprune.commands.jobs import Destination, Pruned, Ranking, Source
from fxprune.commands.options import (
    Correct,
    Data,
    Factorise,
    Ignore,
    Json,
    Least,
    Method,
    Model,
    Out,
    Overwrite,
    RoundTo,
    Seed,
    Shape,
    Target,
    Traceback,
    Uniform,
)
from fxprune.errors import InputError
from fxprune.files import HTML, check_output
from fxprune.reports import describe
from fxprune.targets import Limits
from fxprune.version import __version__


class _Verbs(TyperGroup):
    """Whatever a verb is called with wrongly is told in one line, like all that goes wrong."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except _USAGE as error:
            print(f"fxprune: {printable(error.format_message())}", file=sys.stderr)
            raise typer.Exit(2) from error


_USAGE: Any = typer.BadParameter.__base__
"""What options are wrong with that no verb is asked about."""

app = typer.Typer(
    name="fxprune",
    cls=_Verbs,
    help="Prune models: .onnx files, or torch models that `module:factory` of Python makes. "
    + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of no verb."""


@app.command(epilog=EXIT_CODES)
def inspect(
    source: Model,
    shape: Shape = None,
    ignore: Ignore = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show groups, what is pinned and why, costs, and what half of every group would leave."""

    def job(announce: Announce) -> Answer:
        announce("finding groups", 0)
        model = _source(source, shape, ignore)
        name, analysis = _route(model).inspect(model)
        half = {group.name: -(-group.size // 2) for group in analysis.free_groups}
        now, then = describe(name, analysis, {}), describe(name, analysis, half)
        return Answer(
            f"{now.groups()}\nWith half of every group:\n{then.summary()}",
            {**about(now), "with_half": dict(then.after)},
        )

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def prune(
    source: Model,
    out: Out,
    target: Target = None,
    method: Method = "group_norm",
    data: Data = None,
    correct: Correct = False,
    round_to: RoundTo = 1,
    least: Least = None,
    uniform: Uniform = None,
    factorise: Factorise = None,
    ignore: Ignore = None,
    shape: Shape = None,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a smaller model that is verified to compute what the masked one does."""

    def job(announce: Announce) -> Answer:
        model = _source(source, shape, ignore)
        limits = _limits(target, round_to, least, uniform)
        ranking = Ranking(limits, method, data, correct, tuple(factorise or ()))
        place = Destination(out, overwrite, (source, data))
        pruned: Pruned = _route(model).prune(model, ranking, place, announce, latency=False)
        return pruned.answer()

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def prune_checkpoint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Safetensors and config.json of transformers.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there.")],
    target: Target = None,
    method: Annotated[
        str, typer.Option(help="How positions are ranked: group_norm, magnitude, bn_scale, random.")
    ] = "group_norm",
    keep_set: Annotated[
        Path | None, typer.Option(help="JSON as for fold: keep this, whatever the target is.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="module:factory of the model, where config.json tells none.")
    ] = None,
    round_to: RoundTo = 1,
    least: Least = None,
    uniform: Uniform = None,
    ignore: Ignore = None,
    shape: Shape = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a smaller model of one on disk, without having it in memory; no verdict is given."""

    def job(announce: Announce) -> Answer:
        limits = _limits(target, round_to, least, uniform or ["*"])
        keep = None if keep_set is None else keep_set_of(keep_set)
        source = _source(model or "", shape, ignore)
        place = Destination(out)
        route = importlib.import_module("fxprune.commands.torch_route")
        answered: Answer = route.prune_checkpoint(
            folder, source, Ranking(limits, method), keep, place, announce
        )
        return answered

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def search(
    source: Model,
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="What is to be large: params, macs, -macs (small), naswot, synflow, snip, zico, "
            "taylor, or module:function of a model; repeatable."
        ),
    ] = None,
    target: Target = None,
    trials: Annotated[int, typer.Option(help="How many configurations are looked at.")] = 100,
    sampler: Annotated[
        str, typer.Option(help="random, tpe, gp, nsga2, cmaes, qmc, exhaustive or milp.")
    ] = "tpe",
    seed: Annotated[int, typer.Option(help="Seeds the sampler: same seed, same trials.")] = 0,
    data: Data = None,
    storage: Annotated[
        Path | None, typer.Option(help="File of trials: the search goes on from it, or shares it.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write all trials as NAME.parquet or NAME.csv.")
    ] = None,
    round_to: RoundTo = 1,
    least: Least = None,
    ignore: Ignore = None,
    shape: Shape = None,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Search the keep-sets of a torch model; --json prints the best for `fold`."""

    def job(announce: Announce) -> Answer:
        model = _source(source, shape, ignore)
        if model.is_onnx:
            raise InputError(f"{source} is ONNX: only torch models are searched; prune ranks files")
        limits = _limits(target, round_to, least, None)
        if table is not None:
            check_output("table", table, overwrite=overwrite, suffixes=(".parquet", ".csv"))
        route = importlib.import_module("fxprune.commands.searching")
        options = {"trials": trials, "sampler": sampler, "seed": seed, "storage": storage}
        asked = route.Asked(tuple(score or ("params",)), data, table, overwrite, options)
        answered: Answer = route.search(model, limits, asked, announce)
        return answered

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def fold(
    source: Model,
    keep_set: Annotated[
        Path, typer.Argument(metavar="KEEP_SET", help="JSON: 0 or 1 by position, by group name.")
    ],
    out: Out,
    shape: Shape = None,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Remove exactly what a keep-set leaves out, such as that of `prune --json`."""

    def job(announce: Announce) -> Answer:
        model = _source(source, shape)
        place = Destination(out, overwrite, (source, keep_set))
        pruned: Pruned = _route(model).fold(model, keep_set_of(keep_set), place, announce)
        return pruned.answer()

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def verify(
    first: Annotated[str, typer.Argument(metavar="A", help="An .onnx file or module:factory.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    shape: Shape = None,
    seed: Seed = 0,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Check that two models compute the same on random inputs; exit code 1 if they do not."""

    def job(announce: Announce) -> Answer:
        announce("reading", 0)
        models = _source(first, shape), _source(second, shape)
        route = _route(next((model for model in models if not model.is_onnx), models[0]))
        verdict = route.verify(*models, seed, announce)
        same = "the same in all that is shown" if verdict.shows_nothing else "the same"
        return Answer(f"{verdict}\n{same}", as_data(verdict))

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def export(
    source: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.onnx.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder that save wrote: export what it makes of SOURCE.")
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operator set.")] = 18,
    shape: Shape = None,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a torch model, or what was saved of it, as ONNX; ONNX Runtime must agree with it."""

    def job(announce: Announce) -> Answer:
        announce("reading", 0)
        model = _source(source, shape)
        if model.is_onnx:
            raise InputError(f"{source} is ONNX already: prune, fold or quantize it")
        saved = sorted(checkpoint.glob("*")) if checkpoint else ()
        place = Destination(out, overwrite, tuple(saved))
        written = _route(model).export(model, place, checkpoint, opset, announce)
        return Answer(f"written: {written}", {"written": str(written)})

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def report(
    source: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.html.")],
    target: Target = None,
    method: Method = "group_norm",
    data: Data = None,
    correct: Correct = False,
    round_to: RoundTo = 1,
    least: Least = None,
    uniform: Uniform = None,
    ignore: Ignore = None,
    shape: Shape = None,
    points: Annotated[
        Path | None, typer.Option(help="CSV of target, accuracy and label to show beside.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures as PNG.")] = None,
    latency: Annotated[bool, typer.Option(help="Whether to measure, for two seconds.")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write what pruning would do as one HTML file; no model is written."""

    def job(announce: Announce) -> Answer:
        from fxprune.pages.figures import check_figures, write_figures
        from fxprune.pages.writing import write_report

        model = _source(source, shape, ignore)
        shown = points_of(points)
        ranking = Ranking(_limits(target, round_to, least, uniform), method, data, correct)
        read = (source, data, points)
        check_output("OUT", out, overwrite=overwrite, sources=read, suffixes=HTML)
        if figures is not None:
            check_figures(figures, bool(shown), overwrite=overwrite)
        pruned: Pruned = _route(model).prune(
            model, ranking, Destination(), announce, latency=latency
        )
        announce("drawing", 0.95)
        options: dict[str, Any] = {"points": shown, "overwrite": overwrite}
        if figures is not None:
            write_figures(pruned.report, figures, **options)
        written = write_report(pruned.report, out, verdict=pruned.verdict, **options)
        return replace(pruned, written=written).answer()

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def quantize(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An .onnx file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.onnx.")],
    bits: Annotated[int, typer.Option(help="8 or 4; of palettes 1 to 8.")] = 8,
    form: Annotated[str, typer.Option(help="integers, or palette: shared values.")] = "integers",
    calibration: Data = None,
    shape: Shape = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write an ONNX file in 8-bit integers (static with calibration data), 4-bit, or palettes."""

    def job(announce: Announce) -> Answer:
        model = _source(source, shape)
        if not model.is_onnx:
            raise InputError(f"{source} is no .onnx file: export it first")
        place = Destination(out, overwrite, (source, calibration))
        answered: Answer = _route(model).quantize(
            model, place, calibration, seed, announce, bits=bits, form=form
        )
        return answered

    answer(job, as_json=json, show_traceback=traceback)


@app.command(epilog=EXIT_CODES)
def demo(json: Json = False, traceback: Traceback = False) -> None:
    """Prune a small network end to end, with random weights and no data."""

    def job(announce: Announce) -> Answer:
        with _demonstration() as model:
            ranking = Ranking(Limits(), "group_norm")
            pruned: Pruned = _route(model).prune(
                model, ranking, Destination(), announce, latency=True
            )
            return pruned.answer()

    answer(job, as_json=json, show_traceback=traceback)


@contextlib.contextmanager
def _demonstration() -> Iterator[Source]:
    """A torch model if torch is installed, else an ONNX file."""
    if importlib.util.find_spec("torch"):
        yield _source("fxprune.commands.demonstration:network")
        return
    import onnx

    from fxprune.commands.onnx_demonstration import network

    with tempfile.TemporaryDirectory(prefix="fxprune-") as folder:
        onnx.save(network(), Path(folder) / "demo.onnx")
        yield _source(str(Path(folder) / "demo.onnx"))


def _source(text: str, shape: list[str] | None = None, ignore: list[str] | None = None) -> Source:
    source = Source(text, shapes_of(shape or ()), tuple(ignore or ()))
    if source.is_onnx and not Path(text).is_file():
        raise InputError(f"there is no file {text}")
    return source


def _limits(
    target: list[str] | None, round_to: int, least: list[str] | None, uniform: list[str] | None
) -> Limits:
    wanted = target_of(target or [".5"])
    return Limits(wanted, round_to, least_of(least or [".0"]), uniform or False)


def _route(source: Source) -> Any:
    """The module with the verbs for a kind of source; only it loads a framework."""
    kind = "onnx" if source.is_onnx else "torch"
    return importlib.import_module(f"fxprune.commands.{kind}_route")
